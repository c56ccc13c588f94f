"""A store in several partitions: each is a whole store of its own, and a stream is in the same one for ever.

Redis structures: those of a store for each partition, under a hash tag of its own, and one directory (`_directory.py`).
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeAlias
from zlib import crc32

from gridsync._io.keys import event_partitions
from gridsync._io.keys import events as event_keys
from gridsync._units import count as counted
from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._core import StoreCore, chosen
from gridsync.streams._directory import LOOK, Directory
from gridsync.streams._model import Codec, E
from gridsync.streams._pages import Reading

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from pydantic import BaseModel

    from gridsync._io import IO
    from gridsync.streams._commit import Check, Expected, Write
    from gridsync.streams._links import Log
    from gridsync.streams._model import Upcasters
    from gridsync.streams._records import Appended, Committed

PARTITIONS_MAX: Final = 64
_SHOWN: Final = 5

PartitionBy = Callable[[str], str] | Literal["stream", "category"]
"""What of a stream's name decides in which partition it is."""


class PartitionedCore(Generic[E]):
    """One event store in several partitions: what they share, and which of them is asked."""

    def __init__(  # noqa: PLR0917 - made in one place
        self, io: IO, namespace: str, name: str, codec: Codec[E], partitions: int, partition_by: PartitionBy, log: Log
    ) -> None:
        """Build the key names of all partitions once; nothing is sent."""
        self.io = io
        self.name = name
        self.codec = codec
        self._key_of, self._by = _function(partition_by)
        self.directory: Directory = Directory(io, event_keys(namespace, name).meta, name, partitions, self._by)
        self.partitions: tuple[StoreCore[E], ...] = tuple(
            StoreCore(io, keys, name, codec, self.directory, partition, log=log)
            for partition, keys in enumerate(event_partitions(namespace, name, partitions))
        )

        for core in self.partitions:
            core.home = self.home

    def home(self, stream: str) -> int:
        """Return the number of the partition that *stream* is in."""
        return self.of(stream).partition

    def of(self, stream: str) -> StoreCore[E]:
        """Return the partition that *stream* is in: the same in every process, whatever the version or the language."""
        key = self._key_of(checked(stream, "the name of a stream"))
        if not isinstance(key, str):
            raise UsageError(f"partition_by returned {key!r:.100} for stream {stream!r}: it must be a string")
        return self.partitions[crc32(key.encode()) % len(self.partitions)]

    def chosen(self, partition: int | None) -> tuple[StoreCore[E], ...]:
        """Return that partition, or all of them."""
        return chosen(self.partitions, partition)

    def append(
        self,
        stream: str,
        events: E | Sequence[E],
        expected: int | Expected,
        event_ids: str | Sequence[str] | None,
        about: str,
    ) -> Coroutine[Any, Any, Appended]:
        """Commit *events* in the partition of *stream*; see `EventStore.append`."""
        core = self.of(stream)
        if self.directory.seen:
            return core.append(stream, events, expected, event_ids, about)
        return self._append_first(core, stream, events, expected, event_ids, about)

    async def _append_first(self, core: StoreCore[E], *call: Any) -> Appended:  # noqa: ANN401 - as `append`
        await self.directory.open()
        return await core.append(*call)

    async def commit(self, parts: Sequence[Write[E] | Check], about: str) -> Committed:
        """Commit events to several streams of one partition; see `EventStore.commit`."""
        where: dict[int, list[str]] = {}
        for part in parts:
            stream = getattr(part, "stream", None)
            if isinstance(stream, str) and stream:  # what else it is, the partition says
                where.setdefault(self.home(stream), []).append(stream)
        if len(where) > 1:
            shown = "; ".join(f"{', '.join(map(repr, where[k][:_SHOWN]))} in partition {k}" for k in sorted(where))
            raise UsageError(
                f"a commit is one script in one partition, and these streams of {self.name!r}, partitioned by "
                f"{self._by!r}, are in {len(where)}: {shown}; what must change together needs a partition_by that "
                "keeps it together"
            )
        await self.directory.open()
        return await self.partitions[next(iter(where), 0)].commit(parts, about)

    def read(self, stream: str, **options: Any) -> Reading[E]:  # noqa: ANN401 - as `StoreCore.read`
        """Return the pages of one stream."""
        return self.of(stream).read(stream, **options)

    def read_all(
        self,
        *,
        after: int | str,
        before: int | None,
        partition: int | None,
        takes: Callable[[Any], bool] | None,
        limit: int | None,
        **options: Any,  # noqa: ANN401 - as `StoreCore.read_all`
    ) -> Reading[E]:
        """Return the pages of one log, or of all of them in turn."""
        cores = self.chosen(partition)
        if before is not None and len(cores) > 1:
            raise UsageError(f"before={before}: each partition counts for itself; say which one with partition=")
        starts = read_vector(after, len(cores))
        readings = [
            core.read_all(after=start, before=before, partition=None, takes=takes, limit=limit, **options)
            for core, start in zip(cores, starts, strict=True)
        ]
        return readings[0] if partition is not None else _Rotation(readings, takes, limit)

    def takes(
        self, types: Sequence[str | type[BaseModel]] | None, category: str | None
    ) -> Callable[[Any], bool] | None:
        """Return what tells the entries of these types and this category; see `EventStore.read_all`."""
        return self.partitions[0].takes(types, category)


