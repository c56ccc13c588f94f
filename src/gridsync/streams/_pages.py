"""Reading, page by page: each page proves that it goes on where the last one ended.

Ids are our own counters without gaps, so a reader knows which one comes next.  A page begins with the event that was
read last, and counts only if that is still the same: a server that took over without the last events, or a store that
was begun anew, would otherwise be read on from the middle of another history.  One answer of one server holds both
the proof and what follows, so nothing can come between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeAlias

from gridsync._io import Category, Command
from gridsync._units import read_from as source
from gridsync.errors import Diverged, Truncated, UsageError
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO, ReadFrom
    from gridsync.streams._records import Recorded

RANGE: Final = Command("streams.range", Category.READ, ("XRANGE",))
RANGE_BACK: Final = Command("streams.range_back", Category.READ, ("XREVRANGE",))

PAGE: Final = 500
"""Entries that one read brings at most."""


class Mark(NamedTuple):
    """An event that was read: its number, and what tells it from another one with that number."""

    number: int
    identity: tuple[bytes, bytes] | None
    """Its id and the time of its commit; ``None`` for whatever stands there."""

    def checkpoint(self) -> str:
        """Return it as text to be stored; see `read_mark`."""
        if self.identity is None:
            return str(self.number)
        event_id, time = self.identity
        return checkpoint(self.number, time.decode(), event_id.decode())


def checkpoint(position: int, time: object, event_id: str) -> str:
    """Return what a reader stores about the last event it has seen."""
    return f"{position}:{time}:{event_id}"


def read_mark(after: int | str) -> Mark | None:
    """Return what a caller says it has seen: a position or a checkpoint; ``None`` for nothing.

    Raises:
        UsageError: It is neither.
    """
    position, _, rest = str(after).partition(":")
    time, _, event_id = rest.partition(":")
    readable = position.isdecimal() and position.isascii() and (not rest or (time.isdecimal() and event_id))
    if not isinstance(after, int | str) or isinstance(after, bool) or not readable:
        raise UsageError(f"after={after!r:.100}: give a position from 0 on, or the checkpoint of an event")
    if int(position) == 0:
        return None
    return Mark(int(position), (event_id.encode(), time.encode()) if rest else None)


def mark_of(entry: Any) -> Mark:  # noqa: ANN401 - [id, [field, value, ...]]
    """Return what is remembered of an entry."""
    flat = entry[1]
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    return Mark(number(entry), (fields.get(b"i", b""), fields.get(b"w", b"")))


def number(entry: Any) -> int:  # noqa: ANN401
    """Return the number before ``-0``."""
    return int(entry[0][:-2])


Older: TypeAlias = "Callable[[int, int], Awaitable[list[Any]]]"


class Pages:
    """A cursor over one stream: each call of `next` is one read of bounded size.

    Made of ids of our own, the cursor stays valid for ever: a reader may pause as long as it likes and sees what was
    appended meanwhile.  It also never goes back, whichever replica answers: one that is behind has nothing new.
    """

    def __init__(
        self,
        io: IO,
        key: str,
        name: str,
        *,
        start: int = 1,
        mark: Mark | None = None,
        end: int | None = None,
        reverse: bool = False,
        limit: int | None = None,
        read_from: ReadFrom = "primary",
        absent: Callable[[ReadFrom], Awaitable[None]],
        fill: Callable[..., Awaitable[list[Any]]] | None = None,
        older: Older | None = None,
    ) -> None:
        """Bring *limit* entries from number *start*, or what follows *mark*, to *end*; *name* goes into errors.

        *absent* is awaited whenever there is nothing at all: it may know that this is the wrong place to look.
        *fill* brings what the entries leave out, from where they were read.
        *older* brings so many entries from a number on of those that were removed, as far as somebody has them.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"limit={limit}: it cannot be negative; None reads to the end")
        self.mark = mark
        self._io = io
        self._key = key
        self._name = name
        self._start = start if mark is None else mark.number + 1
        self._end = end
        self._reverse = reverse
        self._left = limit
        self._read_from = source(read_from)
        self._absent = absent
        self._fill = fill
        self._older = older

    async def next(self) -> list[Any]:
        """Return the next raw entries; none at the end.

        Raises:
            Truncated: What comes next was removed.
            Diverged: What was read last is not there any more.
        """
        count = PAGE if self._left is None else min(PAGE, self._left)
        if count == 0 or (self._end is not None and self._start > self._end):
            return []
        entries = await (self._back(count) if self._reverse else self._forth(count))
        if self._left is not None:
            at_the_end = len(entries) < count and not self._reverse
            self._left = 0 if at_the_end else self._left - len(entries)
        return entries

    async def prove(self) -> None:
        """Ask whether what was read last is still there.

        Raises:
            Diverged: It is not.
        """
        mark = self.mark
        if mark is not None:
            args = (f"{mark.number}-0", "+", "COUNT", "1")
            self._proven(mark, await self._io.read(RANGE, (self._key,), args, read_from=self._read_from))

    async def _forth(self, count: int) -> list[Any]:
        mark = self.mark
        low, asked = (self._start, count) if mark is None else (mark.number, count + 1)
        args = (f"{low}-0", "+" if self._end is None else f"{self._end}-0", "COUNT", str(asked))
        entries: list[Any] = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
        if not entries:
            await self._absent(self._read_from)
        removed: list[Any] = []
        if self._end is not None if not entries else number(entries[0]) > self._start:
            removed = await self._removed(low, asked, self._start)
            entries = removed or entries
        if mark is not None:
            entries = self._proven(mark, entries)[:count]
        if not entries:
            await self._nothing_beyond(self._start)
        else:
            if number(entries[0]) != self._start:
                raise self._truncated(self._start, number(entries[0]))
            if self._fill is not None and not removed:
                entries = await self._fill(entries, read_from=self._read_from)
            self.mark = mark_of(entries[-1])
            self._start = self.mark.number + 1
        return entries

    def _proven(self, mark: Mark, entries: list[Any]) -> list[Any]:
        """Return what follows *mark* in a page that should begin with it."""
        if not entries:
            if self._read_from != "primary":
                return []  # a replica that is behind
            raise self._diverged(mark, "there is nothing any more from there on")
        if number(entries[0]) != mark.number:
            return entries  # it was removed, which is well as long as the next one is there
        if mark.identity is not None and mark_of(entries[0]) != mark:
            raise self._diverged(mark, f"another one stands there now, {mark_of(entries[0]).checkpoint()!r}")
        return entries[1:]

    async def _back(self, count: int) -> list[Any]:
        args = ("+" if self._end is None else f"{self._end}-0", f"{self._start}-0", "COUNT", str(count))
        entries: list[Any] = await self._io.read(RANGE_BACK, (self._key,), args, read_from=self._read_from)
        if not entries:
            await self._absent(self._read_from)
        removed: list[Any] = []
        if self._end is not None and (not entries or number(entries[0]) != self._end):
            low = max(self._start, self._end - count + 1)
            removed = (await self._removed(low, self._end - low + 1, self._end))[::-1]
            entries = removed or entries
        if self.mark is not None and self._end is not None and (not entries or number(entries[0]) != self._end):
            raise self._truncated(self._end, self._end + 1)
        if not entries:
            await self._nothing_beyond(self._start)
        else:
            if self._fill is not None and not removed:
                entries = await self._fill(entries, read_from=self._read_from)
            self.mark = mark_of(entries[-1])
            self._end = self.mark.number - 1
        return entries

    async def _removed(self, low: int, count: int, wanted: int) -> list[Any]:
        """Return what was removed from *low* on, if the one that is *wanted* is among it."""
        if self._older is None:
            return []
        found = await self._older(low, count)
        return (
            [entry for entry in found if self._end is None or number(entry) <= self._end]
            if any(number(entry) == wanted for entry in found)
            else []
        )

    async def _nothing_beyond(self, wanted: int) -> None:
        """Tell an end that nobody has reached yet from one that was removed."""
        if self._end is None:
            return
        args = (f"{self._end + 1}-0", "+", "COUNT", "1")
        later = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
        if later:
            raise self._truncated(wanted, number(later[0]))

    def _truncated(self, wanted: int, first: int) -> Truncated:
        return Truncated(
            f"{self._name}: number {wanted} was to be read, and the first that is there is {first}: older events were "
            "removed; go on from there, or restore them",
            name=self._name,
            first=first,
        )

    def _diverged(self, mark: Mark, what: str) -> Diverged:
        return Diverged(
            f"{self._name}: event {mark.checkpoint()!r} was read before, and {what}: a failover or a restore has lost "
            "events that were seen already; undo what came of them, and start again from a position that is sure",
            name=self._name,
            checkpoint=mark.checkpoint(),
        )


