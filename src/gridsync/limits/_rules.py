"""Rules: what a limiter may promise, each by an algorithm of its own.

=================  ==================================================================================================
rule               what it promises
=================  ==================================================================================================
`SlidingWindow`    no window of its length, wherever it starts, holds more than its limit; the default, also as text
`GCRA`             a bucket: so many at once, then an even flow; as text ``"10/s burst 20"``
`FixedWindow`      so many from the first hit on until the window ends; up to twice as many around its end
`ApproxWindow`     two such windows, weighted: about the limit in any window of its length
`Concurrency`      so many that have begun and neither ended nor reached their deadline
=================  ==================================================================================================
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property
from typing import TypeAlias

from gridsync._units import Seconds, count, seconds
from gridsync.errors import InvalidLimit, UsageError
from gridsync.limits._rate import WINDOW_MAX_S, WINDOW_MIN_S, Rate, check, spelled

SlidingWindow = Rate
"""The exact rule, by the name of its algorithm."""

BURST_MAX = 10**9
SLOTS_MAX = 10_000
EXACT = 2**51
"""The script multiplies up to this, with doubles, and stays exact."""
_BURST = re.compile(r"(?P<rate>.*\S)\s+burst\s+(?P<burst>[0-9][0-9_]{0,30})\s*", re.IGNORECASE)


@dataclass(frozen=True)
class GCRA:
    """A bucket of *burst* units that fills at *rate* units in *per_s* seconds, evenly.

    Also known as a token bucket, or as the generic cell rate algorithm.  It lets short bursts pass and evens out the
    rest, in one small string per key, whatever the numbers.

    Args:
        rate: Units that come back in *per_s* seconds, from 1 to 10**14.
        per_s: Seconds (or a `timedelta`), from 0.001 to 31,622,400 (366 days), counted in whole microseconds.
        burst: Units that a full bucket holds, from 1 to 10**9; default is *rate*.

    Raises:
        InvalidLimit: A number is out of these bounds.

    Guarantee: any stretch of t seconds admits at most ``burst + t * rate / per_s`` units.  So the first *per_s* seconds
        admit up to *burst* + *rate*: twice the rate if *burst* is not given.  A `SlidingWindow` does not.
    """

    rate: int
    per_s: float
    burst: int | None = None

    def __init__(self, rate: int, per_s: Seconds, burst: int | None = None) -> None:
        """Refuse what the script could not count exactly."""
        object.__setattr__(self, "rate", rate)
        object.__setattr__(self, "per_s", check(rate, per_s))
        object.__setattr__(self, "burst", rate if burst is None else burst)
        if isinstance(self.burst, bool) or not isinstance(self.burst, int) or not 1 <= self.burst <= BURST_MAX:
            raise InvalidLimit(f"a burst must be a whole number from 1 to 10**9, not {self.burst!r}")
        if self._exact * self.burst > EXACT:
            raise InvalidLimit(f"a bucket of {self.burst} would take more than 71 years to fill: {self}")

    @property
    def limit(self) -> int:
        """What can be admitted at once: the burst."""
        return self.burst or self.rate

    @cached_property
    def interval(self) -> tuple[int, int]:
        """Microseconds until one unit has come back, as a fraction p/q of whole numbers.

        If *burst* intervals are too many p-ths to count exactly, the fraction is rounded up, by less than a millionth.
        """
        exact = self._exact
        q = min(exact.denominator, int(EXACT // self.limit / exact))
        return -(-exact.numerator * q // exact.denominator), q

    @property
    def _exact(self) -> Fraction:
        return Fraction(round(self.per_s * 1_000_000), self.rate)

    @property
    def quota(self) -> tuple[int, int]:
        """Return limit and window (us) of a sliding window that admits no more than this rule may."""
        p, q = self.interval
        return self.limit, max(1, -(-p * self.limit // q))

    def __str__(self) -> str:
        """Return it as `read_rule` reads it."""
        return f"{spelled(self.rate, round(self.per_s * 1_000_000))} burst {self.burst}"


@dataclass(frozen=True, slots=True)
class _Counted:
    """A number of hits in some time."""

    limit: int
    per_s: float

    def __init__(self, limit: int, per_s: Seconds) -> None:
        """Refuse what the scripts could not count."""
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "per_s", check(limit, per_s))

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return round(self.per_s * 1_000_000)

    @property
    def quota(self) -> tuple[int, int]:
        """Return limit and window (us) of a sliding window that admits no more than this rule may."""
        return self.limit, self.window_us


@dataclass(frozen=True, slots=True, init=False)
class FixedWindow(_Counted):
    """At most *limit* units from the first hit on until *per_s* seconds later; the next hit begins the next window.

    The windows are the key's own, not the clock's: keys do not all come back at the full minute.  One small string
    per key.

    Args:
        limit: Units, from 1 to 10**14.
        per_s: Length of the window in seconds (or a `timedelta`), from 0.001 to 31,622,400 (366 days), in whole
            microseconds.

    Raises:
        InvalidLimit: A number is out of these bounds.

    Guarantee: no window of a key holds more than the limit, and two of them do not overlap.
    Not guaranteed: the limit in a window that you lay yourself: one that begins late in the key's window holds up to
        twice the limit.
    """

    def __str__(self) -> str:
        """Return what it promises, in words."""
        return f"{spelled(self.limit, self.window_us)} in fixed windows"


@dataclass(frozen=True, slots=True, init=False)
class ApproxWindow(_Counted):
    """About *limit* units in any *per_s* seconds, estimated from two counters.

    The counter of the window before counts as far as that window still overlaps: as if its hits had been spread evenly.
    One small string per key.  Nobody should need it: a `SlidingWindow` is exact, and small too.

    Args:
        limit: Units, from 1 to 10**14.
        per_s: Length of the window in seconds (or a `timedelta`), from 0.001 to 31,622,400 (366 days), in whole
            microseconds.

    Raises:
        InvalidLimit: A number is out of these bounds.

    Not guaranteed: the limit.  Hits at the very end of a window are forgotten too early, so a window may hold nearly
        twice the limit; hits at its beginning are remembered too long, so a call that fits may be denied.
    """

    def __str__(self) -> str:
        """Return what it promises, in words."""
        return f"about {spelled(self.limit, self.window_us)}"


@dataclass(frozen=True, slots=True)
class Concurrency:
    """At most *limit* slots taken at a time; each is given back, or free again *ttl_s* seconds after it was taken.

    It answers at once, as a limiter does.  Who would rather wait in line, or hold something for longer than can be
    said beforehand, wants a `Semaphore`, whose leases are renewed.

    Args:
        limit: Slots, from 1 to 10,000.
        ttl_s: How long a slot is held at most, in seconds from 0.001 to 31,622,400 (366 days): what a crash costs.

    Raises:
        InvalidLimit: A number is out of these bounds.

    Guarantee: at most *limit* slots are taken at a time, on one primary.
    Not guaranteed: that what the holder began has ended when its slot's time has.  If the server's clock is set back,
        slots of holders that died stay taken for longer by the step; if it is set forward, all end earlier by the step.
    """

    limit: int
    ttl_s: Seconds

    def __post_init__(self) -> None:
        """Refuse what the script could not keep."""
        try:
            count(self.limit, "the limit of Concurrency", SLOTS_MAX)
            ttl = seconds(self.ttl_s, "ttl_s of Concurrency", least=WINDOW_MIN_S, most=WINDOW_MAX_S)
        except UsageError as wrong:
            raise InvalidLimit(str(wrong)) from None
        object.__setattr__(self, "ttl_s", ttl)

    @property
    def window_us(self) -> int:
        """How long a slot is held at most, in microseconds."""
        return round(seconds(self.ttl_s, "ttl_s") * 1_000_000)

    @property
    def quota(self) -> tuple[int, int]:
        """Return limit and window (us) of a sliding window that admits no more than this rule may."""
        return self.limit, self.window_us

    def __str__(self) -> str:
        """Return what it promises, in words."""
        return f"{self.limit} at a time"


Rule: TypeAlias = Rate | GCRA | FixedWindow | ApproxWindow | Concurrency
RULES = (Rate, GCRA, FixedWindow, ApproxWindow, Concurrency)


def read_rule(rule: str | Rule) -> Rule:
    """Return a rule as it is, or read one such as ``"100/second"`` or ``"10/s burst 20"``.

    Raises:
        InvalidLimit: It cannot be read.
    """
    if isinstance(rule, RULES):
        return rule
    found = _BURST.fullmatch(rule) if isinstance(rule, str) else None
    if found is None:
        return Rate.parse(rule)
    flow = Rate.parse(found["rate"])
    try:
        return GCRA(flow.limit, flow.per_s, int(found["burst"]))
    except InvalidLimit as wrong:
        raise InvalidLimit(f"the rate limit {rule!r} cannot be kept: {wrong}") from None
