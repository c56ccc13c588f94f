"""How a driver learns of the nodes, and what it makes of those that are away."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any

import pytest
from redis.crc import key_slot

from gridsync import AsyncGrid, Grid, Settings
from gridsync._io.wire.endpoint import parse
from gridsync.errors import AuthenticationFailed, InvalidURL, Misconfigured, PermissionDenied, Unavailable, UsageError
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.servers import RedisServer, ServerKind, free_port, server_kinds
from tests.cluster.conftest import GET, SET, run
from tests.wire.fake import FakeServer, eventually, soon

if TYPE_CHECKING:
    from tests.wire.world import World


def test_the_url_names_any_number_of_nodes():
    found = parse("rediss+cluster://ada:secret@a:7000,b,[::1]:7001/0?ssl_cert_reqs=none", connect_timeout=1.0)
    assert found.topology == "cluster"
    assert found.seeds == (("a", 7000), ("b", 6379), ("::1", 7001))
    assert found.tls is not None
    assert "secret" not in found.shown


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("redis+cluster://", "host:port"),
        ("redis+cluster://a,,b", "host:port"),
        ("redis+cluster://a:x,b", "host:port"),
        ("redis+cluster://a:7000,b/1", "database 0"),
        ("redis+cluster://a/0?nonsense=1", "nonsense"),
        ("redis+clutser://a", "redis+cluster"),
    ],
)
def test_a_url_that_cannot_be_used_says_why(url: str, why: str):
    with pytest.raises(InvalidURL, match=why.replace("+", r"\+")):
        parse(url, connect_timeout=1.0)


def seeded(cluster: RedisCluster, port: int) -> str:
    """Return the URL of *cluster* with another seed before the others."""
    first = cluster.nodes[0]
    return cluster.url.replace(f"{first.host}:{first.port}", f"127.0.0.1:{port},{first.host}:{first.port}", 1)


async def test_a_seed_that_is_away_is_passed_over(world: World, flushed: RedisCluster):
    io = world.io(seeded(flushed, free_port()))
    await world.do(io.connect)
    await run(io, SET, ("a",), ("v", "PX", 60_000))
    assert await run(io, GET, ("a",)) == b"v"


@pytest.mark.parametrize(
    "told",
    [
        b"+OK\r\n",
        b":7\r\n",
        b"*1\r\n*2\r\n:0\r\n$2\r\nxx\r\n",
        b"*1\r\n*1\r\n:0\r\n",
        b"*1\r\n*3\r\n:9\r\n:5\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:99999\r\n*2\r\n$1\r\nh\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:9\r\n*2\r\n$1\r\n\xff\r\n:1\r\n",
        b"*1\r\n*3\r\n:0\r\n:9\r\n*1\r\n$1\r\nh\r\n",
    ],
)
async def test_a_node_that_tells_nonsense_of_the_slots_is_passed_over(world: World, flushed: RedisCluster, told: bytes):
    """A proxy, or something else that speaks RESP: the error was a bare ValueError, and the good node was not asked."""
    with FakeServer(lambda peer, _: peer.send(told)) as strange:
        io = world.io(seeded(flushed, strange.port))
        await world.do(io.connect)
        await run(io, SET, ("a",), ("v", "PX", 60_000))
        assert strange.requests
        with pytest.raises(Unavailable, match=f"127.0.0.1:{strange.port}.*which is no slot table"):
            await world.do(world.io(f"redis+cluster://127.0.0.1:{strange.port}").connect)


@pytest.mark.any_server
async def test_a_primary_that_is_away_keeps_nobody_from_the_others():
    """A service that starts meanwhile works on what the others have; that of the first slot was asked alone."""
    with RedisCluster(options={"cluster-require-full-coverage": "no"}) as cluster:
        first = cluster.owner(0)
        slots = ((name, key_slot(f"{{gridsync:lock:{name}}}".encode())) for name in "abcdefgh")
        elsewhere = next(name for name, slot in slots if cluster.owner(slot) is not first)
        first.kill()
        with Grid(cluster.url) as grid:
            lease = grid.lock(elsewhere, ttl=60).try_acquire()
            assert lease is not None
            async with AsyncGrid(cluster.url) as tasks:
                assert await tasks.lock(elsewhere, ttl=60).try_acquire() is None
            lease.release()


async def test_without_connect_the_first_command_finds_its_way(world: World):
    """A driver that was never asked to connect starts with its seeds and lets MOVED tell."""
    io = world.io()
    for n in range(20):
        await run(io, SET, (f"k{n}",), ("v", "PX", 60_000))
        assert await run(io, GET, (f"k{n}",)) == b"v"


async def test_nobody_there_is_said_at_once(world: World):
    io = world.io(f"redis+cluster://127.0.0.1:{free_port()},127.0.0.1:{free_port()}")
    with pytest.raises(Unavailable, match="no node of the cluster redis\\+cluster"):
        await world.do(io.connect)


async def test_a_server_alone_and_a_cluster_are_not_taken_for_each_other(flushed: RedisCluster):
    why = r"redis:// instead of redis\+cluster://"
    with RedisServer(flushed.nodes[0].kind) as alone, pytest.raises(Misconfigured, match=why):
        Grid(f"redis+cluster://{alone.host}:{alone.port}")
    node = flushed.nodes[0]
    async with AsyncGrid(f"redis://{node.host}:{node.port}") as grid:
        limiter = grid.limiter("calls", "5/minute")
        with pytest.raises(Misconfigured, match=r"write redis\+cluster://"):
            await asyncio.gather(*(limiter.hit(f"k{n}") for n in range(20)))


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_who_may_not_read_the_slots_is_told_so(kind: str):
    """A right that is missing does not come back by itself, as a server that is away does."""
    text = "NOPERM this user has no permissions to run the 'cluster|slots' command"
    with FakeServer(lambda peer, _: peer.send(b"-%s\r\n" % text.encode())) as server:
        url = f"redis+cluster://127.0.0.1:{server.port}"
        opening = asyncio.to_thread(Grid, url) if kind == "sync" else AsyncGrid(url).open()
        with pytest.raises(PermissionDenied, match="refused CLUSTER SLOTS, asked of"):
            await opening


async def test_a_cluster_that_is_put_together_late_is_waited_for(flushed: RedisCluster):
    """Its nodes run, but none has slots yet: a call waits for them within its deadline."""
    late = RedisCluster(flushed.nodes[0].kind)
    try:
        for node in late.nodes:
            node.start()
        settings = Settings(redis_url=late.url, redis_command_timeout=30.0)
        async with AsyncGrid(settings=settings) as grid:
            waiting = asyncio.create_task(grid.limiter("calls", "5/minute").hit("ada"))
            await soon(lambda: any(_refused(node) for node in late.nodes))
            await asyncio.to_thread(late.start)
            assert (await waiting).remaining == 4
    finally:
        late.close()


def _refused(node: RedisServer) -> bool:
    with node.client() as client:
        stats: Any = client.info("errorstats")
    return "errorstat_CLUSTERDOWN" in stats


@pytest.mark.parametrize("kind", [kind for kind in server_kinds() if kind.tls][:1], ids=str)
async def test_a_cluster_behind_tls_is_used_like_any_other(kind: ServerKind):
    """Every node is greeted in TLS, also those that only the slot table named, and so is the plain client."""
    with (
        RedisCluster(kind, tls=True) as cluster,
        Grid(cluster.url.replace(f",127.0.0.1:{cluster.nodes[1].port}", "")) as grid,
    ):
        for n in range(20):
            assert grid.limiter("calls", "5/minute").hit(f"k{n}").remaining == 4
        assert grid.client.set("a", 1, px=60_000)
        async with AsyncGrid(cluster.url) as async_grid, async_grid.lock("job"):
            assert await async_grid.client.get("a") == b"1"


USERS = ["user app on >it's/me@home: ~{gridsync:* &{gridsync:* +@all"]


@pytest.mark.parametrize("kind", [kind for kind in server_kinds() if kind.tls][:1], ids=str)
async def test_a_cluster_with_passwords_certificates_and_rights_is_used_like_any_other(kind: ServerKind):
    """Slots move and replicas take over there as well, and a user with no more rights than needed can do everything."""
    with RedisCluster(kind, replicas=1, password="s3cret", users=USERS, tls=True) as cluster:
        for url in (cluster.url, cluster.url_for("app", "it's/me@home:")):
            async with AsyncGrid(url) as grid, AsyncGrid(url) as other:
                lock, rival = grid.lock("job"), other.lock("job")
                async with lock:
                    turn = asyncio.create_task(rival.acquire(timeout=60))
                    # In a thread: with TLS each look takes the loop so long that nobody could connect meanwhile.
                    await asyncio.to_thread(eventually, lambda: cluster.command("ZCARD", "{gridsync:lock:job}:queue"))
                async with await turn:
                    slot = key_slot(b"{gridsync:lock:job}")
                    target = next(n for n in cluster.nodes[:3] if n is not cluster.owner(slot))
                    await asyncio.to_thread(cluster.reshard, [slot], target)
                assert (await grid.limiter("calls", "5/minute").hit("ada")).allowed
                assert await grid.client.get("{gridsync:x}") is None
        await asyncio.to_thread(cluster.failover, cluster.nodes[0])
        with pytest.raises(AuthenticationFailed):
            Grid(cluster.url_for(None, "wrong"))
        with pytest.raises(AuthenticationFailed):
            Grid(cluster.url_for(None, None))


async def test_the_child_of_a_fork_has_its_own_way_to_every_node(flushed: RedisCluster):
    """It holds nothing of its parent's, waits for it, and leaves its parent's connections alone."""
    with Grid(flushed.url) as grid:
        for n in range(10):
            assert grid.limiter("calls", "5/minute").hit(f"k{n}").allowed
        lease = await asyncio.to_thread(grid.lock("parent").acquire)
        waiting = asyncio.create_task(asyncio.to_thread(grid.lock("parent").acquire, timeout=60))
        await soon(lambda: flushed.command("ZCARD", "{gridsync:lock:parent}:queue"))
        child = os.fork()
        if not child:
            try:
                mine = grid.lock("child").acquire(timeout=10).release()
                turn = grid.lock("parent").acquire(timeout=60)
                os._exit(0 if mine and turn.release() and all(_hit(grid, n) for n in range(10)) else 1)
            finally:
                os._exit(2)
        await soon(lambda: flushed.command("ZCARD", "{gridsync:lock:parent}:queue") == 2)
        assert await asyncio.to_thread(lease.release)
        assert await asyncio.to_thread((await waiting).release)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert all(_hit(grid, n) for n in range(10))


def _hit(grid: Grid, n: int) -> bool:
    return grid.limiter("calls", "5/minute").hit(f"k{n}").allowed


async def test_the_child_of_a_fork_is_told_that_an_asyncio_grid_is_its_parents(flushed: RedisCluster):
    async with AsyncGrid(flushed.url) as grid:
        await grid.limiter("calls", "5/minute").hit("ada")
        child = os.fork()
        if not child:
            try:
                grid.limiter("calls", "5/minute").hit("ada").send(None)
            except UsageError as error:
                os._exit(0 if "parent process" in str(error) else 1)
            finally:
                os._exit(2)
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == 0
        assert (await grid.limiter("calls", "5/minute").hit("ada")).allowed


async def test_the_plain_client_speaks_to_the_cluster(flushed: RedisCluster):
    with Grid(flushed.url) as grid:
        for n in range(10):
            assert grid.client.set(f"k{n}", n, px=60_000)
            assert grid.client.get(f"k{n}") == str(n).encode()
    async with AsyncGrid(flushed.url) as async_grid:
        assert await async_grid.client.get("k7") == b"7"


async def test_a_lease_is_kept_while_its_slot_is_half_way(world: World, flushed: RedisCluster):
    """The watchdog's batch follows ASK call by call, for as long as the administrator takes."""
    io = world.io()
    lease = await world.do(world.lock(io, ttl=1.8).acquire)
    (state,) = [key for node in flushed.nodes for key in node.command("KEYS", "*") if b"fence" not in key]
    slot = key_slot(state)
    source = flushed.owner(slot)
    target = next(node for node in flushed.nodes if node is not source)
    with flushed.migrating(slot, target):
        before = _pexpires(target)
        flushed.move_keys(slot, source, target)
        # Renewed every 0.6 s: six of them are two lives.
        await soon(lambda: _pexpires(target) >= before + 6)
        assert not lease.lost.is_set()
    before = _pexpires(target)
    await soon(lambda: _pexpires(target) >= before + 3)
    assert await world.do(lease.release)


def _pexpires(node: RedisServer) -> int:
    with node.client() as client:
        stats: Any = client.info("commandstats")
    return int(stats.get("cmdstat_pexpire", {"calls": 0})["calls"])


async def test_a_driver_that_is_closed_leaves_nothing(world: World, flushed: RedisCluster):
    await soon(lambda: not _clients(flushed))  # of the tests before
    io = world.io()
    for n in range(20):
        await run(io, SET, (f"k{n}",), ("v", "PX", 60_000))
    assert _clients(flushed) >= 3
    await world.do(io.close)
    await soon(lambda: not _clients(flushed))


def _clients(cluster: RedisCluster) -> int:
    """Return how many connections of gridsync the nodes see."""
    return sum(node.command("CLIENT", "LIST").count(b"name=gridsync") for node in cluster.nodes)
