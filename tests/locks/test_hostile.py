"""Names that try to be something else, neighbours of the same name, and foreign values where ours should be."""

# ruff: noqa: ANN401 - many kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from gridsync._io.keys import watchers
from gridsync.errors import GridsyncError, LockTimeout, ServerError
from gridsync.testing.proxy import FaultProxy
from tests.locks.ways import WAYS, each, keys, rival, taker
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

NAMES = [
    "{job}", "}{", "job}:queue", ":", "a:b", "%7Bjob%7D", " ", "with space\nand line", "ключ", "🔒🔒", "'\"\\", "\x00",
    "*?[a]", "x" * 512,
]  # fmt: skip
by_way = pytest.mark.parametrize("way", WAYS, ids=lambda way: way.replace(" ", "-"))


@by_way
async def test_a_name_is_only_a_name(world: World, flushed: RedisServer, way: str):
    """All of them are held at once, each waits for itself alone, and no key lies anywhere else."""
    io = world.io()
    # The second name of a multi-lock is a little longer.
    names = [name[:500] for name in NAMES] if way == "multi-lock" else NAMES
    held = [await world.do(taker(world, way, io, name=name).acquire, timeout=20) for name in names]
    assert [one.name for lease in held for one in each(lease)[:1]] == names
    for name in names:
        if way != "election":  # who has no timeout
            with pytest.raises(LockTimeout, match=r"is held") as caught:
                await world.do(taker(world, rival(way), io, name=name).acquire, timeout=0)
            assert name in caught.value.name
    tags = {keys(way, name).state for name in names}
    assert len(tags) == len(names)
    assert {key.decode().partition("}")[0] + "}" for key in flushed.command("KEYS", "*")} >= tags
    for lease in held:
        assert await world.do(lease.release) is True


async def test_latches_and_barriers_take_any_name(world: World):
    io = world.io()
    for name in NAMES:
        latch = world.locks("Latch", io, name, 2)
        assert await world.do(latch.count_down, by=name) == 1
        assert await world.do(latch.count_down, by=name) == 1
        passages = await asyncio.gather(
            *(world.do(world.locks("Barrier", io, name, 2).wait, timeout=20) for _ in range(2))
        )
        assert sorted(passage.place for passage in passages) == [0, 1]


async def test_things_of_one_name_do_not_meet(world: World, flushed: RedisServer):
    """A lock, a semaphore, a reader-writer lock, an election, a latch, a barrier: each of them ``job``."""
    io = world.io()
    alone = ["lock", "write lock", "permits", "election"]
    held = [await world.do(taker(world, way, io).acquire, timeout=0) for way in alone]
    await world.do(world.locks("Latch", io, "job", 1).count_down)
    passage = await world.do(world.locks("Barrier", io, "job", 1).wait, timeout=0)
    assert passage == (0, 0)
    tags = {key.decode().partition("}")[0] for key in flushed.command("KEYS", "*")}
    assert len(tags) == 6
    for lease in held:
        lease.check()
        assert await world.do(lease.release) is True


@by_way
async def test_namespaces_do_not_meet(world: World, way: str):
    """Nor do a namespace with a colon and a name with one: ``a`` and ``b:job``, ``a:b`` and ``job``."""
    io = world.io()
    held = []
    for namespace, name in (("a", "b:job"), ("a:b", "job"), ("{a}", "job"), ("a", "job")):
        taken = taker(world, way, io, name=name, namespace=namespace)
        held.append(await world.do(taken.acquire, timeout=0))
    for lease in held:
        assert await world.do(lease.release) is True


# -- a foreign value of another type ---------------------------------------------------------------------------------


def spoil(server: RedisServer, key: str) -> None:
    """Put there what is none of ours: of all types a set is one that no script of ours knows."""
    server.command("DEL", key)
    server.command("SADD", key, "foreign")
    server.command("EXPIRE", key, 60)


def places() -> list[Any]:
    """Return every way of holding with each of its keys."""
    return [pytest.param(way, key, id=f"{way.replace(' ', '-')}-{key}") for way in WAYS for key in keys(way)._fields]


