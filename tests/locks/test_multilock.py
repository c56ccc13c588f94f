"""Several locks at once, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import lock as lock_keys
from gridsync.errors import LeaseLost, LockTimeout, OutcomeUnknown, Unavailable, UsageError
from gridsync.testing.proxy import FaultProxy
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World


def multi(world: World, *names: str) -> Any:  # noqa: ANN401 - either kind
    return world.locks("MultiLock", world.io(), *names)


def keys(name: str) -> Any:  # noqa: ANN401
    return lock_keys(NAMESPACE, name)


def held(server: RedisServer, *names: str) -> list[int]:
    return [server.command("EXISTS", keys(name).state) for name in names]


async def test_all_are_taken_or_none(world: World, flushed: RedisServer):
    lease = await world.do(multi(world, "b", "a", "c").acquire)
    assert sorted(lease.fences) == ["a", "b", "c"]
    assert all(lease.fences[name] == one.fence > 0 for name, one in lease.leases.items())
    lease.check()
    assert lease.expires_in() > 5
    await world.do(lease.extend)
    assert await world.do(multi(world, "c", "d").try_acquire) is None
    assert held(flushed, "a", "b", "c", "d") == [1, 1, 1, 0]
    assert await world.do(lease.release) is True
    assert await world.do(lease.release) is True
    assert held(flushed, "a", "b", "c") == [0, 0, 0]


async def test_they_are_the_locks_that_others_take_one_by_one(world: World, flushed: RedisServer):
    single = await world.do(world.lock(world.io(), "b").acquire)
    waiting = world.start(multi(world, "a", "b", "c").acquire, timeout=60)
    await soon(lambda: flushed.command("ZCARD", keys("b").queue) == 1)
    await world.do(single.release)
    lease = await world.ended(waiting)
    assert lease.fences["b"] > single.fence
    for name in "abc":
        assert await world.do(world.lock(world.io(), name).try_acquire) is None
    await world.do(lease.release)


async def test_two_that_name_the_same_locks_in_another_order_never_stop_each_other(world: World):
    async def often(*names: str) -> None:
        lock = multi(world, *names)
        for _ in range(15):
            lease = await world.do(lock.acquire, timeout=60)
            await world.do(lease.release)

    orders = (("a", "b", "c"), ("c", "a"), ("b", "c"), ("c", "b", "a"))
    await world.ended(asyncio.gather(*(often(*names) for names in orders)), 60)


async def test_a_timeout_leaves_nothing_held(world: World, flushed: RedisServer):
    single = await world.do(world.lock(world.io(), "b").acquire)
    with pytest.raises(LockTimeout, match="lock 'b' still held") as caught:
        await world.do(multi(world, "a", "b").acquire, timeout=0.05)
    assert "nothing is held of the 2 locks" in caught.value.__notes__[0]
    await soon(lambda: held(flushed, "a") == [0])
    with pytest.raises(LockTimeout, match="one of the locks 'a', 'b' is held"):
        await world.do(multi(world, "a", "b").acquire, timeout=0)
    assert held(flushed, "a") == [0]
    await world.do(single.release)


async def test_a_block_ends_all_of_them_and_tells_of_a_loss(world: World, flushed: RedisServer):
    lock = multi(world, "a", "b")
    if world.kind == "sync":

        def work() -> None:
            with lock as lease:
                lease.check()
                assert held(flushed, "a", "b") == [1, 1]
            with lock.acquire(timeout=5), pytest.raises(LockTimeout):
                lock.acquire(timeout=0)

        def lose() -> None:
            with lock as lease:
                flushed.command("DEL", keys("a").state)
                lease.extend()

        await world.do(work)
        with pytest.raises(LeaseLost):
            await world.do(lose)
    else:
        async with lock as lease:
            lease.check()
            assert held(flushed, "a", "b") == [1, 1]
        async with await lock.acquire(timeout=5):
            with pytest.raises(LockTimeout):
                await lock.acquire(timeout=0)

        async def alose() -> None:
            async with lock as lease:
                flushed.command("DEL", keys("a").state)
                await lease.extend()

        with pytest.raises(LeaseLost):
            await alose()
    assert held(flushed, "a", "b") == [0, 0]


async def test_names_must_be_different_and_some(world: World):
    for names in ((), ("a", "a"), tuple(map(str, range(101)))):
        with pytest.raises(UsageError, match="from 1 to 100 different names"):
            multi(world, *names)
    with pytest.raises(UsageError, match="a lock's name"):
        multi(world, "")
    assert repr(multi(world, "b", "a")).endswith("MultiLock 'a', 'b' ttl=10s>")
    assert multi(world, "b", "a").names == ("a", "b")


async def test_none_is_renewed_after_a_release_that_did_not_reach_the_server(world: World, flushed: RedisServer):
    """Else one failure would keep the others for as long as the program lives."""
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        lease = await world.do(world.locks("MultiLock", io, "a", "b", "c", ttl=2.0).acquire)
        io._timeout = 0.3
        await asyncio.to_thread(proxy.blackhole)
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await world.do(lease.release)
        assert [one.expires_in() for one in lease.leases.values()] == [0.0, 0.0, 0.0]
        await asyncio.to_thread(proxy.heal)
        await soon(lambda: held(flushed, "a", "b", "c") == [0, 0, 0])


async def test_none_is_renewed_after_a_wait_whose_locks_could_not_be_given_back(world: World, flushed: RedisServer):
    """Nobody has a handle to them, so nobody else could stop it."""
    first = await world.do(multi(world, "c").acquire)
    with FaultProxy(flushed.url) as proxy:
        io = world.io(proxy.url)
        turn = world.start(world.locks("MultiLock", io, "a", "b", "c", ttl=3.0).acquire, timeout=60)
        await soon(lambda: flushed.command("ZCARD", keys("c").queue) == 1)
        assert held(flushed, "a", "b") == [1, 1]
        io._timeout = 0.3
        await asyncio.to_thread(proxy.blackhole)
        with pytest.raises((Unavailable, OutcomeUnknown, LeaseLost)):
            await world.ended(turn)
        await asyncio.to_thread(proxy.heal)
        await soon(lambda: held(flushed, "a", "b") == [0, 0])
    await world.do(first.release)


async def test_what_was_lost_while_it_waited_for_the_last_one_is_not_handed_out(world: World, flushed: RedisServer):
    """Its caller would begin to work with two of three locks."""
    first = await world.do(multi(world, "c").acquire)
    io = world.io()
    turn = world.start(world.locks("MultiLock", io, "a", "b", "c", ttl=3.0).acquire, timeout=60)
    await soon(lambda: flushed.command("ZCARD", keys("c").queue) == 1)
    assert io.stats().leases_kept == 2
    flushed.command("DEL", keys("a").state)
    await soon(lambda: io.stats().leases_kept == 1)
    await world.do(first.release)
    with pytest.raises(LeaseLost, match="lock 'a'"):
        await world.ended(turn)
    await soon(lambda: held(flushed, "a", "b", "c") == [0, 0, 0])


async def test_a_block_that_cannot_begin_leaves_none_of_them_entered(world: World, flushed: RedisServer):
    """The loss of one that was entered would cancel a task that is in no block any more."""
    lease = await world.do(multi(world, "a", "b").acquire)
    flushed.command("DEL", keys("b").state)
    with pytest.raises(LeaseLost):
        await world.do(lease.extend)
    with pytest.raises(LeaseLost):
        await world.do(lease.__enter__ if world.kind == "sync" else lease.__aenter__)
    assert [one._hold.scopes for one in lease.leases.values()] == [(), ()]
    assert held(flushed, "a", "b") == [0, 0]
