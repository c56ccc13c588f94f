"""Looking in: what a store holds, how far its groups have got, and what they have put aside; nothing is changed.

One script for each answer, so that its numbers belong together.  They are for people, alarms and tests: by the time
they are read, the store has moved on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load
from gridsync._units import count as counted
from gridsync.errors import ServerError
from gridsync.streams._aside import Setback
from gridsync.streams._look_outboxes import OutboxInfo, look_into

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync._io.keys import EventKeys
    from gridsync.streams._core import StoreCore
    from gridsync.streams._links import Log

LOOK_STORE: Final = load("gridsync.streams", "look_store")
LOOK_GROUP: Final = load("gridsync.streams", "look_group")
LOOK_PARKED: Final = load("gridsync.streams", "look_parked")
WEIGH: Final = load("gridsync.streams", "weigh")

SAMPLE: Final = 20
"""Streams whose memory is asked for; the others are taken to be like them."""
CONSUMERS: Final = 100
PARKED: Final = 100
OUTBOXES: Final = 1000
"""Outboxes of one partition in one answer."""
MOST: Final = 1000
"""Consumers, or parked events, in one answer."""
_SUMS: Final = ("lag", "pending", "parked", "waiting", "returned", "dead")
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class StoreInfo:
    """What an event store holds."""

    name: str
    """The store."""
    log: Log
    """Whether its log has a copy of each event, or a link to it."""
    events: int
    """Events in the log now."""
    first: int
    """The position of the first one there, the lowest of all partitions; 0 if there is none."""
    last: int
    """The last position that was given out, the highest of all partitions; 0 before the first event."""
    streams: int
    """Streams that ever had an event."""
    bytes: int | None
    """Memory of its log, its streams and its counters, estimated from twenty streams; not that of groups, snapshots and
    projections.  ``None`` if the server does not tell."""
    groups: tuple[str, ...]
    """Its consumer groups."""
    partitions: int = 1
    """In how many partitions it is."""
    removed: int = 0
    """Events that were removed from its log, by `EventStore.trim` or otherwise."""
    outboxes: tuple[OutboxInfo, ...] = ()
    """What it has sent to other stores, or to its other partitions, and how much of that is on its way."""


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer of a group."""

    name: str
    """Its name: the one it was given, or one of its own."""
    pending: int
    """Events that it holds."""
    idle: float
    """Seconds since it asked for something last; one that waits for events asks every five seconds."""


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """How far a consumer group has got, and who is in it."""

    store: str
    """The store."""
    name: str
    """The group."""
    exists: bool
    """Whether the server knows it: it is made by its first `consume`."""
    lag: int
    """Events that were not delivered to it yet."""
    pending: int
    """Events that were delivered and are not settled: those in work, parked, waiting and given back."""
    oldest_age: float | None
    """Seconds since the commit of the oldest event that is not settled, delivered or not, on the server's clock;
    ``None`` if all are."""
    parked: int
    """Failed events that are tried again later."""
    waiting: int
    """Events that wait behind a parked one of their stream."""
    returned: int
    """Events that a consumer gave back, and nobody has taken yet."""
    dead: int
    """Its dead letters."""
    consumer_count: int
    """How many consumers it has, dead ones that were not removed yet among them."""
    consumers: tuple[ConsumerInfo, ...]
    """The first of them, by name."""


@dataclass(frozen=True, slots=True)
class ParkedEvent:
    """A failed event that is tried again later."""

    position: int
    """Its position in the store."""
    stream: str
    """Its stream; empty if it is no longer in the log."""
    type: str
    """The type name it was stored under; empty if it is no longer in the log."""
    due: datetime
    """When it is tried again, on the server's clock, in UTC; 1970 is: at once."""
    attempts: int
    """How often it was begun."""
    error: str
    """The class of the last error; empty if it has not failed itself, but waited behind one that did."""
    text: str
    """What the last error said, at most 1000 characters."""
    first: datetime | None
    """When it failed first, on the server's clock, in UTC; ``None`` if it has not."""
    last: datetime | None
    """When it failed last."""
    consumer: str
    """With whom it failed last; empty if it was a dead letter that was given back."""
    trace: str
    """The W3C ``traceparent`` of the last attempt; empty without tracing."""
    partition: int = 0
    """The partition of the store that its stream is in, from 0."""


async def store_info(partitions: Sequence[StoreCore[Any]]) -> StoreInfo:
    """Look at a store; see `EventStore.info`."""
    try:
        found = await partitions[0].io.gather(*(_store_info(core) for core in partitions))
    except ServerError as error:
        await partitions[0].compare(error)
        raise
    if not any(each.last for each in found):
        await partitions[0].directory.look()
    if len(found) == 1:
        return found[0]
    sizes = [each.bytes for each in found]
    return StoreInfo(
        name=found[0].name,
        log="link" if "link" in {each.log for each in found} else "copy",
        events=sum(each.events for each in found),
        first=min((each.first for each in found if each.first), default=0),
        last=max(each.last for each in found),
        streams=sum(each.streams for each in found),
        bytes=None if None in sizes else sum(size or 0 for size in sizes),
        groups=tuple(sorted({group for each in found for group in each.groups})),
        partitions=len(found),
        removed=sum(each.removed for each in found),
        outboxes=tuple(outbox for each in found for outbox in each.outboxes),
    )


