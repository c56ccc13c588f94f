"""Rows about locks that many want: how soon and how fairly the next one gets it, and what the hand-off sends.

Every holder checks that it is alone inside.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
import multiprocessing
import time
from contextlib import contextmanager
from dataclasses import dataclass
from operator import ne
from statistics import quantiles
from typing import TYPE_CHECKING

from benchmarks import locks
from benchmarks.harness import Alone, Bench, Limit, Peer, Row, aio, expect, monitored, pace_threads
from benchmarks.locks import NAME, TTL
from gridsync._io import keys

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from ctypes import Array, c_int
    from multiprocessing.connection import Connection
    from multiprocessing.context import ForkServerContext
    from multiprocessing.synchronize import Barrier
    from typing import Any

    from benchmarks.harness import Measure
    from benchmarks.locks import Acquire, AioAcquire, AioLibrary, AioNew, Library

THREADS = 8
WAITERS = 200
ROUNDS = 3
"""How often `WAITERS` line up for one figure of ours; a round of redis-py's takes nine seconds."""
PROCESSES = 24
SHORT_TTL = 1.0
SETTLE_S = 0.3
"""How long waiters get to line up: no library says that they have."""
PATIENCE_S = 15.0
"""How long a child process may take to get ready."""


# -- threads ----------------------------------------------------------------------------------------------------------


def _handovers(library: Library) -> Measure:
    # Cycles of another thread than the one before: who takes it again and again, while the others sleep, hands nothing
    # over.  Each thread has a lock object of its own: in some libraries it is the holder.
    def measure(bench: Bench) -> float:
        alone = Alone()
        holders: list[int] = []

        def cycle(number: int, acquire: Acquire) -> Callable[[], None]:
            def run() -> None:
                release = acquire()
                with alone:
                    holders.append(number)
                release()

            return run

        with library(bench) as new:
            cycles = pace_threads(bench, [cycle(number, new(NAME, TTL)) for number in range(THREADS)])
        return cycles * sum(map(ne, holders, holders[1:])) / len(holders)

    return measure


# -- hand-off, from the call of release to the next holder's first step -----------------------------------------------


class _Queue:
    """A holder and `WAITERS` tasks behind it, each of which takes the lock once and hands it on at once."""

    def __init__(self, new: AioNew) -> None:
        self._first = new(NAME, TTL)
        self._acquires = [new(NAME, TTL) for _ in range(WAITERS)]
        self._alone = Alone()
        self._released = 0.0
        self.pauses: list[float] = []

    async def fill(self) -> None:
        """Take the lock, and let everybody line up."""
        self._release = await self._first()
        self._tasks = [asyncio.create_task(self._wait(acquire)) for acquire in self._acquires]
        seen = len(self.pauses)
        await asyncio.sleep(SETTLE_S)
        expect(len(self.pauses), seen)

    async def drain(self) -> None:
        """Release, and return when everybody had the lock."""
        self._released = time.perf_counter()
        await self._release()
        await asyncio.gather(*self._tasks)

    async def _wait(self, acquire: AioAcquire) -> None:
        release = await acquire()
        self.pauses.append(time.perf_counter() - self._released)
        with self._alone:
            pass
        self._released = time.perf_counter()
        await release()


def _handoff_ms(library: AioLibrary, percent: int, *, rounds: int = ROUNDS) -> Measure:
    async def measure(bench: Bench) -> float:
        async with library(bench, WAITERS + 1) as new:
            queue = _Queue(new)
            for _ in range(rounds):
                await queue.fill()
                await queue.drain()
        return quantiles(queue.pauses, n=100)[percent - 1] * 1000

    return aio(measure)


async def _handoff_commands(bench: Bench) -> float:
    async with locks.ours_aio(bench, WAITERS + 1) as new:
        queue = _Queue(new)
        await queue.fill()
        with monitored(bench) as sent:
            await queue.drain()
    return len(sent) / WAITERS


# -- processes --------------------------------------------------------------------------------------------------------


def _processes() -> ForkServerContext:
    # Children of a process without threads, which has imported what they need.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["benchmarks.contention", "gridsync.grid", "redis"])
    return context


@contextmanager
def _ending(*processes: Any) -> Iterator[None]:  # noqa: ANN401 - a context's class of its own
    try:
        yield
    finally:
        for process in processes:
            process.kill()
            process.join()


def _hold(library: Library, bench: Bench, tell: Connection) -> None:
    """Take the lock and keep it until this process is killed."""
    with library(bench) as new:
        release = new(NAME, SHORT_TTL)()
        tell.send("held")
        tell.recv()
        release()


