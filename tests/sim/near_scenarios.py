"""What several processes see that keep copies of one cached value which changes, and what must then be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io.copies import MISSING
from gridsync.cache import Near, Space
from gridsync.cache._core import CacheCore
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO
    from tests.sim.lock_scenarios import Scripts

READERS, TASKS = "abc", 3
STALENESS_S = 0.4
DRIFT = 1.01
SPACE: Space[int] = Space("n", int, ttl=60.0, on_error="raise")


class World:
    """The number that is cached: what was written when, and what each process has seen."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.version = 1
        self.written: list[tuple[int, int]] = []
        """When a write returned, in true microseconds, and which."""
        self.seen: dict[str, int] = {}

    def least(self, before_us: int) -> int:
        """Return what was written at the latest by then."""
        return max((version for at_us, version in self.written if at_us <= before_us), default=0)


async def read(io: SimIO, core: CacheCore[int], world: World, until: float, tags: tuple[str, ...] = ()) -> None:
    """Read again and again; what was seen here before is never followed by something older."""
    end = io.monotonic() + until
    near = core.copies
    assert near is not None
    while io.monotonic() < end:
        began_us = world.sim.scheduler.now_us
        owed = world.least(began_us - int(STALENESS_S * DRIFT * 1e6))
        seen = world.seen.get(io.process.name, 0)
        value = near.get("k")
        from_copy = value is not MISSING
        if not from_copy:
            try:
                if tags:
                    value = await core.load("k", lambda: source(io, world), tags, None)
                else:
                    value = await core.get("k", 0)
            except (Unavailable, OutcomeUnknown):
                continue
        io.note("read", value=value, owed=owed, seen=seen, copy=from_copy)
        if not tags:
            # A loader may be ahead of what is cached.
            world.seen[io.process.name] = max(value, world.seen.get(io.process.name, 0))
        await io.sleep(0.004)


async def source(io: SimIO, world: World) -> int:
    """Load the number, which takes a moment."""
    await io.sleep(0.005)
    version = world.version
    await io.sleep(0.005)
    return version


async def write(io: SimIO, core: CacheCore[int], world: World, until: float, tags: tuple[str, ...] = ()) -> None:
    """Change the number; who has done so reads it at once."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        await io.sleep(0.02 + 0.1 * (world.version % 4))
        world.version += 1
        while True:
            try:
                if tags:
                    await core.invalidate(tags)
                else:
                    await core.set({"k": world.version}, (), None)
            except (Unavailable, OutcomeUnknown):
                continue
            break
        world.written.append((world.sim.scheduler.now_us, world.version))
        if core.copies is not None and core.copies.get("k") not in (MISSING, world.version):
            raise world.sim.history.fail("the writer was served what it has replaced")


def _run(seed: int, scripts: Scripts, faults: Faults, tags: tuple[str, ...] = ()) -> Simulation:
    sim = Simulation(seed, scripts=scripts, faults=faults)
    world = World(sim)
    near = Near(staleness=STALENESS_S)
    for name in READERS:
        core = CacheCore(sim.io(name), "sim", SPACE, near)
        for _ in range(TASKS):
            sim.start(name, read, core, world, 5.0, tags)
    writers = (
        [("w", CacheCore(sim.io("w"), "sim", SPACE))] if tags else [("a", CacheCore(sim.io("a"), "sim", SPACE, near))]
    )
    for name, core in writers:
        sim.start(name, write, core, world, 5.0, tags)
    sim.run(until=60.0)
    reads = sim.history.of("read")
    for each in reads:
        facts = each.facts
        if facts["value"] < facts["owed"]:
            raise sim.history.fail(f"{facts} was served {STALENESS_S} s after it was replaced")
        if facts["value"] < facts["seen"]:
            raise sim.history.fail(f"{facts} was served to a process that had seen a newer one")
    if sum(each.facts["copy"] for each in reads) < len(reads) / 4:
        raise sim.history.fail("hardly anything was served from a copy")
    return sim


def overwritten(seed: int, scripts: Scripts = None) -> Simulation:
    """The value is set again and again, and replies are lost."""
    # A set whose late copy arrives after the next one wins over it: that is not promised, so nothing arrives late.
    return _run(seed, scripts, Faults(reply_lost=0.02, request_lost=0.01))


def delayed(seed: int, scripts: Scripts = None) -> Simulation:
    """Requests and replies are slow now and then, so that reads overlap."""
    return _run(seed, scripts, Faults(latency_s=(0.0001, 0.02), slow=0.05, slow_s=0.3))


def cut(seed: int, scripts: Scripts = None) -> Simulation:
    """Connections break, processes stand still and the server is away now and then."""
    faults = Faults(cut_every_s=0.5, pause_every_s=1.0, pause_s=2.0, restart_every_s=2.0, restart_s=0.3)
    return _run(seed, scripts, faults)


def silent(seed: int, scripts: Scripts = None) -> Simulation:
    """What the server has to say takes longer than anybody should believe in its silence."""
    return _run(seed, scripts, Faults(latency_s=(0.0001, 0.002), slow=0.15, slow_s=0.9))


def invalidated(seed: int, scripts: Scripts = None) -> Simulation:
    """A tag is invalidated whenever the number changes."""
    return _run(seed, scripts, Faults(reply_lost=0.02, latency_s=(0.0001, 0.01)), ("t",))
