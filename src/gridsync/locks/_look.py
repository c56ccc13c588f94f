"""Looking in: who holds a lock and who waits, and how an operator takes it away.

Taking away is two steps, each safe to repeat: the fence is raised and the holder told (`revoke.lua`), its lease is
released in its name, which serves the next waiter.  If it stops half way the lease ends by itself, as its holder does
not renew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import wake_channel
from gridsync.locks._about import read
from gridsync.locks._hold import REVOKED, let_go
from gridsync.locks._spec import FENCE_TTL_MS

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._spec import Spec

INFO = load("gridsync.locks", "info")
REVOKE = load("gridsync.locks", "revoke")
REASON_CHARS_MAX = 200


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock."""

    owner: str
    """The acquisition's identifier, as `Lease.owner`."""
    fence: int
    since: datetime
    """Since when, on the server's clock."""
    expires_in: float
    """Seconds until the lease ends unless it is renewed."""
    host: str
    pid: int
    task: str
    """The task's name, or the thread's."""
    note: str
    """What the lock was given as ``note=``."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a lock."""

    owner: str
    since: datetime
    """Since when, on the server's clock."""
    alive: bool
    """Whether it gave a sign of life in time."""
    host: str
    pid: int
    task: str
    note: str


@dataclass(frozen=True, slots=True)
class LockInfo:
    """What the server knows of a lock at one moment."""

    name: str
    holder: Holder | None
    waiters: tuple[Waiter, ...]
    """First come first; as many as were asked for."""
    waiting: int
    """How many wait in all."""
    fence: int
    """The last fence given out; 0 if none is remembered."""


async def look(io: IO, spec: Spec, most: int) -> LockInfo:
    """Ask the server."""
    now_ms, fence, ends_ms, waiting, holder, *queue = await io.run(INFO, spec.keys[:4], (str(most),))
    return LockInfo(
        name=spec.name,
        holder=_holder(ends_ms, *holder) if holder else None,
        waiters=tuple(_waiter(now_ms, *entry) for entry in queue),
        waiting=waiting,
        fence=fence,
    )


def _holder(ends_ms: int, owner: bytes, fence: bytes, since_ms: bytes, about: bytes) -> Holder:
    return Holder(owner.decode(), int(fence), _at(int(since_ms or 0) / 1000), ends_ms / 1000, *read(about))


def _waiter(now_ms: int, owner: bytes, ticket: bytes, alive: bytes) -> Waiter:
    until_ms, _, about = alive.partition(b" ")
    return Waiter(owner.decode(), _at(float(ticket) / 1_000_000), int(until_ms) > now_ms, *read(about))


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def force_release(io: IO, spec: Spec, owner: str, reason: str) -> int | None:
    """Take the lock away from *owner*; returns the fence that separates it from all later ones, or ``None``."""
    channel = wake_channel(spec.wake, owner)
    message = f"{REVOKED}{owner} {reason[:REASON_CHARS_MAX]}"
    fence = await io.run(REVOKE, (spec.keys[0], spec.keys[3]), (owner, str(FENCE_TTL_MS), channel, message))
    if not fence:
        return None
    await let_go(io, spec, owner, ghost=True)
    return int(fence)
