"""Candidates, a leader and those who watch; for the shipped scripts and for mutants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gridsync.errors import GridsyncError, LeaseLost, OutcomeUnknown, Unavailable
from gridsync.locks import _core
from gridsync.locks._term import Campaign
from gridsync.testing.checkers import mutual_exclusion
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

GALE = Faults(
    request_lost=0.03,
    reply_lost=0.05,
    late=0.05,
    message_lost=0.1,
    cut_every_s=5.0,
    pause_every_s=5.0,
    pause_s=5.0,
    restart_every_s=20.0,
    cancel_every_s=8.0,
    calm_after_s=50.0,
)


def campaign(io: SimIO) -> Campaign:
    """Return a candidate that tells its process's name."""
    return Campaign(io, "sim", "boss", 2.0, io.process.name)


async def lead(io: SimIO, terms: int = 1_000_000, length_s: float = 2.0) -> None:
    """Lead again and again, each time for *length_s* unless deposed."""
    mine = campaign(io)
    for _ in range(terms):
        try:
            hold = await mine.win()
        except asyncio.CancelledError:
            continue
        try:
            for step in range(int(length_s / 0.2)):
                hold.check()
                io.note("working" if step else "acquired", name="boss", owner=hold.owner, fence=hold.fence)
                await io.sleep(0.2)
            hold.check()
            io.note("released", name="boss", owner=hold.owner, fence=hold.fence)
            await _core.release(io, hold)
            await mine.proclaim()
        except (LeaseLost, asyncio.CancelledError) as error:
            io.note("deposed", why=type(error).__name__)
            io.spawn(_resign(io, mine, hold))
        except GridsyncError as error:
            io.note("deposed", why=type(error).__name__)


async def _resign(io: SimIO, mine: Campaign, hold: _core.Hold) -> None:
    try:
        await _core.release(io, hold)
        await mine.proclaim()
    except GridsyncError as error:
        io.note("release failed", why=type(error).__name__)


async def observe(io: SimIO) -> None:
    """Note who leads, and each change."""
    mine, seen = campaign(io), 0
    while True:
        try:
            changed = await mine.change(seen, None)
        except (Unavailable, OutcomeUnknown, asyncio.CancelledError):
            continue
        assert changed is not None
        (leader,) = changed
        seen = leader.term if leader else 0
        io.note("sees", term=seen, value=leader.value if leader else "")


def gale(seed: int, scripts: Scripts = None) -> Simulation:
    """Five candidates in bad weather, one of them killed: one leader at a time, and in the calm somebody leads."""
    sim = Simulation(seed, faults=GALE, scripts=scripts)
    for name in "abcde":
        sim.start(name, lead)
    sim.start("w", observe)
    sim.at(20.0, lambda: sim.kill("a"))
    sim.run(until=90.0)
    if mutual_exclusion(sim.history) < 10:
        raise sim.history.fail("hardly anybody led")
    if sim.history.of("acquired")[-1].at_us < 80_000_000:
        raise sim.history.fail("nobody leads any more")
    terms = [event.term for event in sim.history.of("sees") if event.term]
    if terms != sorted(terms):
        raise sim.history.fail("who watches saw an earlier leader after a later one")
    return sim


def told(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails: who watches is told of each leader at once, and of the end of the last one."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("w", observe)

    async def come(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await lead(io, terms=1)

    for place, name in enumerate("ab"):
        sim.start(name, come, 1.0 + 0.1 * place)
    sim.run(until=15.0)
    led = {event.fence: event.at_us for event in sim.history.of("acquired")}
    seen = {event.term: event for event in sim.history.of("sees") if event.term}
    for fence, at in led.items():
        if fence not in seen or abs(seen[fence].at_us - at) > 50_000:
            raise sim.history.fail(f"nobody was told of term {fence}")
    if [seen[fence].value for fence in led] != ["a", "b"]:
        raise sim.history.fail("who watches did not learn who leads")
    end = sim.history.of("released")[-1].at_us
    last = sim.history.of("sees")[-1]
    if last.term or last.at_us > end + 50_000:
        raise sim.history.fail("nobody was told that the last one had resigned")
    return sim


def succession(seed: int, scripts: Scripts = None) -> Simulation:
    """A leader dies: another one leads when its lease has ended, and not before."""
    sim = Simulation(seed, scripts=scripts)
    for name in "ab":
        sim.start(name, lead, 1_000_000, 60.0)
    at = sim.random.uniform(3.0, 6.0)

    def kill_leader() -> None:
        sim.kill(sim.history.of("acquired")[-1].process)

    sim.at(at, kill_leader)
    sim.run(until=20.0)
    first, second = sim.history.of("acquired")
    if first.process == second.process or not at + 1.0 < second.at_us / 1e6 < at + 2.3:
        raise sim.history.fail(f"the next one led {second.at_us / 1e6 - at:.1f} s after the death")
    mutual_exclusion(sim.history)
    return sim
