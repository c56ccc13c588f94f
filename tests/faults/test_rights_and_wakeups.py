"""Rights that are taken away, passwords that change, wake-ups that get lost, and what a thousand cuts leave behind."""

from __future__ import annotations

import asyncio
import gc
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from redis.credentials import CredentialProvider

from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import wake_channel
from gridsync._io.wire.endpoint import parse
from gridsync.errors import AuthenticationFailed, PermissionDenied
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer
from tests.faults.traffic import ECHO, SET, run
from tests.wire.fake import soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import Iterator

KEYS = lock_keys(NAMESPACE, "job")
LONG_S = 20.0


@pytest.fixture
def guarded() -> Iterator[RedisServer]:
    with RedisServer(password="first", users=["user app on >old ~* &* +@all"]) as running:
        yield running


@pytest.mark.parametrize("kind", KINDS)
async def test_a_right_that_is_taken_away_is_named_once_and_works_again_when_it_is_back(
    guarded: RedisServer, kind: str
):
    world = World(kind, guarded.url_for("app", "old"))
    with FaultProxy(world.url) as proxy:
        io = world.io(proxy.url, timeout=LONG_S)
        assert await run(world, io, SET, "k", "1") == b"OK"
        guarded.command("ACL", "SETUSER", "app", "-set")
        with pytest.raises(PermissionDenied, match="'set'"):
            await run(world, io, SET, "k", "2")
        assert len(proxy.requests("SET")) == 2
        guarded.command("ACL", "SETUSER", "app", "+set", "resetkeys", "~mine:*")
        with pytest.raises(PermissionDenied):
            await run(world, io, SET, "k", "3")
        assert await run(world, io, SET, "mine:k", "4") == b"OK"
        await world.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_waiter_that_may_not_listen_is_told_so_once(guarded: RedisServer, kind: str):
    """It was in nobody's way, and holds no place in the queue of the lock."""
    world = World(kind, guarded.url_for("app", "old"))
    held = await world.do(world.lock(world.io(guarded.url)).acquire)
    guarded.command("ACL", "SETUSER", "app", "resetchannels")
    with FaultProxy(world.url) as proxy:
        waiter = world.lock(world.io(proxy.url, timeout=LONG_S))
        with pytest.raises(PermissionDenied, match="channel"):
            await world.do(waiter.acquire, timeout=LONG_S)
        assert len(proxy.requests("SUBSCRIBE")) == 1
    assert guarded.command("ZCARD", KEYS.queue) == 0
    assert await world.do(held.release) is True
    await world.close()


class Rotating(CredentialProvider):
    """The password of the day."""

    password = "old"

    def get_credentials(self) -> tuple[str, str]:
        return "app", self.password


@pytest.mark.parametrize("kind", KINDS)
async def test_a_password_that_changed_needs_no_restart(guarded: RedisServer, kind: str):
    """Open connections live on; a new one takes the provider's password, and a stale one is refused at once."""
    provider = Rotating()
    with FaultProxy(f"redis://127.0.0.1:{guarded.port}") as proxy:
        endpoint = parse(proxy.url, connect_timeout=5.0, credentials=provider)
        world = World(kind, guarded.url)
        io = world.driver(endpoint, timeout=LONG_S)
        assert await run(world, io, ECHO, "a") == b"a"
        guarded.command("ACL", "SETUSER", "app", "resetpass", ">new")
        assert await run(world, io, ECHO, "b") == b"b"
        await asyncio.to_thread(proxy.cut)
        with pytest.raises(AuthenticationFailed):
            await run(world, io, ECHO, "c")
        provider.password = "new"
        assert await run(world, io, ECHO, "d") == b"d"
        await world.close()


async def test_a_waiter_whose_connection_is_killed_still_gets_its_turn(server: RedisServer, world: World):
    """A message is a hint: when the one that says *it is yours* is lost, looking again finds it."""
    held = await world.do(world.lock(world.io()).acquire)
    waiting = world.start(world.lock(world.io()).acquire, timeout=60)
    await soon(lambda: server.command("ZCARD", KEYS.queue) == 1)
    for _ in range(3):
        server.command("CLIENT", "KILL", "TYPE", "pubsub")
        assert await world.do(held.release) in (True, False)
    lease = await world.ended(waiting)
    assert lease.fence > held.fence
    await world.do(lease.release)


