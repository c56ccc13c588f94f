"""What a commit is made of: the versions it expects, and for several streams the parts that it writes or checks."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._units import name as checked
from gridsync.errors import InvalidEvent, UsageError
from gridsync.streams._model import E
from gridsync.streams._records import Appended, Committed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

COMMIT_MAX: Final = 1000
"""Events, or streams, in one commit: a script blocks the server while it runs."""


class Expected(Enum):
    """What a stream must look like for an append, besides a version number."""

    ANY = -1
    """Append whatever the version is."""
    EXISTS = -2
    """Append only if the stream has at least one event."""
    NO_STREAM = 0
    """Append only if the stream has no event yet; the same as version 0."""


@dataclass(frozen=True, slots=True)
class Write(Generic[E]):
    """A part of a commit: events for one stream."""

    stream: str
    """The stream's name."""
    events: E | Sequence[E]
    """One model instance, or a sequence of them."""
    expected_version: int | Expected = Expected.ANY
    """The version the decision was made at, as in `EventStore.append`."""
    event_ids: str | Sequence[str] | None = None
    """One id per event, unique in the stream; generated when left out."""

    @property
    def batch(self) -> Sequence[E]:
        """The events, as a sequence."""
        return self.events if isinstance(self.events, list | tuple) else as_list(self.events)


@dataclass(frozen=True, slots=True)
class Check:
    """A part of a commit: a stream that the decision depends on, and to which nothing is written."""

    stream: str
    """The stream's name."""
    expected_version: int | Expected
    """The version the decision was made at: a number (0 for no event), ``NO_STREAM`` or ``EXISTS``."""

    @property
    def batch(self) -> tuple[()]:
        """No events."""
        return ()


class Plan(Generic[E]):
    """The parts of one commit, checked."""

    def __init__(self, parts: Sequence[Write[E] | Check], least: int = 1) -> None:
        """Check *parts*, which write at least so many events; nothing is sent."""
        self.parts = tuple(parts)
        for part in self.parts:
            if not isinstance(part, Write | Check):
                raise UsageError(f"a commit consists of Write(...) and Check(...), not of {part!r:.100}")
            checked(part.stream, "the name of a stream")
            if isinstance(part, Write):
                if not part.batch:
                    raise UsageError(f"nothing is written to stream {part.stream!r}: use Check(...) for that")
            elif part.expected_version is Expected.ANY:
                raise UsageError(f"Check({part.stream!r}, ANY) checks nothing")
        if len({part.stream for part in self.parts}) != len(self.parts):
            raise UsageError("a stream stands in one part of a commit only: put all its events into one Write(...)")
        self.total = sum(len(part.batch) for part in self.parts)
        limited(self.total, least)
        if len(self.parts) > COMMIT_MAX:
            raise UsageError(f"a commit touches at most {COMMIT_MAX} streams, not {len(self.parts)}")

    def ids(self, new: Callable[[int], tuple[str, ...]]) -> list[tuple[str, ...]]:
        """Return the ids of each part: those that were given, and *new* ones."""
        # Chosen once, as in an append: however often the request is sent again, it is the same commit.
        fresh, chosen, used = new(self.total), [], 0
        for part in self.parts:
            count = len(part.batch)
            given = part.event_ids if isinstance(part, Write) else None
            chosen.append(fresh[used : used + count] if given is None else given_ids(given, count))
            used += count
        return chosen

    def words(self, ids: Sequence[tuple[str, ...]], dump: Callable[[E], tuple[str, bytes]]) -> list[str | bytes]:
        """Return what the scripts are told of the parts."""
        words: list[str | bytes] = []
        for part, its in zip(self.parts, ids, strict=True):
            words += (part.stream, str(expected_number(part.expected_version)), str(len(its)))
            for event, event_id in zip(part.batch, its, strict=True):
                words += (event_id, *dump(event))
        return words

    def answer(self, ids: Sequence[tuple[str, ...]], ends: Sequence[int], *, replayed: bool) -> Committed:
        """Return the result; *ends* are version and position of the last event of each stream that was written."""
        written = [(part.stream, its) for part, its in zip(self.parts, ids, strict=True) if its]
        return Committed(
            {
                stream: Appended(version, position, its, replayed)
                for (stream, its), version, position in zip(written, ends[::2], ends[1::2], strict=True)
            },
            max(ends[1::2]),
            replayed,
        )


def limited(count: int, least: int = 1) -> None:
    """Refuse a commit of nothing, or of too much."""
    if not least <= count <= COMMIT_MAX:
        todo = "split it into several appends" if count else "give it an event, or leave it out"
        raise UsageError(f"a commit takes 1 to {COMMIT_MAX} events, not {count}; {todo}")


def as_list(events: Any) -> Sequence[Any]:  # noqa: ANN401
    """Return one event as a list of one, and refuse what was surely meant otherwise."""
    if isinstance(events, dict | str | bytes):
        raise InvalidEvent(f"events are instances of the store's models, got {type(events).__name__} {events!r:.80}")
    return (events,)


def expected_number(expected: int | Expected) -> int:
    """Return what the scripts call it."""
    if isinstance(expected, Expected):
        return expected.value
    if isinstance(expected, bool) or not isinstance(expected, int) or expected < 0:
        raise UsageError(f"expected_version={expected!r}: give a version from 0 on, ANY, NO_STREAM or EXISTS")
    return expected


def given_ids(given: str | Sequence[str], count: int) -> tuple[str, ...]:
    """Return the ids that a caller gave to *count* events."""
    ids = (given,) if isinstance(given, str) else tuple(given)
    if len(ids) != count or len(set(ids)) != count or not all(isinstance(i, str) and i for i in ids):
        raise UsageError(
            f"event_ids={given!r}: {count} events need {count} different ids that are strings and not empty"
        )
    if any(not each.isascii() and not _encodable(each) for each in ids):
        raise UsageError(f"event_ids={given!r}: an id is text that UTF-8 can encode, so without lone surrogates")
    return ids


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
