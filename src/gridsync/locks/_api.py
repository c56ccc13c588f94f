"""The exclusive lock: `Lock` for threads, `AsyncLock` for asyncio, and the leases they hand out."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from gridsync import _units
from gridsync._io import run_sync
from gridsync.errors import UsageError
from gridsync.locks import _core

if TYPE_CHECKING:
    from types import TracebackType

    from gridsync._io import IO, Signal

__all__ = ["AsyncLease", "AsyncLock", "Lease", "Lock"]

TTL_LEAST_S = 0.01


class _LeaseBase:
    """What both kinds of lease show."""

    __slots__ = ("_hold", "_io")

    def __init__(self, io: IO, hold: _core.Hold) -> None:
        self._io = io
        self._hold = hold

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._hold.spec.name

    @property
    def fence(self) -> int:
        """A number that is larger than that of every earlier holder of this name.

        Send it along with every write that the lock protects, and let the resource refuse a smaller one than it saw.
        It is the larger of the server's clock in microseconds and the last fence plus one, so it rises across a lost
        key, an eviction and a failover as long as no new primary's clock is behind the old one's by more than passed.
        """
        return self._hold.fence

    @property
    def owner(self) -> str:
        """This acquisition's identifier, unique among all processes."""
        return self._hold.owner

    @property
    def lost(self) -> Signal:
        """A switch that is thrown when the lease is lost: ``is_set()``, ``on_set(callback)``, ``wait(timeout)``.

        It is thrown by the watchdog's thread a little before the server lets the lease go, also when Redis cannot be
        reached.  It is not thrown by a release.
        """
        return self._hold.signal

    def expires_in(self) -> float:
        """Return for how many more seconds this process may count on the lease; 0 when it has ended.

        Counted from before the request left, and a hundredth less than the server allows.  Renewal moves it.
        """
        return self._hold.remaining()

    def check(self) -> None:
        """Raise unless the lease is surely still ours.  Costs no round trip.

        Raises:
            LeaseLost: It was lost, its time is over, or it was released.
        """
        self._hold.check()

    def __repr__(self) -> str:
        hold = self._hold
        state = f"lost: {hold.why_lost}" if hold.why_lost else "released" if hold.ended else "held"
        return f"<{type(self).__name__} {hold.spec.name!r} fence={hold.fence} {state}>"


