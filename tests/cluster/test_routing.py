"""Requests find the node that owns their keys, wherever their slot has gone."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync._io import Category, Command, load, run_sync
from gridsync._io.aio import AsyncIO
from gridsync._io.scripts import parse as parse_script
from gridsync._io.wire.endpoint import parse
from gridsync.errors import ServerError
from gridsync.testing.cluster import RedisCluster
from tests.cluster.conftest import GET, INCR, MGET, SET, calls, run
from tests.wire.fake import soon
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

HEADER = "#!lua\n-- KEYS[1] one string\n-- KEYS[2] two string\n-- Returns what\n-- Category idempotent\n-- Cost O(1)\n"
BOTH = parse_script("test.both", f"{HEADER}return redis.call('MGET', KEYS[1], KEYS[2])")
BLPOP = Command("blpop", Category.NEVER, ("BLPOP",))
EXPIRING = ("v", "PX", 60_000)


def slot_of(key: str) -> int:
    return key_slot(key.encode())


def elsewhere(cluster: RedisCluster, slot: int) -> Any:  # noqa: ANN401 - a server
    """Return a primary that does not own *slot*."""
    owner = cluster.owner(slot)
    return next(node for node in cluster.nodes if node is not owner)


async def settled(io: Any) -> None:  # noqa: ANN401 - either kind
    """Wait until no reading of the slot table is under way."""
    await soon(lambda: io._topology._thread is None)


async def test_every_key_is_asked_for_where_it_is(world: World, flushed: RedisCluster):
    """Without a single redirect, once the table was read."""
    io = world.io()
    await world.do(io.connect)
    before = errors(flushed, "MOVED")
    for n in range(30):
        await run(io, SET, (f"k{n}",), EXPIRING)
        assert await run(io, GET, (f"k{n}",)) == b"v"
    assert errors(flushed, "MOVED") == before
    held = [len(node.command("KEYS", "k*")) for node in flushed.nodes]
    assert sum(held) == 30
    assert all(held)


async def test_a_slot_that_moved_is_followed_for_every_category(world: World, flushed: RedisCluster):
    """MOVED says that nothing was done, so even what must never be repeated goes on to the next node."""
    io = world.io()
    await world.do(io.connect)
    await run(io, SET, ("n",), (1, "PX", 60_000))
    await asyncio.to_thread(flushed.reshard, [slot_of("n")], elsewhere(flushed, slot_of("n")))
    assert await run(io, INCR, ("n",)) == 2
    assert await run(io, GET, ("n",)) == b"2"


async def test_a_hundred_moved_calls_read_the_table_once(flushed: RedisCluster):
    io = AsyncIO(parse(flushed.url, connect_timeout=5.0), inflight_max=1000, timeout=5.0)
    await io.connect()
    keys = [f"{{moved}}{n}" for n in range(100)]
    await asyncio.gather(*(io.run(SET, (key,), EXPIRING) for key in keys))
    slot = slot_of("{moved}")
    source, target = flushed.owner(slot), elsewhere(flushed, slot)
    await asyncio.to_thread(flushed.reshard, [slot], target)
    before = calls(flushed, "cluster|slots")
    assert await asyncio.gather(*(io.run(GET, (key,)) for key in keys)) == [b"v"] * 100
    await settled(io)
    assert calls(flushed, "cluster|slots") == before + 1
    assert io._topology.owner((keys[0],)) == f"{target.host}:{target.port}"
    assert f"{source.host}:{source.port}" in io._route._nodes
    await io.close()


async def test_a_slot_on_its_way_is_asked_for_on_both_sides(world: World, flushed: RedisCluster):
    """A key that has gone is read and written where it went, before the slot follows.

    redis-py's asyncio client fails here whenever two connections to the target are free.
    """
    io = world.io()
    await world.do(io.connect)
    slot = slot_of("{way}")
    await run(io, SET, ("{way}gone",), EXPIRING)
    await run(io, SET, ("{way}gone2",), EXPIRING)
    target = elsewhere(flushed, slot)
    with flushed.migrating(slot, target) as source:
        flushed.move_keys(slot, source, target)
        await run(io, SET, ("{way}new",), EXPIRING)
        reads = [run(io, GET, (key,)) for _ in range(20) for key in ("{way}gone", "{way}gone2", "{way}new")]
        assert await asyncio.gather(*reads) == [b"v"] * 60
        assert await run(io, INCR, ("{way}count",)) == 1
        assert await run(io, INCR, ("{way}count",)) == 2
        await run(io, Command("x", Category.LAST_WINS, ("PEXPIRE",)), ("{way}count",), (60_000,))
    assert await run(io, GET, ("{way}count",)) == b"2"


@pytest.mark.parametrize("kind", KINDS)
async def test_a_new_node_without_slots_is_asked_over_one_connection(kind: str):
    """It is in no slot table, so it must not be forgotten with each reading, nor be connected to for each key."""
    with RedisCluster(spares=1) as cluster:
        world = World(kind, cluster.url)
        io = world.io()
        await world.do(io.connect)
        spare, slot = cluster.nodes[3], slot_of("{new}")
        with cluster.migrating(slot, spare):
            received = _connections(spare)
            for n in range(50):
                await run(io, SET, (f"{{new}}{n}",), EXPIRING)
                if n == 25:
                    io._topology._read(float("inf"))
            # One for us, and one for each look at the server.
            assert _connections(spare) - received <= 3
        assert await run(io, GET, ("{new}7",)) == b"v"
        await world.close()


def _connections(node: RedisServer) -> int:
    with node.client() as client:
        stats: Any = client.info("stats")
    return int(stats["total_connections_received"])


async def test_asking_never_opens_the_door_for_a_stranger(flushed: RedisCluster):
    """ASKING leaves with its command or not at all: a cancelled caller must not lend it to whoever comes next."""
    io = AsyncIO(parse(flushed.url, connect_timeout=5.0), inflight_max=1000, timeout=5.0)
    await io.connect()
    slot = slot_of("{ask}")
    target = elsewhere(flushed, slot)
    with flushed.migrating(slot, target):
        wire = await io._route.at(f"{target.host}:{target.port}").ready(io._time() + 5)
        # Cancelled before it left: the next command on the wire must not profit.
        cancelled = wire.post_asking(("SET", "{ask}a", "v"), io._time() + 5)
        cancelled.cancel()
        stranger = wire.post(("SET", "{ask}b", "v"), io._time() + 5)
        with pytest.raises(Exception, match="MOVED"):
            await stranger
        # Cancelled after it left: the replies still belong to those who asked.
        left = wire.post_asking(("GET", "{ask}c"), io._time() + 5)
        wire._flush()
        left.cancel()
        assert await wire.post(("PING",), io._time() + 5) in (b"PONG", "PONG")
    await io.close()


async def test_several_keys_wait_until_their_slot_has_moved(world: World, flushed: RedisCluster):
    """While one key is here and another there, no node can serve both: the call waits, and fails for nobody."""
    io = world.io(timeout=20.0)
    await world.do(io.connect)
    keys = ("{two}a", "{two}b")
    for key in keys:
        await run(io, SET, (key,), EXPIRING)
    slot = slot_of("{two}")
    target = elsewhere(flushed, slot)
    before = errors(flushed, "TRYAGAIN")
    with flushed.migrating(slot, target) as source:
        flushed.move_keys(slot, source, target, at_most=1)
        both = world.start(_run_in(world), io, MGET, keys)
        await soon(lambda: errors(flushed, "TRYAGAIN") > before)
    assert await world.ended(both) == [b"v", b"v"]


def _run_in(world: World) -> Any:  # noqa: ANN401 - either kind of function
    async def task(io: Any, operation: Any, keys: Any) -> Any:  # noqa: ANN401
        return await io.run(operation, keys)

    def thread(io: Any, operation: Any, keys: Any) -> Any:  # noqa: ANN401
        return run_sync(io.run(operation, keys))

    return thread if world.kind == "sync" else task


def errors(cluster: RedisCluster, code: str) -> int:
    """Return how often all nodes together refused something with *code*."""
    count = 0
    for node in cluster.nodes:
        with node.client() as client:
            stats: Any = client.info("errorstats")
        count += stats.get(f"errorstat_{code}", {"count": 0})["count"]
    return count


def blocked_clients(cluster: RedisCluster) -> int:
    count = 0
    for node in cluster.nodes:
        with node.client() as client:
            stats: Any = client.info("clients")
        count += stats["blocked_clients"]
    return count


async def test_a_script_is_loaded_on_the_node_that_lacks_it(world: World, flushed: RedisCluster):
    io = world.io()
    for n in range(12):
        keys = (f"{{s{n}}}a", f"{{s{n}}}b")
        assert await run(io, BOTH, keys) == [None, None]
    loaded = [bool(node.command("SCRIPT", "EXISTS", BOTH.sha)[0]) for node in flushed.nodes]
    assert loaded == [True] * 3


async def test_a_script_is_loaded_where_its_slot_is_on_its_way_to(world: World, flushed: RedisCluster):
    """NOSCRIPT behind an ASK: the load and the repeat must go to the node that was asked, each time."""
    script = load("gridsync.limits", "peek")
    io = world.io()
    limiter = world.limiter(io, "5/minute")
    assert (await world.do(limiter.hit, "ada")).remaining == 4
    (key,) = [key for node in flushed.nodes for key in node.command("KEYS", "*ada*")]
    slot = key_slot(key)
    target = elsewhere(flushed, slot)
    target.command("SCRIPT", "FLUSH")
    with flushed.migrating(slot, target) as source:
        flushed.move_keys(slot, source, target)
        assert (await world.do(limiter.hit, "ada")).remaining == 3
        assert (await world.do(limiter.peek, "ada")).remaining == 3
    assert target.command("SCRIPT", "EXISTS", script.sha) in ([True], [1])


async def test_keys_of_two_slots_are_refused(world: World):
    io = world.io()
    with pytest.raises(ServerError, match="CROSSSLOT"):
        await run(io, BOTH, ("{a}1", "{b}1"))


async def test_a_script_cannot_reach_a_key_of_another_slot(world: World, flushed: RedisCluster):
    """That is what ``#!lua`` is for: without it a wrong key would read what another entity keeps on the same node."""
    here = flushed.owner(slot_of("{a}"))
    other = next(f"{{{n}}}" for n in range(100) if flushed.owner(slot_of(f"{{{n}}}")) is here)
    source = f"{HEADER}return redis.call('GET', '{other}')"
    with pytest.raises(ServerError, match="same slot"):
        await run(world.io(), parse_script("test.reach", source), ("{a}1", "{a}2"))


