"""Looking in: who holds something and who waits, and how an operator takes it away.

Taking away is two steps, each safe to repeat: the fence is raised and the holder told (`revoke.lua`, and for permits
`revoke_share.lua`), its lease is released in its name, which serves the next waiter.  If it stops half way the lease
ends by itself, as its holder does not renew it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Literal

from gridsync._io import load
from gridsync._io.keys import wake_channel
from gridsync.errors import UsageError
from gridsync.locks import _share
from gridsync.locks._about import read
from gridsync.locks._hold import REVOKED, let_go
from gridsync.locks._spec import FENCE_TTL_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, Script
    from gridsync.locks._spec import Spec

INFO = load("gridsync.locks", "info")
INFO_SHARE = load("gridsync.locks", "info_share")
REASON_CHARS_MAX = 200
TOLD_MAX = 1000
"""How many waiters, or holders, are told of at most: no reply grows with the queue."""

Mode = Literal["", "read", "write"]


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a lock, one side of a reader-writer lock, or permits of a semaphore."""

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
    permits: int = 1
    """How many permits of a semaphore; 1 of anything else."""
    mode: Mode = ""
    """Which side of a reader-writer lock: ``read`` or ``write``; empty for anything else."""


@dataclass(frozen=True, slots=True)
class Waiter:
    """Who waits for a lock, for one side of a reader-writer lock, or for permits of a semaphore."""

    owner: str
    since: datetime
    """Since when, on the server's clock."""
    alive: bool
    """Whether it gave a sign of life in time."""
    host: str
    pid: int
    task: str
    note: str
    permits: int = 1
    """How many permits of a semaphore it wants; 1 of anything else."""
    mode: Mode = ""
    """Which side of a reader-writer lock: ``read`` or ``write``; empty for anything else."""


@dataclass(frozen=True, slots=True)
class LockInfo:
    """What the server knows of a lock, or of the leadership of an election, at one moment."""

    name: str
    holder: Holder | None
    waiters: tuple[Waiter, ...]
    """First come first; as many as were asked for."""
    waiting: int
    """How many wait in all."""
    fence: int
    """The last fence given out; 0 if none is remembered."""


@dataclass(frozen=True, slots=True)
class RWLockInfo:
    """What the server knows of a reader-writer lock at one moment."""

    name: str
    holders: tuple[Holder, ...]
    """Readers, or one writer, in the order of their fences; as many as were asked for, those whose leases end first."""
    holding: int
    """How many hold it in all."""
    waiters: tuple[Waiter, ...]
    """First come first; as many as were asked for."""
    waiting: int
    """How many wait in all."""
    fence: int
    """The last fence given out; 0 if none is remembered."""

    @property
    def writer(self) -> Holder | None:
        """Who writes, if somebody does."""
        return next((holder for holder in self.holders if holder.mode == "write"), None)


@dataclass(frozen=True, slots=True)
class SemaphoreInfo:
    """What the server knows of a semaphore at one moment."""

    name: str
    limit: int
    """How many permits there are."""
    taken: int
    """How many of them are taken; after a `resize` to fewer that may be more than there are."""
    holders: tuple[Holder, ...]
    """In the order of their fences; as many as were asked for, those whose leases end first."""
    holding: int
    """How many hold permits in all."""
    waiters: tuple[Waiter, ...]
    """First come first; as many as were asked for."""
    waiting: int
    """How many wait in all."""
    fence: int
    """The last fence given out; 0 if none is remembered."""


def most(number: int, what: str) -> str:
    """Return *number* as an argument of a script, if it is a bound for a reply; *what* is its name in errors.

    Raises:
        UsageError: It is none.
    """
    if isinstance(number, bool) or not isinstance(number, int) or not 0 <= number <= TOLD_MAX:
        raise UsageError(f"{what} must be a whole number from 0 to {TOLD_MAX}, not {number!r}")
    return str(number)


async def look(io: IO, spec: Spec, waiters: int, *, timeout: float | None = None) -> LockInfo:
    """Ask the server about a lock."""
    told = await io.run(INFO, spec.keys[:4], (most(waiters, "waiters_max"),), timeout=timeout)
    now_ms, fence, ends_ms, waiting, holder, *queue = told
    return LockInfo(
        name=spec.name,
        holder=_holder(ends_ms, *holder) if holder else None,
        waiters=tuple(_waiter(now_ms, *entry) for entry in queue),
        waiting=waiting,
        fence=fence,
    )


