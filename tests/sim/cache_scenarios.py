"""What several processes do with one cached value, and what must then be true."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync.cache import Space
from gridsync.cache._core import CacheCore
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO
    from tests.sim.lock_scenarios import Scripts

PROCESSES, TASKS = "abc", 2
LOST = Faults(reply_lost=0.1, request_lost=0.03, late=0.03)


class Source:
    """What is behind the cache: a number that only rises."""

    def __init__(self, sim: Simulation, takes: float) -> None:
        self.sim, self.takes = sim, takes
        self.version = 1
        self.loading = 0
        self.loads = 0
        self.good = 1
        """What a call that begins now may be given at the least: the last change was invalidated."""

    async def load(self, io: SimIO) -> int:
        """Read the number, and take some time before and after."""
        self.loads += 1
        self.loading += 1
        io.note("load", at_once=self.loading)
        await io.sleep(self.takes / 2)
        version = self.version
        await io.sleep(self.takes / 2)
        self.loading -= 1
        return version


def _cores(sim: Simulation, space: Space[int]) -> list[tuple[str, CacheCore[int]]]:
    return [(name, CacheCore(sim.io(name), "sim", space)) for name in PROCESSES]


async def ask(io: SimIO, core: CacheCore[int], source: Source, until: float, tags: tuple[str, ...] = ()) -> None:
    """Ask for the value again and again."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        least = source.good
        try:
            value = await core.load("k", lambda: source.load(io), tags, None)
        except (Unavailable, OutcomeUnknown):
            continue
        io.note("served", value=value, least=least)
        await io.sleep(0.03)


async def change(io: SimIO, core: CacheCore[int], source: Source, how: str, until: float) -> None:
    """Change the number and say so."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        # Now within a load, now after it.
        await io.sleep(0.05 + 0.07 * (source.version % 5))
        source.version += 1
        version = source.version
        while True:
            try:
                if how == "delete":
                    await core.delete(["k"])
                elif how == "set":
                    await core.set({"k": version}, (), None)
                else:
                    await core.invalidate(["t"])
            except (Unavailable, OutcomeUnknown):
                continue
            break
        source.good = version


def _run(
    seed: int, scripts: Scripts, how: str, *, faults: Faults = LOST, takes: float = 0.1, ttl: float = 1.0
) -> Simulation:
    sim = Simulation(seed, scripts=scripts, faults=faults)
    source = Source(sim, takes)
    space: Space[int] = Space("n", int, ttl=ttl, on_error="raise")
    for name, core in _cores(sim, space):
        for _ in range(TASKS):
            sim.start(name, ask, core, source, 6.0, ("t",) if how == "invalidate" else ())
    if how:
        sim.start("w", change, CacheCore(sim.io("w"), "sim", space), source, how, 5.0)
    sim.run(until=60.0)
    for served in sim.history.of("served"):
        if served.facts["value"] < served.facts["least"]:
            raise sim.history.fail(f"{served.facts} was served to a call that began after the invalidation")
    if len(sim.history.of("served")) < 10 * len(PROCESSES):
        raise sim.history.fail("hardly anybody was served")
    data = sim.server.engine.data
    if any(data.expiry(key) is None for key in data.live_keys()):
        raise sim.history.fail("a key stays for ever")
    return sim


def deleted(seed: int, scripts: Scripts = None) -> Simulation:
    """The value is deleted whenever it changes: nobody who asks afterwards is given an older one."""
    return _run(seed, scripts, "delete")


def overwritten(seed: int, scripts: Scripts = None) -> Simulation:
    """The value is set whenever it changes: no load that began before overwrites it."""
    # A set that was repeated, and whose first copy arrives after the next one, wins over it: that is not promised.
    return _run(seed, scripts, "set", faults=Faults(reply_lost=0.1, request_lost=0.03), ttl=0.08)


def invalidated(seed: int, scripts: Scripts = None) -> Simulation:
    """Its tag is invalidated whenever it changes: a load under way does not count."""
    return _run(seed, scripts, "invalidate", ttl=20.0)


def loaded_once(seed: int, scripts: Scripts = None) -> Simulation:
    """Replies are lost, and the loads are long: one at a time, and one per ttl."""
    sim = _run(seed, scripts, "", faults=Faults(reply_lost=0.1), takes=0.4)
    loads: list[Any] = sim.history.of("load")
    if any(load.facts["at_once"] > 1 for load in loads):
        raise sim.history.fail("two loads at the same time")
    if len(loads) > 8:
        raise sim.history.fail(f"{len(loads)} loads in six seconds of a value that lives for one")
    return sim


def slow_loads(seed: int, scripts: Scripts = None) -> Simulation:
    """A load takes longer than its lease, which is renewed."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.05))
    source = Source(sim, 12.0)
    space: Space[int] = Space("n", int, ttl=30.0, on_error="raise")
    for name, core in _cores(sim, space):
        sim.start(name, ask, core, source, 15.0)
    sim.run(until=60.0)
    if source.loads != 1:
        raise sim.history.fail(f"{source.loads} loads")
    return sim


def killed_loader(seed: int, scripts: Scripts = None) -> Simulation:
    """The process that loads dies: within the rest of its lease another one loads."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.05))
    source = Source(sim, 1.0)
    space: Space[int] = Space("n", int, ttl=30.0, on_error="raise")
    for name, core in _cores(sim, space):
        sim.start(name, ask, core, source, 20.0)

    def kill() -> None:
        loader = sim.history.of("load")
        if loader:
            sim.kill(loader[0].process)

    sim.at(0.7, kill)
    sim.run(until=60.0)
    served = sim.history.of("served")
    if not served or served[0].at_us > 7_500_000:
        raise sim.history.fail("nobody took over in time")
    return sim
