"""Who is inside a block of a lock and asks for it again, without a timeout, would wait for itself, for ever.

The watchdog renews what the block holds, so that not even the ttl would end it.  trio's and anyio's locks say so, too.
"""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LockTimeout, UsageError
from gridsync.locks import current
from tests.locks.ways import made
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.any_server
HELD = ["lock", "unfair lock", "write lock"]


async def inside(world: World, outer: Any, then: Callable[[], Any], *, leases: bool = False) -> Any:  # noqa: ANN401
    """Return what *then* returns inside a block of *outer*, or of a lease of it."""
    if world.kind == "asyncio":
        async with await outer.acquire() if leases else outer:
            return await then()

    def block() -> Any:  # noqa: ANN401
        with outer.acquire() if leases else outer:
            return then()

    return await asyncio.to_thread(block)


@pytest.mark.parametrize("leases", [False, True], ids=["with lock", "with lease"])
@pytest.mark.parametrize("way", HELD)
async def test_a_block_that_would_wait_for_itself_is_told(world: World, way: str, *, leases: bool):
    """Also if another object of the same name is asked."""
    io = world.io()
    outer, inner = (made(world.kind, io, way) for _ in range(2))
    with pytest.raises(UsageError, match=r"this block holds .*lock 'job' already and would wait for itself"):
        await inside(world, outer, inner.acquire, leases=leases)
    await world.do((await world.do(inner.acquire)).release)


async def test_several_locks_of_which_the_block_holds_one_are_refused(world: World):
    io = world.io()
    several = world.locks("MultiLock", io, "a", "job")
    with pytest.raises(UsageError, match="this block holds lock 'job' already"):
        await inside(world, made(world.kind, io, "lock"), several.acquire)
    with pytest.raises(UsageError, match="this block holds lock 'a' already"):
        await inside(world, several, several.acquire)
    await world.do((await world.do(several.acquire)).release)


async def test_a_writer_that_asks_to_read_is_told(world: World):
    book = world.locks("RWLock", world.io(), "book")
    with pytest.raises(UsageError, match="this block holds write lock 'book' already"):
        await inside(world, book.write, book.read.acquire)


async def test_a_writer_that_was_downgraded_may_read_again_and_not_write(world: World):
    book = world.locks("RWLock", world.io(), "book")
    if world.kind == "asyncio":
        async with book.write as lease:
            await book.downgrade(lease)
            await (await book.read.acquire()).release()
            with pytest.raises(UsageError, match="would wait for itself"):
                await book.write.acquire()
        return

    def block() -> None:
        with book.write as lease:
            book.downgrade(lease)
            book.read.acquire().release()
            with pytest.raises(UsageError, match="would wait for itself"):
                book.write.acquire()

    await asyncio.to_thread(block)


async def test_a_lock_that_is_reentrant_elsewhere_does_not_enter_what_is_held_by_one_that_is_not(world: World):
    io = world.io()
    once, often = (world.locks("Lock", io, "job", reentrant=reentrant) for reentrant in (False, True))
    with pytest.raises(UsageError, match="already"):
        await inside(world, once, often.acquire)
    lease = await inside(world, often, often.acquire)
    await world.do(lease.release)


async def test_who_waits_for_a_while_or_not_at_all_gets_the_answer_of_everybody_else(world: World):
    io = world.io()
    lock = made(world.kind, io, "lock")
    with pytest.raises(LockTimeout):
        await inside(world, lock, lambda: made(world.kind, io, "lock").acquire(timeout=0.01))
    assert await inside(world, lock, lock.try_acquire) is None


async def test_permits_readers_and_the_lock_of_another_server_or_namespace_are_no_waiting_for_itself(world: World):
    io, other = world.io(), world.io()
    slots, book = world.locks("Semaphore", io, "slots", 2), world.locks("RWLock", io, "book")
    job = made(world.kind, io, "lock")
    for outer, inner in (
        (slots, slots),
        (book.read, book.read),
        (job, made(world.kind, io, "lock", name="other")),
        (job, made(world.kind, io, "lock", namespace=f"{NAMESPACE}-2")),
    ):
        await world.do((await inside(world, outer, inner.acquire)).release)
    # Another grid may be one of another server: it waits, as everybody does.
    with pytest.raises(LockTimeout):
        await inside(world, job, lambda: made(world.kind, other, "lock").acquire(timeout=0.01))


async def test_another_task_or_thread_waits_for_its_turn(world: World):
    """A child inherits the context of the block, and is not in it."""
    lock = made(world.kind, world.io(), "lock")
    if world.kind == "asyncio":
        async with lock:
            child = asyncio.create_task(lock.acquire(timeout=60))
            await asyncio.sleep(0)
        await (await world.ended(child)).release()
        return
    leases: list[Any] = []
    child_thread = threading.Thread(target=lambda: leases.append(lock.acquire(timeout=60)))

    def block() -> None:
        with lock:
            child_thread.start()

    await asyncio.to_thread(block)
    await asyncio.to_thread(child_thread.join)
    await world.do(leases[0].release)


async def test_what_was_released_or_lost_inside_its_block_may_be_taken_again(world: World):
    io = world.io()
    lock = made(world.kind, io, "lock")
    if world.kind == "asyncio":
        async with lock as lease:
            await lease.release()
            async with lock as again:
                assert again.fence > lease.fence
                assert current() is again
        return

    def block() -> None:
        with lock as lease:
            lease.release()
            with lock as again:
                assert again.fence > lease.fence
                assert current() is again

    await asyncio.to_thread(block)


async def test_a_block_of_a_lease_is_a_block_for_current_too(world: World):
    lock = made(world.kind, world.io(), "lock")
    if world.kind == "asyncio":
        async with await lock.acquire() as lease:
            assert current() is lease
    else:

        def block() -> None:
            with lock.acquire() as lease:
                assert current() is lease

        await asyncio.to_thread(block)
    with pytest.raises(UsageError, match="outside of every"):
        current()
