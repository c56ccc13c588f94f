"""Buckets, counters and slots against brute force, on a clock that jumps as the test likes."""

from __future__ import annotations

import random
from fractions import Fraction
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import run_sync
from gridsync._io.keys import limit
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow
from gridsync.limits._algorithms import Bucket, Counters, Slots, algorithm
from tests.limits.conftest import Verdict, ask
from tests.limits.oracle import Clock, Count, Pour, steps

if TYPE_CHECKING:
    import redis

    from gridsync.limits._core import Windows
    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
HOUR_S = 3_600
START = 60_000_000_000_000
REMEMBERED = 16

BUCKETS = {
    "an even interval": (GCRA(10, HOUR_S, burst=5), (1, 1, 2, 5, 6)),
    "no whole interval": (GCRA(7, HOUR_S, burst=20), (1, 1, 3, 20)),
    "no burst": (GCRA(3, HOUR_S, burst=1), (1, 2)),
    "a burst of the rate": (GCRA(60, HOUR_S), (1, 5, 60)),
    "a large bucket": (GCRA(999_999_937, 24 * HOUR_S, burst=10**9), (10**8, 123_456_789, 10**9, 10**9 + 1)),
    "a thin flow": (GCRA(10**14, 0.001, burst=1_000), (1, 999)),
}
WINDOWS = {
    "fixed": (FixedWindow(10, HOUR_S), (1, 1, 3, 10, 11)),
    "fixed, one": (FixedWindow(1, HOUR_S), (1,)),
    "weighted": (ApproxWindow(10, HOUR_S), (1, 1, 3, 10, 11)),
    "weighted, large": (ApproxWindow(100_000, HOUR_S), (1, 1_000, 33_333, 99_999)),
}


def _state(client: redis.Redis, key: str) -> list[object]:
    """What is stored, and when it expires."""
    return [client.get(key), client.pexpiretime(key)]


def _window(rule: GCRA | FixedWindow | ApproxWindow) -> int:
    return max(1_000, rule.quota[1])


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("trace", [*BUCKETS, *WINDOWS])
def test_every_answer_is_that_of_brute_force(io: PlainIO, client: redis.Redis, trace: str, seed: int) -> None:
    """Nothing is admitted too much, nothing denied that fits, and every number is the true one."""
    rng, clock = random.Random(f"{trace} {seed}"), Clock()
    oracle: Pour | Count
    engine: Windows
    if trace in BUCKETS:
        bucket, costs = BUCKETS[trace]
        oracle, window = Pour(Fraction(*bucket.interval), bucket.limit), _window(bucket)
        engine, key = Bucket(io, "t", "w", bucket, timeout=None), limit("t", "w", "k") + ":bucket"
    else:
        rule, costs = WINDOWS[trace]
        weighted = isinstance(rule, ApproxWindow)
        oracle, window = Count(rule.limit, rule.window_us, weighted), _window(rule)
        engine = Counters(io, "t", "w", rule, timeout=None)
        key = limit("t", "w", "k") + (":approx" if weighted else ":fixed")
    now = START
    for _ in range(250):
        now += steps(rng, window)
        cost, at = rng.choice(costs), clock.read(now)
        delay = oracle.delay(cost, at)
        io.set_clock(now)
        before = _state(client, key)
        peeked = ask(engine.peek("k", cost))
        assert peeked == Verdict(delay, _left(oracle, at), oracle.reset(at))
        assert _state(client, key) == before, "a peek wrote"
        verdict, hit = run_sync(engine.hit("k", cost))
        stepped = at > now + clock.ahead
        clock.written(now, admitted=verdict[0] == 0)
        assert verdict[0] == delay
        if delay == 0:
            _take(oracle, hit, cost, at)
        else:
            assert stepped or _state(client, key) == before, "a denied hit wrote"
        assert tuple(verdict[1:3]) == (_left(oracle, at), oracle.reset(at))
        if delay > 0:
            io.set_clock(now + delay - 1)
            assert ask(engine.peek("k", cost)).retry_us == 1
            io.set_clock(now + delay)
            assert ask(engine.peek("k", cost)).retry_us == 0
        assert client.pttl(key) > 0 or not oracle.hits


def _left(oracle: Pour | Count, at: int) -> int:
    return oracle.remaining(at) if isinstance(oracle, Pour) else max(0, oracle.limit - oracle.held(at))


