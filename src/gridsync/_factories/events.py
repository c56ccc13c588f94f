"""Factories of event stores."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar, overload

from pydantic import BaseModel

from gridsync._factories import AsyncGround, Ground
from gridsync.streams import AsyncEventStore, EventStore

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import PathLike

    from typing_extensions import TypeForm

    from gridsync.streams import PartitionBy, Upcasters
    from gridsync.streams._links import Log


E = TypeVar("E", bound=BaseModel)


class EventFactories(Ground):
    """The factories of event stores, for threads."""

    @overload
    def events(
        self,
        name: str,
        model: type[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: TypeForm[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: Sequence[Any],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[Any]: ...
    def events(
        self,
        name: str,
        model: Any,
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[Any]:
        """Return the event store *name*, whose events are *model*: a pydantic model or a union of them.

        *upcasters* lift what was stored with older schemas.  With several *partitions* it is spread over so many hash
        slots, and a stream is where *partition_by* says; *log* says whether payloads are repeated in the log.  What was
        removed is read in *archive*; see `EventStore`.
        """
        return EventStore(
            self._io,
            self.namespace,
            name,
            model,
            upcasters,
            partitions=partitions,
            partition_by=partition_by,
            log=log,
            archive=archive,
        )


class AsyncEventFactories(AsyncGround):
    """The factories of event stores, for tasks."""

    @overload
    def events(
        self,
        name: str,
        model: type[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: TypeForm[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: Sequence[Any],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[Any]: ...
    def events(
        self,
        name: str,
        model: Any,
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[Any]:
        """Return the event store *name*, whose events are *model*: a pydantic model or a union of them.

        *upcasters* lift what was stored with older schemas.  With several *partitions* it is spread over so many hash
        slots, and a stream is where *partition_by* says; *log* says whether payloads are repeated in the log.  What was
        removed is read in *archive*; see `EventStore`.
        """
        return AsyncEventStore(
            self._io,
            self.namespace,
            name,
            model,
            upcasters,
            partitions=partitions,
            partition_by=partition_by,
            log=log,
            archive=archive,
        )
