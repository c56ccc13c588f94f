"""Rules as users write them, and what limiters of each kind say to threads and to tasks."""

from __future__ import annotations

import asyncio
import contextlib
import subprocess
import sys
import threading
import time
from datetime import timedelta
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.keys import limit
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import InvalidLimit, RateLimited, ServerError, UsageError
from gridsync.limits import (
    GCRA,
    ApproxWindow,
    AsyncLimiter,
    Concurrency,
    FixedWindow,
    Limiter,
    Rate,
    SlidingWindow,
    Ticket,
)
from gridsync.limits._rules import read_rule
from tests.wire.fake import soon, until
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from gridsync.limits import Rule
    from gridsync.testing.servers import RedisServer
    from tests.limits.conftest import PlainIO

TEN: dict[str, Rule] = {
    "bucket": GCRA(10, 3600, burst=10),
    "fixed": FixedWindow(10, 3600),
    "approx": ApproxWindow(10, 3600),
    "slots": Concurrency(10, ttl_s=3600),
}
"""Ten units each, none of which comes back while a test runs; by the end of their keys."""


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    world = World(request.param, flushed.url)
    yield world
    await world.close()


# -- as text and as objects -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("100/second", Rate(100, 1)),
        ("10/s burst 20", GCRA(10, 1, burst=20)),
        (" 5_000 per 2 minutes  Burst 1_000 ", GCRA(5_000, 120, burst=1_000)),
        ("1/366 days burst 1", GCRA(1, 31_622_400, burst=1)),
    ],
)
def test_a_rule_can_be_read_and_written_back(text: str, rule: Rule) -> None:
    assert read_rule(text) == rule
    assert read_rule(str(rule)) == rule
    assert read_rule(rule) is rule


@pytest.mark.parametrize(
    "text", ["", "10/s burst", "burst 20", "10/s burst -1", "10/s burst 1.5", "10/s burst 1/s", None]
)
def test_what_cannot_be_read_says_what_can(text: object) -> None:
    with pytest.raises(InvalidLimit, match=r"write '100/second'"):
        read_rule(text)


def test_sliding_windows_are_the_rule_and_have_two_names() -> None:
    assert SlidingWindow(100, per_s=1) == Rate.parse("100/second")


def test_rules_say_what_they_promise() -> None:
    assert [str(rule) for rule in TEN.values()] == [
        "10/hour burst 10",
        "10/hour in fixed windows",
        "about 10/hour",
        "10 at a time",
    ]
    assert GCRA(10, 1).burst == GCRA(10, 1).limit == 10
    assert Concurrency(3, ttl_s=timedelta(minutes=2)).ttl_s == 120.0


@pytest.mark.parametrize("kind", [FixedWindow, ApproxWindow, GCRA])
@pytest.mark.parametrize(("number", "per_s"), [(0, 1), (True, 1), (1.0, 1), (10**15, 1), (1, 0), (1, "1"), (1, 10**9)])
def test_a_rule_that_cannot_be_kept_is_refused(kind: type[FixedWindow], number: object, per_s: object) -> None:
    with pytest.raises(InvalidLimit):
        kind(number, per_s)


@pytest.mark.parametrize("burst", [0, -1, True, 1.5, "2", 10**9 + 1])
def test_a_burst_is_a_positive_whole_number(burst: object) -> None:
    with pytest.raises(InvalidLimit, match="a burst must be"):
        GCRA(10, 1, burst=burst)
    with pytest.raises(InvalidLimit, match="'10/s burst 0' cannot be kept"):
        read_rule("10/s burst 0")


def test_a_bucket_that_never_fills_is_refused() -> None:
    with pytest.raises(InvalidLimit, match="71 years"):
        GCRA(1, 86_400, burst=10**6)


@pytest.mark.parametrize(("number", "ttl"), [(0, 1), (True, 1), (10_001, 1), (1, 0), (1, None), (1, float("inf"))])
def test_slots_are_counted_and_end(number: object, ttl: object) -> None:
    with pytest.raises(InvalidLimit):
        Concurrency(number, ttl)


