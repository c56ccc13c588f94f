"""Rows about a store and its mirror on another server: how many events cross, and how far the mirror is behind.

The events are as large as a trade, in a thousand streams; the replicator is one process, and the second server shares
the machine with it, the first one and whoever writes.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from benchmarks.events import TradeAgreed, agreed
from benchmarks.harness import Bench, Limit, Measure, Row, aio, expect

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync import AsyncGrid
    from gridsync.streams import AsyncEventStore

EVENTS_PER_SECOND = 30_000
"""How many events lie ready to cross, for each second that a run shall last."""
STREAMS = 1_000
BATCH = 100
WRITTEN_PER_S = 5_000
SAMPLE_S = 0.1


async def _fill(store: AsyncEventStore[TradeAgreed], first: int, count: int) -> None:
    for number in range(first, first + count, BATCH):
        await store.append(f"order-{number // BATCH % STREAMS}", [agreed(number + k) for k in range(BATCH)])


def _between(work: Callable[[Bench, AsyncGrid, AsyncGrid], Awaitable[float]]) -> Measure:
    """Return a measure that has a second server beside that of the bench."""

    async def measure(bench: Bench) -> float:
        from gridsync import AsyncGrid  # noqa: PLC0415 - as in the other rows
        from gridsync.testing.servers import RedisServer  # noqa: PLC0415 - as above

        with RedisServer() as elsewhere:
            async with AsyncGrid(bench.url) as here, AsyncGrid(elsewhere.url) as there:
                return await work(bench, here, there)

    return aio(measure)


async def _cross(bench: Bench, here: AsyncGrid, there: AsyncGrid) -> float:
    source, target = here.events("bench", TradeAgreed), there.events("bench", TradeAgreed)
    count = int(EVENTS_PER_SECOND * bench.seconds) // BATCH * BATCH
    await _fill(source, 0, count)
    begun = time.perf_counter()
    expect(await source.replication(target).run(once=True), count)
    return count / (time.perf_counter() - begun)


async def _follow(bench: Bench, here: AsyncGrid, there: AsyncGrid) -> float:
    """Write at a steady rate, and look again and again how old the first event is that has not crossed."""
    source, target = here.events("bench", TradeAgreed), there.events("bench", TradeAgreed)
    await _fill(source, 0, BATCH)
    moving, ready = source.replication(target), asyncio.Event()
    running = asyncio.create_task(moving.run(on_ready=ready.set))
    await ready.wait()
    worst, begun, written = 0.0, time.perf_counter(), BATCH
    sampled = begun
    while (now := time.perf_counter()) < begun + bench.seconds:
        if written - BATCH < (now - begun) * WRITTEN_PER_S:
            await _fill(source, written, BATCH)
            written += BATCH
        elif now >= sampled + SAMPLE_S:
            worst, sampled = max(worst, (await moving.status()).seconds), now
        else:
            await asyncio.sleep(0.001)
    while (status := await moving.status()).events:
        worst = max(worst, status.seconds)
    moving.stop()
    await running
    expect(status.target.positions, (written,))
    return worst


ROWS = (
    Row("replication", "events/s", _between(_cross), limits=(Limit(20_000),)),
    Row("replication-lag-s", "s", _between(_follow), better="lower", limits=(Limit(1.0),)),
)
