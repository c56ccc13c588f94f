"""Whatever is waited for or held: a task cancelled at any await leaves nothing, and the next one gets it at once."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from gridsync._io.wire.endpoint import parse
from gridsync.errors import StaleFence
from gridsync.locks import AsyncBarrier, AsyncElection, AsyncFenceGate, AsyncLatch, AsyncRWLock, Stamp
from gridsync.testing.servers import RedisServer
from tests.locks.ways import WAYS, held_key, keys, made, rival
from tests.wire.fake import soon
from tests.wire.test_cancel import STEPS_MAX, run_cancelled
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

READY = latch_keys(NAMESPACE, "ready")
ROUND = barrier_keys(NAMESPACE, "round")
by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One kind is enough: what is tested is the client."""
    with RedisServer() as running:
        yield running


async def at_every_await(
    url: str, scenario: Callable[[AsyncIO], Awaitable[Any]], after: Callable[[], Awaitable[Any]]
) -> None:
    """Run *scenario* to its end, then once for each of its awaits, cancelled there; *after* looks at the server."""
    await run_cancelled(url, scenario, None)
    cuts = 0
    for at in range(1, STEPS_MAX):
        steps, cut = await run_cancelled(url, scenario, at)
        cuts += cut
        await after()
        if steps < at:
            break
    else:
        pytest.fail("it never came to its end")
    assert cuts, "it was never cancelled"


async def free_at_once(server: RedisServer, io: AsyncIO, way: str) -> None:
    """Fail unless nobody holds it, nobody waits, and the next one need not wait."""
    await soon(lambda: server.command("EXISTS", held_key(way), keys(way).queue, keys(way).alive) == 0)
    lease = await made("asyncio", io, rival(way)).acquire(timeout=0)
    assert await lease.release() is True


@by_way
async def test_a_holder(flushed: RedisServer, complaints: list[dict[str, Any]], way: str):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def hold(mine: AsyncIO) -> None:
        lease = await made("asyncio", mine, way, ttl=30).acquire()
        try:
            await lease.extend()
        finally:
            await lease.release()

    await at_every_await(flushed.url, hold, lambda: free_at_once(flushed, io, way))
    await io.close()
    assert not complaints


@by_way
async def test_a_waiter_and_whoever_hands_over(flushed: RedisServer, complaints: list[dict[str, Any]], way: str):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def hand_over(mine: AsyncIO) -> None:
        """The waiter is of another process, so that there is a word to be heard."""
        first = await made("asyncio", mine, way, ttl=30).acquire()
        waiting = asyncio.ensure_future(made("asyncio", io, rival(way), ttl=30).acquire(timeout=10))
        try:
            await soon(lambda: flushed.command("ZCARD", keys(way).queue) == 1)
            await first.release()
            await (await waiting).release()
        finally:
            # A task that was cancelled here must take its helpers along, as a TaskGroup does.
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
            if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
                await asyncio.shield(waiting.result().release())
            await asyncio.shield(first.release())

    await at_every_await(flushed.url, hand_over, lambda: free_at_once(flushed, io, way))
    await io.close()
    assert not complaints


@by_way
async def test_a_waiter_that_is_handed_it_in_that_very_moment(
    flushed: RedisServer, complaints: list[dict[str, Any]], way: str
):
    """Cancelled while it sleeps in the queue, or when its turn has just come: either way it stands in nobody's way."""
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def wait(mine: AsyncIO) -> None:
        first = await made("asyncio", io, way, ttl=30).acquire()

        async def let_go() -> None:
            await soon(lambda: flushed.command("ZCARD", keys(way).queue) == 1)
            await first.release()

        letting = asyncio.ensure_future(let_go())
        try:
            lease = await made("asyncio", mine, rival(way), ttl=30).acquire(timeout=10)
            await lease.release()
        finally:
            letting.cancel()
            await asyncio.gather(letting, return_exceptions=True)
            await asyncio.shield(first.release())

    await at_every_await(flushed.url, wait, lambda: free_at_once(flushed, io, way))
    await io.close()
    assert not complaints


