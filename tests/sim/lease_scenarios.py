"""What blocks under a lease do whose bodies never look: only the interruption keeps them from acting too long."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost
from gridsync.locks import _block, _core, _spec
from gridsync.testing.checkers import mutual_exclusion
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.lock_scenarios import nothing_left

if TYPE_CHECKING:
    from gridsync.locks._spec import Spec
    from gridsync.testing.sim import SimIO
    from tests.sim.lock_scenarios import Scripts

SHORT = _spec.lock("sim", "job", 2_000, wake=wake_prefix)
BOUNDED = replace(_spec.lock("sim", "job", 20_000, wake=wake_prefix), max_hold_s=1.5)
STEP_S = 0.05


async def block(io: SimIO, spec: Spec, steps: int, wait: float = 30.0) -> None:
    """Run a block of *steps* that never asks whether its lease still holds."""
    hold = await _core.acquire(io, spec, wait)
    assert hold is not None
    scope = _block.enter(io, hold)
    error: BaseException | None = None
    try:
        io.note("acquired", name=spec.name, owner=hold.owner, fence=hold.fence)
        for _ in range(steps):
            await io.sleep(STEP_S)
            io.note("working", name=spec.name, owner=hold.owner, fence=hold.fence)
    except BaseException as raised:
        error = raised
        raise
    finally:
        io.note("ends", owner=hold.owner)
        await _block.leave(io, hold, 0, scope, error)


async def keep_blocking(io: SimIO, spec: Spec, until: float) -> None:
    """Run blocks again and again, whatever happens; note how each one ended."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        try:
            await io.sleep(0.1)
            await block(io, spec, steps=160)
            io.note("stopped", why="done")
        except (GridsyncError, asyncio.CancelledError) as error:
            io.note("stopped", why=type(error).__name__)


def interrupted(seed: int, scripts: Scripts = None) -> Simulation:
    """The server is away for longer than a lease, again and again; connections break, and nobody stands still."""
    faults = Faults(request_lost=0.05, reply_lost=0.05, cut_every_s=4.0)
    sim = Simulation(seed, scripts=scripts, faults=faults)
    for name in "abcd":
        sim.start(name, keep_blocking, SHORT, 120.0)
    for second in range(5, 125, 20):
        sim.at(second, lambda: sim.restart_server(sim.random.uniform(2.5, 4.0)))
    sim.run(until=180.0)
    assert mutual_exclusion(sim.history) > 3, sim.history.story()
    whys = {event.facts["why"] for event in sim.history.of("stopped")}
    if LeaseLost.__name__ not in whys:
        raise sim.history.fail(f"nobody lost a lease: {sorted(whys)}")
    if asyncio.CancelledError.__name__ in whys:
        raise sim.history.fail("a loss looked like a cancellation")
    return sim


def bounded(seed: int, scripts: Scripts = None) -> Simulation:
    """Every block would last 4 s and may last 1.5 s: each is interrupted, and the next one comes at once."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abc"):
        sim.start(name, _later, 0.05 * place)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 3, sim.history.story()
    began, ended = sim.history.of("acquired"), sim.history.of("ends")
    for start, end in zip(began, ended, strict=True):
        if not 1_400_000 < end.at_us - start.at_us < 1_600_000:
            raise sim.history.fail(f"a block lasted {(end.at_us - start.at_us) / 1e6:.3f} s, not 1.5 s")
    for end, start in zip(ended, began[1:], strict=False):
        if start.at_us - end.at_us > 100_000:
            raise sim.history.fail(f"the next holder waited {(start.at_us - end.at_us) / 1e6:.3f} s")
    nothing_left(sim)
    return sim


async def _later(io: SimIO, delay: float) -> None:
    await io.sleep(delay)
    try:
        await block(io, BOUNDED, steps=80)
    except LeaseLost as error:
        assert "max_hold" in error.reason  # noqa: PT017 - there is no pytest in a simulation
        return
    raise AssertionError("it was not interrupted")


def forgotten(seed: int, scripts: Scripts = None) -> Simulation:
    """A task ends inside its block, as a generator that was left half way; the next one has the lock within a renewal.

    Another drops every handle of its lease.
    """
    sim = Simulation(seed, scripts=scripts)
    drops = seed % 2 == 1

    async def forget(io: SimIO) -> None:
        hold = await _core.acquire(io, SHORT, 0)
        assert hold is not None
        if drops:
            hold.forsaken = True
        else:
            _block.enter(io, hold)
        io.note("forgotten")

    async def wait(io: SimIO) -> None:
        await io.sleep(0.1)
        await block(io, SHORT, steps=3)

    sim.start("a", forget)
    sim.start("b", wait)
    sim.run(until=20.0)
    (forgot,) = sim.history.of("forgotten")
    got = next(iter(sim.history.of("acquired")), None)
    if got is None:
        raise sim.history.fail("a forgotten lease was kept")
    if got.at_us - forgot.at_us > SHORT.ttl_ms * 1000 // 3 + 50_000:
        raise sim.history.fail(f"a forgotten lease was kept for {(got.at_us - forgot.at_us) / 1e6:.3f} s")
    nothing_left(sim)
    return sim
