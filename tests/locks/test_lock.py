"""What a user of a lock sees, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import threading
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, LockTimeout, UsageError
from gridsync.locks import AsyncLease, AsyncLock, Lock
from gridsync.locks._hold import Hold
from gridsync.testing.proxy import FaultProxy
from tests.locks.ways import renew_now
from tests.wire.fake import soon
from tests.wire.world import World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look


async def test_first_come_first_served(world: World, look: Look):
    """Five waiters, each of a process of its own, get the lock in the order in which they came."""
    held = await world.do(world.lock(world.io()).acquire)
    tasks, order = [], []
    for n in range(5):
        lock = world.lock(world.io())

        async def turn(n: int = n, lock: Any = lock) -> None:  # noqa: ANN401 - either kind
            lease = await world.do(lock.acquire, timeout=60)
            order.append((n, lease.fence))
            await world.do(lease.release)

        tasks.append(asyncio.create_task(turn()))
        await soon(lambda n=n: len(look.waiters()) == n + 1)
    await world.do(held.release)
    await world.ended(asyncio.gather(*tasks), 60)
    assert [n for n, _ in order] == list(range(5))
    fences = [held.fence, *(fence for _, fence in order)]
    assert fences == sorted(set(fences))
    assert look.free()


async def test_the_timeout_says_what_was_waited_for_and_leaves_the_queue(world: World, look: Look):
    held = await world.do(world.lock(world.io()).acquire)
    with pytest.raises(LockTimeout, match=r"lock 'job' still held after \d+\.\d s \(its lease ends in .* s, 0 waiters"):
        await world.do(world.lock(world.io()).acquire, timeout=0.1)
    assert look.waiters() == []
    with pytest.raises(LockTimeout) as raised:
        await world.do(world.lock(world.io()).acquire, timeout=0)
    assert (raised.value.name, raised.value.waited_s) == ("job", 0.0)
    assert isinstance(raised.value, TimeoutError)
    assert await world.do(world.lock(world.io()).try_acquire) is None
    assert look.owner() == held.owner
    await world.do(held.release)
    assert look.free()


async def test_a_lock_is_handed_over_without_anybody_between(world: World, look: Look):
    """A newcomer cannot take the lock in the moment between release and wake-up."""
    io = world.io()
    held = await world.do(world.lock(io).acquire)
    waiting = world.start(world.lock(world.io()).acquire, timeout=60)
    await soon(look.waiters)
    (heir,) = look.waiters()
    await world.do(held.release)
    assert look.owner() == heir
    assert await world.do(world.lock(io).try_acquire) is None
    lease = await world.ended(waiting)
    assert lease.owner == heir
    await world.do(lease.release)


async def test_a_waiter_that_died_is_skipped(world: World, look: Look):
    """Its process is gone without a word, and its connections with it: the one behind it is handed the lock at once."""
    held = await world.do(world.lock(world.io()).acquire)
    with FaultProxy(world.url) as proxy:
        dead_io = world.io(proxy.url, timeout=2.0)
        dying = world.start(world.lock(dead_io).acquire, timeout=60)
        await soon(look.waiters)
        behind = world.start(world.lock(world.io()).acquire, timeout=60)
        await soon(lambda: len(look.waiters()) == 2)
        gone, heir = look.waiters()
        await asyncio.to_thread(proxy.refuse)
        await asyncio.to_thread(proxy.cut)
        await soon(lambda: not look.hears(gone))
        await world.do(held.release)
        assert look.owner() == heir
        lease = await world.ended(behind, 60)
        lease.check()
        with pytest.raises(Exception):  # noqa: B017, PT011 - any: it has no server any more
            await world.ended(dying, 60)
        await world.do(lease.release)
    await soon(look.free)


async def test_a_holder_that_goes_silent_loses_it_to_the_next_one(world: World, look: Look):
    with FaultProxy(world.url) as proxy:
        silent = await world.do(world.lock(world.io(proxy.url), ttl=0.5).acquire)
        waiting = world.start(world.lock(world.io()).acquire, timeout=60)
        await soon(look.waiters)
        proxy.blackhole()
        lease = await world.ended(waiting)
        assert silent.lost.is_set() or silent.expires_in() == 0, "it knows before the next one begins"
        with pytest.raises(LeaseLost):
            silent.check()
        assert lease.fence > silent.fence
        proxy.heal()
        assert await world.do(silent.release) is False
        assert look.owner() == lease.owner, "a late release takes nothing away from the new holder"
        await world.do(lease.release)


async def test_a_lease_tells_how_long_it_runs(world: World, flushed: RedisServer, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=20).acquire)
    (state,) = [key for key in flushed.command("KEYS", "*") if flushed.command("TYPE", key) == b"hash"]
    assert 0 < lease.expires_in() < flushed.command("PTTL", state) / 1000
    lease.check()
    flushed.command("PEXPIRE", state, 2000)
    await world.do(lease.extend)
    assert flushed.command("PTTL", state) > 15_000
    await world.do(lease.release)
    assert lease.expires_in() == 0
    with pytest.raises(LeaseLost, match="was released already, or its grid was closed"):
        lease.check()
    assert not lease.lost.is_set(), "a release is no loss"
    assert look.free()


async def test_an_extension_of_a_lost_lease_says_so(world: World, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=20).acquire)
    look.take_away()
    with pytest.raises(LeaseLost) as raised:
        await world.do(lease.extend)
    assert (raised.value.name, raised.value.fence) == ("job", lease.fence)
    assert lease.lost.is_set()
    assert await world.do(lease.release) is False


async def test_releasing_twice_is_safe(world: World, look: Look):
    lock = world.lock(world.io())
    first = await world.do(lock.acquire)
    assert [await world.do(first.release) for _ in range(2)] == [True, True]
    second = await world.do(lock.acquire)
    assert await world.do(first.release) is True
    assert look.owner() == second.owner, "a lease can only release itself"
    await world.do(second.release)


async def test_one_lock_object_serves_many_at_once(world: World, look: Look):
    """Lock objects hold no state: threads and tasks cannot release each other's."""
    lock = world.lock(world.io())
    inside = 0
    fences: list[int] = []

    async def work() -> None:
        nonlocal inside
        for _ in range(5):
            lease = await world.do(lock.acquire, timeout=60)
            inside += 1
            assert inside == 1
            fences.append(lease.fence)
            await asyncio.sleep(0)
            inside -= 1
            await world.do(lease.release)

    await world.ended(asyncio.gather(*(work() for _ in range(8))), 60)
    assert fences == sorted(set(fences))
    assert len(fences) == 40
    assert look.free()


