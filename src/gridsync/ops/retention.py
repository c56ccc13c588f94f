"""Which backups stay: the last ones, and the last one of each day, week and month."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Keep", "kept"]


@dataclass(frozen=True, slots=True)
class Keep:
    """How many stay; with none of them said, all do."""

    last: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0

    @property
    def all(self) -> bool:
        """Whether nothing is ever removed."""
        return not (self.last or self.daily or self.weekly or self.monthly)


def kept(times: Sequence[int], keep: Keep) -> set[int]:
    """Return which of *times*, microseconds since 1970, stay: days, weeks and months are those of UTC.

    Of each of the newest so many days (weeks, months) that have any, the last one stays.  The newest always does.
    """
    if keep.all:
        return set(times)
    newest = sorted(times, reverse=True)
    chosen = set(newest[: max(1, keep.last)])
    for count, period in ((keep.daily, "%Y-%m-%d"), (keep.weekly, "%G-%V"), (keep.monthly, "%Y-%m")):
        last_of = dict[str, int]()
        for time in newest:
            last_of.setdefault(datetime.fromtimestamp(time / 1e6, UTC).strftime(period), time)
        chosen.update(list(last_of.values())[:count])
    return chosen
