"""Everything that is held or waited for, on a cluster: where its messages go, and what moving slots do to it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from gridsync.testing.servers import server_kinds
from tests.cluster.conftest import calls
from tests.cluster.test_reshard import next_after
from tests.cluster.test_wakeups import subscribed
from tests.locks.ways import WAYS, fence, held_key, keys, rival, taker
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from gridsync.testing.servers import RedisServer

LONG_S = 60.0
by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))
pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


def slot_of(way: str) -> int:
    return key_slot(keys(way).state.encode())


async def waits(world: World, cluster: RedisCluster, way: str, place: int = 1) -> asyncio.Task[Any]:
    """Start to wait for what is held in this *way*, and return when the queue has *place* waiters."""
    turn = world.start(taker(world, rival(way)).acquire, timeout=LONG_S)
    await soon(lambda: cluster.command("ZCARD", keys(way).queue) == place)
    return turn


async def free(cluster: RedisCluster, way: str) -> None:
    await soon(lambda: cluster.command("EXISTS", held_key(way), keys(way).queue) == 0)


@by_way
async def test_it_is_handed_over_by_a_message_of_the_node_that_owns_it(world: World, flushed: RedisCluster, way: str):
    held = await world.do(taker(world, way).acquire, timeout=0)
    turn = await waits(world, flushed, way)
    before, published = _calls(flushed.owner(slot_of(way)), "spublish"), calls(flushed, "publish")
    assert await world.do(held.release) is True
    lease = await world.ended(turn)
    assert fence(lease) > fence(held)
    assert _calls(flushed.owner(slot_of(way)), "spublish") == before + 1
    assert calls(flushed, "publish") == published
    assert await world.do(lease.release) is True
    await free(flushed, way)


def _calls(node: RedisServer, command: str) -> int:
    with node.client() as client:
        stats: Any = client.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


@by_way
async def test_its_slot_moves_while_somebody_holds_it_and_others_wait(world: World, flushed: RedisCluster, way: str):
    """The lease goes along, and so do the queue and those who listen."""
    held = await world.do(taker(world, way).acquire, timeout=0)
    turns = [await waits(world, flushed, way, place) for place in (1, 2)]
    target = next_after(flushed, flushed.owner(slot_of(way)))
    await asyncio.to_thread(flushed.reshard, [slot_of(way)], target)
    await world.do(held.extend)
    tag = keys(way).state
    # A holder listens as well, for its revocation, once its lease is a quarter of a second old.
    await soon(lambda: sum(channel.startswith(tag) for channel in subscribed(target)) >= len(turns))
    assert await world.do(held.release) is True
    for turn in asyncio.as_completed(turns):
        lease = await turn
        assert fence(lease) > fence(held)
        assert await world.do(lease.release) is True
    await free(flushed, way)


@by_way
async def test_its_slot_goes_round_the_cluster_while_it_is_used_all_the_time(
    world: World, flushed: RedisCluster, way: str
):
    fences: list[int] = []
    over = False

    async def use() -> None:
        taken = taker(world, rival(way), world.io(timeout=LONG_S))
        while not over:
            lease = await world.do(taken.acquire, timeout=LONG_S)
            fences.append(fence(lease))
            assert await world.do(lease.release) is True

    tasks = [asyncio.create_task(use()) for _ in range(2)]
    try:
        for _ in range(3):
            seen = len(fences)
            await soon(lambda seen=seen: len(fences) > seen + 10 or any(task.done() for task in tasks), LONG_S)
            target = next_after(flushed, flushed.owner(slot_of(way)))
            await asyncio.to_thread(flushed.reshard, [slot_of(way)], target)
    finally:
        over = True
        await world.ended(asyncio.gather(*tasks), LONG_S)
    assert fences == sorted(set(fences))
    await free(flushed, way)


async def test_a_latch_and_a_barrier_move_with_those_who_wait(world: World, flushed: RedisCluster):
    """They are told by the new owner: long before they would look by themselves they listen there."""
    ready, round_ = latch_keys(NAMESPACE, "ready"), barrier_keys(NAMESPACE, "round")
    latch = world.locks("Latch", world.io(), "ready", 1)
    barriers = [world.locks("Barrier", world.io(), "round", 2) for _ in range(2)]
    opened = world.start(world.locks("Latch", world.io(), "ready", 1).wait, timeout=LONG_S)
    came = world.start(barriers[0].wait, timeout=LONG_S)
    for tag, place in ((ready.state, ready.alive), (round_.state, round_.here)):
        await soon(lambda place=place: flushed.command("ZCARD", place) == 1)
        slot = key_slot(tag.encode())
        target = next_after(flushed, flushed.owner(slot))
        await asyncio.to_thread(flushed.reshard, [slot], target)
        await soon(lambda tag=tag, target=target: any(name.startswith(tag) for name in subscribed(target)))
    assert await world.do(latch.count_down) == 0
    await world.ended(opened)
    last = await world.do(barriers[1].wait, timeout=LONG_S)
    first = await world.ended(came)
    assert (first, last) == ((0, 0), (0, 1))
