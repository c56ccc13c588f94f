"""Several asyncio connections to one primary: all of them move with it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gridsync import AsyncGrid, Settings
from gridsync._io import Category, Command
from gridsync._io.route import listener
from tests.sentinel.conftest import follow, hand_over
from tests.sentinel.helpers import FakeSentinel
from tests.sentinel.test_resolve import connections
from tests.wire.fake import soon

if TYPE_CHECKING:
    import pytest

    from gridsync.testing.servers import RedisServer
    from tests.sentinel.conftest import Pair

LANES = 3
INCR = Command("test.incr", Category.ACCUMULATING, ("INCR",))
NAMES = [f"n{n}" for n in range(30)]


def settings(sentinel: FakeSentinel) -> Settings:
    """Return settings for several connections."""
    return Settings(redis_url=sentinel.url, gridsync_connections_per_node=LANES, redis_command_timeout=15.0)


async def increment_all(grid: AsyncGrid) -> list[int]:
    """Use every lane for what may not be repeated unless it surely did not happen."""
    return await asyncio.gather(*(grid._io.run(INCR, (name,)) for name in NAMES))


def lanes_to(server: RedisServer) -> int:
    """Count the connections that carry commands: those of the watchdog and of waiters are not opened here."""
    return len(connections(server))


async def test_every_lane_moves_by_the_message_alone(pair: Pair, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(listener, "HEARTBEAT_S", 3600.0)
    with FakeSentinel(pair[0]) as sentinel:
        async with AsyncGrid(settings=settings(sentinel)) as grid:
            await increment_all(grid)
            await soon(lambda: sentinel.listeners)
            assert lanes_to(pair[0]) == LANES
            sentinel.announce(pair[1])
            await soon(lambda: lanes_to(pair[0]) == 0)
            assert await increment_all(grid) == [1] * len(NAMES)
            assert lanes_to(pair[1]) == LANES


async def test_every_lane_leaves_a_demoted_server_at_the_first_refusal(pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with AsyncGrid(settings=settings(sentinel)) as grid:
            assert await increment_all(grid) == [1] * len(NAMES)
            follow(pair[1], pair[0])
            hand_over(pair[0], pair[1])
            sentinel.names = pair[1]
            assert await grid._io.run(INCR, (NAMES[0],)) == 2
            await soon(lambda: lanes_to(pair[0]) == 0)
            assert await increment_all(grid) == [3] + [2] * (len(NAMES) - 1)
