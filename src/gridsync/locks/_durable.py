"""A grant that other servers, or a disk, have as well: WAIT and WAITAOF.

They speak of what their own connection wrote, so a write of no meaning goes ahead of them on theirs: whoever has that
has the grant, which came before it in the same stream.  Only after a grant, and only our own owner is taken back if too
few confirm it in time: a waiter's failure must never delete the lock of whoever holds it.

It is no consensus.  A replica that confirmed may not be the one that is promoted, and one that was promoted may have
been cut off: fewer leases are lost by a failover, and not none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io import Category, Command
from gridsync.errors import GridsyncError, NotDurable
from gridsync.locks import _core

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec

WAIT = Command("WAIT", Category.NEVER, ("WAIT",), keyed=False)
WAITAOF = Command("WAITAOF", Category.NEVER, ("WAITAOF",), keyed=False)
WAIT_S = 2.0
"""How long others have to confirm, a disk that is written every second among them; less for leases under 6 s."""


async def confirm(io: IO, hold: Hold) -> None:
    """Return when enough servers have what was granted; else give it back.

    Raises:
        NotDurable: Too few had it in time.
        LeaseLost: The lease ended meanwhile.
    """
    spec = hold.spec
    try:
        local, replicas = await _ask(io, spec)
    except GridsyncError:
        await _take_back(io, hold)
        raise
    except BaseException:
        hold.end()
        io.spawn(hold.let_go(_core.ABANDON_S))
        raise
    if replicas < spec.min_replicas or local < spec.fsync:
        await _take_back(io, hold)
        what = "have it on disk" if spec.fsync else "have it"
        primary = ", nor has the primary" if local < spec.fsync else ""
        raise NotDurable(
            f"{spec} was granted, but only {replicas} of {spec.min_replicas} replicas {what}{primary} after "
            f"{_patience(spec):g} s; it was given back; look at the replicas, or ask for fewer",
            name=spec.name,
            confirmed=replicas,
        )
    hold.check()


async def _ask(io: IO, spec: Spec) -> tuple[int, int]:
    """Return on how many disks of the primary it is (0 or 1; 1 if nobody asked), and how many replicas have it."""
    patience = _patience(spec)
    text = str(round(patience * 1000))
    mark = ("SET", f"{spec.keys[0]}:sync", "1", "PX", "1000")
    needed = str(spec.min_replicas)
    if spec.fsync:
        reply: Any = await io.block(
            WAITAOF, spec.keys, ("1", needed, text), wait=patience, stop=io.signal(), ahead=mark
        )
        return int(reply[0]), int(reply[1])
    reply = await io.block(WAIT, spec.keys, (needed, text), wait=patience, stop=io.signal(), ahead=mark)
    return 1, int(reply)


def _patience(spec: Spec) -> float:
    return min(WAIT_S, spec.ttl_ms / 3000)


async def _take_back(io: IO, hold: Hold) -> None:
    try:
        await _core.release(io, hold)
    except GridsyncError:
        hold.end()  # the other news is worse; the lease ends by itself
