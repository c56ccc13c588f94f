"""What users call to read a store: the part of `EventStore` and `AsyncEventStore` that iterates over events."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic

from gridsync._io import run_sync
from gridsync.streams._model import E
from gridsync.streams._readers import READER_TTL_S, registered
from gridsync.streams._subscription import AsyncSubscription, Subscription

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

    from pydantic import BaseModel

    from gridsync._io import ReadFrom
    from gridsync._units import Seconds
    from gridsync.streams._pages import Reading
    from gridsync.streams._partitions import Store
    from gridsync.streams._records import Recorded


class Readable(Generic[E]):
    """Reads a store, for threads."""

    _core: Store[E]

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
        return Subscription(self._core, after, takes, partition, registered(reader, reader_ttl))


class AsyncReadable(Generic[E]):
    """The asyncio twin of `Readable`."""

    _core: Store[E]

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
        return AsyncSubscription(self._core, after, takes, partition, registered(reader, reader_ttl))


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
