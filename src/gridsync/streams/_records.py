"""What a store answers: the result of an append, and an event as it was recorded."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync.streams._envelope import EMPTY, Envelope
from gridsync.streams._model import E
from gridsync.streams._pages import checkpoint

if TYPE_CHECKING:
    from collections.abc import Mapping

_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Appended:
    """The answer to an append."""

    version: int
    """The stream's version after the last event of this commit; the first event has version 1."""
    position: int
    """The position of that event among all events of the store, or of its partition; the first has position 1."""
    event_ids: tuple[str, ...]
    """The ids of the events, as given or generated."""
    replayed: bool
    """Whether these events had been written before: then nothing was written, and this is the first answer again."""


@dataclass(frozen=True, slots=True)
class Committed:
    """The answer to a commit of several streams."""

    appended: Mapping[str, Appended]
    """Of each stream that was written to, what an append would have answered."""
    position: int
    """The position of the last event of the commit."""
    replayed: bool
    """Whether all of it had been written before: then nothing was written, and this is the first answer again."""


@dataclass(frozen=True, slots=True)
class Recorded(Generic[E]):
    """An event as it stands in the store."""

    event: E
    """The event itself."""
    id: str
    """Its id, unique in its stream."""
    stream: str
    """The stream it belongs to."""
    version: int
    """Its place in the stream, from 1, without gaps."""
    position: int
    """Its place among all events of the store, or of its partition, from 1, without gaps, in commit order."""
    type: str
    """The type name it was stored under."""
    time_us: int
    """When the server committed it, in microseconds since 1970.  For people: order by `position`, clocks jump."""
    schema_version: int = 1
    """The version of its type's schema that it was stored with; see `EventStore`."""
    envelope: Envelope = EMPTY
    """What is known of the commit that it came with."""
    partition: int = 0
    """The partition of the store that its stream is in, from 0."""

    @property
    def checkpoint(self) -> str:
        """What a reader stores to go on after this event: it says where it stands, and proves that it is this one.

        Of a store in several partitions, it is what a reader of this one partition stores.
        """
        return checkpoint(self.position, self.time_us, self.id)

    @property
    def metadata(self) -> Mapping[str, Any]:
        """What its writer added; empty if nothing."""
        return self.envelope.metadata

    @property
    def correlation_id(self) -> str | None:
        """What everything has in common that was set off by one request."""
        return self.envelope.correlation_id

    @property
    def causation_id(self) -> str | None:
        """The id of the event or command that was the reason for this one."""
        return self.envelope.causation_id

    @property
    def time(self) -> datetime:
        """When the server committed it, in UTC."""
        return _EPOCH + timedelta(microseconds=self.time_us)
