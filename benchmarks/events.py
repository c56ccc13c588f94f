"""Rows about events: appending to streams, consuming through a group, and what both cost as a store grows.

Both sides carry the same pydantic model; bare ``XADD`` gets its bytes ready-made, and promises less: no expected
version, no global order, no second chance after a lost reply.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
import time
from functools import partial
from itertools import count
from statistics import quantiles
from typing import TYPE_CHECKING, Literal

from pydantic import BaseModel

from benchmarks import pipelined
from benchmarks.harness import WARM_UP, Bench, Limit, Peer, Row, Together, aio, expect, pace_tasks
from benchmarks.pipelined import RANDOM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from redis import Redis

    from gridsync.streams import AsyncDelivery, EventStore, Recorded

TASKS = 100
EVENTS_PER_SECOND = 3_000
"""How many events lie ready to be consumed, for each second that the peer's run shall last."""
COMMITTED_PER_SECOND = 1_000
"""The same for events that are committed one by one."""
BATCH = 100
"""Events that a consumer takes at once."""
COMMITS_PER_S, COMMITS_OF_TEN_PER_S = 25_000, 7_000
"""About as many as a server runs: a run sends so many for each second that it may take."""
PAUSE_S = 0.005
"""Between two events of the latency rows: everybody is asleep again."""
EVENT_BYTES = 200
STORED = 100_000
"""How many of those are stored to see what they take: many times what is remembered by id."""
SMALL, LARGE = 1_000, 1_000_000
"""Events in a store that has just begun, and in one that has grown."""
COMMIT = 1_000
ASKED = 1_000
"""How many appends, and a tenth of it pages, are averaged."""


class TradeAgreed(BaseModel):
    """An event of the size that a trade has."""

    order: str
    buyer: str
    seller: str
    kwh: float
    price: float


def agreed(number: int) -> TradeAgreed:
    """Return an event, another one for each number."""
    return TradeAgreed(order=f"order-{number:08d}", buyer="meter-0042", seller="meter-0117", kwh=1.25, price=0.2875)


async def _append_ours(bench: Bench, size: int = 1) -> float:
    # Each task makes its events, validates them and commits them at the version that it knows.
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)

        def operation(stream: str) -> Callable[[], Awaitable[None]]:
            versions = count()

            async def append() -> None:
                version = next(versions) * size
                trades = [agreed(version + number) for number in range(size)]
                commit = await events.append(stream, trades, expected_version=version)
                expect(commit.version, version + size)

            return append

        return size * await pace_tasks(bench, [operation(f"stream-{n}") for n in range(TASKS)])


def _append_script(bench: Bench, size: int, commits_per_s: int) -> float:
    # redis-benchmark cannot count versions: any version, under new ids each time, which looks for those first.
    from redis import Redis

    from gridsync.streams._commit import Expected
    from gridsync.streams._partitions import open_store

    ids = [f"{RANDOM}-{number}" for number in range(size)]
    trades = [agreed(number) for number in range(size)]
    script, keys, args = pipelined.told(
        lambda io: open_store(io, "gridsync", "bench", TradeAgreed, None, 1, "stream", "copy").append(
            "stream", trades, Expected.ANY, ids, ""
        )
    )
    with Redis(host=bench.host, port=bench.port) as client:
        client.script_load(script.source)
        found = pipelined.per_s(bench, script.words(keys, args), commits_per_s)
        expect(client.xlen(keys[-1]) >= size * bench.seconds * commits_per_s, wanted=True)
    return size * found


async def _append_redis(bench: Bench) -> float:
    from redis.asyncio import Redis

    client = Redis(host=bench.host, port=bench.port, max_connections=TASKS)
    payload = agreed(0).model_dump_json()

    def operation(stream: str) -> Callable[[], Awaitable[None]]:
        async def append() -> None:
            expect(type(await client.xadd(stream, {"type": "TradeAgreed", "data": payload})), bytes)

        return append

    try:
        return await pace_tasks(bench, [operation(f"stream-{n}") for n in range(TASKS)])
    finally:
        await client.aclose()


async def _consume_ours(bench: Bench, *, ordered: bool = False) -> float:
    # One consumer, in order, each event acknowledged after its handler, as on the other side.
    from gridsync import AsyncGrid

    total = round(EVENTS_PER_SECOND * bench.seconds)
    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)
        trades = [agreed(number) for number in range(total)]
        for first in range(0, total, BATCH):
            await events.append(f"stream-{first}", trades[first : first + BATCH])
        group = events.group("bench", ordered=ordered)
        seen = 0

        async def handle(recorded: Recorded[TradeAgreed]) -> None:
            nonlocal seen
            expect(recorded.event, trades[seen])
            seen += 1
            if seen == total:
                group.stop()

        started = time.perf_counter()
        consumed = await group.consume(handle, batch=BATCH)
        elapsed = time.perf_counter() - started
        expect(consumed.handled, total)
        return total / elapsed


