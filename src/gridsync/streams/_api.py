"""The event store: `EventStore` for threads, `AsyncEventStore` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._io import run_sync
from gridsync.streams._aggregate import Aggregate, AsyncAggregate, S
from gridsync.streams._commit import Expected
from gridsync.streams._envelope import seal
from gridsync.streams._kept import AsyncKept, Kept
from gridsync.streams._look import store_info
from gridsync.streams._model import E
from gridsync.streams._outbox import AsyncOutbox, Outbox
from gridsync.streams._partitions import PartitionBy, open_store
from gridsync.streams._projection import AsyncProjection, Projection
from gridsync.streams._readable import AsyncReadable, Readable
from gridsync.streams._routes import Routes
from gridsync.streams._runnable import AsyncRunnable, Runnable
from gridsync.streams._sited import AsyncSited, Sited

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from os import PathLike

    from pydantic import BaseModel
    from typing_extensions import TypeForm

    from gridsync._io import IO
    from gridsync.streams._commit import Check, Write
    from gridsync.streams._links import Log
    from gridsync.streams._look import StoreInfo
    from gridsync.streams._model import Upcasters
    from gridsync.streams._records import Appended, Committed

T = TypeVar("T", bound="BaseModel")

ANY = Expected.ANY
EXISTS = Expected.EXISTS
NO_STREAM = Expected.NO_STREAM


class EventStore(Readable[E], Runnable[E], Kept[E], Sited[E]):
    """Streams of events with expected versions, and one gapless order over all of them.

    Guarantee: an append is written whole or not at all, once however often it is sent, and its positions follow the
    last ones without a gap (tests/streams/test_store.py).
    Not guaranteed: that a failover keeps the last appends; replication is asynchronous.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        model: type[E] | TypeForm[E] | Sequence[Any],
        upcasters: Upcasters | None = None,
        *,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> None:
        """Open the store *name*; nothing is sent.

        Args:
            io: The driver.
            namespace: The first part of every key.
            name: The store; all its keys live in one hash slot, or those of each partition in one of its own.
            model: A pydantic model class, a union of them (discriminated or not) or a sequence of them.  With
                `RawEvent` among them, what no model can read is read as that.
            upcasters: ``(type name, schema version)`` → a function from what JSON said in that version to what it says
                in the next one.  A model's own version is its class variable ``schema_version``, 1 without one.
            partitions: How many parts the store has, 1 to 64: each in a hash slot of its own, so that several masters
                of a Cluster share the work.  Fixed with the first event.
            partition_by: What decides in which partition a stream is, for ever: its whole name (``stream``), what
                stands before the first ``-`` of it (``category``), or a function of the name that returns a string.
                Fixed with the first event, and of a function it is not checked that it stays the same.
            log: Whether the log has a ``copy`` of each payload, or only a ``link`` to it: less memory, one more round
                trip for each page of the log, and events can be read as long as their streams have them.  Fixed with
                the first event; whoever says otherwise gets a `UsageError`.
            archive: The directory that `archive` fills: what was removed is read there, with the same cursor.

        Raises:
            UsageError: No model, two models with the same type name, upcasters that do not lead to a model, or
                partitions that cannot be.
        """
        self._core = open_store(io, namespace, name, model, upcasters, partitions, partition_by, log)
        self._read_through(archive)
        self._routes = Routes(self._core, takes_coroutines=False)

    def append(
        self,
        stream: str,
        events: E | Sequence[E],
        *,
        expected_version: int | Expected = ANY,
        event_ids: str | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Appended:
        """Commit one or more events to *stream*, all or none of them.

        Args:
            stream: The stream's name, for example ``order-42``.
            events: One model instance, or a sequence of up to 1000.
            expected_version: The version the decision was made at: a number (0 for no event yet), ``NO_STREAM``,
                ``EXISTS`` or ``ANY``.
            event_ids: One id per event, unique in the stream; generated when left out.  Give ids of your own (say,
                derived from the command) to make the same commit safe to repeat after a crash of *this* process.
            metadata: Whatever else is to be known of this commit, and JSON can hold; stored with each of its events.
            correlation_id: What everything has in common that one request sets off.
            causation_id: The id of the event or command that is the reason for this commit.

        Returns:
            Version and position after the commit; `Appended.replayed` tells that it had been written before.

        Raises:
            WrongVersion: The stream is at another version, or only a part of these ids was written before.
            LogFull: The log is at its cap, see `retention`; nothing was appended.
            ReadOnlyStore: This copy of the store is a mirror, or was fenced.
            UnknownEventType: A model that this store does not know.
            InvalidEvent: Content that does not fit its model.
            UsageError: Any other argument that cannot be used.
            OutcomeUnknown: No answer in time; repeat it with the same `event_ids`, it will not be written twice.

        Guarantee: with an expected version a replay is recognised as long as the stream exists; with ``ANY`` and
        ``EXISTS`` among the newest 10 000 events of the store.  The id decides, the payload is not compared.
        Cost: one round trip; O(log n) in the size of that window.  Metadata, ids and the trace context (that of the
        span around the call, if OpenTelemetry traces) are stored twice with each event, at most 4096 bytes of them.
        """
        about = seal(metadata, correlation_id, causation_id)
        return run_sync(self._core.append(stream, events, expected_version, event_ids, about))

    def commit(
        self,
        parts: Sequence[Write[E] | Check],
        *,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Committed:
        """Append to several streams and check others, all of it or nothing.

        Args:
            parts: `Write` for a stream that gets events, `Check` for one that the decision depends on and that stays as
                it is.  Each stream stands in one part; positions are given out in their order.  Up to 1000 events.
            metadata: As in `append`.
            correlation_id: As in `append`.
            causation_id: As in `append`.

        Returns:
            Version and position of each stream that was written to, and whether it had been written before.

        Raises:
            WrongVersion: A stream is at another version, or only a part of all this was written before: `stream` says
                which one.
            LogFull: The log is at its cap, see `retention`; nothing was appended.
            ReadOnlyStore: This copy of the store is a mirror, or was fenced.
            UnknownEventType: A model that this store does not know.
            InvalidEvent: Content that does not fit its model.
            UsageError: Any other argument that cannot be used.
            OutcomeUnknown: No answer in time; repeat it with the same `event_ids`, it will not be written twice.

        Guarantee: nobody ever sees a part of it.  A commit that is sent again is recognised as an append is, stream by
        stream; then it is a replay, even if a stream that was only checked has moved on.
        Cost: one round trip, one script.
        """
        return run_sync(self._core.commit(parts, seal(metadata, correlation_id, causation_id)))

    def aggregate(
        self,
        initial: S,
        evolve: Callable[[S, E], S],
        *,
        name: str | None = None,
        snapshot_every: int | None = None,
        schema_version: int = 1,
    ) -> Aggregate[S, E]:
        """Return what loads streams, decides on their state, and appends.

        Args:
            initial: The state of a stream without events; each load begins with a copy of it.
            evolve: Takes a state and the next event and returns the state after it.
            name: What its snapshots are called; the name of the state's type by default.
            snapshot_every: Keep the state whenever at least so many events are newer than what is kept; never by
                default.  Pydantic must be able to write and read the type of *initial* as JSON.
            schema_version: Of the state: another one leaves snapshots aside that were made before.

        Raises:
            UsageError: An argument that cannot be used.
        """
        return Aggregate(
            self._core,
            initial,
            evolve,
            name=name,
            snapshot_every=snapshot_every,
            schema_version=schema_version,
        )

    def projection(
        self,
        name: str,
        *,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
    ) -> Projection[E]:
        """Return the projection *name*: a view of the events in Redis, beside how far it has got.

        Args:
            name: The projection; every process that uses this name works on the same view.
            types: As in `read_all`.
            category: As in `read_all`.

        Raises:
            UsageError: An argument that cannot be used.
        """
        return Projection(self._core, name, self._core.takes(types, category))

    @property
    def partitions(self) -> int:
        """How many partitions this store has."""
        return len(self._core.partitions)

    def partition_of(self, stream: str) -> int:
        """Return the partition that *stream* is in, from 0; nothing is sent."""
        return self._core.of(stream).partition

    def info(self) -> StoreInfo:
        """Look what this store holds.

        Raises:
            UsageError: It is in another number of partitions, or others decide.

        Cost: two round trips for each partition, three if it has outboxes; O(groups + outboxes).
        """
        return run_sync(store_info(self._core.partitions))

    def outbox(self, target: EventStore[T]) -> Outbox[T]:
        """Return what handlers of this store send to *target* through, with `Transaction.send`.

        Ask for it when the program begins: `run` moves what is in it, also what an earlier life has left there.

        Args:
            target: Another store, of this grid or another one; or this one, for its other partitions.
        """
        return self._routes.outbox(Outbox(self._core, target._core))

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<EventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"


class AsyncEventStore(AsyncReadable[E], AsyncRunnable[E], AsyncKept[E], AsyncSited[E]):
    """The asyncio twin of `EventStore`.

    Guarantee: an append is written whole or not at all, once however often it is sent, and its positions follow the
    last ones without a gap (tests/streams/test_store.py).
    Not guaranteed: that a failover keeps the last appends; replication is asynchronous.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        model: type[E] | TypeForm[E] | Sequence[Any],
        upcasters: Upcasters | None = None,
        *,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> None:
        """Open the store *name*; see `EventStore`."""
        self._core = open_store(io, namespace, name, model, upcasters, partitions, partition_by, log)
        self._read_through(archive)
        self._routes = Routes(self._core, takes_coroutines=True)

    async def append(
        self,
        stream: str,
        events: E | Sequence[E],
        *,
        expected_version: int | Expected = ANY,
        event_ids: str | Sequence[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Appended:
        """Commit one or more events to *stream*, all or none of them; see `EventStore.append`.

        A cancelled append may have been written: repeat it with the same *event_ids* to find out.
        """
        about = seal(metadata, correlation_id, causation_id)
        return await self._core.append(stream, events, expected_version, event_ids, about)

    async def commit(
        self,
        parts: Sequence[Write[E] | Check],
        *,
        metadata: Mapping[str, Any] | None = None,
        correlation_id: str | None = None,
        causation_id: str | None = None,
    ) -> Committed:
        """Append to several streams and check others, all of it or nothing; see `EventStore.commit`.

        A cancelled commit may have been written: repeat it with the same *event_ids* to find out.
        """
        return await self._core.commit(parts, seal(metadata, correlation_id, causation_id))

    def aggregate(
        self,
        initial: S,
        evolve: Callable[[S, E], S],
        *,
        name: str | None = None,
        snapshot_every: int | None = None,
        schema_version: int = 1,
    ) -> AsyncAggregate[S, E]:
        """Return what loads streams, decides on their state, and appends; see `EventStore.aggregate`."""
        return AsyncAggregate(
            self._core,
            initial,
            evolve,
            name=name,
            snapshot_every=snapshot_every,
            schema_version=schema_version,
        )

    def projection(
        self,
        name: str,
        *,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
    ) -> AsyncProjection[E]:
        """Return the projection *name*; see `EventStore.projection`."""
        return AsyncProjection(self._core, name, self._core.takes(types, category))

    @property
    def partitions(self) -> int:
        """How many partitions this store has."""
        return len(self._core.partitions)

    def partition_of(self, stream: str) -> int:
        """Return the partition that *stream* is in, from 0; nothing is sent."""
        return self._core.of(stream).partition

    async def info(self) -> StoreInfo:
        """Look what this store holds; see `EventStore.info`."""
        return await store_info(self._core.partitions)

    def outbox(self, target: AsyncEventStore[T]) -> AsyncOutbox[T]:
        """Return what handlers of this store send to *target* through; see `EventStore.outbox`."""
        return self._routes.outbox(AsyncOutbox(self._core, target._core))

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<AsyncEventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"