async def test_the_fence_rises_across_a_flush(world: World, flushed: RedisServer):
    """A resource that remembers the highest fence must not see it fall because a key was lost."""
    fences = []
    for _ in range(5):
        lease = await world.do(world.lock(world.io()).acquire)
        fences.append(lease.fence)
        await world.do(lease.release)
        flushed.command("FLUSHALL")
    assert fences == sorted(set(fences))


async def test_a_lost_lease_is_told_once_and_to_everybody(world: World, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=3.0).acquire)
    told: list[str] = []
    lease.lost.on_set(lambda: told.append("early"))
    look.take_away()
    await soon(lease.lost.is_set)
    lease.lost.on_set(lambda: told.append("late"))
    assert told == ["early", "late"]
    assert "lost: it ended on the server" in repr(lease)


@contextlib.asynccontextmanager
async def block_of(lock: Any) -> AsyncIterator[Any]:  # noqa: ANN401 - either kind
    """A ``with`` or ``async with`` block; a sync one runs in the loop's thread, so its body must be short."""
    if isinstance(lock, AsyncLock | AsyncLease):
        async with lock as lease:
            yield lease
    else:
        with lock as lease:
            yield lease


async def test_a_block_holds_the_lock_and_gives_it_back(world: World, look: Look):
    async with block_of(world.lock(world.io())) as lease:
        assert look.owner() == lease.owner
    assert look.free()


async def test_a_block_whose_lease_was_lost_says_so_at_its_end(world: World, look: Look):
    """Work that went on without the lock must not end as if all had been well."""
    with pytest.raises(LeaseLost, match="lock 'job'"):
        async with block_of(world.lock(world.io())):
            look.take_away()


async def test_a_loss_never_hides_what_the_block_raised(world: World, look: Look):
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with block_of(world.lock(world.io())):
            look.take_away()
            raise ZeroDivisionError


async def test_a_server_that_is_away_never_hides_what_the_block_raised(world: World, flushed: RedisServer):
    """The release at the end of the block is not answered; the body's own exception matters more."""
    try:
        with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
            io = world.io()
            async with block_of(world.lock(io)):
                io._timeout = 0.3
                flushed.pause()
                raise ZeroDivisionError
    finally:
        flushed.resume()


async def test_a_block_over_a_lease_ends_it(world: World, look: Look):
    """``with lock.acquire(timeout=2):`` is how one waits for a while only."""
    lock = world.lock(world.io())
    lease = await world.do(lock.acquire, timeout=2)
    async with block_of(lease) as same:
        assert same is lease
        assert look.owner() == lease.owner
    assert look.free()
    lost = await world.do(lock.acquire, timeout=2)
    with pytest.raises(LeaseLost):
        async with block_of(lost):
            look.take_away()


