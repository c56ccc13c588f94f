"""`MultiLock` and `AsyncMultiLock`: several exclusive locks at once."""
# ruff: noqa: SLF001 - leases and locks are one family

from __future__ import annotations

from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

from gridsync import _units
from gridsync._io import run_sync
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import LockTimeout, UsageError
from gridsync.locks import _several
from gridsync.locks._api import AsyncLock, Lock
from gridsync.locks._base import LockBase
from gridsync.locks._lease import AsyncLease, Lease, LeaseBase

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from gridsync._io import IO
    from gridsync.errors import LeaseLost
    from gridsync.locks._hold import Hold

__all__ = ["AsyncMultiLease", "AsyncMultiLock", "MultiLease", "MultiLock"]

OneLease = TypeVar("OneLease", bound=LeaseBase)
OneLock = TypeVar("OneLock", bound=LockBase[Any])


def _names(names: Sequence[str]) -> list[str]:
    """Return *names* in the order in which everybody takes them."""
    chosen = sorted({_units.name(name, "a lock's name") for name in names})
    if len(chosen) < len(names) or not 1 <= len(chosen) <= _several.NAMES_MAX:
        raise UsageError(f"a multi-lock takes from 1 to {_several.NAMES_MAX} different names, not {names!r:.200}")
    return chosen


def _leave(
    entered: Sequence[Lease] | Sequence[Lock],
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    stack = ExitStack()
    for one in entered:
        stack.push(one.__exit__)
    stack.__exit__(kind, error, traceback)


async def _leave_async(
    entered: Sequence[AsyncLease] | Sequence[AsyncLock],
    kind: type[BaseException] | None,
    error: BaseException | None,
    traceback: TracebackType | None,
) -> None:
    stack = AsyncExitStack()
    for one in entered:
        stack.push_async_exit(one.__aexit__)
    await stack.__aexit__(kind, error, traceback)


class _MultiLeaseBase(Generic[OneLease]):
    """What both kinds of multi-lease show."""

    __slots__ = ("_leases",)

    def __init__(self, leases: list[OneLease]) -> None:
        self._leases = leases

    @property
    def leases(self) -> dict[str, OneLease]:
        """The lease of each lock, by its name."""
        return {lease.name: lease for lease in self._leases}

    @property
    def fences(self) -> dict[str, int]:
        """The fence of each lock, by its name; see `Lease.fence`."""
        return {lease.name: lease.fence for lease in self._leases}

    def expires_in(self) -> float:
        """Return for how many more seconds this process may count on all of them; 0 when one has ended."""
        return min(lease.expires_in() for lease in self._leases)

    def check(self) -> None:
        """Raise unless all are surely still ours.  Costs no round trip.

        Raises:
            LeaseLost: One was lost, its time is over, or it was released.
        """
        for lease in self._leases:
            lease.check()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._leases!r}>"


class MultiLease(ForThreads, _MultiLeaseBase[Lease]):
    """Several locks held together: a lease for each, renewed by the watchdog until they are released or one is lost.

    A ``with`` block over it ends with their release, and raises `LeaseLost` if one was lost on the way.
    """

    __slots__ = ()

    def release(self) -> bool:
        """Give all of them back, the last one first; safe to call again.

        Returns:
            Whether all were ours until now.

        Raises:
            Unavailable: The server could not be reached; it frees them when their leases end.  You may call again.

        Cost: one round trip for each lock.
        """
        kept: list[bool] = []

        def give_back(lease: Lease) -> None:
            kept.append(lease.release())

        # Each one is given back, whatever became of the one before: else the watchdog would go on renewing it.
        with ExitStack() as stack:
            for lease in self._leases:
                stack.callback(give_back, lease)
        return all(kept)

    def extend(self) -> None:
        """Renew all of them now, for their whole ttl.

        Raises:
            LeaseLost: One is not ours any more.
            Unavailable: The server could not be reached; they run on for `expires_in`.

        Cost: one round trip for each lock.
        """
        for lease in self._leases:
            lease.extend()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.callback(self.release)
            for lease in self._leases:
                stack.enter_context(lease)
            stack.pop_all()  # all could begin: nothing ends here
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _leave(self._leases, kind, error, traceback)


class AsyncMultiLease(ForTasks, _MultiLeaseBase[AsyncLease]):
    """Several locks held together: a lease for each, renewed by the watchdog until they are released or one is lost.

    An ``async with`` block over it ends with their release, and raises `LeaseLost` if one was lost on the way: its task
    is cancelled then.
    """

    __slots__ = ()

    async def release(self) -> bool:
        """Give all of them back, the last one first; safe to call again.

        Returns:
            Whether all were ours until now.

        Raises:
            Unavailable: The server could not be reached; it frees them when their leases end.  You may call again.

        Cost: one round trip for each lock.
        """
        kept: list[bool] = []

        async def give_back(lease: AsyncLease) -> None:
            kept.append(await lease.release())

        # Each one is given back, whatever became of the one before: else the watchdog would go on renewing it.
        async with AsyncExitStack() as stack:
            for lease in self._leases:
                stack.push_async_callback(give_back, lease)
        return all(kept)

    async def extend(self) -> None:
        """Renew all of them now, for their whole ttl.

        Raises:
            LeaseLost: One is not ours any more.
            Unavailable: The server could not be reached; they run on for `expires_in`.

        Cost: one round trip for each lock.
        """
        for lease in self._leases:
            await lease.extend()

    async def __aenter__(self) -> Self:
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self.release)
            for lease in self._leases:
                await stack.enter_async_context(lease)
            stack.pop_all()  # all could begin: nothing ends here
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _leave_async(self._leases, kind, error, traceback)


