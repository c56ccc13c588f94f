"""Both kinds of channel behind one face, so that every claim is made for threads and asyncio alike."""

# ruff: noqa: ANN401 - test doubles for two kinds of everything

from __future__ import annotations

import asyncio
import contextlib
import inspect
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync._io import keys as key_names
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    import redis

    from gridsync.fanout import Message
    from gridsync.testing.servers import RedisServer

NAMESPACE = "test"
SECRET = "a secret of the tests"
KEYS = key_names.channel(NAMESPACE, "prices")
LONG_S = 60.0
"""How long a test waits for what must come."""
THREADS = ThreadPoolExecutor(64, "client")


async def called(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what a call of either kind returns; one that may block runs in a thread."""
    if inspect.iscoroutinefunction(call):
        return await call(*args, **options)
    return await asyncio.get_running_loop().run_in_executor(THREADS, partial(call, *args, **options))


class Reader:
    """A subscription of either kind."""

    def __init__(self, subscription: Any) -> None:
        self.subscription = subscription

    def __getattr__(self, name: str) -> Any:
        return getattr(self.subscription, name)

    async def next(self, timeout: float = LONG_S) -> Any:
        """Return the next item."""
        return await called(self.subscription.next, timeout)

    async def take(self, count: int) -> list[bytes]:
        """Return the payloads of the next messages, of which none may be missing."""
        return [(await self.message()).data for _ in range(count)]

    async def message(self) -> Message:
        """Return the next message."""
        item = await self.next()
        assert hasattr(item, "data"), f"{item} is no message"
        found: Message = item
        return found

    async def close(self) -> None:
        """Stop reading."""
        await called(self.subscription.close)


class Fan:
    """A channel of either kind."""

    def __init__(self, channel: Any) -> None:
        self.channel = channel

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        return partial(called, getattr(self.channel, name))

    @contextlib.asynccontextmanager
    async def reading(self, **options: Any) -> AsyncIterator[Reader]:
        """Subscribe."""
        subscription = self.channel.subscribe(**options)
        enter = getattr(subscription, "__aenter__", None)
        await called(subscription.__enter__ if enter is None or hasattr(type(subscription), "__iter__") else enter)
        reader = Reader(subscription)
        try:
            yield reader
        finally:
            await reader.close()


OpenGrid = Any


@pytest.fixture
def raw(flushed: RedisServer) -> Iterator[redis.Redis]:
    """Return a plain client, to look at the keys and to do what gridsync never does."""
    with flushed.client() as client:
        yield client


@pytest.fixture(params=["sync", "asyncio"])
async def open_grid(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[OpenGrid]:
    """Return what opens one more grid on the server, or on the *url* given: a process as far as others can tell."""
    grids: list[Any] = []

    async def opened(url: str | None = None, **settings: Any) -> Any:
        kind = Grid if request.param == "sync" else AsyncGrid
        chosen = Settings(redis_url=url or flushed.url, gridsync_namespace=NAMESPACE, gridsync_audit=False, **settings)
        grids.append(kind(settings=chosen))
        if isinstance(grids[-1], AsyncGrid):
            await grids[-1].open()
        return grids[-1]

    yield opened
    for grid in grids:
        await called(grid.close)


@pytest.fixture
async def open_fan(open_grid: OpenGrid) -> Callable[..., Awaitable[Fan]]:
    """Return what opens the channel in one more process."""

    async def opened(name: str = "prices", url: str | None = None, **options: Any) -> Fan:
        return Fan((await open_grid(url)).channel(name, **{"secrets": [SECRET], **options}))

    return opened


@pytest.fixture
async def fan(open_fan: Callable[..., Awaitable[Fan]]) -> Fan:
    return await open_fan()
