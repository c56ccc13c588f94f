"""Reads that the replicas of a cluster answer, each those of its own slots."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.wire.endpoint import parse
from gridsync.errors import Unavailable
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.servers import ServerKind, server_kinds
from tests.wire.fake import until
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

SUBJECTS = [f"member-{n}" for n in range(12)]


PARAMS = [pytest.param(kind, marks=pytest.mark.faults if n else ()) for n, kind in enumerate(server_kinds())]


@pytest.fixture(scope="module", params=PARAMS, ids=str)
def replicated(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """Three primaries with one replica each."""
    kind: ServerKind = request.param
    with RedisCluster(kind, replicas=3) as running:
        yield running


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, replicated: RedisCluster) -> AsyncIterator[World]:
    await asyncio.to_thread(replicated.wait)
    made = World(request.param, replicated.url)
    yield made
    await made.close()


def calls(nodes: Any, command: str) -> int:  # noqa: ANN401 - any nodes
    """Return how often *nodes* ran *command* together."""
    count = 0
    for node in nodes:
        if node.running:
            with node.client() as client:
                stats: Any = client.info("commandstats")
            count += stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return count


async def test_each_replica_answers_for_its_own_slots(world: World, replicated: RedisCluster):
    io = world.driver(parse(replicated.url, connect_timeout=20.0), timeout=20.0)
    await world.do(io.connect)
    limiter = world.limiter(io, "1000/minute")
    primaries, replicas = replicated.nodes[:3], replicated.nodes[3:]
    for subject in SUBJECTS:
        assert await world.do(limiter.hit, subject)

    async def seen() -> bool:
        peeks = [await world.do(limiter.peek, subject, read_from="replica") for subject in SUBJECTS]
        return all(peek.remaining < 1000 for peek in peeks)

    await until(seen)
    asked = calls(primaries, "evalsha") + calls(primaries, "evalsha_ro")
    before = [calls([replica], "evalsha_ro") for replica in replicas]
    assert await seen()
    assert calls(primaries, "evalsha") + calls(primaries, "evalsha_ro") == asked
    assert all(calls([replica], "evalsha_ro") > count for replica, count in zip(replicas, before, strict=True))
    assert io.stats().replica_fallbacks == 0


async def test_a_replica_that_is_gone_is_missed_only_by_who_wants_no_primary(world: World, replicated: RedisCluster):
    io = world.io(timeout=20.0)
    await world.do(io.connect)
    limiter = world.limiter(io, "1000/minute")
    peeked = [await world.do(limiter.peek, subject, read_from="replica") for subject in SUBJECTS]
    assert len(peeked) == len(SUBJECTS)
    gone = replicated.nodes[3:]
    for replica in gone:
        replica.kill()
    try:
        for subject in SUBJECTS:
            assert await world.do(limiter.peek, subject, read_from="prefer_replica")
        assert io.stats().replica_fallbacks == len(SUBJECTS)
        with pytest.raises(Unavailable):
            await world.do(world.limiter(world.io(timeout=1.0), "1000/minute").peek, "me", read_from="replica")
    finally:
        for replica in gone:
            await asyncio.to_thread(replica.start)
        await asyncio.to_thread(replicated.wait)

    async def back() -> bool:
        try:
            return all([await world.do(limiter.peek, subject, read_from="replica") for subject in SUBJECTS])
        except Unavailable:
            return False

    await until(back, 30)


async def test_after_a_failover_the_new_replica_is_read(world: World, replicated: RedisCluster):
    io = world.driver(parse(replicated.url, connect_timeout=20.0), timeout=20.0)
    await world.do(io.connect)
    limiter = world.limiter(io, "1000/minute")
    assert await world.do(limiter.peek, "me", read_from="replica")
    old = replicated.nodes[0]
    new = replicated.replica_of(old)
    await asyncio.to_thread(replicated.failover, old)
    before = calls([old], "evalsha_ro")
    try:
        for subject in SUBJECTS:
            assert await world.do(limiter.hit, subject)
            assert await world.do(limiter.peek, subject, read_from="replica")
        assert calls([old], "evalsha_ro") > before
    finally:
        await asyncio.to_thread(replicated.failover, new)
        await asyncio.to_thread(replicated.wait)
