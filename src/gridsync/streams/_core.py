"""The event store: what is decided on this side of `append.lua`.

Redis structures: a stream ``<version>-0`` per aggregate and one log ``<position>-0`` for all of them, both with the
payload; a hash of versions, a hash with the last position, and a sorted set of the newest event ids.  The ids are our
own counters, so a clock that jumps changes nothing, and positions have no gap because the script that gives them out
is the commit.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import Category, Command, load
from gridsync._io.keys import events as event_keys
from gridsync._units import name as checked
from gridsync._units import read_from as source
from gridsync.errors import InvalidEvent, UsageError, WrongVersion
from gridsync.streams._commit import Expected, Plan, as_list, expected_number, given_ids, limited
from gridsync.streams._envelope import EMPTY, unseal
from gridsync.streams._model import Codec, E
from gridsync.streams._records import Appended, Recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, ReadFrom
    from gridsync.streams._commit import Check, Write
    from gridsync.streams._model import Upcasters
    from gridsync.streams._records import Committed

APPEND: Final = load("gridsync.streams", "append")
COMMIT: Final = load("gridsync.streams", "commit")
RANGE: Final = Command("streams.range", Category.READ, ("XRANGE",))

PAGE: Final = 500
"""Entries that one read brings at most."""
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
        args: list[str | bytes] = [_RECENT, about, str(plan.total)]
        for part, its in zip(plan.parts, ids, strict=True):
            args += (part.stream, str(expected_number(part.expected_version)), str(len(its)))
            for event, event_id in zip(part.batch, its, strict=True):
                args += (event_id, *self.codec.dump(event))
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

    def read(self, stream: str, from_version: int, limit: int | None, read_from: ReadFrom) -> Pages:
        """Return the pages of one stream."""
        if from_version < 1:
            raise UsageError(f"from_version={from_version}: versions begin at 1")
        key = self.keys.stream(checked(stream, "the name of a stream"))
        return Pages(self.io, key, from_version, limit, read_from)

    def read_all(self, after: int, limit: int | None, read_from: ReadFrom) -> Pages:
        """Return the pages of the log."""
        if after < 0:
            raise UsageError(f"after={after}: positions begin at 1, 0 reads from the start")
        return Pages(self.io, self.keys.log, after + 1, limit, read_from)

    def in_stream(self, stream: str, entry: Any) -> Recorded[E]:  # noqa: ANN401 - [id, [field, value, ...]]
        """Decode an entry of one stream."""
        try:
            fields = _fields(entry[1])
            version, position = _number(entry[0]), int(fields[b"p"])
        except (KeyError, ValueError) as error:
            raise self._foreign(entry) from error
        return self._recorded(fields, stream, version, position)

    def in_log(self, entry: Any) -> Recorded[E]:  # noqa: ANN401
        """Decode an entry of the log."""
        try:
            fields = _fields(entry[1])
            stream, version, position = fields[b"s"].decode(), int(fields[b"v"]), _number(entry[0])
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


class Pages:
    """A cursor over one stream: each call of `next` is one read of bounded size.

    Made of ids of our own, the cursor stays valid for ever: a reader may pause as long as it likes and sees what was
    appended meanwhile.  It also never goes back, whichever replica answers: one that is behind has nothing new.
    """

    def __init__(self, io: IO, key: str, start: int, limit: int | None, read_from: ReadFrom) -> None:
        """Start at entry number *start*, bring *limit* entries at most."""
        if limit is not None and limit < 0:
            raise UsageError(f"limit={limit}: it cannot be negative; None reads to the end")
        self._io = io
        self._key = key
        self._next = start
        self._left = limit
        self._read_from = source(read_from)

    async def next(self) -> list[Any]:
        """Return the next raw entries; none at the end."""
        count = PAGE if self._left is None else min(PAGE, self._left)
        if count == 0:
            return []
        args = (f"{self._next}-0", "+", "COUNT", str(count))
        entries: list[Any] = await self._io.read(RANGE, (self._key,), args, read_from=self._read_from)
        if entries:
            self._next = _number(entries[-1][0]) + 1
        if self._left is not None:
            self._left = self._left - len(entries) if len(entries) == count else 0
        return entries


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(entry_id: bytes) -> int:
    """Return the number before ``-0``."""
    return int(entry_id[:-2])
