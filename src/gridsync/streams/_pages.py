"""Reading, page by page: each page proves that it goes on where the last one ended.

Ids are our own counters without gaps, so a reader knows which one comes next.  A page begins with the event that was
read last, and counts only if that is still the same: a server that took over without the last events, or a store that
was begun anew, would otherwise be read on from the middle of another history.  One answer of one server holds both
the proof and what follows, so nothing can come between.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple, Protocol, TypeAlias

from gridsync._io import Category, Command
from gridsync._units import encoded
from gridsync._units import read_from as source
from gridsync.errors import Diverged, Truncated, UsageError
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO, ReadFrom
    from gridsync.streams._records import Recorded

RANGE: Final = Command("streams.range", Category.READ, ("XRANGE",))
RANGE_BACK: Final = Command("streams.range_back", Category.READ, ("XREVRANGE",))

_DIGITS_MAX: Final = 18
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
    # The server takes no number above 64 bits, and no position comes near.
    counts = position.isdecimal() and position.isascii() and len(position) <= _DIGITS_MAX
    readable = counts and (not rest or (time.isdecimal() and event_id))
    if not isinstance(after, int | str) or isinstance(after, bool) or not readable:
        raise UsageError(f"after={after!r:.100}: give a position from 0 on, or the checkpoint of an event")
    if int(position) == 0:
        return None
    return Mark(int(position), (encoded(event_id, "the id in a checkpoint"), time.encode()) if rest else None)


def mark_of(entry: Any) -> Mark:  # noqa: ANN401 - [id, [field, value, ...]]
    """Return what is remembered of an entry."""
    flat = entry[1]
    if is_hole(entry):
        return Mark(number(entry), None)
    fields = dict(zip(flat[::2], flat[1::2], strict=False))
    return Mark(number(entry), (fields.get(b"i", b""), fields.get(b"w", b"")))


def number(entry: Any) -> int:  # noqa: ANN401
    """Return the number before ``-0``."""
    return int(entry[0][:-2])


ERASED: Final = b"x"
"""The only field besides stream and version of what stands in a file where an event was erased."""


def hole(position: int, stream: bytes, version: bytes) -> Any:  # noqa: ANN401
    """Return what stands for an event that was erased."""
    return [b"%d-0" % position, [b"s", stream, b"v", version, ERASED, b""]]


def is_hole(entry: Any) -> bool:  # noqa: ANN401
    """Tell whether *entry* stands for an event that was erased."""
    return len(entry[1]) == _HOLE and entry[1][4] == ERASED


_HOLE: Final = 6
Older: TypeAlias = "Callable[[int, int], Awaitable[list[Any]]]"


class Erased(Protocol):
    """What knows which numbers were erased, so that they are passed and not missed."""

    async def all(self, low: int, high: int, read_from: ReadFrom) -> bool:
        """Tell whether every one from *low* to *high* was."""

    async def shown(self, low: int, high: int) -> list[Any]:
        """Return what stands for each of them, all of which were."""


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
        erased: Erased,
        holes: bool = False,
    ) -> None:
        """Bring *limit* entries from number *start*, or what follows *mark*, to *end*; *name* goes into errors.

        *absent* is awaited whenever there is nothing at all: it may know that this is the wrong place to look.
        *fill* brings what the entries leave out, from where they were read.
        *older* brings so many entries from a number on of those that were removed, as far as somebody has them.
        *erased* tells which numbers were erased; with *holes* something stands for each of those that is passed.
        """
        if limit is not None and limit < 0:
            raise UsageError(f"limit={limit}: it cannot be negative; None reads to the end")
        self.mark = mark
        self.size = PAGE
        """Entries that the next read brings at most; may be set."""
        self.more: bool = True
        """Whether there may have been more behind the last page; a short answer to an open question proves the end."""
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
        self._erased = erased
        self._holes = holes
        self._shows = False

    async def next(self) -> list[Any]:
        """Return the next raw entries; none at the end.

        Raises:
            Truncated: What comes next was removed.
            Diverged: What was read last is not there any more.
        """
        while True:
            count = self.size if self._left is None else min(self.size, self._left)
            if count == 0 or (self._end is not None and self._start > self._end):
                return []
            self._shows = False
            found = await (self._back(count) if self._reverse else self._forth(count))
            # In files something stands where an event was erased, and behind a link that leads nowhere.
            entries = [entry for entry in found if not is_hole(entry)] if self._shows and not self._holes else found
            if self._left is not None:
                at_the_end = len(found) < count and not self._reverse
                self._left = 0 if at_the_end else self._left - len(entries)
            if entries or not found:
                return entries

    async def prove(self) -> None:
        """Ask whether what was read last is still there.

        Raises:
            Diverged: It is not.
        """
        mark = self.mark
        if mark is not None:
            args = (f"{mark.number}-0", "+", "COUNT", "1")
            entries = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
            if entries or not await self._gone(mark.number, mark.number):
                self._proven(mark, entries)

    async def _forth(self, count: int) -> list[Any]:
        mark = self.mark
        low, asked = (self._start, count) if mark is None else (mark.number, count + 1)
        args = (f"{low}-0", "+" if self._end is None else f"{self._end}-0", "COUNT", str(asked))
        entries: list[Any] = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
        if not entries:
            await self._absent(self._read_from)
            if mark is not None and await self._gone(mark.number, mark.number):
                return []
        # Up to a given end, what is missing there may have been removed.
        last = number(entries[-1]) if entries and len(entries) < asked and self._end is None else None
        removed: list[Any] = []
        if entries and number(entries[0]) > self._start and await self._gone(self._start, number(entries[0]) - 1):
            if self._holes:
                return await self._passed(number(entries[0]) - 1)
            self._start = number(entries[0])
        elif self._end is not None if not entries else number(entries[0]) > self._start:
            removed = await self._removed(low, asked, self._start)
            entries = removed or entries
        if mark is not None:
            entries = self._proven(mark, entries)[:count]
        if not entries:
            await self._nothing_beyond(self._start)
        else:
            if number(entries[0]) != self._start:
                # Behind the one that was read last, which is still there.
                if not await self._gone(self._start, number(entries[0]) - 1):
                    raise self._truncated(self._start, number(entries[0]))
                if self._holes:
                    return await self._passed(number(entries[0]) - 1)
            if self._holes and number(entries[-1]) - self._start >= len(entries):
                # What is missing in between is shown next.
                run = (k for k, entry in enumerate(entries) if number(entry) != number(entries[0]) + k)
                entries = entries[: next(run, None)]
            if self._fill is not None and not removed:
                entries = await self._fill(entries, read_from=self._read_from)
                self._shows = True
            self.mark = mark_of(entries[-1])
            self._start = self.mark.number + 1
            self.more = last != self.mark.number
        return entries

    async def _gone(self, low: int, high: int) -> bool:
        """Tell whether all from *low* to *high* were erased."""
        return await self._erased.all(low, high, self._read_from)

    async def _passed(self, high: int) -> list[Any]:
        """Return what stands for those that were erased, up to *high* or for a page."""
        high = min(high, self._start + self.size - 1)
        shown = await self._erased.shown(self._start, high)
        self.mark, self._start = Mark(high, None), high + 1
        return shown

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
            top = number(entries[0]) if entries else self._start - 1
            if await self._gone(top + 1, self._end):
                if not entries:
                    return []
                self._end = top
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
                self._shows = True
            self.mark = mark_of(entries[-1])
            self._end = self.mark.number - 1
        return entries

    async def _removed(self, low: int, count: int, wanted: int) -> list[Any]:
        """Return what was removed from *low* on, if the one that is *wanted* is among it."""
        if self._older is None:
            return []
        found = await self._older(low, count)
        if not any(number(entry) == wanted for entry in found):
            return []
        self._shows = True
        return [entry for entry in found if self._end is None or number(entry) <= self._end]

    async def _nothing_beyond(self, wanted: int) -> None:
        """Tell an end that nobody has reached yet from one that was removed."""
        if self._end is None:
            return
        args = (f"{self._end + 1}-0", "+", "COUNT", "1")
        later = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
        if later and not await self._gone(wanted, self._end):
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

    more: bool
    """Whether it is worth asking for the next page."""

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
        return await self._pages.next() if self._pages.more else []

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