class Lease(_LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another thread, which may release it.  A ``with`` block over it ends with its release, and raises
    `LeaseLost` if it was lost on the way, unless the block itself raised.
    """

    __slots__ = ()

    def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        run_sync(_core.extend(self._io, self._hold))

    def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return run_sync(_core.release(self._io, self._hold))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_sync(_core.leave(self._io, self._hold, error))


class AsyncLease(_LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another task, which may release it.  A ``with`` block over it ends with its release, and raises
    `LeaseLost` if it was lost on the way, unless the block itself raised.
    """

    __slots__ = ()

    async def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        await _core.extend(self._io, self._hold)

    async def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return await _core.release(self._io, self._hold)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _core.leave(self._io, self._hold, error)


AnyLease = TypeVar("AnyLease", bound=_LeaseBase)
_inside: ContextVar[tuple[_LeaseBase, ...]] = ContextVar("gridsync_inside", default=())
"""The leases of the ``with`` blocks that the current task or thread is in, outermost first."""


class _LockBase(Generic[AnyLease]):
    """A lock's name and ttl; its only state is who is inside a ``with`` block of this very object."""

    def __init__(self, io: IO, namespace: str, name: str, *, ttl: _units.Seconds = 10.0) -> None:
        self._io = io
        seconds = _units.seconds(ttl, f"the ttl of lock {name!r}", least=TTL_LEAST_S)
        self._spec = _core.Spec.of(namespace, _units.name(name, "a lock's name"), round(seconds * 1000))
        self._entered: list[AnyLease] = []

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._spec.name

    @property
    def ttl(self) -> float:
        """How long a lease lives without renewal, in seconds."""
        return self._spec.ttl_ms / 1000

    def _enter(self, lease: AnyLease) -> AnyLease:
        self._entered.append(lease)
        _inside.set((*_inside.get(), lease))
        return lease

    def _exit(self) -> AnyLease:
        # A lost lease's block may still be running when the next one begins: each block ends its own lease.  A block
        # that ends in another context than it began in (a fixture, a framework's dependency) has only the list to go
        # by.
        stack = _inside.get()
        mine = [lease for lease in self._entered if lease in stack]
        if not mine and len(self._entered) == 1:
            mine = self._entered
        if not mine:
            raise UsageError(
                f"cannot tell which block of lock {self.name!r} ends here: {len(self._entered)} blocks were entered "
                f"in other contexts; use acquire() and release()"
            )
        lease = mine[-1]
        self._entered.remove(lease)
        _inside.set(tuple(other for other in stack if other is not lease))
        return lease

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ttl={self.ttl:g}s>"


def _timeout(timeout: _units.Seconds | None, name: str) -> float | None:
    return None if timeout is None else _units.seconds(timeout, f"the timeout for lock {name!r}")


class Lock(_LockBase[Lease]):
    """An exclusive lock for threads and processes: first come, first served, renewed while held, with a fence.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter that dies
    delays the others by at most 3.4 s (they look every 3.3 s) once it is its turn.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    Not reentrant: a thread that asks again for what it holds waits for itself.
    """

    def acquire(self, *, timeout: _units.Seconds | None = None) -> Lease:
        """Block until this lock is ours, and start renewing it.

        Args:
            timeout: Longest time to block, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Returns:
            A lease; its `fence` grows with every holder of this name.

        Raises:
            LockTimeout: Someone else still held it after *timeout* seconds.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip when free; else one more to join the queue, one each time this waiter is woken, and one
        every 3.3 s to show that it lives.
        Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
        """
        hold = run_sync(_core.acquire(self._io, self._spec, _timeout(timeout, self.name)))
        return Lease(self._io, _core.held(hold, self._spec))

    def try_acquire(self) -> Lease | None:
        """Take this lock if it is free and nobody waits for it; never blocks for it.

        Raises:
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip.
        """
        hold = run_sync(_core.acquire(self._io, self._spec, 0))
        return None if hold is None else Lease(self._io, hold)

    def __enter__(self) -> Lease:
        return self._enter(self.acquire())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease = self._exit()
        lease.__exit__(kind, error, traceback)


class AsyncLock(_LockBase[AsyncLease]):
    """An exclusive lock for tasks and processes: first come, first served, renewed while held, with a fence.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter that dies
    delays the others by at most 3.4 s (they look every 3.3 s) once it is its turn;
    a cancelled `acquire` leaves nothing behind.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    Not reentrant: a task that asks again for what it holds waits for itself.
    """

    async def acquire(self, *, timeout: _units.Seconds | None = None) -> AsyncLease:
        """Wait until this lock is ours, and start renewing it.

        Args:
            timeout: Longest time to wait, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Returns:
            A lease; its `fence` grows with every holder of this name.

        Raises:
            LockTimeout: Someone else still held it after *timeout* seconds.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip when free; else one more to join the queue, one each time this waiter is woken, and one
        every 3.3 s to show that it lives.
        Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
        """
        hold = await _core.acquire(self._io, self._spec, _timeout(timeout, self.name))
        return AsyncLease(self._io, _core.held(hold, self._spec))

    async def try_acquire(self) -> AsyncLease | None:
        """Take this lock if it is free and nobody waits for it; never waits for it.

        Raises:
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip.
        """
        hold = await _core.acquire(self._io, self._spec, 0)
        return None if hold is None else AsyncLease(self._io, hold)

    async def __aenter__(self) -> AsyncLease:
        return self._enter(await self.acquire())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease = self._exit()
        await lease.__aexit__(kind, error, traceback)
