"""Keeper: retention that goes on by itself, by one process of many at a time.

Redis structures: of each partition one key that says whose turn it is and expires when a period is over.  It saves work
and promises nothing: trims at the same time remove what one would, and files are written by one process at a time
because of a lock of theirs.  So nothing is renewed or given back, and who dies has had its turn.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final, NamedTuple

from gridsync._io import load, run_sync
from gridsync.errors import GridsyncError
from gridsync.streams._away import raise_if_final

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import IO, Signal
    from gridsync.streams._archive import Archive
    from gridsync.streams._cap import Cap
    from gridsync.streams._pages import Pages
    from gridsync.streams._retention import Keeping, Limits

TURN: Final = load("gridsync.streams", "turn")
PERIOD_S: Final = 60.0
PERIOD_MIN_S: Final = 1.0

_log = logging.getLogger("gridsync.streams")


class Declared(NamedTuple):
    """What is to be done in each partition, and how often."""

    limits: Limits
    expire_ms: int
    period_s: float
    cap: Cap | None


class KeptLog(NamedTuple):
    """One partition: its log, and the archive of what leaves it."""

    keeping: Keeping
    archive: Archive | None
    pages: Callable[..., Pages]
    turn: str
    log_name: str


class _Retention:
    """What both kinds share."""

    def __init__(self, io: IO, name: str, declared: Declared, logs: Sequence[KeptLog]) -> None:
        """Made by the store."""
        self._io = io
        self._name = name
        self._declared = declared
        self._logs = logs
        self._stop = io.signal()

    def stop(self) -> None:
        """End every `run` of this object after the log it is at.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    def _again(self) -> _Retention:
        """Return the same, not stopped."""
        return type(self)(self._io, self._name, self._declared, self._logs)

    async def _run(self, *, once: bool) -> int:
        if once:
            return sum([await self._keep(log) for log in self._logs])
        # What ends one partition for good ends the run: the others would go on in threads that nobody waits for.
        halt = self._io.signal()
        drop = self._stop.on_set(halt.set)
        try:
            return sum(await self._io.beside(*(self._go_on_until(halt, log) for log in self._logs)))
        finally:
            drop()

    async def _go_on_until(self, halt: Signal, log: KeptLog) -> int:
        try:
            return await self._go_on(halt, log)
        finally:
            halt.set()

    async def _go_on(self, halt: Signal, log: KeptLog) -> int:
        removed, period_s = 0, self._declared.period_s
        while not halt.is_set():
            pause = period_s
            try:
                left = await self._io.run(TURN, (log.turn,), (self._io.token(), str(round(period_s * 1000))))
                if left < 0:
                    removed += await self._keep(log)
                else:
                    # Not before it is over; it may be another period than ours.
                    pause = (left + 1) / 1000
            except GridsyncError as error:
                raise_if_final(error)
                _log.warning("%s could not be kept small, next attempt in %.0f s: %s", log.log_name, period_s, error)
            except OSError as error:
                # Nothing leaves the log that is in no file yet: it grows until there is room again.
                _log.warning("%s was not archived, next attempt in %.0f s: %s", log.log_name, period_s, error)
            await halt.wait(pause)
        return removed

    async def _keep(self, log: KeptLog) -> int:
        if log.archive is not None:
            await log.keeping.archive(log.archive, log.pages, 1)
        limits, cap = self._declared.limits, self._declared.cap
        most = await log.keeping.most(cap)
        if most:
            # What is near the cap may go as well: else appends would have to see to it, one by one.
            keep = most - most // 10
            limits = limits._replace(count_max=keep if limits.count_max < 0 else min(keep, limits.count_max))
        done = await log.keeping.trim(limits, expire_ms=self._declared.expire_ms)
        # Afterwards: what had no cap before is not at its cap the moment it gets one.
        await log.keeping.hold_to(most, cap.policy if cap else "")
        return done.removed

    def __repr__(self) -> str:
        """Whose it is."""
        return f"<{type(self).__name__} of {self._name!r}>"


class Retention(_Retention):
    """What a store keeps, and a `run` that removes the rest from time to time.

    Guarantee: what `EventStore.trim` and `EventStore.archive` promise, whoever runs how many of it
    (tests/streams/test_keeper.py).
    Not guaranteed: that only one process works at a time: a turn ends with its period, even if its work does not.
    """

    def run(self, *, once: bool = False) -> int:
        """Archive and trim once in each period, in one of the processes that run this, until `stop` is called.

        Args:
            once: Do it now and return, whosever turn it is.

        Returns:
            How many events left the log, as far as seen from here.

        Raises:
            Diverged: The last archived event is not the one that the server has: a failover lost events.
            Truncated: Events were removed behind the last archived one.
            Damaged: The archive's manifest cannot be read.
            UsageError: The archive is another store's; or *max_bytes* at a server that does not say what keys take.
            OSError: The archive cannot be written, with *once*; else it is logged, as an absent server is, and tried
                again a period later.

        Cost: one script for each partition, period and process, beside what `EventStore.trim` costs.
        """
        return run_sync(self._run(once=once))


class AsyncRetention(_Retention):
    """The asyncio twin of `Retention`.

    Guarantee: what `EventStore.trim` and `EventStore.archive` promise, whoever runs how many of it
    (tests/streams/test_keeper.py).
    """

    async def run(self, *, once: bool = False) -> int:
        """Archive and trim once in each period until `stop` is called; see `Retention.run`."""
        return await self._run(once=once)
