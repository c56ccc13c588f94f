"""How long things took, as Prometheus wants it: how often at most so long, for each of `BOUNDS`, and in all.

Kept by every grid of the process from the moment somebody wants it, and not before.  Only `IO.tally` adds to it: waits,
holds, loads and lags, and no single request.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Mapping

BOUNDS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1.0, 5.0, 10.0, 60.0, 300.0)
"""Seconds.  The first nine are those of OpenTelemetry's histograms; the others are for lags."""

NAMES_MAX = 1_000
"""How many names are kept, of all things together; what comes later is "..." together."""

wanted = False
"""Whether anybody asks."""


def want() -> None:
    """Let every grid of this process keep it from now on."""
    global wanted  # noqa: PLW0603 - a process is scraped or it is not
    wanted = True


class Spread:
    """How long each of several things took."""

    def __init__(self) -> None:
        """Begin with nothing."""
        self._of: dict[tuple[str, str], list[float]] = {}

    def add(self, what: str, name: str, value: float, *, age: bool) -> None:
        """Take note of *value*: seconds, or with *age* when it began, in microseconds of a server's clock."""
        took = max(0.0, time.time() - value / 1_000_000) if age else value
        # As in `counts`: one addition is one step for the interpreter's own lock.
        found = self._of.get((what, name))
        if found is None:
            found = self._of.setdefault((what, name if len(self._of) < NAMES_MAX else "..."), [0.0] * (len(BOUNDS) + 2))
        found[bisect_left(BOUNDS, took)] += 1
        found[-1] += took

    def told(self) -> Mapping[str, Mapping[str, tuple[float, ...]]]:
        """Return for each thing and name how often it took at most each of `BOUNDS`, longer, and the sum in seconds."""
        found: dict[str, dict[str, tuple[float, ...]]] = {}
        for (what, name), numbers in sorted(self._of.items()):
            found.setdefault(what, {})[name] = tuple(numbers)
        return found
