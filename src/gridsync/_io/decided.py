"""What limiters decided, by name, by who decided and how: one list of numbers per limiter, which it adds to.

An addition to a number in a list is one step for the interpreter's own lock, and costs a limiter nothing that could be
measured beside a round trip.
"""

from __future__ import annotations

import weakref
from itertools import product
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SOURCES: Final = ("server", "lease", "cache", "local", "policy")
"""Who decides for a limiter: `Decision.source`."""
OUTCOMES: Final = ("admitted", "denied", "never")
"""How.  A limiter's list has a number for each of `SOURCES` and in it for each of these."""
LEASE, CACHE, LOCAL, POLICY = (len(OUTCOMES) * place for place in range(1, len(SOURCES)))
"""Where in the list those begin that the server did not decide."""
LIMITERS_MAX = 1_000
"""How many limiters are counted by name, the others together as "..."."""


class Decided:
    """The decisions of one grid."""

    def __init__(self) -> None:
        """Begin with none."""
        self._limiters: dict[str, list[int]] = {}
        _counting.add(self)
        weakref.finalize(self, _bury, self._limiters).atexit = False

    def of(self, limiter: str) -> list[int]:
        """Return the list in which *limiter* counts; see `IO.decisions`."""
        if limiter not in self._limiters and len(self._limiters) >= LIMITERS_MAX:
            limiter = "..."
        return self._limiters.setdefault(limiter, [0] * (len(SOURCES) * len(OUTCOMES)))

    def __iter__(self) -> Iterator[tuple[str, str, str, int]]:
        """Yield limiter, source, outcome and how often, where it was at all."""
        return _told(self._limiters)

    def add_to(self, sums: dict[str, list[int]]) -> None:
        """Add these to others."""
        _add(sums, self._limiters)


_counting: weakref.WeakSet[Decided] = weakref.WeakSet()
_buried: dict[str, list[int]] = {}
"""What limiters decided whose grids are gone."""


def decided() -> Iterator[tuple[str, str, str, int]]:
    """Yield limiter, source, outcome and how often, for all grids that this process ever had: numbers only grow."""
    sums = {limiter: list(numbers) for limiter, numbers in _buried.items()}
    for each in list(_counting):
        each.add_to(sums)
    return _told(sums)


def _told(limiters: Mapping[str, Sequence[int]]) -> Iterator[tuple[str, str, str, int]]:
    for limiter, numbers in sorted(limiters.items()):
        for (who, how), number in zip(product(SOURCES, OUTCOMES), numbers, strict=True):
            if number:
                yield limiter, who, how, number


def _add(sums: dict[str, list[int]], limiters: Mapping[str, Sequence[int]]) -> None:
    for limiter, numbers in list(limiters.items()):
        before = sums.get(limiter, [0] * len(numbers))
        sums[limiter] = [one + other for one, other in zip(before, numbers, strict=True)]


def _bury(limiters: Mapping[str, Sequence[int]]) -> None:
    _add(_buried, limiters)
