"""What broke in other libraries, each as a claim about this one; the docstring says where it was seen.

What only a reader-writer lock or a semaphore can get wrong has its tests there, but for the one at the end.
"""

# ruff: noqa: PT012 - a block is what is tested

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io import load
from gridsync._io.keys import lock as lock_keys
from gridsync.errors import LeaseLost, LockTimeout, UsageError
from gridsync.locks import AsyncLock, AsyncRWLock, Lock, RWLock
from gridsync.testing.proxy import Break, FaultProxy
from tests.locks.conftest import KEYS
from tests.locks.redlocks import KEYS as REDLOCK_KEYS
from tests.locks.redlocks import owners
from tests.locks.ways import renew_now
from tests.sim import lock_scenarios, redlock_scenarios
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE, NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.locks.redlocks import Maker

SEEDS = range(6)


def make(world: World, io: Any = None, **options: Any) -> Any:  # noqa: ANN401 - either kind
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    return kind(io or world.io(), NAMESPACE, "job", **options)


@pytest.fixture
async def proxy(flushed: RedisServer) -> AsyncIterator[FaultProxy]:
    with FaultProxy(flushed.url) as made:
        yield made


# -- lost replies and cancellation --------------------------------------------------------------------------------


async def test_b1_a_lost_reply_to_acquire_is_no_refusal(world: World, proxy: FaultProxy, look: Look):
    """redis-py 8.1: the repeated SET NX meets its own key and says "not acquired"; nobody holds it, for ever."""
    io = world.io(proxy.url)
    await world.do((await world.do(make(world, io).acquire)).release)  # the script is known by now
    rule = proxy.on(Break.REPLY, load("gridsync.locks", "acquire").sha)
    lease = await world.do(make(world, io).acquire, timeout=0)
    assert rule.hits == 1
    assert look.owner() == lease.owner
    assert await world.do(lease.release) is True
    await world.close()


@pytest.mark.parametrize("seed", range(12))
def test_b2_a_cancelled_acquire_leaves_no_lock_behind(seed: int):
    """redis-py's asyncio lock: held by nobody, for ever by default; py-redis-semaphore: at 2 of 40 awaits."""
    lock_scenarios.cancelled(seed)


async def test_b3_a_cancelled_release_frees_the_lock_all_the_same(flushed: RedisServer, look: Look):
    """redis-py before 2026: the token was cleared first, and nobody could release any more."""
    world = World("asyncio", flushed.url)
    lease = await make(world).acquire()
    flushed.pause()
    releasing = asyncio.create_task(lease.release())
    await asyncio.sleep(0)
    releasing.cancel()
    flushed.resume()
    with contextlib.suppress(asyncio.CancelledError):
        await releasing
    await soon(look.free)
    assert await lease.release() is True
    await world.close()


async def test_b20_a_release_whose_reply_was_lost_says_that_it_released(world: World, proxy: FaultProxy, look: Look):
    """Redisson, again and again: "attempt to unlock lock, not locked by current thread"."""
    lease = await world.do(make(world, world.io(proxy.url)).acquire)
    await world.do((await world.do(world.lock(world.io(), "other").acquire)).release)  # the script is known by now
    rule = proxy.on(Break.REPLY, load("gridsync.locks", "release").sha)
    assert await world.do(lease.release) is True
    assert rule.hits == 1
    assert look.free()
    await world.close()


# -- whose lock it is -----------------------------------------------------------------------------------------------


async def test_b4_one_object_shared_by_tasks_releases_nobody_elses_lock(world: World, look: Look):
    """redis-py's asyncio lock: the token lies in the shared object, and task A releases the lock of task B."""
    shared = make(world)
    mine = await world.do(shared.acquire)
    assert await world.do(shared.try_acquire) is None
    with pytest.raises(LockTimeout):
        await world.do(shared.acquire, timeout=0.05)
    assert look.owner() == mine.owner
    mine.check()
    assert await world.do(mine.release) is True


