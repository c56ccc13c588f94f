"""`RWLock` and `AsyncRWLock`: any number of readers, or one writer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.errors import UsageError
from gridsync.locks import _look, _share
from gridsync.locks._base import inside, ttl_ms
from gridsync.locks._taking import AsyncTakable, Takable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import IO
    from gridsync.errors import LeaseLost
    from gridsync.locks._hold import Hold
    from gridsync.locks._lease import AsyncLease, Lease, LeaseBase
    from gridsync.locks._look import RWLockInfo
    from gridsync.locks._spec import Spec

__all__ = ["AsyncRWLock", "AsyncSide", "RWLock", "Side"]


def _refuse_upgrade(io: IO, spec: Spec) -> None:
    for hold in inside(io, spec):
        if hold.spec.kind == _share.READ:
            raise UsageError(
                f"this block holds the {hold.spec} and would wait for itself: there is no upgrade; leave the block, "
                f"take the write lock, and look again at what you read"
            )


class Side(Takable):
    """One side of an `RWLock`, used as a lock: acquired, entered by ``with``, or as a decorator."""

    async def _take(self, timeout: _units.Seconds | None) -> Hold | None:
        if timeout != 0 and self._spec.kind == _share.WRITE:
            _refuse_upgrade(self._io, self._spec)
        return await super()._take(timeout)


class AsyncSide(AsyncTakable):
    """One side of an `AsyncRWLock`, used as a lock: acquired, entered by ``with``, or as a decorator."""

    async def _take(self, timeout: _units.Seconds | None) -> Hold | None:
        if timeout != 0 and self._spec.kind == _share.WRITE:
            _refuse_upgrade(self._io, self._spec)
        return await super()._take(timeout)


class _Base:
    """What both sides are; it holds no other state."""

    def __init__(self, io: IO, namespace: str, name: str, ttl: _units.Seconds) -> None:
        self._io = io
        ms = ttl_ms(ttl, f"rwlock {name!r}")
        self._reader = _share.reader(namespace, _units.name(name, "a rwlock's name"), ms, wake=io.wake_prefix)
        self._writer = _share.writer(namespace, name, ms, wake=io.wake_prefix)

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._reader.name

    def _writers(self, lease: LeaseBase) -> Hold:
        hold = lease._hold  # noqa: SLF001 - leases and locks are one family
        if hold.spec.keys != self._writer.keys or hold.spec.kind != _share.WRITE:
            raise UsageError(f"{lease!r} is no lease of the writer of {self!r}, so it cannot be downgraded")
        return hold

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ttl={self._reader.ttl_ms / 1000:g}s>"


class RWLock(_Base):
    """A lock that any number of readers hold together, or one writer alone: for threads and processes.

    Use its two sides as locks: ``with book.read:``, ``with book.write as lease:``, ``book.read.acquire(timeout=2)``.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of a reader or writer costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost.
        reentrant: Whether the thread that holds a side may enter that side again.

    Guarantee: a writer is alone, on one primary; served in order of arrival, so that neither side starves: a reader who
    comes after a waiting writer waits behind it; a reader that dies is forgotten when its own lease ends, whoever else
    renews; the fence rises with every reader and writer.
    Not guaranteed: that a writer is alone across a failover that lost the write, or while a holder goes on after its
    lease was lost; check the writer's fence where you write.
    There is no upgrade: a reader that wants to write gives the read lock back first, and looks again at what it read.
    Source: https://en.wikipedia.org/wiki/Readers%E2%80%93writer_lock
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        super().__init__(io, namespace, name, ttl)
        self._read = Side(io, self._reader, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)
        self._write = Side(io, self._writer, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    @property
    def read(self) -> Side:
        """The readers' side."""
        return self._read

    @property
    def write(self) -> Side:
        """The writer's side."""
        return self._write

    def downgrade(self, lease: Lease) -> None:
        """Let the writer with this *lease* be a reader from now on, without anybody writing in between.

        The lease goes on, with its fence.  Readers who wait at the head of the queue come in at once.

        Raises:
            LeaseLost: The write lock was lost.
            UsageError: It is no lease of this lock's writer.
            OutcomeUnknown: The server stopped answering; you may call again.
            Unavailable: The server could not be reached; the lease is still a writer's.

        Cost: one round trip, O(log readers) and as much for each reader that comes in.
        """
        run_sync(_share.downgrade(self._io, self._writers(lease)))

    def info(self, *, holders_max: int = 100, waiters_max: int = 100) -> RWLockInfo:
        """Return who holds this lock and who waits, as the server knows it at this moment.

        Args:
            holders_max: How many holders to tell at most, those whose leases end first; their number is told anyway.
            waiters_max: How many waiters to tell at most, first come first; their number is told anyway.

        Raises:
            UsageError: One of them is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log holders + log waiters + those who are told); changes nothing.
        """
        return run_sync(_look.look_at_rwlock(self._io, self._reader, holders_max, waiters_max))

    def force_release(self, reason: str, *, owner: str) -> int | None:
        """Take it away from one holder, and serve whoever fits: for operators, not for programs.

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
        return run_sync(_look.force_release(self._io, self._reader, owner, reason))


class AsyncRWLock(_Base):
    """A lock that any number of readers hold together, or one writer alone: for tasks and processes.

    Use its two sides as locks: ``with book.read:``, ``with book.write as lease:``, ``book.read.acquire(timeout=2)``.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of a reader or writer costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost.
        reentrant: Whether the task that holds a side may enter that side again.

    Guarantee: a writer is alone, on one primary; served in order of arrival, so that neither side starves: a reader who
    comes after a waiting writer waits behind it; a reader that dies is forgotten when its own lease ends, whoever else
    renews; the fence rises with every reader and writer;
    a cancelled `acquire` leaves nothing behind.
    Not guaranteed: that a writer is alone across a failover that lost the write, or while a holder goes on after its
    lease was lost; check the writer's fence where you write.
    There is no upgrade: a reader that wants to write gives the read lock back first, and looks again at what it read.
    Source: https://en.wikipedia.org/wiki/Readers%E2%80%93writer_lock
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        super().__init__(io, namespace, name, ttl)
        self._read = AsyncSide(io, self._reader, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)
        self._write = AsyncSide(io, self._writer, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    @property
    def read(self) -> AsyncSide:
        """The readers' side."""
        return self._read

    @property
    def write(self) -> AsyncSide:
        """The writer's side."""
        return self._write

    async def downgrade(self, lease: AsyncLease) -> None:
        """Let the writer with this *lease* be a reader from now on, without anybody writing in between.

        The lease goes on, with its fence.  Readers who wait at the head of the queue come in at once.

        Raises:
            LeaseLost: The write lock was lost.
            UsageError: It is no lease of this lock's writer.
            OutcomeUnknown: The server stopped answering; you may call again.
            Unavailable: The server could not be reached; the lease is still a writer's.

        Cost: one round trip, O(log readers) and as much for each reader that comes in.
        """
        await _share.downgrade(self._io, self._writers(lease))

    async def info(self, *, holders_max: int = 100, waiters_max: int = 100) -> RWLockInfo:
        """Return who holds this lock and who waits, as the server knows it at this moment.

        Args:
            holders_max: How many holders to tell at most, those whose leases end first; their number is told anyway.
            waiters_max: How many waiters to tell at most, first come first; their number is told anyway.

        Raises:
            UsageError: One of them is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log holders + log waiters + those who are told); changes nothing.
        """
        return await _look.look_at_rwlock(self._io, self._reader, holders_max, waiters_max)

    async def force_release(self, reason: str, *, owner: str) -> int | None:
        """Take it away from one holder, and serve whoever fits: for operators, not for programs.

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
        return await _look.force_release(self._io, self._reader, owner, reason)
