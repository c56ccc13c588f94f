"""The exclusive lock: `Lock` for threads, `AsyncLock` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.locks import _core, _spec
from gridsync.locks._base import LockBase, ttl_ms
from gridsync.locks._lease import AsyncLease, Lease

if TYPE_CHECKING:
    from types import TracebackType

    from gridsync._io import IO

__all__ = ["AsyncLock", "Lock"]


def _of(namespace: str, name: str, ttl: _units.Seconds) -> _spec.Spec:
    return _spec.lock(namespace, _units.name(name, "a lock's name"), ttl_ms(ttl, f"lock {name!r}"))


class Lock(LockBase[Lease]):
    """An exclusive lock for threads and processes: first come, first served, renewed while held, with a fence.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter that dies
    delays the others by at most 3.4 s (they look every 3.3 s) once it is its turn.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    Not reentrant: a thread that asks again for what it holds waits for itself.
    """

    def __init__(self, io: IO, namespace: str, name: str, *, ttl: _units.Seconds = 10.0) -> None:
        super().__init__(io, _of(namespace, name, ttl))

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
        hold = run_sync(_core.acquire(self._io, self._spec, self._timeout(timeout)))
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


class AsyncLock(LockBase[AsyncLease]):
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

    def __init__(self, io: IO, namespace: str, name: str, *, ttl: _units.Seconds = 10.0) -> None:
        super().__init__(io, _of(namespace, name, ttl))

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
        hold = await _core.acquire(self._io, self._spec, self._timeout(timeout))
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
