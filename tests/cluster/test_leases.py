"""Leased permits while a cluster's slots move and its nodes stop: the limit holds, and what is unused comes back."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync._io.keys import limit
from tests.limits.test_leased import comes_to, grid, hits, used
from tests.wire.fake import soon
from tests.wire.world import done, opened

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster

__all__ = ["grid"]

SLOT = key_slot(limit("gridsync", "calls", "k").encode())


def another(cluster: RedisCluster) -> Any:
    """Return a primary that does not own the slot."""
    owner = cluster.owner(SLOT)
    return next(node for node in cluster.nodes[:3] if node is not owner)


async def test_what_is_leased_in_a_slot_that_moves_goes_back_there(flushed: RedisCluster, grid: Any) -> None:
    limiter = grid.limiter("calls", "1000/hour")
    mine, others = limiter.leased("k", ttl=60), limiter.leased("k", ttl=60)
    admitted = 0
    for _ in range(3):
        admitted += sum(map(bool, await hits(mine, 30) + await hits(others, 20)))
        await asyncio.to_thread(flushed.reshard, [SLOT], another(flushed))
    await done(mine.close())
    assert admitted == 150
    admitted += sum(map(bool, await hits(others, 1000)))
    assert admitted == 1000
    await done(others.close())
    assert await used(limiter, 1000) == 1000


async def test_a_cancelled_request_to_one_node_leaves_no_batch_behind(flushed: RedisCluster) -> None:
    async with opened("asyncio", flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k")
        before = await used(limiter, 1000)
        owner = flushed.owner(SLOT)
        owner.pause()
        try:
            task = asyncio.create_task(permits.hit())
            leasing = permits._leasing
            await soon(lambda: bool(leasing.permits.gate))
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
        finally:
            owner.resume()
        await comes_to(limiter, 1000, before)
        assert await permits.hit()
        await permits.close()
        assert await used(limiter, 1000) == before + 1