class _MultiLockBase(Generic[OneLock]):
    """Which locks they are, in the order in which everybody takes them."""

    def __init__(self, io: IO, locks: list[OneLock]) -> None:
        self._io = io
        self._locks = locks

    @property
    def names(self) -> tuple[str, ...]:
        """The locks' names, in the order in which they are taken."""
        return tuple(lock.name for lock in self._locks)

    async def _take(self, timeout: _units.Seconds | None) -> list[Hold] | None:
        limit = None if timeout is None else _units.seconds(timeout, f"the timeout for {self!r}")
        if limit is None:
            for lock in self._locks:
                lock._refuse_itself()
        return await _several.acquire(self._io, [lock._spec for lock in self._locks], limit)

    def _refused(self) -> LockTimeout:
        text = f"one of the locks {', '.join(map(repr, self.names))} is held; pass a timeout to wait for it"
        return LockTimeout(text, name=", ".join(self.names), waited_s=0.0)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {', '.join(map(repr, self.names))} ttl={self._locks[0].ttl:g}s>"


class MultiLock(ForThreads, _MultiLockBase[Lock]):
    """Several exclusive locks at once, all or none: for threads and processes.

    They are the very locks that `Lock` takes one by one, each with a fence of its own.  Use it as ``with multilock:``,
    or with `acquire` and `try_acquire`.

    Args:
        ttl: How long the leases live without renewal, in seconds: what a crash of the holder costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the leases are lost.
        on_lost: Called with a `LeaseLost` for each lease that is lost.

    Guarantee: that of each lock; multi-locks never wait for each other in a circle, whatever names they have in common.
    Not guaranteed: that nothing is held while waiting: names are waited for in the order of the alphabet, and those
    before are held and renewed meanwhile.  Who holds one lock and asks for a multi-lock must keep that order himself.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        *names: str,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> None:
        chosen = _names(names)
        super().__init__(
            io, [Lock(io, namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost) for name in chosen]
        )

    def acquire(self, *, timeout: _units.Seconds | None = None) -> MultiLease:
        """Block until all locks are ours, and start renewing them.

        Args:
            timeout: Longest time to block, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Raises:
            LockTimeout: Someone else still held one of them after *timeout* seconds; nothing is held.
            LeaseLost: One that was taken first was lost while this call waited for the last; nothing is held.
            OutcomeUnknown: The server stopped answering; owners of ours may hold locks until their ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip if all are free, on one server; else and on a cluster what each lock costs.
        """
        holds = run_sync(self._take(timeout))
        if holds is None:
            raise self._refused()
        return MultiLease([Lease(self._io, hold) for hold in holds])

    def try_acquire(self) -> MultiLease | None:
        """Take all locks if all are free and nobody waits for one; never blocks for them.

        Raises:
            OutcomeUnknown: The server stopped answering; owners of ours may hold locks until their ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip on one server; one for each lock on a cluster.
        """
        holds = run_sync(self._take(0))
        return None if holds is None else MultiLease([Lease(self._io, hold) for hold in holds])

    def __enter__(self) -> MultiLease:
        lease = self.acquire()
        for lock, one in zip(self._locks, (lease.__enter__())._leases, strict=True):
            lock._enter(one)
        return lease

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        _leave(self._locks, kind, error, traceback)


class AsyncMultiLock(ForTasks, _MultiLockBase[AsyncLock]):
    """Several exclusive locks at once, all or none: for tasks and processes.

    They are the very locks that `AsyncLock` takes one by one, each with a fence of its own.  Use it as
    ``async with multilock:``, or with `acquire` and `try_acquire`.

    Args:
        ttl: How long the leases live without renewal, in seconds: what a crash of the holder costs the others.
        max_hold: After how many seconds the watchdog stops renewing, and the leases are lost.
        on_lost: Called with a `LeaseLost` for each lease that is lost.

    Guarantee: that of each lock; multi-locks never wait for each other in a circle, whatever names they have in common.
    Not guaranteed: that nothing is held while waiting: names are waited for in the order of the alphabet, and those
    before are held and renewed meanwhile.  Who holds one lock and asks for a multi-lock must keep that order himself.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        *names: str,
        ttl: _units.Seconds = 10.0,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> None:
        chosen = _names(names)
        super().__init__(
            io, [AsyncLock(io, namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost) for name in chosen]
        )

    async def acquire(self, *, timeout: _units.Seconds | None = None) -> AsyncMultiLease:
        """Wait until all locks are ours, and start renewing them.

        Args:
            timeout: Longest time to wait, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Raises:
            LockTimeout: Someone else still held one of them after *timeout* seconds; nothing is held.
            LeaseLost: One that was taken first was lost while this call waited for the last; nothing is held.
            OutcomeUnknown: The server stopped answering; owners of ours may hold locks until their ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip if all are free, on one server; else and on a cluster what each lock costs.
        """
        holds = await self._take(timeout)
        if holds is None:
            raise self._refused()
        return AsyncMultiLease([AsyncLease(self._io, hold) for hold in holds])

    async def try_acquire(self) -> AsyncMultiLease | None:
        """Take all locks if all are free and nobody waits for one; never waits for them.

        Raises:
            OutcomeUnknown: The server stopped answering; owners of ours may hold locks until their ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip on one server; one for each lock on a cluster.
        """
        holds = await self._take(0)
        return None if holds is None else AsyncMultiLease([AsyncLease(self._io, hold) for hold in holds])

    async def __aenter__(self) -> AsyncMultiLease:
        lease = await self.acquire()
        for lock, one in zip(self._locks, (await lease.__aenter__())._leases, strict=True):
            lock._enter(one)
        return lease

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _leave_async(self._locks, kind, error, traceback)
