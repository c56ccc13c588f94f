"""The local clock and the names of this process's requests."""

from __future__ import annotations

import asyncio
import itertools
import secrets
import time
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

if hasattr(time, "CLOCK_BOOTTIME"):
    _BOOTTIME = time.CLOCK_BOOTTIME

    def monotonic() -> float:
        """Return seconds on a clock that never jumps and goes on while the machine sleeps."""
        return time.clock_gettime(_BOOTTIME)

else:  # pragma: no cover - macOS: its monotonic clock counts suspend since Python 3.5 uses mach_absolute_time
    monotonic = time.monotonic


def clock_of(loop: asyncio.AbstractEventLoop) -> Callable[[], float]:
    """Return the clock of *loop*; what asyncio's own loops only pass on is returned itself, which saves a frame."""
    passes_on = getattr(loop.time, "__func__", None) is asyncio.BaseEventLoop.time
    return time.monotonic if passes_on else loop.time


_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Tokens:
    """Identifiers that are unique among all processes: twelve random characters, then a counter.

    36^12 names of processes: with a million of them alive, two share a name once in ten million fleets.
    """

    def __init__(self) -> None:
        """Draw the random part."""
        self.renew()

    def renew(self) -> None:
        """Draw a new random part, as the child of a fork must."""
        self.process = "".join(secrets.choice(_DIGITS) for _ in range(12))
        self._next = itertools.count().__next__

    def __call__(self) -> str:
        """Return the next identifier."""
        return f"{self.process}{self._next():x}"
