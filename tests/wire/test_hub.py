"""The hubs: one subscriber's connection wakes all waiters of a process, and a broken one wakes them all."""

from __future__ import annotations

import asyncio
import re
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import run_sync
from gridsync._io.keys import tag, wake_channel, wake_prefix
from gridsync.errors import PermissionDenied, Unavailable, UsageError
from tests.wire.fake import FakeServer, eventually, soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync._io.aio import AsyncIO
    from gridsync._io.sync import SyncIO
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

TAG = tag(NAMESPACE, "lock", "job")


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, proxy: FaultProxy) -> AsyncIterator[World]:
    made = World(request.param, proxy.url)
    yield made
    await made.close()


async def ear_do(world: World, ear: Any, what: str, *args: Any) -> Any:  # noqa: ANN401 - either kind
    call = getattr(ear, what)
    if world.kind == "asyncio":
        return await call(*args)
    return await asyncio.to_thread(lambda: run_sync(call(*args)))


def ear_of(io: Any, token: str | None = None) -> Any:  # noqa: ANN401 - either kind
    token = token or io.token()
    return io.ear(token, wake_channel(io.wake_prefix(TAG), token))


def wake(server: RedisServer, token: str | bytes) -> None:
    name = token if isinstance(token, str) else token.decode(errors="replace")
    server.command("PUBLISH", wake_channel(wake_prefix(TAG), name), token)


async def test_a_message_wakes_the_waiter_it_names_and_no_other(world: World, flushed: RedisServer):
    io = world.io()
    one, other = ear_of(io), ear_of(io)
    await ear_do(world, one, "open")
    await ear_do(world, other, "open")
    wake(flushed, one.token)
    assert await ear_do(world, one, "wait", 20.0) is True
    assert await ear_do(world, other, "wait", 0.0) is False
    one.close()
    other.close()
    assert not io._hub.ears


async def test_an_ear_hears_what_follows_its_name(world: World, flushed: RedisServer):
    io = world.io()
    ear = ear_of(io)
    await ear_do(world, ear, "open")
    for message in ("7 1500", ""):
        flushed.command("PUBLISH", ear.channel, f"{ear.token} {message}".strip())
        assert await ear_do(world, ear, "wait", 20.0) is True
        assert ear.message == message


async def test_a_channel_that_the_acl_forbids_says_so_at_once(world: World, proxy: FaultProxy, flushed: RedisServer):
    """It will not heal: no second attempt is made, and the connection stays good for what is allowed."""
    flushed.command("ACL", "SETUSER", "app", "on", ">secret", "~*", "&other:*", "+@all")
    io = world.io(re.sub("://(.*@)?", "://app:secret@", proxy.url))
    with pytest.raises(PermissionDenied, match="the subscription to"):
        await ear_do(world, ear_of(io), "open")
    allowed = io.ear("a", wake_channel(io.wake_prefix(tag("other", "lock", "job")), "a"))
    await ear_do(world, allowed, "open")
    assert proxy.accepted == 1
    flushed.command("ACL", "DELUSER", "app")


async def test_what_comes_before_the_wait_is_not_lost(world: World, flushed: RedisServer):
    io = world.io()
    ear, marker = ear_of(io), ear_of(io)
    await ear_do(world, ear, "open")
    await ear_do(world, marker, "open")
    wake(flushed, ear.token)
    wake(flushed, marker.token)
    assert await ear_do(world, marker, "wait", 20.0), "the second message has come, and so has the first"
    assert await ear_do(world, ear, "wait", 0.0) is True
    assert await ear_do(world, ear, "wait", 0.0) is False


async def test_a_cut_connection_wakes_everybody_and_is_opened_again(
    world: World, proxy: FaultProxy, flushed: RedisServer
):
    """A message may have been lost with the connection: every waiter must look for itself."""
    io = world.io()
    ears = [ear_of(io) for _ in range(5)]
    for ear in ears:
        await ear_do(world, ear, "open")
    waits = [asyncio.create_task(ear_do(world, ear, "wait", 60.0)) for ear in ears]
    await soon(lambda: len(proxy.requests("SUBSCRIBE")))
    await asyncio.sleep(0)
    await asyncio.to_thread(proxy.cut, reset=True)
    assert await asyncio.wait_for(asyncio.gather(*waits), 20) == [True] * 5
    for ear in ears:
        await ear_do(world, ear, "open")
    wake(flushed, ears[3].token)
    assert await ear_do(world, ears[3], "wait", 20.0) is True


