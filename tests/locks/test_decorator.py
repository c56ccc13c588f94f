"""``@lock``: each call of a function is a block."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.errors import LeaseLost, UsageError
from gridsync.locks import current
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look

pytestmark = pytest.mark.any_server


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


@pytest.fixture
async def agrid(flushed: RedisServer) -> AsyncIterator[AsyncGrid]:
    async with AsyncGrid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def test_a_function_runs_inside_the_lock(grid: Grid, look: Look):
    @grid.lock("job")
    def settle(quarter: int, *, dry: bool = False) -> tuple[int, bool, int]:
        """Settle it."""
        assert look.owner() == current().owner
        return quarter, dry, current().fence

    first, second = settle(3), settle(4, dry=True)
    assert (first[:2], second[:2]) == ((3, False), (4, True))
    assert second[2] > first[2]
    assert (settle.__name__, settle.__doc__) == ("settle", "Settle it.")
    assert look.free()


async def test_a_coroutine_function_runs_inside_the_lock(agrid: AsyncGrid, look: Look):
    inside = 0

    @agrid.lock("job")
    async def settle() -> int:
        nonlocal inside
        inside += 1
        assert inside == 1
        await asyncio.sleep(0)
        inside -= 1
        return current().fence

    fences = await asyncio.gather(*(settle() for _ in range(8)))
    assert len(set(fences)) == 8
    assert look.free()


async def test_a_coroutine_function_whose_lease_is_lost_is_cancelled(agrid: AsyncGrid, look: Look):
    @agrid.lock("job", ttl=3.0)
    async def settle() -> None:
        look.take_away()
        await asyncio.sleep(60)

    with pytest.raises(LeaseLost):
        await settle()


def test_current_is_the_innermost_block(grid: Grid):
    with pytest.raises(UsageError, match="outside of every"):
        current()
    with grid.lock("a") as a:
        assert current() is a
        with grid.lock("b") as b:
            assert current() is b
        assert current() is a
    with pytest.raises(UsageError):
        current()


def test_a_recursive_function_needs_a_reentrant_lock(grid: Grid, look: Look):
    @grid.lock("job", reentrant=True)
    def count(n: int) -> int:
        return n and 1 + count(n - 1)

    assert count(5) == 5
    assert look.free()


async def test_what_cannot_be_locked_is_refused(grid: Grid, agrid: AsyncGrid):
    """A sync lock would hold its lock only while the coroutine object is made, and a generator's body runs later."""

    async def coroutine() -> None:
        """Never run."""

    def plain() -> None:
        """Never run."""

    def generator() -> Iterator[int]:
        yield 1

    with pytest.raises(UsageError, match="can only decorate a plain function"):
        grid.lock("job")(coroutine)
    with pytest.raises(UsageError, match="can only decorate a coroutine function"):
        agrid.lock("job")(plain)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="is a generator"):
        grid.lock("job")(generator)