async def test_a_kill_while_subscribing_is_a_subscription_a_moment_later(server: RedisServer, world: World):
    over = threading.Event()

    def killer() -> None:
        while not over.is_set():
            server.command("CLIENT", "KILL", "TYPE", "pubsub")

    thread = threading.Thread(target=killer)
    held = await world.do(world.lock(world.io()).acquire)
    thread.start()
    try:
        waiting = [world.start(world.lock(world.io()).acquire, timeout=60) for _ in range(4)]
        await soon(lambda: server.command("ZCARD", KEYS.queue) == 4)
        await world.do(held.release)
        for turn in asyncio.as_completed(waiting):
            await world.do((await turn).release)
    finally:
        over.set()
        thread.join(20)


async def test_a_burst_of_wake_ups_for_nobody_drowns_nobody(server: RedisServer, world: World):
    """100,000 messages that no one waits for: no recursion, no growing queue, and the one that counts arrives."""
    io = world.io(timeout=LONG_S)
    held = await world.do(world.lock(io).acquire)
    waiting = world.start(world.lock(io).acquire, timeout=60)
    await soon(lambda: server.command("ZCARD", KEYS.queue) == 1)
    channel = wake_channel(io.wake_prefix(KEYS.state), io.token())
    burst = "local heard for n = 1, 100000 do heard = redis.call('PUBLISH', ARGV[1], n) end return heard"
    assert server.command("EVAL", burst, 0, channel) == 1
    await world.do(held.release)
    await world.do((await world.ended(waiting)).release)


async def test_a_reader_that_is_too_slow_for_its_wake_ups_is_thrown_out_and_comes_back(
    server: RedisServer, world: World
):
    """The server drops a client whose output it cannot deliver; the waiter subscribes again and looks."""
    server.command("CONFIG", "SET", "client-output-buffer-limit", "pubsub 65536 65536 1")
    with FaultProxy(server.url) as proxy:
        held = await world.do(world.lock(world.io()).acquire)
        io = world.io(proxy.url, timeout=LONG_S)
        waiting = world.start(world.lock(io).acquire, timeout=60)
        await soon(lambda: server.command("ZCARD", KEYS.queue) == 1)
        await asyncio.to_thread(proxy.blackhole, requests=False)
        channel = wake_channel(io.wake_prefix(KEYS.state), io.token())
        flood = ("EVAL", "for n = 1, 1000 do redis.call('PUBLISH', ARGV[1], string.rep('x', 10000)) end", 0, channel)

        def thrown_out() -> bool:
            server.command(*flood)
            return "output buffer limits" in server.log()

        await soon(thrown_out)
        await asyncio.to_thread(proxy.heal)
        await world.do(held.release)
        await world.do((await world.ended(waiting)).release)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@pytest.mark.parametrize("times", [50, pytest.param(1000, marks=pytest.mark.faults)])
async def test_cuts_leave_nothing_behind(proxy: FaultProxy, world: World, times: int):
    """Descriptors, tasks and threads are what they were: a service lives through years of them."""
    io = world.io(proxy.url, timeout=LONG_S)
    lock = world.lock(io)

    async def once() -> None:
        lease = await world.do(lock.acquire)
        assert await world.do(lease.release) is True
        await asyncio.to_thread(proxy.cut)

    for _ in range(5):
        await once()
    gc.collect()
    before = descriptors(), len(asyncio.all_tasks()), threading.active_count()
    for _ in range(times):
        await once()
    # Of the executor's threads there may be more now than before; gridsync's own are named.
    gc.collect()
    await soon(lambda: descriptors() <= before[0] + 2 and len(asyncio.all_tasks()) <= before[1])
    assert len([t for t in threading.enumerate() if t.name.startswith("gridsync")]) <= 2
