"""The lock on several independent masters: `QuorumLock` for threads, `AsyncQuorumLock` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync import _units
from gridsync._io import run_sync
from gridsync.errors import UsageError
from gridsync.locks import _look_at_masters, _redlock, _revoke_votes
from gridsync.locks._base import ttl_ms
from gridsync.locks._taking import AsyncTakable, Takable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gridsync.errors import LeaseLost
    from gridsync.locks._hold import Hold
    from gridsync.locks._look_at_masters import QuorumInfo
    from gridsync.locks._masters import Masters
    from gridsync.locks._spec import Spec

__all__ = ["AsyncQuorumLock", "QuorumLock"]


def _of(masters: Masters, namespace: str, name: str, ttl: _units.Seconds, note: str) -> Spec:
    name = _units.name(name, "a lock's name")
    length = ttl_ms(ttl, f"redlock {name!r}")
    if length > masters.ttl_max_s * 1000:
        raise UsageError(
            f"the ttl of redlock {name!r} is {length / 1000:g} s, and max_ttl is {masters.ttl_max_s:g} s: a master "
            f"that was restarted would vote again before such a lease has ended; give every Redlock on these masters "
            f"a larger max_ttl"
        )
    if not isinstance(note, str):
        raise UsageError(f"the note of redlock {name!r} must be text, not {note!r}")
    return _redlock.spec(namespace, name, length, wake=masters.io.wake_prefix, note=note)


class QuorumLock(Takable):
    """An exclusive lock on a majority of independent masters, for threads and processes; made by `Redlock.lock`.

    Use it as ``with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.  Its leases are those of a
    `Lock`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        note: What others shall read about a holder beside host, process and thread or task; 256 bytes for all of it.
        max_hold: After how many seconds the watchdogs stop renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost, by a watchdog's thread, or by the thread whose
            `check` finds out first.  What it raises is logged.
        reentrant: Whether the thread that holds it may take it again.  The same fence; the last release frees it.

    Guarantee: at most one valid lease at a time while clocks run alike to a hundredth and no majority of the masters
    forgets its leases sooner than `Redlock` can know; the fence rises with every holder (tests/sim/test_redlock.py).
    Not guaranteed: order of arrival; exclusion for a holder that goes on after its lease was lost: check the fence
    where you write.
    Cost: three requests to each master for a cycle: acquire, confirm, release.
    Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
    """

    def __init__(
        self,
        masters: Masters,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(masters, namespace, name, ttl, note)
        super().__init__(masters.io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)
        self._masters = masters

    def _go_on(self, text: str) -> Coroutine[Any, Any, Hold]:
        return _redlock.resume(self._masters, self._spec, text)

    def _ask(self, timeout: float | None) -> Coroutine[Any, Any, Hold | None]:
        return _redlock.acquire(self._masters, self._spec, timeout)

    def info(self, *, waiters_max: int = 100) -> QuorumInfo:
        """Return what each master says about this lock, and who has the votes of a majority.

        A master that does not answer within a second, or is none any more, is told as such, with the reason.

        Args:
            waiters_max: How many waiters each master tells at most, first come first; their number is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.

        Cost: three or four requests to each master, to all of them at the same time; changes nothing.
        """
        return run_sync(_look_at_masters.look(self._masters, self._spec, waiters_max))

    def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Take this lock away from whoever holds it, and let those who wait ask again: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it was renewed once, else with its
        first renewal, before a third of its ttl is over.  It may still be at work, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: Only from this holder, as `info` told it; default is whoever holds it now.

        Returns:
            A fence above the old holder's and below every later one: a resource that is told it refuses the old holder
            at once.  ``None`` if nobody, or another, held a majority.

        Raises:
            Unavailable: Less than a majority of the masters answered; call again.
            OutcomeUnknown: Masters failed half way: it may be held, or taken away without a majority that knows the
                fence; call again, with *owner*.

        Cost: three requests to each master, to all of them at the same time, and as many more without *owner*.
        """
        return run_sync(_revoke_votes.force_release(self._masters, self._spec, owner, reason))


class AsyncQuorumLock(AsyncTakable):
    """An exclusive lock on a majority of independent masters, for tasks and processes; made by `AsyncRedlock.lock`.

    Use it as ``async with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.  Its leases are those
    of an `AsyncLock`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        note: What others shall read about a holder beside host, process and thread or task; 256 bytes for all of it.
        max_hold: After how many seconds the watchdogs stop renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` in the event loop when a lease is lost: a plain function.  What it
            raises is logged.
        reentrant: Whether the task that holds it may take it again; a task that it started may not.  The same fence;
            the last release frees it.

    Guarantee: at most one valid lease at a time while clocks run alike to a hundredth and no majority of the masters
    forgets its leases sooner than `AsyncRedlock` can know; the fence rises with every holder
    (tests/sim/test_redlock.py); a cancelled `acquire` leaves nothing behind; a block whose lease is lost is cancelled.
    Not guaranteed: order of arrival; exclusion for a holder that goes on after its lease was lost: check the fence
    where you write.
    Cost: three requests to each master for a cycle: acquire, confirm, release.
    Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
    """

    def __init__(
        self,
        masters: Masters,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(masters, namespace, name, ttl, note)
        super().__init__(masters.io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)
        self._masters = masters

    def _go_on(self, text: str) -> Coroutine[Any, Any, Hold]:
        return _redlock.resume(self._masters, self._spec, text)

    def _ask(self, timeout: float | None) -> Coroutine[Any, Any, Hold | None]:
        return _redlock.acquire(self._masters, self._spec, timeout)

    async def info(self, *, waiters_max: int = 100) -> QuorumInfo:
        """Return what each master says about this lock, and who has the votes of a majority.

        A master that does not answer within a second, or is none any more, is told as such, with the reason.

        Args:
            waiters_max: How many waiters each master tells at most, first come first; their number is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.

        Cost: three or four requests to each master, to all of them at the same time; changes nothing.
        """
        return await _look_at_masters.look(self._masters, self._spec, waiters_max)

    async def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Take this lock away from whoever holds it, and let those who wait ask again: for operators, not for programs.

        The holder is told: its lease is lost with *reason* within a round trip if it was renewed once, else with its
        first renewal, before a third of its ttl is over.  It may still be at work, so the fence is raised as well.

        Args:
            reason: What the holder is told; the first 200 characters.
            owner: Only from this holder, as `info` told it; default is whoever holds it now.

        Returns:
            A fence above the old holder's and below every later one: a resource that is told it refuses the old holder
            at once.  ``None`` if nobody, or another, held a majority.

        Raises:
            Unavailable: Less than a majority of the masters answered; call again.
            OutcomeUnknown: Masters failed half way: it may be held, or taken away without a majority that knows the
                fence; call again, with *owner*.

        Cost: three requests to each master, to all of them at the same time, and as many more without *owner*.
        """
        return await _revoke_votes.force_release(self._masters, self._spec, owner, reason)