async def test_a_blocked_read_waits_where_its_key_is(world: World, flushed: RedisCluster):
    """And is sent on when its slot has moved before it came."""
    io = world.io()
    await world.do(io.connect)
    for n in range(2):
        key = f"{{list}}{n}"
        blocked = world.start(_block_in(world), io, key)
        await soon(lambda: blocked_clients(flushed))
        flushed.command("RPUSH", key, "x")
        assert await world.ended(blocked) == [key.encode(), b"x"]
        slot = slot_of(key)
        await asyncio.to_thread(flushed.reshard, [slot], elsewhere(flushed, slot))


async def test_a_blocked_read_ends_when_it_is_told_to(world: World, flushed: RedisCluster):
    """CLIENT UNBLOCK must reach the node on which it waits: client ids mean nothing elsewhere."""
    io = world.io()
    for n in range(6):
        stop = io.signal()
        blocked = world.start(_block_in(world), io, f"empty{n}", stop)
        await soon(lambda: blocked_clients(flushed))
        await asyncio.to_thread(stop.set)
        assert await world.ended(blocked, 5) is None


def _block_in(world: World) -> Any:  # noqa: ANN401 - either kind of function
    async def task(io: Any, key: str, stop: Any = None) -> Any:  # noqa: ANN401
        return await io.block(BLPOP, (key,), (20,), wait=20, stop=stop or io.signal())

    def thread(io: Any, key: str, stop: Any = None) -> Any:  # noqa: ANN401
        return run_sync(io.block(BLPOP, (key,), (20,), wait=20, stop=stop or io.signal()))

    return thread if world.kind == "sync" else task


async def test_each_node_has_as_many_connections_as_were_asked_for(flushed: RedisCluster):
    """Also on the node that an ASK names: the requests of one entity keep to one connection."""
    io = AsyncIO(parse(flushed.url, connect_timeout=5.0), inflight_max=1000, timeout=5.0, connections_per_node=3)
    await io.connect()
    keys = [f"k{n}" for n in range(200)]
    await asyncio.gather(*(io.run(SET, (key,), EXPIRING) for key in keys))
    assert io.stats().connections_open == 9
    slot = slot_of("{ask}")
    target = elsewhere(flushed, slot)
    address = f"{target.host}:{target.port}"
    with flushed.migrating(slot, target):
        await io.run(SET, ("{ask}a",), EXPIRING)
        lane = io._route.at(address, ("{ask}a",))
        assert lane is io._route.at(address, ("{ask}b",))
        before = lane.answered
        assert await io.run(GET, ("{ask}a",)) == b"v"
        assert lane.answered == before + 2
    await io.close()
    assert io.stats().connections_open == 0
