"""Limits by brute force: the list of everything admitted, looked through again for every question."""

from __future__ import annotations

from dataclasses import dataclass, field
from fractions import Fraction
from math import ceil, floor
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import random


def steps(rng: random.Random, window: int) -> int:
    """How far the clock moves before the next call."""
    roll = rng.random()
    if roll < 0.2:
        return 0
    if roll < 0.3:
        return 1
    if roll < 0.85:
        return rng.randrange(window // 10)
    if roll < 0.95:
        return window // 4 * rng.randrange(1, 8)
    if roll < 0.98:
        return -rng.randrange(window // 3)
    return rng.randrange(window, 40 * window)


@dataclass
class Oracle:
    """What the scripts must answer; *rules* are limit and window in microseconds."""

    rules: list[tuple[int, int]]
    admitted: list[tuple[int, int]] = field(default_factory=list)
    """Time and cost of every admitted hit."""

    def clock(self, now: int) -> int:
        """When a hit would be admitted: no two share a microsecond, and the log's time never runs back."""
        return max([now, *(at + 1 for at, _ in self.admitted)])

    def used(self, window: int, now: int) -> int:
        """What the window that ends now holds; it is half-open."""
        return sum(cost for at, cost in self.admitted if at > self.clock(now) - window)

    def fits(self, cost: int, now: int) -> bool:
        """Whether every rule has room."""
        return all(self.used(window, now) + cost <= limit for limit, window in self.rules)

    def retry(self, cost: int, now: int) -> int:
        """How long until it fits; -1 for never.  Room only ever appears when a hit leaves a window."""
        if any(cost > limit for limit, _ in self.rules):
            return -1
        moments = {now, *(at + window for at, _ in self.admitted for _, window in self.rules)}
        return next(moment for moment in sorted(moments) if moment >= now and self.fits(cost, moment)) - now

    def remaining(self, now: int) -> list[int]:
        """What each rule has left."""
        return [max(0, limit - self.used(window, now)) for limit, window in self.rules]

    def reset(self, now: int) -> list[int]:
        """When each rule's window is empty."""
        last = max((at for at, _ in self.admitted), default=None)
        return [0 if last is None else max(0, last + window - now) for _, window in self.rules]

    def refund(self, at: int) -> None:
        """Forget the hit of that time."""
        self.admitted = [(then, spent) for then, spent in self.admitted if then != at]

    def hit(self, cost: int, now: int) -> None:
        """Admit it."""
        at = self.clock(now)
        longest = max(window for _, window in self.rules)
        self.admitted = [(then, spent) for then, spent in self.admitted if then > at - longest] + [(at, cost)]


@dataclass
class Clock:
    """A clock that never runs back: it goes on from where it was last read when the one below is set back."""

    ahead: int = 0
    seen: int = 0

    def read(self, now: int) -> int:
        """What it shows while the one below shows *now*."""
        return max(now + self.ahead, self.seen)

    def written(self, now: int, *, admitted: bool) -> None:
        """What a hit leaves behind."""
        at = self.read(now)
        if admitted or at > now + self.ahead:
            self.seen, self.ahead = at, at - now


@dataclass
class Pour:
    """A bucket: any stretch of time admits at most *burst* units and what comes back in it, one in *interval* us."""

    interval: Fraction
    burst: int
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When and how much, of every admitted hit."""

    def _full(self) -> Fraction:
        """When the bucket is full again: the latest that any stretch of hits says."""
        moments = [Fraction(0)]
        for since, _ in self.hits.values():
            moments.append(since + self.interval * sum(cost for at, cost in self.hits.values() if at >= since))
        return max(moments)

    def delay(self, cost: int, now: int) -> int:
        """How long until no stretch of time that ends with this hit holds too much; -1 for never.

        Nobody overtakes those who wait.
        """
        if cost > self.burst:
            return -1
        return max(0, ceil(self._full() - (self.burst - cost) * self.interval) - now, self._last() - now)

    def _last(self) -> int:
        return max((at for at, _ in self.hits.values()), default=0)

    def remaining(self, now: int) -> int:
        """How much the bucket holds, in whole units."""
        if self._last() > now:
            return 0
        return max(0, floor(self.burst - max(Fraction(0), self._full() - now) / self.interval))

    def reset(self, now: int) -> int:
        """How long until it is full."""
        return max(0, ceil(self._full()) - now)


@dataclass
class Count:
    """Windows of the key's own: the first hit begins one; *weighted* counts the one before as far as it overlaps."""

    limit: int
    window: int
    weighted: bool
    start: int | None = None
    hits: dict[str, tuple[int, int]] = field(default_factory=dict)
    """When the window of every admitted hit began, and how much it took."""

    def begun(self, now: int) -> int:
        """When the window began that *now* lies in."""
        if self.start is None or now >= self.start + (2 if self.weighted else 1) * self.window:
            return now
        return self.start + self.window if now >= self.start + self.window else self.start

    def held(self, now: int) -> int:
        """What counts at *now*."""
        start = self.begun(now)
        before = sum(cost for began, cost in self.hits.values() if self.weighted and began == start - self.window)
        used = sum(cost for began, cost in self.hits.values() if began == start)
        return used + ceil(Fraction(before * (start + self.window - now), self.window))

    def delay(self, cost: int, now: int) -> int:
        """How long until it fits, by looking at every microsecond at which the answer may change; -1 for never."""
        if cost > self.limit:
            return -1
        low, high = -1, 2 * self.window  # nothing counts after two windows, and less counts with every microsecond
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if self.held(now + middle) + cost <= self.limit else (middle, high)
        return high

    def reset(self, now: int) -> int:
        """How long until nothing counts."""
        start = self.begun(now)
        alive = [began for began, cost in self.hits.values() if cost and began >= start - self.window * self.weighted]
        return max((began + (2 if self.weighted else 1) * self.window - now for began in alive), default=0)
