"""The event store: `EventStore` for threads, `AsyncEventStore` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic, Literal

from gridsync._io import run_sync
from gridsync.streams._core import Expected, Pages, StoreCore
from gridsync.streams._groups import AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

    from typing_extensions import TypeForm

    from gridsync._io import IO, ReadFrom
    from gridsync.streams._records import Appended, Recorded

ANY = Expected.ANY
EXISTS = Expected.EXISTS
NO_STREAM = Expected.NO_STREAM


class EventStore(Generic[E]):
    """Streams of events with expected versions, and one gapless order over all of them.

    Guarantee: an append is written whole or not at all, once however often it is sent, and its positions follow the
    last ones without a gap (tests/streams/test_store.py).
    Not guaranteed: that a failover keeps the last appends; replication is asynchronous.
    """

    def __init__(self, io: IO, namespace: str, name: str, model: type[E] | TypeForm[E] | Sequence[Any]) -> None:
        """Open the store *name*; nothing is sent.

        Args:
            io: The driver.
            namespace: The first part of every key.
            name: The store; all its keys live in one hash slot.
            model: A pydantic model class, a union of them (discriminated or not) or a sequence of them.

        Raises:
            UsageError: No model, or two models with the same type name.
        """
        self._core: StoreCore[E] = StoreCore(io, namespace, name, model)

    def append(
        self,
        stream: str,
        events: E | Sequence[E],
        *,
        expected_version: int | Expected = ANY,
        event_ids: str | Sequence[str] | None = None,
    ) -> Appended:
        """Commit one or more events to *stream*, all or none of them.

        Args:
            stream: The stream's name, for example ``order-42``.
            events: One model instance, or a sequence of up to 1000.
            expected_version: The version the decision was made at: a number (0 for no event yet), ``NO_STREAM``,
                ``EXISTS`` or ``ANY``.
            event_ids: One id per event, unique in the stream; generated when left out.  Give ids of your own (say,
                derived from the command) to make the same commit safe to repeat after a crash of *this* process.

        Returns:
            Version and position after the commit; `Appended.replayed` tells that it had been written before.

        Raises:
            WrongVersion: The stream is at another version, or only a part of these ids was written before.
            UnknownEventType: A model that this store does not know.
            InvalidEvent: Content that does not fit its model.
            UsageError: Any other argument that cannot be used.
            OutcomeUnknown: No answer in time; repeat it with the same `event_ids`, it will not be written twice.

        Guarantee: with an expected version a replay is recognised as long as the stream exists; with ``ANY`` and
        ``EXISTS`` among the newest 10 000 events of the store.  The id decides, the payload is not compared.
        Cost: one round trip; O(log n) in the size of that window.
        """
        return run_sync(self._core.append(stream, events, expected_version, event_ids))

    def read(
        self, stream: str, *, from_version: int = 1, limit: int | None = None, read_from: ReadFrom = "primary"
    ) -> Iterator[Recorded[E]]:
        """Iterate over one stream, oldest event first, to its present end.

        Args:
            stream: The stream; one without events yields nothing.
            from_version: The first version to yield.
            limit: The most events to yield; ``None`` for all.
            read_from: Who answers: the ``primary``; a ``replica`` only, so that this reader costs the primary nothing;
                or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest events,
                those that you appended yourself among them.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.

        Cost: one round trip per 500 events, which is also what is held in memory.
        """
        pages, core = self._core.read(stream, from_version, limit, read_from), self._core
        return _iterate(pages, lambda entry: core.in_stream(stream, entry))

    def read_all(
        self, *, after: int = 0, limit: int | None = None, read_from: ReadFrom = "primary"
    ) -> Iterator[Recorded[E]]:
        """Iterate over all events of the store in commit order, to its present end.

        Args:
            after: The last position already seen; the first event yielded has the next one.
            limit: The most events to yield; ``None`` for all.
            read_from: Who answers: the ``primary``; a ``replica`` only, so that this reader costs the primary nothing;
                or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest events,
                those that you appended yourself among them.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.

        Guarantee: positions come without gap, and an event seen is never preceded by one that commits later: the last
        position is all a reader has to remember.
        Cost: one round trip per 500 events, which is also what is held in memory.
        """
        return _iterate(self._core.read_all(after, limit, read_from), self._core.in_log)

    def group(self, name: str, *, start: Literal["first", "now"] = "first") -> ConsumerGroup[E]:
        """Return the consumer group *name*: each event goes to one of the group's consumers.

        Args:
            name: The group; every process that uses this name shares its work.
            start: Where a group begins that does not exist yet: at the ``first`` event, or with what is appended from
                ``now`` on.  An existing group goes on where it is.
        """
        return ConsumerGroup(self._core, name, start)

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<EventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"


class AsyncEventStore(Generic[E]):
    """The asyncio twin of `EventStore`.

    Guarantee: an append is written whole or not at all, once however often it is sent, and its positions follow the
    last ones without a gap (tests/streams/test_store.py).
    Not guaranteed: that a failover keeps the last appends; replication is asynchronous.
    """

    def __init__(self, io: IO, namespace: str, name: str, model: type[E] | TypeForm[E] | Sequence[Any]) -> None:
        """Open the store *name*; see `EventStore`."""
        self._core: StoreCore[E] = StoreCore(io, namespace, name, model)

    async def append(
        self,
        stream: str,
        events: E | Sequence[E],
        *,
        expected_version: int | Expected = ANY,
        event_ids: str | Sequence[str] | None = None,
    ) -> Appended:
        """Commit one or more events to *stream*, all or none of them; see `EventStore.append`.

        A cancelled append may have been written: repeat it with the same *event_ids* to find out.
        """
        return await self._core.append(stream, events, expected_version, event_ids)

    def read(
        self, stream: str, *, from_version: int = 1, limit: int | None = None, read_from: ReadFrom = "primary"
    ) -> AsyncIterator[Recorded[E]]:
        """Iterate over one stream, oldest event first, to its present end; see `EventStore.read`."""
        pages, core = self._core.read(stream, from_version, limit, read_from), self._core
        return _iterate_async(pages, lambda entry: core.in_stream(stream, entry))

    def read_all(
        self, *, after: int = 0, limit: int | None = None, read_from: ReadFrom = "primary"
    ) -> AsyncIterator[Recorded[E]]:
        """Iterate over all events of the store in commit order, to its present end; see `EventStore.read_all`."""
        return _iterate_async(self._core.read_all(after, limit, read_from), self._core.in_log)

    def group(self, name: str, *, start: Literal["first", "now"] = "first") -> AsyncConsumerGroup[E]:
        """Return the consumer group *name*; see `EventStore.group`."""
        return AsyncConsumerGroup(self._core, name, start)

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<AsyncEventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"


def _iterate(pages: Pages, decode: Callable[[Any], Recorded[E]]) -> Iterator[Recorded[E]]:
    while entries := run_sync(pages.next()):
        # Decoded one by one, so that what stands before an unreadable event is still seen.
        for entry in entries:
            yield decode(entry)


async def _iterate_async(pages: Pages, decode: Callable[[Any], Recorded[E]]) -> AsyncIterator[Recorded[E]]:
    while entries := await pages.next():
        for entry in entries:
            yield decode(entry)
