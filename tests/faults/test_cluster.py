"""A cluster whose slots move, whose nodes die, freeze or serve only a part: what its callers notice."""

from __future__ import annotations

import asyncio
import random
import time
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync._io import Category, Command
from gridsync._io.keys import event_partitions, events, limit, wake_channel
from gridsync._io.keys import lock as lock_keys
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import ServerError, Unavailable
from gridsync.testing.cluster import SLOTS, RedisCluster
from tests.cluster.test_wakeups import ear_do
from tests.faults.traffic import ECHO, GET, INCR, Traffic, run
from tests.streams.models import Placed
from tests.wire.fake import eventually, soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer

LONG_S = 30.0
"""A deadline that only a bug reaches."""
MGET = Command("mget", Category.READ, ("MGET",))
STATE = lock_keys(NAMESPACE, "job").state
USED = ("n", "x", "y", STATE, limit(NAMESPACE, "calls", "k"), events(NAMESPACE, "orders").log)
"""A key of each entity that `Traffic` uses."""


def slot_of(key: str) -> int:
    return key_slot(key.encode())


@pytest.fixture(scope="module")
def cluster() -> Iterator[RedisCluster]:
    """Three primaries and one without slots, which take each other for dead later than any of these tests ends."""
    with RedisCluster(spares=1, node_timeout_ms=60_000, options={"cluster-require-full-coverage": "no"}) as running:
        yield running


@pytest.fixture
def flushed(cluster: RedisCluster) -> RedisCluster:
    cluster.flush()
    return cluster


@pytest.fixture
def replicated() -> Iterator[RedisCluster]:
    with RedisCluster(replicas=3) as running:
        yield running


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest) -> AsyncIterator[World]:
    made = World(request.param, "")
    yield made
    await made.close()


def shuffle(cluster: RedisCluster, chance: random.Random, targets: list[RedisServer]) -> None:
    """Move what is in use, and some that is not, to other nodes."""
    slots = [slot_of(key) for key in USED] + [chance.randrange(SLOTS) for _ in range(10)]
    chance.shuffle(slots)
    for slot in slots:
        cluster.reshard([slot], chance.choice([node for node in targets if node is not cluster.owner(slot)]))


def keys_by_node(cluster: RedisCluster) -> dict[RedisServer, str]:
    """Return one key for each primary that owns slots."""
    found: dict[RedisServer, str] = {}
    number = 0
    while len(found) < 3:
        found.setdefault(cluster.owner(slot_of(f"k{number}")), f"k{number}")
        number += 1
    return found


async def test_slots_that_move_under_everybody_fail_nobody(world: World, flushed: RedisCluster, recorder: Recorder):
    """No error, no lost reply, nothing counted twice; one of the nodes had no slot before."""
    async with Traffic(world, recorder, flushed.url, timeout=LONG_S) as traffic:
        await asyncio.to_thread(shuffle, flushed, random.Random(1), flushed.nodes)
        await traffic.flows(2)
    assert (traffic.refused, traffic.unsure) == (0, 0)
    await traffic.judge(flushed)


@pytest.mark.faults
async def test_a_reshard_that_never_ends_fails_nobody(
    world: World, flushed: RedisCluster, recorder: Recorder, fresh_seed: int, soak_s: float
):
    chance = random.Random(fresh_seed)
    until = time.monotonic() + min(soak_s, 20.0)  # a longer history takes the checker minutes
    async with Traffic(world, recorder, flushed.url, seed=fresh_seed, timeout=LONG_S) as traffic:
        while time.monotonic() < until:
            await asyncio.to_thread(shuffle, flushed, chance, flushed.nodes)
            await traffic.flows()
    assert (traffic.refused, traffic.unsure) == (0, 0)
    await traffic.judge(flushed)


@pytest.mark.faults
async def test_a_primary_that_hands_over_under_everybody_fails_nobody(
    world: World, replicated: RedisCluster, recorder: Recorder
):
    async with Traffic(world, recorder, replicated.url, timeout=LONG_S) as traffic:
        for key in USED[:3]:
            await asyncio.to_thread(replicated.failover, replicated.owner(slot_of(key)))
            await traffic.flows(2)
    assert (traffic.refused, traffic.unsure) == (0, 0)
    await traffic.judge(replicated)