async def test_b5_a_late_release_takes_nothing_from_the_next_holder(world: World, look: Look):
    """Old libraries: DEL without a look at the owner; redbeat: PEXPIRE of another's key."""
    late = await world.do(make(world).acquire)
    look.take_away()
    next_one = await world.do(make(world).acquire)
    assert await world.do(late.release) is False
    with pytest.raises(LeaseLost):
        await world.do(late.extend)
    assert look.owner() == next_one.owner
    await world.do(next_one.release)


async def test_b6_a_waiter_whose_replicas_are_missing_deletes_nobodys_lock(world: World, look: Look):
    """Coredis on a cluster: WAIT whatever SET said, and DEL of the other's key when WAIT fails."""
    held = await world.do(make(world).acquire)
    assert await world.do(make(world, min_replicas=1).try_acquire) is None
    assert look.owner() == held.owner
    await world.do(held.release)


async def test_b7_nothing_renews_or_revives_a_lease_that_is_gone(world: World, look: Look):
    """Aioredlock and redsync: an extension sets the key again if it is absent."""
    lease = await world.do(make(world, ttl=3.0).acquire)
    look.take_away()
    await soon(lease.lost.is_set)
    with pytest.raises(LeaseLost):
        await world.do(lease.extend)
    assert look.owner() is None


async def test_b10_a_failed_second_attempt_costs_nobody_the_lock(world: World, look: Look):
    """pottery: acquire() returns False and overwrites the token; then release() raises and the key stays."""
    lock = make(world)
    lease = await world.do(lock.acquire)
    assert await world.do(lock.try_acquire) is None
    assert await world.do(lease.release) is True
    assert look.free()


async def test_b24_a_process_does_not_take_its_old_lease_for_its_new_one(world: World, look: Look):
    """Curator: after a new session a leader took its old node for its own, and there were two."""
    lock = make(world, ttl=3.0)
    old = await world.do(lock.acquire)
    look.take_away()
    await soon(old.lost.is_set)
    new = await world.do(lock.acquire)
    assert new.owner != old.owner
    assert new.fence > old.fence
    with pytest.raises(LeaseLost):
        old.check()
    assert await world.do(old.release) is False
    new.check()
    await world.do(new.release)


async def test_b25_holding_a_lock_is_no_matter_of_a_connection(world: World, flushed: RedisServer):
    """portalocker: the subscription is the lock; a silent reconnect makes two holders."""
    lease = await world.do(make(world).acquire)
    await soon(lambda: lease._hold._heard)
    for kind in ("pubsub", "normal"):
        flushed.command("CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes")
    assert await world.do(make(world).try_acquire) is None
    await world.do(lease.extend)
    assert await world.do(lease.release) is True


async def test_b27_a_block_begins_with_the_lock_or_not_at_all(world: World):
    """redlock-ng: `with` hands out a lock that is not held, and the body runs unless it looks."""
    held = await world.do(make(world).acquire)
    with pytest.raises(LockTimeout):
        await world.do(make(world).acquire, timeout=0)
    held._hold.lose("in the meantime")
    with pytest.raises(LeaseLost):
        if world.kind == "sync":
            with held:
                pytest.fail("the body ran")
        else:
            async with held:
                pytest.fail("the body ran")


# -- waiting ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS)
def test_b9_a_waiter_that_dies_with_the_wake_up_in_its_hands_stops_nobody(seed: int):
    """python-redis-lock: the signal is consumed by the dead, and the next waiter hangs for ever on a free lock."""
    lock_scenarios.dead_waiters(seed)


async def test_b18_a_lock_that_is_freed_before_the_timeout_is_taken(world: World, look: Look):
    """redis-py: with less patience than its poll takes, it gives up at once although the lock is freed 20 ms later."""
    held = await world.do(make(world).acquire)
    waiting = world.start(make(world).acquire, timeout=30)
    await soon(look.waiters)
    await world.do(held.release)
    lease = await world.ended(waiting)
    await world.do(lease.release)


async def test_b23_who_waited_for_longer_than_a_ttl_gets_a_whole_lease(world: World, look: Look):
    """etcd: a lock was granted to a session that had ended while it waited."""
    held = await world.do(make(world, ttl=60).acquire)
    waiting = world.start(make(world, ttl=2.0).acquire, timeout=60)
    await soon(look.waiters)
    until = time.monotonic() + 2.2
    await soon(lambda: time.monotonic() > until)
    await world.do(held.release)
    lease = await world.ended(waiting)
    lease.check()
    await world.do(lease.extend)
    assert look.owner() == lease.owner
    await world.do(lease.release)


