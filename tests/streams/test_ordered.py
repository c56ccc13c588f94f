"""Ordered groups: each stream in order and in one place, whoever comes, goes, fails or stands still."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
import contextlib
import threading
from collections import defaultdict
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync._io import run_sync
from gridsync._io.aio import AsyncIO
from gridsync._io.keys import event_partitions, events
from gridsync._io.signals import ThreadSignal
from gridsync._io.wire.endpoint import parse
from gridsync.streams import DEAD, STOP, Retry, _aside, _consumer, _tenure
from gridsync.streams._lanes import Lanes
from gridsync.streams._settling import ACK
from gridsync.streams._tenure import CEDE, HOLD, PULL, TAKE, taking
from gridsync.streams._turns import Turns
from tests.streams.conftest import NAMESPACE, until
from tests.streams.models import Order, Placed
from tests.streams.test_consumer import GROUP, running

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Group, Store, World

STREAMS = [f"meter-{n}" for n in range(12)]
SOON = Retry(first_s=0.02, max_s=0.02)


@pytest.fixture(autouse=True)
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut short by chance."""
    monkeypatch.setattr(_aside.Aside, "chance", lambda _: 1.0)


class Seen:
    """A handler for several members: notes what it gets, and whether two of one stream are in work at once."""

    def __init__(self, world: World, *, work_s: float = 0.0, fails: int = 0) -> None:
        self.work_s = work_s
        self.fails = fails
        self.versions: dict[str, list[int]] = defaultdict(list)
        self.by: dict[str, set[str]] = defaultdict(set)
        self.tries: dict[tuple[str, int], int] = defaultdict(int)
        self.together: list[str] = []
        self._busy: set[str] = set()
        self._is_async = world.is_async

    def by_member(self, name: str) -> Any:
        def begin(recorded: Any) -> None:
            if recorded.stream in self._busy:
                self.together.append(recorded.stream)
            self._busy.add(recorded.stream)
            self.tries[recorded.stream, recorded.version] += 1
            self.by[name].add(recorded.stream)

        def end(recorded: Any) -> None:
            self._busy.discard(recorded.stream)
            if recorded.version % 5 == 0 and self.tries[recorded.stream, recorded.version] <= self.fails:
                raise ValueError(recorded.version)
            self.versions[recorded.stream].append(recorded.version)

        def handle(recorded: Any) -> None:
            begin(recorded)
            if self.work_s:
                threading.Event().wait(self.work_s)
            end(recorded)

        async def handle_async(recorded: Any) -> None:
            begin(recorded)
            await asyncio.sleep(self.work_s)
            end(recorded)

        return handle_async if self._is_async else handle

    @property
    def count(self) -> int:
        return sum(map(len, list(self.versions.values())))

    def check(self, streams: list[str], each: int) -> None:
        assert self.together == []
        assert dict(self.versions) == {stream: list(range(1, each + 1)) for stream in streams}


async def fill(store: Store, each: int, streams: list[str] = STREAMS) -> None:
    for stream in streams:
        await store.append(stream, [Placed(kwh=n + 1) for n in range(each)])


def opened(world: World, partitions: int = 4, **options: Any) -> Store:
    return world.store(Order, partitions=partitions, **options)


def ordered(world: World, partitions: int = 4) -> Group:
    return opened(world, partitions).group(GROUP, ordered=True)


async def owners(group: Group) -> list[Any]:
    found = group.group.owners()
    return await found if asyncio.iscoroutine(found) else found


def keys(partitions: int = 4) -> Any:
    return event_partitions(NAMESPACE, "orders", partitions) if partitions > 1 else (events(NAMESPACE, "orders"),)


def members(raw: redis.Redis, partitions: int = 4) -> list[str | None]:
    """Return who has each partition."""
    found = (raw.hget(each.lease(GROUP), "m") for each in keys(partitions))
    return [name and name.decode() for name in found]


def left(raw: redis.Redis, partitions: int = 4) -> int:
    """Count what is pending or not delivered yet."""
    total = 0
    for each in keys(partitions):
        if raw.exists(each.log):
            for info in raw.xinfo_groups(each.log):
                total += info["pending"] + info["lag"]
    return total


