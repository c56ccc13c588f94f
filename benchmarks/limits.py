"""The rows about rate limits: decisions of an exact window for 100 subjects, or by leases.

One thread asks about one subject after the other; of 100 tasks each has a subject of its own.  The limit is never
reached, so every decision is an admission, which is the dearer case: it writes.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

from functools import partial
from itertools import cycle
from typing import TYPE_CHECKING

from benchmarks import limit_scripts
from benchmarks.harness import Bench, Limit, Peer, Row, WrongReplyError, aio, expect, pace_tasks, pace_threads
from benchmarks.pipelined import RANDOM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

SUBJECTS = [f"subject-{number}" for number in range(100)]
LIMIT = 10_000
"""Admissions a minute and subject; the fastest run stays below half of it."""
MINUTE_US = 60_000_000


async def _aio_ours(bench: Bench) -> float:
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        limiter = grid.limiter("bench", f"{LIMIT}/minute")

        def operation(subject: str) -> Callable[[], Awaitable[None]]:
            async def hit() -> None:
                expect((await limiter.hit(subject)).allowed, wanted=True)

            return hit

        return await pace_tasks(bench, list(map(operation, SUBJECTS)))


async def _aio_limits(bench: Bench) -> float:
    # Its redis-py storage: here 1.6 times as fast as its default, coredis.
    from limits import parse
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    storage = RedisStorage(f"async+{bench.url}", implementation="redispy", max_connections=len(SUBJECTS))
    limiter = MovingWindowRateLimiter(storage)
    item = parse(f"{LIMIT}/minute")

    def operation(subject: str) -> Callable[[], Awaitable[None]]:
        async def hit() -> None:
            expect(await limiter.hit(item, subject), wanted=True)

        return hit

    try:
        return await pace_tasks(bench, list(map(operation, SUBJECTS)))
    finally:
        await storage.bridge.storage.aclose()  # type: ignore[attr-defined]  # the client that limits made


async def _aio_throttled(bench: Bench) -> float:
    # Its sliding window approximates with two buckets; the others of its algorithms are 0.9 to 1.3 times as fast.
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

    redis_store = store.RedisStore(bench.url, {"CONNECTION_POOL_KWARGS": {"max_connections": len(SUBJECTS)}})
    throttled = Throttled(
        using=RateLimiterType.SLIDING_WINDOW.value, quota=rate_limiter.per_min(LIMIT), store=redis_store
    )

    def operation(subject: str) -> Callable[[], Awaitable[None]]:
        async def hit() -> None:
            expect((await throttled.limit(subject)).limited, wanted=False)

        return hit

    return await pace_tasks(bench, list(map(operation, SUBJECTS)))


def _sync_ours(bench: Bench) -> float:
    from gridsync import Grid

    with Grid(bench.url) as grid:
        limiter, subjects = grid.limiter("bench", f"{LIMIT}/minute"), cycle(SUBJECTS)
        return pace_threads(bench, [lambda: expect(limiter.hit(next(subjects)).allowed, wanted=True)])


def _sync_limits(bench: Bench) -> float:
    from limits import parse
    from limits.storage import RedisStorage
    from limits.strategies import MovingWindowRateLimiter

    storage = RedisStorage(bench.url)
    limiter, item, subjects = MovingWindowRateLimiter(storage), parse(f"{LIMIT}/minute"), cycle(SUBJECTS)
    try:
        return pace_threads(bench, [lambda: expect(limiter.hit(item, next(subjects)), wanted=True)])
    finally:
        storage.storage.close()


def _sync_throttled(bench: Bench) -> float:
    from throttled import RateLimiterType, Throttled, rate_limiter, store

    quota = rate_limiter.per_min(LIMIT)
    throttled = Throttled(using=RateLimiterType.SLIDING_WINDOW.value, quota=quota, store=store.RedisStore(bench.url))
    subjects = cycle(SUBJECTS)
    return pace_threads(bench, [lambda: expect(throttled.limit(next(subjects)).limited, wanted=False)])


def _leased(bench: Bench) -> float:
    from gridsync import Grid

    with Grid(bench.url) as grid, grid.limiter("bench", "1000000000/minute").leased("subject") as permits:
        # As a program would call it, a hundred times for each look at the clock.
        def hits() -> None:
            hit = permits.hit
            for _ in range(100):
                if not hit():
                    raise WrongReplyError

        return 100 * pace_threads(bench, [hits])


_script = partial(
    limit_scripts.per_s,
    words=limit_scripts.hit(LIMIT, window_us=MINUTE_US),
    admitted=True,
    key=limit_scripts.KEY + RANDOM,
    among=len(SUBJECTS),
)
"""The server's part alone: calls that are packed once, sixteen to a packet, on fifty connections."""

ROWS = (
    Row(
        "sync-limiter",
        "decisions/s",
        _sync_ours,
        (Peer("limits", _sync_limits, target=1.3), Peer("throttled-py", _sync_throttled, target=1.2)),
    ),
    Row(
        "aio-limiter-100",
        "decisions/s",
        aio(_aio_ours),
        (
            Peer("limits", aio(_aio_limits), target=6.0),
            Peer("throttled-py", aio(_aio_throttled)),
            Peer("redis-benchmark", _script, target=0.75),
        ),
    ),
    Row("limiter-leased", "decisions/s", _leased, limits=(Limit(500_000),)),
)
