"""The scripts against brute force, on a clock that jumps as the test likes."""

from __future__ import annotations

import itertools
import random
from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import limit
from gridsync.limits._core import _HIT, Windows
from tests.limits.conftest import Verdict, ask
from tests.limits.oracle import Oracle, steps

if TYPE_CHECKING:
    import redis

    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000
RING = 2**52

TRACES = {
    "one rule, cost 1": ([(20, HOUR)], (1,)),
    "one rule, any cost": ([(50, HOUR)], (1, 1, 2, 3, 7, 20, 50, 51)),
    "a limit of one": ([(1, HOUR)], (1,)),
    "large limit": ([(1_000, HOUR)], (1, 5, 100)),
    "two rules": ([(5, HOUR), (30, 10 * HOUR)], (1, 1, 2)),
    "three rules in any order": ([(60, 30 * HOUR), (3, HOUR), (20, 8 * HOUR)], (1, 2, 3, 4)),
    "costs near the largest limit": ([(10**14, HOUR)], (1, 10**12, 3 * 10**13)),
}


def _state(client: redis.Redis, key: str) -> list[object]:
    """Every entry, and when the key expires."""
    with client.pipeline(transaction=False) as pipeline:
        return list(pipeline.zrange(key, 0, -1, withscores=True).pexpiretime(key).execute())