@contextlib.asynccontextmanager
async def member(world: World, seen: Seen, name: str, **options: Any) -> Any:
    group = ordered(world, options.pop("partitions", 4))
    if world.is_async:
        options.setdefault("concurrency", 5)
    async with running(group, seen.by_member(name), consumer=name, **options) as task:
        yield group, task


@pytest.mark.parametrize("partitions", [1, 3])
async def test_what_is_there_is_handled_in_order_stream_by_stream(world: World, partitions: int):
    await fill(opened(world, partitions), 20)
    seen = Seen(world)
    done = await ordered(world, partitions).consume(seen.by_member("a"), idle_stop=0)
    seen.check(STREAMS, 20)
    assert (done.handled, done.failed, done.stolen, done.returned) == (240, 0, 0, 0)


async def test_handlers_of_threads_run_in_the_thread_that_called(world: World):
    await fill(opened(world), 3)
    threads = set()

    def handle(_: Any) -> None:
        threads.add(threading.get_ident())

    if world.is_async:
        await ordered(world).consume(handle, idle_stop=0)
        assert threads == {threading.get_ident()}
    else:
        caller = []

        def call() -> None:
            caller.append(threading.get_ident())
            ordered(world).group.consume(handle, idle_stop=0)

        await asyncio.to_thread(call)
        assert threads == set(caller)


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_streams_are_handled_side_by_side_and_never_more_than_allowed(world: World):
    await fill(opened(world), 4)
    running_now, most = 0, 0

    async def handle(_: Any) -> None:
        nonlocal running_now, most
        running_now += 1
        most = max(most, running_now)
        await asyncio.sleep(0.002)
        running_now -= 1

    await ordered(world).consume(handle, idle_stop=0, concurrency=6)
    assert most == 6


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_slow_stream_holds_up_no_other_one(world: World):
    store = opened(world, 1)
    await fill(store, 30)
    gate, seen = asyncio.Event(), Seen(world)
    inner = seen.by_member("a")

    async def handle(recorded: Any) -> None:
        if recorded.stream == STREAMS[0]:
            await gate.wait()
        await inner(recorded)

    async with running(ordered(world, 1), handle, concurrency=2, batch=10):
        await until(lambda: seen.count == 30 * (len(STREAMS) - 1))
        gate.set()
        await until(lambda: seen.count == 30 * len(STREAMS))
    seen.check(STREAMS, 30)


async def test_members_share_the_partitions_and_give_them_back(world: World, raw: redis.Redis):
    seen = Seen(world)
    async with member(world, seen, "a"):
        await until(lambda: set(members(raw)) == {"a"})
        async with member(world, seen, "b"):
            await until(lambda: sorted(map(str, members(raw))) == ["a", "a", "b", "b"])
            store = opened(world)
            await fill(store, 10)
            await until(lambda: seen.count == 120)
            assert seen.by["a"]
            assert seen.by["b"]
            assert not seen.by["a"] & seen.by["b"]
        await until(lambda: set(members(raw)) == {"a"})
    seen.check(STREAMS, 10)
    assert members(raw) == [None] * 4
    assert raw.exists(keys()[0].members(GROUP)) == 0


async def test_order_holds_while_members_come_and_go_under_load(world: World, raw: redis.Redis):
    store, seen = opened(world), Seen(world, work_s=0.001)
    each = 25

    async def feed() -> None:
        for _ in range(each):
            for stream in STREAMS:
                await store.append(stream, Placed(kwh=1))

    feeding = asyncio.create_task(feed())
    async with member(world, seen, "a", batch=7) as (_, first):
        await until(lambda: seen.count > 20)
        async with member(world, seen, "b", batch=7), member(world, seen, "c", batch=7):
            await until(lambda: set(members(raw)) == {"a", "b", "c"}, 30)
            await until(lambda: seen.count > each * 4, 60)
        await feeding
        await until(lambda: seen.count >= each * len(STREAMS), 60)
        await until(lambda: left(raw) == 0)
    seen.check(STREAMS, each)
    assert first.result().stolen == 0


async def test_what_failed_holds_back_the_rest_of_its_stream_and_comes_again_in_order(world: World, raw: redis.Redis):
    await fill(opened(world), 12)
    seen = Seen(world, fails=2)
    async with member(world, seen, "a", policy=SOON, on_error=lambda _: None):
        await until(lambda: seen.count == 12 * len(STREAMS), 60)
        await until(lambda: left(raw) == 0)
    seen.check(STREAMS, 12)
    assert not any(raw.exists(each.failed(GROUP), each.waiting(GROUP), each.retry(GROUP)) for each in keys())


