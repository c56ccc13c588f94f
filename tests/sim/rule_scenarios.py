"""Every decision of buckets, counters and slots in bad weather, held against a model that keeps all hits in a list."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil
from typing import TYPE_CHECKING, Protocol

from gridsync._io import load
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow, Limiter
from gridsync.limits._algorithms import algorithm
from gridsync.limits._check import check, parts
from gridsync.testing.sim import Simulation
from tests.sim.limit_scenarios import BAD_DAY, SECOND

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.limits import Rule
    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None

BUCKET = GCRA(10, 1, burst=6)
REMEMBERED = 16
KEPT_US = 5 * SECOND
"""How long a key outlives what it counts."""


@dataclass(frozen=True, slots=True)
class Asked:
    """A hit as the server saw it."""

    at: int
    hit: bytes
    cost: int
    is_repeat: bool
    max_wait: int
    told: list[int]


class Model(Protocol):
    """What a limiter must say, in the plainest way."""

    def answer(self, asked: Asked) -> list[int]:
        """Return retry_us and, if it is admitted later, the delay; take it then."""

    def given_back(self, at: int, hit: bytes, cost: int) -> bool:
        """Forget the hit; true if it was counted."""


@dataclass(slots=True)
class Pail:
    """A bucket: all its hits, and those that it remembers."""

    hits: list[tuple[int, int, bytes]] = field(default_factory=list)
    known: deque[tuple[int, int, bytes]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))
    written: int = 0

    def _full(self) -> Fraction:
        interval, full = Fraction(*BUCKET.interval), Fraction(0)
        for at, cost, _ in self.hits:
            full = max(full, Fraction(at)) + cost * interval
        return full

    def _look(self, now: int) -> None:
        if now > max(self.written, ceil(self._full())) + KEPT_US:
            self.known.clear()

    def answer(self, asked: Asked) -> list[int]:
        """As `Model`."""
        self._look(asked.at)
        if asked.is_repeat and (found := next((each for each in self.known if each[2] == asked.hit), None)):
            late = found[0] - asked.at
            return [0, late] if late > 0 and asked.max_wait else [0]
        wait = self.wait(asked.at, asked.cost)
        if wait < 0 or wait > asked.max_wait:
            return [wait]
        self.take(asked.at, asked.hit, asked.cost, wait)
        return [0, wait] if wait else [0]

    def wait(self, at: int, cost: int) -> int:
        """How long until it holds *cost*; -1 for never."""
        if cost > 6:
            return -1
        last = self.hits[-1][0] if self.hits else 0
        return max(at, last, ceil(self._full() + (cost - 6) * Fraction(*BUCKET.interval))) - at

    def take(self, at: int, hit: bytes, cost: int, wait: int = 0) -> None:
        """Count it."""
        self.hits.append((at + wait, cost, hit))
        self.known.append(self.hits[-1])
        self.written = at

    def knows(self, at: int, hit: bytes) -> bool:
        """Whether it remembers the hit."""
        self._look(at)
        return any(known == hit for _, _, known in self.known)

    def given_back(self, at: int, hit: bytes, cost: int) -> bool:
        """As `Model`."""
        self._look(at)
        found = next((each for each in self.known if each[1:] == (cost, hit)), None)
        if found is None or at > self._full():
            return False
        self.known.remove(found)
        self.hits.remove(found)
        self.written = at
        return True


@dataclass(slots=True)
class Tally:
    """Windows of the key's own: every hit with the window in which it was counted."""

    limit: int
    window: int
    weighted: bool
    start: int = -(10**15)
    hits: list[tuple[int, int, bytes]] = field(default_factory=list)
    known: deque[tuple[int, int, bytes]] = field(default_factory=lambda: deque(maxlen=REMEMBERED))

    def _begun(self, now: int) -> int:
        counts = self.window * (2 if self.weighted else 1)
        if now > self.start + counts + KEPT_US:
            self.known.clear()
        if now >= self.start + counts:
            return now
        return self.start + self.window if now >= self.start + self.window else self.start

    def _held(self, now: int) -> int:
        start = self._begun(now)
        used = sum(cost for began, cost, _ in self.hits if began == start)
        before = sum(cost for began, cost, _ in self.hits if self.weighted and began == start - self.window)
        return used + ceil(Fraction(before * (start + self.window - now), self.window))

    def answer(self, asked: Asked) -> list[int]:
        """As `Model`."""
        start = self._begun(asked.at)
        if asked.is_repeat and any(hit == asked.hit for _, _, hit in self.known):
            return [0]
        if asked.cost > self.limit:
            return [-1]
        low, high = -1, 2 * self.window
        while high - low > 1:
            middle = (low + high) // 2
            fits = self._held(asked.at + middle) + asked.cost <= self.limit
            low, high = (low, middle) if fits else (middle, high)
        if high == 0:
            self.start = start
            self.hits.append((start, asked.cost, asked.hit))
            self.known.append(self.hits[-1])
        return [high]

    def given_back(self, at: int, hit: bytes, cost: int) -> bool:
        """As `Model`."""
        start = self._begun(at)
        found = next((each for each in self.known if each[1:] == (cost, hit)), None)
        if found is None or found[0] not in ({start, start - self.window} if self.weighted else {start}):
            return False
        self.known.remove(found)
        self.hits.remove(found)
        self.start = start
        return True


