"""Everything that can be held and waited for, while the sentinels make another server the primary."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from tests.locks.ways import WAYS, fence, held_key, keys, rival, taker
from tests.wire.fake import soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.sentinels import SentinelSet

LONG_S = 60.0


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, healthy: SentinelSet) -> AsyncIterator[World]:
    made = World(request.param, healthy.url)
    yield made
    await made.close()


def name(way: str) -> str:
    """Return a name of its own, so that two ways of holding a lock do not meet."""
    return way.replace(" ", "-")


async def all_held(world: World, server: SentinelSet) -> tuple[dict[str, Any], dict[str, asyncio.Task[Any]]]:
    """Hold in every way, with one who waits behind each."""
    primary = server.master
    holder, waiter = world.io(timeout=LONG_S), world.io(timeout=LONG_S)
    held = {way: await world.do(taker(world, way, holder, name=name(way), ttl=20).acquire) for way in WAYS}
    turns = {way: world.start(taker(world, rival(way), waiter, name=name(way)).acquire, timeout=LONG_S) for way in WAYS}
    for way in WAYS:
        await soon(lambda way=way: primary.command("ZCARD", keys(way, name(way)).queue) == 1)
    return held, turns


async def test_everything_is_handed_over_and_leaves_nothing(world: World, healthy: SentinelSet):
    held, turns = await all_held(world, healthy)
    for way in WAYS:
        assert await world.do(held[way].release) is True
        lease = await world.ended(turns[way])
        assert fence(lease) > fence(held[way])
        assert await world.do(lease.release) is True
        found = keys(way, name(way))
        await soon(lambda way=way, queue=found.queue: not healthy.master.command("EXISTS", _held(way), queue))


def _held(way: str) -> str:
    return held_key(way, name(way))


async def test_another_server_becomes_primary_while_everything_is_held_and_waited_for(
    world: World, healthy: SentinelSet
):
    """Latches and barriers too.  What was held is held there, and who waited hears of it there."""
    held, turns = await all_held(world, healthy)
    opened = world.start(world.locks("Latch", world.io(timeout=LONG_S), "ready", 1).wait, timeout=LONG_S)
    came = world.start(world.locks("Barrier", world.io(timeout=LONG_S), "round", 2).wait, timeout=LONG_S)
    old = healthy.master
    ready, round_ = latch_keys(NAMESPACE, "ready"), barrier_keys(NAMESPACE, "round")
    await soon(lambda: old.command("ZCARD", ready.alive) == old.command("ZCARD", round_.here) == 1)
    await asyncio.to_thread(healthy.failover)
    for way in WAYS:
        await world.do(held[way].extend)
        assert await world.do(held[way].release) is True
        lease = await world.ended(turns[way], LONG_S)
        assert fence(lease) > fence(held[way])
        assert await world.do(lease.release) is True
    io = world.io(timeout=LONG_S)
    assert await world.do(world.locks("Latch", io, "ready", 1).count_down) == 0
    await world.ended(opened)
    last = await world.do(world.locks("Barrier", io, "round", 2).wait, timeout=LONG_S)
    assert {last, await world.ended(came)} == {(0, 0), (0, 1)}


@pytest.mark.faults
async def test_a_primary_dies_while_everything_is_held_and_waited_for(world: World, healthy: SentinelSet):
    held, turns = await all_held(world, healthy)
    with healthy.master.client() as client:
        client.wait(1, 5000)
    await asyncio.to_thread(healthy.kill_master)
    for way in WAYS:
        # True, unless its lease ended meanwhile: nobody else can have had it.
        await world.do(held[way].release)
        lease = await world.ended(turns[way], LONG_S)
        assert fence(lease) > fence(held[way])
        assert await world.do(lease.release) is True
