"""Logs whose hits share entries: never too many, late by less than a tick, and small."""

from __future__ import annotations

import random
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

import pytest

from gridsync._io import run_sync
from gridsync._io.keys import limit
from gridsync.errors import UsageError
from gridsync.limits import Limiter
from gridsync.limits._core import COMPACT, STEPS, Windows, brief
from tests.limits.conftest import ask

if TYPE_CHECKING:
    import redis

    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000
RING = 2**52
REMEMBERED = 100
"""So many of the newest hits are known at least, and those of the last eleven ticks if they are fewer."""

Rules = list[tuple[int, int]]


class Hit(NamedTuple):
    """What was admitted, and when."""

    at: int
    cost: int
    token: str


@dataclass
class Truth:
    """Every hit that is counted, and the claims that must hold for each answer; *rules* are limit and window."""

    io: PlainIO
    client: redis.Redis
    rules: Rules
    late: int
    """By how much a hit may leave a window late, at most."""
    key: str = limit("t", "w", "k")
    now: int = START
    hits: list[Hit] = field(default_factory=list)
    waiting: set[str] = field(default_factory=set)
    tokens: int = 0

    def log(self) -> list[tuple[str, float]]:
        """Return every entry."""
        return list(self.client.zrange(self.key, 0, -1, withscores=True))

    def move(self, now: int) -> None:
        """Set the clock."""
        self.now = now
        self.io.set_clock(now)

    def next_token(self) -> str:
        """Name the next call."""
        self.tokens += 1
        return f"abcdefghijkl{self.tokens:x}"

    def used(self, window: int, at: int, late: int = 0) -> int:
        """What was admitted within *window* until *at*, and perhaps *late* before."""
        return sum(hit.cost for hit in self.hits if at - window - late < hit.at)

    def check_admitted(self, rules: Rules, cost: int, at: int) -> None:
        """No window may hold too much."""
        for most, window in rules:
            assert self.used(window, at) + cost <= most

    def check_denied(self, rules: Rules, cost: int, at: int) -> None:
        """It must not have fitted a tick ago either."""
        assert any(self.used(window, at, self.late) + cost > most for most, window in rules)

    def check_left(self, rules: Rules, rule: int, left: int, at: int) -> None:
        """What is said to be left is what is left, or what was left a tick ago."""
        most, window = rules[rule]
        assert max(0, most - self.used(window, at, self.late)) <= left <= max(0, most - self.used(window, at))

    def remembered(self, hit: Hit, tick: int) -> bool:
        """Whether the hit must still be known by name."""
        newer = sum(other.at > hit.at for other in self.hits)
        longest = max(window for _, window in self.rules)
        return newer < REMEMBERED and hit.at > self.now - longest and hit.at > max(h.at for h in self.hits) - 11 * tick


