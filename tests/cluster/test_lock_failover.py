"""A primary hands over, or dies, while everything that can be held is held and waited for."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.cluster import RedisCluster
from gridsync.testing.servers import server_kinds
from tests.cluster.test_lock_kinds import LONG_S, free, slot_of
from tests.locks.ways import fence, held_key, keys, rival, taker
from tests.wire.fake import soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from typing import Any

TAGS = ["lock", "write lock", "permits", "election"]
"""One way of holding for each kind of keys: two ways of one kind would meet."""


@pytest.fixture(scope="module")
def replicated() -> Iterator[RedisCluster]:
    """Three primaries with one replica each."""
    with RedisCluster(server_kinds()[0], replicas=3) as running:
        yield running


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, replicated: RedisCluster) -> AsyncIterator[World]:
    replicated.flush()
    made = World(request.param, replicated.url)
    yield made
    await made.close()


async def held_and_waited_for(
    world: World, cluster: RedisCluster, ways: list[str], *, ttl: float = 10.0
) -> tuple[dict[str, Any], dict[str, asyncio.Task[Any]]]:
    """Hold in each way, with one who waits behind."""
    held = {way: await world.do(taker(world, way, world.io(timeout=LONG_S), ttl=ttl).acquire) for way in ways}
    turns = {
        way: world.start(taker(world, rival(way), world.io(timeout=LONG_S)).acquire, timeout=LONG_S) for way in ways
    }
    for way in ways:
        await soon(lambda way=way: cluster.command("ZCARD", keys(way).queue) == 1)
    return held, turns


async def test_a_primary_hands_over_while_everything_is_held_and_waited_for(world: World, replicated: RedisCluster):
    """Nothing is lost: the leases, the queues and those who listen move to the new primary."""
    held, turns = await held_and_waited_for(world, replicated, TAGS)
    for owner in {replicated.owner(slot_of(way)) for way in TAGS}:
        await asyncio.to_thread(replicated.failover, owner)
    for way in TAGS:
        await world.do(held[way].extend)
        assert await world.do(held[way].release) is True
        lease = await world.ended(turns[way])
        assert fence(lease) > fence(held[way])
        assert await world.do(lease.release) is True
        await free(replicated, way)


@pytest.mark.faults
async def test_a_primary_dies_while_everything_is_held_and_waited_for(world: World, replicated: RedisCluster):
    """What its replica knew lives on there; the waiter gets it from the holder, or when the lease ends."""
    held, turns = await held_and_waited_for(world, replicated, TAGS, ttl=20.0)
    with replicated.owner(slot_of("permits")).client() as client:
        client.wait(1, 5000)
    victim = replicated.owner(slot_of("permits"))
    replica = replicated.replica_of(victim)
    victim.kill()
    await asyncio.to_thread(replicated.wait_for_promotion, replica, without=victim)
    for way in TAGS:
        await world.do(held[way].release)
        lease = await world.ended(turns[way], LONG_S)
        assert fence(lease) > fence(held[way])
        assert await world.do(lease.release) is True
    await asyncio.to_thread(victim.start)
    await asyncio.to_thread(replicated.wait)
    for way in TAGS:
        await soon(lambda way=way: replicated.command("EXISTS", held_key(way)) == 0)
