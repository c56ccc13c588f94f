"""Holders that never look at their lease, and a resource behind a gate; for the shipped script and for mutants."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import LeaseLost, LockTimeout, OutcomeUnknown, StaleFence, Unavailable
from gridsync.locks import Stamp, _core, _fenced, _spec
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec
    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

JOB = _spec.lock("sim", "job", 1_000, wake=wake_prefix)
SIDES = [_spec.lock(side, "job", 1_000, wake=wake_prefix) for side in ("minority", "majority")]
LOG = "{log}"
NAPS = Faults(
    request_lost=0.05,
    reply_lost=0.1,
    late=0.1,
    slow=0.05,
    cut_every_s=4.0,
    pause_every_s=2.0,
    pause_s=4.0,
    cancel_every_s=6.0,
    calm_after_s=40.0,
)


async def write_blindly(io: SimIO, until: float) -> None:
    """Take the lock and write a few times, with pauses, and without a look at the lease."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        try:
            await io.sleep(0.1)
            hold = await _core.acquire(io, JOB, 20.0)
            if hold is None:
                continue
            for _ in range(4):
                await io.sleep(0.2)
                await _write(io, hold)
            await _core.release(io, hold)
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown, asyncio.CancelledError) as error:
            io.note("stopped", why=type(error).__name__)


async def _write(io: SimIO, hold: Hold) -> None:
    entry = io.token()
    words = ("XADD", LOG, "*", "entry", entry, "fence", hold.fence, "owner", hold.owner)
    try:
        await _fenced.write(io, "sim", LOG, hold, [words])
    except StaleFence as error:
        io.note("refused", fence=hold.fence, owner=hold.owner, seen=error.seen)
        raise
    io.note("written", entry=entry)


async def write_on_one_side(io: SimIO, side: Spec, until: float) -> None:
    """Write a few times under the lock of one side of a split network, and give it back when a write is refused."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        with suppress(LockTimeout, LeaseLost, Unavailable, OutcomeUnknown, asyncio.CancelledError):
            await io.sleep(0.05)
            hold = await _core.acquire(io, side, 20.0)
            if hold is None:
                continue
            try:
                for _ in range(4):
                    await io.sleep(0.1)
                    await _write(io, hold)
            finally:
                await _core.release(io, hold)


def stale_writers(seed: int, scripts: Scripts = None) -> Simulation:
    """Fences never fall in what was written, every acknowledged write is there once, and the stale ones are refused."""
    sim = Simulation(seed, faults=NAPS, scripts=scripts)
    for name in "abc":
        sim.start(name, write_blindly, 60.0)
    sim.run(until=80.0)
    _judge(sim)
    return sim


def two_sides(seed: int, scripts: Scripts = None) -> Simulation:
    """In a split network both primaries grant, with the same fences: holders of one fence do not write in turn.

    Both locks begin with one fence, far ahead of every clock, so that each grants the next number, and the next.
    """
    sim = Simulation(seed, faults=NAPS, scripts=scripts)
    for side in SIDES:
        sim.server.engine.execute("SET", side.keys.fence, str(2**52))
        for name in "ab":
            sim.start(f"{side.keys.state}-{name}", write_on_one_side, side, 60.0)
    sim.run(until=80.0)
    _judge(sim)
    return sim


def _judge(sim: Simulation) -> None:
    entries = sim.server.engine.execute("XRANGE", LOG, "-", "+")
    written = [(words[1].decode(), Stamp(int(words[3]), words[5].decode())) for _, words in entries]
    if len(written) < 20:
        raise sim.history.fail(f"only {len(written)} writes")
    stamps = [stamp for _, stamp in written]
    if stamps != sorted(stamps):
        raise sim.history.fail("an earlier holder wrote after a later one")
    stored = [entry for entry, _ in written]
    if len(set(stored)) < len(stored):
        raise sim.history.fail("a write was applied twice")
    if lost := {event.entry for event in sim.history.of("written")} - set(stored):
        raise sim.history.fail(f"{lost} were acknowledged and not written")
    for event in sim.history.of("refused"):
        later = (stamp for stamp in stamps if stamp.fence == event.seen and stamp > (event.fence, event.owner))
        if not any(later):
            raise sim.history.fail("a write was refused that was not stale")