def _take(oracle: Pour | Count, hit: str, cost: int, at: int) -> None:
    if isinstance(oracle, Pour):
        oracle.hits[hit] = at, cost
    else:
        oracle.start = oracle.begun(at)
        oracle.hits[hit] = oracle.start, cost


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trace", ["an even interval", "no whole interval", "no burst"])
def test_reservations_and_refunds_are_those_of_brute_force(
    io: PlainIO, client: redis.Redis, trace: str, seed: int
) -> None:
    """Each has the earliest moment behind all others, and what is given back is as if it had never been."""
    rng, (rule, costs) = random.Random(f"{trace} {seed}"), BUCKETS[trace]
    engine, oracle = Bucket(io, "t", "w", rule, timeout=None), Pour(Fraction(*rule.interval), rule.limit)
    key, now, known = limit("t", "w", "k") + ":bucket", START, list[str]()
    for _ in range(300):
        now += rng.choice((0, 0, 1, HOUR // 30, HOUR // 10, HOUR // 4))
        io.set_clock(now)
        if known and rng.random() < 0.3:
            hit = rng.choice(known)
            given = run_sync(engine.refund("k", hit, oracle.hits[hit][1]))
            assert given == (oracle.reset(now) > 0)
            if given:
                known.remove(hit)
                _, taken = oracle.hits.pop(hit)
                assert run_sync(engine.refund("k", hit, taken)) is False, "given back before"
        cost = rng.choice(costs)
        delay, max_wait = oracle.delay(cost, now), rng.choice((0, HOUR // 3, HOUR))
        verdict, hit, waits = run_sync(engine.reserve("k", cost, max_wait))
        admitted = 0 <= delay <= max_wait
        assert (verdict[0], waits) == ((0, delay) if admitted else (delay, 0))
        if admitted:
            oracle.hits[hit] = now + delay, cost
            known = [*known, hit][-REMEMBERED:]
        assert verdict[1:3] == [oracle.remaining(now), oracle.reset(now)]
        assert client.pttl(key) > 0 or not oracle.hits


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("trace", ["fixed", "weighted"])
def test_what_a_counter_gives_back_was_never_counted(io: PlainIO, trace: str, seed: int) -> None:
    rng, (rule, costs) = random.Random(f"{trace} {seed}"), WINDOWS[trace]
    oracle = Count(rule.limit, rule.window_us, isinstance(rule, ApproxWindow))
    engine, now, known = Counters(io, "t", "w", rule, timeout=None), START, list[str]()
    for _ in range(300):
        now += rng.choice((0, 0, 1, HOUR // 30, HOUR // 10, HOUR // 2))
        io.set_clock(now)
        if known and rng.random() < 0.4:
            hit = rng.choice(known)
            began, taken = oracle.hits[hit]
            counted = began >= oracle.begun(now) - oracle.window * oracle.weighted
            assert run_sync(engine.refund("k", hit, taken)) == counted
            if counted:
                oracle.start = oracle.begun(now)
                known.remove(hit)
                del oracle.hits[hit]
                assert run_sync(engine.refund("k", hit, taken)) is False, "given back before"
        cost = rng.choice(costs)
        delay = oracle.delay(cost, now)
        verdict, hit = run_sync(engine.hit("k", cost))
        assert verdict[0] == delay
        if delay == 0:
            _take(oracle, hit, cost, now)
            known = [*known, hit][-REMEMBERED:]
        assert verdict[1] == _left(oracle, now)


@pytest.mark.parametrize("seed", range(3))
def test_slots_are_taken_until_they_are_given_back_or_their_time_is_over(
    io: PlainIO, client: redis.Redis, seed: int
) -> None:
    rng, most, ttl = random.Random(seed), 6, HOUR
    engine, held = Slots(io, "t", "w", Concurrency(most, HOUR_S), timeout=None), dict[str, tuple[int, int]]()
    key, now = limit("t", "w", "k") + ":slots", START
    for _ in range(400):
        now += rng.choice((0, 0, 1, HOUR // 30, HOUR // 10, HOUR // 4, HOUR - 1))
        io.set_clock(now)
        if held and rng.random() < 0.4:
            hit = rng.choice(list(held))
            until, cost = held.pop(hit)
            assert run_sync(engine.refund("k", hit, cost)) == (until > now)
            assert run_sync(engine.refund("k", hit, cost)) is False
        cost = rng.choice((1, 1, 2, 5, 7))
        living = {hit: each for hit, each in held.items() if each[0] > now}
        taken = sum(cost for _, cost in living.values())
        ends = sorted(until for until, cost in living.values() for _ in range(cost))
        lacking = taken + cost - most
        delay = -1 if cost > most else ends[lacking - 1] - now if lacking > 0 else 0
        before = client.zrange(key, 0, -1, withscores=True)
        reset = max((until - now for until, _ in living.values()), default=0)
        assert ask(engine.peek("k", cost)) == Verdict(delay, most - taken, reset)
        verdict, hit = run_sync(engine.hit("k", cost))
        assert verdict[0] == delay
        if delay == 0:
            held[hit] = now + ttl, cost
            assert verdict[1:3] == [most - taken - cost, ttl]
        else:
            assert client.zrange(key, 0, -1, withscores=True) == before, "a denied hit wrote"
        assert client.zcard(key) <= most
        assert client.pttl(key) > 0 or not held


ENGINES: dict[str, Any] = {
    "bucket": lambda io: Bucket(io, "t", "w", GCRA(10, 60, burst=10), timeout=None),
    "fixed": lambda io: Counters(io, "t", "w", FixedWindow(10, 60), timeout=None),
    "approx": lambda io: Counters(io, "t", "w", ApproxWindow(10, 60), timeout=None),
    "slots": lambda io: Slots(io, "t", "w", Concurrency(10, 60), timeout=None),
}


@pytest.fixture(params=ENGINES)
def engine(request: pytest.FixtureRequest, io: PlainIO) -> Windows:
    io.set_clock(START)
    made: Windows = ENGINES[request.param](io)
    return made


def _again(io: PlainIO, engine: Windows, token: str, repeat_us: int = 0, cost: int = 1) -> Verdict:
    tokens, io.token, io.repeat_us = io.token, lambda: token, repeat_us
    try:
        return ask(engine.hit("k", cost))
    finally:
        io.token, io.repeat_us = tokens, 0


def test_a_repeat_finds_its_first_attempt(io: PlainIO, engine: Windows) -> None:
    """Also behind the hits of others, and when nothing is left meanwhile."""
    assert _again(io, engine, "aaaaaaaaaaaa7", cost=4).remaining == 6
    for left in (5, 4, 3, 2, 1, 0):
        assert ask(engine.hit("k", 1)).remaining == left
    again = _again(io, engine, "aaaaaaaaaaaa7", repeat_us=100, cost=4)
    assert (again.retry_us, again.remaining) == (0, 0)
    assert ask(engine.peek("k", 1)).remaining == 0
    assert ask(engine.peek("k", 1)).retry_us > 0


def test_a_repeat_whose_first_attempt_never_arrived_counts(io: PlainIO, engine: Windows) -> None:
    ask(engine.hit("k", 1))
    assert _again(io, engine, "aaaaaaaaaaaa7", repeat_us=100).remaining == 8
    assert _again(io, engine, "aaaaaaaaaaaa8", repeat_us=100).remaining == 7


def test_a_repeat_is_found_although_the_server_clock_stepped_back(io: PlainIO, engine: Windows) -> None:
    _again(io, engine, "aaaaaaaaaaaa7")
    io.set_clock(START - 30_000_000)
    assert _again(io, engine, "aaaaaaaaaaaa7", repeat_us=1_000).remaining == 9


@pytest.mark.parametrize("kind", ["bucket", "fixed", "approx"])
def test_a_repeat_is_remembered_for_fifteen_more_hits(io: PlainIO, kind: str) -> None:
    """After that it counts twice: too strict, never too loose."""
    io.set_clock(START)
    rule = {"bucket": GCRA(100, 60), "fixed": FixedWindow(100, 60), "approx": ApproxWindow(100, 60)}[kind]
    engine = algorithm(io, "t", "w", [rule], timeout=None)
    _again(io, engine, "aaaaaaaaaaaa7")
    for _ in range(REMEMBERED - 1):
        ask(engine.hit("k", 1))
    assert _again(io, engine, "aaaaaaaaaaaa7", repeat_us=100).remaining == 100 - REMEMBERED
    ask(engine.hit("k", 1))
    assert _again(io, engine, "aaaaaaaaaaaa7", repeat_us=100).remaining == 100 - REMEMBERED - 2


@pytest.mark.parametrize("kind", ["bucket", "fixed", "approx"])
def test_a_server_clock_set_back_locks_nobody_out(io: PlainIO, kind: str) -> None:
    """What was taken comes back as if nothing had happened, counted from the first hit that saw the step."""
    engine = ENGINES[kind](io)
    io.set_clock(START + 1_000 * HOUR)
    ask(engine.hit("k", 10))
    io.set_clock(START)
    denied = ask(engine.hit("k", 5))
    assert 0 < denied.retry_us <= 120_000_000, "two windows"
    io.set_clock(START + denied.retry_us - 1)
    assert ask(engine.hit("k", 5)).retry_us == 1
    io.set_clock(START + denied.retry_us)
    assert ask(engine.hit("k", 5)).retry_us == 0


@pytest.mark.parametrize("kind", ["bucket", "fixed", "approx"])
@pytest.mark.parametrize("value", ["", "7", "not a bucket", "1 2 3 4 5 6 7 8 9", "\x00"])
def test_a_string_of_somebody_else_is_no_state(io: PlainIO, client: redis.Redis, kind: str, value: str) -> None:
    """Read as a number it might admit everything."""
    engine, key = ENGINES[kind](io), limit("t", "w", "k") + ":" + kind
    client.set(key, value, ex=60)
    for question in (engine.hit("k", 1), engine.peek("k", 1), engine.refund("k", "0123456789", 1)):
        with pytest.raises(Exception, match="WRONGTYPE"):
            run_sync(question)
    assert client.get(key) == value


def test_a_bucket_that_gets_another_rate_keeps_what_it_holds(io: PlainIO) -> None:
    """Parts of a microsecond are counted in the rate's own; read as another's, one unit would weigh a day."""
    io.set_clock(START)
    fine = algorithm(io, "t", "w", [GCRA(1_000_000_007, 86_400, 10)], timeout=None)
    coarse = algorithm(io, "t", "w", [GCRA(10, 86_400, 10)], timeout=None)
    assert ask(fine.hit("k", 1)).retry_us == 0
    io.set_clock(START + 1_000)
    assert ask(coarse.peek("k", 1)).remaining == 10
    assert ask(coarse.hit("k", 10)).retry_us == 0
    assert ask(fine.peek("k", 1)).remaining == 0


def test_a_bucket_that_gets_another_rate_fills_up_by_that(io: PlainIO) -> None:
    """Else a limit that is raised would let nobody in for as long as the old one took."""
    io.set_clock(START)
    slow = algorithm(io, "t", "w", [GCRA(10, 86_400, 10)], timeout=None)
    quick = algorithm(io, "t", "w", [GCRA(1_000, 1, 100)], timeout=None)
    assert ask(slow.hit("k", 10)).retry_us == 0
    assert ask(quick.peek("k", 1)) == Verdict(1_000, 0, 100_000)
    io.set_clock(START + 100_000)
    assert ask(quick.hit("k", 100)).retry_us == 0


def test_a_refund_after_a_change_of_the_rate_makes_no_bucket_emptier(io: PlainIO) -> None:
    """What it gave before is not weighed by the new rate: a million units a second would be years at one a minute."""
    io.set_clock(START)
    quick = algorithm(io, "t", "w", [GCRA(1_000_000, 1, 1_000_000)], timeout=None)
    slow = algorithm(io, "t", "w", [GCRA(1, 60, 10)], timeout=None)
    run_sync(quick.hit("k", 900_000))
    _, hit = run_sync(slow.hit("k", 1))
    assert run_sync(slow.refund("k", hit, 1))
    io.set_clock(START + 60_000_000)
    assert ask(slow.hit("k", 1)).retry_us == 0


def test_thousands_of_keys_all_expire(io: PlainIO, client: redis.Redis) -> None:
    engines = [make(io) for make in ENGINES.values()]
    for number in range(1_000):
        for each in engines:
            ask(each.hit(f"k{number}", 1 + number % 11))
    assert client.dbsize() > 3_500
    with client.pipeline(transaction=False) as pipeline:
        for key in client.scan_iter(count=1_000):
            pipeline.pttl(key)
        assert all(0 < ttl <= 125_001 for ttl in pipeline.execute())