async def test_b28_a_release_between_the_refusal_and_the_waiting_is_noticed(
    world: World, look: Look, monkeypatch: pytest.MonkeyPatch
):
    """python-redis-lock: its signal expires after a second, and who was paused just then hangs."""
    held = await world.do(make(world).acquire)
    io = world.io()
    ears = io.ear

    def slow_ear(token: str, channel: str) -> Any:  # noqa: ANN401 - an ear of either kind
        # The lock is freed just before this waiter begins to listen: nobody tells it.
        assert not look.waiters()
        look.take_away()
        return ears(token, channel)

    monkeypatch.setattr(io, "ear", slow_ear)
    lease = await world.ended(world.start(make(world, io).acquire, timeout=60))
    assert lease.fence > held.fence
    await world.do(lease.release)


async def test_b16_thousands_of_dead_waiters_are_dropped(world: World, look: Look, flushed: RedisServer):
    """Redisson: ZREM with unpack() of some eight thousand expired entries overflows Lua's stack."""
    with flushed.client() as client, client.pipeline() as pipeline:
        for n in range(9_000):
            pipeline.zadd(KEYS.queue, {f"dead{n:08}x": n + 1})
            pipeline.hset(KEYS.alive, f"dead{n:08}x", "1 ")
        pipeline.pexpire(KEYS.queue, 60_000)
        pipeline.pexpire(KEYS.alive, 60_000)
        pipeline.execute()
    lease = await world.do(make(world).acquire, timeout=30)
    await world.do(lease.release)
    assert look.free()


# -- renewal and loss -------------------------------------------------------------------------------------------------


async def test_b8_renewal_survives_a_broken_connection_and_tells_of_a_loss(world: World, proxy: FaultProxy):
    """python-redis-lock: one ConnectionError ends the thread and nobody is told; aioredlock swallows it."""
    lease = await world.do(make(world, world.io(proxy.url), ttl=3.0).acquire)
    rule = proxy.on(Break.REQUEST, load("gridsync.locks", "renew").sha, times=2)
    await soon(lambda: rule.hits == 2)
    await soon(renew_now(lease))
    lease.check()
    await asyncio.to_thread(proxy.refuse)
    await asyncio.to_thread(proxy.cut)
    await soon(lease.lost.is_set)
    with pytest.raises(LeaseLost, match="it was not renewed in time"):
        lease.check()
    await world.close()


async def test_b14_the_wall_clock_of_a_client_decides_nothing(
    world: World, look: Look, monkeypatch: pytest.MonkeyPatch
):
    """redlock-py, Redisson's fair lock: a clock that is set makes a lease valid for years, or over at once."""
    for away in (1e6, -1e6):
        now = time.time() + away
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda now=now: now)
            lease = await world.do(make(world).acquire)
            assert 5 < lease.expires_in() < 10
            await world.do(lease.extend)
            lease.check()
            assert await world.do(lease.release) is True
    assert look.free()