@pytest.mark.faults
@pytest.mark.parametrize("fate", ["kill", "pause"])
async def test_a_dead_primary_s_replica_serves_with_larger_fences(
    world: World, replicated: RedisCluster, recorder: Recorder, fate: str
):
    """What had not reached the replica is lost, so leases may overlap; the fence tells which is later."""
    async with Traffic(world, recorder, replicated.url) as traffic:
        victim = replicated.owner(slot_of(USED[3]))
        replica = replicated.replica_of(victim)
        getattr(victim, fate)()
        await asyncio.to_thread(replicated.wait_for_promotion, replica, without=victim)
        await traffic.flows(2)
        await asyncio.to_thread(victim.resume if fate == "pause" else victim.start)
        await traffic.flows(2)
    await traffic.judge(replicated, kept=False)  # type: ignore[arg-type] # asked as a server is


@pytest.mark.faults
async def test_a_waiter_follows_its_lock_to_the_promoted_replica(world: World, replicated: RedisCluster):
    keys = lock_keys(NAMESPACE, "job")
    held = await world.do(world.lock(world.io(replicated.url, timeout=LONG_S), ttl=60).acquire)
    turn = world.start(world.lock(world.io(replicated.url, timeout=LONG_S), ttl=60).acquire, timeout=60)
    victim = replicated.owner(slot_of(STATE))
    replica = replicated.replica_of(victim)
    await soon(lambda: _copied(replica, keys.queue))
    victim.kill()
    await asyncio.to_thread(replicated.wait_for_promotion, replica)
    await soon(lambda: replica.command("PUBSUB", "SHARDCHANNELS"), LONG_S)
    await world.do(held.release)
    await world.do((await world.ended(turn, 60)).release)


@pytest.mark.faults
async def test_an_ear_on_a_frozen_node_is_woken_when_another_owns_its_slot(world: World, replicated: RedisCluster):
    """The node itself says nothing: the slot table tells, once any call has made the driver read it."""
    io = world.io(replicated.url, timeout=LONG_S)
    await world.do(io.connect)
    token = io.token()
    ear = io.ear(token, wake_channel(io.wake_prefix(STATE), token))
    await ear_do(world, ear, "open")
    victim = replicated.owner(slot_of(STATE))
    replica = replicated.replica_of(victim)
    victim.pause()
    await asyncio.to_thread(replicated.wait_for_promotion, replica, without=victim)
    waiting = asyncio.create_task(ear_do(world, ear, "wait", LONG_S))
    await asyncio.to_thread(io._topology._read, float("inf"))
    assert await waiting is True
    await ear_do(world, ear, "open")
    assert ear.channel.encode() in replica.command("PUBSUB", "SHARDCHANNELS")
    ear.close()
    victim.resume()


def _copied(replica: RedisServer, key: str) -> bool:
    with replica.client() as client:
        client.execute_command("READONLY")
        return bool(client.exists(key))


@pytest.mark.parametrize("kind", KINDS)
async def test_few_connections_never_part_asking_from_its_command(kind: str, flushed: RedisCluster):
    """Many callers share one or two connections to a node that is given a slot: each ASKING keeps its own command."""
    world = World(kind, flushed.url)
    io = SyncIO(parse(flushed.url, connect_timeout=5.0), pool_size=2, timeout=LONG_S) if kind == "sync" else world.io()
    await world.do(io.connect)  # and read the table: whoever has none is sent on
    slot = slot_of("{way}")
    target = next(node for node in flushed.nodes if node is not flushed.owner(slot))
    moved = _refusals(target, "MOVED")
    with flushed.migrating(slot, target):
        replies = await asyncio.gather(*(run(world, io, INCR, f"{{way}}{n % 5}") for n in range(200)))
    assert sorted(replies) == sorted(list(range(1, 41)) * 5)
    assert _refusals(target, "MOVED") == moved, "a command arrived without its ASKING"
    for n in range(5):
        flushed.command("DEL", f"{{way}}{n}")
    await world.do(io.close)
    await world.close()


def _refusals(node: RedisServer, code: str) -> int:
    with node.client() as client:
        stats: Any = client.info("errorstats")
    return int(stats.get(f"errorstat_{code}", {"count": 0})["count"])


