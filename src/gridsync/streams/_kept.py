"""What users call to keep a store small: the part of `EventStore` and `AsyncEventStore` that removes events."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, Literal, TypeVar

from gridsync._io import run_sync
from gridsync._units import Seconds, seconds
from gridsync._units import count as counted
from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._archive import SEGMENT, Archive
from gridsync.streams._keeper import PERIOD_MIN_S, PERIOD_S, AsyncRetention, Declared, KeptLog, Retention
from gridsync.streams._model import E
from gridsync.streams._pages import read_mark
from gridsync.streams._partitions import read_vector
from gridsync.streams._readers import Reader
from gridsync.streams._retention import Archived, Floor, Keeping, Limits, Trimmed, limits, reader_checkpoint

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from gridsync.streams._core import StoreCore
    from gridsync.streams._partitions import Store
    from gridsync.streams._retention import Kind
    from gridsync.streams._routes import Routes

R = TypeVar("R", Retention, AsyncRetention)

READER_TTL_S = 7 * 24 * 3600.0


class _Both(Generic[E]):
    """What both kinds share."""

    _core: Store[E]
    _routes: Routes[E]

    def _archives(self, directory: str | PathLike[str]) -> list[Archive]:
        cores, name = self._core.partitions, self._core.name
        if len(cores) == 1:
            return [Archive(directory, name)]
        return [Archive(Path(directory) / f"partition-{core.partition}", name, core.partition) for core in cores]

    def _read_through(self, directory: str | PathLike[str] | None) -> None:
        if directory is not None:
            for core, archive in zip(self._core.partitions, self._archives(directory), strict=True):
                core.read_through(archive)

    async def _archive(self, directory: str | PathLike[str], at_least: int) -> Archived:
        counted(at_least, "at_least", SEGMENT)
        done = [
            await keeping.archive(archive, core.log_pages, at_least)
            for keeping, archive, core in zip(
                self._keeping(), self._archives(directory), self._core.partitions, strict=True
            )
        ]
        return Archived(sum(each.events for each in done), sum(each.files for each in done))

    def _keeping(self) -> list[Keeping]:
        return [Keeping(core.io, core.keys, core.name) for core in self._core.partitions]

    def _reader(self, name: str | None, ttl: Seconds | None) -> Callable[[StoreCore[E]], Reader] | None:
        if name is None:
            return None
        known, lasts_s = checked(name, "the name of a reader"), _lasts(ttl, "reader_ttl")
        return lambda core: Reader(core, known, lasts_s)

    async def _trim(self, whole: Limits, expire_after: Seconds | None) -> Trimmed:
        expire_ms, keeping = _expire_ms(expire_after), self._keeping()
        share = _shared(whole, len(keeping))
        done = [await each.trim(share, expire_ms=expire_ms) for each in keeping]
        return Trimmed(
            sum(each.removed for each in done),
            sum(each.left for each in done),
            sum(each.kept for each in done),
            next((each.held_by for each in done if each.held_by), None),
            tuple(sorted({name for each in done for name in each.expired})),
        )

    def _declare(
        self,
        kind: type[R],
        whole: Limits,
        expire_after: Seconds | None,
        directory: str | PathLike[str] | None,
        period: Seconds,
    ) -> R:
        cores, name = self._core.partitions, self._core.name
        archives = [None] * len(cores) if directory is None else self._archives(directory)
        period_s = seconds(period, "period", least=PERIOD_MIN_S)
        declared = Declared(_shared(whole, len(cores)), _expire_ms(expire_after), period_s)
        logs = [
            KeptLog(keeping, archive, core.log_pages, core.keys.turn, core.log_name)
            for keeping, archive, core in zip(self._keeping(), archives, cores, strict=True)
        ]
        return self._routes.declare(kind(self._core.io, name, declared, logs))

    async def _floor(self) -> Floor:
        found = [await each.floor() for each in self._keeping()]
        if len(found) == 1:
            return found[0]
        holders = (replace(holder, partition=k) for k, each in enumerate(found) for holder in each.holders)
        return Floor(
            sum(each.events for each in found),
            sum(each.free for each in found),
            sum(each.log_bytes for each in found),
            tuple(sorted(holders, key=lambda holder: -holder.held)),
        )

    async def _release(self, kind: Kind, name: str) -> bool:
        return any([await each.release(kind, name) for each in self._keeping()])

    async def _note(self, name: str, checkpoint: int | str, kind: Kind, ttl: Seconds | None) -> int:
        if kind not in ("reader", "replicator"):
            raise UsageError(f"kind={kind!r:.100}: reader or replicator")
        checked(name, "the name of a reader")
        keeping, lasts_s = self._keeping(), _lasts(ttl, "ttl")
        marks = [reader_checkpoint(mark) for mark in read_vector(checkpoint, len(keeping))]
        removed = [await each.note(name, kind, lasts_s, mark) for each, mark in zip(keeping, marks, strict=True)]
        if len(removed) == 1:
            return removed[0]
        # Positions of different partitions cannot be compared: only whether it is too late in one of them.
        had = (read_mark(mark) for mark in marks)
        late = (last for last, mark in zip(removed, had, strict=True) if last > (mark.number if mark else 0))
        return max(late, default=0)


def _expire_ms(expire_after: Seconds | None) -> int:
    return -1 if expire_after is None else round(seconds(expire_after, "expire_after", least=1.0) * 1000)


def _shared(whole: Limits, count: int) -> Limits:
    """Return what may stay in each of so many partitions of what may stay of the whole store."""
    return Limits(whole.age_us, *(_share(most, count) for most in whole[1:]))


def _share(most: int, count: int) -> int:
    return most if most < 0 else -(-most // count)


def _lasts(ttl: Seconds | None, what: str) -> float:
    return 0.0 if ttl is None else seconds(ttl, what, least=1.0)


class Kept(_Both[E]):
    """Keeps the log of a store small."""

    def trim(
        self,
        *,
        max_age: Seconds | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        expire_after: Seconds | None = None,
    ) -> Trimmed:
        """Remove the oldest events from the log that are beyond a limit, as far as everybody has had them.

        The streams keep their events: `read` and `append` notice nothing; `read_all`, `subscribe`, projections and new
        groups begin with what is there, or raise `Truncated` if they were to go on with what is not.

        Args:
            max_age: Seconds; what was committed longer ago may go.
            max_count: What is not among so many newest events may go; 1 removes all that everybody has had.  Of several
                partitions each keeps its share, and at least one event.
            max_bytes: What does not fit into so much memory may go, by the estimate of ``MEMORY USAGE`` and as if all
                events were of one size.
            expire_after: Seconds of silence after which a group that is in the way is given up.  It is recorded: when
                it is consumed again, it gets `Truncated` until `ConsumerGroup.skip_removed` is called.  ``None`` never.

        Returns:
            How many events left, how many had to stay, and for whom.

        Raises:
            UsageError: No limit, or one that cannot be used.

        Guarantee: no event goes that a group has not acknowledged, that a projection or a registered reader has not
        had, or that is not yet in an archive that was begun; nor the newest one (tests/sim/test_retention.py).
        Not guaranteed: anything for readers that are not registered (`subscribe` with a *reader*, `note_reader`).
        Cost: one script per 1000 events removed, O(groups + projections + readers) each.
        """
        return run_sync(self._trim(limits(max_age, max_count, max_bytes), expire_after))

    def archive(self, directory: str | PathLike[str], *, at_least: int = 1) -> Archived:
        """Copy what is new in the log into files, so that it may be trimmed and still be read.

        From the first call on, `trim` leaves what is not archived; a store that is opened with *archive* reads what
        was removed from its files, with the same cursor.

        Args:
            directory: Of this store alone; made if it is not there.  Each partition has its own in it.
            at_least: Wait for so many new events, 1 to 10 000: one file holds them, and 10 000 at most.

        Returns:
            How many events were written, and into how many files.

        Raises:
            Damaged: The manifest cannot be read.
            Diverged: The last archived event is not the one that the server has: a failover lost events.
            Truncated: Events were removed behind the last archived one.
            UsageError: The directory is another store's, or this one is archived elsewhere.

        Guarantee: whatever breaks off where, the archive has each event once and without a gap, and `trim` removes
        nothing before its file is on the disk (tests/streams/test_archive.py).
        Cost: one round trip per 500 events; a file and the manifest are synchronised to the disk per 10 000.
        """
        return run_sync(self._archive(directory, at_least))

    def retention(
        self,
        *,
        max_age: Seconds | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        expire_after: Seconds | None = None,
        archive: str | PathLike[str] | None = None,
        period: Seconds = PERIOD_S,
    ) -> Retention:
        """Declare what the log keeps; `run` of this store or of what is returned sees to it.  Said again, it replaces.

        Args:
            max_age: As in `trim`, and so are the next three.
            max_count: What is not among so many newest events may go.
            max_bytes: What does not fit into so much memory may go.
            expire_after: Seconds of silence after which a group that is in the way is given up.
            archive: As in the method `archive`, which is called before each trim; ``None`` not at all.
            period: Seconds from one trim to the next, 1 at least, of all processes together.

        Raises:
            UsageError: No limit, or an argument that cannot be used.
        """
        return self._declare(Retention, limits(max_age, max_count, max_bytes), expire_after, archive, period)

    def floor(self) -> Floor:
        """Tell what is in the log, how much of it may go, and who has not had the rest.

        Cost: one script and one look per holder.
        """
        return run_sync(self._floor())

    def note_reader(
        self,
        name: str,
        checkpoint: int | str,
        *,
        kind: Literal["reader", "replicator"] = "reader",
        ttl: Seconds | None = READER_TTL_S,
    ) -> int:
        """Say how far a reader has got that keeps its checkpoint elsewhere: what it has not had stays in the log.

        Args:
            name: The reader.
            checkpoint: The `Recorded.checkpoint` of the last event that it has dealt with, or a position.
            kind: What it is, for those who ask `floor`.
            ttl: Seconds after which it holds nothing any more, unless it is noted again; ``None`` for ever.

        Returns:
            The last position that was removed from the log: if that is above yours, it is too late.  Of several
            partitions, 0 unless it is too late in one of them.
        """
        return run_sync(self._note(name, checkpoint, kind, ttl))

    def release(self, kind: Kind, name: str = "") -> bool:
        """Forget somebody who holds the floor: a group with its pending events, a projection with its view, a reader.

        Whoever still runs it should be stopped before; it would begin anew.  Dead letters stay.  Without its
        ``archive``, which has no name, a store is trimmed as if it had none.

        Returns:
            Whether it was known.
        """
        return run_sync(self._release(kind, name))


class AsyncKept(_Both[E]):
    """The asyncio twin of `Kept`."""

    async def trim(
        self,
        *,
        max_age: Seconds | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        expire_after: Seconds | None = None,
    ) -> Trimmed:
        """Remove the oldest events from the log as far as everybody has had them; see `EventStore.trim`."""
        return await self._trim(limits(max_age, max_count, max_bytes), expire_after)

    async def archive(self, directory: str | PathLike[str], *, at_least: int = 1) -> Archived:
        """Copy what is new in the log into files; see `EventStore.archive`."""
        return await self._archive(directory, at_least)

    def retention(
        self,
        *,
        max_age: Seconds | None = None,
        max_count: int | None = None,
        max_bytes: int | None = None,
        expire_after: Seconds | None = None,
        archive: str | PathLike[str] | None = None,
        period: Seconds = PERIOD_S,
    ) -> AsyncRetention:
        """Declare what the log keeps, for `run`; see `EventStore.retention`."""
        return self._declare(AsyncRetention, limits(max_age, max_count, max_bytes), expire_after, archive, period)

    async def floor(self) -> Floor:
        """Tell what is in the log, and who has not had all of it; see `EventStore.floor`."""
        return await self._floor()

    async def note_reader(
        self,
        name: str,
        checkpoint: int | str,
        *,
        kind: Literal["reader", "replicator"] = "reader",
        ttl: Seconds | None = READER_TTL_S,
    ) -> int:
        """Say how far a reader has got that keeps its checkpoint elsewhere; see `EventStore.note_reader`."""
        return await self._note(name, checkpoint, kind, ttl)

    async def release(self, kind: Kind, name: str = "") -> bool:
        """Forget somebody who holds the floor; see `EventStore.release`."""
        return await self._release(kind, name)
