"""What several processes do with one thing that runs once per period, and what must then be true."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.locks._once import OnceBase
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO
    from tests.sim.lock_scenarios import Scripts

PERIOD_S = 1.0


async def keep_trying(io: SimIO, until: float) -> None:
    """Claim again and again, and note what was ours."""
    once = OnceBase(io, "sim", "close", PERIOD_S)
    end = io.monotonic() + until
    while io.monotonic() < end:
        await io.sleep(0.08)
        try:
            turn = await once._claim()
        except (Unavailable, OutcomeUnknown):
            continue
        if turn is not None:
            io.note("run", period=round(turn.begins.timestamp() / PERIOD_S), fence=turn.fence)


def _checked(sim: Simulation) -> list[int]:
    """Check that no period ran twice, that fences rise, and that nothing stays; return the periods."""
    runs = sim.history.of("run")
    periods = [event.facts["period"] for event in runs]
    if len(set(periods)) < len(periods):
        raise sim.history.fail(f"a period ran twice: {periods}")
    by_period = [event.facts["fence"] for event in sorted(runs, key=lambda event: event.facts["period"])]
    if by_period != sorted(set(by_period)):
        raise sim.history.fail("a later run has no larger fence")
    data = sim.server.engine.data
    for key in data.live_keys():
        end = data.expiry(key)
        if end is None or end - sim.server.now_us() // 1000 > 2 * PERIOD_S * 1000:
            raise sim.history.fail(f"{key!r} stays for too long")
    return periods


def every_period(seed: int, scripts: Scripts = None) -> Simulation:
    """Replies are lost: every period has one run, and no more."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.3))
    for name in "abcd":
        sim.start(name, keep_trying, 10.0)
    sim.run(until=11.0)
    periods = sorted(_checked(sim))
    if periods != list(range(periods[0], periods[0] + len(periods))) or len(periods) < 10:
        raise sim.history.fail(f"a period was left out: {periods}")
    return sim


def changed_clock(seed: int, scripts: Scripts = None) -> Simulation:
    """The server's clock is set forward and back by less than a period: no period runs twice."""
    faults = Faults(reply_lost=0.05, late=0.03, clock_jump_every_s=1.5, clock_jump_s=0.9 * PERIOD_S)
    sim = Simulation(seed, scripts=scripts, faults=faults)
    for name in "abcd":
        sim.start(name, keep_trying, 20.0)
    sim.run(until=25.0)
    assert len(_checked(sim)) > 5, sim.history.story()
    return sim
