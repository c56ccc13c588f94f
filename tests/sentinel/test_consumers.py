"""Consumers of events while another server becomes the primary: they go on, and are told what was lost."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Diverged
from gridsync.streams import DEAD, Retry
from tests.sentinel.conftest import caught_up, follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
LIMIT_S = 30.0
POLICY = {ValueError: DEAD, KeyError: Retry(first_s=0.01, max_s=0.01)}


class Handler:
    """Notes what it handles; some events fail."""

    def __init__(self) -> None:
        self.handled: list[int] = []
        self.told: list[Any] = []
        self.mended = False

    def __call__(self, recorded: Any) -> None:  # noqa: ANN401 - either kind of store
        if recorded.event.kwh == 13 and not self.mended:
            raise ValueError("nobody trades thirteen")
        self.handled.append(recorded.event.kwh)


@asynccontextmanager
async def consuming(store: Any, handler: Handler) -> AsyncIterator[None]:  # noqa: ANN401 - as above
    group = store.group("billing")
    work = do(group.consume, handler, policy=POLICY, on_error=handler.told.append, claim_idle=0.6)
    task = asyncio.create_task(work)
    try:
        yield
    finally:
        group.stop()
        await asyncio.wait_for(task, LIMIT_S)


async def test_a_consumer_is_told_that_the_new_primary_lacks_what_it_handled_and_skips_nothing(kind: str, pair: Pair):
    """The replica is promoted without the last event and its acknowledgement; others get its position."""
    old, new = pair
    with FakeSentinel(old) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store, handler = grid.events("orders", Traded), Handler()
            await do(store.append, "day", [Traded(kwh=1), Traded(kwh=2)])
            async with consuming(store, handler):
                await soon(lambda: handler.handled == [1, 2], LIMIT_S)
                follow(new, old)
                await soon(lambda: caught_up(old, new), LIMIT_S)
                new.command("REPLICAOF", "NO", "ONE")
                await do(store.append, "day", Traded(kwh=100))
                await soon(lambda: 100 in handler.handled, LIMIT_S)
                old.command("REPLICAOF", new.host, str(new.port))
                sentinel.announce(new)
                done = await do(store.append, "night", [Traded(kwh=7), Traded(kwh=8)])
                assert done.position == 4
                await soon(lambda: {7, 8} <= set(handler.handled) and handler.told, LIMIT_S)
    (failure,) = handler.told
    assert isinstance(failure.error, Diverged)
    assert (failure.decided, failure.position) == ("diverged", 3)


async def test_dead_letters_are_at_the_new_primary_and_can_be_replayed_there(kind: str, pair: Pair):
    old, new = pair
    with FakeSentinel(old) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store, handler = grid.events("orders", Traded), Handler()
            await do(store.append, "day", [Traded(kwh=1), Traded(kwh=13), Traded(kwh=3)])
            async with consuming(store, handler):
                await soon(lambda: handler.told and {1, 3} <= set(handler.handled), LIMIT_S)
                follow(new, old)
                hand_over(old, new)
                sentinel.announce(new)
                letters = store.group("billing").dead_letters()
                handler.mended = True
                assert (await do(letters.replay)).replayed == 1
                await soon(lambda: 13 in handler.handled, LIMIT_S)
                assert await do(letters.count) == 0
    assert [failure.decided for failure in handler.told] == ["dead"]