async def _store_info(core: StoreCore[Any]) -> StoreInfo:
    keys = core.keys
    asked = (keys.meta, keys.versions, keys.log, keys.recent, keys.sent)
    told = await core.io.run(LOOK_STORE, asked, (str(SAMPLE), str(2 * OUTBOXES)))
    last, log, events, first, streams, size, groups, sample, sent = told
    total = size if size >= 0 else None
    versions = sum(int(version) for version in sample[1::2])
    if versions and total is not None:
        some = tuple(keys.stream(stream.decode()) for stream in sample[::2])
        weight = await core.io.run(WEIGH, some)
        total = total + weight * last // versions if weight >= 0 else None
    names = tuple(sorted(group.decode(errors="replace") for group in groups))
    boxes = sorted(name.decode() for name in sent if not name.startswith(b"#"))
    outboxes = tuple(outbox for outbox, _ in await look_into(core, boxes))
    mode: Log = "link" if log else "copy"
    # Positions have no gap: what was given out and is not there was removed.
    return StoreInfo(core.name, mode, events, first, last, streams, total, names, 1, last - events, outboxes)


async def group_info(partitions: Sequence[StoreCore[Any]], group: str, consumers_max: int) -> GroupInfo:
    """Look at a group; see `ConsumerGroup.info`."""
    looking = (_group_info(core.io, core.keys, core.name, group, consumers_max) for core in partitions)
    found = await partitions[0].io.gather(*looking)
    if not any(each.exists for each in found):
        await partitions[0].directory.look()
    if len(found) == 1:
        return found[0]
    sums = {name: sum(getattr(each, name) for each in found) for name in _SUMS}
    # One consumer has the same name in all partitions.
    consumers: dict[str, ConsumerInfo] = {}
    for each in (consumer for one in found for consumer in one.consumers):
        known = consumers.get(each.name, ConsumerInfo(each.name, 0, each.idle))
        consumers[each.name] = ConsumerInfo(each.name, known.pending + each.pending, min(known.idle, each.idle))
    ages = [each.oldest_age for each in found if each.oldest_age is not None]
    return GroupInfo(
        store=found[0].store,
        name=group,
        exists=any(each.exists for each in found),
        oldest_age=max(ages, default=None),
        consumer_count=max(len(consumers), *(each.consumer_count for each in found)),
        consumers=tuple(consumers[name] for name in sorted(consumers)[:consumers_max]),
        **sums,
    )


async def _group_info(io: IO, keys: EventKeys, store: str, group: str, consumers_max: int) -> GroupInfo:
    asked = (keys.log, keys.retry(group), keys.waiting(group), keys.dead(group))
    most = str(counted(consumers_max, "consumers_max", MOST))
    told = await io.run(LOOK_GROUP, asked, (group, most))
    lag, pending, age_us, parked, waiting, returned, dead, count, consumers = told
    return GroupInfo(
        store=store,
        name=group,
        exists=lag >= 0,
        lag=max(lag, 0),
        pending=pending,
        oldest_age=None if age_us < 0 else age_us / 1_000_000,
        parked=parked,
        waiting=waiting,
        returned=returned,
        dead=dead,
        consumer_count=count,
        consumers=tuple(ConsumerInfo(name.decode(errors="replace"), has, idle / 1000) for name, has, idle in consumers),
    )


async def parked(partitions: Sequence[StoreCore[Any]], group: str, limit: int) -> tuple[ParkedEvent, ...]:
    """Look at what a group has put aside; see `ConsumerGroup.parked`."""
    most = str(counted(limit, "limit", MOST))

    async def look(core: StoreCore[Any]) -> list[ParkedEvent]:
        keys = core.keys
        rows = await core.io.run(LOOK_PARKED, (keys.log, keys.retry(group), keys.failed(group)), (group, most))
        return [_parked(row, core.partition) for row in rows]

    found = await partitions[0].io.gather(*(look(core) for core in partitions))
    return tuple(sorted((each for rows in found for each in rows), key=lambda each: each.due)[:limit])


def _parked(row: Sequence[Any], partition: int) -> ParkedEvent:
    entry_id, due_ms, times, record, stream, kind = row
    setback = Setback.read(record) if record else None
    replayed = setback is not None and setback.attempts == 0
    return ParkedEvent(
        position=int(entry_id[:-2]),
        stream=stream.decode(errors="replace"),
        type=kind.decode(errors="replace"),
        due=_at(due_ms),
        attempts=times,
        error=setback.kind if setback else "",
        text=setback.text if setback else "",
        first=_at(setback.first_ms) if setback else None,
        last=_at(setback.last_ms) if setback else None,
        consumer=setback.consumer if setback and not replayed else "",
        trace=setback.trace if setback else "",
        partition=partition,
    )


def _at(ms: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=ms)