@pytest.mark.any_server
async def test_what_is_due_again_begins_before_the_owner_waits_for_more(world: World, monkeypatch: pytest.MonkeyPatch):
    """Otherwise each retry takes as long as a blocking read does, seconds, whatever its pause is."""
    monkeypatch.setattr(_tenure, "BLOCK_MAX", 600.0)
    monkeypatch.setattr(_consumer, "BLOCK_MAX", 600.0)
    await fill(opened(world, 1), 6, STREAMS[:1])
    seen = Seen(world, fails=1)
    async with member(world, seen, "a", partitions=1, policy=SOON, on_error=lambda _: None, claim_idle=600):
        await until(lambda: seen.count == 6, 60)
    seen.check(STREAMS[:1], 6)


async def test_order_survives_that_the_owner_changes_while_events_are_parked(world: World, raw: redis.Redis):
    await fill(opened(world), 12)
    seen = Seen(world, fails=1)
    later = Retry(first_s=3600, max_s=3600)
    await ordered(world).consume(seen.by_member("a"), policy=later, on_error=lambda _: None, idle_stop=0)
    assert all(versions == [1, 2, 3, 4] for versions in seen.versions.values())
    for each in keys():
        for entry_id in raw.zrange(each.retry(GROUP), 0, -1):
            raw.zadd(each.retry(GROUP), {entry_id: 0})
    async with member(world, seen, "b", policy=SOON, on_error=lambda _: None):
        await until(lambda: seen.count == 12 * len(STREAMS), 60)
    seen.check(STREAMS, 12)


async def test_what_is_given_up_stands_in_nobodys_way(world: World):
    await fill(opened(world), 6)
    seen = Seen(world, fails=99)
    done = await ordered(world).consume(seen.by_member("a"), policy=DEAD, on_error=lambda _: None, idle_stop=0)
    assert done.dead == len(STREAMS)
    assert all(versions == [1, 2, 3, 4, 6] for versions in seen.versions.values())


async def test_stop_leaves_the_event_to_the_next_owner_which_gets_it_first(world: World):
    await fill(opened(world, 1), 6, STREAMS[:1])
    seen = Seen(world, fails=1)
    with pytest.raises(ValueError, match="5"):
        await ordered(world, 1).consume(seen.by_member("a"), policy=STOP, on_error=lambda _: None)
    await ordered(world, 1).consume(seen.by_member("b"), idle_stop=0)
    seen.check(STREAMS[:1], 6)


