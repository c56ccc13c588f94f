"""A primary hands over, dies or freezes while all three wings work."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync._io.clock import monotonic
from gridsync.errors import LeaseLost, OutcomeUnknown, Unavailable
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.servers import ServerKind, server_kinds
from tests.cluster.work import Work
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

pytestmark = pytest.mark.faults
REPLICATION_LAG_S = 1.0
"""Redis replicates asynchronously: what was acknowledged this long before the end of a primary may be gone with it."""


@pytest.fixture(params=server_kinds(), ids=str)
def replicated(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three primaries with one replica each."""
    kind: ServerKind = request.param
    with RedisCluster(kind, replicas=3) as running:
        yield running


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, replicated: RedisCluster) -> AsyncIterator[World]:
    made = World(request.param, replicated.url)
    yield made
    await made.close()


async def test_no_caller_notices_a_primary_that_hands_over(world: World, replicated: RedisCluster):
    async with Work(world, timeout=20.0) as work:
        for slot in work.slots:
            await asyncio.to_thread(replicated.failover, replicated.owner(slot))
            await work.progress()
    await work.nothing_lost_or_doubled()


@pytest.mark.parametrize("fate", ["kill", "pause"])
async def test_a_primary_that_is_gone_is_missed_only_until_its_replica_takes_over(
    world: World, replicated: RedisCluster, fate: str
):
    """Nothing is doubled, and nothing is lost but what had not reached the replica."""
    async with Work(world, timeout=4.0) as work:
        victim = replicated.owner(work.slots[2])
        replica = replicated.replica_of(victim)
        gone_at = monotonic()
        getattr(victim, fate)()
        await asyncio.to_thread(replicated.wait_for_promotion, replica, without=victim)
        await work.progress()
        promoted_at = monotonic()
        await asyncio.to_thread(victim.resume if fate == "pause" else victim.start)
        await asyncio.to_thread(replicated.wait)
        await work.progress()
    assert [error for when, error in work.errors if when > promoted_at] == []
    assert all(isinstance(error, Unavailable | OutcomeUnknown | LeaseLost) for _, error in work.errors)
    assert work.fences == sorted(set(work.fences))
    stored = await work.stored()
    assert len(stored) == len(set(stored)), "an event stands twice"
    lost = set(work.appended) - set(stored)
    assert all(gone_at - REPLICATION_LAG_S < work.appended[number] < promoted_at for number in lost)
    assert set(stored) <= set(work.handled), "an event was not handled"