async def test_a_connection_that_confirms_nothing_is_replaced(world: World, proxy: FaultProxy):
    """Silent and open, it would keep every waiter of the process from hearing anything, for ever."""
    io = world.io(timeout=20.0)
    ear = ear_of(io)
    await ear_do(world, ear, "open")
    proxy.blackhole(requests=False)
    other = ear_of(io, "z" * 12 + "1")
    io._hub._timeout = 0.3
    with pytest.raises(Unavailable, match="did not confirm the subscription"):
        await ear_do(world, other, "open")
    io._hub._timeout = 20.0
    proxy.heal()
    await ear_do(world, other, "open")
    assert proxy.accepted >= 2


async def test_a_server_that_is_away_fails_the_waiter_by_its_deadline(world: World, proxy: FaultProxy):
    io = world.io(timeout=20.0)
    await ear_do(world, ear_of(io), "open")
    proxy.refuse()
    proxy.cut()
    await soon(lambda: not io._hub.ears.heard)
    io._hub._timeout = 1.0
    with pytest.raises(Unavailable, match="cannot connect"):
        await ear_do(world, ear_of(io), "open")


async def test_a_message_that_is_no_text_harms_nobody(world: World, proxy: FaultProxy, flushed: RedisServer):
    """Anybody may publish anything."""
    io = world.io()
    ear = ear_of(io)
    await ear_do(world, ear, "open")
    flushed.command("PUBLISH", ear.channel, b"\xff\xfe")
    wake(flushed, ear.token)
    assert await ear_do(world, ear, "wait", 20.0) is True
    assert proxy.accepted == 1


@pytest.mark.usefixtures("nothing_left")
async def test_a_closed_hub_wakes_its_waiters_and_stays_closed(world: World, proxy: FaultProxy):
    io = world.io()
    ear = ear_of(io)
    await ear_do(world, ear, "open")
    waiting = asyncio.create_task(ear_do(world, ear, "wait", 60.0))
    await asyncio.sleep(0)
    await world.do(io.close)
    assert await asyncio.wait_for(waiting, 20) is True
    with pytest.raises(UsageError, match="was closed"):
        await ear_do(world, ear, "open")
    await soon(lambda: proxy.connections == 0)


async def test_a_thousand_tasks_wait_on_one_connection(
    proxy: FaultProxy, flushed: RedisServer, async_io: Callable[..., AsyncIO]
):
    io = async_io(proxy.url, timeout=60)
    ears = [ear_of(io) for _ in range(1000)]
    await asyncio.gather(*(ear.open() for ear in ears))
    waits = [asyncio.create_task(ear.wait(60)) for ear in ears]
    with flushed.client() as client:
        pipeline = client.pipeline(transaction=False)
        for ear in ears:
            pipeline.publish(ear.channel, ear.token)
        pipeline.execute()
    assert all(await asyncio.wait_for(asyncio.gather(*waits), 60))
    assert proxy.accepted == 1


def test_threads_that_wait_for_a_connection_do_not_add_up_their_timeouts(sync_io: Callable[..., SyncIO]):
    """One connects, the others wait for it: a server that says nothing must not hold the last one for minutes."""
    with FakeServer(lambda peer, words: None, greeting=None) as server:  # noqa: ARG005 - silent
        io = sync_io(server.url, timeout=0.3)
        with ThreadPoolExecutor(30) as threads:
            calls = [threads.submit(lambda: run_sync(ear_of(io).open())) for _ in range(30)]
            assert all(isinstance(call.exception(20), Unavailable) for call in calls)
        assert len(server.peers) < 15


def test_threads_share_one_connection(proxy: FaultProxy, flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(proxy.url)
    ears = [ear_of(io) for _ in range(20)]
    with ThreadPoolExecutor(20) as threads:
        list(threads.map(lambda ear: run_sync(ear.open()), ears))
        waits = [threads.submit(lambda ear=ear: run_sync(ear.wait(60))) for ear in ears]
        for ear in ears:
            wake(flushed, ear.token)
        assert all(wait.result(20) for wait in waits)
    assert proxy.accepted == 1
    io.close()
    eventually(lambda: not [t for t in threading.enumerate() if t.name == "gridsync-hub"])
