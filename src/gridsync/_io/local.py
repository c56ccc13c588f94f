"""Sliding windows inside this process: what a limiter falls back to while its server is away.

The same windows as the scripts', on this process's clock.  A subject is a list of (when, cumulative cost); what a
window holds is the difference of two of them.  Bounded: beyond `ENTRIES_MAX` hits the oldest are merged into their
newer neighbours, which never admits more, and beyond `SUBJECTS_MAX` subjects the one that was hit longest ago is
forgotten.

What the server said last about a subject counts too: of what it said was left, its part of the limit is what is left
here, from that moment on.
"""

from __future__ import annotations

import contextlib
import threading
from bisect import bisect_right
from collections import OrderedDict
from operator import itemgetter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

SUBJECTS_MAX = 10_000
ENTRIES_MAX = 1_000
_NEVER = -1
_when = itemgetter(0)


class _Log:
    __slots__ = ("before", "entries")

    def __init__(self) -> None:
        self.entries: list[tuple[int, int]] = []
        """When, and the cumulative cost up to and with this entry."""
        self.before = 0
        """The cumulative cost of what has left the longest window."""

    def copy(self) -> _Log:
        """Return another one that holds the same."""
        other = _Log()
        other.entries, other.before = list(self.entries), self.before
        return other

    @property
    def last(self) -> tuple[int, int]:
        return self.entries[-1] if self.entries else (-(1 << 62), self.before)


class LocalWindows:
    """The windows of one limiter for every subject, in this process alone; thread-safe."""

    def __init__(self, rules: Sequence[tuple[int, int]], clock: Callable[[], float]) -> None:
        """Start empty; *rules* are limit and window in microseconds, *clock* counts seconds and never runs back."""
        self._rules = self._whole = tuple(rules)
        self._longest = max(window for _, window in rules)
        self._clock = clock
        self._logs: OrderedDict[str, _Log] = OrderedDict()
        self._told: dict[str, tuple[float, int, int]] = {}
        """When the server said last how much is left of which rule, until that is used."""
        self._lock = threading.Lock()

    def allow(self, limits: Sequence[int]) -> None:
        """Admit so much in each rule's window from now on: this process's part."""
        self._rules = tuple((limit, window) for limit, (_, window) in zip(limits, self._whole, strict=True))

    def learn(self, subject: str, left: int, rule: int) -> float:
        """Take note that the server has *left* of the whole limit of *rule*; returns the time."""
        now = self._clock()
        # Without the lock: each of these is one step of the interpreter, and this is part of every decision.
        self._told.pop(subject, None)
        self._told[subject] = (now, left, rule)
        if len(self._told) > SUBJECTS_MAX:
            with contextlib.suppress(StopIteration, RuntimeError):  # another thread did it
                self._told.pop(next(iter(self._told)), None)
        return now

    def hit(self, subject: str, cost: int) -> list[int]:
        """Take *cost*, or nothing; the answer is that of the scripts."""
        with self._lock:
            log = self._logs.setdefault(subject, _Log())
            self._remember(subject, log)
            self._logs.move_to_end(subject)
            if len(self._logs) > SUBJECTS_MAX:
                self._logs.popitem(last=False)
            return self._answer(log, cost, take=True)

    def peek(self, subject: str, cost: int) -> list[int]:
        """Tell what `hit` would say, and take nothing."""
        with self._lock:
            log = self._logs.get(subject) or _Log()
            if subject in self._told:
                log = log.copy()
                self._remember(subject, log, keep=True)
            return self._answer(log, cost, take=False)

    def reset(self, subject: str) -> None:
        """Forget the subject."""
        with self._lock:
            self._logs.pop(subject, None)
            self._told.pop(subject, None)

    def _remember(self, subject: str, log: _Log, *, keep: bool = False) -> None:
        """Count as used what the server said is not left, unless that much is used here anyway."""
        told = self._told.get(subject) if keep else self._told.pop(subject, None)
        if told is None:
            return
        when, left, rule = int(told[0] * 1_000_000), told[1], told[2]
        (limit, window), whole = self._rules[rule], self._whole[rule][0]
        used = limit - left * limit // whole
        # So long ago that shorter windows, of which nothing was said, do not hold it.
        when -= max((shorter for _, shorter in self._rules if shorter < window), default=0)
        if when > int(self._clock() * 1_000_000) - window:
            missing = used - (log.last[1] - _total_before(log, when - window))
            if missing > 0:
                log.entries.append((max(when, log.last[0] + 1), log.last[1] + missing))

    def _answer(self, log: _Log, cost: int, *, take: bool) -> list[int]:
        now = int(self._clock() * 1_000_000)
        at = max(now, log.last[0] + 1)
        self._drop_expired(log, at)
        used = [log.last[1] - _total_before(log, at - window) for _, window in self._rules]
        denied: list[int] = []
        for index, (limit, window) in enumerate(self._rules):
            if used[index] + cost <= limit:
                continue
            reset = max(0, log.last[0] + window - now)
            if cost > limit:
                return [_NEVER, max(0, limit - used[index]), reset, index]
            retry = next(when for when, total in log.entries if log.last[1] - total <= limit - cost) + window - now
            if not denied or retry > denied[0]:
                denied = [retry, max(0, limit - used[index]), reset, index]
        if denied:
            return denied
        if take:
            log.entries.append((at, log.last[1] + cost))
            if len(log.entries) > ENTRIES_MAX:
                del log.entries[: ENTRIES_MAX // 2 : 2]
        taken = cost if take else 0
        left = [limit - held - taken for (limit, _), held in zip(self._rules, used, strict=True)]
        index = left.index(min(left))
        return [0, left[index], max(0, log.last[0] + self._rules[index][1] - now), index]

    def _drop_expired(self, log: _Log, at: int) -> None:
        expired = bisect_right(log.entries, at - self._longest, key=_when)
        if expired:
            log.before = log.entries[expired - 1][1]
            del log.entries[:expired]


def _total_before(log: _Log, moment: int) -> int:
    expired = bisect_right(log.entries, moment, key=_when)
    return log.entries[expired - 1][1] if expired else log.before
