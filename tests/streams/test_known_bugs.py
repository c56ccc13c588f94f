"""What breaks consumers of Redis streams elsewhere: a table of the docs names a test for each; two of them are here."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim import stream_scenarios as scenarios
from tests.streams.conftest import until
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import World

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "delivery-semantics.md"
ROWS = 20


def test_every_bug_of_the_table_has_its_test():
    """Who renames a test finds its line here."""
    table = PAGE.read_text().partition("## What broke elsewhere")[2]
    rows = [line for line in table.splitlines() if "`tests/" in line]
    assert len(rows) >= ROWS
    named = re.findall(r"`(tests/[\w/]+\.py)`: `(test_\w+)`", table)
    assert len(named) >= len(rows)
    missing = [(file, name) for file, name in named if f"def {name}(" not in (ROOT / file).read_text()]
    assert not missing


@pytest.mark.any_server
async def test_a_blocking_read_outlives_the_command_timeout(world: World, raw: redis.Redis, flushed: RedisServer):
    """Else each quiet second looks like an outage, and what is delivered at that moment reaches nobody."""
    endpoint = parse(flushed.url, connect_timeout=10.0)
    io: SyncIO | AsyncIO
    io = (
        AsyncIO(endpoint, inflight_max=10, timeout=1.0)
        if world.is_async
        else SyncIO(endpoint, pool_size=5, timeout=1.0)
    )
    store, seen = world.store(Order, io=io), []
    group = store.group("billing")
    consuming = asyncio.create_task(group.consume(lambda e: seen.append(e.position), claim_idle=60))
    try:
        waited = lambda: [c for c in raw.client_list() if c["cmd"] == "xreadgroup" and int(c["idle"]) >= 2]  # noqa: E731
        await until(waited, 30)
        await store.append("a", Placed(kwh=1))
        await until(lambda: seen == [1], 30)
    finally:
        group.stop()
        await consuming
        if isinstance(io, AsyncIO):
            await io.close()
        else:
            await asyncio.to_thread(io.close)


@pytest.mark.parametrize("seed", range(5))
def test_a_clock_that_jumps_moves_no_position_and_skips_no_event(seed: int):
    """Ids that are times stand still when the clock is set back, and a trim by time takes the wrong ones."""
    sim = Simulation(seed, faults=Faults(clock_jump_every_s=1.0, clock_jump_s=3600.0, calm_after_s=30.0))
    for name in "ab":
        sim.start(name, scenarios.write, 20, 0.5)
    for name in "cd":
        sim.start(name, scenarios.consume, 0.3)
    sim.run(until=120.0)
    scenarios.check_group(sim, scenarios.check_store(sim))