@pytest.mark.parametrize("total", [0, RING - 40], ids=["fresh", "about to wrap"])
@pytest.mark.parametrize("trace", TRACES)
def test_every_answer_is_that_of_brute_force(io: PlainIO, client: redis.Redis, trace: str, total: int) -> None:
    """Nothing is admitted too much, nothing denied that fits, and every number is the true one."""
    rules, costs = TRACES[trace]
    rng = random.Random(f"{trace} {total}")
    windows = Windows(io, "t", "w", rules, tick_us=0)
    oracle = Oracle(rules)
    shortest, longest = min(w for _, w in rules), max(w for _, w in rules)
    key = limit("t", "w", "k")
    now = START
    if total:
        oracle.hit(1, now - shortest // 2)
        client.zadd(key, {f"{total}+0000000000": now - 2 * longest, f"{total + 1}+0000000001": now - shortest // 2})
        client.pexpire(key, 10**9)
    for _ in range(360):
        now += steps(rng, shortest)
        io.set_clock(now)
        cost = rng.choice(costs)
        before = _state(client, key)
        peeked = ask(windows.peek("k", cost))
        fits, retry = oracle.fits(cost, now), oracle.retry(cost, now)
        assert peeked.retry_us == retry
        assert peeked.remaining == oracle.remaining(now)[peeked.rule]
        assert peeked.reset_us == oracle.reset(now)[peeked.rule]

        verdict = ask(windows.hit("k", cost))
        assert verdict.retry_us == retry
        assert (verdict.retry_us == 0) == fits
        if fits:
            left = oracle.remaining(now)[verdict.rule] - cost
            assert left == min(oracle.remaining(now)) - cost
            oracle.hit(cost, now)
            assert verdict.remaining == left
        else:
            assert _state(client, key) == before, "a peek or a denied hit wrote"
            assert verdict.remaining == oracle.remaining(now)[verdict.rule]
        assert verdict.reset_us == oracle.reset(now)[verdict.rule]
        if not fits and retry > 0:
            assert rules[verdict.rule][0] - oracle.used(rules[verdict.rule][1], now + retry - 1) < cost
            io.set_clock(now + retry - 1)
            assert ask(windows.peek("k", cost)).retry_us == 1
            io.set_clock(now + retry)
            assert ask(windows.peek("k", cost)).retry_us == 0
        assert client.pttl(key) > 0 or not oracle.admitted


def test_one_rule_gets_the_same_answers_from_both_scripts(io: PlainIO, client: redis.Redis) -> None:
    """`hit_one` is only faster."""
    lean, general = Windows(io, "t", "lean", [(30, HOUR)]), Windows(io, "t", "general", [(30, HOUR)])
    general._hit, general._rule_args = _HIT, (str(HOUR), "0", "0", "30", str(HOUR), "0")
    rng = random.Random(5)
    now = START
    for _ in range(800):
        now += steps(rng, HOUR)
        io.set_clock(now)
        cost = rng.choice((1, 1, 1, 4, 30, 31))
        assert ask(lean.hit("k", cost)) == ask(general.hit("k", cost))
        logs = [client.zrange(limit("t", name, "k"), 0, -1, withscores=True) for name in ("lean", "general")]
        first, second = ([(member[:-10], at) for member, at in log] for log in logs)
        assert first == second


def test_a_log_never_keeps_much_more_than_its_window(io: PlainIO, client: redis.Redis) -> None:
    """Expired entries go a few at a time, faster than new ones come."""
    windows = Windows(io, "t", "w", [(100, HOUR)], tick_us=0)
    for step in range(1_500):
        io.set_clock(START + step * HOUR // 100)
        ask(windows.hit("k", 1))
        assert client.zcard(limit("t", "w", "k")) <= 100 + 5


def test_a_longer_window_starts_from_what_the_log_still_holds(io: PlainIO) -> None:
    """Windows may be changed: a log trimmed under a shorter one locks nobody out."""
    short, long = Windows(io, "t", "w", [(10, HOUR)]), Windows(io, "t", "w", [(50, 100 * HOUR)])
    for step in range(500):
        io.set_clock(START + step * HOUR // 10)
        assert ask(short.hit("k", 1)).retry_us == 0
    verdict = ask(long.hit("k", 1))
    assert verdict.retry_us == 0
    assert 0 < verdict.remaining < 50 - 10


def test_a_lowered_limit_takes_effect_at_once(io: PlainIO) -> None:
    """Limits are arguments, not stored."""
    io.set_clock(START)
    for _ in range(40):
        assert ask(Windows(io, "t", "w", [(40, HOUR)]).hit("k", 1)).retry_us == 0
    assert ask(Windows(io, "t", "w", [(10, HOUR)]).hit("k", 1)) == Verdict(HOUR + 30, 0, HOUR + 39)
    assert ask(Windows(io, "t", "w", [(41, HOUR)], tick_us=0).hit("k", 1)) == Verdict(0, 0, HOUR + 40)


@pytest.mark.parametrize("rules", [[(3, HOUR)], [(3, HOUR), (4, 2 * HOUR)]], ids=["one rule", "two rules"])
def test_a_server_clock_set_back_locks_nobody_out_for_longer_than_a_window(
    io: PlainIO, client: redis.Redis, rules: list[tuple[int, int]]
) -> None:
    """Else a wrong clock, once corrected, would close every key for as long as it was wrong."""
    windows = Windows(io, "t", "w", rules)
    io.set_clock(START + 1_000 * HOUR)
    for _ in range(3):
        assert ask(windows.hit("k", 1)).retry_us == 0
    io.set_clock(START)
    assert ask(windows.peek("k", 1)).retry_us == HOUR
    assert ask(windows.hit("k", 1)).retry_us == HOUR
    assert client.pttl(limit("t", "w", "k")) > 0, "though nothing was admitted since"
    io.set_clock(START + HOUR - 1)
    assert ask(windows.hit("k", 1)).retry_us == 1
    io.set_clock(START + HOUR)
    assert ask(windows.hit("k", 1)).retry_us == 0


@pytest.mark.parametrize("rules", [[(4, HOUR)], [(4, HOUR), (40, 2 * HOUR)]], ids=["one rule", "two rules"])
def test_a_server_clock_set_back_forgets_nothing_of_a_log_that_was_trimmed(
    io: PlainIO, client: redis.Redis, rules: list[tuple[int, int]]
) -> None:
    """Else a clock that is put right admits a whole limit once more."""
    windows = Windows(io, "t", "w", rules)
    for step in range(30):
        io.set_clock(START + step * HOUR // 4)
        assert ask(windows.hit("k", 1)).retry_us == 0
    assert client.zrange(limit("t", "w", "k"), -1, -1)[0].startswith("30+"), "trimmed"
    io.set_clock(START - 100 * HOUR)
    longest = max(window for _, window in rules)
    peeked = ask(windows.peek("k", 1))
    assert peeked.retry_us > 0
    assert ask(windows.hit("k", 1)) == peeked
    io.set_clock(START - 100 * HOUR + longest)
    assert ask(windows.hit("k", 1)).retry_us == 0


@pytest.mark.parametrize("costs", [(1,), (1_000,), (1, 1_000_000), (1,) * 999 + (10**9,), (3, 1, 4, 1, 5)], ids=str)
def test_the_search_for_retry_after_stays_short(io: PlainIO, client: redis.Redis, costs: tuple[int, ...]) -> None:
    """A denial in a log of ten thousand hits looks at a few of them, whatever they cost."""
    total, log = 0, {}
    for index, cost in zip(range(10_000), itertools.cycle(costs), strict=False):
        total += cost
        log[f"{total}:{index:010}"] = START + index
    client.zadd(limit("t", "w", "k"), log)
    client.expire(limit("t", "w", "k"), 600)
    io.set_clock(START + 20_000)
    for rules in ([(total, HOUR)], [(total, HOUR), (10**14, 2 * HOUR)]):
        windows = Windows(io, "t", "w", rules, tick_us=0)
        for cost in (1, 7, total // 3, total):
            client.config_resetstat()
            verdict = ask(windows.hit("k", cost))
            assert client.info("commandstats")["cmdstat_zrevrange"]["calls"] <= 2 * 14 + 2
            fitting = next(at for member, at in log.items() if total - int(member[:-11]) <= total - cost)
            assert verdict.retry_us == fitting + HOUR - START - 20_000
