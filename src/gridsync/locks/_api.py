"""The exclusive lock: `Lock` for threads, `AsyncLock` for asyncio."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.errors import UsageError
from gridsync.locks import _look, _spec
from gridsync.locks._base import ttl_ms
from gridsync.locks._taking import AsyncTakable, Takable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import IO
    from gridsync.errors import LeaseLost
    from gridsync.locks._look import LockInfo

__all__ = ["AsyncLock", "Lock"]
REPLICAS_MAX = 100


def _of(
    io: IO,
    namespace: str,
    name: str,
    ttl: _units.Seconds,
    *,
    fair: bool,
    note: str,
    min_replicas: int,
    fsync: bool,
) -> _spec.Spec:
    name = _units.name(name, "a lock's name")
    length = ttl_ms(ttl, f"lock {name!r}")
    if not isinstance(note, str):
        raise UsageError(f"the note of lock {name!r} must be text, not {note!r}")
    if min_replicas:
        _units.count(min_replicas, f"min_replicas of lock {name!r}", REPLICAS_MAX)
    spec = _spec.lock(namespace, name, length, wake=io.wake_prefix, fair=fair, note=note)
    return replace(spec, min_replicas=min_replicas, fsync=bool(fsync))


class Lock(Takable):
    """An exclusive lock for threads and processes: first come, first served, renewed while held, with a fence.

    Use it as ``with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        fair: Whether it is first come, first served.  If not, a free lock goes to whoever asks next, so that it is
            never idle while one who waits is being woken; whoever has waited for a second comes first all the same.
        note: What others shall read about a holder in `info` beside host, process and thread or task; 256 bytes in all.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost, by the watchdog's thread, or by the thread whose
            `check` finds out first.  What it raises is logged.
        reentrant: Whether the thread that holds it may take it again.  The same fence; the last release frees it.
        min_replicas: How many replicas must confirm a grant before `acquire` returns (WAIT); else it is given back and
            raises `NotDurable`.
        fsync: Whether a grant must also be on disk, on the primary and on those replicas (WAITAOF; Redis 7.2, an append
            log).  Both make a lease that a failover or a restart forgets less likely, not impossible.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter
    whose process died delays nobody.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    A thread that is in a block of this lock and asks for it again without a timeout would wait for itself, for ever; it
    gets a `UsageError`, unless the lock is reentrant.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, fair=fair, note=note, min_replicas=min_replicas, fsync=fsync)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    def info(self, *, waiters_max: int = 100) -> LockInfo:
        """Return who holds this lock and who waits for it, as the server knows it at this moment.

        Args:
            waiters_max: How many waiters to tell at most, first come first; how many there are is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log waiters + waiters told); changes nothing.
        """
        return run_sync(_look.look(self._io, self._spec, waiters_max))

    def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Take this lock away from whoever holds it, and serve the next waiter: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it has been held for a quarter of a
        second, else with its first renewal.  It may still be at work, or not listen, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: Only from this holder, as `info` told it; default is whoever holds it now.

        Returns:
            A fence above the old holder's and below every later one: a resource that is told it refuses the old holder
            at once.  ``None`` if nobody, or another, held it.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been taken away; call again, with *owner*.

        Cost: two round trips, and one more without *owner*.
        """
        return run_sync(_look.force_release(self._io, self._spec, owner, reason))


class AsyncLock(AsyncTakable):
    """An exclusive lock for tasks and processes: first come, first served, renewed while held, with a fence.

    Use it as ``async with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        fair: Whether it is first come, first served.  If not, a free lock goes to whoever asks next, so that it is
            never idle while one who waits is being woken; whoever has waited for a second comes first all the same.
        note: What others shall read about a holder in `info` beside host, process and thread or task; 256 bytes in all.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` in the event loop when a lease is lost: a plain function.  What it
            raises is logged.
        reentrant: Whether the task that holds it may take it again; a task that it started may not.  The same fence;
            the last release frees it.
        min_replicas: How many replicas must confirm a grant before `acquire` returns (WAIT); else it is given back and
            raises `NotDurable`.
        fsync: Whether a grant must also be on disk, on the primary and on those replicas (WAITAOF; Redis 7.2, an append
            log).  Both make a lease that a failover or a restart forgets less likely, not impossible.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter
    whose process died delays nobody;
    a cancelled `acquire` leaves nothing behind; a block whose lease is lost is cancelled.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    A task that is in a block of this lock and asks for it again without a timeout would wait for itself, for ever; it
    gets a `UsageError`, unless the lock is reentrant.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, fair=fair, note=note, min_replicas=min_replicas, fsync=fsync)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    async def info(self, *, waiters_max: int = 100) -> LockInfo:
        """Return who holds this lock and who waits for it, as the server knows it at this moment.

        Args:
            waiters_max: How many waiters to tell at most, first come first; how many there are is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log waiters + waiters told); changes nothing.
        """
        return await _look.look(self._io, self._spec, waiters_max)

    async def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Take this lock away from whoever holds it, and serve the next waiter: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it has been held for a quarter of a
        second, else with its first renewal.  It may still be at work, or not listen, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: Only from this holder, as `info` told it; default is whoever holds it now.

        Returns:
            A fence above the old holder's and below every later one: a resource that is told it refuses the old holder
            at once.  ``None`` if nobody, or another, held it.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been taken away; call again, with *owner*.

        Cost: two round trips, and one more without *owner*.
        """
        return await _look.force_release(self._io, self._spec, owner, reason)
