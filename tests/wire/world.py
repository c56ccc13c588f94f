"""Both drivers behind one face, so that one test makes its claim for sync and for asyncio."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
import contextlib
import inspect
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from gridsync import AsyncGrid, Grid, locks
from gridsync._io.aio import AsyncIO
from gridsync._io.keys import wake_prefix
from gridsync._io.route.open import open_place
from gridsync._io.sync import SyncIO
from gridsync.limits import AsyncLimiter, AsyncLimits, Limiter, Limits
from gridsync.locks import AsyncLock, Lock
from gridsync.market import EVENTS, AsyncOrderBook, OrderBook
from gridsync.streams import AsyncEventStore, EventStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from gridsync._io.wire.place import Place
    from gridsync.limits import Rule

NAMESPACE = "test"
KINDS = ["sync", "asyncio"]
NOWHERE: Any = SimpleNamespace(wake_prefix=wake_prefix)
"""An io for what never asks a server."""


@contextlib.asynccontextmanager
async def opened(kind: str, url: str) -> AsyncIterator[Any]:
    """Open a grid of either kind."""
    if kind == "sync":
        with Grid(url) as grid:
            yield grid
    else:
        async with AsyncGrid(url) as grid:
            yield grid


async def done(value: Awaitable[Any] | Any) -> Any:
    """Return what a call of either kind returns."""
    return await value if inspect.isawaitable(value) else value


class World:
    """Makes drivers and primitives of one kind; a call of the sync kind runs in a thread."""

    def __init__(self, kind: str, url: str) -> None:
        self.kind = kind
        self.url = url
        self._made: list[SyncIO | AsyncIO] = []
        asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(40))

    def io(self, url: str | None = None, *, timeout: float = 5.0) -> Any:
        """Return a driver of its own, as another process would have."""
        return self.driver(open_place(url or self.url, connect_timeout=5.0), timeout=timeout)

    async def hasty(self, url: str, timeout: float) -> Any:
        """Return a driver that gives up after *timeout*, for calls that are to fail; to connect it took its time."""
        io = self.io(url)
        await self.do(io.connect)
        io._timeout = timeout
        return io

    def driver(self, endpoint: Place, *, timeout: float = 5.0) -> Any:
        """Return a driver of its own to an endpoint."""
        io = (
            SyncIO(endpoint, pool_size=40, timeout=timeout)
            if self.kind == "sync"
            else AsyncIO(endpoint, inflight_max=1000, timeout=timeout)
        )
        self._made.append(io)
        return io

    async def do(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
        """Call a method of either kind."""
        if inspect.iscoroutinefunction(call):
            return await call(*args, **options)
        return await asyncio.to_thread(call, *args, **options)

    def start(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> asyncio.Task[Any]:
        """As `do`, in a task."""
        return asyncio.create_task(self.do(call, *args, **options))

    def lock(self, io: Any, name: str = "job", *, ttl: float = 10.0) -> Any:
        """Return a lock of this kind."""
        return (Lock if self.kind == "sync" else AsyncLock)(io, NAMESPACE, name, ttl=ttl)

    def locks(self, what: str, io: Any, *args: Any, **options: Any) -> Any:
        """Return anything of `gridsync.locks` by the name of its sync kind."""
        return getattr(locks, what if self.kind == "sync" else f"Async{what}")(io, NAMESPACE, *args, **options)

    def limiter(self, io: Any, *limits: str | Rule) -> Any:
        """Return a limiter of this kind."""
        return self.named(io, "calls", *limits)

    def named(self, io: Any, name: str, *limits: str | Rule, **options: Any) -> Any:
        """Return a limiter of another name."""
        return (Limiter if self.kind == "sync" else AsyncLimiter)(io, NAMESPACE, name, *limits, **options)

    def limits(self, io: Any) -> Any:
        """Return what asks several limiters."""
        return (Limits if self.kind == "sync" else AsyncLimits)(io)

    def store(self, io: Any, model: Any, *, name: str = "orders", **options: Any) -> Any:
        """Return an event store of this kind."""
        return (EventStore if self.kind == "sync" else AsyncEventStore)(io, NAMESPACE, name, model, **options)

    def book(self, io: Any, **options: Any) -> Any:
        """Return an order book of this kind."""
        kind = OrderBook if self.kind == "sync" else AsyncOrderBook
        return kind(self.store(io, EVENTS, name="book"), "DE", tick="0.01", **options)

    async def all(self, events: Any) -> list[Any]:
        """Return what an iterator of either kind yields."""
        if hasattr(events, "__aiter__"):
            return [event async for event in events]
        return await asyncio.to_thread(list, events)

    async def ended(self, task: Awaitable[Any], limit_s: float = 20.0) -> Any:
        """Wait for a task with a bound that only a bug can reach."""
        return await asyncio.wait_for(task, limit_s)

    async def close(self) -> None:
        """Close all drivers."""
        for io in self._made:
            await self.do(io.close)
