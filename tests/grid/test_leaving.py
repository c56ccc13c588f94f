"""Grids that are not closed as they should be: dropped, closed in another loop, used after their end."""

from __future__ import annotations

import asyncio
import gc
import threading
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Grid, UsageError
from gridsync.testing.sentinels import SentinelSet
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer


# What a loop leaves open, asyncio itself complains of.
ASYNCIO_COMPLAINS = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore:unclosed")


_earlier: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def _only_ours() -> None:
    """What earlier tests have left is none of ours."""
    _earlier.clear()
    _earlier.update(threading.enumerate())


def threads() -> list[str]:
    """Return the names of the threads that gridsync has started in this test."""
    ours = set(threading.enumerate()) - _earlier
    return sorted(thread.name for thread in ours if thread.name.startswith("gridsync"))


def ended() -> bool:
    """Tell whether they have all ended; the watchdog may have had the grid in its hands when garbage was collected."""
    gc.collect()
    return threads() == []


def busy(grid: Grid) -> None:
    """Start whatever a grid starts: the watchdog for a lease, the hub for a waiter."""
    with grid.lock("job"):
        waiter = threading.Thread(target=lambda: grid.lock("job").acquire().release())
        waiter.start()
        eventually(lambda: grid.stats().ears == 1)
    waiter.join()


def test_a_grid_that_is_dropped_takes_its_threads_and_connections_along(flushed: RedisServer):
    """A program that makes a grid for each job, and forgets to close it, must not run out of threads."""
    busy(grid := Grid(flushed.url))
    assert threads() == ["gridsync-hub", "gridsync-keeper"]
    del grid
    eventually(ended)
    eventually(lambda: flushed.command("INFO", "clients")["connected_clients"] == 1)


def test_behind_sentinels_the_listener_ends_as_well():
    with SentinelSet(replicas=0, sentinels=1) as servers:
        busy(grid := Grid(servers.url))
        assert threads() == ["gridsync-hub", "gridsync-keeper", "gridsync-sentinel"]
        del grid
        eventually(ended)


def test_a_lease_keeps_its_grid(flushed: RedisServer):
    """Who holds a lease need not hold the grid: its watchdog lives until the lease is released."""
    lease = Grid(flushed.url).lock("job", ttl=30.0).acquire()
    gc.collect()
    assert "gridsync-keeper" in threads()
    lease.check()
    assert lease.release()
    del lease
    eventually(ended)


@ASYNCIO_COMPLAINS
def test_an_async_grid_that_is_dropped_takes_its_thread_along(flushed: RedisServer):
    async def use() -> None:
        async with (grid := await AsyncGrid(flushed.url).open()).lock("job"):
            assert "gridsync-keeper" in threads()
        assert grid.alive()

    asyncio.run(use())
    eventually(ended)


def test_closing_in_another_loop_says_so_and_closes_nothing(flushed: RedisServer):
    async def use() -> None:
        async with AsyncGrid(flushed.url) as grid:
            with pytest.raises(UsageError, match="belongs to another event loop"):
                await asyncio.to_thread(lambda: asyncio.run(grid.close()))
            assert grid.alive()
            async with grid.lock("job"):
                pass
        assert not grid.alive()

    asyncio.run(use())


@ASYNCIO_COMPLAINS
def test_closing_after_the_end_of_its_loop_says_so_and_stops_the_threads(flushed: RedisServer):
    grid = AsyncGrid(flushed.url)

    async def use() -> None:
        await grid.open()
        await grid.client.ping()
        async with grid.lock("job"):
            assert "gridsync-keeper" in threads()

    asyncio.run(use())
    with pytest.raises(UsageError, match="the event loop of this AsyncGrid ended before it was closed"):
        asyncio.run(grid.close())
    eventually(lambda: threads() == [])
    asyncio.run(grid.close())
    gc.collect()  # the complaints belong to this test


def test_the_client_of_a_closed_grid_says_so(flushed: RedisServer):
    grid = Grid(flushed.url)
    assert grid.client.ping()
    grid.close()
    with pytest.raises(UsageError, match=r"this grid \(127.0.0.1:\d+\) was closed; make a new one"):
        grid.client.ping()


async def test_the_client_of_a_closed_async_grid_says_so(flushed: RedisServer):
    async with AsyncGrid(flushed.url) as grid:
        assert await grid.client.ping()
    with pytest.raises(UsageError, match="not open"):
        await grid.client.ping()
