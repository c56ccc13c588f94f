"""The rows about the cache: reads of values that are there, on the server or near, and loads of one that has ended.

Each side reads a small profile as it does by default: ours back into its model, cashews from a pickle into the same
model, aiocache with its JSON serializer into a dict.  Near caches read one that nobody can change; redis-py's gives its
text, which is not decoded.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TextIO, cast

from pydantic import BaseModel, ConfigDict

from benchmarks.harness import Bench, Limit, Peer, Row, aio, expect, pace_tasks, pace_threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.cache import CacheStats

KEYS = [f"user-{number}" for number in range(100)]
PROCESSES, CALLERS, ENDS = 4, 100, 5
LOAD_S = 0.05


class Profile(BaseModel):
    """A small one."""

    name: str
    email: str
    groups: list[str]
    credit: int


class Tariff(BaseModel):
    """One that nobody can change, so that all readers share it."""

    model_config = ConfigDict(frozen=True)
    name: str
    cents: int


TARIFF = Tariff(name="night", cents=21)
ANNA = Profile(name="Anna Example", email="anna@example.org", groups=["traders", "meters"], credit=1_250_000)


async def _ours(bench: Bench) -> float:
    from gridsync import AsyncGrid
    from gridsync.cache import Space

    async with AsyncGrid(bench.url) as grid:
        cache = grid.cache(Space("bench", Profile))
        await cache.set_many(dict.fromkeys(KEYS, ANNA))

        def operation(key: str) -> Callable[[], Awaitable[None]]:
            async def get() -> None:
                expect(await cache.get(key), ANNA)

            return get

        return await pace_tasks(bench, list(map(operation, KEYS)))


async def _aiocache(bench: Bench) -> float:
    from aiocache import RedisCache
    from aiocache.serializers import JsonSerializer

    wanted = ANNA.model_dump()
    async with RedisCache(
        serializer=JsonSerializer(), endpoint=bench.host, port=bench.port, pool_max_size=len(KEYS)
    ) as cache:
        for key in KEYS:
            await cache.set(key, wanted, ttl=300)

        def operation(key: str) -> Callable[[], Awaitable[None]]:
            async def get() -> None:
                expect(await cache.get(key), wanted)

            return get

        return await pace_tasks(bench, list(map(operation, KEYS)))


async def _cashews(bench: Bench) -> float:
    from cashews import Cache

    cache = Cache()
    cache.setup(bench.url, max_connections=len(KEYS))
    await cache.init()
    try:
        for key in KEYS:
            await cache.set(key, ANNA, expire=300)

        def operation(key: str) -> Callable[[], Awaitable[None]]:
            async def get() -> None:
                expect(await cache.get(key), ANNA)

            return get

        return await pace_tasks(bench, list(map(operation, KEYS)))
    finally:
        await cache.close()


def _load_in_a_fleet(url: str) -> int:
    """Be one process of a fleet: ask with all callers at once whenever a line comes; return the loads."""
    from gridsync import Grid
    from gridsync.cache import Space

    loads = []
    with Grid(url) as grid, ThreadPoolExecutor(CALLERS) as pool:
        cache = grid.cache(Space("fleet", int, ttl=3600))

        def load() -> int:
            loads.append(1)
            time.sleep(LOAD_S)
            return 7

        for line in sys.stdin:
            together = threading.Barrier(CALLERS)

            def ask(key: str = line.strip(), together: threading.Barrier = together) -> int:
                together.wait()
                return cache.get_or_load(key, load)

            expect({each.result() for each in [pool.submit(ask) for _ in range(CALLERS)]}, {7})
            print("done", flush=True)
    return len(loads)


def _loads(bench: Bench) -> float:
    words = [sys.executable, "-m", "benchmarks.cache", bench.url]
    fleet = [
        subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(PROCESSES)
    ]
    try:
        for end in range(ENDS):
            for each in fleet:
                cast("TextIO", each.stdin).write(f"hot-{end}\n")
                cast("TextIO", each.stdin).flush()
            for each in fleet:
                expect(cast("TextIO", each.stdout).readline(), "done\n")
        return sum(json.loads(each.communicate(timeout=20)[0]) for each in fleet) / ENDS
    finally:
        for each in fleet:
            each.kill()
            each.wait()


def _near_hits(stats: CacheStats) -> int:
    return 0 if stats.near is None else stats.near.hits


def _near(bench: Bench) -> float:
    from gridsync import Grid
    from gridsync.cache import Near, Space

    with Grid(bench.url) as grid:
        cache = grid.cache(Space("bench-near", Tariff), near=Near())
        cache.set_many(dict.fromkeys(KEYS, TARIFF))
        while _near_hits(cache.stats()) < len(KEYS):
            cache.get_many(KEYS)

        # As a program would call it, a hundred times for each look at the clock.
        def reads() -> None:
            get, found = cache.get, None
            for key in KEYS:
                found = get(key)
            expect(found, TARIFF)

        return len(KEYS) * pace_threads(bench, [reads])


async def _near_aio(bench: Bench) -> float:
    from gridsync import AsyncGrid
    from gridsync.cache import Near, Space

    async with AsyncGrid(bench.url) as grid:
        cache = grid.cache(Space("bench-near", Tariff), near=Near())
        await cache.set_many(dict.fromkeys(KEYS, TARIFF))
        while _near_hits(cache.stats()) < len(KEYS):
            await cache.get_many(KEYS)

        async def reads() -> None:
            get, found = cache.get, None
            for key in KEYS:
                found = await get(key)
            expect(found, TARIFF)
            await asyncio.sleep(0)  # none of them has let the loop go on

        return len(KEYS) * await pace_tasks(bench, [reads])


def _near_redis(bench: Bench) -> float:
    import redis
    from redis.cache import CacheConfig

    from gridsync.testing.servers import RedisServer, server_kinds

    # It keeps copies of what Redis 7.4 or newer says, and of no other server; which one it is makes no difference here.
    newest = max((kind for kind in server_kinds() if kind.product == "redis"), key=lambda kind: _numbers(kind.version))
    wanted = TARIFF.model_dump_json()
    caching = {"protocol": 3, "decode_responses": True, "cache_config": CacheConfig()}
    with RedisServer(newest) as server, redis.Redis.from_url(server.url, **caching) as client:
        for key in KEYS:
            client.set(key, wanted, ex=300)

        def reads() -> None:
            get, found = client.get, None
            for key in KEYS:
                found = get(key)
            expect(found, wanted)

        return len(KEYS) * pace_threads(bench, [reads])


def _numbers(version: str) -> list[int]:
    return [int(number) for number in version.split(".")]


ROWS = (
    Row(
        "aio-cache-get-100",
        "reads/s",
        aio(_ours),
        (Peer("aiocache", aio(_aiocache), target=5.0), Peer("cashews", aio(_cashews), target=5.0)),
    ),
    Row(
        "near-cache-reads",
        "reads/s",
        _near,
        (Peer("redis", _near_redis),),
        limits=(Limit(1_000_000),),
    ),
    Row("aio-near-cache-reads", "reads/s", aio(_near_aio), limits=(Limit(1_000_000),)),
    Row("cache-loads-per-expiry", "loads", _loads, better="lower", limits=(Limit(1.0, worst=True),)),
)

if __name__ == "__main__":
    print(json.dumps(_load_in_a_fleet(sys.argv[1])))
