"""A server that answers, but not what was hoped for: full, loading, demoted, busy, or without its scripts."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

import pytest
import redis

from gridsync._io import Category, Command
from gridsync.errors import OutcomeUnknown, ServerError, Unavailable
from tests.faults.traffic import ECHO, GET, INCR, SET, Traffic, run
from tests.wire.fake import eventually, soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

LONG_S = 20.0
"""A deadline that only a bug can reach."""


# -- it did nothing, and may soon: repeated, whatever it is ----------------------------------------------------------


def no_replica(server: RedisServer) -> Callable[[], Any]:
    server.command("CONFIG", "SET", "min-replicas-to-write", 1)
    return lambda: server.command("CONFIG", "SET", "min-replicas-to-write", 0)


def demoted(server: RedisServer) -> Callable[[], Any]:
    # Of a primary that is not there: the data stay readable.
    server.command("REPLICAOF", "127.0.0.1", 1)
    return lambda: server.command("REPLICAOF", "NO", "ONE")


def cannot_save(server: RedisServer) -> Callable[[], Any]:
    obstacle = server.directory / "dump.rdb"
    obstacle.mkdir()
    server.command("CONFIG", "SET", "save", "3600 1")
    server.command("BGSAVE")
    eventually(lambda: info(server, "persistence")["rdb_last_bgsave_status"] == "err")

    def heal() -> None:
        server.command("CONFIG", "SET", "save", "")

    return heal


def busy(server: RedisServer) -> Callable[[], Any]:
    server.command("CONFIG", "SET", "busy-reply-threshold", 1)

    def spin() -> None:
        with server.client() as client, contextlib.suppress(redis.ResponseError):
            client.eval("while true do end", 0)

    thread = threading.Thread(target=spin)
    thread.start()
    eventually(lambda: is_busy(server))

    def heal() -> None:
        server.command("SCRIPT", "KILL")
        thread.join(10)

    return heal


def info(server: RedisServer, section: str) -> dict[str, Any]:
    with server.client() as client:
        return client.info(section)


def is_busy(server: RedisServer) -> bool:
    try:
        server.command("GET", "k")
    except redis.ResponseError as error:
        return "BUSY" in str(error)
    return False


STATES = [(no_replica, "NOREPLICAS"), (demoted, "READONLY"), (cannot_save, "MISCONF"), (busy, "BUSY")]


@pytest.mark.parametrize(("state", "code"), STATES, ids=[code for _, code in STATES])
async def test_a_write_waits_for_a_server_that_refuses_for_the_moment(
    server: RedisServer, proxy: FaultProxy, world: World, state: Callable[[RedisServer], Callable[[], Any]], code: str
):
    """It was not applied, so even what may not be repeated is sent again; the caller sees it take longer."""
    io = world.io(proxy.url, timeout=LONG_S)
    await world.do(io.connect)
    heal = await asyncio.to_thread(state, server)
    try:
        # Its last attempt may have had too little time left for an answer.
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await run(world, io, SET, "k", "early", timeout=0.2)
        assert io.stats().failures[code] > 1
        writing = asyncio.create_task(run(world, io, SET, "k", "late"))
        await soon(lambda: len([words for words in proxy.requests("SET") if b"late" in words]) >= 2)
    finally:
        await asyncio.to_thread(heal)
    assert await writing == b"OK"
    assert server.command("GET", "k") == b"late"


async def test_a_call_waits_for_a_server_that_loads_its_data(server: RedisServer, world: World):
    io = world.io(timeout=LONG_S)
    await world.do(io.connect)
    with server.client() as client, client.pipeline(transaction=False) as pipeline:
        for n in range(2000):
            pipeline.set(f"key{n}", n)
        pipeline.execute()
    server.kill()
    # Each key takes 300 us to load, and the server answers LOADING meanwhile.
    server._options |= {"key-load-delay": "300", "loading-process-events-interval-bytes": "1024"}
    starting = asyncio.create_task(asyncio.to_thread(server.start))
    assert await run(world, io, GET, "key1999") == b"1999"
    await starting


async def test_scripts_that_were_flushed_in_full_traffic_are_loaded_again(
    server: RedisServer, world: World, recorder: Recorder
):
    async with Traffic(world, recorder, server.url) as traffic:
        for _ in range(5):
            server.command("SCRIPT", "FLUSH")
            server.command("FUNCTION", "FLUSH")
            await traffic.flows()
        assert traffic.unsure == traffic.refused == 0
    await traffic.judge(server)


# -- no repeat heals it ----------------------------------------------------------------------------------------------


async def test_a_full_server_says_so_once_and_recovers(server: RedisServer, proxy: FaultProxy, world: World):
    io = world.io(proxy.url, timeout=LONG_S)
    await world.do(io.connect)
    lock = world.lock(io)
    server.command("CONFIG", "SET", "maxmemory", 1)
    with pytest.raises(ServerError, match="OOM") as caught:
        await run(world, io, SET, "k", "v")
    assert caught.value.code == "OOM"
    assert len(proxy.requests("SET")) == 1
    with pytest.raises(ServerError, match="OOM"):
        await world.do(lock.acquire)
    assert await run(world, io, ECHO, "still") == b"still"
    server.command("CONFIG", "SET", "maxmemory", 0)
    lease = await world.do(lock.acquire)
    assert await world.do(lease.release) is True


async def test_a_caller_waits_for_a_place_when_the_server_has_too_many_clients(server: RedisServer, world: World):
    with server.client() as admin:
        admin.config_set("maxclients", 2)
        other = server.client()
        other.ping()
        io = world.io(timeout=LONG_S)
        calling = asyncio.create_task(run(world, io, ECHO, "in"))
        await soon(lambda: admin.info("stats")["rejected_connections"] >= 1)
        other.close()
        assert await calling == b"in"
        admin.config_set("maxclients", 100)


async def test_a_caller_that_is_evicted_for_its_memory_hears_of_it_and_the_others_go_on(
    server: RedisServer, world: World
):
    """The server cuts whoever makes it keep too much; what fits is served on the next connection."""
    io = world.io(timeout=LONG_S)
    await world.do(io.connect)
    server.command("CONFIG", "SET", "maxmemory-clients", "1mb")
    with pytest.raises(Unavailable):
        await run(world, io, ECHO, b"x" * 8_000_000, timeout=0.5)
    assert info(server, "stats")["evicted_clients"] >= 1
    assert await asyncio.gather(*(run(world, io, ECHO, str(n)) for n in range(20))) == [b"%d" % n for n in range(20)]
    server.command("CONFIG", "SET", "maxmemory-clients", 0)
    assert await run(world, io, ECHO, b"x" * 8_000_000) == b"x" * 8_000_000


# -- slow ------------------------------------------------------------------------------------------------------------


async def test_a_server_that_pauses_for_less_than_a_deadline_costs_nobody_anything(
    server: RedisServer, proxy: FaultProxy, world: World
):
    io = world.io(proxy.url, timeout=LONG_S)
    await world.do(io.connect)
    server.command("CLIENT", "PAUSE", 100, "ALL")
    calls = [run(world, io, INCR, "n") for _ in range(20)]
    assert sorted(await asyncio.gather(*calls)) == list(range(1, 21))
    assert len(proxy.requests("INCR")) == 20


async def test_one_value_of_fifty_megabytes_holds_others_up_and_harms_nobody(world: World):
    io = world.io(timeout=LONG_S)
    huge = b"x" * 50_000_000
    values = [b"a", huge, *(b"%d" % n for n in range(20))]
    assert await asyncio.gather(*(run(world, io, ECHO, value) for value in values)) == values


async def test_values_of_megabytes_and_of_bytes_find_their_callers(world: World):
    io = world.io(timeout=LONG_S)
    values = [bytes([65 + n]) * (4_000_000 if n % 4 == 0 else 3) for n in range(16)]
    assert await asyncio.gather(*(run(world, io, ECHO, value) for value in values)) == values


async def test_a_slow_command_fails_its_own_caller_and_the_others_get_their_replies(server: RedisServer, world: World):
    """On the shared connection of asyncio they wait behind it; their deadlines are their own."""
    io = world.io(timeout=LONG_S)
    await world.do(io.connect)
    slow = Command("slow", Category.NEVER, ("EVAL", "while true do end", "0"))
    server.command("CONFIG", "SET", "busy-reply-threshold", 1)
    dawdling = asyncio.create_task(run(world, io, slow, "x", timeout=0.3))
    await soon(lambda: is_busy(server))
    others = [asyncio.create_task(run(world, io, ECHO, str(n))) for n in range(10)]
    with pytest.raises(Exception, match="slow"):
        await dawdling
    await asyncio.to_thread(server.command, "SCRIPT", "KILL")
    assert await asyncio.gather(*others) == [b"%d" % n for n in range(10)]
