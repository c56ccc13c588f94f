"""A retry budget: how many repeats a grid may send, so that a struggling server is not buried under them.

Every answered request earns a fraction of a repeat, up to a store that is full at the start.  The store is what lets
everything that was under way on a broken connection be repeated at once; the fraction bounds what repeats add in the
long run.  Counted on the failure path only: what was answered is read from the connections when a repeat asks.
"""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Budget:
    """A token bucket that is filled by answers instead of by time; thread-safe."""

    def __init__(self, *, ratio: float, burst: int, answered: Callable[[], int]) -> None:
        """Start full.

        Args:
            ratio: Repeats earned by one answered request.
            burst: Repeats in store at most.
            answered: How many requests were answered so far, repeats included; it may fall when a node goes away.
        """
        self.ratio = ratio
        self.burst = burst
        self.refused: int = 0
        """How many repeats were not allowed."""
        self._answered = answered
        self._seen = 0
        self._left = float(burst)
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Take one repeat out of the store; false if there is none."""
        with self._lock:
            answered = self._answered()
            self._left = min(self.burst, self._left + self.ratio * max(0, answered - self._seen))
            self._seen = answered
            if self._left < 1:
                self.refused += 1
                return False
            self._left -= 1
            return True

    def give_back(self) -> None:
        """Put one repeat back that never left: there was no connection, so it was no load."""
        with self._lock:
            self._left = min(self.burst, self._left + 1)

    def reset(self) -> None:
        """Start full again, with a lock of its own, as the child of a fork must."""
        self._lock = threading.Lock()
        self._seen = 0
        self._left = float(self.burst)

    def __str__(self) -> str:
        """Say what is allowed, for an error message."""
        return (
            f"repeats may add {self.ratio:.0%} to the answered requests (GRIDSYNC_RETRY_RATIO), "
            f"and {self.burst} at once (GRIDSYNC_RETRY_BURST)"
        )
