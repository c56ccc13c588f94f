"""A reader of events while another server becomes the primary: it goes on, or says what was lost."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Diverged
from tests.sentinel.conftest import caught_up, follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
LIMIT_S = 30.0


async def following(events: Any) -> Any:  # noqa: ANN401 - a subscription of either kind
    """Return the next event."""
    step = anext(events) if hasattr(events, "__anext__") else asyncio.to_thread(next, events)
    return await asyncio.wait_for(step, LIMIT_S)


def waiting_at(server: RedisServer) -> int:
    """Return how many clients wait at *server*."""
    with server.client() as client:
        return int(client.info("clients")["blocked_clients"])


async def test_a_reader_goes_on_at_the_new_primary(kind: str, pair: Pair):
    """No event is left out and none comes twice."""
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store = grid.events("orders", Traded)
            await do(store.append, "day", [Traded(kwh=n) for n in (1, 2)])
            events = store.subscribe()
            assert [(await following(events)).position for _ in range(2)] == [1, 2]
            waiting = asyncio.ensure_future(following(events))
            await soon(lambda: waiting_at(pair[0]))
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.announce(pair[1])
            await do(store.append, "day", [Traded(kwh=n) for n in (3, 4)])
            assert [(await waiting).position, (await following(events)).position] == [3, 4]
            events.stop()


async def test_a_reader_is_told_that_the_new_primary_lacks_what_it_saw(kind: str, pair: Pair):
    """Replication is asynchronous: the replica is promoted without the last event, and others take its place."""
    old, new = pair
    with FakeSentinel(old) as sentinel:
        async with opened(kind, sentinel.url) as grid:
            store = grid.events("orders", Traded)
            await do(store.append, "day", [Traded(kwh=1)] * 2)
            follow(new, old)
            await soon(lambda: caught_up(old, new))
            new.command("REPLICAOF", "NO", "ONE")
            await do(store.append, "day", Traded(kwh=100))
            events = store.subscribe()
            assert [(await following(events)).event.kwh for _ in range(3)] == [1, 1, 100]
            seen = events.checkpoint
            old.command("REPLICAOF", new.host, str(new.port))
            sentinel.announce(new)
            await do(store.append, "day", [Traded(kwh=7)] * 3)
            with pytest.raises(Diverged) as caught:
                await following(events)
            assert caught.value.checkpoint == seen
            with pytest.raises(Diverged):
                await following(store.subscribe(after=seen))
