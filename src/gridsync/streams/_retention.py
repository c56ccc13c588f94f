"""Retention: what may leave the log, and who keeps it from doing so.

Redis structures: all that remembers how far somebody has got, the groups' pending lists, one hash of what groups have
acknowledged, one of the projections' checkpoints, one of registered readers, and how far the archive is.  The lowest of
all is the floor.  `trim.lua` computes it in the same step that removes, so nobody can come between.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypeAlias, get_args

from gridsync._io import Category, Command, load
from gridsync._units import Seconds, seconds
from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._archive import SEGMENT
from gridsync.streams._cap import CAP, CAP_MIN, STEP, expired, trimmed
from gridsync.streams._look import WEIGH
from gridsync.streams._pages import RANGE, mark_of, number, read_mark

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import IO
    from gridsync._io.keys import EventKeys
    from gridsync.streams._archive import Archive
    from gridsync.streams._cap import Cap
    from gridsync.streams._pages import Pages

NOTE: Final = load("gridsync.streams", "note")
_LOOK: Final = Command("streams.look_at_archived", Category.READ, ("HGET",))
_KEEP: Final = Command("streams.archived", Category.LAST_WINS, ("HSET",))
RELEASE: Final = load("gridsync.streams", "release")

AGE_MAX_S: Final = 100 * 366 * 24 * 3600.0
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Kind: TypeAlias = Literal["group", "projection", "reader", "replicator", "archive"]
"""Who can keep events in the log."""


@dataclass(frozen=True, slots=True)
class Holder:
    """Somebody who has not had every event, and what stays in the log for that."""

    kind: Kind
    """What it is."""
    name: str
    """Its name; empty for the archive."""
    position: int
    """It has had every event up to this position."""
    held: int
    """How many events in the log it has not had."""
    held_bytes: int
    """About how much memory they take, in bytes."""
    since: datetime | None
    """When the oldest of those was committed that are in the log."""
    seen: datetime | None
    """When it was last heard of, if that is noted: of groups while they are consumed, and of readers."""
    partition: int = 0
    """The partition that this is about; names and positions are its own."""


@dataclass(frozen=True, slots=True)
class Floor:
    """What is in the log, and who holds it there."""

    events: int
    """How many events are in the log."""
    free: int
    """How many of them may be removed, for everybody known has had them."""
    log_bytes: int
    """About how much memory the log takes, in bytes, as ``MEMORY USAGE`` has it; 0 if the server does not tell."""
    holders: tuple[Holder, ...]
    """Who has not had every event, the one who is furthest behind first: that one holds the floor."""
    cap: int | None = None
    """How many events the log may hold, ``None`` for any number; of several partitions each has its share."""


@dataclass(frozen=True, slots=True)
class Trimmed:
    """What one trim did."""

    removed: int
    """How many events left the log meanwhile."""
    left: int
    """How many are there now."""
    kept: int
    """How many more the limits would have removed, if nobody needed them."""
    held_by: tuple[Kind, str] | None
    """Kind and name of who is furthest behind of those who need them; ``None`` if nothing is kept."""
    expired: tuple[str, ...] = ()
    """Groups that were given up because they had been silent for too long."""


@dataclass(frozen=True, slots=True)
class Archived:
    """What one run of `EventStore.archive` wrote."""

    events: int
    """How many events."""
    files: int
    """Into how many files."""


class Limits(NamedTuple):
    """What may stay in the log: what is beyond any of these may go."""

    age_us: int
    count_max: int
    bytes_max: int


def limits(max_age: Seconds | None, max_count: int | None, max_bytes: int | None, *, capped: bool = False) -> Limits:
    """Check the arguments of `EventStore.trim`; something *capped* needs no other limit."""
    if max_age is None and max_count is None and max_bytes is None and not capped:
        raise UsageError("say what may stay: max_age, max_count or max_bytes; max_count=1 removes all that may be")
    age = -1 if max_age is None else round(seconds(max_age, "max_age", most=AGE_MAX_S) * 1_000_000)
    return Limits(age, _amount(max_count, "max_count"), _amount(max_bytes, "max_bytes"))


def _amount(value: int | None, what: str) -> int:
    if value is None:
        return -1
    if type(value) is not int or value < 1:
        raise UsageError(f"{what}={value!r:.100} must be a whole number from 1")
    return value


class Keeping:
    """Retention of one log."""

    def __init__(self, io: IO, keys: EventKeys, name: str) -> None:
        """Nothing is sent; *name* is the store's."""
        self._io = io
        self._keys = keys
        self._name = name
        self._all = (keys.log, keys.meta, keys.floors, keys.places, keys.readers)

    async def trim(self, limits: Limits, *, expire_ms: int = -1) -> Trimmed:
        """Remove what is beyond the limits and what nobody needs, in steps; see `EventStore.trim`."""
        keep = limits.count_max
        begin, last, *_ = (await self._step(keep, limits.age_us, 0, expire_ms))[1:]
        if limits.bytes_max >= 0 and last:
            fits = await self._fitting(limits.bytes_max, last - begin + 1, "max_bytes")
            keep = fits if keep < 0 else min(keep, fits)
        given_up: list[str] = []
        while True:
            # Counted by positions: a repeat after a lost reply goes on where the first run ended.
            removed, first, last, floor, wanted, told, gone, held, _ = await self._step(
                keep, limits.age_us, STEP, expire_ms
            )
            given_up += expired(self._io, self._name, gone, "was silent for too long")
            if removed < STEP:
                break
        kept = max(0, min(wanted, last - 1) - max(floor, first - 1))
        holders = sorted(told, key=_position)
        held_by = (holders[0][0].decode(), holders[0][1].decode()) if kept and holders else None
        return Trimmed(first - begin, held, kept, held_by, tuple(given_up))

    async def floor(self) -> Floor:
        """Tell who holds what; see `EventStore.floor`."""
        _, first, last, free, _, told, _, there, cap = await self._step(-1, -1, 0, -1)
        size = max(0, await self._bytes()) if last else 0
        holders = []
        for kind, name, position, seen in sorted(told, key=_position):
            held = last - max(position, first - 1)
            since = await self._committed(position + 1)
            holders.append(
                Holder(
                    kind.decode(), name.decode(), position, held, size * held // max(there, held), since, _when_ms(seen)
                )
            )
        return Floor(there, max(0, free - first + 1), size, tuple(holders), cap or None)

    async def note(self, name: str, kind: Kind, lasts_s: float, checkpoint: str) -> int:
        """Say how far a reader has got; returns the last position that was removed."""
        # An older note that comes late holds more, never less.
        args = (name, kind, str(round(lasts_s * 1000)), checkpoint)
        trimmed: int = await self._io.run(NOTE, (self._keys.readers, self._keys.meta), args)
        return trimmed

    async def archive(self, archive: Archive, pages: Callable[..., Pages], at_least: int) -> Archived:
        """Copy what is new into files; see `EventStore.archive`."""
        events = files = 0
        mark = await self._io.aside(archive.begin)
        try:
            # Noted now if the last run broke off before it could; and from the first run on, something holds.
            await self._archived(0 if mark is None else mark.number)
            # A new archive begins with what is there; one that was begun must not have a gap.
            first = [] if mark else await self._io.run(RANGE, (self._keys.log,), ("-", "+", "COUNT", "1"))
            cursor = pages(mark=mark, start=number(first[0]) if first else 1, holes=True)
            while True:
                batch: list[Any] = []
                while len(batch) < SEGMENT and (page := await cursor.next()):
                    batch += page
                if len(batch) < at_least:
                    break
                await self._io.aside(partial(archive.add, batch))
                await self._archived(number(batch[-1]))
                events, files = events + len(batch), files + 1
        finally:
            await self._io.aside(archive.end)
        return Archived(events, files)

    async def _archived(self, position: int) -> None:
        # Less than what is in the files holds more, so an older one that comes late does no harm.
        there = await self._io.run(_LOOK, (self._keys.meta,), ("archived",))
        if there is not None and int(there) > position:
            raise UsageError(
                f"{self._keys.log}: events up to position {int(there)} are archived, and this directory ends at "
                f"{position}: go on with the other one, or release('archive') first"
            )
        await self._io.run(_KEEP, (self._keys.meta,), ("archived", str(position)))

    async def release(self, kind: Kind, name: str) -> bool:
        """Forget one who holds the floor; see `EventStore.release`."""
        if kind not in get_args(Kind):
            raise UsageError(f"kind={kind!r:.100}: one of {', '.join(get_args(Kind))}")
        keys, own = self._keys, tuple[str, ...]()
        if kind != "archive":
            checked(name, f"the name of a {kind}")
        if kind == "group":
            own = (keys.retry(name), keys.failed(name), keys.waiting(name))
        elif kind == "projection":
            own = (keys.view(name),)
        return bool(await self._io.run(RELEASE, (*self._all, *own), (kind, name)))

    async def most(self, cap: Cap | None) -> int:
        """Return how many events a cap comes to as the log is now; 0 for any number."""
        if cap is None:
            return 0
        most = max(cap.events, 0)
        if cap.size >= 0:
            *_, there, _ = await self._step(-1, -1, 0, -1)
            # Of an empty log nobody knows yet what an event takes.
            fits = await self._fitting(cap.size, there, "cap_bytes") if there else 0
            most = min(fits, most) if fits and most else fits or most
        return max(most, CAP_MIN) if most else 0

    async def hold_to(self, most: int, policy: str) -> None:
        """Let the log hold so many events from now on, 0 for any number."""
        await self._io.run(CAP, (self._keys.meta, self._keys.log), (str(most), policy))

    async def _fitting(self, size_max: int, there: int, what: str) -> int:
        """Return how many events fit into so many bytes, as if all were of one size."""
        size = await self._bytes()
        if size < 0:
            raise UsageError(f"{what}={size_max}: the server does not say what keys take (MEMORY USAGE)")
        return there * size_max // max(size, 1)

    async def _step(self, keep: int, age_us: int, step: int, expire_ms: int) -> Any:  # noqa: ANN401
        return await trimmed(self._io, self._keys, keep, age_us, step, expire_ms)

    async def _bytes(self) -> int:
        size: int = await self._io.run(WEIGH, (self._keys.log,))
        return size

    async def _committed(self, position: int) -> datetime | None:
        """Return when the first event was committed that is in the log from *position* on."""
        found = await self._io.run(RANGE, (self._keys.log,), (f"{position}-0", "+", "COUNT", "1"))
        mark = mark_of(found[0]) if found else None
        return None if mark is None or mark.identity is None else _EPOCH + timedelta(microseconds=int(mark.identity[1]))


def reader_checkpoint(checkpoint: int | str) -> str:
    """Check the checkpoint of a reader."""
    read_mark(checkpoint)
    return str(checkpoint)


def _position(row: Sequence[Any]) -> int:
    position: int = row[2]
    return position


def _when_ms(ms: int) -> datetime | None:
    return _EPOCH + timedelta(milliseconds=ms) if ms else None
