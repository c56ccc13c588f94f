"""The event store: what is decided on this side of `append.lua`.

Redis structures: a stream ``<version>-0`` per aggregate and one log ``<position>-0`` for all of them, both with the
payload; a hash of versions, a hash with the last position, and a sorted set of the newest event ids.  The ids are our
own counters, so a clock that jumps changes nothing, and positions have no gap because the script that gives them out
is the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import load
from gridsync._io.keys import events as event_keys
from gridsync._units import name as checked
from gridsync.errors import InvalidEvent, UsageError, WrongVersion
from gridsync.streams._commit import Expected, Plan, as_list, expected_number, given_ids, limited
from gridsync.streams._envelope import EMPTY, unseal
from gridsync.streams._model import Codec, E
from gridsync.streams._pages import Pages, Reading, number, read_mark, wanted
from gridsync.streams._records import Appended, Recorded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pydantic import BaseModel

    from gridsync._io import IO, ReadFrom
    from gridsync.streams._commit import Check, Write
    from gridsync.streams._model import Upcasters
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
    """One event store: its keys, its models, and the calls."""

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        model: Any,  # noqa: ANN401
        upcasters: Upcasters | None = None,
    ) -> None:
        """Build the codec and the key names once."""
        self.io = io
        self.name = checked(name, "the name of an event store")
        self.codec: Codec[E] = Codec(model, upcasters)
        self.keys = event_keys(namespace, name)
        self.log_name = f"the log of {self.name!r}"

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
        args: list[str | bytes] = [checked(stream, "the name of a stream"), str(wanted), _RECENT, about]
        for event, event_id in zip(batch, ids, strict=True):
            args += (event_id, *self.codec.dump(event))
        keys = self.keys
        # A lost reply may mean written: the script finds the same ids and gives the first answer again.
        reply = await self.io.run(APPEND, (keys.meta, keys.versions, keys.log, keys.recent, keys.stream(stream)), args)
        code, version = reply[0], reply[1]
        if code <= REPLAYED:
            return Appended(version, reply[2], ids, code == REPLAYED)
        raise self.wrong_version(code, stream, expected, version)

    async def commit(self, parts: Sequence[Write[E] | Check], about: str) -> Committed:
        """Commit events to several streams; see `EventStore.commit`."""
        plan = Plan(parts)
        keys, ids = self.keys, plan.ids(self.new_ids)
        args = (_RECENT, about, str(plan.total), *plan.words(ids, self.codec.dump))
        touched = (keys.stream(part.stream) for part in plan.parts)
        # As with an append: a lost reply may mean written, and the script finds the same ids.
        reply = await self.io.run(COMMIT, (keys.meta, keys.versions, keys.log, keys.recent, *touched), args)
        code = reply[0]
        if code <= REPLAYED:
            return plan.answer(ids, reply[1:], replayed=code == REPLAYED)
        refused = plan.parts[reply[1] - 1]
        raise self.wrong_version(code, refused.stream, refused.expected_version, reply[2])

    def wrong_version(self, code: int, stream: str, expected: int | Expected, version: int) -> WrongVersion:
        """Return the error for a code of `append.lua` or `commit.lua`."""
        shown = expected.name if isinstance(expected, Expected) else expected
        if code == _CONFLICT:
            message = (
                f"stream {stream!r} of {self.name!r} is at version {version}, expected {shown}; nothing was appended: "
                "read what is new, decide again and append at that version"
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
        pages = Pages(
            self.io,
            self.keys.stream(checked(stream, "the name of a stream")),
            self.stream_name(stream),
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
        reverse: bool,
        takes: Callable[[Any], bool] | None,
        limit: int | None,
        read_from: ReadFrom,
    ) -> Reading[E]:
        """Return the pages of the log."""
        if before is not None and before < 1:
            raise UsageError(f"before={before}: positions begin at 1")
        mark = read_mark(after)
        start = 1 if mark is None else mark.number + 1
        pages = Pages(
            self.io,
            self.keys.log,
            self.log_name,
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

    def stream_name(self, stream: str) -> str:
        """Return what errors call a stream."""
        return f"stream {stream!r} of {self.name!r}"

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
        return Recorded(event, event_id, stream, version, position, name, time_us, schema_version, envelope)

    def _foreign(self, entry: Any) -> InvalidEvent:  # noqa: ANN401
        return InvalidEvent(f"entry {entry[0]!r} of {self.name!r} was not written by gridsync: its fields are not ours")

    def new_ids(self, count: int) -> tuple[str, ...]:
        """Return ids that nobody else has."""
        token = self.io.token()
        return (token,) if count == 1 else tuple(f"{token}-{k}" for k in range(count))


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))
