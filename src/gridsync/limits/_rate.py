"""Rates: how many units in how many seconds, as a user writes them."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from datetime import timedelta
from typing import TYPE_CHECKING

from gridsync.errors import InvalidLimit

if TYPE_CHECKING:
    from gridsync._units import Seconds

LIMIT_MAX = 10**14
"""The largest limit.  Scripts count modulo 2**52, and a log may hold a few windows' worth."""
WINDOW_MIN_S = 0.001
WINDOW_MAX_S = 366 * 86_400

_NAMES = {"millisecond": 0.001, "second": 1, "minute": 60, "hour": 3_600, "day": 86_400, "week": 604_800}
_SHORT = {"ms": 0.001, "s": 1, "m": 60, "h": 3_600, "d": 86_400}
_LONG = {"sec": 1, "min": 60, "hr": 3_600, **_NAMES}
_UNITS: dict[str, float] = {**_SHORT, **_LONG, **{f"{name}s": seconds for name, seconds in _LONG.items()}}
_TEXT = re.compile(
    r"\s*(?P<limit>[0-9][0-9_]{0,30})\s*(?:/|\bper\b)\s*(?P<count>[0-9]+(?:\.[0-9]+)?)?\s*(?P<unit>[a-z]+)\s*"
)
_HOW = (
    "write '100/second', '10/s burst 20', '5000/minute' or '10 per 30 seconds' (ms, second, minute, hour, day, week);"
    " several rules are several arguments"
)


@dataclass(frozen=True, slots=True)
class Rate:
    """At most *limit* units in any *per_s* seconds.

    The window slides: it is every stretch of that length, not the calendar's second or minute.

    Args:
        limit: Units, from 1 to 10**14.
        per_s: Length of the window in seconds (or a `timedelta`), from 0.001 to 31,622,400 (366 days), counted in
            whole microseconds.

    Raises:
        InvalidLimit: A number is out of these bounds.
    """

    limit: int
    per_s: float

    def __init__(self, limit: int, per_s: Seconds) -> None:
        """Refuse what the scripts could not count exactly."""
        object.__setattr__(self, "limit", limit)
        object.__setattr__(self, "per_s", check(limit, per_s))

    @classmethod
    def parse(cls, text: str) -> Rate:
        """Read a rate such as ``"100/second"`` or ``"10 per 30 seconds"``.

        Raises:
            InvalidLimit: It cannot be read; the message shows what can.
        """
        found = _TEXT.fullmatch(text.lower()) if isinstance(text, str) else None
        if found is None:
            raise InvalidLimit(f"cannot read the rate limit {text!r}; {_HOW}")
        unit = found["unit"]
        seconds = _UNITS.get(unit)
        if seconds is None:
            raise InvalidLimit(f"the rate limit {text!r} has an unknown unit of time {unit!r}; {_HOW}")
        try:
            return cls(int(found["limit"]), float(found["count"] or 1) * seconds)
        except InvalidLimit as wrong:
            raise InvalidLimit(f"the rate limit {text!r} cannot be kept: {wrong}") from None

    @property
    def window_us(self) -> int:
        """The window in microseconds."""
        return round(self.per_s * 1_000_000)

    @property
    def quota(self) -> tuple[int, int]:
        """Return limit and window (us) of a sliding window that admits no more than this rule may."""
        return self.limit, self.window_us

    def __str__(self) -> str:
        """Return it as `parse` reads it."""
        return spelled(self.limit, self.window_us)


def check(limit: int, per_s: Seconds) -> float:
    """Return *per_s* in seconds, and refuse what no script can count.

    Raises:
        InvalidLimit: A number is out of bounds.
    """
    if isinstance(limit, bool) or not isinstance(limit, int) or not 1 <= limit <= LIMIT_MAX:
        raise InvalidLimit(f"a limit must be a whole number from 1 to 10**14, not {limit!r}")
    number = per_s.total_seconds() if isinstance(per_s, timedelta) else per_s
    if (
        isinstance(number, bool)
        or not isinstance(number, int | float)
        or not math.isfinite(number)
        or not WINDOW_MIN_S <= number <= WINDOW_MAX_S
    ):
        raise InvalidLimit(
            f"per_s must be a number of seconds from 0.001 to {WINDOW_MAX_S} (366 days), or a timedelta, not {per_s!r}"
        )
    return float(number)


def spelled(limit: int, window_us: int) -> str:
    """Return a rate as `Rate.parse` reads it."""
    for name, seconds in _NAMES.items():
        if round(seconds * 1_000_000) == window_us:
            return f"{limit}/{name}"
    return f"{limit} per {window_us / 1_000_000:.15g} seconds"