@pytest.mark.parametrize(
    "rule",
    [
        GCRA(7, 1),
        GCRA(999_999_937, 86_400, burst=10**9),
        GCRA(10**14, 0.001, burst=10**9),
        GCRA(1, 86_400, burst=20_000),
    ],
    ids=str,
)
def test_an_interval_is_exact_or_longer_by_less_than_a_millionth(rule: GCRA) -> None:
    """And what the script multiplies stays within what a double counts exactly."""
    p, q = rule.interval
    exact = Fraction(round(rule.per_s * 1_000_000), rule.rate)
    assert 0 <= Fraction(p, q) - exact < exact / 10**6
    assert max(p * rule.limit, q) <= 2**51
    limit, window = rule.quota
    assert window >= limit * exact


def test_rules_of_several_kinds_share_no_limiter(io: PlainIO) -> None:
    for rules in (("10/s", "10/s burst 20"), (FixedWindow(1, 1), FixedWindow(2, 2)), (GCRA(1, 1), Concurrency(1, 1))):
        with pytest.raises(InvalidLimit, match=r"only sliding windows can share.*grid\.limits\.check"):
            Limiter(io, "t", "orders", *rules)


# -- what they answer -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", TEN)
async def test_every_call_means_the_same_whatever_counts(world: World, client: redis.Redis, kind: str) -> None:
    rule = TEN[kind]
    limiter = world.limiter(world.io(), rule)
    first = await world.do(limiter.hit, "ada", 4)
    assert (first.allowed, first.limit, first.remaining, first.retry_after, first.rule) == (True, 10, 6, 0.0, rule)
    assert (await world.do(limiter.enforce, "ada", 6)).remaining == 0
    denied = await world.do(limiter.hit, "ada")
    assert (denied.allowed, denied.remaining, denied.ticket) == (False, 0, None)
    assert 0 < denied.retry_after <= (3600 if kind != "approx" else 7200)
    assert denied.retry_after <= denied.reset_after <= 7200
    assert (await world.do(limiter.peek, "ada"))[:3] == denied[:3]
    assert (await world.do(limiter.peek, "ada", 11)).retry_after is None
    with pytest.raises(RateLimited, match=f"by its rule {rule}: 1 asked for, 0 left"):
        await world.do(limiter.enforce, "ada")
    assert await world.do(limiter.hit, "bob", 10), "each key has units of its own"
    assert await world.do(limiter.refund, first.ticket) is True
    assert await world.do(limiter.refund, first.ticket) is False
    assert (await world.do(limiter.peek, "ada")).remaining == 4
    key = f"{limit(NAMESPACE, 'calls', 'ada')}:{kind}"
    assert 0 < client.ttl(key) <= 7205
    await world.do(limiter.reset, "ada")
    assert client.exists(key) == 0
    assert (await world.do(limiter.peek, "ada")).remaining == 10
    assert await world.do(limiter.refund, first.ticket) is False, "forgotten"


@pytest.mark.parametrize("kind", TEN)
@pytest.mark.parametrize("subject", ["a:b", "{x}", "50%", "größe"])
def test_a_key_is_one_subject_in_one_slot(io: PlainIO, client: redis.Redis, kind: str, subject: str) -> None:
    Limiter(io, "n{s}", "lim:it%", TEN[kind]).hit(subject)
    assert client.keys() == [f"{limit('n{s}', 'lim:it%', subject)}:{kind}"]


@pytest.mark.parametrize("kind", TEN)
def test_a_key_that_holds_something_else_is_a_server_error(io: PlainIO, client: redis.Redis, kind: str) -> None:
    client.hset(f"{limit('t', 'orders', 'ada')}:{kind}", "a", "b")
    client.expire(f"{limit('t', 'orders', 'ada')}:{kind}", 60)
    limiter = Limiter(io, "t", "orders", TEN[kind])
    for call in (limiter.hit, limiter.peek, lambda _: limiter.refund(Ticket("ada", "0123456789", 1))):
        with pytest.raises(ServerError, match="WRONGTYPE"):
            call("ada")


@pytest.mark.parametrize("kind", TEN)
def test_what_was_never_taken_cannot_be_given_back(io: PlainIO, kind: str) -> None:
    """Nor can more than was taken."""
    limiter = Limiter(io, "t", "orders", TEN[kind])
    ticket = limiter.hit("ada", 5).ticket
    assert ticket is not None
    assert limiter.refund(Ticket("ada", "0123456789", 1)) is False
    assert limiter.refund(Ticket("ada", "", 1)) is False
    if kind != "slots":
        assert limiter.refund(ticket._replace(cost=7)) is False
    assert limiter.peek("ada").remaining == 5


