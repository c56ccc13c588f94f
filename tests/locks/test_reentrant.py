"""The same thread or task takes a reentrant lock again: one lease, one fence, freed by the last release."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, LockTimeout
from gridsync.locks import AsyncLock, Lock, Semaphore, _again
from gridsync.testing.proxy import FaultProxy
from tests.locks.ways import renew_now
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync._io.aio import AsyncIO
    from gridsync._io.sync import SyncIO
    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look

pytestmark = pytest.mark.any_server


@pytest.fixture
async def aio(flushed: RedisServer) -> AsyncIterator[AsyncIO]:
    world = World("asyncio", flushed.url)
    yield world.io()
    await world.close()


@pytest.fixture
async def sio(flushed: RedisServer) -> AsyncIterator[SyncIO]:
    world = World("sync", flushed.url)
    yield world.io()
    await world.close()


def job(io: Any, **options: Any) -> AsyncLock:  # noqa: ANN401 - a driver; any option
    return AsyncLock(io, NAMESPACE, "job", reentrant=True, **options)


async def test_a_task_enters_again_and_the_last_release_frees(aio: AsyncIO, look: Look):
    async with job(aio) as outer:
        async with job(aio) as inner:
            assert inner is not outer
            assert (inner.fence, inner.owner) == (outer.fence, outer.owner)
        assert look.owner() == outer.owner, "the inner block's end frees nothing"
        outer.check()
        again = await job(aio).try_acquire()
        assert again is not None
        assert await again.release() is True
        assert await again.release() is True
        assert look.owner() == outer.owner
    assert look.free()
    assert await outer.release() is True


def test_a_thread_enters_again_and_the_last_release_frees(sio: SyncIO, look: Look):
    lock = Lock(sio, NAMESPACE, "job", reentrant=True)
    with lock as outer, lock as inner:
        assert inner.fence == outer.fence
        assert lock.acquire(timeout=0).release()
        assert look.owner() == outer.owner
    assert look.free()


async def test_the_order_of_the_releases_does_not_matter(aio: AsyncIO, look: Look):
    first = await job(aio).acquire()
    second = await job(aio).acquire()
    assert await first.release()
    second.check()
    assert look.owner() == second.owner
    assert await second.release()
    assert look.free()


async def test_entering_again_costs_no_command(flushed: RedisServer):
    world = World("asyncio", flushed.url)
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        async with job(io):
            before = len(proxy.requests())
            async with job(io):
                pass
            assert len(proxy.requests()) == before
        await world.close()


async def test_another_task_waits_and_a_child_task_does_not_inherit(aio: AsyncIO):
    """A child runs beside its parent: if it inherited, both would be inside at once."""
    async with job(aio):
        with pytest.raises(LockTimeout):
            await asyncio.create_task(job(aio).acquire(timeout=0.05))
        context = contextvars.copy_context()
        with pytest.raises(LockTimeout):
            await asyncio.create_task(job(aio).acquire(timeout=0), context=context)


def test_another_thread_waits_though_it_runs_in_a_copy_of_the_context(sio: SyncIO):
    lock = Lock(sio, NAMESPACE, "job", reentrant=True)
    seen: list[object] = []
    with lock:
        context = contextvars.copy_context()
        thread = threading.Thread(target=lambda: seen.append(context.run(lock.try_acquire)))
        thread.start()
        thread.join()
    assert seen == [None]


async def test_tasks_that_use_the_sync_lock_in_one_thread_are_told_apart(sio: SyncIO):
    lock = Lock(sio, NAMESPACE, "job", reentrant=True)

    async def attempt() -> object:
        return lock.try_acquire()

    with lock:
        assert await asyncio.create_task(attempt()) is None


def test_a_handle_that_was_dropped_takes_nothing_from_who_enters_again(sio: SyncIO, look: Look):
    """Nobody keeps what `acquire` returns: the watchdog must not give back what is held by a later handle."""
    lock = Lock(sio, NAMESPACE, "job", reentrant=True)
    lock.acquire()
    gc.collect()
    lease = lock.acquire()
    eventually(renew_now(lease))
    lease.check()
    assert look.owner() == lease.owner
    assert lease.release() is True
    assert look.free()


def test_who_enters_again_for_more_permits_takes_them(sio: SyncIO):
    """Else it would work with three and hold one."""
    one, three = (Semaphore(sio, NAMESPACE, "slots", 5, permits=n, reentrant=True) for n in (1, 3))
    with one as first, three as second, one as third:
        assert one.info().taken == 4
        assert first.fence == third.fence < second.fence
    assert one.info().taken == 0


async def test_a_lock_that_is_not_reentrant_is_not(aio: AsyncIO):
    async with AsyncLock(aio, NAMESPACE, "job"):
        with pytest.raises(LockTimeout):
            await AsyncLock(aio, NAMESPACE, "job").acquire(timeout=0)


async def test_a_cancelled_inner_block_leaves_the_outer_one_its_lease(aio: AsyncIO, look: Look):
    async def inner() -> None:
        async with job(aio):
            await asyncio.sleep(60)

    async with job(aio) as outer:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.05):
                await inner()
        outer.check()
        assert look.owner() == outer.owner
    assert look.free()


async def test_a_loss_ends_inner_and_outer_block(aio: AsyncIO, look: Look):
    reached = []
    with pytest.raises(LeaseLost):  # noqa: PT012 - the blocks are what is tested
        async with job(aio, ttl=3.0):
            async with job(aio, ttl=3.0):
                look.take_away()
                await asyncio.sleep(60)
            reached.append("outer")
    assert not reached
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_lost_lease_is_not_entered_again(aio: AsyncIO, look: Look):
    """Who tries again after a loss must get the lock, with a fence of its own."""
    lost = await job(aio, ttl=3.0).acquire()
    look.take_away()
    await soon(lost.lost.is_set)
    new = await job(aio).acquire(timeout=5)
    assert new.fence > lost.fence
    assert await lost.release() is False
    new.check()
    assert await (await job(aio).acquire(timeout=0)).release()
    assert look.owner() == new.owner
    assert await new.release()
    assert look.free()


async def test_a_handle_that_was_dropped_counts_as_given_back(aio: AsyncIO, look: Look):
    outer = await job(aio).acquire()
    dropped = await job(aio).acquire()
    del dropped
    assert await outer.release()
    assert look.free()


async def test_nothing_is_remembered_of_tasks_that_ended_and_of_leases_that_did(aio: AsyncIO):
    async def cycle() -> None:
        for _ in range(3):
            async with job(aio):
                pass

    before = len(_again._held)
    await asyncio.create_task(cycle())
    for n in range(20):
        async with AsyncLock(aio, NAMESPACE, f"job-{n}", reentrant=True):
            pass
    task = asyncio.current_task()
    assert len(_again._held) <= before + 1
    assert not _again._held[task]
