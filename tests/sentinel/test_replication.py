"""A source whose primary changes is followed; if the new one lacks what has crossed, that is told."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync import Diverged
from gridsync.testing.servers import RedisServer
from tests.sentinel.conftest import caught_up, follow, hand_over
from tests.sentinel.helpers import KINDS, FakeSentinel, Traded, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.sentinel.conftest import Pair

pytestmark = pytest.mark.parametrize("kind", KINDS)
LIMIT_S = 60.0


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[RedisServer]:
    """A second data centre."""
    with RedisServer() as running:
        yield running


@pytest.mark.parametrize("loses", [False, True], ids=["nothing is lost", "an event is lost"])
async def test_a_failover_of_the_source_is_followed_or_told(
    kind: str, pair: Pair, elsewhere: RedisServer, *, loses: bool
):
    old, new = pair
    elsewhere.command("FLUSHALL")
    with FakeSentinel(old) as sentinel:
        async with opened(kind, sentinel.url) as grid, opened(kind, elsewhere.url) as other:
            store, copy = grid.events("orders", Traded), other.events("orders", Traded)
            log = f"{{{grid.namespace}:events:orders}}:log"
            await do(store.append, "day", [Traded(kwh=1), Traded(kwh=2)])
            moving = store.replication(copy)
            task = asyncio.create_task(do(moving.run))
            try:
                await soon(lambda: elsewhere.command("XLEN", log) == 2, LIMIT_S)
                follow(new, old)
                await soon(lambda: caught_up(old, new), LIMIT_S)
                if loses:
                    new.command("REPLICAOF", "NO", "ONE")
                    await do(store.append, "day", Traded(kwh=100))
                    await soon(lambda: elsewhere.command("XLEN", log) == 3, LIMIT_S)
                    old.command("REPLICAOF", new.host, str(new.port))
                else:
                    hand_over(old, new)
                sentinel.announce(new)
                await do(store.append, "day", Traded(kwh=7))
                if loses:
                    with pytest.raises(Diverged):
                        await asyncio.wait_for(task, LIMIT_S)
                    assert elsewhere.command("XLEN", log) == 3
                else:
                    await soon(lambda: elsewhere.command("XLEN", log) == 3, LIMIT_S)
            finally:
                moving.stop()
                await asyncio.wait([task], timeout=LIMIT_S)
