"""Replication: a store in one data centre follows a store in another one, event by event.

The reader subscribes: it catches up and then waits at the end of the source's log.  While a page is written, the next
one is read.  Whoever replicates holds nothing but what is noted at both sides, so it may die at any step, and several
may run at once: they do the same.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import run_sync
from gridsync.errors import GridsyncError, Promoted, UsageError
from gridsync.streams._away import PAUSE_MAX, PAUSE_MIN, raise_if_final
from gridsync.streams._cursors import Cursors
from gridsync.streams._lane import Lane
from gridsync.streams._sites import Site, look, look_at_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Signal
    from gridsync.streams._cursors import Cursor
    from gridsync.streams._partitions import Store

ATTEND_S: Final = 1.0
"""Seconds between two looks: is the target still a mirror, and what may leave the source's log?"""

_log = logging.getLogger("gridsync.streams")


@dataclass(frozen=True, slots=True)
class Lag:
    """How far one partition of a mirror is behind."""

    partition: int
    """Which one."""
    position: int
    """The last event that is in the mirror."""
    head: int
    """The last one of the source."""
    events: int
    """How many events have not crossed."""
    seconds: float
    """How long ago the first of those was committed, in seconds by the source's clock; 0 if all have crossed."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """How a replication stands."""

    source: Site
    """What the source is."""
    target: Site
    """What the target is."""
    follows: bool
    """Whether the target mirrors this source."""
    lags: tuple[Lag, ...]
    """Of each partition, how far the target is behind."""

    @property
    def events(self) -> int:
        """How many events have not crossed, in all partitions."""
        return sum(lag.events for lag in self.lags)

    @property
    def seconds(self) -> float:
        """How long ago the oldest of those was committed; 0 if all have crossed."""
        return max(lag.seconds for lag in self.lags)


class _Replication:
    """What both kinds share."""

    def __init__(self, source: Store[Any], target: Store[Any]) -> None:
        """Made by the store."""
        if (count := len(source.partitions)) != (there := len(target.partitions)):
            raise UsageError(f"the source has {count} partition(s) and the target {there}: a mirror has as many")
        for core, other in zip(source.partitions, target.partitions, strict=True):
            if core.mode != other.mode:
                raise UsageError(
                    f"the source is opened with log={core.log!r} and the target with log={other.log!r}: a mirror keeps "
                    "its log as its source does"
                )
        if source.directory.by != target.directory.by:
            raise UsageError("the source and the target have another partition_by: a mirror has the same")
        self._source = source
        self._target = target
        self._stop = source.io.signal()
        self._lanes: list[Lane] = []

    def stop(self) -> None:
        """End every `run` of this object after the page that it is writing.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    async def _run(self, *, once: bool, on_ready: Callable[[], object] | None) -> int:
        pairs = zip(self._source.partitions, self._target.partitions, strict=True)
        lanes = self._lanes = [Lane(source, target) for source, target in pairs]
        if once:
            await self._open()
            for lane in lanes:
                await self._session(lane, self._stop, once=True)
            return sum(lane.moved for lane in lanes)
        # One that fails ends the others, and `stop` is the user's.
        halt = self._source.io.signal()
        drop = self._stop.on_set(halt.set)
        try:
            await self._source.io.beside(
                *(self._go_on(lane, halt) for lane in lanes), self._attend(lanes, halt, on_ready)
            )
        finally:
            drop()
        return sum(lane.moved for lane in lanes)

    async def _open(self) -> None:
        await self._source.directory.look()
        if len(self._target.partitions) > 1:
            await self._target.directory.open()
        else:
            await self._target.directory.look()

    async def _go_on(self, lane: Lane, halt: Signal) -> None:
        pause = PAUSE_MIN
        try:
            while not halt.is_set():
                moved = lane.moved
                try:
                    await self._open()
                    await self._session(lane, halt, once=False)
                except GridsyncError as error:
                    raise_if_final(error)
                    pause = PAUSE_MIN if lane.moved > moved else pause
                    _log.warning("%r, next attempt in %.1f s: %s", self, pause, error)
                    await halt.wait(pause)
                    pause = min(pause * 2, PAUSE_MAX)
        except Promoted as error:
            await self._fence(lane, error)
            raise
        finally:
            halt.set()

    async def _session(self, lane: Lane, halt: Signal, *, once: bool) -> None:
        """Move pages from where the mirror is, until stopped, told to begin again or, once, at the present end."""
        again = lane.again = lane.source.io.signal()
        drop = halt.on_set(again.set)
        try:
            cursors: Cursors[Any] = Cursors((lane.source,), again, lane.begin, once=once, holes=True)
            while (found := await cursors.next()) is not None:
                cursor, entries = found
                while entries:
                    entries = await self._step(lane, cursor, entries)
        finally:
            drop()
        if lane.begun:
            await lane.hold()
            await lane.carry((await look(lane.source)).groups)

    async def _step(self, lane: Lane, cursor: Cursor[Any], entries: list[Any]) -> list[Any]:
        """Write a page, and read the next one meanwhile if there surely is one."""
        pages = cursor.pages
        assert pages is not None  # noqa: S101 - it has just read this page
        full, pages.size = len(entries) >= pages.size, lane.size
        if not full:
            await lane.apply(entries)
            return []

        async def write() -> list[Any]:
            await lane.apply(entries)
            return []

        ahead, _ = await self._source.io.fan(pages.next(), write())
        return ahead

    async def _attend(self, lanes: list[Lane], halt: Signal, on_ready: Callable[[], object] | None) -> None:
        """Look after what no event tells: a promotion, how far behind it is, and what the source must keep."""
        noted: dict[Lane, str] = {}
        try:
            while not await halt.wait(ATTEND_S if on_ready is None else PAUSE_MIN):
                if on_ready is not None and all(lane.begun for lane in lanes):
                    on_ready()
                    on_ready = None
                for lane in lanes:
                    if lane.begun:
                        await self._attend_to(lane, noted)
        finally:
            halt.set()
            for lane in lanes:
                lane.report(None)

    async def _attend_to(self, lane: Lane, noted: dict[Lane, str]) -> None:
        try:
            at = lane.at
            here = await look(lane.target)
            if here.role != "mirror":
                raise await lane.promoted()
            there = await look(lane.source, here.position)
            lane.report(max(0, there.position - here.position), there.since_us)
            if here.position < int(at.partition(":")[0]) or there.epoch != lane.epoch:
                # A failover has taken from the mirror what it had, or the source is in another epoch now.
                lane.again.set()
                return
            if noted.get(lane) != at:
                await lane.hold()
                noted[lane] = at
            await lane.carry(there.groups)
        except Promoted as error:
            await self._fence(lane, error)
            raise
        except GridsyncError as error:
            raise_if_final(error)
            _log.warning("%r could not look after %s: %s", self, lane.source.log_name, error)
            await self._report_alone(lane)

    async def _report_alone(self, lane: Lane) -> None:
        """Tell how far the source is ahead of what has crossed, while the target cannot be asked.

        Else the last that was told would stand, which is that all is well.
        """
        crossed = int(lane.at.partition(":")[0])
        with suppress(GridsyncError):
            there = await look(lane.source, crossed)
            lane.report(max(0, there.position - crossed), there.since_us)

    async def _fence(self, lane: Lane, error: Promoted) -> None:
        try:
            await lane.fence(error.fence)
        except GridsyncError as other:
            _log.error("%s was not fenced, though its mirror was promoted: %s", lane.source.log_name, other)

    async def _status(self) -> Mirrored:
        lags, follows = [], True
        for source, target in zip(self._source.partitions, self._target.partitions, strict=True):
            here = await look(target)
            # Of a target that does not follow, how far it is behind is not known; this is how far it would be.
            there = await look(source, here.position)
            follows = follows and here.role == "mirror" and here.mirrors == there.site
            behind = max(0, there.position - here.position)
            age = max(0, there.now_us - there.since_us) / 1_000_000 if behind and there.since_us else 0.0
            lags.append(Lag(source.partition, here.position, there.position, behind, age))
        source_site = await look_at_all(self._source.partitions)
        return Mirrored(source_site, await look_at_all(self._target.partitions), follows, tuple(lags))

    def __repr__(self) -> str:
        """What is mirrored."""
        return f"<{type(self).__name__} of {self._source.name!r}>"


