"""A thousand who wait, on one connection: all are served, and no script keeps the server busy for long."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from gridsync._io.keys import share as share_keys
from gridsync._io.wire.endpoint import parse
from gridsync.locks import AsyncBarrier, AsyncLatch, AsyncRWLock, AsyncSemaphore
from gridsync.testing.servers import RedisServer
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

WAITERS = 1_000
PARTIES = 500
REPLY_BYTES_MAX = 1_000
"""What one command may be answered with, on average: nobody is told of all the others."""


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    with RedisServer(options={"slowlog-log-slower-than": "5000"}) as running:
        yield running


@pytest.fixture
async def io(flushed: RedisServer, request: pytest.FixtureRequest) -> AsyncIterator[AsyncIO]:
    """A driver of one connection for all; at the end the server's time is told, and its replies are measured."""
    made = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=2 * WAITERS, timeout=60)
    flushed.command("SLOWLOG", "RESET")
    flushed.command("CONFIG", "RESETSTAT")
    yield made
    with flushed.client() as client:
        stats: Any = client.info("stats")
        slow = sorted((entry["duration"] / 1000 for entry in client.slowlog_get(50)), reverse=True)
        print(f"{request.node.name}: slower than 5 ms: {slow or 'nothing'}")  # noqa: T201 - `pytest -rP` shows it
    assert stats["total_net_output_bytes"] / stats["total_commands_processed"] < REPLY_BYTES_MAX
    await made.close()


async def test_a_thousand_wait_for_ten_permits(flushed: RedisServer, io: AsyncIO):
    keys = share_keys(NAMESPACE, "semaphore", "slots")
    slots = AsyncSemaphore(io, NAMESPACE, "slots", 10, ttl=60)
    held = [await slots.acquire() for _ in range(10)]
    inside = fullest = 0

    async def work() -> int:
        nonlocal inside, fullest
        lease = await slots.acquire(timeout=90)
        inside += 1
        fullest = max(fullest, inside)
        await asyncio.sleep(0)
        inside -= 1
        await lease.release()
        return lease.fence

    tasks = [asyncio.create_task(work()) for _ in range(WAITERS)]
    await soon(lambda: flushed.command("ZCARD", keys.queue) == WAITERS, 60)
    for lease in held:
        await lease.release()
    fences = await asyncio.wait_for(asyncio.gather(*tasks), 90)
    assert len(set(fences)) == WAITERS
    assert fullest <= 10
    assert flushed.command("EXISTS", keys.held, keys.queue) == 0


async def test_a_thousand_readers_and_writers_wait_for_a_writer(flushed: RedisServer, io: AsyncIO):
    """Between two writers all the readers come in at once."""
    keys = share_keys(NAMESPACE, "rwlock", "book")
    book = AsyncRWLock(io, NAMESPACE, "book", ttl=60)
    held = await book.write.acquire()
    readers = most = 0
    writing = False

    async def read() -> None:
        nonlocal readers, most
        async with book.read:
            assert not writing
            readers += 1
            most = max(most, readers)
            await asyncio.sleep(0)
            readers -= 1

    async def write() -> None:
        nonlocal writing
        async with book.write:
            assert not writing
            assert not readers
            writing = True
            await asyncio.sleep(0)
            writing = False

    tasks = [asyncio.create_task(write() if n % 100 == 99 else read()) for n in range(WAITERS)]
    await soon(lambda: flushed.command("ZCARD", keys.queue) == WAITERS, 60)
    await held.release()
    await asyncio.wait_for(asyncio.gather(*tasks), 90)
    assert most > 1
    assert flushed.command("EXISTS", keys.held, keys.queue) == 0


async def test_a_barrier_of_five_hundred(io: AsyncIO):
    """Three generations of them, each with every place once."""
    barrier = AsyncBarrier(io, NAMESPACE, "round", PARTIES)
    for generation in range(3):
        passages = await asyncio.wait_for(asyncio.gather(*(barrier.wait(timeout=90) for _ in range(PARTIES))), 90)
        assert sorted(passages) == [(generation, place) for place in range(PARTIES)]
    assert await barrier.waiting() == 0


async def test_a_barrier_of_five_hundred_that_is_broken(flushed: RedisServer, io: AsyncIO):
    barrier = AsyncBarrier(io, NAMESPACE, "round", PARTIES)
    tasks = [asyncio.create_task(barrier.wait(timeout=90)) for _ in range(PARTIES - 1)]
    await soon(lambda: flushed.command("ZCARD", barrier_keys(NAMESPACE, "round").here) == PARTIES - 1, 60)
    assert await barrier.abort("enough") == PARTIES - 1
    ends = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 90)
    assert {type(end).__name__ for end in ends} == {"BarrierBroken"}


async def test_a_latch_with_a_thousand_waiters(flushed: RedisServer, io: AsyncIO):
    latch = AsyncLatch(io, NAMESPACE, "ready", 2)
    tasks = [asyncio.create_task(latch.wait(timeout=90)) for _ in range(WAITERS)]
    await soon(lambda: flushed.command("ZCARD", latch_keys(NAMESPACE, "ready").alive) == WAITERS, 60)
    assert await latch.count_down() == 1
    assert not any(task.done() for task in tasks)
    assert await latch.count_down() == 0
    await asyncio.wait_for(asyncio.gather(*tasks), 90)
