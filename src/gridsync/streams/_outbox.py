"""Outboxes: events for another store, or another partition, on their way there.

Redis structures: a stream ``<number>-0`` for each pair of a sender and a receiver, in the sender's slot, to which a
commit adds (`complete.lua`); and at the receiver a hash with the last number that was accepted from each.  A relay
moves them one by one: the receiver takes only the number that comes next, so any relay may die at any step, and several
may run at once; they do the same.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Final, Generic, NamedTuple

from gridsync._io import Category, Command, load, run_sync
from gridsync.errors import Diverged, GridsyncError, UsageError
from gridsync.streams._away import BLOCK_MAX, PAUSE_MAX, PAUSE_MIN, patiently, raise_if_final
from gridsync.streams._cap import again
from gridsync.streams._core import RECENT
from gridsync.streams._look_outboxes import look_into
from gridsync.streams._model import E

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams._core import StoreCore
    from gridsync.streams._look_outboxes import OutboxInfo
    from gridsync.streams._partitions import Store

ACCEPT: Final = load("gridsync.streams", "accept")
LOOK: Final = Command("streams.look_into_outbox", Category.READ, ("XRANGE",))
COUNT: Final = Command("streams.count_outbox", Category.READ, ("XLEN",))
MOVED: Final = load("gridsync.streams", "moved")
PAGE: Final = 100
LOOK_S: Final = 15.0
"""Seconds between two looks of a relay at how much is waiting, for whoever measures."""
_GAP: Final = 2

_log = logging.getLogger("gridsync.streams")


class _Way(NamedTuple):
    """From one partition to another."""

    source: StoreCore[Any]
    target: StoreCore[Any]
    key: str


class _Outbox(Generic[E]):
    """What both kinds share."""

    def __init__(self, source: Store[Any], target: Store[E]) -> None:
        """Made by the store."""
        self._source = source
        self._target = target
        self._stop = source.io.signal()
        self._ways = [
            _Way(here, there, here.keys.outbox(there.keys.base))
            for here in source.partitions
            for there in target.partitions
        ]

    def stop(self) -> None:
        """End every `relay` of this object after what it is moving.

        May be called from any thread or task, and from a signal handler.  It lasts.
        """
        self._stop.set()

    def box(self, source: StoreCore[Any], stream: str) -> tuple[str, Callable[[E], tuple[str, bytes]]]:
        """Return the key for what goes from *source* to *stream*, and what writes its events.

        Raises:
            UsageError: It is the outbox of another store.
        """
        there = self._target.of(stream)
        for way in self._ways:
            if way.source is source and way.target is there:
                return way.key, there.codec.dump
        raise UsageError(f"{self!r} belongs to another store than the delivery, {source.name!r}")

    def leads_where(self, other: _Outbox[Any]) -> bool:
        """Tell whether *other* is for the same store, on the same grid."""
        mine, its = self._target, other._target
        return mine.io is its.io and mine.partitions[0].keys == its.partitions[0].keys

    def _again(self) -> _Outbox[E]:
        """Return the same, not stopped."""
        return type(self)(self._source, self._target)

    async def _relay(self, *, once: bool) -> int:
        if not once:
            await patiently(self._stop, f"{self!r}", self._open)
            moving = [self._keep_moving(way) for way in self._ways]
            return sum(await self._source.io.beside(*moving))
        await self._open()
        moved = 0
        for way in self._ways:
            while count := await self._move(way):
                moved += count
        return moved

    async def _open(self) -> None:
        if len(self._target.partitions) > 1:
            await self._target.directory.open()

    async def _keep_moving(self, way: _Way) -> int:
        io = way.source.io
        names = f"{way.source.name}/{way.target.name}"
        # Partitions add up; of several relays of one way the last that spoke is right.
        who = (names, way.source.partition * len(self._target.partitions) + way.target.partition, io.token())
        try:
            return await self._move_on(way, who)
        finally:
            io.report("outbox", who, None)

    async def _move_on(self, way: _Way, who: tuple[str, int, str]) -> int:
        io = way.source.io
        moved, pause, look_at = 0, PAUSE_MIN, io.monotonic()
        while True:
            stopping = self._stop.is_set()
            try:
                if io.monotonic() >= look_at:
                    ((_, facts),) = await look_into(way.source, (way.key,))
                    io.report("outbox", who, facts)
                    look_at = io.monotonic() + LOOK_S
                count = await self._move(way)
                moved += count
                pause = PAUSE_MIN
                # What was sent before the stop is moved, if the servers are there.
                if stopping and not count:
                    return moved
                if not count:
                    await self._wait(way)
            except GridsyncError as error:
                raise_if_final(error)
                if stopping:
                    return moved
                _log.warning("%r, next attempt in %.1f s: %s", self, pause, error)
                await self._stop.wait(pause)
                pause = min(pause * 2, PAUSE_MAX)

    async def _wait(self, way: _Way) -> None:
        block = Command(
            "streams.wait_for_outbox", Category.NEVER, ("XREAD", "BLOCK", str(round(BLOCK_MAX * 1000)), "STREAMS")
        )
        # From the beginning: what is there was not moved yet.
        await way.source.io.block(block, (way.key,), ("0-0",), wait=BLOCK_MAX, stop=self._stop)

    async def _move(self, way: _Way) -> int:
        """Move one page; returns how many consignments."""
        page = await way.source.io.run(LOOK, (way.key,), ("-", "+", "COUNT", str(PAGE)))
        done: list[bytes] = []
        for entry_id, fields in page:
            await self._send(way, entry_id.decode().removesuffix("-0"), fields)
            done += (entry_id, _events(fields)[0])
        if done:
            # A repeat removes nothing more; another relay has perhaps done it.
            await way.source.io.run(MOVED, (way.key,), done)
        return len(page)

    async def _send(self, way: _Way, number: str, fields: list[bytes]) -> None:
        keys, stream, about = way.target.keys, fields[1], fields[3]
        events = _events(fields)
        count = str(len(events) // 3)
        words = (str(RECENT), about, count, way.target.mode, way.key, number, stream, "-1", count, *events)
        touched = (keys.meta, keys.versions, keys.log, keys.recent, keys.senders, keys.stream(stream.decode()))
        # A lost reply may mean written: the number is not the next one any more.
        reply = await way.target.io.run(ACCEPT, touched, words)
        reply = await again(way.target, reply, ACCEPT, touched, words, int(count))
        if reply[0] == _GAP:
            raise Diverged(
                f"{self!r}: {way.target.log_name} has accepted number {reply[1]} of this sender, and the next one that "
                f"is here is {number}: a failover has lost what came between; nothing was moved",
                name=way.key,
                checkpoint=number,
            )

    async def _count(self) -> int:
        counts = [await way.source.io.run(COUNT, (way.key,)) for way in self._ways]
        return sum(counts)

    async def _info(self) -> tuple[OutboxInfo, ...]:
        partitions = self._source.partitions
        boxes = [[way.key for way in self._ways if way.source is core] for core in partitions]
        found = await self._source.io.gather(*map(look_into, partitions, boxes))
        return tuple(info for rows in found for info, _ in rows)

    def __repr__(self) -> str:
        """From where to where."""
        return f"<{type(self).__name__} of {self._source.name!r} for {self._target.name!r}>"


def _events(fields: list[bytes]) -> list[bytes]:
    """Return id, type and payload of each event of a consignment."""
    # More facts may stand before them than this version knows, or fewer.
    return fields[2 * fields[::2].index(b"i") + 1 :: 2]


class Outbox(_Outbox[E]):
    """What handlers of one store send to another one, on its way.

    Guarantee: what was committed is appended to the other store once, and in the order of the commits of a partition,
    whatever dies on the way (tests/streams/test_outbox.py); or `relay` raises `Diverged`.
    Not guaranteed: that it is there at once, nor order among what comes from several partitions.
    """

    def relay(self, *, once: bool = False) -> int:
        """Move what was sent, and go on until `stop` is called.  Any number of processes may.

        Args:
            once: Return when nothing is left.

        Returns:
            How many consignments were moved.

        Raises:
            Diverged: The other store has lost what it had accepted, or this one what was to be sent.
            LogFull: The other store is at its cap, with *once*; else it is logged, and tried again.
            Misconfigured: A server refuses for a reason that no retry heals.

        While a server is away it waits and tries again, unless *once* is set.
        Cost: one script for each `Transaction.send`, two round trips for 100 of them.
        """
        return run_sync(self._relay(once=once))

    def count(self) -> int:
        """Count what has not been moved yet."""
        return run_sync(self._count())

    def info(self) -> tuple[OutboxInfo, ...]:
        """Look how much is on its way, and for how long: one for each partition that sends and each that gets it.

        Cost: one script for each partition that sends, O(partitions of the target).
        """
        return run_sync(self._info())


class AsyncOutbox(_Outbox[E]):
    """The asyncio twin of `Outbox`.

    Guarantee: what was committed is appended to the other store once, and in the order of the commits of a partition,
    whatever dies on the way (tests/streams/test_outbox.py); or `relay` raises `Diverged`.
    """

    async def relay(self, *, once: bool = False) -> int:
        """Move what was sent, and go on until `stop` is called; see `Outbox.relay`."""
        return await self._relay(once=once)

    async def count(self) -> int:
        """Count what has not been moved yet; see `Outbox.count`."""
        return await self._count()

    async def info(self) -> tuple[OutboxInfo, ...]:
        """Look how much is on its way, and for how long; see `Outbox.info`."""
        return await self._info()
