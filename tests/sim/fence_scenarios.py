"""Holders that never look at their lease, and a resource behind a gate; for the shipped script and for mutants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import LeaseLost, LockTimeout, OutcomeUnknown, StaleFence, Unavailable
from gridsync.locks import _core, _fenced, _spec
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

JOB = _spec.lock("sim", "job", 1_000, wake=wake_prefix)
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
                await _write(io, hold.fence)
            await _core.release(io, hold)
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown, asyncio.CancelledError) as error:
            io.note("stopped", why=type(error).__name__)


async def _write(io: SimIO, fence: int) -> None:
    entry = io.token()
    try:
        await _fenced.write(io, "sim", LOG, [("XADD", LOG, "*", "entry", entry, "fence", fence)], fence)
    except StaleFence as error:
        io.note("refused", fence=fence, seen=error.seen)
        raise
    io.note("written", entry=entry)


def stale_writers(seed: int, scripts: Scripts = None) -> Simulation:
    """Fences never fall in what was written, every acknowledged write is there once, and the stale ones are refused."""
    sim = Simulation(seed, faults=NAPS, scripts=scripts)
    for name in "abc":
        sim.start(name, write_blindly, 60.0)
    sim.run(until=80.0)
    entries = sim.server.engine.execute("XRANGE", LOG, "-", "+")
    written = [(words[1].decode(), int(words[3])) for _, words in entries]
    if len(written) < 20:
        raise sim.history.fail(f"only {len(written)} writes")
    fences = [fence for _, fence in written]
    if fences != sorted(fences):
        raise sim.history.fail("a smaller fence wrote after a larger one")
    stored = [entry for entry, _ in written]
    if len(set(stored)) < len(stored):
        raise sim.history.fail("a write was applied twice")
    if lost := {event.entry for event in sim.history.of("written")} - set(stored):
        raise sim.history.fail(f"{lost} were acknowledged and not written")
    for event in sim.history.of("refused"):
        if event.seen <= event.fence:
            raise sim.history.fail("a write was refused that was not stale")
    return sim
