"""Near caches behind sentinels: a copy does not outlive the primary that it was read from."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gridsync.cache import Near, Space
from tests.cache.conftest import Cached
from tests.cache.test_near import kept
from tests.sentinel.helpers import opened
from tests.wire.fake import until

if TYPE_CHECKING:
    from gridsync.testing.sentinels import SentinelSet

PRICES: Space[int] = Space("price", int)


async def test_nothing_of_the_old_primary_is_served_after_a_failover(healthy: SentinelSet):
    """Whoever writes to the new one is not told of by the old one."""
    async with opened("asyncio", healthy.url) as one, opened("sync", healthy.url) as two:
        cache, other = Cached(one.cache(PRICES, near=Near())), Cached(two.cache(PRICES))
        await other.set("k", 1)
        assert await kept(cache) == 1
        await asyncio.to_thread(healthy.failover)
        await until(lambda: _done(other.set("k", 2)))

        async def seen() -> bool:
            return bool(await cache.get("k") == 2)

        await until(seen)
        assert await kept(cache) == 2
        await until(lambda: _done(other.set("k", 3)))

        async def seen_too() -> bool:
            return bool(await cache.get("k") == 3)

        await until(seen_too)


async def _done(call: Any) -> bool:  # noqa: ANN401 - whatever was called
    return bool(await call)