@pytest.mark.parametrize("fate", ["without its slots", "killed"])
async def test_a_third_of_the_slots_may_be_gone_and_the_others_serve(world: World, flushed: RedisCluster, fate: str):
    """The calls for it end with their deadline, or when it is back; nobody else waits for them."""
    keys = keys_by_node(flushed)
    victim, lost = next(iter(keys.items()))
    others = [key for node, key in keys.items() if node is not victim]
    io = world.io(flushed.url, timeout=LONG_S)
    for key in keys.values():
        await run(world, io, GET, key)
    if fate == "killed":
        await asyncio.to_thread(victim.kill)
    else:
        ranges = [(first, last) for first, last, owner, *_ in victim.command("CLUSTER", "SLOTS") if _is(owner, victim)]
        slots = [str(slot) for first, last in ranges for slot in range(first, last + 1)]
        victim.command("CLUSTER", "DELSLOTS", *slots)
    waiting = asyncio.create_task(run(world, io, GET, lost))
    for _ in range(20):
        for key in others:
            assert await run(world, io, GET, key) is None
    assert not waiting.done()
    with pytest.raises(Unavailable):
        await run(world, world.io(flushed.url, timeout=0.5), GET, lost)
    if fate == "killed":
        await asyncio.to_thread(victim.start)
    else:
        victim.command("CLUSTER", "ADDSLOTS", *slots)
    assert await asyncio.wait_for(waiting, LONG_S) is None
    await asyncio.to_thread(flushed.wait)


def _is(owner: list[Any], node: RedisServer) -> bool:
    return bool(owner[1] == node.port)


async def test_a_frozen_node_holds_up_nobody_else(world: World, flushed: RedisCluster):
    """Neither the calls nor the wake-ups of the other nodes' slots wait for it."""
    keys = keys_by_node(flushed)
    victim = flushed.owner(slot_of(lock_keys(NAMESPACE, "job").state))
    other = next(
        name for name in map(str, range(100)) if flushed.owner(slot_of(lock_keys(NAMESPACE, name).state)) is not victim
    )
    io, rival = (world.io(flushed.url, timeout=LONG_S) for _ in range(2))
    # Everybody is connected to the victim, and waits for wake-ups there.
    stuck = await world.do(world.lock(rival, "job", ttl=60).acquire)
    turn_there = world.start(world.lock(io, "job", ttl=60).acquire, timeout=60)
    await asyncio.to_thread(eventually, lambda: flushed.command("ZCARD", lock_keys(NAMESPACE, "job").queue))
    for key in keys.values():
        await run(world, io, GET, key)
    victim.pause()
    try:
        waiting = asyncio.create_task(run(world, io, GET, keys[victim]))
        for _ in range(20):
            for node, key in keys.items():
                if node is not victim:
                    await run(world, io, GET, key)
        held = await world.do(world.lock(rival, other, ttl=60).acquire)
        turn = world.start(world.lock(io, other, ttl=60).acquire, timeout=60)
        await world.do(held.release)
        await world.do((await world.ended(turn)).release)
        assert not waiting.done()
    finally:
        victim.resume()
    assert await asyncio.wait_for(waiting, LONG_S) is None
    await world.do(stuck.release)
    await world.do((await world.ended(turn_there, 60)).release)


async def test_a_frozen_node_stops_its_partitions_only(world: World, flushed: RedisCluster):
    """Streams of other partitions are appended to and consumed as if nothing were wrong, its own ones afterwards."""
    names = [f"order-{number}" for number in range(12)]
    store = world.store(world.io(flushed.url, timeout=LONG_S), Placed, partitions=6)
    for name in names:
        await world.do(store.append, name, Placed(kwh=1), expected_version=0)
    logs = [keys.log for keys in event_partitions(NAMESPACE, "orders", 6)]
    victim = flushed.owner(slot_of(logs[0]))
    gone = [name for name in names if flushed.owner(slot_of(logs[store.partition_of(name)])) is victim]
    others = [name for name in names if name not in gone]
    assert gone
    assert others
    group, seen = store.group("billing"), set[tuple[str, int]]()

    def handle(recorded: Any) -> None:  # noqa: ANN401 - events of any model
        seen.add((recorded.stream, recorded.version))

    consuming = world.start(group.consume, handle)
    await soon(lambda: len(seen) == len(names), LONG_S)
    victim.pause()
    try:
        waiting = world.start(store.append, gone[0], Placed(kwh=2), expected_version=1)
        for name in others:
            await world.do(store.append, name, Placed(kwh=2), expected_version=1)
        await soon(lambda: {(name, 2) for name in others} <= seen, LONG_S)
        assert (gone[0], 2) not in seen
    finally:
        victim.resume()
    assert (await world.ended(waiting, LONG_S)).version == 2
    await soon(lambda: (gone[0], 2) in seen, LONG_S)
    group.stop()
    assert (await world.ended(consuming, LONG_S)).handled >= len(names) + len(others) + 1


async def test_keys_of_two_slots_in_one_call_are_told_what_to_do(world: World, flushed: RedisCluster):
    io = world.io(flushed.url)
    with pytest.raises(ServerError, match="one hash tag") as caught:
        await run(world, io, MGET, "a", "b")
    assert caught.value.code == "CROSSSLOT"
    assert await run(world, io, ECHO, "x") == b"x"