async def test_b29_after_a_suspend_the_lease_counts_as_over_before_anybody_is_asked(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """A clock that stands still while the machine sleeps: the holder wakes up and believes."""
    lease = await world.do(make(world, ttl=60).acquire)
    clock = lease._io.monotonic
    monkeypatch.setattr(lease._io, "monotonic", lambda: clock() + 60)
    assert lease.expires_in() == 0
    with pytest.raises(LeaseLost, match="it was not renewed in time"):
        lease.check()


async def test_b29_a_blocked_event_loop_loses_no_lease(flushed: RedisServer, look: Look):
    """A renewal in the loop that it should protect starves with it."""
    world = World("asyncio", flushed.url)
    lease = await make(world, ttl=3.0).acquire()
    eventually(renew_now(lease))  # nothing else runs in this loop
    lease.check()
    assert look.owner() == lease.owner
    await lease.release()
    await world.close()


# -- the server's side ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [None, 0, -1])
def test_b17_a_lock_without_an_end_is_refused(ttl: Any):  # noqa: ANN401
    """sherlock: no expiry was written as EXPIRE key -1, which deletes the lock at once; redis-py: 0 is for ever."""
    with pytest.raises(UsageError, match="the ttl of lock 'job' must be"):
        Lock(NOWHERE, NAMESPACE, "job", ttl=ttl)


async def test_b19_scripts_that_a_server_forgot_are_loaded_again(world: World, look: Look, flushed: RedisServer):
    """Redisson, redis-py on a cluster: NOSCRIPT after a failover, or from a new shard."""
    lock = make(world, ttl=3.0)
    flushed.command("SCRIPT", "FLUSH")
    lease = await world.do(lock.acquire)
    flushed.command("SCRIPT", "FLUSH")
    await soon(renew_now(lease))
    lease.check()
    flushed.command("SCRIPT", "FLUSH")
    await world.do(lease.extend)
    flushed.command("SCRIPT", "FLUSH")
    assert await world.do(lease.release) is True
    assert look.free()


async def test_b21_no_fence_is_given_twice_though_the_server_lost_its_keys(world: World, flushed: RedisServer):
    """Redisson and others count with INCR: after a failover or a flush two holders have the same number."""
    fences = []
    for _ in range(4):
        fences.append((await world.do(make(world).acquire)).fence)
        flushed.command("FLUSHALL")
    assert fences == sorted(set(fences))


async def test_b22_the_fence_stays_when_a_lock_is_entered_again_or_renewed(world: World):
    """Redisson: every entry has another token, so that a resource refuses the outer block after the inner one."""
    io = world.io()
    outer = await world.do(make(world, io, reentrant=True).acquire)
    await world.do(outer.extend)
    fence = outer.fence
    if world.kind == "asyncio":
        inner = await make(world, io, reentrant=True).acquire(timeout=0)
        assert inner.fence == fence
        await inner.release()
    assert outer.fence == fence
    await world.do(outer.release)


def test_b26_nothing_asks_for_all_keys(flushed: RedisServer):
    """python-redis-lock: KEYS lock:* stops a server with millions of keys for seconds."""
    from gridsync.cli.locks import info, ls, take_away  # noqa: PLC0415 - the commands load a client

    flushed.command("CONFIG", "RESETSTAT")
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        lease = grid.lock("job").acquire()
        where: Any = {"url": flushed.url, "namespace": NAMESPACE, "as_json": True}
        assert ls(most=10, seconds=10, **where) == 0
        assert info("job", kind="lock", waiters=10, **where) == 0
        assert take_away("job", kind="lock", reason="test", owner=lease.owner, **where) == 0
    used = flushed.command("INFO", "commandstats")
    assert "cmdstat_scan" in used
    assert "cmdstat_keys" not in used


# -- several masters ------------------------------------------------------------------------------------------------


async def test_b11_votes_whose_replies_were_lost_are_votes(make_redlock: Maker, masters: list[RedisServer]):
    """node-redlock: a retry meets its own value, says "exists" and blocks itself."""
    with FaultProxy(masters[0].url) as first, FaultProxy(masters[1].url) as second:
        side = await make_redlock([first.url, second.url, masters[2]])
        await side.do((await side.do(side.lock().acquire)).release)  # every script is loaded
        rules = [each.on(Break.REPLY, load("gridsync.locks", "acquire").sha) for each in (first, second)]
        lease = await side.do(side.lock().try_acquire)
        assert lease is not None
        assert [rule.hits for rule in rules] == [1, 1]
        assert await side.do(lease.release) is True
        assert owners(masters[:3]) == [None] * 3


async def test_b11_what_a_minority_granted_is_given_back_before_the_next_round(
    make_redlock: Maker, masters: list[RedisServer]
):
    """node-redlock: the votes of a failed round stay, and keep everybody else from a majority."""
    side = await make_redlock(masters[:3])
    state = lock_keys("gridsync", "job", "redlock").state
    for server in masters[:2]:
        server.command("HSET", state, "o", "somebody")
        server.command("PEXPIRE", state, 60_000)
    assert await side.do(side.lock().try_acquire) is None
    assert owners(masters[:3]) == [b"somebody", b"somebody", None]


async def test_b11_a_lock_that_ended_while_it_was_taken_is_not_handed_out(
    make_redlock: Maker, masters: list[RedisServer]
):
    """node-redlock (PR 369): the votes came so late that the first of them had ended."""
    side = await make_redlock(masters[:3], master_timeout=10.0)
    await side.do((await side.do(side.lock().acquire)).release)
    for server in masters[:2]:
        server.pause()
    began = time.monotonic()
    trying = asyncio.create_task(side.do(side.lock(ttl=0.3).try_acquire))
    await soon(lambda: time.monotonic() > began + 0.6)
    for server in masters[:2]:
        server.resume()
    assert await asyncio.wait_for(trying, 30) is None
    await soon(lambda: owners(masters[:3]) == [None] * 3)


async def test_b12_a_request_that_a_release_overtook_is_refused(make_redlock: Maker, masters: list[RedisServer]):
    """Pottery: the release goes on another connection while the SET is still on its way; the key stays for a ttl."""
    with FaultProxy(masters[0].url) as proxy:
        side = await make_redlock([proxy.url, *masters[1:3]])
        await side.do((await side.do(side.lock().acquire)).release)
        acquire = load("gridsync.locks", "acquire").sha
        proxy.on(Break.REQUEST, acquire, times=1000)
        lease = await side.do(side.lock(ttl=60).acquire, timeout=30)
        assert await side.do(lease.release) is True
        late = [words for words in proxy.requests("EVALSHA") if words[1] == acquire.encode()][-1]
        assert masters[0].command(*late)[0] == 0
        assert owners(masters[:3]) == [None] * 3


@pytest.mark.parametrize("seed", SEEDS)
def test_b12_no_request_that_comes_late_holds_anything(seed: int):
    redlock_scenarios.late_requests(seed)
    redlock_scenarios.late_renewals(seed)


async def test_b12_a_release_that_a_later_round_overtook_takes_nothing(make_redlock: Maker, masters: list[RedisServer]):
    """It was sent when votes were split; with it the holder lost a vote, and a rival had a majority beside it."""
    with FaultProxy(masters[0].url) as proxy:
        side = await make_redlock([proxy.url, *masters[1:3]])
        for server in masters[1:3]:
            server.command("HSET", REDLOCK_KEYS.state, "o", "somebody")
            server.command("PEXPIRE", REDLOCK_KEYS.state, 300)
        lease = await side.do(side.lock(ttl=60).acquire, timeout=30)
        release = load("gridsync.locks", "release").sha.encode()
        late = [words for words in proxy.requests("EVALSHA") if words[1] == release]
        assert late, "no round failed"
        for words in late:
            masters[0].command(*words)
        assert owners(masters[:1]) == [lease.owner.encode()]
        assert await side.do(lease.release) is True


@pytest.mark.parametrize("what", ["semaphore", "rwlock"])
async def test_b13_permits_on_several_masters_are_refused(make_redlock: Maker, masters: list[RedisServer], what: str):
    """swarthy, redlock4j: three users that have three of five masters each all see room."""
    side = await make_redlock(masters[:3])
    with pytest.raises(UsageError, match=rf"there is no {what} on a Redlock: it would not hold"):
        getattr(side.redlock, what)("slots", 5)


# -- shared ---------------------------------------------------------------------------------------------------------


async def test_b15_a_dead_reader_is_forgotten_while_others_renew(world: World):
    """DistributedLock's read lock has one ttl for all readers: one that lives keeps the dead one in."""
    kind: Callable[..., Any] = RWLock if world.kind == "sync" else AsyncRWLock

    def rwlock() -> Any:  # noqa: ANN401 - either kind
        return kind(world.io(), NAMESPACE, "rw", ttl=2.0)

    dead = await world.do(rwlock().read.acquire)
    dead._io.unkeep(dead._hold)
    living = await world.do(rwlock().read.acquire)
    until = time.monotonic() + 2.5
    await soon(lambda: time.monotonic() > until)
    living.check()
    assert await world.do(living.release) is True
    writer = await world.do(rwlock().write.acquire, timeout=0)
    await world.do(writer.release)
