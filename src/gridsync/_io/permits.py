"""Permits that this process may use until a moment: what a limiter leased, taken by any number of threads.

Empty at first, and again in the child of a fork: what its parent leased is its parent's.
"""

from __future__ import annotations

import os
import threading
import weakref
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Signal

NEVER = float("-inf")


class Permits:
    """So many units until then; thread-safe."""

    __slots__ = ("__weakref__", "_clock", "_left", "_lock", "_until", "_whose", "gate")

    def __init__(self, clock: Callable[[], float]) -> None:
        """Start empty; *clock* counts seconds and never runs back."""
        self._clock = clock
        self.reset()
        _all.add(self)

    def reset(self) -> None:
        """Start empty again, with a lock of its own."""
        self._lock = threading.Lock()
        self._left, self._until = 0, NEVER
        self._whose: object = None
        self.gate: list[Signal] = []
        """Those who found too few; the first one asks for more, and the others wait for it."""

    def take(self, cost: int) -> int:
        """Take *cost* units; returns how many are left, or -1 if there are not so many, or their time has passed."""
        with self._lock:
            left = self._left - cost
            if left < 0 or self._clock() >= self._until:
                return -1
            self._left = left
            return left

    def fill(self, left: int, until: float, whose: object) -> None:
        """Have *left* units of the lease *whose* until then, and no others."""
        with self._lock:
            self._left, self._until, self._whose = left, until, whose

    def left(self, whose: object) -> int:
        """Return how many units of *whose* there are."""
        with self._lock:
            return self._left if self._whose is whose else 0

    def drain(self, whose: object) -> int:
        """Let nobody take any more of *whose*, and return how many units were left of it."""
        with self._lock:
            if self._whose is not whose:
                return 0
            left, self._left, self._until, self._whose = self._left, 0, NEVER, None
            return left


_all: weakref.WeakSet[Permits] = weakref.WeakSet()


def _reset_all() -> None:
    for permits in list(_all):
        permits.reset()


os.register_at_fork(after_in_child=_reset_all)
