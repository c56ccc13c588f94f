"""The server is killed and comes back, with its data or without."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import lock as lock_keys
from gridsync.testing.operations import operations
from gridsync.testing.servers import RedisServer
from tests.faults.traffic import Traffic
from tests.wire.fake import soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from gridsync.testing.recorder import Recorder

KEYS = lock_keys(NAMESPACE, "job")


async def crash(server: RedisServer) -> None:
    await asyncio.to_thread(lambda: (server.kill(), server.start()))


async def test_a_crash_in_full_traffic_loses_nothing_that_was_acknowledged(
    server: RedisServer, world: World, recorder: Recorder
):
    """Hits and events count once, counters are bounded, leases exclude each other, no read goes back in time."""
    async with Traffic(world, recorder, server.url) as traffic:
        for _ in range(2):
            await crash(server)
            await traffic.flows(2)
    await traffic.judge(server)


@pytest.mark.parametrize("kind", KINDS)
async def test_with_everysec_a_crash_costs_what_was_acknowledged_in_the_last_two_seconds_at_most(
    kind: str, recorder: Recorder
):
    """The default of an append log: the write happens at once, unless the disk is behind; the fsync a second later."""
    with RedisServer(options={"appendonly": "yes", "appendfsync": "everysec"}) as server:
        world = World(kind, server.url)
        async with Traffic(world, recorder, server.url) as traffic:
            await traffic.flows(5)
            now_us = recorder.now_us()
            await crash(server)
            await traffic.flows(2)
        calls = [call for call in operations(recorder.history()) if call.key == "n"]
        early = sum(call.outcome == "done" and (call.returned_us or 0) < now_us - 2_000_000 for call in calls)
        assert early <= int(server.command("GET", "n")) <= len(calls)
        await traffic.judge(server, kept=False)
        await world.close()


@pytest.mark.parametrize("kind", KINDS)
async def test_a_server_that_comes_back_empty_hands_out_larger_fences(kind: str, recorder: Recorder):
    """The last fence is lost with the data, the server's clock is not: old writes can still be told from new ones."""
    with RedisServer() as server:
        world = World(kind, server.url)
        async with Traffic(world, recorder, server.url) as traffic:
            await crash(server)
            await traffic.flows(2)
        await traffic.judge(server, kept=False)
        await world.close()


async def test_on_two_sides_of_a_split_the_larger_fence_is_the_later_holder(server: RedisServer, world: World):
    """A promoted replica knows nothing of a primary that lives on: both grant the lock, and the fence tells."""
    server.command("CONFIG", "SET", "repl-diskless-sync-delay", 0)
    with RedisServer() as replica:
        replica.command("REPLICAOF", server.host, server.port)
        old_lock = world.lock(world.io(server.url), ttl=60)
        first = await world.do(old_lock.acquire)
        await soon(lambda: replica.command("EXISTS", KEYS.fence))
        replica.command("REPLICAOF", "NO", "ONE")
        await world.do(first.release)
        stale = await world.do(old_lock.acquire)
        replica.command("DEL", KEYS.state)  # what the old holder's lease ending would do
        late = await world.do(world.lock(world.io(replica.url), ttl=60).acquire)
        assert late.fence > stale.fence > first.fence
        for lease in (stale, late):
            assert await world.do(lease.release) is True
