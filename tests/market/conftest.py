"""Both kinds of order book behind one face, so that every claim is made for threads and asyncio alike."""

# ruff: noqa: ANN401 - test doubles for two kinds of everything

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import redis

    from gridsync.testing.servers import RedisServer

NAMESPACE = "test"
BASE = "{test:events:orderbook:DE}"
BOOK = f"{BASE}:orderbook:DE"


@pytest.fixture
def raw(flushed: RedisServer) -> Iterator[redis.Redis]:
    """Return a plain client, to look at the keys and to do what gridsync never does."""
    with flushed.client() as client:
        yield client


class Either:
    """An object of either kind; every method is awaited, and those of threads run in one of their own."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.inner, name)
        if not inspect.ismethod(call):
            return call  # type: ignore[no-any-return]

        async def awaited(*args: Any, **options: Any) -> Any:
            if inspect.iscoroutinefunction(call):
                return await call(*args, **options)
            return await asyncio.to_thread(call, *args, **options)

        return awaited

    async def history(self) -> list[Any]:
        """Return the book's events."""
        read = self.inner.events.read(self.inner.stream)
        if hasattr(read, "__aiter__"):
            return [recorded.event async for recorded in read]
        return [recorded.event for recorded in read]


OpenBook = Callable[..., Awaitable[Either]]


@pytest.fixture(params=["sync", "asyncio"])
async def open_grid(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Callable[..., Any]]:
    """Return what opens one more grid on the server, or on the *url* given."""
    grids: list[Any] = []

    async def opened(url: str | None = None) -> Any:
        kind = Grid if request.param == "sync" else AsyncGrid
        chosen = Settings(redis_url=url or flushed.url, gridsync_namespace=NAMESPACE, gridsync_audit=False)
        grids.append(kind(settings=chosen))
        if isinstance(grids[-1], AsyncGrid):
            await grids[-1].open()
        return grids[-1]

    yield opened
    for grid in grids:
        if isinstance(grid, Grid):
            await asyncio.to_thread(grid.close)
        else:
            await grid.close()


@pytest.fixture
async def grid(open_grid: Callable[..., Any]) -> Any:
    return await open_grid()


@pytest.fixture
def open_book(grid: Any) -> Callable[..., Either]:
    """Return what opens the book with options."""

    def opened(**options: Any) -> Either:
        return Either(grid.orderbook("DE", **{"tick": "0.01", "lot": "0.1", **options}))

    return opened


@pytest.fixture
def book(open_book: Callable[..., Either]) -> Either:
    return open_book()
