"""Turns: how many handlers of one consumer may run at the same time, whoever runs them, tasks or threads.

A turn that is given back goes to whoever has waited longest: a partition that always has a next event would take it
again before another one has woken up.  Each step on the two queues is atomic, so no lock is needed: who put something
into either looks for a pair, so the later of the two finds it.
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
        """Take a turn if one is free and nobody waits for it."""
        if self._waiting:
            return False
        try:
            self._free.pop()
        except IndexError:
            return False
        return True

    async def take(self, unless: Signal) -> bool:
        """Take a turn as soon as it is ours; false if *unless* was thrown before."""
        mine = self._io.signal()
        drop = unless.on_set(mine.set)
        self._waiting.append(mine)
        self._match()
        try:
            await mine.wait()
        except BaseException:
            if not self._withdraw(mine):
                self.give()
            raise
        finally:
            drop()
        return not (unless.is_set() and self._withdraw(mine))

    def give(self) -> None:
        """Give a turn back."""
        self._free.append(0)
        self._match()

    def _match(self) -> None:
        while self._waiting:
            try:
                self._free.pop()
            except IndexError:
                return
            try:
                first = self._waiting.popleft()
            except IndexError:
                self._free.append(0)
            else:
                first.set()

    def _withdraw(self, mine: Signal) -> bool:
        """Wait no longer; false if the turn is ours by now."""
        try:
            self._waiting.remove(mine)
        except ValueError:
            return False
        return True
