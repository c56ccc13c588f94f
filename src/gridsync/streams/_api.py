"""The event store: `EventStore` for threads, `AsyncEventStore` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, TypeVar

from gridsync._io import run_sync
from gridsync.streams._aggregate import Aggregate, AsyncAggregate, S
from gridsync.streams._commit import Expected
from gridsync.streams._envelope import seal
from gridsync.streams._groups import RETRY, AsyncConsumerGroup, ConsumerGroup
from gridsync.streams._kept import READER_TTL_S, AsyncKept, Kept
from gridsync.streams._look import store_info
from gridsync.streams._model import E
from gridsync.streams._outbox import AsyncOutbox, Outbox
from gridsync.streams._partitions import PartitionBy, open_store
from gridsync.streams._projection import AsyncProjection, Projection
from gridsync.streams._routes import Routes
from gridsync.streams._run import RunOptions, planned, run, run_async
from gridsync.streams._subscription import AsyncSubscription, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
    from os import PathLike

    from pydantic import BaseModel
    from typing_extensions import TypeForm

    from gridsync._io import IO, ReadFrom
    from gridsync._units import Seconds
    from gridsync.streams._commit import Check, Write
    from gridsync.streams._failures import Failure, Policy
    from gridsync.streams._links import Log
    from gridsync.streams._look import StoreInfo
    from gridsync.streams._model import Upcasters
    from gridsync.streams._pages import Reading
    from gridsync.streams._records import Appended, Committed, Recorded
    from gridsync.streams._run import Ran

H = TypeVar("H", bound="Callable[..., Any]")
T = TypeVar("T", bound="BaseModel")

ANY = Expected.ANY
EXISTS = Expected.EXISTS
NO_STREAM = Expected.NO_STREAM


class EventStore(Kept[E]):
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
            UnknownEventType: A model that this store does not know.
            InvalidEvent: Content that does not fit its model.
            UsageError: Any other argument that cannot be used.
            OutcomeUnknown: No answer in time; repeat it with the same `event_ids`, it will not be written twice.

        Guarantee: nobody ever sees a part of it.  A commit that is sent again is recognised as an append is, stream by
        stream; then it is a replay, even if a stream that was only checked has moved on.
        Cost: one round trip, one script.
        """
        return run_sync(self._core.commit(parts, seal(metadata, correlation_id, causation_id)))

    def read(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        reverse: bool = False,
        limit: int | None = None,
        read_from: ReadFrom = "primary",
    ) -> Iterator[Recorded[E]]:
        """Iterate over one stream as it is now.

        Args:
            stream: The stream; one without events yields nothing.
            from_version: The lowest version to yield.
            to_version: The highest version to yield; ``None`` for the present end.
            reverse: Newest event first.
            limit: The most events to yield; ``None`` for all.
            read_from: Who answers: the ``primary``; a ``replica`` only, so that this reader costs the primary nothing;
                or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest events,
                those that you appended yourself among them.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.
            Truncated: Events that were to be yielded were removed.
            Diverged: The server lost events while this was reading them.

        Cost: one round trip per 500 events, which is also what is held in memory.
        """
        return _iterate(
            self._core.read(
                stream,
                from_version=from_version,
                to_version=to_version,
                reverse=reverse,
                limit=limit,
                read_from=read_from,
            )
        )

    def read_all(
        self,
        *,
        after: int | str = 0,
        before: int | None = None,
        partition: int | None = None,
        reverse: bool = False,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
        limit: int | None = None,
        read_from: ReadFrom = "primary",
    ) -> Iterator[Recorded[E]]:
        """Iterate over the events of the store as it is now, in commit order.

        Args:
            after: What was seen already: a position, or the `Recorded.checkpoint` of an event.  A checkpoint is proven,
                of a position it is only seen that some event stands there.  Over several partitions it is the
                checkpoint of a subscription to them.
            before: The position before which to stop; ``None`` for the present end.
            partition: Only this one, from 0; ``None`` for all of them, a page of each in turn.
            reverse: Newest event first.
            types: Yield only these: models of this store, or names of types, of any schema version.
            category: Yield only streams of this category: what stands before the first ``-`` of their names.
            limit: The most events to yield; ``None`` for all.
            read_from: Who answers: the ``primary``; a ``replica`` only, so that this reader costs the primary nothing;
                or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest events,
                those that you appended yourself among them.

        Raises:
            UnknownEventType: At an event whose type no model of this store claims.
            InvalidEvent: At an event whose payload does not fit its model.
            Truncated: Events that were to be yielded were removed.
            Diverged: What was seen is not there, or the server lost events while this was reading them.

        Guarantee: positions come without gap, and an event seen is never preceded by one that commits later: the
        checkpoint of the last one is all a reader has to remember.
        Cost: one round trip per 500 events of the log, which is also what is held in memory.  Types and category are
        chosen here: everything is sent, and what is not wanted is not decoded.
        """
        takes = self._core.takes(types, category)
        return _iterate(
            self._core.read_all(
                after=after,
                before=before,
                partition=partition,
                reverse=reverse,
                takes=takes,
                limit=limit,
                read_from=read_from,
            )
        )

    def subscribe(
        self,
        *,
        after: int | str = 0,
        partition: int | None = None,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
        reader: str | None = None,
        reader_ttl: Seconds | None = READER_TTL_S,
    ) -> Subscription[E]:
        """Iterate over the events of the store, those to come included, until stopped.

        Args:
            after: As in `read_all`; or ``now`` for what is appended from the first step on.
            partition: As in `read_all`.
            types: As in `read_all`.
            category: As in `read_all`.
            reader: A name, under which the server remembers how far this has got: `trim` leaves what it has not had,
                and who subscribes again under it goes on there, whatever *after* says.  Whoever asks for the next event
                has dealt with the one before; that is noted once a second, and when it is stopped.
            reader_ttl: Seconds without a sign of life after which the reader is forgotten; ``None`` for never.

        Returns:
            An iterator that waits, with the `checkpoint` to store and a `stop`.

        Raises:
            UsageError: An argument that cannot be used.

        While it is iterated, it raises what `read_all` does; while the server is away it waits and tries again.
        Guarantee: no gap and nothing twice, also across reconnections and failovers, or else `Diverged` or `Truncated`.
        Cost: one round trip per 500 events; at the end of the log a blocking read on a connection of its own, and one
        more round trip for what has come.
        """
        takes = self._core.takes(types, category)
        return Subscription(self._core, after, takes, partition, self._reader(reader, reader_ttl))

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

    def group(self, name: str, *, start: Literal["first", "now"] = "first", ordered: bool = False) -> ConsumerGroup[E]:
        """Return the consumer group *name*: each event goes to one of the group's consumers.

        Args:
            name: The group; every process that uses this name shares its work.
            start: Where a group begins that does not exist yet: at the ``first`` event, or with what is appended from
                ``now`` on.  An existing group goes on where it is.
            ordered: Handle the events of each stream in order, wherever they are handled: each partition of the store
                belongs to one consumer at a time.  All consumers of a group must say the same.
        """
        return ConsumerGroup(self._core, name, start, ordered=ordered)

    def info(self) -> StoreInfo:
        """Look what this store holds.

        Cost: two round trips for each partition; O(groups).
        """
        return run_sync(store_info(self._core.partitions))

    def on(
        self, *types: type[BaseModel], group: str, policy: Policy | None = None, ordered: bool = False
    ) -> Callable[[H], H]:
        """Register a handler of events of these types in a group, for `run`.

        Args:
            types: Models of this store.
            group: The consumer group; it may have a handler for each type.  Events of types without one are
                acknowledged without a call.
            policy: What becomes of an event of this group whose handler raised, instead of what `run` is told; said
                once for each group.
            ordered: Run the group in order, as in `group`; said of one of its handlers, it is so for all of them.

        Returns:
            A decorator that returns the function as it is.  Which arguments that wants, `ConsumerGroup.consume` says.

        Raises:
            UsageError: A type that this store does not know or that has a handler in this group already, or a function
                with parameters that nobody can fill.
        """

        def register(handler: H) -> H:
            self._routes.add(types, group, handler, policy, ordered=ordered)
            return handler

        return register

    def run(
        self,
        *,
        groups: Sequence[str] | None = None,
        start: Literal["first", "now"] = "first",
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], object] | None = None,
        on_ready: Callable[[tuple[str, ...]], object] | None = None,
    ) -> Ran:
        """Run all groups that have handlers, until stopped.

        SIGTERM and SIGINT are heeded if this is the main thread: at the first one running handlers finish and nothing
        new is begun, at the second one everything goes back to the groups at once.

        Args:
            groups: Run only these.
            start: Where a *new* group begins, as in `group`.
            concurrency: How many consumers, each in a thread, each group has.
            batch: As in `ConsumerGroup.consume`, and so are the rest but the last.
            claim_idle: Seconds without a sign of life after which an event held by someone else is taken over.
            idle_stop: End a group after this many seconds without any event; ``None`` goes on for ever.
            policy: What becomes of an event whose handler raised, where `on` was not told.
            max_deliveries: How often an event is begun at most.
            on_error: Called with each `Failure` and what was decided about it.
            on_ready: Called once, with the names of store and group as in ``orders/billing``, when all groups exist at
                the server.

        Returns:
            What was done, by group, and whether it had to end at once.

        Raises:
            UsageError: There is no handler, or a group without one, or another argument that cannot be used.
            Misconfigured: The server refuses for a reason that no retry heals.
            Exception: What a handler raised, if *policy* says ``STOP``; the other groups have ended in order then.

        While the server is away it waits and tries again, also before it is ready.
        """
        options = RunOptions(concurrency, batch, claim_idle, idle_stop, policy, max_deliveries, on_error, on_ready)
        return run(planned((self,), groups, start), options)

    def outbox(self, target: EventStore[T]) -> Outbox[T]:
        """Return what handlers of this store send to *target* through, with `Transaction.send`.

        Ask for it when the program begins: `run` moves what is in it, also what an earlier life has left there.

        Args:
            target: Another store, of this grid or another one; or this one, for its other partitions.
        """
        return self._routes.outbox(Outbox(self._core, target._core))

    def stop(self) -> None:
        """End every `run` of this store, as the first signal does.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._routes.stop.set()

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<EventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"


class AsyncEventStore(AsyncKept[E]):
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

    def read(
        self,
        stream: str,
        *,
        from_version: int = 1,
        to_version: int | None = None,
        reverse: bool = False,
        limit: int | None = None,
        read_from: ReadFrom = "primary",
    ) -> AsyncIterator[Recorded[E]]:
        """Iterate over one stream as it is now; see `EventStore.read`."""
        return _iterate_async(
            self._core.read(
                stream,
                from_version=from_version,
                to_version=to_version,
                reverse=reverse,
                limit=limit,
                read_from=read_from,
            )
        )

    def read_all(
        self,
        *,
        after: int | str = 0,
        before: int | None = None,
        partition: int | None = None,
        reverse: bool = False,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
        limit: int | None = None,
        read_from: ReadFrom = "primary",
    ) -> AsyncIterator[Recorded[E]]:
        """Iterate over the events of the store as it is now, in commit order; see `EventStore.read_all`."""
        takes = self._core.takes(types, category)
        return _iterate_async(
            self._core.read_all(
                after=after,
                before=before,
                partition=partition,
                reverse=reverse,
                takes=takes,
                limit=limit,
                read_from=read_from,
            )
        )

    def subscribe(
        self,
        *,
        after: int | str = 0,
        partition: int | None = None,
        types: Sequence[str | type[BaseModel]] | None = None,
        category: str | None = None,
        reader: str | None = None,
        reader_ttl: Seconds | None = READER_TTL_S,
    ) -> AsyncSubscription[E]:
        """Iterate over the events of the store, those to come included, until stopped; see `EventStore.subscribe`."""
        takes = self._core.takes(types, category)
        return AsyncSubscription(self._core, after, takes, partition, self._reader(reader, reader_ttl))

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

    def group(
        self, name: str, *, start: Literal["first", "now"] = "first", ordered: bool = False
    ) -> AsyncConsumerGroup[E]:
        """Return the consumer group *name*; see `EventStore.group`."""
        return AsyncConsumerGroup(self._core, name, start, ordered=ordered)

    async def info(self) -> StoreInfo:
        """Look what this store holds; see `EventStore.info`."""
        return await store_info(self._core.partitions)

    def on(
        self, *types: type[BaseModel], group: str, policy: Policy | None = None, ordered: bool = False
    ) -> Callable[[H], H]:
        """Register a handler of events of these types in a group, for `run`; see `EventStore.on`."""

        def register(handler: H) -> H:
            self._routes.add(types, group, handler, policy, ordered=ordered)
            return handler

        return register

    async def run(
        self,
        *,
        groups: Sequence[str] | None = None,
        start: Literal["first", "now"] = "first",
        concurrency: int = 1,
        batch: int = 100,
        claim_idle: Seconds = 30.0,
        idle_stop: Seconds | None = None,
        policy: Policy = RETRY,
        max_deliveries: int | None = None,
        on_error: Callable[[Failure[E]], Awaitable[object] | object] | None = None,
        on_ready: Callable[[tuple[str, ...]], object] | None = None,
    ) -> Ran:
        """Run all groups that have handlers, until stopped; see `EventStore.run`.

        Here *concurrency* says how many handlers of each group run side by side, and the second signal cancels them.
        """
        options = RunOptions(concurrency, batch, claim_idle, idle_stop, policy, max_deliveries, on_error, on_ready)
        return await run_async(planned((self,), groups, start), options)

    def outbox(self, target: AsyncEventStore[T]) -> AsyncOutbox[T]:
        """Return what handlers of this store send to *target* through; see `EventStore.outbox`."""
        return self._routes.outbox(AsyncOutbox(self._core, target._core))

    def stop(self) -> None:
        """End every `run` of this store, as the first signal does.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._routes.stop.set()

    def __repr__(self) -> str:
        """Name and event types."""
        return f"<AsyncEventStore {self._core.name!r} of {', '.join(self._core.codec.types)}>"


def _iterate(reading: Reading[E]) -> Iterator[Recorded[E]]:
    while entries := run_sync(reading.next()):
        # Decoded one by one, so that what stands before an unreadable event is still seen.
        for entry in entries:
            if reading.takes(entry):
                yield reading.decode(entry)
                if reading.ended():
                    return


async def _iterate_async(reading: Reading[E]) -> AsyncIterator[Recorded[E]]:
    while entries := await reading.next():
        for entry in entries:
            if reading.takes(entry):
                yield reading.decode(entry)
                if reading.ended():
                    return
