"""Semaphores and reader-writer locks, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import share as share_keys
from gridsync.errors import LeaseLost, LockTimeout, UsageError
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

SLOTS = share_keys(NAMESPACE, "semaphore", "slots")
BOOK = share_keys(NAMESPACE, "rwlock", "book")


def slots(world: World, limit: int = 3, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("Semaphore", world.io(), "slots", limit, **options)


def book(world: World, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("RWLock", world.io(), "book", **options)


def waiting(server: RedisServer, keys: Any, number: int) -> Any:  # noqa: ANN401
    return soon(lambda: server.command("ZCARD", keys.queue) == number)


async def test_as_many_hold_as_there_are_permits(world: World, flushed: RedisServer):
    held = [await world.do(slots(world).acquire) for _ in range(3)]
    assert await world.do(slots(world).try_acquire) is None
    fourth = world.start(slots(world).acquire, timeout=60)
    await waiting(flushed, SLOTS, 1)
    assert await world.do(held[1].release) is True
    lease = await world.ended(fourth)
    assert len({lease.fence, *(one.fence for one in held)}) == 4
    assert lease.fence == max(lease.fence, *(one.fence for one in held))
    for one in (held[0], held[2], lease):
        one.check()
        assert await world.do(one.release) is True
        assert await world.do(one.release) is True
    assert flushed.command("EXISTS", SLOTS.held, SLOTS.what, SLOTS.queue) == 0


async def test_who_asks_for_many_is_not_overtaken(world: World, flushed: RedisServer):
    small = await world.do(slots(world).acquire)
    many = world.start(slots(world, permits=3).acquire, timeout=60)
    await waiting(flushed, SLOTS, 1)
    assert await world.do(slots(world).try_acquire) is None, "two are free, but somebody came first"
    few = world.start(slots(world).acquire, timeout=60)
    await waiting(flushed, SLOTS, 2)
    await world.do(small.release)
    lease = await world.ended(many)
    assert not few.done()
    await world.do(lease.release)
    await world.do((await world.ended(few)).release)


async def test_permits_are_given_back_by_a_block_and_by_a_function(world: World, flushed: RedisServer):
    every = slots(world, permits=3)
    if world.kind == "sync":

        @every
        def work() -> int:
            return int(flushed.command("ZCARD", SLOTS.held))

        assert await world.do(work) == 1
    else:

        @every
        async def awork() -> int:
            return int(flushed.command("ZCARD", SLOTS.held))

        assert await awork() == 1
    assert await world.do((await world.do(every.acquire, timeout=0)).release) is True


async def test_a_resize_serves_those_who_wait_and_takes_nothing_away(world: World, flushed: RedisServer):
    held = [await world.do(slots(world).acquire) for _ in range(3)]
    queue = [world.start(slots(world).acquire, timeout=60) for _ in range(2)]
    await waiting(flushed, SLOTS, 2)
    await world.do(slots(world).resize, 5)
    held += [await world.ended(task) for task in queue]
    await world.do(slots(world).resize, 1)
    for lease in held:
        lease.check()
        await world.do(lease.extend)
        assert await world.do(slots(world).try_acquire) is None
        await world.do(lease.release)
    last = await world.do(slots(world).try_acquire)
    assert last is not None
    with pytest.raises(UsageError, match="semaphore 'slots' has 1 permits, so 3 of them are never free"):
        await world.do(slots(world, permits=3).acquire)
    await world.do(last.release)


async def test_a_semaphore_in_use_has_one_limit(world: World):
    lease = await world.do(slots(world, 3).acquire)
    with pytest.raises(UsageError, match="has 3 permits, not 4, and is in use: use one number everywhere"):
        await world.do(slots(world, 4).acquire)
    await world.do(lease.release)
    # A program that was changed says another number.
    again = await world.do(slots(world, 4).acquire)
    await world.do(again.release)


async def test_a_dead_holder_costs_its_own_lease_only(world: World, flushed: RedisServer):
    alive = [await world.do(slots(world).acquire) for _ in range(2)]
    flushed.command("ZADD", SLOTS.held, 1, "ghost")
    flushed.command("HSET", SLOTS.what, "ghost", "1 7 1 ")
    flushed.command("HINCRBY", SLOTS.state, "u", 1)
    heir = await world.do(slots(world).try_acquire)
    assert heir is not None
    for lease in (*alive, heir):
        lease.check()
        await world.do(lease.release)


async def test_what_was_taken_away_is_noticed(world: World, flushed: RedisServer):
    lease = await world.do(slots(world).acquire)
    flushed.command("DEL", SLOTS.held, SLOTS.what, SLOTS.state)
    with pytest.raises(LeaseLost):
        await world.do(lease.extend)
    assert await world.do(lease.release) is False


async def test_readers_share_and_a_writer_is_alone(world: World, flushed: RedisServer):
    first, second = [await world.do(book(world).read.acquire) for _ in range(2)]
    assert await world.do(book(world).write.try_acquire) is None
    with pytest.raises(LockTimeout, match="write lock 'book' still held"):
        await world.do(book(world).write.acquire, timeout=0.05)
    await world.do(first.release)
    await world.do(second.release)
    writer = await world.do(book(world).write.acquire)
    assert writer.fence > max(first.fence, second.fence)
    assert await world.do(book(world).read.try_acquire) is None
    await world.do(writer.release)
    assert flushed.command("EXISTS", BOOK.held, BOOK.what, BOOK.queue) == 0


async def test_a_reader_waits_behind_a_waiting_writer(world: World, flushed: RedisServer):
    """Else a stream of readers would keep every writer out."""
    reader = await world.do(book(world).read.acquire)
    writing = world.start(book(world).write.acquire, timeout=60)
    await waiting(flushed, BOOK, 1)
    assert await world.do(book(world).read.try_acquire) is None
    late = [world.start(book(world).read.acquire, timeout=60) for _ in range(2)]
    await waiting(flushed, BOOK, 3)
    await world.do(reader.release)
    writer = await world.ended(writing)
    assert not any(task.done() for task in late)
    await world.do(writer.release)
    for lease in await world.ended(asyncio.gather(*late)):
        await world.do(lease.release)


async def test_a_downgrade_lets_readers_in_and_no_writer(world: World, flushed: RedisServer):
    lock = book(world)
    writer = await world.do(lock.write.acquire)
    reading = world.start(book(world).read.acquire, timeout=60)
    await waiting(flushed, BOOK, 1)
    writing = world.start(book(world).write.acquire, timeout=60)
    await waiting(flushed, BOOK, 2)
    await world.do(lock.downgrade, writer)
    await world.do(lock.downgrade, writer)
    reader = await world.ended(reading)
    writer.check()
    await world.do(writer.extend)
    await world.do(reader.release)
    assert not writing.done()
    await world.do(writer.release)
    await world.do((await world.ended(writing)).release)


async def test_only_the_writer_of_this_lock_can_be_downgraded(world: World, flushed: RedisServer):
    lock = book(world)
    reader = await world.do(lock.read.acquire)
    with pytest.raises(UsageError, match="no lease of the writer"):
        await world.do(lock.downgrade, reader)
    await world.do(reader.release)
    writer = await world.do(lock.write.acquire)
    flushed.command("DEL", BOOK.held, BOOK.what)
    with pytest.raises(LeaseLost):
        await world.do(lock.downgrade, writer)


async def test_an_upgrade_is_refused_instead_of_waiting_for_itself(world: World):
    lock = book(world)
    if world.kind == "sync":

        def climb() -> None:
            with lock.read, pytest.raises(UsageError, match="there is no upgrade"), lock.write:
                pass
            with lock.write:
                pass

        await world.do(climb)
        return
    async with lock.read:
        with pytest.raises(UsageError, match="there is no upgrade"):
            await lock.write.acquire()
        # A task of its own may wait for its turn.
        child = asyncio.create_task(lock.write.acquire(timeout=60))
        assert not child.done()
    await (await world.ended(child)).release()


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3", None])
async def test_what_cannot_be_a_number_of_permits_is_refused(world: World, number: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="the limit of semaphore 'slots' must be a whole number from 1"):
        slots(world, number)
    with pytest.raises(UsageError, match=r"permits that one takes of semaphore 'slots' must be .* from 1 to 3"):
        slots(world, 3, permits=number)
    with pytest.raises(UsageError, match="the limit of semaphore 'slots' must be"):
        await world.do(slots(world).resize, number)
    with pytest.raises(UsageError, match="from 1 to 3"):
        slots(world, 3, permits=4)


def test_they_say_what_they_are():
    from gridsync.locks import RWLock, Semaphore  # noqa: PLC0415 - only here

    io: Any = SimpleNamespace(wake_prefix=lambda tag: tag)
    assert repr(RWLock(io, "n", "book")) == "<RWLock 'book' ttl=10s>"
    assert repr(Semaphore(io, "n", "slots", 3)) == "<Semaphore 'slots' ttl=10s>"
    assert RWLock(io, "n", "book").name == "book"
