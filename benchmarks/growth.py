"""Rows that compare gridsync with itself: what more tasks, more keys, more waiters and telemetry cost."""
# ruff: noqa: PLC0415 - only the row about the SDK needs it

from __future__ import annotations

import asyncio
import gc
import random
import time
import tracemalloc
from contextlib import contextmanager
from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING
from unittest.mock import patch

from benchmarks.commands import GET, SET, VALUE, ours_aio
from benchmarks.harness import Bench, Limit, Peer, Row, aio, expect, pace_tasks
from gridsync._io import telemetry
from gridsync._io.aio import AsyncIO
from gridsync._io.wire.endpoint import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from redis import Redis

    from gridsync import AsyncGrid, AsyncLock

TASKS = 100
CROWD = 1000
WITHIN_S = 15.0
MICROSECONDS = 1_000_000

# -- tasks and keys ---------------------------------------------------------------------------------------------------


async def _us_by_tasks(bench: Bench, *, tasks: int) -> float:
    return MICROSECONDS / await ours_aio(bench, tasks=tasks)


async def _us_by_keys(bench: Bench, *, keys: int) -> float:
    # Each key in turn, in an order that neither side's caches can guess.
    io = AsyncIO(parse(bench.url, connect_timeout=5.0), inflight_max=1000, timeout=3.0)
    names = [f"bench:get:{number}" for number in range(keys)]
    try:
        for first in range(0, keys, CROWD):
            await io.gather(*(io.run(SET, (name,), (VALUE,)) for name in names[first : first + CROWD]))
        random.Random(keys).shuffle(names)
        turn = cycle(names)

        async def operation() -> None:
            expect(await io.run(GET, (next(turn),)), VALUE)

        return MICROSECONDS / await pace_tasks(bench, [operation] * TASKS)
    finally:
        await io.close()


# -- telemetry: processor time, since the server's is the same --------------------------------------------------------


async def _cpu_us(bench: Bench) -> float:
    return MICROSECONDS / await ours_aio(bench, tasks=TASKS, clock=time.process_time)


async def _cpu_us_without_module(bench: Bench) -> float:
    # Unknown to the module that would put OpenTelemetry's wrapper around it.
    with patch.object(telemetry, "watch"):
        return await _cpu_us(bench)


async def _cpu_us_with_sdk(bench: Bench) -> float:
    # Spans and metrics are made and dropped: what an exporter costs is its own affair.
    from opentelemetry import metrics, trace
    from opentelemetry.sdk.metrics import MeterProvider
    from opentelemetry.sdk.metrics.export import InMemoryMetricReader
    from opentelemetry.sdk.trace import TracerProvider

    with (
        patch.object(trace, "get_tracer_provider", return_value=TracerProvider()),
        patch.object(metrics, "get_meter_provider", return_value=MeterProvider([InMemoryMetricReader()])),
    ):
        used = await _cpu_us(bench)
        expect(telemetry.listener is None, wanted=False)
    telemetry.look()
    expect(telemetry.listener, None)
    return used


# -- waiters ----------------------------------------------------------------------------------------------------------


@contextmanager
def _traced() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
    finally:
        tracemalloc.stop()


def _stored(observer: Redis) -> int:
    return sum(observer.memory_usage(key, samples=0) for key in observer.scan_iter(count=CROWD))


async def _take_turns(lock: AsyncLock) -> None:
    await (await lock.acquire()).release()


async def _until_idle(grid: AsyncGrid) -> None:
    async with asyncio.timeout(WITHIN_S):
        while (stats := grid.stats()).ears < CROWD or stats.in_flight:  # noqa: ASYNC110 - nobody tells
            await asyncio.sleep(0.001)


async def _crowd(bench: Bench, *, locks: int, figure: str) -> float:
    """Let `CROWD` tasks wait for *locks* locks that somebody else holds; then each must get its turn."""
    from redis import Redis

    from gridsync import AsyncGrid

    names = [f"bench:{number}" for number in range(locks)]
    with Redis(host=bench.host, port=bench.port) as observer:
        async with AsyncGrid(bench.url) as other, AsyncGrid(bench.url) as grid:
            with _traced():
                leases = [await other.lock(name).acquire() for name in names]
                await _first_waiter(grid, names[0])
                gc.collect()
                memory, stored = tracemalloc.get_traced_memory()[0], _stored(observer)
                turns = [
                    asyncio.ensure_future(_take_turns(lock))
                    for lock in map(grid.lock, names)
                    for _ in range(CROWD // locks)
                ]
                await _until_idle(grid)
                gc.collect()
                figures = {
                    "bytes": (tracemalloc.get_traced_memory()[0] - memory) / CROWD,
                    "server bytes": (_stored(observer) - stored) / CROWD,
                    "per connection": CROWD / len(observer.client_list(_type="pubsub")),
                }
            for lease in leases:
                await lease.release()
            await asyncio.gather(*turns)
    return figures[figure]


async def _first_waiter(grid: AsyncGrid, name: str) -> None:
    # Opens the connection for wake-ups, and fills the caches.
    from gridsync.errors import LockTimeout

    try:
        await grid.lock(name).acquire(timeout=0.05)
    except LockTimeout:
        return
    expect("acquired", "not acquired")


ROWS = (
    Row(
        "aio-growth-tasks-1000",
        "µs/command",
        aio(partial(_us_by_tasks, tasks=1000)),
        (
            Peer("100 tasks", aio(partial(_us_by_tasks, tasks=100)), target=1.25),
            Peer("10 tasks", aio(partial(_us_by_tasks, tasks=10)), target=1.0),
            Peer("1 task", aio(partial(_us_by_tasks, tasks=1)), target=1.0),
        ),
        better="lower",
    ),
    Row(
        "aio-growth-keys-100000",
        "µs/command",
        aio(partial(_us_by_keys, keys=100_000)),
        (Peer("1000 keys", aio(partial(_us_by_keys, keys=1000)), target=1.25),),
        better="lower",
    ),
    Row(
        "aio-telemetry-off",
        "µs CPU",
        aio(_cpu_us),
        (Peer("without the module", aio(_cpu_us_without_module), target=1.03),),
        better="lower",
    ),
    Row(
        "aio-telemetry-sdk",
        "µs CPU",
        aio(_cpu_us_with_sdk),
        (Peer("without an SDK", aio(_cpu_us)),),
        better="lower",
    ),
    *(
        Row(
            f"lock-waiter-{figure.replace(' ', '-')}{suffix}",
            "bytes",
            aio(partial(_crowd, locks=locks, figure=figure)),
            better="lower",
            limits=(Limit(limit),),
        )
        for figure, suffix, locks, limit in (
            ("bytes", "", 1, 8192.0),
            ("bytes", "-many", CROWD, 8192.0),
            ("server bytes", "", 1, 512.0),
            ("server bytes", "-many", CROWD, 512.0),
        )
    ),
    Row(
        "lock-waiters-per-connection",
        "waiters",
        aio(partial(_crowd, locks=1, figure="per connection")),
        limits=(Limit(CROWD),),
    ),
)
