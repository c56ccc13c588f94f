"""Reading heads over the logs of all partitions: a page of each in turn, and one wait for all of them at the end.

Whatever is delivered was read by range, in pages that prove that they go on where the last one ended (`_pages.py`); a
blocking read only tells where there is something.  So there is no moment at which catching up ends and something else
begins, and a server that took over without the last events is noticed before the first event of another history.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import Category, Command
from gridsync.errors import GridsyncError
from gridsync.streams._away import BLOCK_MAX, PAUSE_MAX, PAUSE_MIN, raise_if_final
from gridsync.streams._model import E
from gridsync.streams._pages import Pages, read_mark

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gridsync._io import Signal
    from gridsync.streams._core import StoreCore

SOON: Final = 0.05
"""Seconds that are not worth a blocking read."""

_log = logging.getLogger("gridsync.streams")


class Cursor(Generic[E]):
    """Where one partition is read."""

    def __init__(self, core: StoreCore[E], takes: Callable[[Any], bool] | None, *, holes: bool) -> None:
        """Not yet placed."""
        self.core = core
        self._takes = takes
        self._holes = holes
        self.seen = "0"
        """The checkpoint of what was read last, as far as whoever reads has come."""
        self.pages: Pages | None = None
        self.due = 0.0
        """When to look again, whatever is heard."""
        self.pause = PAUSE_MIN

    def place(self, seen: str) -> None:
        """Go on after *seen*."""
        self.seen = seen
        self.pages = self.core.log_pages(takes=self._takes, mark=read_mark(seen), holes=self._holes)

    @property
    def number(self) -> int:
        """The number of the event that was read last."""
        return 0 if self.pages is None or self.pages.mark is None else self.pages.mark.number


class Cursors(Generic[E]):
    """One cursor for each of some partitions.  One task or thread reads."""

    def __init__(
        self,
        cores: Sequence[StoreCore[E]],
        stop: Signal,
        begin: Callable[[StoreCore[E]], Awaitable[str]],
        *,
        takes: Callable[[Any], bool] | None = None,
        once: bool = False,
        holes: bool = False,
    ) -> None:
        """Begin at the checkpoint that *begin* returns for each; end at the present end, if *once* is set.

        Payloads may be missing of what *takes* does not want.  With *holes*, something stands where events were erased.
        """
        self._io = cores[0].io
        self._stop = stop
        self._begin = begin
        self._once = once
        self.all = [Cursor(core, takes, holes=holes) for core in cores]
        # Each is in one of these: there may be more to read; read to the end; its server was away.
        self._ready = deque(self.all)
        self._idle: list[Cursor[E]] = []
        self._away: list[Cursor[E]] = []

    async def next(self) -> tuple[Cursor[E], list[Any]] | None:
        """Return the next entries of one partition; ``None`` when stopped or, once, at the end of all.

        Cancelled, every cursor stands where it stood.

        Raises:
            Truncated: What comes next was removed.
            Diverged: What was read last is not there any more.
        """
        while not self._stop.is_set():
            if not self._ready:
                if self._once:
                    return None
                await self._wait()
                continue
            cursor = self._ready[0]
            try:
                if cursor.pages is None:
                    cursor.place(await self._begin(cursor.core))
                    continue
                entries = await cursor.pages.next()
            except GridsyncError as error:
                self.failed(cursor, error)
                continue
            self._ready.popleft()
            cursor.pause = PAUSE_MIN
            if entries:
                self._ready.append(cursor)
                return cursor, entries
            cursor.due = self._io.monotonic() + BLOCK_MAX
            self._idle.append(cursor)
        return None

    def failed(self, cursor: Cursor[E], error: GridsyncError) -> None:
        """Let *cursor* rest, as long as others may be read; raise what no waiting heals, or if nobody waits."""
        if self._once:
            raise error
        raise_if_final(error)
        _log.warning("%s, next attempt in %.1f s: %s", cursor.core.log_name, cursor.pause, error)
        for those in (self._ready, self._idle):
            if cursor in those:
                those.remove(cursor)
        if cursor not in self._away:
            self._away.append(cursor)
            cursor.due = self._io.monotonic() + cursor.pause
            cursor.pause = min(cursor.pause * 2, PAUSE_MAX)

    async def _wait(self) -> None:
        """Wait until some partition is to be looked at, or until stopped."""
        wait = min(cursor.due for cursor in (*self._idle, *self._away)) - self._io.monotonic()
        if wait > SOON:
            if self._idle:
                await self._watch(wait)
            else:
                await self._stop.wait(wait)
        now = self._io.monotonic() + SOON
        for those in (self._idle, self._away):
            for cursor in [each for each in those if each.due <= now]:
                self._wake(those, cursor)

    def _wake(self, those: list[Cursor[E]], cursor: Cursor[E]) -> None:
        those.remove(cursor)
        self._ready.append(cursor)

    async def _watch(self, wait: float) -> None:
        """Block at the server until one of the idle partitions has something new."""
        if self._io.together([cursor.core.keys.log for cursor in self._idle]):
            await self._listen(tuple(self._idle), wait, self._stop)
            return
        # A blocking read for each: the first that hears something ends the others.
        nudge = self._io.signal()
        drop = self._stop.on_set(nudge.set)
        try:
            await self._io.beside(*(self._listen((cursor,), wait, nudge) for cursor in self._idle))
        finally:
            drop()

    async def _listen(self, cursors: Sequence[Cursor[E]], wait: float, stop: Signal) -> None:
        wait_ms = str(round(wait * 1000))
        # It delivers nothing, so it may be repeated; but nobody waits for its answer any more by then.
        watch = Command("streams.watch", Category.READ, ("XREAD", "COUNT", "1", "BLOCK", wait_ms, "STREAMS"))
        logs = [cursor.core.keys.log for cursor in cursors]
        try:
            heard = await self._io.block(watch, logs, [f"{each.number}-0" for each in cursors], wait=wait, stop=stop)
        except GridsyncError as error:
            for cursor in cursors:
                self.failed(cursor, error)
        else:
            # A map in RESP3, pairs in RESP2, null when there is nothing.
            found = {bytes(key) for key in heard} if isinstance(heard, dict) else {key for key, _ in heard or ()}
            for cursor, log in zip(cursors, logs, strict=True):
                if log.encode() in found:
                    self._wake(self._idle, cursor)
        finally:
            if stop is not self._stop:
                stop.set()
