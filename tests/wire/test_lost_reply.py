"""For every script: its reply is lost, its request is lost, its reply is cut in two; the effect happens once.

A script without a scenario here fails `test_every_script_has_a_scenario`.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Awaitable, Callable
from contextlib import aclosing, closing
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

import gridsync
from gridsync._io import load, run_sync
from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import cache as cache_key
from gridsync._io.keys import channel as channel_keys
from gridsync._io.keys import events as event_keys
from gridsync._io.keys import latch as latch_keys
from gridsync._io.keys import limiter_here
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import share as share_keys
from gridsync.cache import AsyncCache, Cache, Space
from gridsync.errors import ServerError, WaitTimeout
from gridsync.fanout import AsyncChannel, Channel
from gridsync.limits import GCRA, ApproxWindow, AsyncLimiter, Concurrency, FixedWindow, Limiter
from gridsync.limits import _look as limits_look
from gridsync.locks import AsyncOncePer, OncePer, Stamp
from gridsync.locks._masters import Master, Masters
from gridsync.streams import DEAD, AsyncDelivery, Check, Delivery, Park, Retry, Write
from gridsync.streams._pages import RANGE
from gridsync.streams._portable import restored
from gridsync.testing.proxy import Break, FaultProxy, Rule
from gridsync.testing.servers import RedisServer
from tests.streams.conftest import until
from tests.wire.fake import eventually, soon
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.limits import Rule


KEYS = lock_keys(NAMESPACE, "job")
LOG = event_keys(NAMESPACE, "orders").log
CHANNEL = channel_keys(NAMESPACE, "n")
MINE = Stamp(5, "me")


class Placed(BaseModel):
    """An event."""

    kwh: int


@dataclass
class Stage:
    """Where a scenario plays: a driver behind the proxy, one beside it, and the fault to come."""

    world: World
    proxy: FaultProxy
    server: RedisServer
    broken: Any
    whole: Any
    fault: Break
    script: str

    def arm(self) -> Rule:
        """Break the next call of the script."""
        sha = load_named(self.script).sha
        # A reply that says NOSCRIPT would be lost instead of the one that matters.
        self.server.command("SCRIPT", "LOAD", load_named(self.script).source)
        return self.proxy.on(self.fault, lambda words: words[0] == b"EVALSHA" and words[1] == sha.encode())

    def renewed(self, condition: Callable[[], Any]) -> Callable[[], Any]:
        """Return *condition* for `soon`: each look makes the watchdog renew now, and not in a third of a lease."""

        def look() -> Any:  # noqa: ANN401 - whatever the condition is
            if not (met := condition()):
                keeper, now = self.broken._keeper, self.broken.monotonic()
                for item in list(keeper._items.values()):
                    item.due = now
                    if hasattr(item, "renew_at"):
                        item.renew_at = now
                    keeper.keep(item)
            return met

        return look


Scenario = Callable[[Stage], Awaitable[None]]
SCENARIOS: dict[str, list[Scenario]] = {}


def scenario(script: str) -> Callable[[Scenario], Scenario]:
    """Register a scenario; it must make the armed fault happen and assert that the effect happened once."""

    def register(play: Scenario) -> Scenario:
        SCENARIOS.setdefault(script, []).append(play)
        return play

    return register


def load_named(script: str) -> Any:  # noqa: ANN401 - a Script
    wing, _, name = script.partition(".")
    return load(f"gridsync.{wing}", name)


def all_scripts() -> list[str]:
    root = Path(gridsync.__file__).parent
    return sorted(f"{path.parts[-3]}.{path.stem}" for path in root.glob("*/lua/*.lua"))


# -- cache -------------------------------------------------------------------------------------------------------

CACHED = cache_key(NAMESPACE, "n", "k")


def cache_of(stage: Stage, io: Any) -> Any:  # noqa: ANN401 - either kind
    kind = Cache if stage.world.kind == "sync" else AsyncCache
    return kind(io, NAMESPACE, Space("n", int, stale_for=60))


def loads(stage: Stage, count: list[int], *, fail: bool = False) -> Callable[[], Any]:
    """Return a loader of either kind."""

    def load_now() -> int:
        count[0] += 1
        return 7 // (0 if fail else 1)

    async def load_soon() -> int:
        return load_now()

    return load_now if stage.world.kind == "sync" else load_soon


@scenario("cache.fetch")
@scenario("cache.put")
@scenario("cache.versions")
async def a_value_is_loaded_and_stored_once(stage: Stage) -> None:
    cache, count = cache_of(stage, stage.broken), [0]
    rule = stage.arm()
    for _ in range(2):
        assert await stage.world.do(cache.get_or_load, "k", loads(stage, count), tags=["t"]) == 7
    assert rule.hits
    assert count == [1]
    await soon(lambda: stage.server.command("EXISTS", f"{CACHED}:load") == 0)


@scenario("cache.read")
async def a_value_that_may_be_stale_is_read(stage: Stage) -> None:
    cache = cache_of(stage, stage.broken)
    await stage.world.do(cache.set, "k", 8)
    stage.arm()
    assert await stage.world.do(cache.get, "k") == 8
    assert cache.stats().hits == 1


@scenario("cache.yield")
async def a_load_that_failed_is_left_to_others_at_once(stage: Stage) -> None:
    cache, count = cache_of(stage, stage.broken), [0]
    rule = stage.arm()
    with pytest.raises(ZeroDivisionError):
        await stage.world.do(cache.get_or_load, "k", loads(stage, count, fail=True))
    await soon(lambda: rule.hits and stage.server.command("EXISTS", f"{CACHED}:load") == 0)
    assert await stage.world.do(cache.get_or_load, "k", loads(stage, count)) == 7


@scenario("cache.hold")
async def a_slow_load_keeps_its_lease(stage: Stage) -> None:
    cache, go = cache_of(stage, stage.broken), threading.Event()
    if stage.world.kind == "sync":

        def slow() -> int:
            assert go.wait(60)
            return 7
    else:

        async def slow() -> int:  # type: ignore[misc]
            assert await asyncio.to_thread(go.wait, 60)
            return 7

    rule = stage.arm()
    caller = stage.world.start(cache.get_or_load, "k", slow)
    await soon(stage.renewed(lambda: rule.hits))
    stage.server.command("PEXPIRE", f"{CACHED}:load", 3000)
    await soon(stage.renewed(lambda: stage.server.command("PTTL", f"{CACHED}:load") > 3000))
    go.set()
    assert await stage.world.ended(caller) == 7
    assert stage.server.command("EXISTS", CACHED) == 1


@scenario("cache.set")
async def a_value_is_set(stage: Stage) -> None:
    cache = cache_of(stage, stage.broken)
    stage.arm()
    assert await stage.world.do(cache.set, "k", 8) is True
    assert await stage.world.do(cache.get, "k") == 8


@scenario("cache.drop")
async def a_value_is_deleted(stage: Stage) -> None:
    cache = cache_of(stage, stage.broken)
    await stage.world.do(cache.set, "k", 8)
    stage.arm()
    await stage.world.do(cache.delete, "k")
    assert stage.server.command("EXISTS", CACHED) == 0


@scenario("cache.invalidate")
async def a_tag_is_invalidated(stage: Stage) -> None:
    cache = cache_of(stage, stage.broken)
    await stage.world.do(cache.set, "k", 8, tags=["t"])
    stage.arm()
    await stage.world.do(cache.invalidate, "t")
    assert await stage.world.do(cache.get, "k") is None


# -- fanout ------------------------------------------------------------------------------------------------------


def channel_of(stage: Stage, io: Any) -> Any:  # noqa: ANN401 - either kind
    return (Channel if stage.world.kind == "sync" else AsyncChannel)(io, NAMESPACE, "n")


def opened(stage: Stage, subscription: Any) -> Any:  # noqa: ANN401 - either kind
    return subscription.__enter__ if stage.world.kind == "sync" else subscription.__aenter__


@scenario("fanout.publish")
async def a_publication_is_made_once(stage: Stage) -> None:
    channel = channel_of(stage, stage.broken)
    rule = stage.arm()
    first = await stage.world.do(channel.publish, "7")
    assert rule.hits
    assert first.offset == 1
    assert first.mark
    assert (await stage.world.do(channel.publish, "8")).offset == 2


@scenario("fanout.look")
async def a_subscriber_comes_back_where_it_was(stage: Stage) -> None:
    channel = channel_of(stage, stage.broken)
    first = await stage.world.do(channel.publish, "7")
    await stage.world.do(channel.publish, "8")
    subscription = channel.subscribe(after=first)
    rule = stage.arm()
    await stage.world.do(opened(stage, subscription))
    assert rule.hits
    assert subscription.recovered
    assert (await stage.world.do(subscription.next, 30)).data == b"8"
    await stage.world.do(subscription.close)


@scenario("fanout.here")
@scenario("fanout.gone")
async def a_member_comes_and_goes(stage: Stage) -> None:
    channel = channel_of(stage, stage.broken)
    subscription = channel.subscribe(member="ann")
    rule = stage.arm()
    await stage.world.do(opened(stage, subscription))
    assert [member.name for member in await stage.world.do(channel.presence)] == ["ann"]
    await stage.world.do(subscription.close)
    await soon(lambda: rule.hits and not stage.server.command("ZCARD", CHANNEL.here))


@scenario("fanout.present")
async def members_are_counted(stage: Stage) -> None:
    channel = channel_of(stage, stage.broken)
    subscription = channel.subscribe(member="ann")
    await stage.world.do(opened(stage, subscription))
    rule = stage.arm()
    assert await stage.world.do(channel.count) == 1
    assert rule.hits
    await stage.world.do(subscription.close)


# -- market ------------------------------------------------------------------------------------------------------


async def events_of(stage: Stage, book: Any) -> list[str]:  # noqa: ANN401 - either kind
    return [recorded.type for recorded in await stage.world.all(book.events.read(book.stream))]


@scenario("market.place")
async def an_order_trades_once(stage: Stage) -> None:
    book, place = stage.world.book(stage.broken), stage.world.do
    await place(book.place, "s1", "sell", 5, "1.00")
    stage.arm()
    placed = await place(book.place, "b1", "buy", 7, "1.00")
    assert (placed.status, placed.filled, placed.left, len(placed.trades)) == ("open", 5, 2, 1)
    assert await events_of(stage, book) == ["orderbook.rested", "orderbook.traded", "orderbook.rested"]


@scenario("market.replace")
async def an_order_is_replaced_once(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00")
    stage.arm()
    placed = await stage.world.do(book.replace, "s1", "s2", 4, "1.01")
    assert (placed.status, placed.left, placed.sequence) == ("open", 4, 3)
    assert await events_of(stage, book) == ["orderbook.rested", "orderbook.removed", "orderbook.rested"]


@scenario("market.cancel")
async def an_order_is_cancelled_once_and_says_so(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00")
    stage.arm()
    cancelled = await stage.world.do(book.cancel, "s1")
    assert (cancelled.cancelled, cancelled.left) == (True, 5)
    assert await events_of(stage, book) == ["orderbook.rested", "orderbook.removed"]


@scenario("market.tend")
async def what_has_expired_is_taken_out_once(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00", expires_in=0.001)
    stage.arm()
    await soon_expired(stage, book)
    assert await events_of(stage, book) == ["orderbook.rested", "orderbook.removed"]


async def soon_expired(stage: Stage, book: Any) -> None:  # noqa: ANN401 - either kind
    async with asyncio.timeout(60):
        while await stage.world.do(book.tend) < 2:  # noqa: ASYNC110 - the condition is a look at the server
            await asyncio.sleep(0.01)


@scenario("market.depth")
@scenario("market.page")
async def a_book_is_read(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00")
    stage.arm()
    verified = await stage.world.do(book.verify)
    assert (verified.ok, verified.orders) == (True, 1)


@scenario("market.restore")
async def a_lost_book_is_made_anew(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00")
    stage.server.command("DEL", *stage.server.command("KEYS", "*:orderbook:DE:*"))
    stage.arm()
    verified = await stage.world.do(book.restore)
    assert (verified.ok, verified.orders) == (True, 1)


@scenario("market.look")
async def an_order_is_looked_at(stage: Stage) -> None:
    book = stage.world.book(stage.broken)
    await stage.world.do(book.place, "s1", "sell", 5, "1.00")
    stage.arm()
    assert (await stage.world.do(book.order, "s1")).left == 5


# -- locks -------------------------------------------------------------------------------------------------------


@scenario("locks.acquire")
async def a_free_lock_is_taken_once(stage: Stage) -> None:
    rule = stage.arm()
    lease = await stage.world.do(stage.world.lock(stage.broken).acquire, timeout=10)
    assert rule.hits
    lease.check()
    assert stage.server.command("HGET", KEYS.state, "o") == lease.owner.encode()
    assert int(stage.server.command("GET", KEYS.fence)) == lease.fence, "the repeat must not draw another fence"
    assert await stage.world.do(lease.release) is True
    assert stage.server.command("EXISTS", KEYS.state, KEYS.queue, KEYS.alive) == 0


async def used_before(stage: Stage) -> Any:  # noqa: ANN401 - either kind
    """Return a lock that was used twice, so that its calls are packed beforehand."""
    lock = stage.world.lock(stage.broken)
    for _ in range(2):
        assert await stage.world.do((await stage.world.do(lock.acquire)).release) is True
    return lock


@scenario("locks.acquire")
async def a_lock_that_was_used_before_is_taken_once(stage: Stage) -> None:
    lock = await used_before(stage)
    rule = stage.arm()
    lease = await stage.world.do(lock.acquire, timeout=10)
    assert rule.hits
    assert int(stage.server.command("GET", KEYS.fence)) == lease.fence
    assert await stage.world.do(lease.release) is True


@scenario("locks.release")
async def a_lock_that_was_used_before_is_released_once_and_says_so(stage: Stage) -> None:
    lease = await stage.world.do((await used_before(stage)).acquire)
    stage.arm()
    assert await stage.world.do(lease.release) is True
    assert stage.server.command("EXISTS", KEYS.state) == 0


@scenario("locks.acquire")
async def a_waiter_joins_the_queue_once_and_is_handed_the_lock(stage: Stage) -> None:
    world = stage.world
    held = await world.do(world.lock(stage.whole).acquire)
    rule = stage.arm()
    waiting = world.start(world.lock(stage.broken).acquire, timeout=60)
    await soon(lambda: rule.hits and stage.server.command("ZCARD", KEYS.queue) == 1)
    assert await world.do(held.release) is True
    lease = await world.ended(waiting)
    assert lease.fence > held.fence
    assert stage.server.command("ZCARD", KEYS.queue) == 0
    assert await world.do(lease.release) is True


@scenario("locks.acquire")
async def a_try_that_found_the_lock_held_leaves_nothing(stage: Stage) -> None:
    world = stage.world
    held = await world.do(world.lock(stage.whole).acquire)
    stage.arm()
    assert await world.do(world.lock(stage.broken).try_acquire) is None
    assert stage.server.command("EXISTS", KEYS.queue) == 0
    assert await world.do(held.release) is True


@scenario("locks.release")
async def a_lock_is_released_once_and_says_so(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.broken).acquire)
    stage.arm()
    assert await world.do(lease.release) is True
    assert stage.server.command("EXISTS", KEYS.state) == 0


@scenario("locks.release")
async def a_release_hands_over_once_and_the_repeat_takes_nothing_away(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.broken).acquire)
    waiting = world.start(world.lock(stage.whole).acquire, timeout=60)
    await soon(lambda: stage.server.command("ZCARD", KEYS.queue) == 1)
    stage.arm()
    assert await world.do(lease.release) is True
    heir = await world.ended(waiting)
    heir.check()
    assert stage.server.command("HGET", KEYS.state, "o") == heir.owner.encode()
    assert int(stage.server.command("GET", KEYS.fence)) == heir.fence
    assert await world.do(heir.release) is True


@scenario("locks.renew")
async def an_extension_holds(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.broken, ttl=60).acquire)
    stage.server.command("PEXPIRE", KEYS.state, 20_000)
    stage.arm()
    await world.do(lease.extend)
    assert stage.server.command("PTTL", KEYS.state) > 20_000
    assert await world.do(lease.release) is True


@scenario("locks.renew")
async def the_watchdog_keeps_the_lease(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.broken, ttl=3.0).acquire)
    rule = stage.arm()
    await soon(stage.renewed(lambda: rule.hits))
    seen = len(stage.proxy.requests(load_named("locks.renew").sha))
    await soon(stage.renewed(lambda: len(stage.proxy.requests(load_named("locks.renew").sha)) > seen + 1))
    lease.check()
    assert await world.do(lease.release) is True


@scenario("locks.fenced")
async def a_fenced_write_is_applied_once(stage: Stage) -> None:
    world = stage.world
    gate = world.locks("FenceGate", stage.broken, "wallet")
    await world.do(gate.write, MINE, ("INCRBY", "wallet", 1))
    stage.arm()
    await world.do(gate.write, MINE, ("INCRBY", "wallet", 10), ("EXPIRE", "wallet", 60))
    assert stage.server.command("GET", "wallet") == b"11"


@scenario("locks.fenced")
async def a_fenced_write_that_failed_fails_once(stage: Stage) -> None:
    world = stage.world
    gate = world.locks("FenceGate", stage.broken, "wallet")
    await world.do(gate.set, MINE, "text", ttl=60)
    stage.arm()
    with pytest.raises(ServerError, match="not an integer"):
        await world.do(gate.write, MINE, ("APPEND", "wallet", "s"), ("INCR", "wallet"))
    assert stage.server.command("GET", "wallet") == b"texts"


@scenario("locks.acquire_all")
async def several_locks_are_taken_once(stage: Stage) -> None:
    world = stage.world
    stage.arm()
    lease = await world.do(world.locks("MultiLock", stage.broken, "a", "b").acquire)
    for name, fence in lease.fences.items():
        assert int(stage.server.command("GET", lock_keys(NAMESPACE, name).fence)) == fence
    assert await world.do(lease.release) is True


SLOTS = share_keys(NAMESPACE, "semaphore", "slots")


@scenario("locks.share")
async def permits_are_taken_once(stage: Stage) -> None:
    world = stage.world
    stage.arm()
    lease = await world.do(world.locks("Semaphore", stage.broken, "slots", 5, permits=2).acquire)
    assert stage.server.command("HGET", SLOTS.state, "u") == b"2"
    assert stage.server.command("ZCARD", SLOTS.held) == 1
    assert int(stage.server.command("GET", SLOTS.fence)) == lease.fence
    assert await world.do(lease.release) is True


@scenario("locks.unshare")
async def permits_are_given_back_once_and_handed_on(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.locks("Semaphore", stage.broken, "slots", 2, permits=2).acquire)
    waiting = [world.start(world.locks("Semaphore", stage.whole, "slots", 2).acquire, timeout=60) for _ in range(3)]
    await soon(lambda: stage.server.command("ZCARD", SLOTS.queue) == 3)
    stage.arm()
    assert await world.do(lease.release) is True
    done, late = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
    await soon(lambda: sum(task.done() for task in waiting) == 2)
    assert stage.server.command("HGET", SLOTS.state, "u") == b"2"
    for task in [task for task in (*done, *late) if task.done()]:
        await world.do(task.result().release)
    for task in waiting:
        await world.do((await world.ended(task)).release)


@scenario("locks.unshare")
async def a_writer_is_downgraded_once(stage: Stage) -> None:
    world = stage.world
    book = world.locks("RWLock", stage.broken, "book")
    lease = await world.do(book.write.acquire)
    stage.arm()
    await world.do(book.downgrade, lease)
    assert stage.server.command("HGET", share_keys(NAMESPACE, "rwlock", "book").state, "u") == b"1"
    assert await world.do(lease.release) is True


@scenario("locks.renew_share")
async def an_extension_of_permits_holds(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.locks("Semaphore", stage.broken, "slots", 2, ttl=60).acquire)
    until = stage.server.command("ZSCORE", SLOTS.held, lease.owner)
    stage.arm()
    await world.do(lease.extend)
    assert float(stage.server.command("ZSCORE", SLOTS.held, lease.owner)) > float(until)
    assert await world.do(lease.release) is True


async def _lead_once(stage: Stage) -> None:
    world = stage.world
    election = world.locks("Election", stage.broken, "boss", value="me")
    stage.arm()
    if world.kind == "sync":

        def lead() -> None:
            with closing(election.lead()) as leading, next(leading) as term:
                term.check()

        await asyncio.to_thread(lead)
    else:
        async with aclosing(election.lead()) as leading, await anext(leading) as term:
            term.check()


scenario("locks.proclaim")(_lead_once)


@scenario("locks.look_at_leader")
async def whoever_asks_learns_who_leads(stage: Stage) -> None:
    stage.arm()
    assert await stage.world.do(stage.world.locks("Election", stage.broken, "boss").leader) is None


QUORUM = lock_keys(NAMESPACE, "job", "redlock")
SURE = {"appendonly": "yes", "appendfsync": "always"}
"""A server that was just started may vote at once if it forgets nothing."""


@contextlib.contextmanager
def quorum(stage: Stage) -> Iterator[Any]:
    """Yield a lock on three masters, of which one is behind the proxy."""
    with RedisServer(options=SURE) as second, RedisServer(options=SURE) as third:
        ios = [stage.broken, stage.world.io(second.url), stage.world.io(third.url)]
        each = [Master(io, f"master {index}") for index, io in enumerate(ios)]
        masters = Masters(each, ttl_max_s=60.0, timeout_s=5.0)
        stage.server.command("CONFIG", "SET", "appendonly", "yes", "appendfsync", "always")
        yield stage.world.locks("QuorumLock", masters, "job", ttl=6)
        stage.server.command("CONFIG", "SET", "appendonly", "no")


@scenario("locks.confirm")
async def a_fence_is_written_down_once(stage: Stage) -> None:
    world = stage.world
    with quorum(stage) as lock:
        before = await world.do(lock.acquire)
        await world.do(before.release)
        stage.arm()
        lease = await world.do(lock.acquire)
        assert lease.fence > before.fence
        assert int(stage.server.command("GET", QUORUM.fence)) == lease.fence
        assert stage.server.command("HMGET", QUORUM.state, "o", "t") == [lease.owner.encode(), b"%d" % lease.fence]
        assert await world.do(lease.release) is True
        assert stage.server.command("EXISTS", QUORUM.state) == 0


@scenario("locks.uphold")
async def an_extension_by_a_majority_holds(stage: Stage) -> None:
    world = stage.world
    with quorum(stage) as lock:
        lease = await world.do(lock.acquire)
        stage.server.command("PEXPIRE", QUORUM.state, 3000)
        stage.arm()
        await world.do(lease.extend)
        assert stage.server.command("PTTL", QUORUM.state) > 3000
        assert await world.do(lease.release) is True
        assert stage.server.command("EXISTS", QUORUM.state) == 0


@scenario("locks.uphold")
async def a_vote_that_was_lost_is_given_again_once(stage: Stage) -> None:
    world = stage.world
    with quorum(stage) as lock:
        lease = await world.do(lock.acquire)
        stage.server.command("DEL", QUORUM.state, QUORUM.fence)
        rule = stage.arm()
        await soon(stage.renewed(lambda: rule.hits))
        await soon(stage.renewed(lambda: stage.server.command("HGET", QUORUM.state, "o") == lease.owner.encode()))
        assert int(stage.server.command("GET", QUORUM.fence)) == lease.fence
        lease.check()
        assert await world.do(lease.release) is True
        assert stage.server.command("EXISTS", QUORUM.state) == 0


@scenario("locks.count_down")
async def a_latch_is_counted_down_once(stage: Stage) -> None:
    world = stage.world
    latch = world.locks("Latch", stage.broken, "ready", 5)
    assert await world.do(latch.count_down) == 4
    stage.arm()
    assert await world.do(latch.count_down, 2) == 2
    assert await world.do(latch.remaining) == 2


@scenario("locks.look_at_latch")
async def a_waiter_of_a_latch_waits_on_and_is_woken(stage: Stage) -> None:
    world = stage.world
    rule = stage.arm()
    waiting = world.start(world.locks("Latch", stage.broken, "ready", 1).wait, timeout=60)
    await soon(lambda: rule.hits and stage.server.command("ZCARD", latch_keys(NAMESPACE, "ready").alive) == 1)
    assert await world.do(world.locks("Latch", stage.whole, "ready", 1).count_down) == 0
    await world.ended(waiting)


@scenario("locks.arrive")
async def a_party_comes_to_the_barrier_once(stage: Stage) -> None:
    world = stage.world
    rule = stage.arm()
    first = world.start(world.locks("Barrier", stage.broken, "round", 2).wait, timeout=60)
    await soon(lambda: rule.hits and stage.server.command("ZCARD", barrier_keys(NAMESPACE, "round").here) == 1)
    last = await world.do(world.locks("Barrier", stage.whole, "round", 2).wait)
    assert sorted([last, await world.ended(first)]) == [(0, 0), (0, 1)]


@scenario("locks.arrive")
async def the_last_party_opens_the_barrier_once(stage: Stage) -> None:
    world = stage.world
    first = world.start(world.locks("Barrier", stage.whole, "round", 2).wait, timeout=60)
    await soon(lambda: stage.server.command("ZCARD", barrier_keys(NAMESPACE, "round").here) == 1)
    stage.arm()
    last = world.locks("Barrier", stage.broken, "round", 2)
    passages = [await world.do(last.wait), await world.ended(first)]
    assert sorted(passages) == [(0, 0), (0, 1)]
    assert await world.do(last.waiting) == 0


@scenario("locks.step_back")
async def a_party_steps_back_once(stage: Stage) -> None:
    world = stage.world
    barrier = world.locks("Barrier", stage.broken, "round", 2)
    stage.arm()
    with pytest.raises(WaitTimeout):
        await world.do(barrier.wait, timeout=0)
    assert await world.do(barrier.waiting) == 0


@scenario("locks.break_barrier")
async def a_barrier_is_reset_once(stage: Stage) -> None:
    world = stage.world
    barrier = world.locks("Barrier", stage.broken, "round", 2)
    stage.arm()
    await world.do(barrier.reset)
    assert stage.server.command("HGET", barrier_keys(NAMESPACE, "round").state, "g") == b"1"


@scenario("locks.info")
async def a_look_tells_the_same_again(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.whole).acquire)
    stage.arm()
    info = await world.do(world.lock(stage.broken).info)
    assert (info.holder.owner, info.holder.fence, info.waiting) == (lease.owner, lease.fence, 0)
    assert await world.do(lease.release) is True


@scenario("locks.revoke")
async def a_lock_is_taken_away_once_and_not_from_the_next_one(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.lock(stage.whole, ttl=60).acquire)
    waiting = world.start(world.lock(stage.whole, ttl=60).acquire, timeout=60)
    await soon(lambda: stage.server.command("ZCARD", KEYS.queue) == 1)
    stage.arm()
    fence = await world.do(world.lock(stage.broken).force_release, "enough")
    heir = await world.ended(waiting)
    heir.check()
    assert lease.fence < fence < heir.fence
    await soon(lease.lost.is_set)
    assert await world.do(heir.release) is True


@scenario("locks.info_share")
async def a_look_at_permits_tells_the_same_again(stage: Stage) -> None:
    world = stage.world
    lease = await world.do(world.locks("Semaphore", stage.whole, "slots", 5, permits=2).acquire)
    stage.arm()
    info = await world.do(world.locks("Semaphore", stage.broken, "slots", 5).info)
    assert [(one.owner, one.fence, one.permits) for one in info.holders] == [(lease.owner, lease.fence, 2)]
    assert (info.limit, info.taken, info.waiting) == (5, 2, 0)
    assert await world.do(lease.release) is True


@scenario("locks.revoke_share")
async def permits_are_taken_away_once_and_not_from_the_next_one(stage: Stage) -> None:
    world = stage.world

    def slots(io: Any) -> Any:  # noqa: ANN401 - either kind
        return world.locks("Semaphore", io, "slots", 1, ttl=60)

    lease = await world.do(slots(stage.whole).acquire)
    waiting = world.start(slots(stage.whole).acquire, timeout=60)
    await soon(lambda: stage.server.command("ZCARD", SLOTS.queue) == 1)
    stage.arm()
    fence = await world.do(slots(stage.broken).force_release, "enough", owner=lease.owner)
    heir = await world.ended(waiting)
    heir.check()
    assert lease.fence < fence < heir.fence
    await soon(lease.lost.is_set)
    assert await world.do(heir.release) is True


@scenario("locks.once")
async def a_period_is_taken_once_and_its_runner_knows(stage: Stage) -> None:
    world = stage.world
    kind = OncePer if world.kind == "sync" else AsyncOncePer
    stage.arm()
    assert await world.do(kind(stage.broken, NAMESPACE, "close", 3600).claim) is not None
    assert await world.do(kind(stage.whole, NAMESPACE, "close", 3600).claim) is None


# -- limits ------------------------------------------------------------------------------------------------------


async def _hit(stage: Stage, *limits: str | Rule) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, *limits)
    before = await world.do(limiter.hit, "ada", cost=3)
    stage.arm()
    decision = await world.do(limiter.hit, "ada", cost=2)
    assert decision.allowed
    assert decision.remaining == before.remaining - 2
    assert (await world.do(limiter.peek, "ada")).remaining == before.remaining - 2, "counted once"


@scenario("limits.hit_one")
async def a_hit_on_one_window_counts_once(stage: Stage) -> None:
    await _hit(stage, "10/minute")


@scenario("limits.hit")
async def a_hit_on_several_windows_counts_once(stage: Stage) -> None:
    await _hit(stage, "10/minute", "100/hour")


@scenario("limits.hit_one")
async def a_hit_that_shares_an_entry_counts_once(stage: Stage) -> None:
    await _hit(stage, "1000/minute")


@scenario("limits.hit")
async def a_hit_that_shares_an_entry_counts_once_in_several_windows(stage: Stage) -> None:
    await _hit(stage, "1000/minute", "20000/hour")


@scenario("limits.refund")
async def a_hit_that_shares_an_entry_is_given_back_once(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "1000/minute")
    hits = [await world.do(limiter.hit, "ada", cost=cost) for cost in (2, 3, 5)]
    stage.arm()
    assert await world.do(limiter.refund, hits[1].ticket) is True
    assert (await world.do(limiter.peek, "ada")).remaining == 993


@scenario("limits.hit")
async def a_reservation_has_one_place(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "1/minute")
    await world.do(limiter.hit, "ada")
    stage.arm()
    first = await world.do(limiter.reserve, "ada", max_wait=600)
    second = await world.do(limiter.reserve, "ada", max_wait=600)
    assert first
    assert 0 < first.delay <= 60 < second.delay <= 120, "no place is taken twice"


@scenario("limits.refund")
async def a_hit_is_given_back_once(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "10/minute")
    decision = await world.do(limiter.hit, "ada", cost=3)
    await world.do(limiter.hit, "ada", cost=2)
    stage.arm()
    assert await world.do(limiter.refund, decision.ticket) is True
    assert (await world.do(limiter.peek, "ada")).remaining == 8
    assert await world.do(limiter.refund, decision.ticket) is False


@scenario("limits.peek")
async def a_peek_counts_nothing(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "10/minute", "100/hour")
    await world.do(limiter.hit, "ada")
    stage.arm()
    assert (await world.do(limiter.peek, "ada")).remaining == 9
    assert (await world.do(limiter.peek, "ada")).remaining == 9


@scenario("limits.beat")
async def a_process_is_counted_once(stage: Stage) -> None:
    limiter = (Limiter if stage.world.kind == "sync" else AsyncLimiter)(
        stage.broken, NAMESPACE, "calls", "10/minute", on_error="local", share="auto"
    )
    rule = stage.arm()
    await stage.world.do(limiter.hit, "ada")
    counted = limiter_here(NAMESPACE, "calls")
    await soon(stage.renewed(lambda: rule.hits and stage.server.command("ZCARD", counted) == 1))


@scenario("limits.lease")
async def a_batch_is_leased_once(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "100/minute")
    permits = limiter.leased("ada")
    await world.do(permits.hit)
    stage.arm()
    assert (await world.do(permits.hit, 2)).source == "lease"
    granted = permits._leasing._lease.granted
    assert (await world.do(limiter.peek, "ada")).remaining == 99 - granted, "counted once"
    await world.do(permits.close)
    assert (await world.do(limiter.peek, "ada")).remaining == 97


@scenario("limits.give_back")
async def a_batch_is_given_back_once(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, "100/minute")
    permits = limiter.leased("ada")
    for _ in range(3):
        await world.do(permits.hit)
    await world.do(limiter.hit, "ada", 10)
    stage.arm()
    await world.do(permits.close)
    assert (await world.do(limiter.peek, "ada")).remaining == 87


@scenario("limits.look")
async def a_look_at_a_log_changes_nothing(stage: Stage) -> None:
    world = stage.world
    await world.do(world.limiter(stage.broken, "10/minute").hit, "ada", 3)
    stage.arm()

    async def look() -> Any:  # noqa: ANN401 - a Usage
        return await limits_look.look(stage.broken, NAMESPACE, "calls", "ada", 60_000_000)

    used = await look() if world.kind == "asyncio" else await asyncio.to_thread(lambda: run_sync(look()))
    assert (used.used, used.ahead, used.entries) == (3, 0, 1)


@scenario("limits.look_kind")
async def a_look_at_slots_changes_nothing(stage: Stage) -> None:
    world = stage.world
    await world.do(world.limiter(stage.broken, SLOTS_OF_TEN).hit, "ada", 3)
    stage.arm()

    async def look() -> Any:  # noqa: ANN401 - a Kept
        return await limits_look.look_kind(stage.broken, NAMESPACE, "calls", "ada", 60_000_000, kind="slots")

    kept = await look() if world.kind == "asyncio" else await asyncio.to_thread(lambda: run_sync(look()))
    assert (kept.used, kept.more) == (3, False)
    assert 3500 < kept.over_in <= 3600


BUCKET, SLOTS_OF_TEN = GCRA(10, per_s=3600, burst=10), Concurrency(10, ttl_s=3600)


@scenario("limits.gcra_hit")
async def a_hit_on_a_bucket_counts_once(stage: Stage) -> None:
    await _hit(stage, BUCKET)


@scenario("limits.gcra_hit")
async def a_reservation_of_a_bucket_has_one_place(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, GCRA(60, per_s=3600, burst=1))
    await world.do(limiter.hit, "ada")
    stage.arm()
    first = await world.do(limiter.reserve, "ada", max_wait=600)
    second = await world.do(limiter.reserve, "ada", max_wait=600)
    assert 0 < first.delay <= 60 < second.delay <= 120, "no place is taken twice"


@scenario("limits.counter_hit")
async def a_hit_on_a_counter_counts_once(stage: Stage) -> None:
    await _hit(stage, FixedWindow(10, per_s=60))


@scenario("limits.counter_hit")
async def a_hit_on_two_counters_counts_once(stage: Stage) -> None:
    await _hit(stage, ApproxWindow(10, per_s=3600))


@scenario("limits.slot_hit")
async def slots_are_taken_once(stage: Stage) -> None:
    await _hit(stage, SLOTS_OF_TEN)


@scenario("limits.slot_hit")
async def a_block_takes_its_slot_once_and_gives_it_back(stage: Stage) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, Concurrency(1, ttl_s=3600))
    stage.arm()
    if world.kind == "sync":
        with limiter.slot("ada"):
            assert not limiter.peek("ada")
    else:
        async with limiter.slot("ada"):
            assert not await limiter.peek("ada")
    assert await world.do(limiter.peek, "ada")


async def _give_back(stage: Stage, rule: Rule) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, rule)
    decision = await world.do(limiter.hit, "ada", cost=3)
    await world.do(limiter.hit, "ada", cost=2)
    stage.arm()
    assert await world.do(limiter.refund, decision.ticket) is True
    assert (await world.do(limiter.peek, "ada")).remaining == 8
    assert await world.do(limiter.refund, decision.ticket) is False


@scenario("limits.gcra_refund")
async def a_hit_on_a_bucket_is_given_back_once(stage: Stage) -> None:
    await _give_back(stage, BUCKET)


@scenario("limits.counter_refund")
async def a_hit_on_a_counter_is_given_back_once(stage: Stage) -> None:
    await _give_back(stage, FixedWindow(10, per_s=3600))


@scenario("limits.slot_refund")
async def slots_are_given_back_once(stage: Stage) -> None:
    await _give_back(stage, SLOTS_OF_TEN)


async def _peek(stage: Stage, rule: Rule) -> None:
    world = stage.world
    limiter = world.limiter(stage.broken, rule)
    await world.do(limiter.hit, "ada")
    stage.arm()
    assert (await world.do(limiter.peek, "ada")).remaining == 9
    assert (await world.do(limiter.peek, "ada")).remaining == 9


@scenario("limits.gcra_peek")
async def a_look_at_a_bucket_counts_nothing(stage: Stage) -> None:
    await _peek(stage, BUCKET)


@scenario("limits.counter_peek")
async def a_look_at_a_counter_counts_nothing(stage: Stage) -> None:
    await _peek(stage, FixedWindow(10, per_s=3600))


@scenario("limits.slot_peek")
async def a_look_at_slots_takes_none(stage: Stage) -> None:
    await _peek(stage, SLOTS_OF_TEN)


@scenario("limits.check")
async def limiters_that_are_asked_together_count_once(stage: Stage) -> None:
    world = stage.world
    one, two = world.named(stage.broken, "one", "10/minute"), world.named(stage.broken, "two", BUCKET)
    stage.arm()
    answer = await world.do(world.limits(stage.broken).check, [(one, "ada", 2), (two, "ada", 3)])
    assert answer
    assert [(await world.do(limiter.peek, "ada")).remaining for limiter in (one, two)] == [8, 7], "counted once"


# -- streams -----------------------------------------------------------------------------------------------------


@scenario("streams.append")
async def events_are_appended_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", Placed(kwh=1))
    stage.arm()
    await world.do(store.append, "a", [Placed(kwh=2), Placed(kwh=3)], expected_version=1)
    assert [e.event.kwh for e in await world.all(store.read("a"))] == [1, 2, 3]
    assert [e.position for e in await world.all(store.read_all())] == [1, 2, 3]


@scenario("streams.open")
async def the_number_of_partitions_is_noted_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed, partitions=3)
    stage.arm()
    await world.do(store.append, "a", Placed(kwh=1))
    await world.do(store.append, "a", Placed(kwh=2), expected_version=1)
    with stage.server.client() as client:
        noted = client.hmget(event_keys(NAMESPACE, "orders").meta, "pos", "partitions", "by")
    assert noted == [b"in 3 partitions", b"3", b"stream"]


@scenario("streams.commit")
async def several_streams_are_appended_to_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", Placed(kwh=1))
    stage.arm()
    parts = [Write("a", Placed(kwh=2), 1), Write("b", [Placed(kwh=3), Placed(kwh=4)]), Check("c", 0)]
    await world.do(store.commit, parts)
    assert [e.event.kwh for e in await world.all(store.read_all())] == [1, 2, 3, 4]
    assert [e.position for e in await world.all(store.read("b"))] == [3, 4]


@scenario("streams.snapshot")
async def a_snapshot_is_kept(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    totals = store.aggregate(0.0, lambda total, event: total + event.kwh, snapshot_every=2)
    rule = stage.arm()
    for kwh in (1, 2):
        await world.do(totals.execute, "a", lambda _, kwh=kwh: Placed(kwh=kwh))
    assert rule.hits
    assert (await world.do(totals.load, "a")).state == 3
    with stage.server.client() as client:
        assert client.hmget(event_keys(NAMESPACE, "orders").snapshot("float", "a"), "v", "d") == [b"2", b"3.0"]


@scenario("streams.project")
async def events_count_once_in_a_view(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    totals = store.projection("totals")
    rule = stage.arm()
    done = await world.do(totals.run, lambda changes, event: changes.add("kwh", int(event.event.kwh)), once=True)
    assert rule.hits
    assert done.events == 3
    assert await world.do(totals.get, "kwh") == "6"


@scenario("streams.resolve")
async def a_log_of_links_is_read_and_consumed_whole(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed, log="link")
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    rule = stage.arm()
    seen: list[int] = []
    consuming = world.start(store.group("matcher").consume, lambda event: seen.append(event.event.kwh), idle_stop=0)
    done = await world.ended(consuming)
    assert rule.hits
    assert (seen, done.handled, done.stolen) == ([1, 2, 3], 3, 0)
    assert [event.event.kwh for event in await world.all(store.read_all())] == [1, 2, 3]


async def _look_in(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])

    def fail(_: object) -> None:
        raise ValueError

    group = store.group("matcher")
    await world.ended(
        world.start(group.consume, fail, policy=Retry(first_s=1000), on_error=lambda _: None, idle_stop=0)
    )
    rule = stage.arm()
    assert (await world.do(store.info)).last == 3
    assert (await world.do(group.info)).parked == 3
    assert {event.position for event in await world.do(group.parked)} == {1, 2, 3}
    assert rule.hits


for _name in ("look_store", "weigh", "look_group", "look_parked"):
    scenario(f"streams.{_name}")(_look_in)


async def _consume(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    rule = stage.arm()
    seen: list[int] = []
    done = await world.ended(
        world.start(store.group("matcher").consume, lambda event: seen.append(event.event.kwh), idle_stop=0)
    )
    assert rule.hits
    assert seen == [1, 2, 3]
    assert (done.handled, done.failed, done.stolen) == (3, 0, 0)
    with stage.server.client() as client:
        assert client.xpending(LOG, "matcher")["pending"] == 0
        assert client.xinfo_consumers(LOG, "matcher") == []


for _name in ("join", "ack", "leave", "tend", "claim"):
    scenario(f"streams.{_name}")(_consume)


async def _fail(stage: Stage) -> None:
    """The second event fails twice and is given up; the third waits for that."""
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    rule = stage.arm()
    group, seen = store.group("matcher"), list[int]()

    def handle(event: Any) -> None:  # noqa: ANN401 - a Recorded
        seen.append(event.event.kwh)
        if event.event.kwh == 2:
            raise ValueError
        if event.event.kwh == 3:
            group.stop()

    policy = Park(max_attempts=2, first_s=0.001, max_s=0.001)
    done = await world.ended(world.start(group.consume, handle, policy=policy, on_error=lambda _: None))
    assert rule.hits
    assert seen == [1, 2, 2, 3]
    assert (done.handled, done.failed, done.dead, done.stolen) == (2, 2, 1, 0)
    letters = await world.all(group.dead_letters())
    assert [(letter.position, letter.attempts) for letter in letters] == [(2, 2)]
    with stage.server.client() as client:
        assert client.xpending(LOG, "matcher")["pending"] == 0
        assert not client.exists(*(f"{LOG.removesuffix('log')}{key}:matcher" for key in ("retry", "failed", "waiting")))


for _name in ("park", "begin", "due", "bury"):
    scenario(f"streams.{_name}")(_fail)


@scenario("streams.complete")
async def what_comes_of_an_event_comes_of_it_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", Placed(kwh=1))
    rule = stage.arm()
    told: list[bool | None] = []

    def fill(tx: Any, position: int) -> None:  # noqa: ANN401 - either kind
        tx.append("b", Placed(kwh=position)) if position == 1 else None
        tx.add("seen", 1)

    def handle(delivery: Delivery[Placed]) -> None:
        with delivery.commit() as tx:
            fill(tx, delivery.position)
        told.append(tx.already)

    async def handle_async(delivery: AsyncDelivery[Placed]) -> None:
        async with delivery.commit() as tx:
            fill(tx, delivery.position)
        told.append(tx.already)

    handler = handle if world.kind == "sync" else handle_async
    done = await world.ended(world.start(store.group("matcher").consume, handler, idle_stop=0))
    assert rule.hits
    assert told == [stage.fault is not Break.REQUEST, False]
    assert (done.handled, done.failed, done.stolen) == (2, 0, 0)
    assert [e.position for e in await world.all(store.read("b"))] == [2]
    with stage.server.client() as client:
        assert client.hgetall(event_keys(NAMESPACE, "orders").state("matcher")) == {b"seen": b"2"}
        assert client.xpending(LOG, "matcher")["pending"] == 0


@scenario("streams.accept")
async def what_is_sent_to_another_store_is_there_once(stage: Stage) -> None:
    await _moved(stage)


async def _moved(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    bills = world.store(stage.broken, Placed, name="bills")
    await world.do(store.append, "a", Placed(kwh=7))
    outbox = store.outbox(bills)

    def handle(delivery: Delivery[Placed]) -> None:
        with delivery.commit() as tx:
            tx.send(outbox, "b", delivery.event)

    async def handle_async(delivery: AsyncDelivery[Placed]) -> None:
        async with delivery.commit() as tx:
            tx.send(outbox, "b", delivery.event)

    handler = handle if world.kind == "sync" else handle_async
    await world.ended(world.start(store.group("matcher").consume, handler, idle_stop=0))
    rule = stage.arm()
    assert await world.do(outbox.relay, once=True) == 1
    assert rule.hits
    assert [e.event.kwh for e in await world.all(bills.read("b"))] == [7]
    assert await world.do(outbox.count) == 0


@scenario("streams.moved")
async def what_was_moved_is_removed_once(stage: Stage) -> None:
    await _moved(stage)


@scenario("streams.look_outboxes")
async def a_look_into_an_outbox_tells_the_same_again(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    outbox = store.outbox(world.store(stage.broken, Placed, name="bills"))
    rule = stage.arm()
    (info,) = await world.do(outbox.info)
    assert (info.consignments, info.events, info.oldest_age) == (0, 0, None)
    assert rule.hits


async def _in_order(stage: Stage) -> None:
    """An ordered member takes its partition, handles what is there in order, and leaves nothing behind."""
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    rule = stage.arm()
    group, seen = store.group("matcher", ordered=True), list[int]()
    done = await world.ended(world.start(group.consume, lambda event: seen.append(event.event.kwh), idle_stop=0))
    assert rule.hits
    assert seen == [1, 2, 3]
    assert (done.handled, done.failed, done.stolen) == (3, 0, 0)
    keys = event_keys(NAMESPACE, "orders")
    with stage.server.client() as client:
        assert client.xpending(LOG, "matcher")["pending"] == 0
        assert client.hkeys(keys.lease("matcher")) == [b"g"]
        assert not client.exists(keys.members("matcher"))


for _name in ("take", "pull", "cede", "meet"):
    scenario(f"streams.{_name}")(_in_order)


@scenario("streams.hold")
async def a_partition_stays_ours(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=1)])
    rule = stage.arm()
    renewals = load_named("streams.hold").sha
    seen: list[int] = []

    def slowly(event: Any) -> None:  # noqa: ANN401 - a Recorded
        eventually(stage.renewed(lambda: rule.hits and len(stage.proxy.requests(renewals)) >= 3))
        seen.append(event.event.kwh)

    async def slowly_async(event: Any) -> None:  # noqa: ANN401 - a Recorded
        await asyncio.to_thread(slowly, event)

    handler = slowly if world.kind == "sync" else slowly_async
    group = store.group("matcher", ordered=True)
    done = await world.ended(world.start(group.consume, handler, claim_idle=2.0, idle_stop=0))
    assert (seen, done.handled, done.stolen) == ([1], 1, 0)


@scenario("streams.whose")
async def who_has_what_is_told(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=1)])
    stage.arm()
    (owner,) = await world.do(store.group("matcher", ordered=True).owners)
    assert (owner.member, owner.lag) == (None, 1)


@scenario("streams.replay")
async def a_dead_letter_is_given_back_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2)])

    def fail(_: object) -> None:
        raise ValueError

    group = store.group("matcher")
    await world.ended(world.start(group.consume, fail, policy=DEAD, on_error=lambda _: None, idle_stop=0))
    stage.arm()
    done = await world.do(group.dead_letters().replay)
    assert (done.matched, done.replayed, done.gone) == (2, 2, 0)
    assert await world.do(group.dead_letters().count) == 0
    seen: list[int] = []
    await world.ended(world.start(group.consume, lambda event: seen.append(event.event.kwh), idle_stop=0))
    assert seen == [1, 2]


@scenario("streams.trim")
async def what_everybody_had_is_removed_and_counted_once(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in range(1, 9)])
    await world.do(store.note_reader, "view", 5)
    stage.arm()
    done = await world.do(store.trim, max_count=1)
    assert (done.removed, done.left, done.kept, done.held_by) == (5, 3, 2, ("reader", "view"))
    assert stage.server.command("XLEN", LOG) == 3


@scenario("streams.turn")
async def whose_turn_it_is_keeps_the_log_small(stage: Stage) -> None:
    world, keys = stage.world, event_keys(NAMESPACE, "orders")
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in range(1, 9)])
    stage.arm()
    retention = store.retention(max_count=2, period=3600)
    task = world.start(retention.run)
    await until(lambda: stage.server.command("XLEN", LOG) == 2)
    retention.stop()
    assert await world.ended(task) == 6
    assert stage.server.command("PTTL", keys.turn) > 0


@scenario("streams.cap")
async def a_cap_is_one_however_often_it_is_said(stage: Stage) -> None:
    world, keys = stage.world, event_keys(NAMESPACE, "orders")
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in range(1, 9)])
    stage.arm()
    assert await world.do(store.retention(cap_count=5).run, once=True) == 3
    assert stage.server.command("HMGET", keys.meta, "cap", "full", "trimmed") == [b"5", b"8", b"3"]


@scenario("streams.erase")
async def a_stream_is_erased_once_and_no_more_than_was_meant(stage: Stage) -> None:
    world, keys = stage.world, event_keys(NAMESPACE, "orders")
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in range(1, 4)])
    await world.do(store.append, "b", Placed(kwh=4))
    stage.arm()
    done = await world.do(store.erase, "a", expected_version=3)
    assert (done.version, done.letters) == (3, 0)
    assert [e.position for e in await world.all(store.read_all())] == [4]
    assert stage.server.command("ZCARD", keys.holes) == 3


@scenario("streams.note")
async def a_reader_keeps_what_it_has_not_had(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    stage.arm()
    assert await world.do(store.note_reader, "view", 2) == 0
    assert [(each.name, each.position) for each in (await world.do(store.floor)).holders] == [("view", 2)]


@scenario("streams.restore")
async def what_was_exported_is_imported_once(stage: Stage) -> None:
    world, keys = stage.world, event_keys(NAMESPACE, "orders")
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    entries = await stage.broken.run(RANGE, (LOG,), ("-", "+"))
    stage.server.command("FLUSHALL")
    stage.arm()
    assert await restored(store._core, entries, "a file", dry_run=False) in ((3, 0), (0, 3))
    assert [e.position for e in await world.all(store.read("a"))] == [1, 2, 3]
    assert stage.server.command("HGET", keys.meta, "pos") == b"3"


@scenario("streams.introduce")
@scenario("streams.look_mirror")
@scenario("streams.follow")
@scenario("streams.mirror")
async def a_mirror_has_each_event_once(stage: Stage) -> None:
    world = stage.world
    source, target = world.store(stage.broken, Placed), world.store(stage.broken, Placed, name="copy")
    await world.do(source.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    stage.arm()
    assert await world.do(source.replication(target).run, once=True) == 3
    assert await world.all(target.read_all()) == await world.all(source.read_all())
    assert await world.all(target.read("a")) == await world.all(source.read("a"))


@scenario("streams.carry")
async def a_mirror_knows_how_far_groups_have_got(stage: Stage) -> None:
    world = stage.world
    source, target = world.store(stage.broken, Placed), world.store(stage.broken, Placed, name="copy")
    await world.do(source.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    stage.server.command("HSET", event_keys(NAMESPACE, "orders").floors, "billing", "2 1")
    stage.arm()
    assert await world.do(source.replication(target).run, once=True) == 3
    assert stage.server.command("HGET", event_keys(NAMESPACE, "copy").floors, "billing").split()[0] == b"2"


@scenario("streams.promote")
@scenario("streams.fence")
async def one_promotion_is_one_epoch(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", Placed(kwh=1))
    stage.arm()
    assert (await world.do(store.fence)).role == "fenced"
    site = await world.do(store.promote)
    assert (site.role, site.epoch, site.positions) == ("primary", 1, (1,))


@scenario("streams.cut")
@scenario("streams.rewind")
async def what_never_crossed_is_taken_off_once(stage: Stage) -> None:
    world = stage.world
    old, new = world.store(stage.broken, Placed), world.store(stage.broken, Placed, name="copy")
    await world.do(old.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    await world.do(old.replication(new).run, once=True)
    await world.do(old.append, "a", [Placed(kwh=n) for n in (4, 5)])
    await world.do(old.fence)
    await world.do(new.promote)
    stage.arm()
    with TemporaryDirectory() as directory:
        done = await world.do(old.set_aside, new, f"{directory}/tail.jsonl")
    assert done.divergence.events == 2
    assert await world.all(old.read_all()) == await world.all(new.read_all())
    assert await world.all(old.read("a")) == await world.all(new.read("a"))
    assert stage.server.command("ZCARD", event_keys(NAMESPACE, "orders").recent) == 3


@scenario("streams.release")
async def who_is_forgotten_holds_nothing(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=n) for n in (1, 2, 3)])
    await world.do(store.note_reader, "view", 1)
    stage.arm()
    # The repeat no longer finds it: it may be told as unknown, and is gone all the same.
    await world.do(store.release, "reader", "view")
    assert (await world.do(store.floor)).holders == ()


@scenario("streams.renew")
async def a_delivery_in_work_stays_ours(stage: Stage) -> None:
    world = stage.world
    store = world.store(stage.broken, Placed)
    await world.do(store.append, "a", [Placed(kwh=1)])
    rule = stage.arm()
    renewals = load_named("streams.renew").sha
    seen: list[int] = []

    def slowly(event: Any) -> None:  # noqa: ANN401 - a Recorded
        eventually(stage.renewed(lambda: rule.hits and len(stage.proxy.requests(renewals)) >= 3))
        seen.append(event.event.kwh)

    async def slowly_async(event: Any) -> None:  # noqa: ANN401 - a Recorded
        await asyncio.to_thread(slowly, event)

    handler = slowly if world.kind == "sync" else slowly_async
    consuming = world.start(store.group("matcher").consume, handler, claim_idle=2.0, idle_stop=0)
    done = await world.ended(consuming)
    assert (seen, done.handled, done.stolen) == ([1], 1, 0)


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One kind is enough: what is tested is a script's answer to a repeat, and the client that repeats."""
    with RedisServer() as running:
        yield running


