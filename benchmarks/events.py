"""Rows about events: appending to streams, and consuming through a group.

Both sides carry the same pydantic model; bare ``XADD`` gets its bytes ready-made, and promises less: no expected
version, no global order, no second chance after a lost reply.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

from itertools import count
from typing import TYPE_CHECKING

from pydantic import BaseModel

from benchmarks.harness import Bench, Peer, Row, aio, expect, pace_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TASKS = 100
EVENTS_PER_SECOND = 5_000
"""How many events lie ready to be consumed, for each second that a run shall last at the peer's pace or faster."""


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


ROWS = (
    Row(
        "aio-append-100",
        "events/s",
        aio(_append_ours),
        (Peer("redis", aio(_append_redis), target=1.2),),
    ),
)
