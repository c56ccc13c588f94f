"""What is entered in the wrong way says in which way it is entered."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid, errors
from gridsync.locks import AsyncTerm, Term

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server


def takables(grid: Any) -> Iterable[Any]:  # noqa: ANN401 - a grid of either kind
    """Return everything of *grid* that has blocks."""
    yield grid
    yield grid.lock("job")
    yield grid.multilock("a", "b")
    yield grid.rwlock("book").read
    yield grid.rwlock("book").write
    yield grid.semaphore("slots", 1)


async def test_with_on_what_is_for_asyncio_says_async_with(flushed: RedisServer):
    async with AsyncGrid(flushed.url) as grid:
        leases: list[Any] = [await grid.lock("held").acquire(), await grid.multilock("c", "d").acquire()]
        term = AsyncTerm(grid.election("boss")._campaign, leases[0])
        for each in (*takables(grid), *leases, term):
            with pytest.raises(errors.UsageError, match="write `async with`, not `with`"), each:
                pytest.fail("it was entered")
        for lease in leases:
            lease.check()
            assert await lease.release() is True


async def test_async_with_on_what_is_for_threads_says_with(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        leases: list[Any] = [grid.lock("held").acquire(), grid.multilock("c", "d").acquire()]
        term = Term(grid.election("boss")._campaign, leases[0])
        for each in (*takables(grid), *leases, term):
            with pytest.raises(errors.UsageError, match="write `with`, not `async with`"):
                async with each:
                    pytest.fail("it was entered")
        for lease in leases:
            lease.check()
            assert lease.release() is True
