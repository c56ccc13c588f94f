"""Bugs that limiters of other projects had: each is a claim that this one does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import limit
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow, Limiter

if TYPE_CHECKING:
    import redis

    from gridsync.limits import Rule
    from tests.limits.conftest import PlainIO

START = 60_000_000_000_000
SECOND = 1_000_000


def limiter(io: PlainIO, *rules: str | Rule) -> Limiter:
    return Limiter(io, "t", "orders", *rules)


@pytest.mark.parametrize("per_minute", [100, 59, 6])
def test_who_asks_at_the_rate_of_a_bucket_gets_all_of_it(io: PlainIO, per_minute: int) -> None:
    """A bucket that refills by whole units, and forgets the fraction at each hit, admits two thirds of its rate."""
    bucket = limiter(io, GCRA(per_minute, 60, burst=2))
    io.set_clock(START)
    assert bucket.hit("ada")
    for number in range(200):
        io.set_clock(START + number * 60 * SECOND // per_minute + 1)
        assert bucket.hit("ada")
        assert not bucket.hit("ada"), "and no more"


@pytest.mark.parametrize("rule", ["10/s burst 10", "100/minute burst 100", "1000/h burst 1000", "7/s burst 7"])
def test_after_one_hit_one_less_is_left(io: PlainIO, rule: str) -> None:
    """Seconds as floats, cut to whole units, say two less."""
    io.set_clock(START)
    bucket = limiter(io, rule)
    assert bucket.hit("ada").remaining == bucket.rules[0].limit - 1


@pytest.mark.parametrize(
    "rule", [GCRA(3, 1, burst=2), FixedWindow(2, 0.3), ApproxWindow(2, 0.3), Concurrency(2, 300)], ids=str
)
def test_a_retry_that_is_on_time_is_not_denied(io: PlainIO, rule: Rule) -> None:
    """A time that is rounded down is too early."""
    io.set_clock(START)
    some = limiter(io, rule)
    some.hit("ada", 2)
    retry_after = some.hit("ada").retry_after
    assert retry_after is not None
    io.set_clock(START + round(retry_after * SECOND) - 1)
    assert not some.hit("ada")
    io.set_clock(START + round(retry_after * SECOND))
    assert some.hit("ada")


@pytest.mark.parametrize(
    "rule", [GCRA(10, 60), FixedWindow(10, 60), ApproxWindow(10, 60), Concurrency(10, 60)], ids=str
)
def test_what_is_denied_costs_nothing(io: PlainIO, rule: Rule) -> None:
    """Counting first and looking then denies a hit of 1 because one of 6 was denied; a bucket sinks below its floor."""
    io.set_clock(START)
    some = limiter(io, rule)
    assert some.hit("ada", 5)
    for _ in range(20):
        assert not some.hit("ada", 6)
    assert some.hit("ada", 5)


def test_a_bucket_that_fills_slowly_is_not_forgotten(io: PlainIO, client: redis.Redis) -> None:
    """A fixed time to live of 30 s makes every bucket full after that."""
    io.set_clock(START)
    bucket = limiter(io, GCRA(1, 3600, burst=24))
    bucket.hit("ada", 24)
    assert client.pttl(limit("t", "orders", "ada") + ":bucket") > 24 * 3600 * 1000


@pytest.mark.parametrize("rule", [GCRA(5, 0.001), FixedWindow(5, 0.001), ApproxWindow(5, 0.0015)], ids=str)
def test_a_period_below_a_second_ends(io: PlainIO, client: redis.Redis, rule: Rule) -> None:
    """Whole seconds make a period of 0, and a key that stays for ever."""
    io.set_clock(START)
    some = limiter(io, rule)
    assert some.hit("ada", 5)
    assert not some.hit("ada")
    io.set_clock(START + 3_000)
    assert some.hit("ada", 5)
    assert all(0 < client.pttl(key) <= 6_000 for key in client.keys("*ada*"))


def test_numbers_of_fifteen_digits_are_stored_whole(io: PlainIO, client: redis.Redis) -> None:
    """Lua writes them with fourteen, and loses microseconds."""
    for at in (123_456_789_012_345, 999_999_999_999_999):
        io.set_clock(at)
        bucket, fixed = limiter(io, GCRA(999_983, 1, burst=1)), limiter(io, FixedWindow(10**14, 60))
        bucket.hit("ada")
        fixed.hit("ada", 10**14 - 1)
        assert str(at) in (client.get(limit("t", "orders", "ada") + ":bucket") or "")
        assert fixed.peek("ada").remaining == 1
        for each in (bucket, fixed):
            each.reset("ada")


def test_a_slot_of_a_holder_that_died_comes_back_by_itself(io: PlainIO) -> None:
    """A list of tokens loses one with each crash; a counter that is never lowered closes for ever."""
    slots = limiter(io, Concurrency(3, ttl_s=10))
    for crash in range(20):
        io.set_clock(START + crash * 10 * SECOND)
        assert slots.hit("ada", 3)
        assert not slots.hit("ada")


def test_a_bucket_admits_twice_its_rate_in_the_first_period_unless_its_burst_is_smaller(io: PlainIO) -> None:
    """It is what a bucket is, and documented; a sliding window does not."""

    def admitted(*rules: str | Rule) -> int:
        some, count = Limiter(io, "t", str(rules), *rules), 0
        for step in range(1_000):
            # An hour: the keys expire on the server's own clock.
            io.set_clock(START + step * 3600 * SECOND // 1_000)
            count += bool(some.hit("ada"))
        return count

    assert admitted(GCRA(10, 3600)) == 19
    assert admitted(GCRA(10, 3600, burst=1)) == 10
    assert admitted("10/hour") == 10
