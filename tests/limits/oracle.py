"""A sliding window by brute force: the list of everything admitted, looked through again for every question."""

from __future__ import annotations

from dataclasses import dataclass, field


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
