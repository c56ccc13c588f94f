"""What blocks under a lease do whose bodies never look: only the interruption keeps them from acting too long."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost
from gridsync.locks import _block, _core, _look, _spec
from gridsync.testing.checkers import mutual_exclusion, rising_fences
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.lock_scenarios import nothing_left

if TYPE_CHECKING:
    from gridsync.locks._spec import Spec
    from gridsync.testing.sim import SimIO
    from tests.sim.lock_scenarios import Scripts

LONG = _spec.lock("sim", "job", 20_000, wake=wake_prefix)
SHORT = _spec.lock("sim", "job", 2_000, wake=wake_prefix)
BOUNDED = replace(LONG, max_hold_s=1.5)
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


def revoked(seed: int, scripts: Scripts = None) -> Simulation:
    """An operator takes the lock away, over connections that break: its holder is told at once, the next one served."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.1 * (seed % 3)))
    before: list[int] = []
    raised: list[int] = []

    async def hold_long(io: SimIO) -> None:
        try:
            await block(io, LONG, steps=400)
        except LeaseLost as error:
            io.note("stopped", why=error.reason)

    async def wait(io: SimIO) -> None:
        await io.sleep(0.5)
        await block(io, LONG, steps=3)

    async def operate(io: SimIO) -> None:
        await io.sleep(2.0)
        assert await _look.force_release(io, LONG, "somebody else", "by mistake") is None
        found = await _look.look(io, LONG, 10)
        assert found.holder is not None
        assert [waiter.host for waiter in found.waiters] == ["b"]
        before.append(found.holder.fence)
        io.note("revoked")
        fence = await _look.force_release(io, LONG, found.holder.owner, "it hangs")
        if fence is not None:  # else an earlier attempt had done it, and its reply was lost
            raised.append(fence)

    for name, program in (("a", hold_long), ("b", wait), ("op", operate)):
        sim.start(name, program)
    sim.run(until=60.0)
    (revocation,), stopped = sim.history.of("revoked"), sim.history.of("stopped")
    if not stopped or stopped[0].facts["why"] != "it was revoked: it hangs":
        raise sim.history.fail("the holder was not told why")
    got = [event for event in sim.history.of("acquired") if event.process == "b"]
    for what, event in (("told", stopped[0]), ("served", got[0])):
        if not 0 < event.at_us - revocation.at_us < 700_000:
            raise sim.history.fail(f"{what} after {(event.at_us - revocation.at_us) / 1e6:.3f} s")
    for fence in raised:
        if not before[0] < fence < got[0].fence:
            raise sim.history.fail(f"the raised fence {fence} is not between {before[0]} and {got[0].fence}")
    rising_fences(sim.history)
    nothing_left(sim)
    return sim


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


def looked(seed: int, scripts: Scripts = None) -> Simulation:
    """One holds, four wait, and whoever looks sees just that."""
    sim = Simulation(seed, scripts=scripts)
    names = ["b", "c", "d", "e"]

    async def come(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await block(io, LONG, steps=20)

    async def look(io: SimIO) -> None:
        await io.sleep(0.7)
        most = io.process.random.randrange(1, 4)
        found = await _look.look(io, LONG, most)
        if found.holder is None or found.holder.host != "a":
            raise sim.history.fail(f"the holder is {found.holder}")
        if [waiter.host for waiter in found.waiters] != names[:most] or found.waiting != len(names):
            raise sim.history.fail(f"of {found.waiting} waiters, the first {most} are {found.waiters}")

    for place, name in enumerate(["a", *names]):
        sim.start(name, come, 0.1 * place)
    sim.start("op", look)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 5
    return sim