async def look_at_semaphore(io: IO, spec: Spec, holders: int, waiters: int) -> SemaphoreInfo:
    """Ask the server about a semaphore, or about the permits that a reader-writer lock is made of."""
    args = most(holders, "holders_max"), most(waiters, "waiters_max")
    now_ms, fence, limit, taken, holding, waiting, held, *queue = await io.run(INFO_SHARE, spec.keys[:6], args)
    sided = spec.kind in {_share.READ, _share.WRITE}
    served = [_sharer(now_ms, *entry, sided=sided) for entry in held]
    return SemaphoreInfo(
        name=spec.name,
        # Before its first use the server knows no number.
        limit=limit or int(spec.acquire_args[1]),
        taken=taken,
        holders=tuple(sorted(served, key=lambda holder: holder.fence)),
        holding=holding,
        waiters=tuple(_hopeful(now_ms, *entry, sided=sided) for entry in queue),
        waiting=waiting,
        fence=fence,
    )


async def look_at_rwlock(io: IO, spec: Spec, holders: int, waiters: int) -> RWLockInfo:
    """Ask the server about the lock of which *spec* is one side."""
    told = await look_at_semaphore(io, spec, holders, waiters)
    return RWLockInfo(
        name=told.name,
        holders=told.holders,
        holding=told.holding,
        waiters=told.waiters,
        waiting=told.waiting,
        fence=told.fence,
    )


def _holder(ends_ms: int, owner: bytes, fence: bytes, since_ms: bytes, about: bytes) -> Holder:
    return Holder(owner.decode(), int(fence), _at(int(since_ms or 0) / 1000), ends_ms / 1000, *read(about))


def _sharer(now_ms: int, owner: bytes, until_ms: bytes, said: bytes, *, sided: bool) -> Holder:
    permits, fence, since_ms, about = said.split(b" ", 3)
    ends_s, since = (float(until_ms) - now_ms) / 1000, _at(int(since_ms) / 1000)
    return Holder(owner.decode(), int(fence), since, ends_s, *read(about), *_share_of(int(permits), sided=sided))


def _waiter(now_ms: int, owner: bytes, ticket: bytes, alive: bytes) -> Waiter:
    until_ms, _, about = alive.partition(b" ")
    return Waiter(owner.decode(), _at(float(ticket) / 1_000_000), int(until_ms) > now_ms, *read(about))


def _hopeful(now_ms: int, owner: bytes, ticket: bytes, alive: bytes, *, sided: bool) -> Waiter:
    until_ms, permits, about = alive.split(b" ", 2)
    since, lives = _at(float(ticket) / 1_000_000), int(until_ms) > now_ms
    return Waiter(owner.decode(), since, lives, *read(about), *_share_of(int(permits), sided=sided))


def _share_of(permits: int, *, sided: bool) -> tuple[int, Mode]:
    if not sided:
        return permits, ""
    return 1, "write" if permits == _share.WHOLE else "read"


def _at(seconds: float) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


async def force_release(io: IO, spec: Spec, owner: str | None, reason: str) -> int | None:
    """Take the lock away from *owner*, or from whoever holds it now; the fence that separates it from all later ones.

    Returns ``None`` if nobody, or another, held it.

    Raises:
        UsageError: *reason* is no text, or *owner* cannot be one.
    """
    why = told(spec, reason)
    if owner is None and spec.revoke is not _share.REVOKE_SHARE:
        holder = (await look(io, spec, 0)).holder
        if holder is None:
            return None
        owner = holder.owner
    fence = await io.run(*revocation(spec, owner, why))
    if not fence:
        return None
    await let_go(io, spec, str(owner), ghost=True)
    return int(fence)


def told(spec: Spec, reason: str) -> bytes:
    """Return *reason* as a holder of *spec* is told it.

    Raises:
        UsageError: It is no text.
    """
    if not isinstance(reason, str):
        raise UsageError(f"the reason why {spec} is taken away must be text, not {reason!r:.100}")
    return reason[:REASON_CHARS_MAX].encode(errors="replace")


def revocation(spec: Spec, owner: str | None, why: bytes) -> tuple[Script, Sequence[str], Sequence[Arg]]:
    """Return the call that raises the fence above that of *owner*, and tells it why; it answers the fence, or 0.

    Raises:
        UsageError: *owner* cannot be one.
    """
    if not isinstance(owner, str) or not owner.isascii():
        raise UsageError(f"from whom {spec} is taken away must be an owner that info() tells of, not {owner!r:.100}")
    message = f"{REVOKED}{owner} ".encode() + why
    keys = (spec.renew_keys[0], spec.keys[-2])
    return spec.revoke, keys, (owner, str(FENCE_TTL_MS), wake_channel(spec.wake, owner), message)
