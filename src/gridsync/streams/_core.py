"""The event store: what is decided on this side of `append.lua`.

Redis structures: a stream ``<version>-0`` per aggregate and one log ``<position>-0`` for all of them, both with the
payload; a hash of versions, a hash with the last position, and a sorted set of the newest event ids.  The ids are our
own counters, so a clock that jumps changes nothing, and positions have no gap because the script that gives them out
is the commit.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import load
from gridsync._units import name as checked
from gridsync.errors import InvalidEvent, ServerError, UsageError, WrongVersion
from gridsync.streams._cap import again
from gridsync.streams._commit import Expected, Plan, as_list, expected_number, given_ids, limited
from gridsync.streams._directory import PARTITIONED
from gridsync.streams._envelope import EMPTY, unseal
from gridsync.streams._erase import ErasedEvents, ErasedPositions, without_erased
from gridsync.streams._links import OTHER_LOG, dangling, differs, is_dangling, mode, other, resolved
from gridsync.streams._model import Codec, E
from gridsync.streams._pages import Pages, Reading, number, read_mark, wanted
from gridsync.streams._records import Appended, Recorded
from gridsync.streams._sites import READ_ONLY, read_only

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pydantic import BaseModel

    from gridsync._io import IO, Bound, ReadFrom, Script
    from gridsync._io.keys import EventKeys
    from gridsync.streams._archive import Archive
    from gridsync.streams._commit import Check, Write
    from gridsync.streams._directory import Directory
    from gridsync.streams._links import Log
    from gridsync.streams._records import Committed

APPEND: Final = load("gridsync.streams", "append")
COMMIT: Final = load("gridsync.streams", "commit")

RECENT: Final = 10_000
"""How many of the newest events are remembered by id, for replays without an expected version."""
_RECENT: Final = str(RECENT)

REPLAYED: Final = 1
_CONFLICT: Final = 2
"""Codes of `append.lua` and `commit.lua`; below the first one it was written now."""


class StoreCore(Generic[E]):
    """One event store, or one partition of it: its keys, its models, and the calls."""

    def __init__(  # noqa: PLR0917 - made in two places
        self,
        io: IO,
        keys: EventKeys,
        name: str,
        codec: Codec[E],
        directory: Directory,
        partition: int | None = None,
        *,
        log: Log,
    ) -> None:
        """Take what was checked; *partition* is which one of several, ``None`` for all there is."""
        self.io = io
        self.keys = keys
        self.name = name
        self.codec = codec
        self.directory = directory
        self.partition: int = partition or 0
        self.log = log
        self.mode: str = mode(log)
        """What the scripts call that."""
        where = repr(name) if partition is None else f"partition {partition} of {name!r}"
        self.log_name: str = f"the log of {where}"
        self.partitions: tuple[StoreCore[E], ...] = (self,)
        """All partitions, when this is the store."""
        self._older: Callable[[str | None, int, int], Awaitable[list[Any]]] | None = None
        self.home: Callable[[str], int] | None = None
        """Which partition a stream is in, if this is one of several."""

    def of(self, stream: str) -> StoreCore[E]:  # noqa: ARG002 - as `PartitionedCore.of`
        """Return the partition that *stream* is in: this."""
        return self

    def require(self, stream: str) -> None:
        """Refuse a stream that is in another partition than this.

        Raises:
            UsageError: It is.
        """
        if self.home is not None and (home := self.home(stream)) != self.partition:
            raise UsageError(
                f"what is committed with a delivery is in the partition of its event, {self.partition} of "
                f"{self.name!r}, and stream {stream!r} is in {home}: append to it by itself, with event ids made from "
                "the event's, or choose a partition_by that keeps both together"
            )

    def chosen(self, partition: int | None) -> tuple[StoreCore[E], ...]:
        """Return that partition, or all of them."""
        return chosen(self.partitions, partition)

    async def append(
        self,
        stream: str,
        events: E | Sequence[E],
        expected: int | Expected,
        event_ids: str | Sequence[str] | None,
        about: str,
    ) -> Appended:
        """Commit *events*; see `EventStore.append`."""
        wanted = expected_number(expected)
        batch = events if isinstance(events, list | tuple) else as_list(events)
        limited(len(batch))
        # The ids are chosen here, once: however often the request is sent again, it is the same commit.
        ids = self.new_ids(len(batch)) if event_ids is None else given_ids(event_ids, len(batch))
        args: list[str | bytes] = [checked(stream, "the name of a stream"), str(wanted), _RECENT, about, self.mode]
        for event, event_id in zip(batch, ids, strict=True):
            args += (event_id, *self.codec.dump(event))
        keys = self.keys
        # A lost reply may mean written: the script finds the same ids and gives the first answer again.
        touched = (keys.meta, keys.versions, keys.log, keys.recent, keys.stream(stream))
        try:
            reply = await self.io.run(APPEND, touched, args)
        except ServerError as error:
            await self.compare(error)
            raise
        if reply[0] > REPLAYED:
            reply = await again(self, reply, APPEND, touched, args, len(batch))
            if reply[0] > REPLAYED:
                raise self.wrong_version(reply[0], stream, expected, reply[1])
        return Appended(reply[1], reply[2], ids, reply[0] == REPLAYED)

    async def commit(self, parts: Sequence[Write[E] | Check], about: str) -> Committed:
        """Commit events to several streams; see `EventStore.commit`."""
        plan = Plan(parts)
        keys, ids = self.keys, plan.ids(self.new_ids)
        args = (_RECENT, about, str(plan.total), self.mode, *plan.words(ids, self.codec.dump))
        touched = (keys.meta, keys.versions, keys.log, keys.recent, *(keys.stream(part.stream) for part in plan.parts))
        # As with an append: a lost reply may mean written, and the script finds the same ids.
        try:
            reply = await self.io.run(COMMIT, touched, args)
        except ServerError as error:
            await self.compare(error)
            raise
        reply = await again(self, reply, COMMIT, touched, args, plan.total)
        code = reply[0]
        if code <= REPLAYED:
            return plan.answer(ids, reply[1:], replayed=code == REPLAYED)
        refused = plan.parts[reply[1] - 1]
        raise self.wrong_version(code, refused.stream, refused.expected_version, reply[2])

    async def again(
        self,
        reply: Any,  # noqa: ANN401
        script: Script | Bound,
        keys: Sequence[str],
        args: Sequence[object],
        count: int,
    ) -> Any:  # noqa: ANN401
        """Return the reply of *script*, by which another wing appends, after room was made; see `_cap.again`."""
        return await again(self, reply, script, keys, args, count)

    async def compare(self, error: ServerError) -> None:
        """Say more of *error*, if it is that the store was begun with other options, or takes no events.

        Raises:
            UsageError: It is.
            ReadOnlyStore: It takes no events here.
        """
        if error.code == PARTITIONED:
            await self.directory.look()
        if error.code == OTHER_LOG:
            raise other(self.name, self.log) from error
        if error.code == READ_ONLY:
            raise read_only(self.name, error) from error

    async def filled(
        self, entries: list[Any], takes: Callable[[Any], bool] | None = None, read_from: ReadFrom = "primary"
    ) -> list[Any]:
        """Return entries of the log with their payloads, wherever these are; see `_links.resolved`."""
        if not entries:
            return entries
        if differs(entries[0], self.mode):
            raise other(self.name, self.log)
        return await resolved(self.io, self.keys, entries, takes, read_from) if self.mode else entries

    async def _page(self, entries: list[Any], takes: Callable[[Any], bool] | None, read_from: ReadFrom) -> list[Any]:
        """Return a page with its payloads, and what stands for those that were erased since it was read."""
        whole = await self.filled(entries, takes, read_from)
        if any(is_dangling(entry) and (takes is None or takes(entry)) for entry in whole):
            return await without_erased(self.io, self.keys, whole, None)
        return whole

    def wrong_version(
        self, code: int, stream: str, expected: int | Expected, version: int, done: str = "appended"
    ) -> WrongVersion:
        """Return the error for a code of `append.lua` or `commit.lua`."""
        shown = expected.name if isinstance(expected, Expected) else expected
        if code == _CONFLICT:
            message = (
                f"stream {stream!r} of {self.name!r} is at version {version}, expected {shown}; nothing was {done}: "
                "read what is new, decide again and do it at that version"
            )
        else:
            message = (
                f"some of these event ids are in stream {stream!r} of {self.name!r} already, but not all in this "
                "order; nothing was appended: repeat a commit as it was, or give new events new ids"
            )
        return WrongVersion(message, stream=stream, expected=shown, actual=version)

    def read(
        self,
        stream: str,
        *,
        from_version: int,
        to_version: int | None,
        reverse: bool,
        limit: int | None,
        read_from: ReadFrom,
    ) -> Reading[E]:
        """Return the pages of one stream."""
        for what, version in (("from_version", from_version), ("to_version", to_version)):
            if version is not None and version < 1:
                raise UsageError(f"{what}={version}: versions begin at 1")
        pages = self.stream_pages(
            checked(stream, "the name of a stream"),
            start=from_version,
            end=to_version,
            reverse=reverse,
            limit=limit,
            read_from=read_from,
        )
        return Reading(pages, lambda entry: self.in_stream(stream, entry))

    def read_all(
        self,
        *,
        after: int | str,
        before: int | None,
        partition: int | None,
        reverse: bool,
        takes: Callable[[Any], bool] | None,
        limit: int | None,
        read_from: ReadFrom,
    ) -> Reading[E]:
        """Return the pages of the log."""
        self.chosen(partition)
        if before is not None and before < 1:
            raise UsageError(f"before={before}: positions begin at 1")
        mark = read_mark(after)
        start = 1 if mark is None else mark.number + 1
        pages = self.log_pages(
            takes=takes,
            start=start,
            # Backwards it is the other end that is proven, page by page.
            mark=None if reverse else mark,
            end=None if before is None else before - 1,
            reverse=reverse,
            # How many must be read until so many are wanted, nobody knows.
            limit=limit if takes is None or not limit else None,
            read_from=read_from,
        )
        return Reading(pages, self.in_log, takes, limit)

    def takes(
        self, types: Sequence[str | type[BaseModel]] | None, category: str | None
    ) -> Callable[[Any], bool] | None:
        """Return what tells the entries of these types and this category; see `EventStore.read_all`."""
        if category is not None and "-" in checked(category, "a category"):
            raise UsageError(f"category={category!r}: it is the part of a stream's name before the first -")
        if types is None:
            return wanted(None, category)
        if isinstance(types, str) or not types:
            raise UsageError(f"types={types!r}: give a sequence of models or type names")
        return wanted(frozenset(name.encode() for each in types for name in self.codec.names(each)), category)

    def stream_pages(self, stream: str, **options: Any) -> Pages:  # noqa: ANN401 - those of `Pages`
        """Return a cursor over one stream."""
        key, name = self.keys.stream(stream), f"stream {stream!r} of {self.name!r}"
        older, erased = self._older and partial(self._older, stream), ErasedEvents(self.io, self.keys, stream)
        return Pages(self.io, key, name, absent=self.directory.look, older=older, erased=erased, **options)

    def log_pages(
        self,
        *,
        takes: Callable[[Any], bool] | None = None,
        **options: Any,  # noqa: ANN401 - those of `Pages`
    ) -> Pages:
        """Return a cursor over the log; of what *takes* does not want, the payload may be missing."""
        fill = partial(self._page, takes=takes) if self.mode else None
        older, erased = self._older and partial(self._older, None), ErasedPositions(self.io, self.keys)
        look, log = self.directory.look, self.keys.log
        return Pages(self.io, log, self.log_name, absent=look, fill=fill, older=older, erased=erased, **options)

    def read_through(self, archive: Archive) -> None:
        """Let readers go on in *archive* where the server has removed events."""

        async def older(stream: str | None, low: int, count: int) -> list[Any]:
            one = partial(archive.page, low, count)
            found = await self.io.aside(one if stream is None else partial(archive.stream_page, stream, low, count))
            return await without_erased(self.io, self.keys, found, stream)

        self._older = older

    def in_stream(self, stream: str, entry: Any) -> Recorded[E]:  # noqa: ANN401 - [id, [field, value, ...]]
        """Decode an entry of one stream."""
        try:
            fields = _fields(entry[1])
            version, position = number(entry), int(fields[b"p"])
        except (KeyError, ValueError) as error:
            raise self._foreign(entry) from error
        return self._recorded(fields, stream, version, position)

    def in_log(self, entry: Any) -> Recorded[E]:  # noqa: ANN401
        """Decode an entry of the log."""
        try:
            fields = _fields(entry[1])
            stream, version, position = fields[b"s"].decode(), int(fields[b"v"]), number(entry)
        except (KeyError, ValueError) as error:
            raise self._foreign(entry) from error
        if b"d" not in fields:
            raise dangling(self.log_name, stream, version, position) if self.mode else other(self.name, self.log)
        return self._recorded(fields, stream, version, position)

    def _recorded(self, fields: dict[bytes, bytes], stream: str, version: int, position: int) -> Recorded[E]:
        try:
            stored, data, about = fields[b"t"], fields[b"d"], fields.get(b"m")
            event_id, time_us = fields[b"i"].decode(), int(fields[b"w"])
            envelope = EMPTY if about is None else unseal(about)
        except (KeyError, ValueError) as error:
            raise self._foreign((position, fields)) from error
        where = f"event {version} of stream {stream!r} in {self.name!r} (position {position})"
        event, name, schema_version = self.codec.load(stored, data, where)
        return Recorded(
            event, event_id, stream, version, position, name, time_us, schema_version, envelope, self.partition
        )

    def _foreign(self, entry: Any) -> InvalidEvent:  # noqa: ANN401
        return InvalidEvent(f"entry {entry[0]!r} of {self.name!r} was not written by gridsync: its fields are not ours")

    def new_ids(self, count: int) -> tuple[str, ...]:
        """Return ids that nobody else has."""
        token = self.io.token()
        return (token,) if count == 1 else tuple(f"{token}-{k}" for k in range(count))


def chosen(partitions: tuple[StoreCore[E], ...], partition: int | None) -> tuple[StoreCore[E], ...]:
    """Return one of *partitions*, or all.

    Raises:
        UsageError: There is no such partition.
    """
    if partition is None:
        return partitions
    if isinstance(partition, bool) or not isinstance(partition, int) or not 0 <= partition < len(partitions):
        raise UsageError(f"partition={partition!r:.100}: they are numbered from 0 to {len(partitions) - 1}")
    return partitions[partition : partition + 1]


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
