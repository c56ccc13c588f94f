"""Two servers with a bad line between them, and replicators that are killed: the mirror is its source again."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.streams import EventStore
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer
from tests.faults.dying import Nursery
from tests.streams.conftest import until
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.faults.dying import Fate
    from tests.wire.world import World

pytestmark = [pytest.mark.faults, pytest.mark.timeout(600)]
LIMIT_S = 120.0


@pytest.fixture
def elsewhere() -> Iterator[RedisServer]:
    """A second data centre, which loses nothing when it is killed."""
    with RedisServer(options={"appendonly": "yes", "appendfsync": "always"}) as running:
        yield running


def rows(store: EventStore[Any]) -> list[Any]:
    """Return every event of a store, in its log and in its streams."""
    log = list(store.read_all())
    streams = sorted({event.stream for event in log})
    return [log, [list(store.read(stream)) for stream in streams], store.info().streams]


def follow_once(fate: Fate) -> None:
    """Replicate what is there."""
    io = fate.sync()
    EventStore(io, "test", "orders", Order).replication(EventStore(io, "test", "copy", Order)).run(once=True)


def test_a_replicator_killed_at_any_step_leaves_no_gap_and_no_doublet(server: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    step, survived = 0, False
    with Nursery(server.url, follow_once) as nursery, Grid(server.url, namespace="test") as grid:
        while not survived:
            step += 1
            server.command("FLUSHALL")
            store, copy = grid.events("orders", Order), grid.events("copy", Order)
            for n in range(4):
                store.append(f"order-{n % 2}", [Placed(kwh=n + 1)] * 2)
            survived = nursery.survives(step)
            there = list(copy.read_all())
            assert there == list(store.read_all())[: len(there)], f"killed at step {step}"
            store.append("order-0", Placed(kwh=9))
            store.replication(copy).run(once=True)
            assert rows(copy) == rows(store), f"killed at step {step}"
    assert step > 12


async def test_a_line_that_breaks_in_every_way_delays_the_mirror_and_nothing_else(
    world: World, server: RedisServer, elsewhere: RedisServer
):
    with FaultProxy(server.url) as near, FaultProxy(elsewhere.url) as far:
        source = world.store(world.io(near.url, timeout=2.0), Order)
        target = world.store(world.io(far.url, timeout=2.0), Order)
        moving = source.replication(target)
        running = world.start(moving.run)
        with Grid(server.url, namespace="test") as grid, Grid(elsewhere.url, namespace="test") as other:
            store, copy = grid.events("orders", Order), other.events("orders", Order)

            async def crossed() -> None:
                store.append("order-0", [Placed(kwh=1)] * 20)
                last = store.site().positions
                await until(lambda: copy.site().positions == last, LIMIT_S)

            await crossed()
            for proxy in (near, far):
                proxy.cut()
                await crossed()
                proxy.refuse()
                proxy.cut(reset=True)
                store.append("order-1", Placed(kwh=1))
                proxy.heal()
                await crossed()
                proxy.blackhole()
                store.append("order-2", Placed(kwh=1))
                proxy.heal()
                proxy.cut()
                await crossed()
            for killed in (server, elsewhere):
                killed.kill()
                killed.start()
                await until(lambda: answers(grid) and answers(other), LIMIT_S)
                await crossed()
            moving.stop()
            await asyncio.wait_for(running, LIMIT_S)
            assert rows(copy) == rows(store)


def answers(grid: Grid) -> bool:
    try:
        return bool(grid.events("orders", Order).site())
    except Exception:  # noqa: BLE001 - not yet
        return False


def started(sides: tuple[str, ...], ready: Path) -> subprocess.Popen[str]:
    words = [sys.executable, "-m", "gridsync.cli", "replicate", *sides, "--store", "orders", "--namespace", "test"]
    return subprocess.Popen([*words, "--ready-file", str(ready), "--json"], stdout=subprocess.PIPE, text=True)


async def test_a_site_is_lost_and_comes_back(server: RedisServer, elsewhere: RedisServer, tmp_path: Path):
    """The commands of the runbook, there and back again."""
    there, back = ("--from", server.url, "--to", elsewhere.url), ("--from", elsewhere.url, "--to", server.url)
    with Grid(server.url, namespace="test") as grid, Grid(elsewhere.url, namespace="test") as other:
        old, new = grid.events("orders", Order), other.events("orders", Order)
        old.append("order-0", [Placed(kwh=1)] * 30)
        ready = tmp_path / "there"
        process = started(there, ready)
        try:
            await until(ready.exists, LIMIT_S)
            old.append("order-0", [Placed(kwh=2)] * 2)
            await until(lambda: new.site().positions == (32,), LIMIT_S)
            # Whoever replicates finds the promotion, and fences the old side.
            new.promote()
            output, _ = await asyncio.to_thread(process.communicate, timeout=LIMIT_S)
            assert process.returncode == 3, output
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)
        assert old.site().role == "superseded"
        new.append("order-1", [Placed(kwh=3)] * 5)
        ready = tmp_path / "back"
        process = started(back, ready)
        try:
            await until(ready.exists, LIMIT_S)
            await until(lambda: old.site().positions == (37,), LIMIT_S)
            new.fence()
            process.terminate()
            output, _ = await asyncio.to_thread(process.communicate, timeout=LIMIT_S)
            assert (process.returncode, json.loads(output.splitlines()[-1])["moved"]) == (0, 5)
        finally:
            process.kill()
            await asyncio.to_thread(process.communicate)
        assert rows(old) == rows(new)
        assert old.promote().epoch == 2
        assert old.append("order-0", Placed(kwh=4)).position == 38
