"""Rows about plain commands: ``GET`` of 64 bytes, from one and many tasks and threads.

Peers are configured as their documentation advises for this load, with the variant that was fastest here.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import time
from functools import cache, partial
from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Peer, Row, aio, expect, pace_tasks, pace_threads
from gridsync._io import Category, Command, run_sync
from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.testing.cluster import RedisCluster

if TYPE_CHECKING:
    from benchmarks.harness import Clock

KEY = "bench:get"
VALUE = b"x" * 64
SET = Command("set", Category.LAST_WINS, ("SET",))
GET = Command("get", Category.READ, ("GET",))


async def ours_aio(bench: Bench, *, tasks: int, clock: Clock = time.perf_counter) -> float:
    """Take the way of every script and command of gridsync, with its deadline, its retry category and its limits."""
    io = AsyncIO(parse(bench.url, connect_timeout=5.0), inflight_max=1000, timeout=3.0)
    await io.run(SET, (KEY,), (VALUE,))

    async def operation() -> None:
        expect(await io.run(GET, (KEY,)), VALUE)

    try:
        return await pace_tasks(bench, [operation] * tasks, clock)
    finally:
        await io.close()


def _ours_sync(bench: Bench, *, threads: int) -> float:
    io = SyncIO(parse(bench.url, connect_timeout=5.0), pool_size=20, timeout=3.0)
    run_sync(io.run(SET, (KEY,), (VALUE,)))

    def operation() -> None:
        expect(run_sync(io.run(GET, (KEY,))), VALUE)

    try:
        return pace_threads(bench, [operation] * threads)
    finally:
        io.close()


async def _redis_aio(bench: Bench, *, tasks: int) -> float:
    # One connection per task: redis-py asyncio cannot share them, and its non-blocking pool would raise when empty.
    from redis.asyncio import Redis

    client = Redis(host=bench.host, port=bench.port, max_connections=tasks)
    await client.set(KEY, VALUE)

    async def operation() -> None:
        expect(await client.get(KEY), VALUE)

    try:
        return await pace_tasks(bench, [operation] * tasks)
    finally:
        await client.aclose()


@cache
def _cluster() -> RedisCluster:
    """Start three primaries for this process; they end with it."""
    return RedisCluster().start()


async def _ours_cluster(bench: Bench, *, tasks: int) -> float:
    io = AsyncIO(parse(_cluster().url, connect_timeout=5.0), inflight_max=1000, timeout=3.0)
    await io.connect()

    async def operation(key: str) -> None:
        expect(await io.run(GET, (key,)), VALUE)

    try:
        keys = [f"{KEY}:{n}" for n in range(tasks)]
        for key in keys:
            await io.run(SET, (key,), (VALUE,))
        return await pace_tasks(bench, [partial(operation, key) for key in keys])
    finally:
        await io.close()


async def _redis_cluster(bench: Bench, *, tasks: int) -> float:
    # As many connections to each node as there are tasks, for the same reason as without a cluster.
    from redis.asyncio.cluster import RedisCluster as Client

    first = _cluster().nodes[0]
    client = Client(host=first.host, port=first.port, max_connections=tasks)
    await client.initialize()

    async def operation(key: str) -> None:
        expect(await client.get(key), VALUE)

    try:
        keys = [f"{KEY}:{n}" for n in range(tasks)]
        for key in keys:
            await client.set(key, VALUE)
        return await pace_tasks(bench, [partial(operation, key) for key in keys])
    finally:
        await client.aclose()


async def _glide(bench: Bench, *, tasks: int) -> float:
    # One multiplexed connection, as glide is meant to be used; the default request timeout of 250 ms is kept.
    from glide import GlideClient, GlideClientConfiguration, NodeAddress

    client = await GlideClient.create(GlideClientConfiguration([NodeAddress(bench.host, bench.port)]))
    await client.set(KEY, VALUE)

    async def operation() -> None:
        expect(await client.get(KEY), VALUE)

    try:
        return await pace_tasks(bench, [operation] * tasks)
    finally:
        await client.close()


async def _coredis(bench: Bench, *, tasks: int) -> float:
    # coredis shares a connection between tasks while it can.
    from coredis import Redis

    async with Redis(host=bench.host, port=bench.port, max_connections=tasks) as client:
        await client.set(KEY, VALUE)

        async def operation() -> None:
            expect(await client.get(KEY), VALUE)

        return await pace_tasks(bench, [operation] * tasks)


def _redis_sync(bench: Bench, *, threads: int) -> float:
    from redis import Redis

    with Redis(host=bench.host, port=bench.port, max_connections=threads) as client:
        client.set(KEY, VALUE)

        def operation() -> None:
            expect(client.get(KEY), VALUE)

        return pace_threads(bench, [operation] * threads)


ROWS = (
    Row(
        "aio-commands-100",
        "commands/s",
        aio(partial(ours_aio, tasks=100)),
        (
            Peer("redis", aio(partial(_redis_aio, tasks=100)), target=10.0),
            Peer("valkey-glide", aio(partial(_glide, tasks=100)), target=4.0),
            Peer("coredis", aio(partial(_coredis, tasks=100))),
        ),
    ),
    Row(
        "aio-commands-1",
        "commands/s",
        aio(partial(ours_aio, tasks=1)),
        (
            Peer("redis", aio(partial(_redis_aio, tasks=1)), target=1.1),
            Peer("valkey-glide", aio(partial(_glide, tasks=1))),
            Peer("coredis", aio(partial(_coredis, tasks=1))),
        ),
    ),
    Row(
        "aio-cluster-commands-100",
        "commands/s",
        aio(partial(_ours_cluster, tasks=100)),
        (Peer("redis", aio(partial(_redis_cluster, tasks=100)), target=6.0),),
    ),
    Row(
        "sync-commands-1",
        "commands/s",
        partial(_ours_sync, threads=1),
        (Peer("redis", partial(_redis_sync, threads=1), target=1.3),),
    ),
    Row(
        "sync-commands-16",
        "commands/s",
        partial(_ours_sync, threads=16),
        (Peer("redis", partial(_redis_sync, threads=16), target=4.0),),
    ),
)