class Replication(_Replication):
    """A store and its mirror.

    Guarantee: the mirror has the source's events with their ids, streams, versions, positions and times, without a gap
    and each once, whatever dies or is lost on the way (tests/sim/test_replication.py,
    tests/faults/test_replication.py).
    Not guaranteed: that the last events have crossed when the source is lost; `status` says how far behind it is.
    """

    def run(self, *, once: bool = False, on_ready: Callable[[], object] | None = None) -> int:
        """Follow the source until `stop` is called.  Any number of processes may.

        Args:
            once: Return at the present end of the source.
            on_ready: Called once, when every partition of the target is a mirror.

        Returns:
            How many events were taken over, as far as seen from here.

        Raises:
            UsageError: The target cannot be the mirror of this source: it is the same store, has events of its own,
                mirrors another store, or was begun with other options.
            Truncated: Events that have not crossed were removed at the source.
            Diverged: The source has lost events that have crossed, or the target has others.
            Promoted: The target takes events of its own now; the source was fenced, if it could be reached.
            Misconfigured: A server refuses for a reason that no retry heals.

        While a server is away it waits and tries again, unless *once* is set.
        Cost: one read and one script for up to 1000 events, side by side; and once a second two looks.
        """
        return run_sync(self._run(once=once, on_ready=on_ready))

    def status(self) -> Mirrored:
        """Look how far the target is behind, and whether it follows.

        Cost: four round trips for each partition.
        """
        return run_sync(self._status())


class AsyncReplication(_Replication):
    """The asyncio twin of `Replication`.

    Guarantee: the mirror has the source's events with their ids, streams, versions, positions and times, without a gap
    and each once, whatever dies or is lost on the way (tests/sim/test_replication.py,
    tests/faults/test_replication.py).
    """

    async def run(self, *, once: bool = False, on_ready: Callable[[], object] | None = None) -> int:
        """Follow the source until `stop` is called; see `Replication.run`."""
        return await self._run(once=once, on_ready=on_ready)

    async def status(self) -> Mirrored:
        """Look how far the target is behind, and whether it follows; see `Replication.status`."""
        return await self._status()