async def test_a_writer_that_becomes_a_reader(flushed: RedisServer, complaints: list[dict[str, Any]]):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def downgrade(mine: AsyncIO) -> None:
        book = AsyncRWLock(mine, NAMESPACE, "job", ttl=30)
        async with book.write as lease:
            await book.downgrade(lease)
            await (await book.read.acquire(timeout=0)).release()

    await at_every_await(flushed.url, downgrade, lambda: free_at_once(flushed, io, "write lock"))
    await io.close()
    assert not complaints


async def test_a_leader(flushed: RedisServer, complaints: list[dict[str, Any]]):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def lead(mine: AsyncIO) -> None:
        async with aclosing(AsyncElection(mine, NAMESPACE, "job", ttl=30).lead()) as terms:
            async for term in terms:
                async with term:
                    term.check()
                break

    await at_every_await(flushed.url, lead, lambda: free_at_once(flushed, io, "election"))
    await io.close()
    assert not complaints


async def test_who_waits_for_a_latch(flushed: RedisServer, complaints: list[dict[str, Any]]):
    """It may stay among those who are told, for as long as a waiter counts as alive; what was counted is counted."""

    async def wait(mine: AsyncIO) -> None:
        latch = AsyncLatch(mine, NAMESPACE, "ready", 2)
        assert await latch.count_down(by="a") <= 1
        counting = asyncio.ensure_future(latch.count_down(by="b"))
        try:
            await latch.wait(timeout=10)
            assert await latch.remaining() == 0
        finally:
            await asyncio.gather(asyncio.shield(counting), return_exceptions=True)

    async def after() -> None:
        assert int(flushed.command("HGET", READY.state, "n") or 2) in (0, 1, 2)
        assert flushed.command("PTTL", READY.alive) <= 20_000
        flushed.command("DEL", *READY)

    await at_every_await(flushed.url, wait, after)
    assert not complaints


async def test_a_party_of_a_barrier_steps_back(flushed: RedisServer, complaints: list[dict[str, Any]]):
    """The other one waits on, passes with the next who comes, and is not broken by what was cancelled."""
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def come(mine: AsyncIO) -> None:
        one, other = AsyncBarrier(mine, NAMESPACE, "round", 2), AsyncBarrier(io, NAMESPACE, "round", 2)
        coming = asyncio.ensure_future(other.wait(timeout=0.2))
        try:
            with suppress(TimeoutError):
                await one.wait(timeout=10)
        finally:
            await asyncio.gather(coming, return_exceptions=True)

    async def after() -> None:
        await soon(lambda: flushed.command("ZCARD", ROUND.here) == 0)
        assert flushed.command("HGET", ROUND.state, "b") is None
        two = AsyncBarrier(io, NAMESPACE, "round", 2)
        first, second = await asyncio.gather(two.wait(timeout=10), two.wait(timeout=10))
        assert (first.generation, {first.place, second.place}) == (second.generation, {0, 1})

    await at_every_await(flushed.url, come, after)
    await io.close()
    assert not complaints


async def test_a_fenced_write_is_there_or_not(flushed: RedisServer, complaints: list[dict[str, Any]]):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=100, timeout=10)

    async def write(mine: AsyncIO) -> None:
        lease = await made("asyncio", mine, "lock", ttl=30).acquire()
        try:
            await AsyncFenceGate(mine, NAMESPACE, "wallet:7").set(lease, "mine", ttl=60)
        finally:
            await lease.release()

    async def after() -> None:
        with suppress(StaleFence):
            await AsyncFenceGate(io, NAMESPACE, "wallet:7").set(Stamp(1, "older"), "older", ttl=60)
        assert flushed.command("GET", "wallet:7") in (b"mine", b"older")
        await free_at_once(flushed, io, "lock")

    await at_every_await(flushed.url, write, after)
    await io.close()
    assert not complaints
