"""A limit that several processes share: `python examples/limiter.py [url]`.

The window slides: no stretch of its length ever admits more, wherever it begins.  A denied call takes nothing, and is
told how long to wait.
"""

from __future__ import annotations

import asyncio
import sys
import time

from gridsync import AsyncGrid, Grid


def with_threads(url: str) -> None:
    """Hit a limit of two rules until it says no."""
    with Grid(url, namespace="example-limiter") as grid:
        limiter = grid.limiter("mail", "3/second", "100/hour")
        for attempt in range(1, 5):
            decision = limiter.hit("alice")
            if decision:
                print(f"mail {attempt}: sent, {decision.remaining} left of {decision.rule}")
            else:
                print(f"mail {attempt}: not now, {decision.rule} is used up")
        print(f"bob has a window of his own: {limiter.hit('bob').allowed}")
        limiter.reset("alice")
        limiter.reset("bob")


async def with_asyncio(url: str) -> None:
    """Let thirty tasks through a limit of ten in a tenth of a second; who is denied waits as told and comes again."""
    async with AsyncGrid(url, namespace="example-limiter") as grid:
        limiter = grid.limiter("calls", "10 per 0.1 seconds")
        denied = 0

        async def call() -> None:
            nonlocal denied
            while not (decision := await limiter.hit("service")):
                denied += 1
                await asyncio.sleep(decision.retry_after or 0)

        began, least = time.monotonic(), 0.2
        async with asyncio.TaskGroup() as tasks:
            for _ in range(30):
                tasks.create_task(call())
        took = time.monotonic() - began
        print(f"30 calls took at least {least} s: {took >= least}, some were denied: {denied > 0}")
        await limiter.reset("service")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "embedded://"
    with_threads(where)
    asyncio.run(with_asyncio(where))
