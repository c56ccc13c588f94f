"""The rows about the cache: reads of values that are there, and loads of one that has ended.

Each side reads a small profile as it does by default: ours back into its model, cashews from a pickle into the same
model, aiocache with its JSON serializer into a dict.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, TextIO, cast

from pydantic import BaseModel

from benchmarks.harness import Bench, Limit, Peer, Row, aio, expect, pace_tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

KEYS = [f"user-{number}" for number in range(100)]
PROCESSES, CALLERS, ENDS = 4, 100, 5
LOAD_S = 0.05


class Profile(BaseModel):
    """A small one."""

    name: str
    email: str
    groups: list[str]
    credit: int


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


ROWS = (
    Row(
        "aio-cache-get-100",
        "reads/s",
        aio(_ours),
        (Peer("aiocache", aio(_aiocache), target=5.0), Peer("cashews", aio(_cashews), target=5.0)),
    ),
    Row("cache-loads-per-expiry", "loads", _loads, better="lower", limits=(Limit(1.0, worst=True),)),
)

if __name__ == "__main__":
    print(json.dumps(_load_in_a_fleet(sys.argv[1])))