async def _consume_faststream(bench: Bench) -> float:
    # max_records=100 was its fastest setting; it acknowledges each message after its handler, as is its default.
    from faststream.redis import RedisBroker, StreamSub
    from redis.asyncio import Redis

    total = round(EVENTS_PER_SECOND * bench.seconds)
    trades = [agreed(number) for number in range(total)]
    broker = RedisBroker(bench.url, logger=None)
    seen = 0
    done = asyncio.Event()

    @broker.subscriber(stream=StreamSub("bench", group="bench", consumer="bench", max_records=BATCH))  # type: ignore[untyped-decorator]
    async def handle(event: TradeAgreed) -> None:
        nonlocal seen
        expect(event, trades[seen])
        seen += 1
        if seen == total:
            done.set()

    async with Redis(host=bench.host, port=bench.port) as client, broker:
        await client.xgroup_create("bench", "bench", id="0", mkstream=True)
        for trade in trades:
            await broker.publish(trade, stream="bench")
        started = time.perf_counter()
        await broker.start()
        await done.wait()
        while (await client.xpending("bench", "bench"))["pending"]:  # noqa: ASYNC110 - nobody tells when it is acknowledged
            await asyncio.sleep(0)
        return total / (time.perf_counter() - started)


async def _commit_ours(bench: Bench) -> float:
    # Each event once: acknowledged together with the event that comes of it and a number that is counted up.
    from gridsync import AsyncGrid

    total = round(COMMITTED_PER_SECOND * bench.seconds)
    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)
        for first in range(0, total, BATCH):
            await events.append(f"stream-{first}", [agreed(first + number) for number in range(BATCH)])
        group = events.group("bench", start="first")
        seen = 0

        async def handle(delivery: AsyncDelivery[TradeAgreed]) -> None:
            nonlocal seen
            if delivery.recorded.stream == "settled":
                return
            async with delivery.commit() as tx:
                tx.append("settled", delivery.event)
                tx.add("trades", 1)
            seen += 1
            if seen == total:
                group.stop()

        started = time.perf_counter()
        await group.consume(handle, batch=BATCH)
        elapsed = time.perf_counter() - started
        expect(sum([1 async for _ in events.read("settled")]), total)
        return total / elapsed


async def _commit_redis(bench: Bench) -> float:
    # The same four things in MULTI/EXEC.  Whoever lost the message meanwhile would do them once more.
    from redis.asyncio import Redis

    total = round(COMMITTED_PER_SECOND * bench.seconds)
    async with Redis(host=bench.host, port=bench.port) as client:
        await client.xgroup_create("trades", "bench", id="0", mkstream=True)
        for number in range(total):
            await client.xadd("trades", {"type": "TradeAgreed", "data": agreed(number).model_dump_json()})
        seen = 0
        started = time.perf_counter()
        while seen < total:
            ((_, entries),) = await client.xreadgroup("bench", "consumer", {"trades": ">"}, count=BATCH)
            for entry_id, fields in entries:
                trade = TradeAgreed.model_validate_json(fields[b"data"])
                async with client.pipeline(transaction=True) as tx:
                    tx.xadd("settled", {"type": "TradeAgreed", "data": trade.model_dump_json()})
                    tx.hincrby("state", "trades", 1)
                    tx.xack("trades", "bench", entry_id)
                    _, seen, acknowledged = await tx.execute()
                expect(acknowledged, 1)
        elapsed = time.perf_counter() - started
        expect(await client.xlen("settled"), total)
        return total / elapsed


async def _latency_ms(bench: Bench, percent: int) -> float:
    """Append an event whenever the consumer of the last one has gone to sleep; milliseconds until its handler runs."""
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)
        group, handled = events.group("bench"), asyncio.Event()
        latencies: list[float] = []

        async def handle(_: Recorded[TradeAgreed]) -> None:
            latencies.append(time.perf_counter() - appended)
            handled.set()

        consuming = asyncio.ensure_future(group.consume(handle))
        ending = time.perf_counter() + (1 + WARM_UP) * bench.seconds
        for number in count():
            await asyncio.sleep(PAUSE_S)
            handled.clear()
            appended = time.perf_counter()
            await events.append("stream", [agreed(number)])
            await handled.wait()
            if appended > ending:
                break
        group.stop()
        expect((await consuming).handled, len(latencies))
    return quantiles(latencies[int(len(latencies) * WARM_UP / (1 + WARM_UP)) :], n=100)[percent - 1] * 1000


