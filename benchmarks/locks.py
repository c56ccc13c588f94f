"""How each library takes a lock, and the rows about locks that nobody else wants: cycles, and what they send.

Every caller makes its lock object once and uses it again.  A library is a context manager around its client that
yields `new`; ``new(name, ttl)`` returns `acquire`, and that returns `release`.  `contention` uses them as well.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, TypeAlias

from benchmarks.harness import Bench, Limit, Peer, Row, aio, expect, monitored, pace_tasks, pace_threads

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from contextlib import AbstractAsyncContextManager, AbstractContextManager

    from benchmarks.harness import Measure

Acquire: TypeAlias = Callable[[], Callable[[], None]]
New: TypeAlias = Callable[[str, float], Acquire]
Library: TypeAlias = "Callable[[Bench], AbstractContextManager[New]]"
AioAcquire: TypeAlias = Callable[[], Awaitable[Callable[[], Awaitable[None]]]]
AioNew: TypeAlias = Callable[[str, float], AioAcquire]
AioLibrary: TypeAlias = "Callable[[Bench, int], AbstractAsyncContextManager[AioNew]]"
"""Takes the number of tasks as well: redis-py asyncio needs a connection for each."""

NAME = "bench:lock"
TTL = 10.0
CYCLES = 100
TASKS = 100


@contextmanager
def ours(bench: Bench) -> Iterator[New]:
    """Lock with gridsync; the lease is renewed in the background while it is held, as for every user."""
    from gridsync import Grid

    with Grid(bench.url) as grid:

        def new(name: str, ttl: float) -> Acquire:
            lock = grid.lock(name, ttl=ttl)

            def acquire() -> Callable[[], None]:
                lease = lock.acquire()
                return lambda: expect(lease.release(), wanted=True)

            return acquire

        yield new


@contextmanager
def redis_py(bench: Bench) -> Iterator[New]:
    """Lock with redis-py's `Lock`, which polls ten times a second."""
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as client:

        def new(name: str, ttl: float) -> Acquire:
            lock = client.lock(name, timeout=ttl)

            def acquire() -> Callable[[], None]:
                expect(lock.acquire(), wanted=True)
                return lock.release  # raises when the lock was not ours

            return acquire

        yield new


@contextmanager
def python_redis_lock(bench: Bench) -> Iterator[New]:
    """Lock with python-redis-lock, without auto_renewal, which would start a thread for every acquire."""
    from redis import Redis
    from redis_lock import Lock

    with Redis(host=bench.host, port=bench.port) as client:

        def new(name: str, ttl: float) -> Acquire:
            lock = Lock(client, name, expire=round(ttl))

            def acquire() -> Callable[[], None]:
                expect(lock.acquire(), wanted=True)
                return lock.release  # raises when the lock was not ours

            return acquire

        yield new


@contextmanager
def pottery(bench: Bench) -> Iterator[New]:
    """Lock with pottery and one master; it asks its masters from a thread pool all the same."""
    from pottery import Redlock
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as client:

        def new(name: str, ttl: float) -> Acquire:
            lock = Redlock(key=name, masters={client}, auto_release_time=ttl)

            def acquire() -> Callable[[], None]:
                expect(lock.acquire(), wanted=True)
                return lock.release  # raises when the lock was not ours

            return acquire

        yield new


@asynccontextmanager
async def ours_aio(bench: Bench, _tasks: int) -> AsyncIterator[AioNew]:
    """Lock with gridsync under asyncio: one connection for everybody, and one for wake-ups."""
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:

        def new(name: str, ttl: float) -> AioAcquire:
            lock = grid.lock(name, ttl=ttl)

            async def acquire() -> Callable[[], Awaitable[None]]:
                lease = await lock.acquire()

                async def release() -> None:
                    expect(await lease.release(), wanted=True)

                return release

            return acquire

        yield new


@asynccontextmanager
async def redis_aio(bench: Bench, tasks: int) -> AsyncIterator[AioNew]:
    """Lock with redis-py's asyncio `Lock`, which polls ten times a second."""
    from redis.asyncio import Redis

    client = Redis(host=bench.host, port=bench.port, max_connections=tasks)

    def new(name: str, ttl: float) -> AioAcquire:
        lock = client.lock(name, timeout=ttl)

        async def acquire() -> Callable[[], Awaitable[None]]:
            expect(await lock.acquire(), wanted=True)
            return lock.release  # raises when the lock was not ours

        return acquire

    try:
        yield new
    finally:
        await client.aclose()


def _cycles(library: Library) -> Measure:
    def measure(bench: Bench) -> float:
        with library(bench) as new:
            acquire = new(NAME, TTL)

            def cycle() -> None:
                release = acquire()
                release()

            return pace_threads(bench, [cycle])

    return measure


def _aio_cycles(library: AioLibrary) -> Measure:
    # Each task has a lock of its own.
    async def measure(bench: Bench) -> float:
        async with library(bench, TASKS) as new:

            def cycle(acquire: AioAcquire) -> Callable[[], Awaitable[None]]:
                async def run() -> None:
                    release = await acquire()
                    await release()

                return run

            return await pace_tasks(bench, [cycle(new(f"{NAME}:{n}", TTL)) for n in range(TASKS)])

    return aio(measure)


def _commands_per_cycle(library: Library) -> Measure:
    def measure(bench: Bench) -> float:
        with library(bench) as new:
            acquire = new(NAME, TTL)
            acquire()()  # connects, and teaches the server the scripts
            with monitored(bench) as sent:
                for _ in range(CYCLES):
                    acquire()()
            return len(sent) / CYCLES

    return measure


PEERS = {"redis": redis_py, "python-redis-lock": python_redis_lock, "pottery": pottery}

ROWS = (
    Row(
        "sync-lock-cycle",
        "cycles/s",
        _cycles(ours),
        tuple(
            Peer(package, _cycles(library), target=1.3 if package == "redis" else None)
            for package, library in PEERS.items()
        ),
    ),
    Row(
        "lock-cycle-commands",
        "commands",
        _commands_per_cycle(ours),
        tuple(Peer(package, _commands_per_cycle(library)) for package, library in PEERS.items()),
        better="lower",
        limits=(Limit(2.0),),
    ),
    Row(
        "aio-lock-cycles-100",
        "cycles/s",
        _aio_cycles(ours_aio),
        (Peer("redis", _aio_cycles(redis_aio), target=6.0),),
    ),
)