@dataclass(slots=True)
class Places:
    """Slots: until when each hit holds how many."""

    limit: int
    ttl: int
    held: dict[bytes, tuple[int, int]] = field(default_factory=dict)

    def answer(self, asked: Asked) -> list[int]:
        """As `Model`; who asks again after its time is over may be remembered or not."""
        living = sorted(until for until, cost in self.held.values() if until > asked.at for _ in range(cost))
        before = self.held.get(asked.hit, (0, 0))
        if asked.is_repeat and (before[0] > asked.at or (before[0] and asked.told[0] == 0)):
            return [0]
        if asked.cost > self.limit:
            return [-1]
        lacking = len(living) + asked.cost - self.limit
        if lacking > 0:
            return [living[lacking - 1] - asked.at]
        self.held[asked.hit] = asked.at + self.ttl, asked.cost
        return [0]

    def given_back(self, at: int, hit: bytes, cost: int) -> bool:
        """As `Model`."""
        until, taken = self.held.pop(hit, (0, cost))
        return until > at and taken == cost


@dataclass(slots=True)
class Log:
    """A sliding window that is longer than any hit is repeated."""

    limit: int
    window: int
    hits: list[tuple[int, int, bytes]] = field(default_factory=list)

    def _at(self, now: int) -> int:
        return max(now, self.hits[-1][0] + 1) if self.hits else now

    def wait(self, now: int, cost: int) -> int:
        """How long until it has room; -1 for never."""
        if cost > self.limit:
            return -1
        at = self._at(now)
        if self._held(at) + cost <= self.limit:
            return 0
        moments = sorted(then + self.window for then, _, _ in self.hits if then + self.window >= at)
        return next(moment for moment in moments if self._held(moment) + cost <= self.limit) - now

    def _held(self, at: int) -> int:
        return sum(cost for then, cost, _ in self.hits if then > at - self.window)

    def take(self, now: int, hit: bytes, cost: int) -> None:
        """Count it."""
        self.hits.append((self._at(now), cost, hit))

    def knows(self, now: int, hit: bytes) -> bool:
        """Whether it was counted."""
        return any(known == hit and then > now - self.window for then, _, known in self.hits)


