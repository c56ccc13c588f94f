"""Both kinds of cache behind one face, so that every claim is made for threads and asyncio alike."""

# ruff: noqa: ANN401 - test doubles for two kinds of everything

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    import redis

    from gridsync.cache import Space
    from gridsync.testing.servers import RedisServer

NAMESPACE = "test"
THREADS = ThreadPoolExecutor(64, "caller")
"""As many as there are callers: asyncio's own are few, and a caller that waits keeps one."""


async def in_a_thread(call: Callable[..., Any], *args: Any, **options: Any) -> Any:
    """Return what *call* returns, in a thread."""
    return await asyncio.get_running_loop().run_in_executor(THREADS, partial(call, *args, **options))


@pytest.fixture
def raw(flushed: RedisServer) -> Iterator[redis.Redis]:
    """Return a plain client, to look at the keys and to do what gridsync never does."""
    with flushed.client() as client:
        yield client


class Cached:
    """A cache of either kind; every call is awaited, and those of threads run in one of their own."""

    def __init__(self, cache: Any) -> None:
        self.cache = cache
        self.stats = cache.stats

    def __getattr__(self, name: str) -> Callable[..., Any]:
        call = getattr(self.cache, name)
        if inspect.iscoroutinefunction(call):
            return call  # type: ignore[no-any-return]

        async def in_thread(*args: Any, **options: Any) -> Any:
            return await in_a_thread(call, *args, **options)

        return in_thread

    def function(self, body: Callable[..., Any]) -> Callable[..., Any]:
        """Return *body*, a plain function, as this cache wants its loaders."""
        if type(self.cache).__name__ == "Cache":
            return body

        async def loader(*args: Any, **options: Any) -> Any:
            return await in_a_thread(body, *args, **options)

        return loader


class Opened:
    """A grid of either kind; each one is a process of its own as far as a cache can tell."""

    def __init__(self, grid: Any) -> None:
        self.grid = grid

    def cache(self, space: Space[Any]) -> Cached:
        return Cached(self.grid.cache(space))


OpenGrid = Callable[..., Awaitable[Opened]]


@pytest.fixture(params=["sync", "asyncio"])
async def open_grid(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[OpenGrid]:
    """Return what opens one more grid on the server, or on the *url* given."""
    grids: list[Any] = []

    async def opened(url: str | None = None, **settings: Any) -> Opened:
        kind = Grid if request.param == "sync" else AsyncGrid
        chosen = Settings(redis_url=url or flushed.url, gridsync_namespace=NAMESPACE, gridsync_audit=False, **settings)
        grids.append(kind(settings=chosen))
        if isinstance(grids[-1], AsyncGrid):
            await grids[-1].open()
        return Opened(grids[-1])

    yield opened
    for grid in grids:
        if isinstance(grid, Grid):
            await asyncio.to_thread(grid.close)
        else:
            await grid.close()


@pytest.fixture
async def grid(open_grid: OpenGrid) -> Opened:
    return await open_grid()