def _steps(rng: random.Random, window: int, hits: int) -> int:
    """How far the clock moves before the next call, if *hits* fit a window."""
    roll = rng.random()
    if roll < 0.6:
        return rng.choice((0, 1, 7, 1_000))
    if roll < 0.96:
        return rng.randrange(4 * window // hits)
    if roll < 0.99:
        return rng.randrange(window // 5)
    return rng.choice((rng.randrange(window), rng.randrange(window, 3 * window), -rng.randrange(window // 3)))


TRACES: dict[str, tuple[Rules, tuple[int, ...], int | None]] = {
    "a hundred": ([(100, HOUR)], (1,), None),
    "any cost": ([(1_000, HOUR)], (1, 1, 1, 5, 24, 25, 100, 1_001), None),
    "two windows": ([(100, HOUR), (400, 10 * HOUR)], (1, 1, 2), None),
    "an exact window and a long one": ([(10, HOUR), (120, 60 * HOUR)], (1, 1, 1, 2), None),
    "three windows in any order": ([(600, 70 * HOUR), (50, HOUR), (150, 8 * HOUR)], (1, 1, 3), None),
    "a longer window that binds alone": ([(500, HOUR), (60, 3 * HOUR)], (1, 1, 2), None),
    "a resolution": ([(100, HOUR), (300, 7 * HOUR)], (1, 2), HOUR // 100),
    "the coarsest resolution": ([(90, HOUR)], (1, 2), HOUR),
    "costs near the largest limit": ([(10**14, HOUR)], (1, 10**10, 10**12, 3 * 10**13), None),
}


@pytest.mark.parametrize(
    ("mixed", "total"), [(False, 0), (True, RING - 200)], ids=["", "reservations, other limits, about to wrap"]
)
@pytest.mark.parametrize("trace", TRACES)
def test_no_window_overflows_and_nothing_is_denied_for_longer_than_a_tick(
    io: PlainIO, client: redis.Redis, trace: str, total: int, *, mixed: bool
) -> None:
    """Whatever is given back, repeated or reserved in between, however the clock steps and the limits change."""
    rules, costs, tick_us = TRACES[trace]
    rng = random.Random(f"{trace} {total} {mixed}")
    windows = Windows(io, "t", "w", rules, tick_us=tick_us)
    ticks = [tick_us or (0 if most <= 36 else window // 36) for most, window in rules]
    truth = Truth(io, client, rules, max(ticks))
    shortest, longest = min(w for _, w in rules), max(w for _, w in rules)
    others = [
        (rules, windows),
        (lower := [(max(1, most * 2 // 3), window) for most, window in rules], Windows(io, "t", "w", lower)),
        (rules, Windows(io, "t", "w", rules, tick_us=0)),
        (rules, Windows(io, "t", "w", rules, tick_us=shortest // 13)),
        (last_rule := [max(rules, key=lambda rule: rule[1])], Windows(io, "t", "w", last_rule)),
    ]
    truth.late = max(truth.late, shortest // 13) + (shortest // 13 + max(ticks) if mixed else 0)
    if total:
        truth.hits.append(first := Hit(START - shortest // 2, 1, truth.next_token()))
        client.zadd(truth.key, {f"{total}": START - 2 * longest, f"{total + 1}+{brief(first.token)}": first.at})
        client.pexpire(truth.key, 10**9)
    admitted = denied = 0
    hits = max(1, min(most for most, window in rules if window == shortest) * len(costs) // sum(costs))
    for _ in range(600):
        truth.move(truth.now + _steps(rng, shortest, hits))
        using, asked = rng.choice(others) if mixed else others[0]
        cost, before, roll = rng.choice(costs), truth.log(), rng.random()
        last = int(before[-1][1]) if before else 0
        at = max(truth.now, last + 1)
        if roll < 0.06 and truth.hits:
            _give_back(truth, asked, rng.choice(truth.hits[-130:]), 0 if mixed else min(ticks))
            continue
        if roll < 0.12 and truth.hits:
            _repeat(truth, asked, rng.choice(truth.hits[-130:]), 0 if mixed else min(ticks))
            continue
        queued = bool(before) and last >= truth.now and ":R" in before[-1][0].replace("+", ":")
        peeked = ask(asked.peek("k", cost))
        token = truth.next_token()
        own, io.token = io.token, lambda token=token: token
        delay = 0
        if mixed and roll < 0.3:
            max_wait = rng.choice((0, shortest // 3, shortest))
            verdict, _, delay = run_sync(asked.reserve("k", cost, max_wait))
            assert peeked.retry_us == (delay or verdict[0])
            at = truth.now + delay if delay else at
        else:
            verdict, _ = run_sync(asked.hit("k", cost))
            assert peeked.retry_us == verdict[0]
        io.token = own
        retry, left, _, rule = verdict[:4]
        if retry == 0:
            admitted += 1
            truth.check_admitted(using, cost, at)
            truth.hits = [hit for hit in truth.hits if hit.at > truth.now - 100 * longest]
            truth.hits.append(Hit(at, cost, token))
            if not delay:
                truth.check_left(using, rule, left, at)
            assert client.pttl(truth.key) * 1_000 >= at - truth.now + longest
        else:
            denied += 1
            assert truth.log() == before, "a peek or a denied call wrote"
            if any(cost > most for most, _ in using):
                assert retry == -1
                continue
            if not queued:
                truth.check_denied(using, cost, at)
                truth.check_left(using, rule, left, at)
            io.set_clock(truth.now + retry - 1)
            assert ask(asked.peek("k", cost)).retry_us == 1
            io.set_clock(truth.now + retry)
            assert ask(asked.peek("k", cost)).retry_us == 0
        if not mixed and tick_us is None:
            assert len(before) <= 128
            assert client.object("encoding", truth.key) == "listpack"
    assert admitted > 50
    assert denied > 20


def _give_back(truth: Truth, windows: Windows, hit: Hit, tick: int) -> None:
    """What is remembered can be given back; what is not stays counted."""
    name = brief(hit.token)
    before = truth.log()
    if run_sync(windows.refund("k", name, hit.cost)) or (
        run_sync(windows.refund("k", hit.token[-10:], hit.cost)) and truth.log() != before
    ):
        truth.hits.remove(max(other for other in truth.hits if other.token == hit.token))  # a repeat may have made two
    else:
        assert truth.log() == before
        assert not tick or not truth.remembered(hit, tick)
    if truth.log():
        assert truth.client.pttl(truth.key) > 0


def _repeat(truth: Truth, windows: Windows, hit: Hit, tick: int) -> None:
    """What is remembered counts once; what is not may count again, and then as any other hit."""
    io, before = truth.io, truth.log()
    at = max(truth.now, int(before[-1][1]) + 1) if before else truth.now
    own, io.token, io.repeat_us = io.token, lambda: hit.token, max(1, truth.now - hit.at)
    verdict, _ = run_sync(windows.hit("k", hit.cost))
    io.token, io.repeat_us = own, 0
    if verdict[0]:
        assert not tick or not truth.remembered(hit, tick)
    elif truth.log() != before:
        truth.hits.append(Hit(at, hit.cost, hit.token))
        assert not tick or not truth.remembered(hit, tick)


@pytest.mark.parametrize("most", [100, 1_000, 70_000])
def test_a_key_stays_small_however_fast_it_is_filled(io: PlainIO, client: redis.Redis, most: int) -> None:
    """A limit would cost a server its memory: a hundred bytes for every hit."""
    windows, key = Windows(io, "t", "w", [(most, HOUR)]), limit("t", "w", "203.0.113.7:place_order")
    script, words = client.register_script(windows._hit.source), windows._rule_args
    ask(windows.hit("203.0.113.7:place_order", 1))
    left = most - 1
    while left:
        with client.pipeline(transaction=False) as pipeline:
            batch = min(left, 1_000)
            for number in range(left, left - batch, -1):
                script(keys=[key], args=[brief(f"{number:x}"), "0", "1", *words], client=pipeline)
            assert [reply[0] for reply in pipeline.execute()] == [0] * batch
            left -= batch
        assert client.memory_usage(key) <= COMPACT
    assert ask(windows.hit("203.0.113.7:place_order", 1)).retry_us > 0


@pytest.mark.parametrize("most", [STEPS, 500, 10**14])
@pytest.mark.parametrize("total", [0, RING - 10**14], ids=["fresh", "counters as large as can be"])
def test_a_key_stays_small_when_its_hits_are_spread_in_the_worst_way(
    io: PlainIO, client: redis.Redis, most: int, total: int
) -> None:
    """Each tick keeps an entry, and the newest ones name as many hits as they can."""
    windows, key = Windows(io, "t", "w", [(most, HOUR)]), limit("t", "w", "k")
    if total:
        client.zadd(key, {f"{total}": START - HOUR, f"{total + 1}+{brief('1')}": START - 1})
        client.pexpire(key, 10**9)
    now, cost, largest = START, max(1, most // 1_000), 0
    for step in range(2 * STEPS):
        for _ in range(140 if step % STEPS == STEPS - 1 else 2):
            now += 1
            io.set_clock(now)
            ask(windows.hit("k", cost))
        largest = max(largest, client.zcard(key))
        assert client.memory_usage(key) <= COMPACT
        now += HOUR // STEPS
    assert largest >= STEPS


@pytest.mark.parametrize("windows", [2, 3, 16])
def test_further_windows_cost_as_much_again_at_most(io: PlainIO, client: redis.Redis, windows: int) -> None:
    """All of them stay in a sorted set's compact form."""
    rules = [(100 * 3**n, HOUR * 2**n) for n in range(windows)]
    limiter, key = Windows(io, "t", "w", rules), limit("t", "w", "k")
    now, largest = START, 0
    for _ in range(1_000):
        now += HOUR // 50
        io.set_clock(now)
        ask(limiter.hit("k", 1))
        largest = max(largest, client.memory_usage(key))
        assert client.object("encoding", key) == "listpack"
    assert largest <= 2 * COMPACT


@pytest.mark.parametrize("rules", [[(100, HOUR)], [(5_000, HOUR)], [(100, HOUR), (4_000, 10 * HOUR)]], ids=str)
@pytest.mark.parametrize("waits", [False, True], ids=["hits", "reservations"])
def test_a_burst_whose_replies_are_all_lost_counts_once(
    io: PlainIO, client: redis.Redis, rules: Rules, *, waits: bool
) -> None:
    """A hundred calls of one client that loses its connection are all sent again."""
    windows, own = Windows(io, "t", "w", rules), io.token
    io.set_clock(START)
    ask(windows.hit("k", 1))
    tokens = [own() for _ in range(99)]
    for attempt in range(2):
        io.repeat_us = attempt * 3_000_000
        io.set_clock(START + attempt * 3_000_000)
        for token in tokens:
            io.token = lambda token=token: token
            verdict = run_sync(windows.reserve("k", 1, HOUR))[0] if waits else run_sync(windows.hit("k", 1))[0]
            assert verdict[0] == 0
    assert ask(windows.peek("k", 1)).remaining == rules[0][0] - 100
    assert client.zcard(limit("t", "w", "k")) <= 12


def test_a_repeat_that_comes_after_more_than_a_hundred_others_counts_again(io: PlainIO) -> None:
    """Stricter, and never looser."""
    windows, own = Windows(io, "t", "w", [(1_000, HOUR)]), io.token
    io.set_clock(START)
    io.token = lambda: "abcdefghijkl1"
    ask(windows.hit("k", 1))
    io.token = own
    for _ in range(200):
        ask(windows.hit("k", 1))
    assert run_sync(windows.refund("k", brief("abcdefghijkl1"), 1)) is False
    io.token, io.repeat_us = lambda: "abcdefghijkl1", 1_000
    assert ask(windows.hit("k", 1)).remaining == 1_000 - 202
    assert ask(windows.hit("k", 1)).remaining == 1_000 - 202, "found"


@pytest.mark.parametrize("rules", [[(1_000, HOUR)], [(1_000, HOUR), (9_000, 30 * HOUR)]], ids=["one", "two"])
@pytest.mark.parametrize("younger", [10, 11, 12, 13])
def test_the_head_of_a_trimmed_log_is_never_merged(
    io: PlainIO, client: redis.Redis, rules: Rules, younger: int
) -> None:
    """Nobody knows its own cost, so its newer neighbour's would be forgotten with it."""
    windows, key = Windows(io, "t", "w", rules), limit("t", "w", "k")
    longest = rules[-1][1]
    head = START - START % (longest // STEPS)
    now = head + longest
    client.zadd(key, {f"500+{brief('0')}": head})
    client.zadd(key, {f"{510 + 10 * n}+{brief(f'{n}')}": head + 1_000 + n * 1_000 for n in range(younger)})
    client.expire(key, 600)
    io.set_clock(now)
    last = windows if len(rules) == 1 else Windows(io, "t", "w", rules[1:])
    assert ask(last.peek("k", 1)).remaining == rules[-1][0] - 10 * younger
    assert ask(windows.hit("k", 1)).retry_us == 0
    assert ask(last.peek("k", 1)).remaining == rules[-1][0] - 10 * younger - 1
    assert client.zrange(key, 0, 0, withscores=True)[0][1] == head


def test_what_has_left_a_window_is_merged_but_for_the_head(io: PlainIO, client: redis.Redis) -> None:
    """Also when the long window is new, and what the log begins with has not left it."""
    rules = [(20, HOUR), (5_000, 40 * HOUR)]
    windows, key = Windows(io, "t", "w", rules), limit("t", "w", "k")
    start = START - START % HOUR
    client.zadd(key, {f"{510 + n}+{brief(f'{n}')}": start + 1 + n for n in range(12)})
    client.expire(key, 600)
    io.set_clock(start + HOUR + 500)
    assert ask(windows.peek("k", 1)).remaining == 20
    assert ask(windows.hit("k", 1)).retry_us == 0
    log = client.zrange(key, 0, -1, withscores=True)
    assert [at for _, at in log] == [start + 1, start + 12, start + HOUR + 500]
    assert log[0][0].startswith("510")
    assert ask(Windows(io, "t", "w", rules[1:]).peek("k", 1)).remaining == 5_000 - 12


def test_reservations_do_not_pile_up_once_they_are_past(io: PlainIO, client: redis.Redis) -> None:
    """Else whoever always waits for his turn would have a log as long as his limit."""
    windows, key = Windows(io, "t", "w", [(500, HOUR)]), limit("t", "w", "k")
    now = START
    for number in range(1_500):
        now += HOUR // 600
        io.set_clock(now)
        run_sync(windows.reserve("k", 1, HOUR))
        if number % 100 == 99:
            ahead = client.zcount(key, f"({now}", "+inf")
            assert client.zcard(key) <= ahead + STEPS + 1 + 12 + 2
    assert client.zcount(key, f"({now}", "+inf") > 0
    for _ in range(100):
        assert run_sync(windows.reserve("k", 1, HOUR))[0][0] == 0
    now += 2 * HOUR // 3
    io.set_clock(now)
    for _ in range(3):
        run_sync(windows.reserve("k", 1, HOUR))
    assert client.zcard(key) <= client.zcount(key, f"({now}", "+inf") + STEPS + 1 + 12 + 2


def test_short_ids_differ_and_none_is_found_in_a_row_of_others() -> None:
    names = [brief(f"abcdefghijkl{number:x}") for number in range(20_000)]
    for first in range(0, 20_000, 1_000):
        assert len(set(names[first : first + 1_000])) == 1_000
    row = "".join(names[:1_000])
    assert all(len(name) == 5 and row.count(name) == 1 for name in names[:1_000])
    assert all(row.count(name) == 0 for name in names[1_000:2_000])
    assert not any(character in row for character in ":+R"[:2])
    assert not any(name[0].isalnum() for name in names)


def test_a_resolution_says_how_much_a_hit_may_leave_late(io: PlainIO, client: redis.Redis) -> None:
    """Nothing at 0, whatever the limit; above, as many hits share an entry as come within it."""
    for resolution, entries in ((0, 30), (3, 4), (None, 8)):
        io.set_clock(START)
        limiter = Limiter(io, "t", "orders", "100/minute", resolution=resolution)
        limiter.reset("ada")
        for number in range(30):
            io.set_clock(START + number * 400_000)
            assert limiter.hit("ada").remaining == 99 - number
        assert client.zcard(limit("t", "orders", "ada")) == entries
        late = limiter.hit("ada", 71).retry_after
        assert late is not None
        assert 48.4 <= late < 48.4 + (1.5 if resolution is None else resolution) + 0.000001


@pytest.mark.parametrize("resolution", [-1, 1.001, "1", float("nan"), True])
def test_a_resolution_is_a_number_of_seconds_up_to_the_shortest_window(io: PlainIO, resolution: object) -> None:
    with pytest.raises(UsageError, match="resolution of limiter 'orders'"):
        Limiter(io, "t", "orders", "500/minute", "100/second", resolution=resolution)
