"""A forked child behind sentinels."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

from tests.sentinel.helpers import FakeSentinel, do, opened

if TYPE_CHECKING:
    from tests.sentinel.conftest import Pair


async def test_the_child_of_a_fork_finds_the_primary_itself(pair: Pair):
    with FakeSentinel(pair[0]) as sentinel:
        async with opened("sync", sentinel.url) as grid:
            lease = await do(grid.lock("parent").acquire)
            child = os.fork()
            if not child:
                try:
                    os._exit(0 if grid.lock("child").acquire(timeout=10).release() else 1)
                finally:
                    os._exit(2)
            _, status = await asyncio.to_thread(os.waitpid, child, 0)
            assert status == 0
            assert await do(grid.lock("parent").try_acquire) is None
            lease.check()