async def test_a_new_owner_gets_what_was_pending_before_anything_new(world: World, raw: redis.Redis):
    store = opened(world, 1)
    await fill(store, 5, STREAMS[:1])
    # A process died with all of them, and nobody noticed yet that it did.
    (its,) = (store.keys,)
    raw.xgroup_create(its.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead.1", {its.log: ">"}, count=3)
    raw.hset(its.lease(GROUP), mapping={"m": "dead", "g": "1", "o": "dead.1", "t": "1", "s": "1"})
    seen = Seen(world)
    done = await ordered(world, 1).consume(seen.by_member("a"), idle_stop=0)
    seen.check(STREAMS[:1], 5)
    assert done.handled == 5
    assert {row["name"] for row in raw.xinfo_consumers(its.log, GROUP)} <= {b"~free"}


async def test_a_lease_that_runs_is_waited_for_and_taken_when_it_ends(world: World, raw: redis.Redis):
    store = opened(world, 1)
    await fill(store, 3, STREAMS[:1])
    seconds, _ = raw.time()
    lease = store.keys.lease(GROUP)
    raw.hset(lease, mapping={"m": "dead", "g": "1", "o": "dead.1", "t": str((seconds + 3600) * 1000), "s": "1"})
    seen = Seen(world)
    async with member(world, seen, "a", partitions=1, claim_idle=0.3):
        await until(lambda: raw.exists(store.keys.members(GROUP)))
        assert seen.count == 0
        raw.hset(lease, "t", "1")
        await until(lambda: seen.count == 3)
        assert raw.hget(lease, "m") == b"a"


async def test_an_owner_that_lost_its_lease_acknowledges_and_reads_nothing(world: World, raw: redis.Redis):
    """It was stopped for longer than its lease lasts, and does not know it yet."""
    store = opened(world, 1)
    await fill(store, 4, STREAMS[:1])
    io, its = world.io(), store.keys
    raw.xgroup_create(its.log, GROUP, "0")
    raw.xreadgroup(GROUP, "a.1", {its.log: ">"}, count=2)
    raw.hset(its.lease(GROUP), mapping={"m": "b", "g": "2", "o": "b.2", "t": "9" * 14, "s": "1"})
    raw.xclaim(its.log, GROUP, "b.2", 0, ["1-0", "2-0"], justid=True)

    async def call(operation: Any, *args: Any) -> Any:
        if world.is_async:
            return await io.run(operation, *args)
        return await asyncio.to_thread(_run, io, operation, *args)

    aside = (its.log, its.retry(GROUP), its.failed(GROUP), its.waiting(GROUP))
    assert await call(ACK, aside, (GROUP, "a.1", *proven(raw, store, 1, 2))) == [-1, -1]
    assert await call(PULL, (its.log, its.failed(GROUP), its.lease(GROUP)), (GROUP, "a.1", "10", "0")) == [-1]
    assert await call(HOLD, (its.lease(GROUP),), ("a.1", "1000")) == 0
    assert await call(CEDE, (its.lease(GROUP),), ("a", "1")) == 0
    assert {row["consumer"] for row in raw.xpending_range(its.log, GROUP, "-", "+", 10)} == {b"b.2"}
    assert raw.hget(its.lease(GROUP), "t") == b"9" * 14


async def test_a_taking_that_was_given_up_frees_nothing_that_the_next_life_of_its_name_has(
    world: World, raw: redis.Redis
):
    """Two members would be at work in one partition until the restarted one looks at its lease."""
    store = opened(world, 1)
    await fill(store, 1, STREAMS[:1])
    io, its = world.io(), store.keys
    raw.xgroup_create(its.log, GROUP, "0")

    async def call(operation: Any, *args: Any) -> Any:
        if world.is_async:
            return await io.run(operation, *args)
        return await asyncio.to_thread(_run, io, operation, *args)

    keys = taking(its, GROUP)
    first = await call(TAKE, keys, (GROUP, "a", "60000", "", "before"))
    second = await call(TAKE, keys, (GROUP, "a", "60000", "", "after"))
    assert int(second[1]) == int(first[1]) + 1
    assert await call(CEDE, keys[-1:], ("a", "before")) == 0
    assert raw.hget(keys[-1], "o") == b"a." + second[1]
    assert await call(CEDE, keys[-1:], ("a", "after")) == 1
    assert raw.hkeys(keys[-1]) == [b"g"]


def proven(raw: redis.Redis, store: Store, *positions: int) -> list[bytes]:
    """Return what `ack.lua` takes for these deliveries."""
    words = []
    for position in positions:
        ((entry_id, fields),) = raw.xrange(store.keys.log, position, position)
        words += [entry_id, fields[b"i"] + b" " + fields[b"w"]]
    return words


def _run(io: Any, *args: Any) -> Any:
    return run_sync(io.run(*args))


async def test_who_loses_its_lease_ends_what_runs_and_takes_part_again(world: World, raw: redis.Redis):
    store, seen = opened(world, 1), Seen(world)
    await fill(store, 1, STREAMS[:1])
    lease = store.keys.lease(GROUP)
    async with member(world, seen, "a", partitions=1, claim_idle=0.5):
        await until(lambda: seen.count == 1)
        first = raw.hget(lease, "g")
        # Somebody else took it, and has gone by now.
        raw.hset(lease, mapping={"m": "b", "g": str(int(first) + 1), "o": "b.x", "t": "1"})
        await until(lambda: raw.hget(lease, "m") == b"a")
        assert int(raw.hget(lease, "g")) > int(first) + 1
        await store.append(STREAMS[0], Placed(kwh=1))
        await until(lambda: seen.count == 2)


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_handler_is_cancelled_when_its_partition_is_lost(world: World, raw: redis.Redis):
    store, begun, ended = opened(world, 1), list[int](), list[str]()
    await fill(store, 1, STREAMS[:1])

    async def handle(recorded: Any) -> None:
        begun.append(recorded.version)
        if len(begun) == 1:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                ended.append("cancelled")
                raise

    async with running(ordered(world, 1), handle, claim_idle=0.5) as task:
        await until(lambda: begun)
        raw.hset(store.keys.lease(GROUP), mapping={"m": "b", "o": "b.x", "t": "1"})
        await until(lambda: len(begun) == 2)
    assert ended == ["cancelled"]
    assert task.result().handled == 1


async def test_a_restarted_member_of_the_same_name_goes_on_at_once(world: World, raw: redis.Redis):
    store = opened(world, 1)
    await fill(store, 3, STREAMS[:1])
    seconds, _ = raw.time()
    lease = store.keys.lease(GROUP)
    raw.hset(lease, mapping={"m": "a", "g": "7", "o": "a.7", "t": str((seconds + 3600) * 1000), "s": "1"})
    seen = Seen(world)
    await ordered(world, 1).consume(seen.by_member("a"), consumer="a", idle_stop=0)
    seen.check(STREAMS[:1], 3)
    assert raw.hget(lease, "g") == b"8"


async def test_a_lost_group_is_made_again_and_order_holds(world: World, raw: redis.Redis):
    store, seen = opened(world, 1), Seen(world)
    await fill(store, 3, STREAMS[:2])
    async with member(world, seen, "a", partitions=1):
        await until(lambda: seen.count == 6)
        await until(lambda: left(raw, 1) == 0)
        raw.xgroup_destroy(store.keys.log, GROUP)
        await store.append(STREAMS[0], Placed(kwh=9))
        await until(lambda: 4 in seen.versions[STREAMS[0]], 20)
    assert seen.together == []
    again = seen.versions[STREAMS[0]]
    assert again[:3] == [1, 2, 3]
    assert again[-1] == 4
    assert again[3:] == list(range(again[3], 5))


async def test_who_has_what_can_be_seen(world: World, raw: redis.Redis):
    store, seen = opened(world, 2), Seen(world)
    group = ordered(world, 2)
    nobody = await owners(group)
    assert [(each.partition, each.member, each.generation, each.lag) for each in nobody] == [
        (0, None, 0, 0),
        (1, None, 0, 0),
    ]
    await fill(store, 3)
    assert sum(each.lag for each in await owners(group)) == 3 * len(STREAMS)
    async with member(world, seen, "a", partitions=2):
        await until(lambda: seen.count == 3 * len(STREAMS))
        await until(lambda: left(raw, 2) == 0)
        for each in await owners(group):
            assert (each.member, each.pending, each.lag) == ("a", 0, 0)
            assert each.generation > 0
            assert 0 <= each.held_for < 3600
            assert each.ends_in <= 30


async def test_a_store_in_other_partitions_is_refused(world: World):
    await fill(opened(world, 2), 1)
    with pytest.raises(errors.UsageError, match="partition"):
        await ordered(world, 3).consume(lambda _: None, idle_stop=0)
    with pytest.raises(errors.UsageError, match="partition"):
        await ordered(world, 1).consume(lambda _: None, idle_stop=0)


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_cancelled_member_gives_everything_back_at_once(world: World, raw: redis.Redis):
    store, seen = opened(world), Seen(world)
    await fill(store, 3)
    stuck: list[str] = []

    async def handle(recorded: Any) -> None:
        stuck.append(recorded.stream)
        await asyncio.Event().wait()

    task = asyncio.create_task(ordered(world).consume(handle, consumer="a", concurrency=20, claim_idle=3600))
    await until(lambda: len(stuck) == len(STREAMS))
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: members(raw) == [None] * 4)
    await ordered(world).consume(seen.by_member("b"), idle_stop=0, claim_idle=3600)
    seen.check(STREAMS, 3)


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_member_that_waits_for_a_cancelled_one_has_its_partitions_at_once(world: World, raw: redis.Redis):
    """It is told when they are free, not before: what it is told is that the leases run for an hour."""
    store, seen = opened(world), Seen(world)
    await fill(store, 3)
    stuck: list[str] = []

    async def handle(recorded: Any) -> None:
        stuck.append(recorded.stream)
        await asyncio.Event().wait()

    task = asyncio.create_task(ordered(world).consume(handle, consumer="a", concurrency=20, claim_idle=3600))
    await until(lambda: len(stuck) == len(STREAMS))
    async with member(world, seen, "b", claim_idle=3600):
        await until(lambda: raw.hlen(keys()[0].members(GROUP)) == 2)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        await until(lambda: seen.count == 3 * len(STREAMS), 60)
        await until(lambda: left(raw) == 0)
    seen.check(STREAMS, 3)