async def test_buckets_make_callers_wait_in_line(world: World) -> None:
    """One round trip, one sleep; who only hits overtakes nobody, and who gives up gives back."""
    limiter = world.limiter(world.io(), GCRA(50, 1, burst=2))
    begun = time.monotonic()
    waited = [(await world.do(limiter.acquire, "feed", timeout=5)).delay for _ in range(5)]
    assert time.monotonic() - begun > 0.059  # three fiftieths of a second, at least: the bucket held two
    assert waited[:2] == [0.0, 0.0]
    assert max(waited) <= 0.02  # it was empty at most
    slow = world.limiter(world.io(), GCRA(1, 60, burst=1))
    await world.do(slow.hit, "slow")
    with pytest.raises(RateLimited) as caught:
        await world.do(slow.acquire, "slow", timeout=1)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 50
    place = await world.do(slow.reserve, "slow", max_wait=120)
    assert place
    assert 50 < place.delay <= 60
    assert not await world.do(slow.hit, "slow")
    assert (await world.do(slow.peek, "slow")).retry_after > 110
    assert await world.do(slow.refund, place.ticket) is True
    assert (await world.do(slow.peek, "slow")).retry_after <= 60


@pytest.mark.parametrize("kind", ["fixed", "approx", "slots"])
async def test_where_nobody_can_wait_in_line_it_is_said(world: World, kind: str) -> None:
    limiter = world.limiter(world.io(), TEN[kind])
    for call, option in ((limiter.reserve, "max_wait"), (limiter.acquire, "timeout")):
        with pytest.raises(UsageError, match="nobody can wait in line for limiter 'calls'"):
            await world.do(call, "ada", **{option: 1})


async def _denied_for(limiter: AsyncLimiter, above: float, most: float) -> bool:
    retry = (await limiter.peek("ada")).retry_after
    return retry is not None and above < retry <= most


async def _free(limiter: AsyncLimiter) -> bool:
    peeked = await limiter.peek("ada")
    return peeked.remaining == peeked.limit


async def test_a_cancelled_acquire_on_a_bucket_gives_its_place_back(flushed: RedisServer) -> None:
    io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=1000, timeout=5)
    try:
        limiter = AsyncLimiter(io, "t", "slow", GCRA(1, 3600, burst=1))
        await limiter.hit("ada")
        waiting = asyncio.create_task(limiter.acquire("ada", timeout=3600))
        await until(lambda: _denied_for(limiter, 3600, 7200))
        waiting.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await waiting
        await until(lambda: _denied_for(limiter, 0, 3600))
    finally:
        await io.close()


async def test_a_block_holds_its_slot_and_gives_it_back(world: World) -> None:
    limiter = world.limiter(world.io(), Concurrency(2, ttl_s=3600))
    assert await _hold(world, limiter) == [1, 0]
    assert (await world.do(limiter.peek, "ada")).remaining == 2
    with pytest.raises(ZeroDivisionError):
        await _hold(world, limiter, 0)
    assert (await world.do(limiter.peek, "ada")).remaining == 2
    full = await world.do(limiter.hit, "ada", 2)
    with pytest.raises(RateLimited):
        await _hold(world, limiter)
    assert await world.do(limiter.refund, full.ticket) is True
    calls = world.limiter(world.io(), "5/s")
    with pytest.raises(UsageError, match="counts beginnings"):
        await _hold(world, calls)


async def _hold(world: World, limiter: Any, divisor: int = 1) -> list[int]:  # noqa: ANN401 - of either kind
    """Hold two slots, one inside the other, and say what was left in each."""
    hold: Any = _hold_async if world.kind == "asyncio" else _hold_sync
    held: list[int] = await world.do(hold, limiter, "ada", divisor)
    return held