# -- the tests ---------------------------------------------------------------------------------------------------


@pytest.fixture
async def stage(
    request: pytest.FixtureRequest, flushed: RedisServer
) -> AsyncIterator[Callable[[str, Break, str], Stage]]:
    """Return a maker of stages; takes the script, the fault and the kind of driver."""
    del request
    made: list[Stage] = []

    def make(script: str, fault: Break, kind: str) -> Stage:
        proxy = FaultProxy(flushed.url)
        world = World(kind, flushed.url)
        made.append(Stage(world, proxy, flushed, world.io(proxy.url), world.io(), fault, script))
        return made[-1]

    yield make
    for one in made:
        await one.world.close()
        await asyncio.to_thread(one.proxy.close)


def test_every_script_has_a_scenario():
    """A new script must say what a lost reply does to it."""
    assert set(SCENARIOS) == set(all_scripts())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("fault", list(Break), ids=lambda fault: fault.name)
@pytest.mark.parametrize(
    ("script", "play"),
    [(script, play) for script, plays in SCENARIOS.items() for play in plays],
    ids=lambda value: getattr(value, "__name__", value),
)
async def test_the_effect_happens_once(
    script: str, play: Scenario, fault: Break, kind: str, stage: Callable[[str, Break, str], Stage]
):
    set_up = stage(script, fault, kind)
    await play(set_up)
    (rule,) = set_up.proxy._rules
    assert rule.hits == 1, "the scenario did not meet its fault"
