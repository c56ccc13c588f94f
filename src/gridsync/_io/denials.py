"""Denials that need not be asked for again: a limiter's local deny cache.

What a key has used only grows until something leaves a window, so a denial of some cost holds for that cost and every
larger one until its *retry_us* has passed: on the server, which decided at some moment between the question and the
answer.  So it is believed until they have passed since the question, and told as if they had begun with the answer:
who waits for as long as he is told is never too early.  Bounded: beyond its size, the key that
was denied longest ago is forgotten.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable


class Denials:
    """The last denials of one limiter, by subject; thread-safe."""

    __slots__ = ("_clock", "_known", "_lock", "_size", "forgotten")

    def __init__(self, size: int, clock: Callable[[], float]) -> None:
        """Start empty; keep *size* subjects; *clock* counts seconds and never runs back."""
        self._size, self._clock = size, clock
        self._known: OrderedDict[str, tuple[float, float, int, list[int]]] = OrderedDict()
        self._lock = threading.Lock()
        self.forgotten = 0
        """How often something was forgotten; a denial that was under way meanwhile is not believed."""

    def get(self, subject: str, cost: int) -> list[int] | None:
        """Return the verdict on *cost*, as it is by now, if it is surely a denial."""
        found = self._known.get(subject)
        if found is None or cost < found[2]:
            return None
        asked, told, _, (retry_us, remaining, reset_us, rule) = found
        now = self._clock()
        if int((now - asked) * 1_000_000) >= retry_us:
            return None
        passed_us = int((now - told) * 1_000_000)
        return [retry_us - passed_us, remaining, max(0, reset_us - passed_us), rule]

    def asking(self) -> tuple[float, int]:
        """Return what `put` wants to know of the moment before the question leaves."""
        return self._clock(), self.forgotten

    def put(self, subject: str, cost: int, verdict: list[int], asking: tuple[float, int]) -> None:
        """Remember *verdict* if it denies *cost* for a while, and nothing was forgotten since it was asked for."""
        if verdict[0] <= 0:
            return
        with self._lock:
            asked, forgotten = asking
            if self.forgotten == forgotten:
                self._known[subject] = (asked, self._clock(), cost, verdict)
                self._known.move_to_end(subject)
                if len(self._known) > self._size:
                    self._known.popitem(last=False)

    def forget(self, subject: str) -> None:
        """Believe nothing about *subject* any more, nor what is being asked now."""
        with self._lock:
            self.forgotten += 1
            self._known.pop(subject, None)