async def test_blocks_of_one_lock_object_end_their_own_lease(world: World, look: Look):
    """The first block's lease was lost, and the second one began: the end of the first must not end the second."""
    lock = world.lock(world.io())
    first = block_of(lock)
    await first.__aenter__()
    look.take_away()
    second = await world.do(world.lock(world.io()).acquire)
    with pytest.raises(LeaseLost):
        await first.__aexit__(None, None, None)
    assert look.owner() == second.owner
    await world.do(second.release)


@pytest.mark.parametrize("ttl", [0, -1, 0.001, float("nan"), float("inf"), "10", None, True])
@pytest.mark.parametrize("kind", [Lock, AsyncLock])
def test_a_bad_ttl_is_refused_before_anything_is_sent(kind: Callable[..., Any], ttl: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="the ttl of lock 'job' must be"):
        kind(None, "test", "job", ttl=ttl)


@pytest.mark.parametrize("name", ["", "x" * 600, 7])
def test_a_bad_name_is_refused(name: Any):  # noqa: ANN401 - anything
    with pytest.raises(UsageError, match="a lock's name must be a string of 1 to 512 bytes"):
        Lock(None, "test", name)  # type: ignore[arg-type]


def test_a_name_that_is_no_text_is_refused():
    with pytest.raises(UsageError, match="a lock's name must be valid Unicode"):
        Lock(None, "test", "a\ud800")  # type: ignore[arg-type]


async def test_a_bad_timeout_is_refused(world: World, look: Look):
    with pytest.raises(UsageError, match="the timeout for lock 'job' must be from 0 to"):
        await world.do(world.lock(world.io()).acquire, timeout=-1)
    assert look.free()


async def test_durations_may_be_timedeltas(world: World):
    lock = world.lock(world.io(), ttl=timedelta(minutes=1))  # type: ignore[arg-type]
    assert lock.ttl == 60
    lease = await world.do(lock.acquire, timeout=timedelta(seconds=5))
    assert lease.expires_in() > 50
    await world.do(lease.release)


async def test_a_lease_is_renewed_for_much_longer_than_its_ttl(world: World, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=20).acquire)
    for _ in range(5):
        look.age(10_000)
        while look.left_ms() < 15_000:  # a renewal may have been on its way already
            await soon(renew_now(lease))
    lease.check()
    assert look.owner() == lease.owner
    assert lease.expires_in() <= 20
    await world.do(lease.release)


async def test_uncontended_cycles_cost_two_commands(world: World, flushed: RedisServer):
    io = world.io()
    lock = world.lock(io)
    await world.do((await world.do(lock.acquire)).release)
    with FaultProxy(flushed.url) as proxy:
        lock = world.lock(world.io(proxy.url))
        await world.do((await world.do(lock.acquire)).release)
        assert [words[0] for words in proxy.requests() if words[0] != b"HELLO"] == [b"EVALSHA"] * 2
        await world.close()


async def test_a_lease_that_two_threads_release_at_once_was_released(look: Look, flushed: RedisServer):
    """Neither is told that it was lost, whosever request the server sees first."""
    world = World("sync", flushed.url)
    lease = await world.do(world.lock(world.io()).acquire)
    let_go, asked, second = lease._hold.let_go, asyncio.Event(), threading.Event()
    loop, calls = asyncio.get_running_loop(), itertools.count()

    async def overtaken(_hold: object, timeout: float | None = None) -> int:
        if next(calls) == 0:
            loop.call_soon_threadsafe(asked.set)
            second.wait(20)
        code: int = await let_go(timeout)
        second.set()
        return code

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Hold, "let_go", overtaken)
        first = world.start(lease.release)
        await asked.wait()
        assert await world.do(lease.release) is True
        assert await world.ended(first) is True
    assert not lease.lost.is_set()
    assert look.free()
    await world.close()


async def test_a_hundred_waiters_all_get_their_turn(world: World, look: Look):
    if world.kind == "sync":
        count, io = 30, world.io()
    else:
        count, io = 100, world.io()
    lock = world.lock(io)
    done: list[int] = []

    async def turn(n: int) -> None:
        lease = await world.do(lock.acquire, timeout=60)
        done.append(n)
        await world.do(lease.release)

    await world.ended(asyncio.gather(*(turn(n) for n in range(count))), 60)
    assert sorted(done) == list(range(count))
    assert look.free()


async def test_a_server_without_memory_lets_go_and_renews(world: World, look: Look, flushed: RedisServer):
    """Every lease would be lost and every release refused when ``maxmemory`` is reached, though both need none."""
    lease = await world.do(world.lock(world.io()).acquire)
    flushed.command("CONFIG", "SET", "maxmemory", 1)
    try:
        await world.do(lease.extend)
        assert await world.do(lease.release) is True
    finally:
        flushed.command("CONFIG", "SET", "maxmemory", 0)
    assert look.free()