def _hold_sync(limiter: Limiter, key: str, divisor: int) -> list[int]:
    with limiter.slot(key) as outer, limiter.slot(key) as inner:
        return [outer.remaining // divisor, inner.remaining]


async def _hold_async(limiter: AsyncLimiter, key: str, divisor: int) -> list[int]:
    async with limiter.slot(key) as outer, limiter.slot(key) as inner:
        return [outer.remaining // divisor, inner.remaining]


async def test_a_cancelled_block_leaves_no_slot_taken(flushed: RedisServer) -> None:
    """Wherever it is interrupted: on its way in, inside, or on its way out."""
    io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=1000, timeout=5)
    limiter = AsyncLimiter(io, "t", "running", Concurrency(100, ttl_s=3600))

    async def hold() -> None:
        async with limiter.slot("ada"):
            await asyncio.sleep(0)

    try:
        await limiter.peek("ada")
        for turns in range(40):
            task = asyncio.create_task(hold())
            for _ in range(turns):
                await asyncio.sleep(0)
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task
        await until(lambda: _free(limiter))
    finally:
        await io.close()


def test_the_slots_of_who_died_are_free_when_their_time_is_over(io: PlainIO) -> None:
    limiter = Limiter(io, "t", "running", Concurrency(1, ttl_s=60))
    io.set_clock(60_000_000_000_000)
    with limiter.slot("ada"):
        io.set_clock(60_000_000_000_000 + 59_999_999)
        assert limiter.peek("ada").retry_after == 0.000001
        io.set_clock(60_000_000_000_000 + 60_000_000)
        assert limiter.hit("ada"), "though the block still runs"
    assert not limiter.peek("ada"), "the block's end takes nobody else's slot away"


@pytest.mark.parametrize("kind", TEN)
def test_eight_threads_never_take_more_than_there_is(flushed: RedisServer, kind: str) -> None:
    driver = SyncIO(parse(flushed.url, connect_timeout=5), pool_size=8, timeout=5)
    admitted: list[bool] = []
    try:
        limiter = Limiter(driver, "t", "orders", TEN[kind])

        def work() -> None:
            admitted.extend(bool(limiter.hit("ada")) for _ in range(50))

        threads = [threading.Thread(target=work) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        driver.close()
    assert sum(admitted) == 10


def test_two_processes_that_hammer_one_key_share_what_there_is(flushed: RedisServer) -> None:
    """Neither more nor less, whatever counts."""
    command = [sys.executable, "-m", "tests.limits.hammer", flushed.url, "150"]
    with contextlib.ExitStack() as stack:
        processes = [
            stack.enter_context(subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True))
            for _ in range(2)
        ]
        assert [process.stdout.readline() for process in processes if process.stdout] == ["ready\n"] * 2
        for process in processes:
            assert process.stdin is not None
            process.stdin.write("go\n")
            process.stdin.flush()
        told = [process.communicate(timeout=60)[0].split() for process in processes]
    assert [int(one) + int(other) for one, other in zip(*told, strict=True)] == [100] * 5


@pytest.mark.parametrize("kind", TEN)
async def test_an_outage_is_answered_as_chosen(world: World, kind: str) -> None:
    """A process that is alone admits no more than the rule would."""
    io = world.io("redis://127.0.0.1:1", timeout=0.5)
    made = AsyncLimiter if world.kind == "asyncio" else Limiter
    local = made(io, NAMESPACE, "calls", TEN[kind], on_error="local", share=0.5)
    answers = [await world.do(local.hit, "ada") for _ in range(7)]
    assert [bool(answer) for answer in answers] == [True] * 5 + [False] * 2
    assert all(answer.degraded and answer.limit == 5 for answer in answers)
    allow = made(io, NAMESPACE, "calls", TEN[kind], on_error="allow")
    assert await world.do(allow.hit, "ada")
    if kind == "slots":
        assert await _hold(world, allow) == [0, 0]


async def test_waiting_as_long_as_told_is_enough(world: World) -> None:
    """One wait, one more hit, and it is admitted: a client that obeys is never denied twice."""
    for rule in (GCRA(10, 1, burst=2), FixedWindow(2, 0.2), ApproxWindow(2, 0.2), Concurrency(2, ttl_s=0.2)):
        limiter = world.limiter(world.io(), rule)
        for _ in range(4):
            while decision := await world.do(limiter.hit, "ada"):
                pass
            assert decision.retry_after
            passed = asyncio.Event()
            asyncio.get_running_loop().call_later(decision.retry_after, passed.set)
            await soon(passed.is_set)
            assert await world.do(limiter.hit, "ada"), rule
        await world.do(limiter.reset, "ada")
