"""A lock that several processes share: `python examples/lock.py [url]`.

The fence rises with every holder.  Hand it to whatever the lock protects: a write that carries a smaller fence than
the last one comes from a holder that was away too long.
"""

from __future__ import annotations

import asyncio
import sys

from gridsync import AsyncGrid, Grid, LockTimeout


def with_threads(url: str) -> None:
    """Take a lock, and see that nobody else gets it meanwhile."""
    with Grid(url, namespace="example-lock") as grid:
        report = grid.lock("report", ttl=5)
        with report as lease:
            print(f"held, for at least {lease.expires_in():.0f} s unless it is renewed, and it is")
            try:
                grid.lock("report").acquire(timeout=0.1)
            except LockTimeout as error:
                print(f"somebody else: {error}")
        with report as later:
            print(f"the next holder's fence is larger: {later.fence > lease.fence}")


async def with_asyncio(url: str) -> None:
    """Let ten tasks count; the lock makes their read and write one step."""
    async with AsyncGrid(url, namespace="example-lock") as grid:
        count = 0

        async def add_one() -> None:
            nonlocal count
            async with grid.lock("counter", ttl=5):
                before = count
                await asyncio.sleep(0)
                count = before + 1

        async with asyncio.TaskGroup() as tasks:
            for _ in range(10):
                tasks.create_task(add_one())
        print(f"ten tasks counted to {count}")


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "embedded://"
    with_threads(where)
    asyncio.run(with_asyncio(where))
