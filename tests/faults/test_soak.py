"""Everything at once, at random, for as long as `make faults ARGS="--minutes M"` says."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.recorder import Recorder
from tests.faults.conftest import SAVED
from tests.faults.traffic import Traffic
from tests.wire.test_nemesis import Nemesis

if TYPE_CHECKING:
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

ROUND_S = 4.0
"""Longer histories are slower to judge, and tell less about what went wrong."""


@pytest.mark.faults
async def test_some_order_explains_every_reply_while_everything_breaks(
    server: RedisServer, proxy: FaultProxy, world: World, fresh_seed: int, soak_s: float
):
    """Registers, counters, hits, events and leases, in rounds that each start from an empty server."""
    until = time.monotonic() + soak_s
    number = 0
    while time.monotonic() < until:
        number += 1
        server.command("FLUSHALL")
        path = SAVED / f"soak-{world.kind}-{fresh_seed}-{number}.jsonl"
        with Recorder(path, seed=f"{fresh_seed}, round {number}") as recorder:
            nemesis = Nemesis(proxy, server, fresh_seed * 1000 + number, kills=number % 2 == 0)
            async with Traffic(world, recorder, proxy.url, seed=fresh_seed, timeout=0.5) as traffic:
                nemesis.start()
                end = min(until, time.monotonic() + ROUND_S)
                try:
                    while time.monotonic() < end:
                        await traffic.flows(10)
                finally:
                    await asyncio.to_thread(nemesis.stop)
            await traffic.judge(server, late_copies=True)
