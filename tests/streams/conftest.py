"""Both drivers behind one face, so that every claim is made for sync and asyncio alike."""

# ruff: noqa: ANN401 - test doubles for two kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import AsyncConsumerGroup, AsyncEventStore, AsyncSubscription, EventStore, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    import redis

    from gridsync.testing.servers import RedisServer

NAMESPACE = "test"


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    """Return a grid as the commands of a shell meet its stores."""
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


@pytest.fixture
def raw(flushed: RedisServer) -> Iterator[redis.Redis]:
    """Return a plain client, to look at the keys and to do what gridsync never does."""
    with flushed.client() as client:
        yield client


class Group:
    """A consumer group of either kind; `consume` is awaited for both."""

    def __init__(self, group: Any) -> None:
        self.group = group
        self.stop = group.stop

    async def consume(self, handler: Callable[[Any], object], **options: Any) -> Any:
        if isinstance(self.group, AsyncConsumerGroup):
            return await self.group.consume(handler, **options)
        return await asyncio.to_thread(self.group.consume, handler, **options)


class Subscribed:
    """A subscription of either kind; `next` is awaited for both and returns ``None`` at the end."""

    def __init__(self, subscription: Subscription[Any] | AsyncSubscription[Any]) -> None:
        self.subscription = subscription
        self.stop = subscription.stop

    @property
    def checkpoint(self) -> str:
        return self.subscription.checkpoint

    async def next(self) -> Any:
        if isinstance(self.subscription, AsyncSubscription):
            return await anext(self.subscription, None)
        return await asyncio.to_thread(next, self.subscription, None)

    async def take(self, count: int) -> list[Any]:
        return [await self.next() for _ in range(count)]


class Both:
    """Something of either kind whose methods are awaited for both."""

    def __init__(self, inner: Any, *, is_async: bool) -> None:
        self.inner = inner
        self._is_async = is_async

    def __getattr__(self, name: str) -> Callable[..., Any]:
        method = getattr(self.inner, name)

        async def call(*args: Any, **options: Any) -> Any:
            if self._is_async:
                return await method(*args, **options)
            return await asyncio.to_thread(method, *args, **options)

        return call


class Store:
    """An event store of either kind; every call is awaited for both."""

    def __init__(self, store: EventStore[Any] | AsyncEventStore[Any]) -> None:
        self.store = store
        self.is_async = isinstance(store, AsyncEventStore)
        self.keys = store._core.partitions[0].keys

    async def append(self, *args: Any, **options: Any) -> Any:
        if isinstance(self.store, AsyncEventStore):
            return await self.store.append(*args, **options)
        return await asyncio.to_thread(self.store.append, *args, **options)

    async def commit(self, *args: Any, **options: Any) -> Any:
        if isinstance(self.store, AsyncEventStore):
            return await self.store.commit(*args, **options)
        return await asyncio.to_thread(self.store.commit, *args, **options)

    async def read(self, *args: Any, **options: Any) -> list[Any]:
        return await _all(self.store.read(*args, **options))

    async def read_all(self, **options: Any) -> list[Any]:
        return await _all(self.store.read_all(**options))

    def subscribe(self, **options: Any) -> Subscribed:
        return Subscribed(self.store.subscribe(**options))

    async def each(self, stream: str, look: Callable[[Any], object]) -> None:
        events = self.store.read(stream)
        if hasattr(events, "__aiter__"):
            async for event in events:
                look(event)
        else:
            for event in events:
                look(event)

    def projection(self, *args: Any, **options: Any) -> Any:
        return Both(self.store.projection(*args, **options), is_async=self.is_async)

    def aggregate(self, *args: Any, **options: Any) -> Any:
        return Both(self.store.aggregate(*args, **options), is_async=self.is_async)

    def group(self, *args: Any, **options: Any) -> Group:
        return Group(self.store.group(*args, **options))


async def _all(events: Any) -> list[Any]:
    if hasattr(events, "__aiter__"):
        return [event async for event in events]
    return list(events)


class World:
    """One driver: makes stores, and opens further drivers of its kind, as other processes would have."""

    def __init__(self, url: str, *, is_async: bool) -> None:
        self.url = url
        self._endpoint = parse(url, connect_timeout=10.0)
        self.is_async = is_async
        self._open: list[SyncIO | AsyncIO] = []

    def io(self) -> SyncIO | AsyncIO:
        made: SyncIO | AsyncIO
        if self.is_async:
            made = AsyncIO(self._endpoint, inflight_max=1000, timeout=10.0)
        else:
            made = SyncIO(self._endpoint, pool_size=20, timeout=10.0)
        self._open.append(made)
        return made

    def store(self, model: Any, name: str = "orders", io: Any = None, **options: Any) -> Store:
        kind = AsyncEventStore if self.is_async else EventStore
        return Store(kind(io or self.io(), NAMESPACE, name, model, **options))

    async def close(self) -> None:
        for io in self._open:
            if isinstance(io, AsyncIO):
                await io.close()
            else:
                await asyncio.to_thread(io.close)


@pytest.fixture(params=["sync", "asyncio"])
async def world(request: pytest.FixtureRequest, raw: redis.Redis, flushed: RedisServer) -> AsyncIterator[World]:  # noqa: ARG001 - the server was emptied
    made = World(flushed.url, is_async=request.param == "asyncio")
    yield made
    await made.close()


async def until(condition: Callable[[], object], timeout: float = 20.0) -> None:
    """Wait until *condition* holds."""
    async with asyncio.timeout(timeout):
        while not condition():  # noqa: ASYNC110 - the condition is a look at the server or at another thread
            await asyncio.sleep(0.005)
