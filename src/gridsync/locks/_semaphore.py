"""`Semaphore` and `AsyncSemaphore`: a number of permits that threads, tasks and processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.locks import _look, _share
from gridsync.locks._base import ttl_ms
from gridsync.locks._taking import AsyncTakable, Takable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import IO
    from gridsync.errors import LeaseLost
    from gridsync.locks._hold import Hold
    from gridsync.locks._look import SemaphoreInfo
    from gridsync.locks._spec import Spec

__all__ = ["AsyncSemaphore", "Semaphore"]


def _of(io: IO, namespace: str, name: str, ttl: _units.Seconds, *, limit: int, permits: int) -> Spec:
    what = f"semaphore {name!r}"
    _units.count(limit, f"the limit of {what}", _share.PERMITS_MAX)
    _units.count(permits, f"the permits that one takes of {what}", limit)
    _units.name(name, "a semaphore's name")
    return _share.semaphore(namespace, name, ttl_ms(ttl, what), limit=limit, permits=permits, wake=io.wake_prefix)


class Semaphore(Takable):
    """Permits for threads and processes: first come, first served, each with a lease and a fence of its own.

    Use it as a lock: ``with semaphore:``, as a decorator, or with `acquire` and `try_acquire`.  Each acquisition takes
    the same number of permits, all at once; make another object of the same name to take another number.

    Args:
        limit: How many permits there are; the same wherever this name is used, until a `resize`.
        permits: How many an acquisition takes.
        ttl: How long a lease lives without renewal, in seconds: what a crash of a holder costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost.
        reentrant: Whether the thread that holds permits enters again without taking more.

    Guarantee: the permits held at a time are never more than there are, on one primary; who asks for many is not
    overtaken by those who ask for few; a holder that dies is forgotten when its own lease ends.
    Not guaranteed: the number after a failover that lost a write, or while a holder goes on after its lease was lost.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, limit=limit, permits=permits)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    async def _take(self, timeout: _units.Seconds | None) -> Hold | None:
        return await _share.explained(super()._take(timeout), self._spec)

    def resize(self, limit: int) -> None:
        """Change how many permits there are, for everybody, whatever they were made with.

        More are handed to those who wait, at once.  Fewer take nothing from those who hold: nobody is served until
        enough was given back.  The change is remembered for a week after the semaphore's last use.

        Raises:
            UsageError: *limit* is no whole number from 1 to 1,000,000.
            OutcomeUnknown: The server stopped answering; you may call again.
            Unavailable: The server could not be reached; nothing was changed.

        Cost: one round trip, O(log holders) and as much for each waiter that is served.
        """
        run_sync(_share.resize(self._io, self._spec, limit))

    def info(self, *, holders_max: int = 100, waiters_max: int = 100) -> SemaphoreInfo:
        """Return who holds permits and who waits, as the server knows it at this moment.

        Args:
            holders_max: How many holders to tell at most, those whose leases end first; their number is told anyway.
            waiters_max: How many waiters to tell at most, first come first; their number is told anyway.

        Raises:
            UsageError: One of them is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log holders + log waiters + those who are told); changes nothing.
        """
        return run_sync(_look.look_at_semaphore(self._io, self._spec, holders_max, waiters_max))

    def force_release(self, reason: str, *, owner: str) -> int | None:
        """Take permits away from one holder, and serve whoever fits: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it has been held for a quarter of a
        second, else with its first renewal.  It may still be at work, or not listen, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: From which holder, as `info` told it.

        Returns:
            A fence above that of everyone who holds now, and below every later one: a resource that is told it refuses
            the old holder at once, and the others who hold now as well.  ``None`` if that owner held nothing.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been taken away; call again.

        Cost: two round trips, O(log holders) and as much for each one that is served.
        """
        return run_sync(_look.force_release(self._io, self._spec, owner, reason))


class AsyncSemaphore(AsyncTakable):
    """Permits for tasks and processes: first come, first served, each with a lease and a fence of its own.

    Use it as a lock: ``async with semaphore:``, as a decorator, or with `acquire` and `try_acquire`.  Each acquisition
    takes the same number of permits, all at once; make another object of the same name to take another number.

    Args:
        limit: How many permits there are; the same wherever this name is used, until a `resize`.
        permits: How many an acquisition takes.
        ttl: How long a lease lives without renewal, in seconds: what a crash of a holder costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` in the event loop when a lease is lost.
        reentrant: Whether the task that holds permits enters again without taking more.

    Guarantee: the permits held at a time are never more than there are, on one primary; who asks for many is not
    overtaken by those who ask for few; a holder that dies is forgotten when its own lease ends; a cancelled `acquire`
    leaves nothing behind.
    Not guaranteed: the number after a failover that lost a write, or while a holder goes on after its lease was lost.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, limit=limit, permits=permits)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    async def _take(self, timeout: _units.Seconds | None) -> Hold | None:
        return await _share.explained(super()._take(timeout), self._spec)

    async def resize(self, limit: int) -> None:
        """Change how many permits there are, for everybody, whatever they were made with.

        More are handed to those who wait, at once.  Fewer take nothing from those who hold: nobody is served until
        enough was given back.  The change is remembered for a week after the semaphore's last use.

        Raises:
            UsageError: *limit* is no whole number from 1 to 1,000,000.
            OutcomeUnknown: The server stopped answering; you may call again.
            Unavailable: The server could not be reached; nothing was changed.

        Cost: one round trip, O(log holders) and as much for each waiter that is served.
        """
        await _share.resize(self._io, self._spec, limit)

    async def info(self, *, holders_max: int = 100, waiters_max: int = 100) -> SemaphoreInfo:
        """Return who holds permits and who waits, as the server knows it at this moment.

        Args:
            holders_max: How many holders to tell at most, those whose leases end first; their number is told anyway.
            waiters_max: How many waiters to tell at most, first come first; their number is told anyway.

        Raises:
            UsageError: One of them is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log holders + log waiters + those who are told); changes nothing.
        """
        return await _look.look_at_semaphore(self._io, self._spec, holders_max, waiters_max)

    async def force_release(self, reason: str, *, owner: str) -> int | None:
        """Take permits away from one holder, and serve whoever fits: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it has been held for a quarter of a
        second, else with its first renewal.  It may still be at work, or not listen, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: From which holder, as `info` told it.

        Returns:
            A fence above that of everyone who holds now, and below every later one: a resource that is told it refuses
            the old holder at once, and the others who hold now as well.  ``None`` if that owner held nothing.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been taken away; call again.

        Cost: two round trips, O(log holders) and as much for each one that is served.
        """
        return await _look.force_release(self._io, self._spec, owner, reason)