class Reading(BaseModel):
    """An event whose payload has as many bytes as we like."""

    note: str


def _bytes(bench: Bench, log: Literal["copy", "link"] = "copy") -> float:
    """Return what the server keeps for an event, of whatever kind the keys are."""
    from redis import Redis

    from gridsync import Grid

    empty = len(Reading(note="").model_dump_json())
    reading = Reading(note="x" * (EVENT_BYTES - empty))
    with Grid(bench.url) as grid, Redis(host=bench.host, port=bench.port) as client:
        store = grid.events("bench", Reading, log=log)
        for number in range(STORED // COMMIT):
            store.append(f"stream-{number % BATCH}", [reading] * COMMIT)
        expect(sum(1 for _ in store.read_all()), STORED)
        return sum(client.memory_usage(key, samples=0) for key in client.scan_iter(count=1000)) / STORED


def _growth(bench: Bench) -> dict[str, float]:
    """Fill a store; microseconds of the server for an append of one event and for a page of reading, early and late."""
    from redis import Redis

    from gridsync import Grid

    figures = {}
    with Grid(bench.url) as grid, Redis(host=bench.host, port=bench.port) as client:
        store = grid.events("bench", Reading)
        there = 0
        for size in (SMALL, LARGE):
            for first in range(there, size, COMMIT):
                store.append(f"stream-{first}", [Reading(note="x" * 100)] * COMMIT)
            there = size
            figures |= {f"{what}, {size:,} events": spent for what, spent in _spent(store, client, size).items()}
    return figures


def _spent(store: EventStore[Reading], client: Redis, size: int) -> dict[str, float]:
    client.config_resetstat()
    for number in range(ASKED):
        store.append(f"asked-{size}-{number % BATCH}", [Reading(note="x" * 100)])
    for number in range(ASKED // 10):
        # Pages from everywhere: every one whole, so that all cost the same.
        after = number * (size - 500) // (ASKED // 10)
        expect(sum(1 for _ in store.read_all(after=after, limit=500)), 500)
    told = client.info("commandstats")
    return {
        "append": told["cmdstat_evalsha"]["usec_per_call"],
        "page": told["cmdstat_xrange"]["usec"] / (ASKED // 10),
    }


def _grown(name: str, unit: str, what: str) -> Row:
    figures = Together(_growth)
    return Row(
        name,
        unit,
        figures.side(f"{what}, {LARGE:,} events"),
        (Peer(f"{SMALL:,} events", figures.side(f"{what}, {SMALL:,} events"), target=1.25),),
        better="lower",
    )


ROWS = (
    Row(
        "aio-append-100",
        "events/s",
        aio(_append_ours),
        (
            Peer("redis", aio(_append_redis), target=1.7),
            Peer("redis-benchmark", partial(_append_script, size=1, commits_per_s=COMMITS_PER_S), target=0.7),
        ),
    ),
    Row(
        "aio-append-10",
        "events/s",
        aio(partial(_append_ours, size=10)),
        (Peer("redis-benchmark", partial(_append_script, size=10, commits_per_s=COMMITS_OF_TEN_PER_S), target=0.8),),
        limits=(Limit(70_000),),
    ),
    Row("consume-aio", "events/s", aio(_consume_ours), (Peer("faststream", aio(_consume_faststream), target=10.0),)),
    # One partition and one handler at a time on both sides: what is left is what the lease and the lanes cost.
    Row(
        "consume-ordered",
        "events/s",
        aio(partial(_consume_ours, ordered=True)),
        (Peer("unordered", aio(_consume_ours), target=0.7),),
    ),
    Row("consume-commit", "events/s", aio(_commit_ours), (Peer("redis", aio(_commit_redis), target=0.7),)),
    *(
        Row(
            f"event-latency-p{percent}-ms",
            "ms",
            aio(partial(_latency_ms, percent=percent)),
            better="lower",
            limits=(Limit(most_ms),),
        )
        for percent, most_ms in ((50, 2.0), (99, 10.0))
    ),
    Row("event-bytes", "bytes", _bytes, better="lower", limits=(Limit(2.6 * (EVENT_BYTES + 64)),)),
    Row(
        "event-bytes-link",
        "bytes",
        partial(_bytes, log="link"),
        better="lower",
        limits=(Limit(1.6 * (EVENT_BYTES + 64)),),
    ),
    _grown("event-growth", "µs/append", "append"),
    _grown("event-growth-page", "µs/page", "page"),
)
