"""Subscriptions: from the past into the present with one cursor, for threads and for asyncio.

Whatever is delivered was read by range, in pages that prove that they go on where the last one ended (`_pages.py`); a
blocking read only tells that there is something.  So there is no moment at which catching up ends and something else
begins, and a server that took over without the last events is noticed before the first event of another history.
"""

from __future__ import annotations

import logging
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from gridsync._io import Category, Command, run_sync
from gridsync.errors import GridsyncError
from gridsync.streams._away import BLOCK_MAX, PAUSE_MAX, PAUSE_MIN, raise_if_final
from gridsync.streams._model import E
from gridsync.streams._pages import RANGE_BACK, Pages, mark_of, read_mark

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from types import TracebackType
    from typing import Self

    from gridsync._io import Signal
    from gridsync.streams._core import StoreCore
    from gridsync.streams._readers import Reader
    from gridsync.streams._records import Recorded

_BLOCK_MS: Final = str(round(BLOCK_MAX * 1000))
# It delivers nothing, so it may be repeated; but nobody waits for its answer any more by then.
WATCH: Final = Command("streams.watch", Category.READ, ("XREAD", "COUNT", "1", "BLOCK", _BLOCK_MS, "STREAMS"))
NOW: Final = "now"

T = TypeVar("T")

_log = logging.getLogger("gridsync.streams")


async def patiently(core: StoreCore[Any], stop: Signal, attempt: Callable[[], Awaitable[T]]) -> T | None:
    """Return what *attempt* returns, sooner or later; ``None`` when stopped.

    Raises:
        GridsyncError: What no waiting heals.
    """
    pause = PAUSE_MIN
    while not stop.is_set():
        try:
            return await attempt()
        except GridsyncError as error:
            raise_if_final(error)
            _log.warning("%s, next attempt in %.1f s: %s", core.log_name, pause, error)
            await stop.wait(pause)
            pause = min(pause * 2, PAUSE_MAX)
    return None


async def more(core: StoreCore[Any], pages: Pages, stop: Signal) -> list[Any]:
    """Return the next entries of the log; none when stopped, or when there may be some by now.

    Raises:
        Truncated: What comes next was removed.
        Diverged: What was read last is not there any more.
    """

    async def look() -> list[Any]:
        entries = await pages.next()
        if not entries:
            after = 0 if pages.mark is None else pages.mark.number
            await core.io.block(WATCH, (core.keys.log,), (f"{after}-0",), wait=BLOCK_MAX, stop=stop)
        return entries

    return await patiently(core, stop, look) or []


class _Subscribed(Generic[E]):
    """What both kinds share: a cursor over the log that waits at its end."""

    def __init__(
        self,
        core: StoreCore[E],
        after: int | str,
        takes: Callable[[Any], bool] | None,
        reader: Reader | None = None,
    ) -> None:
        """Made by the store."""
        self._io = core.io
        self._core = core
        self._reader = reader
        self._after = after
        self._takes = takes
        self._stop = core.io.signal()
        self._page: deque[Any] = deque()
        # The cursor, once it is known where "now" is, and where a registered reader was.
        pages = None if after == NOW else self._from(after)
        self._pages: Pages | None = None if reader is not None else pages
        self._seen = "0" if after == NOW else str(after)

    @property
    def checkpoint(self) -> str:
        """What to store, and to give to `subscribe` as *after*: the last event that was yielded or passed over."""
        return self._seen

    def stop(self) -> None:
        """End the iteration: what was read already is not yielded any more.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    def _from(self, after: int | str) -> Pages:
        return Pages(self._io, self._core.keys.log, self._core.log_name, mark=read_mark(after))

    async def _next(self) -> Recorded[E] | None:
        """Return the next event that is wanted; ``None`` when stopped."""
        begun = self._pages is not None
        while not self._stop.is_set():
            if self._reader is not None and begun:
                # Whoever asks for the next event has dealt with this one.
                await self._reader.had(self._seen)
            begun = True
            while self._page:
                entry = self._page.popleft()
                if self._takes is None or self._takes(entry):
                    recorded = self._core.in_log(entry)
                    self._seen = recorded.checkpoint
                    return recorded
                if not self._page:
                    self._seen = mark_of(entry).checkpoint()
            pages = self._pages or await patiently(self._core, self._stop, self._begin)
            if pages is not None:
                # Cancelled here, the cursor stands where it stood.
                self._page.extend(await more(self._core, pages, self._stop))
        if self._reader is not None and self._pages is not None:
            await self._reader.had(self._seen, now=True)
        return None

    async def _begin(self) -> Pages:
        noted = None if self._reader is None else await self._reader.place()
        if noted is not None:
            self._seen = noted
        elif self._after == NOW:
            newest = await self._io.run(RANGE_BACK, (self._core.keys.log,), ("+", "-", "COUNT", "1"))
            self._seen = mark_of(newest[0]).checkpoint() if newest else "0"
        if self._reader is not None:
            # Before the first page, so that nothing goes from under it.
            await self._reader.had(self._seen, now=True)
        self._pages = self._from(self._seen)
        return self._pages

    def __repr__(self) -> str:
        """Store, checkpoint and whether it was stopped."""
        stopped = ", stopped" * self._stop.is_set()
        return f"<{type(self).__name__} of {self._core.name!r} at {self._seen!r}{stopped}>"


class Subscription(_Subscribed[E]):
    """The events of a store, those to come included: an iterator that waits.

    One thread iterates; `stop` may be called from any.  At the end of a ``with`` block it is stopped.

    Guarantee: every event after the checkpoint once, in commit order, or `Truncated` or `Diverged`
    (tests/streams/test_subscription.py).
    Not guaranteed: that an event yielded survives a failover; if it did not, the next one is `Diverged`.
    """

    def __iter__(self) -> Self:
        """Return itself."""
        return self

    def __next__(self) -> Recorded[E]:
        """Return the next event; wait for it as long as it takes."""
        recorded = run_sync(self._next())
        if recorded is None:
            raise StopIteration
        return recorded

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()


class AsyncSubscription(_Subscribed[E]):
    """The asyncio twin of `Subscription`.

    One task iterates.  If it is cancelled while it waits, nothing is lost: the next step goes on where it was.

    Guarantee: every event after the checkpoint once, in commit order, or `Truncated` or `Diverged`
    (tests/streams/test_subscription.py).
    """

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> Recorded[E]:
        """Return the next event; wait for it as long as it takes."""
        recorded = await self._next()
        if recorded is None:
            raise StopAsyncIteration
        return recorded

    async def __aenter__(self) -> Self:
        """Return itself."""
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Stop."""
        self.stop()
