"""Wake-ups on a cluster: heard on the node that owns what is waited for, and wherever that goes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync._io import run_sync
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import wake_channel
from gridsync.errors import PermissionDenied
from gridsync.testing.servers import server_kinds
from tests.cluster.conftest import calls
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from gridsync.testing.servers import RedisServer

FAR_S = 60.0


def tag_of(name: str) -> str:
    return lock_keys(NAMESPACE, name).state


def slot_of(name: str) -> int:
    return key_slot(tag_of(name).encode())


def subscribed(node: RedisServer) -> set[str]:
    """Return what somebody hears on *node*."""
    return {channel.decode() for channel in node.command("PUBSUB", "SHARDCHANNELS")}


def elsewhere(cluster: RedisCluster, name: str) -> RedisServer:
    owner = cluster.owner(slot_of(name))
    return next(node for node in cluster.nodes if node is not owner)


def ear_of(io: Any, tag: str) -> Any:  # noqa: ANN401 - either kind
    token = io.token()
    return io.ear(token, wake_channel(io.wake_prefix(tag), token))


async def ear_do(world: World, ear: Any, what: str, *args: Any) -> Any:  # noqa: ANN401 - either kind
    call = getattr(ear, what)
    if world.kind == "asyncio":
        return await call(*args)
    return await asyncio.to_thread(lambda: run_sync(call(*args)))


async def waiter(world: World, cluster: RedisCluster, io: Any, name: str) -> asyncio.Task[Any]:  # noqa: ANN401
    """Start to wait for a lock that is held; returns when the server knows, and the waiter rests."""
    turn = world.start(world.lock(io, name).acquire, timeout=FAR_S)
    await soon(lambda: cluster.command("ZCARD", lock_keys(NAMESPACE, name).queue))
    return turn


@pytest.mark.parametrize("cluster", [k for k in server_kinds() if k.product == "redis"], ids=str, indirect=True)
async def test_a_hand_over_costs_the_other_nodes_nothing(world: World, flushed: RedisCluster):
    """PUBLISH would go to every node; valkey does not count these messages."""
    before = _sent(flushed)
    for n in range(4):
        held = await world.do(world.lock(world.io(), f"job{n}").acquire)
        turn = await waiter(world, flushed, world.io(), f"job{n}")
        await world.do(held.release)
        await world.do((await world.ended(turn)).release)
    assert _sent(flushed) == before


def _sent(cluster: RedisCluster) -> int:
    """Return how many messages of PUBLISH and SPUBLISH the nodes sent to each other."""
    count = 0
    for node in cluster.nodes:
        info = dict(line.split(":") for line in node.command("CLUSTER", "INFO").decode().splitlines())
        count += int(info.get("cluster_stats_messages_publish_sent", 0))
        count += int(info.get("cluster_stats_messages_publishshard_sent", 0))
    return count


async def test_a_channel_is_heard_where_its_slot_is_and_only_while_somebody_waits(world: World, flushed: RedisCluster):
    """One channel for all waiters of a process, however many; none when the last has gone."""
    io = world.io()
    ears = [ear_of(io, tag_of("job")) for _ in range(3)]
    before = calls(flushed, "ssubscribe")
    for ear in ears:
        await ear_do(world, ear, "open")
    assert calls(flushed, "ssubscribe") == before + 1
    owner = flushed.owner(slot_of("job"))
    assert subscribed(owner) == {ears[0].channel}
    assert [len(subscribed(node)) for node in flushed.nodes].count(0) == len(flushed.nodes) - 1
    flushed.command("SPUBLISH", ears[1].channel, f"{ears[1].token} 7 fence")
    assert await ear_do(world, ears[1], "wait", 20.0) is True
    assert ears[1].message == "7 fence"
    assert await ear_do(world, ears[2], "wait", 0.0) is False
    for ear in ears[1:]:
        ear.close()
    assert subscribed(owner) == {ears[0].channel}
    ears[0].close()
    await soon(lambda: not subscribed(owner))


async def test_one_connection_to_each_node_serves_every_lock(world: World, flushed: RedisCluster):
    io = world.io()
    ears = [ear_of(io, tag_of(f"job{n}")) for n in range(30)]
    for ear in ears:
        await ear_do(world, ear, "open")
    assert sum(_subscribers(node) for node in flushed.nodes) == len(flushed.nodes)
    for ear in ears:
        ear.close()
    await soon(lambda: not any(subscribed(node) for node in flushed.nodes))


def _subscribers(node: RedisServer) -> int:
    return sum(
        b"ssub=0" not in line for line in node.command("CLIENT", "LIST").splitlines() if b"name=gridsync" in line
    )


async def test_an_ear_that_comes_back_at_once_is_heard(world: World, flushed: RedisCluster):
    """Its subscription may be on the way out when it comes: it hears, or is woken and opens again."""
    io = world.io()
    for _ in range(30):
        ear = ear_of(io, tag_of("job"))
        await ear_do(world, ear, "open")
        flushed.command("SPUBLISH", ear.channel, ear.token)
        assert await ear_do(world, ear, "wait", 20.0)
        ear.close()
    await soon(lambda: not any(subscribed(node) for node in flushed.nodes))


async def test_reading_the_table_wakes_nobody_whose_subscription_was_just_confirmed(world: World):
    """A connection without a channel is ended then; never one on which a channel is just being asked for."""
    io = world.io()
    hub = io._hub
    done = asyncio.Event()

    async def review() -> None:
        while not done.is_set():
            await (asyncio.to_thread(hub.review) if world.kind == "sync" else asyncio.sleep(0, hub.review()))

    reviewing = asyncio.create_task(review())
    try:
        for n in range(200):
            ear = ear_of(io, tag_of(f"job{n}"))
            await ear_do(world, ear, "open")
            woken = await ear_do(world, ear, "wait", 0.002)
            ear.close()
            assert not woken
    finally:
        done.set()
        await reviewing


async def test_a_waiter_whose_slot_moves_is_woken_and_listens_at_the_new_owner(world: World, flushed: RedisCluster):
    """The holder releases at the new owner, and the waiter hears it, long before it would have looked by itself."""
    io = world.io()
    held = await world.do(world.lock(world.io()).acquire)
    turn = await waiter(world, flushed, io, "job")
    target = elsewhere(flushed, "job")
    channel = wake_channel(io.wake_prefix(tag_of("job")), io.token())
    await asyncio.to_thread(flushed.reshard, [slot_of("job")], target)
    await soon(lambda: channel in subscribed(target))
    await world.do(held.release)
    await world.do((await world.ended(turn)).release)


async def test_only_those_are_woken_whose_slot_moved(world: World, flushed: RedisCluster):
    io = world.io()
    names = ["job", "other"]
    moved, stayed = (ear_of(io, tag_of(name)) for name in names)
    for ear in (moved, stayed):
        await ear_do(world, ear, "open")
    target = elsewhere(flushed, "job")
    await asyncio.to_thread(flushed.reshard, [slot_of("job")], target)
    assert await ear_do(world, moved, "wait", 20.0) is True
    assert await ear_do(world, stayed, "wait", 0.0) is False
    await ear_do(world, moved, "open")
    assert moved.channel in subscribed(target)
    for ear in (moved, stayed):
        ear.close()


async def test_a_cut_connection_wakes_those_of_its_node(world: World, flushed: RedisCluster):
    io = world.io()
    ears = {name: ear_of(io, tag_of(name)) for name in ("job", "a", "b", "c", "d", "e")}
    for ear in ears.values():
        await ear_do(world, ear, "open")
    node = flushed.owner(slot_of("job"))
    here = {name for name in ears if flushed.owner(slot_of(name)) is node}
    node.command("CLIENT", "KILL", "TYPE", "pubsub")
    for name in here:
        assert await ear_do(world, ears[name], "wait", 20.0) is True
    for name in ears.keys() - here:
        assert await ear_do(world, ears[name], "wait", 0.0) is False
    await ear_do(world, ears["job"], "open")
    assert ears["job"].channel in subscribed(node)


async def test_a_channel_that_is_forbidden_says_so_at_once(world: World, flushed: RedisCluster):
    rights = ("on", ">secret", "~{other:*", "&{other:*", "+@all")
    for node in flushed.nodes:
        node.command("ACL", "SETUSER", "app", *rights)
    io = world.io(flushed.url_for("app", "secret"))
    ear = ear_of(io, tag_of("job"))
    with pytest.raises(PermissionDenied, match="the subscription to"):
        await ear_do(world, ear, "open")
    allowed = ear_of(io, "{other:lock:job}")
    await ear_do(world, allowed, "open")
    for node in flushed.nodes:
        node.command("ACL", "DELUSER", "app")