def test_a_lane_lets_one_of_each_stream_begin():
    lanes = Lanes()
    entries = [[b"%d-0" % n, [b"i", b"x", b"s", stream]] for n, stream in enumerate((b"a", b"a", b"b", b"a"))]
    for entry in entries:
        lanes.append(entry)
    first, other = lanes.popleft(), lanes.popleft()
    assert [first, other] == [entries[0], entries[2]]
    assert not lanes
    assert lanes.busy
    lanes.done(first)
    again = lanes.popleft()
    assert again is entries[1]
    lanes.appendleft(again)
    lanes.done(again)
    assert lanes.popleft() is entries[1]
    lanes.clear()
    lanes.done(entries[1])
    assert not lanes
    lanes.done(other)
    assert not lanes.busy


class Switches:
    """As much of a driver for threads as turns need."""

    def signal(self) -> Any:
        return ThreadSignal()


def test_a_turn_is_never_lost_among_threads():
    turns, most, inside = Turns(Switches(), 3), list[int](), list[int]()  # type: ignore[arg-type]
    never = ThreadSignal()

    def work() -> None:
        for _ in range(300):
            assert turns.take_free() or run_sync(turns.take(never))
            inside.append(1)
            most.append(len(inside))
            inside.pop()
            turns.give()

    threads = [threading.Thread(target=work, daemon=True) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not any(thread.is_alive() for thread in threads)
    assert max(most) <= 3
    assert sum(turns.take_free() for _ in range(5)) == 3


async def test_a_turn_goes_to_whoever_has_waited_longest_unless_it_was_told_to_stop():
    """Otherwise a partition that always has a next event would keep the others waiting."""
    io = AsyncIO(parse("redis://127.0.0.1:1", connect_timeout=1.0), inflight_max=1, timeout=1.0)
    turns, order, stop, never = Turns(io, 1), list[str](), io.signal(), io.signal()
    assert turns.take_free()

    async def wait(name: str, unless: Any) -> None:
        order.append(f"{name} {await turns.take(unless)}")

    waiting = [asyncio.create_task(wait(name, stop if name == "b" else never)) for name in "abcd"]
    await asyncio.sleep(0)
    turns.give()
    assert not turns.take_free(), "it is the first one's, though that has not woken up yet"
    stop.set()
    await asyncio.gather(*waiting[:2])
    waiting[2].cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting[2]
    turns.give()
    await waiting[3]
    assert sorted(order[:2]) == ["a True", "b False"]
    assert order[2:] == ["d True"]
    turns.give()
    assert turns.take_free()
    await io.close()


async def test_a_plain_consumer_does_not_begin_beside_ordered_ones(world: World, raw: redis.Redis):
    """It would take events out of the middle of a stream."""
    seen = Seen(world)
    async with member(world, seen, "a"):
        await until(lambda: members(raw) == ["a"] * 4)
        with pytest.raises(errors.UsageError, match="is consumed in order, by 'a'"):
            await opened(world).group(GROUP).consume(seen.by_member("plain"), idle_stop=0)
    done = await opened(world).group(GROUP).consume(seen.by_member("plain"), idle_stop=0)
    assert done.handled == 0, "nobody is left who consumes in order"


async def test_a_plain_consumer_ends_when_ordered_ones_come(world: World, raw: redis.Redis):
    seen = Seen(world)
    plain = asyncio.create_task(
        opened(world).group(GROUP).consume(seen.by_member("plain"), consumer="plain", claim_idle=1.0)
    )
    await until(lambda: all(raw.hexists(each.floors, GROUP) for each in keys()))
    async with member(world, seen, "a"):
        with pytest.raises(errors.UsageError, match="is consumed in order, by 'a'"):
            await plain