class Paged(Protocol):
    """What brings entries page by page."""

    async def next(self) -> list[Any]:
        """Return the next raw entries; none at the end."""


class Reading(Generic[E]):
    """Pages, what is wanted of them, and how it is decoded."""

    def __init__(
        self,
        pages: Paged,
        decode: Callable[[Any], Recorded[E]],
        wanted: Callable[[Any], bool] | None = None,
        limit: int | None = None,
    ) -> None:
        """Yield at most *limit* of those that are *wanted*."""
        self._pages = pages
        self.decode = decode
        self._wanted = wanted
        self._left = limit

    async def next(self) -> list[Any]:
        """Return the next raw entries, which `decode` reads until this is called again; none at the end."""
        return await self._pages.next()

    def takes(self, entry: Any) -> bool:  # noqa: ANN401
        """Tell whether *entry* is wanted."""
        return self._wanted is None or self._wanted(entry)

    def ended(self) -> bool:
        """Count one that was wanted; true if it was the last."""
        if self._left is not None:
            self._left -= 1
        return self._left == 0


def wanted(types: frozenset[bytes] | None, category: str | None) -> Callable[[Any], bool] | None:
    """Return what tells entries of the log with one of these types and of this category; ``None`` for all.

    It looks at the places that the wire contract names, and decodes nothing.
    """
    if types is None and category is None:
        return None
    own = None if category is None else category.encode()

    def look(entry: Any) -> bool:  # noqa: ANN401
        flat = entry[1]
        if flat[2:7:4] != [b"s", b"t"]:
            return True  # not ours: whoever decodes it says so
        if own is not None and flat[3].partition(b"-")[0] != own:
            return False
        if types is None or flat[7] in types:
            return True
        name, _, version = flat[7].rpartition(b"#")
        return version.isdigit() and name in types

    return look
