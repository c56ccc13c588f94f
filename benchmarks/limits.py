"""The rows about rate limits: decisions of an exact window, 100 tasks, each with a subject of its own, or by leases.

The limit is never reached, so every decision is an admission, which is the dearer case: it writes.
"""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Limit, Peer, Row, WrongReplyError, aio, expect, pace_tasks, pace_threads

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

TASKS = 100
LIMIT = 10_000
"""Admissions a minute and subject; the fastest run stays below half of it."""


async def _ours(bench: Bench) -> float:
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        limiter = grid.limiter("bench", f"{LIMIT}/minute")

        def operation(subject: str) -> Callable[[], Awaitable[None]]:
            async def hit() -> None:
                expect((await limiter.hit(subject)).allowed, wanted=True)

            return hit

        return await pace_tasks(bench, [operation(f"subject-{n}") for n in range(TASKS)])


async def _limits(bench: Bench) -> float:
    # Its redis-py storage: here 1.6 times as fast as its default, coredis.
    from limits import parse
    from limits.aio.storage import RedisStorage
    from limits.aio.strategies import MovingWindowRateLimiter

    storage = RedisStorage(f"async+{bench.url}", implementation="redispy", max_connections=TASKS)
    limiter = MovingWindowRateLimiter(storage)
    item = parse(f"{LIMIT}/minute")

    def operation(subject: str) -> Callable[[], Awaitable[None]]:
        async def hit() -> None:
            expect(await limiter.hit(item, subject), wanted=True)

        return hit

    try:
        return await pace_tasks(bench, [operation(f"subject-{n}") for n in range(TASKS)])
    finally:
        await storage.bridge.storage.aclose()  # type: ignore[attr-defined]  # the client that limits made


async def _throttled(bench: Bench) -> float:
    # Its sliding window approximates with two buckets; the others of its algorithms are 0.9 to 1.3 times as fast.
    from throttled.asyncio import RateLimiterType, Throttled, rate_limiter, store

    redis_store = store.RedisStore(bench.url, {"CONNECTION_POOL_KWARGS": {"max_connections": TASKS}})
    throttled = Throttled(
        using=RateLimiterType.SLIDING_WINDOW.value, quota=rate_limiter.per_min(LIMIT), store=redis_store
    )

    def operation(subject: str) -> Callable[[], Awaitable[None]]:
        async def hit() -> None:
            expect((await throttled.limit(subject)).limited, wanted=False)

        return hit

    return await pace_tasks(bench, [operation(f"subject-{n}") for n in range(TASKS)])


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


ROWS = (
    Row(
        "aio-limiter-100",
        "decisions/s",
        aio(_ours),
        (Peer("limits", aio(_limits), target=4.0), Peer("throttled-py", aio(_throttled))),
    ),
    Row("limiter-leased", "decisions/s", _leased, limits=(Limit(500_000),)),
)