def together(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes take from a window and a bucket, mostly from both at once."""
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    checks, ones, pours = (
        sim.scripts.get(f"limits.{name}", load("gridsync.limits", name)).sha.encode()
        for name in ("check", "hit_one", "gcra_hit")
    )
    models: tuple[Log, Pail] = Log(100, 10 * SECOND), Pail()
    admitted = 0

    def look(call: Call) -> None:
        nonlocal admitted
        words, now, told = call.words, call.at_us, call.reply
        if words[0] != b"EVALSHA" or not isinstance(told, list):
            return
        if words[1] in (ones, pours):
            model = models[words[1] == pours]
            if told[0] == 0 and not (words[5] != b"0" and model.knows(now, words[4])):
                model.take(now, words[4], int(words[6]))
        if words[1] != checks:
            return
        repeat_us, *rest = words[3 + int(words[2]) :]
        each: list[tuple[Log | Pail, bytes, int]] = []
        for model in models:
            _, _, hits, peeks, *rest = rest
            each.append((model, rest[0], int(rest[2])))
            rest = rest[int(hits) + int(peeks) :]
        again = repeat_us != b"0" and any(model.knows(now, hit) for model, hit, _ in each)
        waits = [0 if again else model.wait(now, cost) for model, _, cost in each]
        if told[0] != (waits == [0, 0]) or told[1::4] != waits:
            raise sim.history.fail(f"a check of {each} was told {told}, the models say {waits}")
        if told[0] and not again:
            admitted += 1
            for model, hit, cost in each:
                model.take(now, hit, cost)

    async def work(io: SimIO) -> None:
        random = io.process.random
        window, bucket = Limiter(io, "sim", "w", "100 per 10 seconds", resolution=0), Limiter(io, "sim", "b", BUCKET)
        for _ in range(60):
            asks = [(window, "k", random.choice((1, 1, 2, 5))), (bucket, "k", random.choice((1, 1, 2, 6, 7)))]
            try:
                if random.random() < 0.8:
                    await check(io, parts(io, asks))
                else:
                    limiter, key, cost = random.choice(asks)
                    await limiter._windows.hit(key, cost)
            except (OutcomeUnknown, Unavailable):
                pass
            await io.sleep(random.expovariate(6))

    sim.watch(look)
    for name in "abc":
        sim.start(name, work)
    sim.run(until=120.0)
    assert admitted > 15, sim.history.story()
    return sim


def _play(seed: int, scripts: Scripts, rule: Rule, kind: str, model: Model) -> Simulation:
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    hits, refunds = (
        sim.scripts.get(script.name, script).sha.encode()
        for script in (load("gridsync.limits", f"{kind}_hit"), load("gridsync.limits", f"{kind}_refund"))
    )
    admitted = 0

    def look(call: Call) -> None:
        nonlocal admitted
        words = call.words
        if words[0] != b"EVALSHA" or words[1] not in (hits, refunds):
            return
        hit, is_repeat, cost = words[4], words[5] != b"0", int(words[6])
        if words[1] == refunds and isinstance(call.reply, int):
            counted = model.given_back(call.at_us, hit, cost)
            if call.reply != counted and not (is_repeat and call.reply == 1):
                raise sim.history.fail(f"a refund of {hit!r} was answered with {call.reply}, the model says {counted}")
        if words[1] == hits and isinstance(call.reply, list):
            max_wait = int(words[8]) if kind == "gcra" else 0
            right = model.answer(Asked(call.at_us, hit, cost, is_repeat, max_wait, call.reply))
            if [call.reply[0], *call.reply[4:]] != right:
                raise sim.history.fail(f"{hit!r} of cost {cost} was told {call.reply}, the model says {right}")
            admitted += right[0] == 0
            if sim.server.engine.execute("PTTL", words[3].decode()) == -1:
                raise sim.history.fail("the key never expires")

    async def work(io: SimIO) -> None:
        engine, random = algorithm(io, "sim", "w", [rule], timeout=None), io.process.random
        given: list[tuple[str, int]] = []
        for _ in range(60):
            cost = random.choice((1, 1, 1, 2, 6, 20))
            try:
                if engine.can_wait and random.random() < 0.5:
                    takes = random.choice((engine.acquire, engine.reserve))
                    verdict, hit, _ = await takes("k", cost, 3 * SECOND)
                else:
                    verdict, hit = await engine.hit("k", cost)
                wait = random.expovariate(8)
                if verdict[0] == 0:
                    given.append((hit, cost))
                elif verdict[0] > 0 and random.random() < 0.3:
                    wait = verdict[0] / 1e6
                if given and random.random() < (0.2 if kind != "slot" else 0.6):
                    await io.sleep(random.choice((0.0, 0.0, 0.1, 3.0)))
                    await engine.refund("k", *random.choice(given[-3:]))
            except (OutcomeUnknown, Unavailable):
                wait = 0.1
            await io.sleep(wait)

    sim.watch(look)
    for name in "abc":
        sim.start(name, work)
    sim.run(until=120.0)
    assert admitted > 30, sim.history.story()
    return sim


def buckets(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes draw from one bucket; some wait in line, and some give back."""
    return _play(seed, scripts, BUCKET, "gcra", Pail())


def counters(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes share a fixed window (even seeds) or two weighted ones (odd seeds)."""
    weighted = bool(seed % 2)
    rule: Rule = ApproxWindow(12, 1) if weighted else FixedWindow(12, 1)
    return _play(seed, scripts, rule, "counter", Tally(12, SECOND, weighted))


def slots(seed: int, scripts: Scripts = None) -> Simulation:
    """Three processes share slots; some give back, and some are forgotten when their time is over."""
    return _play(seed, scripts, Concurrency(6, ttl_s=2), "slot", Places(6, 2 * SECOND))