def _killed_holder_ms(library: Library, aio_library: AioLibrary, key: str) -> Measure:
    # From the end of the lease, which the server tells once the holder is dead: it may have been renewed just before.
    async def measure(bench: Bench) -> float:
        from redis import Redis

        context = _processes()
        ours, theirs = context.Pipe()
        holder = context.Process(target=_hold, args=(library, bench, theirs))
        holder.start()
        with _ending(holder), Redis(host=bench.host, port=bench.port) as observer:
            expect(await asyncio.to_thread(ours.poll, PATIENCE_S), wanted=True)
            expect(ours.recv(), "held")
            async with aio_library(bench, 1) as new:
                waiter = asyncio.ensure_future(new(NAME, SHORT_TTL)())
                await asyncio.sleep(SETTLE_S)
                expect(waiter.done(), wanted=False)
                holder.kill()
                holder.join()
                left_ms = observer.pttl(key)
                ends = time.monotonic() + left_ms / 1000
                expect(left_ms > 0, wanted=True)
                release = await waiter
                late: float = time.monotonic() - ends
                await release()
        return late * 1000

    return aio(measure)


@dataclass(frozen=True)
class _Shared:
    """What competing processes have in common; `inside` is the number of who holds the lock, 0 for nobody."""

    start: Barrier
    counts: Array[c_int]
    """Each process writes its own."""
    inside: c_int


def _compete(library: Library, bench: Bench, number: int, shared: _Shared) -> None:
    """Take the lock as often as this process can; ``shared.counts[number]`` tells how often it did."""
    with library(bench) as new:
        acquire = new(NAME, TTL)
        new(f"{NAME}:{number}", TTL)()()  # connects
        shared.start.wait(PATIENCE_S)
        until = time.monotonic() + 2 * bench.seconds
        while time.monotonic() < until:
            release = acquire()
            expect(shared.inside.value, 0)
            shared.inside.value = number + 1
            shared.counts[number] += time.monotonic() < until
            expect(shared.inside.value, number + 1)
            shared.inside.value = 0
            release()


def _fairness(library: Library) -> Measure:
    # Who never got it counts as having got it once.
    def measure(bench: Bench) -> float:
        context = _processes()
        shared = _Shared(
            start=context.Barrier(PROCESSES),
            counts=context.Array("i", PROCESSES, lock=False),
            inside=context.Value("i", 0, lock=False),
        )
        workers = [
            context.Process(target=_compete, args=(library, bench, number, shared)) for number in range(PROCESSES)
        ]
        for worker in workers:
            worker.start()
        with _ending(*workers):
            for worker in workers:
                worker.join(PATIENCE_S + 4 * bench.seconds)
                expect(worker.exitcode, 0)
        return max(shared.counts) / max(min(shared.counts), 1)

    return measure


ROWS = (
    Row(
        "lock-contended-8",
        "hand-overs/s",
        _handovers(locks.ours),
        (
            Peer("redis", _handovers(locks.redis_py), target=12.0),
            Peer("python-redis-lock", _handovers(locks.python_redis_lock), target=2.0),
            Peer("pottery", _handovers(locks.pottery)),
        ),
    ),
    Row(
        "lock-handoff-p50-ms",
        "ms",
        _handoff_ms(locks.ours_aio, 50),
        better="lower",
        limits=(Limit(1.0),),
    ),
    Row(
        "lock-handoff-p99-ms",
        "ms",
        _handoff_ms(locks.ours_aio, 99),
        (Peer("redis", _handoff_ms(locks.redis_aio, 99, rounds=1)),),
        better="lower",
        limits=(Limit(5.0),),
    ),
    Row(
        "lock-handoff-commands",
        "commands",
        aio(_handoff_commands),
        better="lower",
        limits=(Limit(3.0),),
    ),
    Row(
        "lock-killed-holder-ms",
        "ms",
        _killed_holder_ms(locks.ours, locks.ours_aio, keys.lock("gridsync", NAME).state),
        (Peer("redis", _killed_holder_ms(locks.redis_py, locks.redis_aio, NAME)),),
        better="lower",
        limits=(Limit(50.0), Limit(50.0, worst=True)),
    ),
    Row(
        "lock-fairness-24",
        "max/min",
        _fairness(locks.ours),
        (Peer("redis", _fairness(locks.redis_py)),),
        better="lower",
        limits=(Limit(1.2),),
    ),
)