@pytest.mark.parametrize(("way", "part"), places())
async def test_a_foreign_value_is_an_error_at_once_or_no_matter(
    world: World, flushed: RedisServer, way: str, part: str
):
    """It is never taken for ours, never overwritten, and no caller waits longer than it said."""
    foreign = getattr(keys(way), part)
    spoil(flushed, foreign)
    with FaultProxy(flushed.url) as proxy:
        taken = taker(world, way, world.io(proxy.url, timeout=20.0))
        refusal = ""
        try:
            lease = await world.ended(world.start(taken.acquire, timeout=10))
            await world.do(lease.release)
        except ServerError as error:
            refusal = error.code
        except LockTimeout:
            pytest.fail("a foreign value was taken for a holder")
        assert refusal in ("", "WRONGTYPE")
        # NOSCRIPT may repeat each script once; WRONGTYPE repeats nothing.
        assert len(proxy.requests("EVALSHA")) <= 8
    assert flushed.command("TYPE", foreign) == b"set"
    flushed.command("DEL", foreign)
    taken = taker(world, rival(way))
    lease = await world.ended(world.start(taken.acquire, timeout=30))
    lease.check()
    assert await world.do(lease.release) is True


@by_way
async def test_a_waiter_whose_keys_are_spoiled_is_told_and_nobody_waits_for_ever(
    world: World, flushed: RedisServer, way: str
):
    held = await world.do(taker(world, way).acquire)
    turn = world.start(taker(world, rival(way)).acquire, timeout=60)
    await soon(lambda: flushed.command("ZCARD", keys(way).queue) == 1)
    spoil(flushed, keys(way).queue)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await world.ended(turn)
    with pytest.raises(ServerError, match="WRONGTYPE"):
        await world.do(held.release)
    flushed.command("DEL", keys(way).queue)
    # A release that failed may be called again.
    assert await world.do(held.release) is True
    lease = await world.ended(world.start(taker(world, rival(way)).acquire, timeout=30))
    assert await world.do(lease.release) is True


@pytest.mark.parametrize("part", latch_keys(NAMESPACE, "job")._fields)
async def test_a_latch_with_a_foreign_value_says_so(world: World, flushed: RedisServer, part: str):
    latch = world.locks("Latch", world.io(), "job", 1)
    foreign = getattr(latch_keys(NAMESPACE, "job"), part)
    spoil(flushed, foreign)
    for call in (latch.count_down, lambda: latch.wait(timeout=0.3)):
        try:
            await world.ended(asyncio.ensure_future(_done(world, call)))
        except GridsyncError as error:
            assert "WRONGTYPE" in str(error) or "did not open" in str(error)  # noqa: PT017 - either is right
    assert flushed.command("TYPE", foreign) == b"set"


async def _done(world: World, call: Any) -> Any:
    if world.kind == "sync":
        return await asyncio.to_thread(call)
    return await call()


@pytest.mark.parametrize("part", barrier_keys(NAMESPACE, "job")._fields)
async def test_a_barrier_with_a_foreign_value_says_so(world: World, flushed: RedisServer, part: str):
    """Both parties end, and neither passes alone."""
    foreign = getattr(barrier_keys(NAMESPACE, "job"), part)
    spoil(flushed, foreign)
    parties = [world.start(world.locks("Barrier", world.io(), "job", 2).wait, timeout=0.5 + n) for n in range(2)]
    ends = await world.ended(asyncio.gather(*parties, return_exceptions=True))
    passed = [end for end in ends if not isinstance(end, GridsyncError)]
    assert passed in ([], [(0, 0), (0, 1)], [(0, 1), (0, 0)])
    assert flushed.command("TYPE", foreign) == b"set"


async def test_an_election_whose_watchers_are_spoiled_still_has_a_leader(world: World, flushed: RedisServer):
    spoil(flushed, watchers(NAMESPACE, "job"))
    lease = await world.ended(world.start(taker(world, "election").acquire))
    lease.check()
    assert await world.do(lease.release) is True