Store: TypeAlias = StoreCore[E] | PartitionedCore[E]
"""An event store as a whole."""


class _Rotation(Reading[E]):
    """Several readings, a page of each in turn."""

    more = True

    def __init__(self, readings: Sequence[Reading[E]], wanted: Callable[[Any], bool] | None, limit: int | None) -> None:
        """Yield at most *limit* of those that are *wanted*."""
        self._readings = deque(readings)
        super().__init__(self, readings[0].decode, wanted, limit)

    async def next(self) -> list[Any]:
        """Return the next page of the next one that has one; none at the end of all."""
        while self._readings:
            reading = self._readings.popleft()
            if entries := await reading.next():
                self._readings.append(reading)
                self.decode = reading.decode
                return entries
        return []


def open_store(  # noqa: PLR0917 - as `EventStore`
    io: IO,
    namespace: str,
    name: str,
    model: Any,  # noqa: ANN401
    upcasters: Upcasters | None,
    partitions: int,
    partition_by: PartitionBy,
    log: Log,
) -> Store[Any]:
    """Return the core of a store in so many partitions; nothing is sent."""
    checked(name, "the name of an event store")
    counted(partitions, "partitions", PARTITIONS_MAX)
    codec: Codec[Any] = Codec(model, upcasters)
    if partitions > 1:
        return PartitionedCore(io, namespace, name, codec, partitions, partition_by, log)
    _function(partition_by)
    keys = event_keys(namespace, name)
    return StoreCore(io, keys, name, codec, Directory(io, keys.meta, name), log=log)


async def noted(io: IO, namespace: str, name: str) -> tuple[int, PartitionBy]:
    """Return with which options the store *name* is to be opened, for tools that know nothing but its name."""
    said = await io.run(LOOK, (event_keys(namespace, name).meta,), ("partitions", "by"))
    partitions, by = int(said[0] or 1), (said[1] or b"stream").decode()
    if by in ("stream", "category"):
        return partitions, by  # type: ignore[return-value] # it was just compared

    def unknown(stream: str) -> str:
        raise UsageError(f"in which partition {stream!r} of {name!r} is, says a function that only its program knows")

    return partitions, unknown


def vector(seen: Sequence[str]) -> str:
    """Return the checkpoints of all partitions as one text; of a single one it is that."""
    return seen[0] if len(seen) == 1 else json.dumps(seen, ensure_ascii=False, separators=(",", ":"))


def read_vector(after: int | str, count: int) -> list[int | str]:
    """Return the checkpoint of each of *count* partitions from what `vector` returned; 0 is the beginning of all.

    Raises:
        UsageError: It is not of so many.
    """
    if count == 1:
        return [after]
    if after in (0, "0"):
        return [0] * count
    try:
        seen = json.loads(after) if isinstance(after, str) else None
    except ValueError:
        seen = None
    if not isinstance(seen, list) or len(seen) != count or not all(isinstance(each, str) for each in seen):
        raise UsageError(
            f"after={after!r:.100}: this store has {count} partitions, so it takes 0, or the checkpoint of a reader of "
            "them all; with partition= it takes a position or the checkpoint of an event there"
        )
    return list(seen)


def _category(stream: str) -> str:
    return stream.partition("-")[0]


def _function(partition_by: PartitionBy) -> tuple[Callable[[str], str], str]:
    """Return the function and what the directory calls it."""
    if partition_by == "stream":
        return str, "stream"
    if partition_by == "category":
        return _category, "category"
    if not callable(partition_by):
        raise UsageError(f"partition_by={partition_by!r:.100}: give 'stream', 'category' or a function of the name")
    return partition_by, "function"
