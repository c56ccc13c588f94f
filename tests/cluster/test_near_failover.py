"""Near caches on a cluster whose primaries hand over or die."""

# ruff: noqa: F401, F811 - pytest collects what is imported
from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid
from gridsync._io.route.lanes import slot_of
from gridsync.errors import OutcomeUnknown, Unavailable
from tests.cache.conftest import Cached
from tests.cache.test_near import NEAR, PRICES, kept
from tests.cluster.test_failover import replicated
from tests.wire.fake import until

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("fate", ["failover", "kill"])
async def test_what_was_read_from_a_primary_does_not_outlive_it(replicated: RedisCluster, fate: str):
    """Its replica tells of changes from then on, and the old primary of none."""
    async with AsyncGrid(replicated.url, audit=False) as one, AsyncGrid(replicated.url, audit=False) as two:
        cache, other = Cached(one.cache(PRICES, near=NEAR)), Cached(two.cache(PRICES))

        async def reaches(version: int) -> bool:
            try:
                await other.set("k", version)
                return bool(await cache.get("k") == version)
            except (Unavailable, OutcomeUnknown):
                return False

        await until(lambda: reaches(1))
        assert await kept(cache) == 1
        victim = replicated.owner(slot_of("{gridsync:cache:price:k}"))
        if fate == "kill":
            replica = replicated.replica_of(victim)
            victim.kill()
            await asyncio.to_thread(replicated.wait_for_promotion, replica, without=victim)
        else:
            await asyncio.to_thread(replicated.failover, victim)
        await until(lambda: reaches(2))
        assert await kept(cache) == 2
        await until(lambda: reaches(3))
