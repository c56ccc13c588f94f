"""Several processes that take several locks at once; for the shipped script and for mutants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, OutcomeUnknown, Unavailable
from gridsync.locks import _core, _several, _spec
from gridsync.testing.checkers import mutual_exclusion
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.locks._hold import Hold
    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

LOCKS = {name: _spec.lock("sim", name, 2_000, wake=wake_prefix) for name in "abc"}
SHOWERS = Faults(
    request_lost=0.03,
    reply_lost=0.08,
    late=0.05,
    message_lost=0.1,
    cut_every_s=5.0,
    pause_every_s=4.0,
    pause_s=4.0,
    cancel_every_s=5.0,
    calm_after_s=40.0,
)


async def work(io: SimIO, names: str) -> None:
    """Take the locks, act on each while all are surely ours, give them back."""
    holds = await _several.acquire(io, [LOCKS[name] for name in sorted(names)], 20.0)
    if holds is None:
        return
    try:
        for step in range(3):
            for hold in holds:
                hold.check()
            for hold in holds:
                _note(io, "working" if step else "acquired", hold)
            await io.sleep(0.3)
        for hold in holds:
            hold.check()
        for hold in holds:
            _note(io, "released", hold)
    finally:
        for hold in holds:
            io.spawn(_give_back(io, hold))


def _note(io: SimIO, kind: str, hold: Hold) -> None:
    io.note(kind, name=hold.spec.name, owner=hold.owner, fence=hold.fence)


async def _give_back(io: SimIO, hold: Hold) -> None:
    try:
        await _core.release(io, hold)
    except GridsyncError as error:
        io.note("release failed", why=type(error).__name__)


async def keep_working(io: SimIO, names: list[str], until: float) -> None:
    """Work again and again with one group of names after the other, whatever happens."""
    end, turn = io.monotonic() + until, 0
    while io.monotonic() < end:
        try:
            await io.sleep(0.1)
            turn += 1
            await work(io, names[turn % len(names)])
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown, asyncio.CancelledError) as error:
            io.note("stopped", why=type(error).__name__)


def crossing(seed: int, scripts: Scripts = None, faults: Faults = SHOWERS) -> Simulation:
    """Groups that overlap in every way: each name has one holder at a time, and in the calm somebody gets all."""
    sim = Simulation(seed, faults=faults, scripts=scripts)
    for name, groups in {"p": ["ab", "c"], "q": ["cb", "ba"], "r": ["ca"], "s": ["abc", "b"]}.items():
        sim.start(name, keep_working, groups, 40.0)
    sim.at(20.0, lambda: sim.kill("s"))
    sim.at(70.0, lambda: sim.start("z", work, "abc"))
    sim.run(until=90.0)
    if mutual_exclusion(sim.history) < 10:
        raise sim.history.fail("hardly anybody was served")
    if {event.name for event in sim.history.of("released") if event.process == "z"} != set("abc"):
        raise sim.history.fail("after the bad weather somebody did not get all three")
    return sim


def crossing_in_calm(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails: nobody gives up, whatever order the names have in common."""
    sim = crossing(seed, scripts, Faults())
    if stopped := [event for event in sim.history.of("stopped") if event.process != "s"]:
        raise sim.history.fail(f"somebody gave up: {stopped[0]}")
    return sim


def crossing_in_wet(seed: int, scripts: Scripts = None) -> Simulation:
    """Replies are lost and nothing else: nobody waits for himself."""
    sim = crossing(seed, scripts, Faults(reply_lost=0.1))
    stopped = [event.why for event in sim.history.of("stopped") if event.process != "s"]
    if "LockTimeout" in stopped:
        raise sim.history.fail("somebody waited for locks that a lost reply had given him")
    return sim
