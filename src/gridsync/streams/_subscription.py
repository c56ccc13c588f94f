"""Subscriptions: from the past into the present with one cursor for each partition, for threads and for asyncio."""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import run_sync
from gridsync.streams._cursors import Cursor, Cursors
from gridsync.streams._model import E
from gridsync.streams._pages import RANGE_BACK, mark_of, read_mark
from gridsync.streams._partitions import read_vector, vector

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType
    from typing import Self

    from gridsync.streams._core import StoreCore
    from gridsync.streams._partitions import Store
    from gridsync.streams._readers import Reader
    from gridsync.streams._records import Recorded

NOW: Final = "now"


class _Subscribed(Generic[E]):
    """What both kinds share: cursors over the logs that wait at their ends."""

    def __init__(
        self,
        store: Store[E],
        after: int | str,
        takes: Callable[[Any], bool] | None,
        partition: int | None = None,
        reader: Callable[[StoreCore[E]], Reader] | None = None,
    ) -> None:
        """Made by the store; *reader* gives who notes how far it has got in a partition."""
        self._name = store.name
        self._takes = takes
        self._stop = store.io.signal()
        cores = store.chosen(partition)
        # Where "now" is, only the server knows, and where a registered reader was.
        self._starts = {} if after == NOW else dict(zip(cores, map(str, read_vector(after, len(cores))), strict=True))
        self._readers = {} if reader is None else {core: reader(core) for core in cores}
        self._cursors: Cursors[E] = Cursors(cores, self._stop, self._begin, takes=takes)
        for cursor in self._cursors.all:
            cursor.seen = self._starts.get(cursor.core, "0")
            read_mark(cursor.seen)
        self._at: Cursor[E] = self._cursors.all[0]
        self._page: deque[Any] = deque()

    @property
    def checkpoint(self) -> str:
        """What to store, and to give to `subscribe` as *after*: the last event that was yielded or passed over.

        Over several partitions it holds that of each.
        """
        return vector([cursor.seen for cursor in self._cursors.all])

    def stop(self) -> None:
        """End the iteration: what was read already is not yielded any more.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    async def _next(self) -> Recorded[E] | None:
        """Return the next event that is wanted; ``None`` when stopped."""
        while not self._stop.is_set():
            if self._readers:
                # Whoever asks for the next event has dealt with this one.
                await self._had(self._at)
            while self._page:
                entry = self._page.popleft()
                if self._takes is None or self._takes(entry):
                    recorded = self._at.core.in_log(entry)
                    self._at.seen = recorded.checkpoint
                    return recorded
                if not self._page:
                    self._at.seen = mark_of(entry).checkpoint()
            # Cancelled here, the cursors stand where they stood.
            if (found := await self._cursors.next()) is not None:
                for cursor in self._cursors.all if self._readers else ():
                    await self._had(cursor)
                self._at = found[0]
                self._page.extend(found[1])
        for cursor in self._cursors.all if self._readers else ():
            await self._had(cursor, now=True)
        return None

    async def _had(self, cursor: Cursor[E], *, now: bool = False) -> None:
        if cursor.pages is not None:
            await self._readers[cursor.core].had(cursor.seen, now=now)

    async def _begin(self, core: StoreCore[E]) -> str:
        reader = self._readers.get(core)
        seen = None if reader is None else await reader.place()
        if seen is None:
            seen = self._starts.get(core)
        if seen is None:
            newest = await core.io.run(RANGE_BACK, (core.keys.log,), ("+", "-", "COUNT", "1"))
            seen = mark_of(newest[0]).checkpoint() if newest else "0"
        if reader is not None:
            # Before the first page, so that nothing goes from under it.
            await reader.had(seen, now=True)
        return seen

    def __repr__(self) -> str:
        """Store, checkpoint and whether it was stopped."""
        stopped = ", stopped" * self._stop.is_set()
        return f"<{type(self).__name__} of {self._name!r} at {self.checkpoint!r}{stopped}>"


class Subscription(_Subscribed[E]):
    """The events of a store, those to come included: an iterator that waits.

    One thread iterates; `stop` may be called from any.  At the end of a ``with`` block it is stopped.

    Guarantee: every event after the checkpoint once, in commit order of its partition, or `Truncated` or `Diverged`
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
