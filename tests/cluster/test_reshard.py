"""Slots move and primaries hand over while all three wings work: no caller notices."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.cluster import SLOTS, RedisCluster
from tests.cluster.work import Work
from tests.wire.fake import soon

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World


def next_after(cluster: RedisCluster, node: RedisServer) -> RedisServer:
    """Return another primary, each one in turn."""
    primaries = cluster.nodes[:3]
    return primaries[(primaries.index(node) + 1) % 3]


async def test_no_caller_notices_that_slots_move(world: World, flushed: RedisCluster):
    """Each wing's slot goes once around the cluster, with its keys, while the wing is used all the time."""
    async with Work(world, timeout=20.0) as work:
        for _ in range(3):
            for slot in work.slots:
                target = next_after(flushed, flushed.owner(slot))
                await asyncio.to_thread(flushed.reshard, [slot], target)
            await work.progress()
    await work.nothing_lost_or_doubled()


@pytest.mark.faults
async def test_no_caller_notices_that_many_slots_move(world: World, flushed: RedisCluster):
    """A whole rebalancing: the wings' slots among hundreds of others, again and again."""
    async with Work(world, timeout=30.0) as work:
        for round_ in range(5):
            slots = [*range(round_, SLOTS, 97), *work.slots]
            target = flushed.nodes[round_ % 3]
            await asyncio.to_thread(flushed.reshard, slots, target)
            await work.progress()
    await work.nothing_lost_or_doubled()


@pytest.mark.faults
async def test_a_slot_that_stays_half_way_holds_up_only_what_needs_several_keys(world: World, flushed: RedisCluster):
    """The limiter has one key and goes on; the lock has four and waits, for the server can serve it nowhere."""
    async with Work(world, timeout=60.0) as work:
        lock_slot, limiter_slot, _ = work.slots
        for slot in (lock_slot, limiter_slot):
            target = next_after(flushed, flushed.owner(slot))
            with flushed.migrating(slot, target) as source:
                flushed.move_keys(slot, source, target)
                hits = work.hits
                await soon(lambda hits=hits: work.hits > hits + 20)
            await work.progress()
    await work.nothing_lost_or_doubled()
