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
from gridsync.streams._cap import Cap, OnCap, capped
from gridsync.streams._commit import Expected
from gridsync.streams._erase import Erased, erase
from gridsync.streams._keeper import PERIOD_MIN_S, PERIOD_S, AsyncRetention, Declared, KeptLog, Retention
from gridsync.streams._model import E
from gridsync.streams._pages import read_mark
from gridsync.streams._partitions import read_vector
from gridsync.streams._readers import READER_TTL_S, lasting
from gridsync.streams._retention import Archived, Floor, Keeping, Limits, Trimmed, limits, reader_checkpoint

if TYPE_CHECKING:
    from os import PathLike

    from gridsync.streams._partitions import Store
    from gridsync.streams._retention import Kind
    from gridsync.streams._routes import Routes

R = TypeVar("R", Retention, AsyncRetention)


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

    def _declare(  # noqa: PLR0917 - as `retention`
        self,
        kind: type[R],
        whole: Limits,
        expire_after: Seconds | None,
        directory: str | PathLike[str] | None,
        period: Seconds,
        cap: Cap | None,
    ) -> R:
        cores, name = self._core.partitions, self._core.name
        archives = [None] * len(cores) if directory is None else self._archives(directory)
        period_s = seconds(period, "period", least=PERIOD_MIN_S)
        declared = Declared(_shared(whole, len(cores)), _expire_ms(expire_after), period_s, _portion(cap, len(cores)))
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
            sum(each.cap for each in found if each.cap) or None,
        )

    async def _release(self, kind: Kind, name: str) -> bool:
        return any([await each.release(kind, name) for each in self._keeping()])

    async def _note(self, name: str, checkpoint: int | str, kind: Kind, ttl: Seconds | None) -> int:
        if kind not in ("reader", "replicator"):
            raise UsageError(f"kind={kind!r:.100}: reader or replicator")
        checked(name, "the name of a reader")
        keeping, lasts_s = self._keeping(), lasting(ttl, "ttl")
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


def _portion(cap: Cap | None, count: int) -> Cap | None:
    return cap and Cap(_share(cap.events, count), _share(cap.size, count), cap.policy)


def _share(most: int, count: int) -> int:
    return most if most < 0 else -(-most // count)


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
        cap_count: int | None = None,
        cap_bytes: int | None = None,
        on_cap: OnCap = "block",
    ) -> Retention:
        """Declare what the log keeps; `run` of this store or of what is returned sees to it.  Said again, it replaces.

        Args:
            max_age: As in `trim`, and so are the next three.
            max_count: What is not among so many newest events may go.
            max_bytes: What does not fit into so much memory may go.
            expire_after: Seconds of silence after which a group that is in the way is given up.
            archive: As in the method `archive`, which is called before each trim; ``None`` not at all.
            period: Seconds from one trim to the next, 1 at least, of all processes together.
            cap_count: How many events the log may hold at most, 2 at least: an append that would be one too many first
                removes what nobody needs, whatever the limits would keep, and if that does not do it, is refused at
                once with `LogFull`.  Of several partitions each has its share.
            cap_bytes: How much memory the log may take at most.  Each period it is made into a number of events, by the
                estimate of ``MEMORY USAGE`` and as if all were of one size.
            on_cap: Who is passed over before an append is refused: nobody (``block``); groups that are in the way
                (``expire_group``), which are given up as after *expire_after*; projections and registered readers
                (``spill``), which read on in the *archive*.

        Raises:
            UsageError: No limit and no cap, or an argument that cannot be used.

        Guarantee: from the first `run` on, no append makes the log larger than its cap, whoever appends and whether or
        not a retention runs; commits of deliveries may by a tenth, for they make it smaller (tests/sim/test_cap.py).
        Not guaranteed: that memory stays below *cap_bytes* while events grow within a period.
        """
        cap = capped(cap_count, cap_bytes, on_cap, archived=archive is not None)
        whole = limits(max_age, max_count, max_bytes, capped=cap is not None)
        return self._declare(Retention, whole, expire_after, archive, period, cap)

    def erase(self, stream: str, *, expected_version: int | Expected = Expected.ANY) -> Erased:
        """Remove the events of *stream* for good, from the stream and from the log.

        Args:
            stream: The stream's name; one without events is none to erase.
            expected_version: Erase only if it is at this version, or with ``EXISTS`` if it has had an event; ``ANY``
                whatever its version is.

        Returns:
            Up to which version it has no events any more, and how much was removed now: a repeat removes the rest.

        Raises:
            WrongVersion: The stream is at another version; nothing was erased.
            UsageError: An argument that cannot be used.

        Its versions go on where they were: `append` with ``NO_STREAM``, or again what was erased, is a `WrongVersion`;
        ``ANY``, ``EXISTS`` and the number it is at go on behind what was erased.  Readers pass over what is not there,
        groups get none of it, its snapshots and the dead letters of groups that exist go, too, and archives are read
        without it.
        Not removed: the stream's name and its event ids (in versions, holes, the newest 10 000), what projections,
        states of groups, outboxes and other stores have made of the events, what consumers have in hand, and what is
        in files: archives, exports, the server's AOF, dumps and replicas' copies of those.
        Cost: one script per 1000 events; O(log n) for each.
        """
        return run_sync(erase(self._core, stream, expected_version))

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
        cap_count: int | None = None,
        cap_bytes: int | None = None,
        on_cap: OnCap = "block",
    ) -> AsyncRetention:
        """Declare what the log keeps, for `run`; see `EventStore.retention`."""
        cap = capped(cap_count, cap_bytes, on_cap, archived=archive is not None)
        whole = limits(max_age, max_count, max_bytes, capped=cap is not None)
        return self._declare(AsyncRetention, whole, expire_after, archive, period, cap)

    async def erase(self, stream: str, *, expected_version: int | Expected = Expected.ANY) -> Erased:
        """Remove the events of *stream* for good, from the stream and from the log; see `EventStore.erase`."""
        return await erase(self._core, stream, expected_version)

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
