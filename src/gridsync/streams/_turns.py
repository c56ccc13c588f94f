"""Turns: how many handlers of one consumer may run at the same time, whoever runs them, tasks or threads.

Each step on the two queues is atomic, so no lock is needed, and a turn that is free costs no more than that.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridsync._io import IO, Signal


class Turns:
    """A number of turns."""

    def __init__(self, io: IO, count: int) -> None:
        """Begin with all of them free."""
        self._io = io
        self._free = deque(range(count))
        self._waiting: deque[Signal] = deque()

    def take_free(self) -> bool:
        """Take a turn if one is free."""
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    async def take(self) -> None:
        """Take a turn, as soon as one is free."""
        while not self.take_free():
            signal = self._io.signal()
            self._waiting.append(signal)
            # Whoever gave one back before it saw us waiting, it is still there.
            if self.take_free():
                self._withdraw(signal)
                return
            try:
                await signal.wait()
            except BaseException:
                self._withdraw(signal)
                raise

    def give(self) -> None:
        """Give a turn back."""
        self._free.append(0)
        self._call()

    def _call(self) -> None:
        if self._free:
            try:
                self._waiting.popleft().set()
            except IndexError:
                return

    def _withdraw(self, signal: Signal) -> None:
        try:
            self._waiting.remove(signal)
        except ValueError:
            # We were called and do not come: the next one.
            self._call()
