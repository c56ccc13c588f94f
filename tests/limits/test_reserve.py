"""Who reserves is served in the order of arrival, in one round trip, and no window overflows."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING

import pytest

from gridsync._io import run_sync
from gridsync._io.aio import AsyncIO
from gridsync._io.keys import limit
from gridsync._io.wire.endpoint import parse
from gridsync.errors import RateLimited, UsageError
from gridsync.limits import AsyncLimiter, Limiter
from gridsync.limits._core import Windows
from tests.limits.conftest import ask
from tests.wire.fake import soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    world = World(request.param, flushed.url)
    yield world
    await world.close()


class Queue:
    """All hits in a list, and the earliest moment by brute force; *rules* are limit and window in microseconds."""

    def __init__(self, rules: list[tuple[int, int]]) -> None:
        self.rules = rules
        self.hits: dict[str, tuple[int, int]] = {}
        self.waiting: set[str] = set()

    def _last(self) -> int:
        return max((at for at, _ in self.hits.values()), default=0)

    def queued(self, now: int) -> bool:
        """Whether a reservation is yet to come."""
        return any(hit in self.waiting and at >= now and at == self._last() for hit, (at, _) in self.hits.items())

    def delay(self, cost: int, now: int) -> int:
        """How long until it fits behind everybody else, 0 if now; -1 for never."""
        if any(cost > limit for limit, _ in self.rules):
            return -1
        earliest = max(now, self._last() + 1)
        moments = {earliest, *(at + window for at, _ in self.hits.values() for _, window in self.rules)}
        first = next(at for at in sorted(moments) if at >= earliest and self._fits(cost, at))
        return 0 if first == earliest and not self.queued(now) else first - now

    def _fits(self, cost: int, at: int) -> bool:
        return all(
            sum(spent for then, spent in self.hits.values() if then > at - window) + cost <= limit
            for limit, window in self.rules
        )

    def take(self, hit: str, cost: int, now: int, delay: int) -> None:
        """Admit it after *delay*."""
        self.hits[hit] = (now + delay if delay else max(now, self._last() + 1)), cost
        if delay:
            self.waiting.add(hit)


@pytest.mark.parametrize("rules", [[(6, HOUR)], [(4, HOUR), (12, 5 * HOUR)]], ids=["one rule", "two rules"])
@pytest.mark.parametrize("seed", range(3))
def test_every_moment_is_the_earliest_of_brute_force(
    io: PlainIO, client: redis.Redis, rules: list[tuple[int, int]], seed: int
) -> None:
    """Also after refunds; a hit is denied as long as a reservation is ahead, and told exactly how long that is."""
    rng, queue, windows, key = random.Random(seed), Queue(rules), Windows(io, "t", "w", rules), limit("t", "w", "k")
    now, longest = START, rules[-1][1]
    for _ in range(300):
        now += rng.choice((0, 0, 1, HOUR // 30, HOUR // 10, HOUR // 4, HOUR))
        io.set_clock(now)
        if queue.hits and rng.random() < 0.2:
            hit = rng.choice(list(queue.hits)[-8:])
            assert run_sync(windows.refund("k", hit, queue.hits[hit][1])) == (queue.hits[hit][0] > now - longest)
            del queue.hits[hit]
        cost = rng.choice((1, 1, 2, 4, 5))
        delay = queue.delay(cost, now)
        before = client.zrange(key, 0, -1, withscores=True)
        peeked = ask(windows.peek("k", cost))
        assert peeked.retry_us == delay
        if rng.random() < 0.3:
            verdict, hit = run_sync(windows.hit("k", cost))
            assert verdict[0] == delay == peeked.retry_us
            admitted, waits = delay == 0, 0
            if delay > 0:
                io.set_clock(now + delay - 1)
                assert ask(windows.peek("k", cost)).retry_us == 1
                io.set_clock(now + delay)
                assert ask(windows.peek("k", cost)).retry_us == 0
        else:
            max_wait = rng.choice((0, HOUR // 3, HOUR))
            verdict, hit, waits = run_sync(windows.reserve("k", cost, max_wait))
            admitted = 0 <= delay <= max_wait
            assert verdict[0] == (0 if admitted else delay)
            assert waits == (delay if admitted else 0)
        if admitted:
            queue.take(hit, cost, now, waits)
            assert client.pttl(key) * 1000 >= waits + longest
        else:
            assert client.zrange(key, 0, -1, withscores=True) == before, "a denied call wrote"
        if queue.queued(now):
            assert verdict[1] == 0 or verdict[0] == 0


def test_a_repeated_reservation_keeps_its_place(io: PlainIO, client: redis.Redis) -> None:
    io.set_clock(START)
    windows = Windows(io, "t", "w", [(1, HOUR)])
    ask(windows.hit("k", 1))
    tokens, io.token = io.token, lambda: "aaaaaaaaaaaa7"
    _, _, first = run_sync(windows.reserve("k", 1, 3 * HOUR))
    io.token = tokens
    assert run_sync(windows.reserve("k", 1, 3 * HOUR))[2] == 2 * HOUR
    io.token, io.repeat_us = lambda: "aaaaaaaaaaaa7", 1_000
    io.set_clock(START + 1_000)
    verdict, _, again = run_sync(windows.reserve("k", 1, 3 * HOUR))
    assert (verdict[0], first, again) == (0, HOUR, HOUR - 1_000)
    assert client.zcard(limit("t", "w", "k")) == 3


@pytest.mark.parametrize("rules", [[(1, HOUR // 60)], [(1, HOUR // 60), (90, HOUR)]], ids=["one rule", "two rules"])
def test_a_long_queue_is_no_clock_that_went_wrong(
    io: PlainIO, client: redis.Redis, rules: list[tuple[int, int]]
) -> None:
    """A reservation many windows ahead stays where it is, whoever looks; a log that lies further ahead does not."""
    io.set_clock(START)
    windows = Windows(io, "t", "w", rules)
    waits = [run_sync(windows.reserve("k", 1, HOUR))[2] for _ in range(60)]
    assert waits == [n * HOUR // 60 for n in range(60)]
    log = client.zrange(limit("t", "w", "k"), 0, -1, withscores=True)
    assert ask(windows.hit("k", 1)).retry_us == HOUR
    assert ask(windows.peek("k", 1)).retry_us == HOUR
    assert client.zrange(limit("t", "w", "k"), 0, -1, withscores=True) == log
    io.set_clock(START - 3 * HOUR)
    assert 0 <= ask(windows.hit("k", 1)).retry_us <= HOUR


async def test_waiters_are_served_in_their_order(flushed: RedisServer, client: redis.Redis) -> None:
    """None is overtaken, and each asks once."""
    io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=1000, timeout=5)
    try:
        limiter = AsyncLimiter(io, "t", "orders", "2 per 50 ms")
        served: list[int] = []

        async def work(number: int) -> None:
            await limiter.acquire("ada", timeout=10)
            served.append(number)

        client.config_resetstat()
        await asyncio.wait_for(asyncio.gather(*(work(number) for number in range(12))), 20)
        assert [number // 2 for number in served] == [number // 2 for number in range(12)]
        assert client.info("commandstats")["cmdstat_evalsha"]["calls"] <= 12 + 12, "the first may need the script"
    finally:
        await io.close()


async def test_who_is_cancelled_gives_its_place_back(flushed: RedisServer, client: redis.Redis) -> None:
    io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=1000, timeout=5)
    try:
        limiter = AsyncLimiter(io, "t", "orders", "1/minute")
        await limiter.hit("ada")
        key = limit("t", "orders", "ada")
        waiting = asyncio.create_task(limiter.acquire("ada"))
        await soon(lambda: client.zcard(key) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await soon(lambda: client.zcard(key) == 1)
        early = asyncio.create_task(limiter.acquire("ada"))
        await asyncio.sleep(0)
        early.cancel()
        with pytest.raises(asyncio.CancelledError):
            await early
        assert (await limiter.reserve("ada", max_wait=60)).delay <= 60
        await soon(lambda: client.zcard(key) == 2)
    finally:
        await io.close()


async def test_who_cannot_be_served_in_time_learns_it_at_once(world: World) -> None:
    limiter = world.limiter(world.io(), "1/minute")
    assert (await world.do(limiter.acquire, "ada")).delay == 0
    with pytest.raises(RateLimited) as caught:
        await world.do(limiter.acquire, "ada", timeout=1)
    assert 1 < (caught.value.retry_after or 0) <= 60
    assert not await world.do(limiter.reserve, "ada", max_wait=0)
    booked = await world.do(limiter.reserve, "ada", max_wait=60)
    assert booked
    assert 1 < booked.delay <= 60
    assert (booked.remaining, booked.retry_after) == (0, 0.0)
    denied = await world.do(limiter.hit, "ada")
    assert not denied
    assert 60 < (denied.retry_after or 0) <= 120
    assert await world.do(limiter.refund, booked.ticket) is True
    assert (await world.do(limiter.reserve, "ada", max_wait=60)).delay <= 60
    with pytest.raises(RateLimited, match="never fits"):
        await world.do(limiter.acquire, "ada", 2)


async def test_a_wait_is_slept_through(world: World) -> None:
    limiter = world.limiter(world.io(), "1 per 20 ms")
    waited = [(await world.do(limiter.acquire, "ada", timeout=5)).delay for _ in range(5)]
    assert all(0 <= delay <= 0.02 for delay in waited)
    assert await world.do(limiter.acquire, "ada")


@pytest.mark.parametrize("wait", [-1, 3601, "1", None, float("nan")])
def test_a_wait_is_a_number_of_seconds_up_to_an_hour(io: PlainIO, wait: object) -> None:
    limiter = Limiter(io, "t", "orders", "5/s")
    with pytest.raises(UsageError, match="max_wait of limiter 'orders'"):
        limiter.reserve("ada", max_wait=wait)
    with pytest.raises(UsageError, match="timeout of limiter 'orders'"):
        limiter.acquire("ada", timeout=wait)
    assert io.sent == 0
