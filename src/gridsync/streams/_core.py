"""The event store: what is decided on this side of `append.lua`.

Redis structures: a stream ``<version>-0`` per aggregate and one log ``<position>-0`` for all of them, both with the
payload; a hash of versions, a hash with the last position, and a sorted set of the newest event ids.  The ids are our
own counters, so a clock that jumps changes nothing, and positions have no gap because the script that gives them out
is the commit.
"""

from __future__ import annotations

from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io import Category, Command, load
from gridsync._io.keys import events as event_keys
from gridsync._units import name as checked
from gridsync._units import read_from as source
from gridsync.errors import InvalidEvent, UsageError, WrongVersion
from gridsync.streams._model import Codec, E
from gridsync.streams._records import Appended, Recorded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, ReadFrom

APPEND: Final = load("gridsync.streams", "append")
RANGE: Final = Command("streams.range", Category.READ, ("XRANGE",))

COMMIT_MAX: Final = 1000
"""Events in one commit: a script blocks the server while it runs."""
PAGE: Final = 500
"""Entries that one read brings at most."""
RECENT: Final = 10_000
"""How many of the newest events are remembered by id, for replays without an expected version."""

_WRITTEN, _REPLAYED, _CONFLICT = 0, 1, 2


class Expected(Enum):
    """What a stream must look like for an append, besides a version number."""

    ANY = -1
    """Append whatever the version is."""
    EXISTS = -2
    """Append only if the stream has at least one event."""
    NO_STREAM = 0
    """Append only if the stream has no event yet; the same as version 0."""


class StoreCore(Generic[E]):
    """One event store: its keys, its models, and the calls."""

    def __init__(self, io: IO, namespace: str, name: str, model: Any) -> None:  # noqa: ANN401
        """Build the codec and the key names once."""
        self.io = io
        self.name = checked(name, "the name of an event store")
        self.codec: Codec[E] = Codec(model)
        self.keys = event_keys(namespace, name)

    async def append(
        self, stream: str, events: E | Sequence[E], expected: int | Expected, event_ids: str | Sequence[str] | None
    ) -> Appended:
        """Commit *events*; see `EventStore.append`."""
        wanted = _expected(expected)
        batch = events if isinstance(events, list | tuple) else _as_list(events)
        if not batch or len(batch) > COMMIT_MAX:
            raise UsageError(
                f"a commit takes 1 to {COMMIT_MAX} events, not {len(batch)}; split it into several appends"
            )
        # The ids are chosen here, once: however often the request is sent again, it is the same commit.
        ids = self._new_ids(len(batch)) if event_ids is None else _given_ids(event_ids, len(batch))
        args: list[str | bytes] = [checked(stream, "the name of a stream"), str(wanted), str(RECENT)]
        for event, event_id in zip(batch, ids, strict=True):
            args += (event_id, *self.codec.dump(event))
        keys = self.keys
        # A lost reply may mean written: the script finds the same ids and gives the first answer again.
        reply = await self.io.run(APPEND, (keys.meta, keys.versions, keys.log, keys.recent, keys.stream(stream)), args)
        code, version = reply[0], reply[1]
        if code <= _REPLAYED:
            return Appended(version, reply[2], ids, code == _REPLAYED)
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
        raise WrongVersion(message, stream=stream, expected=shown, actual=version)

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
            name, data = fields[b"t"].decode(), fields[b"d"]
            event_id, time_us = fields[b"i"].decode(), int(fields[b"w"])
        except (KeyError, ValueError) as error:
            raise self._foreign((position, fields)) from error
        where = f"event {version} of stream {stream!r} in {self.name!r} (position {position})"
        return Recorded(self.codec.load(name, data, where), event_id, stream, version, position, name, time_us)

    def _foreign(self, entry: Any) -> InvalidEvent:  # noqa: ANN401
        return InvalidEvent(f"entry {entry[0]!r} of {self.name!r} was not written by gridsync: its fields are not ours")

    def _new_ids(self, count: int) -> tuple[str, ...]:
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


def _as_list(events: Any) -> Sequence[Any]:  # noqa: ANN401
    """Return one event as a list of one, and refuse what was surely meant otherwise."""
    if isinstance(events, dict | str | bytes):
        raise InvalidEvent(f"events are instances of the store's models, got {type(events).__name__} {events!r:.80}")
    return (events,)


def _expected(expected: int | Expected) -> int:
    if isinstance(expected, Expected):
        return expected.value
    if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:
        raise UsageError(f"expected_version={expected!r}: give a version from 0 on, ANY, NO_STREAM or EXISTS")
    return expected


def _given_ids(given: str | Sequence[str], count: int) -> tuple[str, ...]:
    ids = (given,) if isinstance(given, str) else tuple(given)
    if len(ids) != count or len(set(ids)) != count or not all(isinstance(i, str) and i for i in ids):
        raise UsageError(
            f"event_ids={given!r}: {count} events need {count} different ids that are strings and not empty"
        )
    return ids


def _fields(flat: list[bytes]) -> dict[bytes, bytes]:
    return dict(zip(flat[::2], flat[1::2], strict=True))


def _number(entry_id: bytes) -> int:
    """Return the number before ``-0``."""
    return int(entry_id[:-2])
