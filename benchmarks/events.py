"""Rows about events: appending to streams, and consuming through a group.

Both sides carry the same pydantic model; bare ``XADD`` gets its bytes ready-made, and promises less: no expected
version, no global order, no second chance after a lost reply.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
import time
from itertools import count
from typing import TYPE_CHECKING

from pydantic import BaseModel

from benchmarks.harness import Bench, Peer, Row, aio, expect, pace_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.streams import Recorded

TASKS = 100
EVENTS_PER_SECOND = 3_000
"""How many events lie ready to be consumed, for each second that the peer's run shall last."""
BATCH = 100
"""Events that a consumer takes at once."""


class TradeAgreed(BaseModel):
    """An event of the size that a trade has."""

    order: str
    buyer: str
    seller: str
    kwh: float
    price: float


def _trade(number: int) -> TradeAgreed:
    return TradeAgreed(order=f"order-{number:08d}", buyer="meter-0042", seller="meter-0117", kwh=1.25, price=0.2875)


async def _append_ours(bench: Bench) -> float:
    # Each task makes its event, validates it and commits it at the version that it knows.
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)

        def operation(stream: str) -> Callable[[], Awaitable[None]]:
            versions = count()

            async def append() -> None:
                version = next(versions)
                commit = await events.append(stream, [_trade(version)], expected_version=version)
                expect(commit.version, version + 1)

            return append

        return await pace_tasks(bench, [operation(f"stream-{n}") for n in range(TASKS)])


async def _append_redis(bench: Bench) -> float:
    from redis.asyncio import Redis

    client = Redis(host=bench.host, port=bench.port, max_connections=TASKS)
    payload = _trade(0).model_dump_json()

    def operation(stream: str) -> Callable[[], Awaitable[None]]:
        async def append() -> None:
            expect(type(await client.xadd(stream, {"type": "TradeAgreed", "data": payload})), bytes)

        return append

    try:
        return await pace_tasks(bench, [operation(f"stream-{n}") for n in range(TASKS)])
    finally:
        await client.aclose()


async def _consume_ours(bench: Bench) -> float:
    # One consumer, in order, each event acknowledged after its handler, as on the other side.
    from gridsync import AsyncGrid

    total = round(EVENTS_PER_SECOND * bench.seconds)
    async with AsyncGrid(bench.url) as grid:
        events = grid.events("bench", TradeAgreed)
        trades = [_trade(number) for number in range(total)]
        for first in range(0, total, BATCH):
            await events.append(f"stream-{first}", trades[first : first + BATCH])
        group = events.group("bench")
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
    trades = [_trade(number) for number in range(total)]
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


ROWS = (
    Row(
        "aio-append-100",
        "events/s",
        aio(_append_ours),
        (Peer("redis", aio(_append_redis), target=1.2),),
    ),
    Row("consume-aio", "events/s", aio(_consume_ours), (Peer("faststream", aio(_consume_faststream)),)),
)
