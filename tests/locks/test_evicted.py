"""One key is gone while somebody holds and others wait: a full server that evicts chooses keys, not locks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import LockKeys, ShareKeys
from gridsync.errors import LeaseLost
from tests.locks.ways import WAYS, held_key, keys, rival, taker
from tests.wire.fake import soon

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

pytestmark = pytest.mark.any_server

EACH = [(way, part) for way in WAYS for part in (type(keys(way))._fields)]


@pytest.mark.parametrize(("way", "part"), EACH, ids=[f"{way}-{part}".replace(" ", "-") for way, part in EACH])
async def test_a_key_that_was_evicted_stops_nobody(world: World, flushed: RedisServer, way: str, part: str):
    """The holder learns of it if nobody else knows that it holds; both who wait come in, and the queue is empty."""
    held = await world.do(taker(world, way, ttl=3.0).acquire)
    waiting: list[asyncio.Task[Any]] = []

    async def turn() -> bool:
        lease = await world.do(taker(world, rival(way), ttl=3.0).acquire, timeout=20)
        released: bool = await world.do(lease.release)
        return released

    for number in (1, 2):
        waiting.append(asyncio.create_task(turn()))
        await soon(lambda number=number: flushed.command("ZCARD", keys(way).queue) == number)
    key = getattr(keys(way), part)
    flushed.command("DEL", key)
    assert await world.do(held.release) is (key != held_key(way))
    assert await world.ended(asyncio.gather(*waiting)) == [True, True]
    assert flushed.command("EXISTS", held_key(way), keys(way).queue) == 0
    lease = await world.do(taker(world, rival(way)).acquire, timeout=0)
    assert await world.do(lease.release) is True


async def test_permits_of_which_nobody_knows_are_free_when_their_holders_have_gone(world: World, flushed: RedisServer):
    """Though somebody always holds one: else they would be missing for as long as the semaphore is in use."""
    slots = world.locks("Semaphore", world.io(), "job", 3)
    first, second = [await world.do(slots.acquire) for _ in range(2)]
    flushed.command("DEL", keys("permits").what)
    third = await world.do(slots.acquire)
    assert await world.do(slots.try_acquire) is None, "those two go on"
    first.check()
    await world.do(second.extend)
    assert await world.do(first.release) is True
    assert await world.do(second.release) is True
    assert (await world.do(slots.info)).taken == 1
    others = [await world.do(slots.acquire, timeout=0) for _ in range(2)]
    assert await world.do(slots.try_acquire) is None
    for lease in (third, *others):
        assert await world.do(lease.release) is True


async def test_a_writer_of_whom_nothing_is_known_cannot_become_a_reader(world: World, flushed: RedisServer):
    """It would go on to read what others write."""
    book = world.locks("RWLock", world.io(), "job", ttl=2.0)
    lease = await world.do(book.write.acquire)
    flushed.command("DEL", keys("write lock").what)
    with pytest.raises(LeaseLost, match="it ended on the server, or was taken away"):
        await world.do(book.downgrade, lease)
    next_one = await world.do(book.write.acquire, timeout=20)
    assert await world.do(next_one.release) is True


def test_every_key_of_every_kind_is_tried():
    assert {part for _, part in EACH} == {*LockKeys._fields, *ShareKeys._fields}
