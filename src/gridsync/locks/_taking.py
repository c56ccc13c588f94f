"""How any kind of lock is taken: `Takable` by threads, `AsyncTakable` by tasks."""

from __future__ import annotations

import functools
from contextlib import AsyncExitStack, ExitStack
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gridsync._io import run_sync
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import LockTimeout
from gridsync.locks import _core
from gridsync.locks._base import LockBase, refuse
from gridsync.locks._lease import AsyncLease, Lease

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType

    from gridsync import _units

P = ParamSpec("P")
R = TypeVar("R")


class Takable(ForThreads, LockBase[Lease]):
    """Anything that a thread takes, holds for a time and gives back."""

    def acquire(self, *, timeout: _units.Seconds | None = None) -> Lease:
        """Block until this lock is ours, and start renewing it.

        Args:
            timeout: Longest time to block, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Returns:
            A lease; its `fence` grows with every holder of this name.

        Raises:
            LockTimeout: Someone else still held it after *timeout* seconds.
            NotDurable: Too few servers confirmed it, where `min_replicas` or `fsync` asks for that; nothing is held.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip when free; else one more to join the queue the first time that this process waits, and one
        every 1 to 15 s, by the place in the queue, to show that it lives.  None if it is reentrant and ours already.
        Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
        """
        return Lease(self._io, _core.held(run_sync(self._take(timeout)), self._spec))

    def try_acquire(self) -> Lease | None:
        """Take this lock if it is free and nobody waits for it; never blocks for it.

        Raises:
            NotDurable: Too few servers confirmed it, where `min_replicas` or `fsync` asks for that; nothing is held.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip.
        """
        hold = run_sync(self._take(0))
        return None if hold is None else Lease(self._io, hold)

    def __call__(self, function: Callable[P, R]) -> Callable[P, R]:
        """Return *function* so that each call runs in a ``with`` block of this lock; `current` has its lease.

        Raises:
            UsageError: It is a coroutine function or a generator.
        """
        refuse(self, function, coroutine=False)

        @functools.wraps(function)
        def locked(*args: P.args, **options: P.kwargs) -> R:
            with self:
                return function(*args, **options)

        return locked

    def exclusive(self, *, timeout: _units.Seconds | None = 0) -> Callable[[Callable[P, R]], Callable[P, R | None]]:
        """Return a decorator: a call runs under this lock, or is skipped and returns ``None`` if another has it.

        Args:
            timeout: How long a call waits for it before it is skipped, in seconds; ``None`` waits for ever.
        """

        def decorate(function: Callable[P, R]) -> Callable[P, R | None]:
            refuse(self, function, coroutine=False)

            @functools.wraps(function)
            def only(*args: P.args, **options: P.kwargs) -> R | None:
                try:
                    lease = self.acquire(timeout=timeout)
                except LockTimeout:
                    return None
                self._enter(lease.__enter__())
                with ExitStack() as stack:
                    stack.push(self)  # its end alone
                    return function(*args, **options)

            return only

        return decorate

    def resume(self, text: str) -> Lease:
        """Go on with a lease that another process wrote down by `Lease.serialize` or `Lease.detach`.

        The server must still count it as its owner's, which a renewal proves.  From then on this process renews it, and
        `max_hold` counts anew.

        Raises:
            UsageError: The text is no lease of this lock.
            LeaseLost: The lease has ended.
            Unavailable: The server could not be reached; nothing is held here.

        Not guaranteed: that nobody else goes on with it too.  The text is the lease: let one process resume it, after
        the other has detached it or ended.
        Cost: one round trip, O(1).
        """
        return Lease(self._io, run_sync(self._go_on(text)))

    def __enter__(self) -> Lease:
        return self._enter(self.acquire().__enter__())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease = self._exit()
        lease.__exit__(kind, error, traceback)


class AsyncTakable(ForTasks, LockBase[AsyncLease]):
    """Anything that a task takes, holds for a time and gives back."""

    async def acquire(self, *, timeout: _units.Seconds | None = None) -> AsyncLease:
        """Wait until this lock is ours, and start renewing it.

        Args:
            timeout: Longest time to wait, in seconds.  ``None`` waits for ever, ``0`` tries once.

        Returns:
            A lease; its `fence` grows with every holder of this name.

        Raises:
            LockTimeout: Someone else still held it after *timeout* seconds.
            NotDurable: Too few servers confirmed it, where `min_replicas` or `fsync` asks for that; nothing is held.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip when free; else one more to join the queue the first time that this process waits, and one
        every 1 to 15 s, by the place in the queue, to show that it lives.  None if it is reentrant and ours already.
        Source: https://redis.io/docs/latest/develop/clients/patterns/distributed-locks/
        """
        return AsyncLease(self._io, _core.held(await self._take(timeout), self._spec))

    async def try_acquire(self) -> AsyncLease | None:
        """Take this lock if it is free and nobody waits for it; never waits for it.

        Raises:
            NotDurable: Too few servers confirmed it, where `min_replicas` or `fsync` asks for that; nothing is held.
            OutcomeUnknown: The server stopped answering; the owner id may hold the lock until its ttl ends.
            Unavailable: The server could not be reached; nothing is held.

        Cost: one round trip.
        """
        hold = await self._take(0)
        return None if hold is None else AsyncLease(self._io, hold)

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R]]:
        """Return *function* so that each call runs in an ``async with`` block of this lock; `current` has its lease.

        Raises:
            UsageError: It is no coroutine function.
        """
        refuse(self, function, coroutine=True)

        @functools.wraps(function)
        async def locked(*args: P.args, **options: P.kwargs) -> R:
            async with self:
                return await function(*args, **options)

        return locked

    def exclusive(
        self, *, timeout: _units.Seconds | None = 0
    ) -> Callable[[Callable[P, Coroutine[Any, Any, R]]], Callable[P, Coroutine[Any, Any, R | None]]]:
        """Return a decorator: a call runs under this lock, or is skipped and returns ``None`` if another has it.

        Args:
            timeout: How long a call waits for it before it is skipped, in seconds; ``None`` waits for ever.
        """

        def decorate(function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R | None]]:
            refuse(self, function, coroutine=True)

            @functools.wraps(function)
            async def only(*args: P.args, **options: P.kwargs) -> R | None:
                try:
                    lease = await self.acquire(timeout=timeout)
                except LockTimeout:
                    return None
                self._enter(await lease.__aenter__())
                async with AsyncExitStack() as stack:
                    stack.push_async_exit(self)  # its end alone
                    return await function(*args, **options)

            return only

        return decorate

    async def resume(self, text: str) -> AsyncLease:
        """Go on with a lease that another process wrote down by `AsyncLease.serialize` or `AsyncLease.detach`.

        The server must still count it as its owner's, which a renewal proves.  From then on this process renews it, and
        `max_hold` counts anew.

        Raises:
            UsageError: The text is no lease of this lock.
            LeaseLost: The lease has ended.
            Unavailable: The server could not be reached; nothing is held here.

        Not guaranteed: that nobody else goes on with it too.  The text is the lease: let one process resume it, after
        the other has detached it or ended.
        Cost: one round trip, O(1).
        """
        return AsyncLease(self._io, await self._go_on(text))

    async def __aenter__(self) -> AsyncLease:
        lease = await self.acquire()
        return self._enter(await lease.__aenter__())

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        lease = self._exit()
        await lease.__aexit__(kind, error, traceback)
