"""Factories of locks and of their kin."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._factories import AsyncGround, Ground
from gridsync.locks import (
    AsyncBarrier,
    AsyncElection,
    AsyncFenceGate,
    AsyncLatch,
    AsyncLock,
    AsyncMultiLock,
    AsyncOncePer,
    AsyncRWLock,
    AsyncSemaphore,
    Barrier,
    Election,
    FenceGate,
    Latch,
    Lock,
    MultiLock,
    OncePer,
    RWLock,
    Semaphore,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._units import Seconds
    from gridsync.errors import LeaseLost


class LockFactories(Ground):
    """The factories of locks and of their kin, for threads."""

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> Lock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `Lock`."""
        return Lock(
            self._io,
            self.namespace,
            name,
            ttl=ttl,
            fair=fair,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
            min_replicas=min_replicas,
            fsync=fsync,
        )

    def multilock(
        self,
        *names: str,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> MultiLock:
        """Return the locks *names*, to be taken all at once or not at all; the rest as in `Lock`."""
        return MultiLock(self._io, self.namespace, *names, ttl=ttl, max_hold=max_hold, on_lost=on_lost)

    def once_per(self, period: Seconds, name: str) -> OncePer:
        """Return what lets one run happen per *period* among all processes, as a decorator too; see `OncePer`."""
        return OncePer(self._io, self.namespace, name, period)

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> Semaphore:
        """Return the semaphore *name*, *permits* of whose *limit* one acquisition takes; the rest as in `Lock`."""
        return Semaphore(
            self._io,
            self.namespace,
            name,
            limit,
            permits=permits,
            ttl=ttl,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def rwlock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> RWLock:
        """Return the reader-writer lock *name*: its sides ``read`` and ``write`` are used as a `Lock`."""
        return RWLock(self._io, self.namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    def election(self, name: str, *, ttl: Seconds = 10.0, value: str = "") -> Election:
        """Return the election *name*: one leader at a time; *value* is what this candidate tells about itself."""
        return Election(self._io, self.namespace, name, ttl=ttl, value=value)

    def fence_gate(self, key: str) -> FenceGate:
        """Return the gate through which holders of a lock write to the Redis key *key*."""
        return FenceGate(self._io, self.namespace, key)

    def latch(self, name: str, count: int, *, ttl: Seconds = 3600.0) -> Latch:
        """Return the latch *name*, which opens when *count* things have happened; kept *ttl* s after its last use."""
        return Latch(self._io, self.namespace, name, count, ttl=ttl)

    def barrier(self, name: str, parties: int, *, ttl: Seconds = 3600.0) -> Barrier:
        """Return the barrier *name*, at which *parties* wait for each other; kept *ttl* seconds after its last use."""
        return Barrier(self._io, self.namespace, name, parties, ttl=ttl)


class AsyncLockFactories(AsyncGround):
    """The factories of locks and of their kin, for tasks."""

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> AsyncLock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `AsyncLock`."""
        return AsyncLock(
            self._io,
            self.namespace,
            name,
            ttl=ttl,
            fair=fair,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
            min_replicas=min_replicas,
            fsync=fsync,
        )

    def multilock(
        self,
        *names: str,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> AsyncMultiLock:
        """Return the locks *names*, to be taken all at once or not at all; the rest as in `AsyncLock`."""
        return AsyncMultiLock(self._io, self.namespace, *names, ttl=ttl, max_hold=max_hold, on_lost=on_lost)

    def once_per(self, period: Seconds, name: str) -> AsyncOncePer:
        """Return what lets one run happen per *period* among all processes, as a decorator too; see `AsyncOncePer`."""
        return AsyncOncePer(self._io, self.namespace, name, period)

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> AsyncSemaphore:
        """Return the semaphore *name*, *permits* of whose *limit* one acquisition takes; the rest as in `AsyncLock`."""
        return AsyncSemaphore(
            self._io,
            self.namespace,
            name,
            limit,
            permits=permits,
            ttl=ttl,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def rwlock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> AsyncRWLock:
        """Return the reader-writer lock *name*: its sides ``read`` and ``write`` are used as an `AsyncLock`."""
        return AsyncRWLock(
            self._io, self.namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant
        )

    def election(self, name: str, *, ttl: Seconds = 10.0, value: str = "") -> AsyncElection:
        """Return the election *name*: one leader at a time; *value* is what this candidate tells about itself."""
        return AsyncElection(self._io, self.namespace, name, ttl=ttl, value=value)

    def fence_gate(self, key: str) -> AsyncFenceGate:
        """Return the gate through which holders of a lock write to the Redis key *key*."""
        return AsyncFenceGate(self._io, self.namespace, key)

    def latch(self, name: str, count: int, *, ttl: Seconds = 3600.0) -> AsyncLatch:
        """Return the latch *name*, which opens when *count* things have happened; kept *ttl* s after its last use."""
        return AsyncLatch(self._io, self.namespace, name, count, ttl=ttl)

    def barrier(self, name: str, parties: int, *, ttl: Seconds = 3600.0) -> AsyncBarrier:
        """Return the barrier *name*, at which *parties* wait for each other; kept *ttl* seconds after its last use."""
        return AsyncBarrier(self._io, self.namespace, name, parties, ttl=ttl)
