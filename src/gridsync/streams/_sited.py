"""What users call to have a store in two data centres: the part of `EventStore` and `AsyncEventStore` for that."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic

from gridsync._io import run_sync
from gridsync._units import shown
from gridsync.errors import UsageError
from gridsync.streams._divergence import Divergence, Reappended, SetAside, compare, reappend, set_aside
from gridsync.streams._model import E
from gridsync.streams._replication import AsyncReplication, Replication
from gridsync.streams._sites import fence, look_at_all, promote

if TYPE_CHECKING:
    from os import PathLike

    from gridsync.streams._partitions import Store
    from gridsync.streams._sites import Site


class Sited(Generic[E]):
    """A store of which there is another one elsewhere."""

    _core: Store[E]

    def replication(self, target: Sited[E]) -> Replication:
        """Return what makes *target* a mirror of this store, and keeps it one.

        Args:
            target: The same store at another place, of another grid: empty, a mirror of this one already, or fenced and
                with no event that this one does not have.

        Raises:
            UsageError: They were opened with other options.
        """
        return Replication(self._core, _of(target, Sited))

    def site(self) -> Site:
        """Look whether this copy of the store takes events, and in which epoch it is.

        Cost: one round trip for each partition.
        """
        return run_sync(look_at_all(self._core.partitions))

    def promote(self, *, force: bool = False) -> Site:
        """Let a mirror, or a store that was fenced, take events, in a new epoch.

        The other site does not know of it until somebody tells it: whoever replicates and finds the mirror promoted
        fences the source, or `fence` does.  Until then both take events, if clients reach both.

        Args:
            force: Also if another copy was promoted, because that one is lost for good.

        Raises:
            UsageError: It takes events already, or was superseded.

        Guarantee: what is sent to it late for the store that it mirrored is refused (tests/sim/test_replication.py).
        Not guaranteed: that everything has crossed; what has not, `divergence` tells.
        Cost: three round trips for each partition.  Broken off, it is to be repeated.
        """
        return run_sync(promote(self._core.partitions, force=force))

    def fence(self, epoch: int | None = None) -> Site:
        """Let this store take no more events: `ReadOnlyStore` is what appends get.  It can be read.

        Args:
            epoch: The one that began when its mirror was promoted.  ``None`` before a planned switch.

        Raises:
            UsageError: It is in that epoch, or a newer one, itself.
        """
        return run_sync(fence(self._core.partitions, epoch))

    def divergence(self, other: Sited[Any]) -> Divergence:
        """Compare this store with its other side, and tell what this one has that never crossed.

        Args:
            other: The other side, which went on without.

        Raises:
            Truncated: The logs have no position in common any more.

        Cost: four round trips for each doubling of the number of events, and partition.
        """
        return run_sync(compare(self._core.partitions, _of(other, Sited).partitions))

    def set_aside(self, other: Sited[Any], path: str | PathLike[str]) -> SetAside:
        """Take off what never crossed, so that this store can mirror the other side; it is written to files before.

        It is not undone what groups, projections and other systems have made of those events: groups go on at the last
        event that stays, and a projection that has seen one that goes is told so (`Diverged`).

        Args:
            other: The other side, which went on without.
            path: Where to write it: JSON lines, compressed if the name ends in ``.zst`` or ``.gz``.  Of several
                partitions each has a file, ``partition-<number>-`` and the name.

        Raises:
            UsageError: This store is not fenced, or the file is there and holds something else.
            Truncated: The logs have no position in common any more.

        Guarantee: nothing is removed that is not in a file, on the disk; broken off, it is to be repeated
        (tests/streams/test_divergence.py).
        Cost: the streams that lose events, and the log, are copied; what never crossed is held in memory.
        """
        return run_sync(set_aside(self._core.partitions, _of(other, Sited).partitions, Path(path)))

    def reappend(self, path: str | PathLike[str]) -> Reappended:
        """Append the events of a file that `set_aside` wrote to their streams, with their ids and envelopes.

        Each gets the next version and position, and the time of now: whether it still makes sense there, who calls this
        knows.  Events whose ids are among the newest 10 000 of the store are not appended again.
        """
        return run_sync(reappend(self._core.partitions, Path(path)))


class AsyncSited(Generic[E]):
    """The asyncio twin of `Sited`."""

    _core: Store[E]

    def replication(self, target: AsyncSited[E]) -> AsyncReplication:
        """Return what makes *target* a mirror of this store, and keeps it one; see `EventStore.replication`."""
        return AsyncReplication(self._core, _of(target, AsyncSited))

    async def site(self) -> Site:
        """Look whether this copy of the store takes events, and in which epoch it is; see `EventStore.site`."""
        return await look_at_all(self._core.partitions)

    async def promote(self, *, force: bool = False) -> Site:
        """Let a mirror, or a store that was fenced, take events, in a new epoch; see `EventStore.promote`."""
        return await promote(self._core.partitions, force=force)

    async def fence(self, epoch: int | None = None) -> Site:
        """Let this store take no more events; see `EventStore.fence`."""
        return await fence(self._core.partitions, epoch)

    async def divergence(self, other: AsyncSited[Any]) -> Divergence:
        """Compare this store with its other side; see `EventStore.divergence`."""
        return await compare(self._core.partitions, _of(other, AsyncSited).partitions)

    async def set_aside(self, other: AsyncSited[Any], path: str | PathLike[str]) -> SetAside:
        """Take off what never crossed, after it was written to files; see `EventStore.set_aside`."""
        return await set_aside(self._core.partitions, _of(other, AsyncSited).partitions, Path(path))

    async def reappend(self, path: str | PathLike[str]) -> Reappended:
        """Append the events of a file that `set_aside` wrote; see `EventStore.reappend`."""
        return await reappend(self._core.partitions, Path(path))


def _of(other: Sited[Any] | AsyncSited[Any], kind: type[Sited[Any] | AsyncSited[Any]]) -> Store[Any]:
    """Return what a store is inside.

    Raises:
        UsageError: It is none; those of threads and of tasks do not go together.
    """
    if not isinstance(other, kind):
        name = "an EventStore" if kind is Sited else "an AsyncEventStore"
        raise UsageError(f"the other side must be {name} as this one is, not {shown(other)}")
    return other._core  # noqa: SLF001 - what a store is inside
