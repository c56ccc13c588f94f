"""Consumer groups: who gets a delivery, when it counts as done, and what happens to it otherwise."""

from __future__ import annotations

# ruff: noqa: ANN401, ASYNC220 - handlers and drivers of either kind; a child that is started at once
import asyncio
import concurrent.futures
import resource
import subprocess
import sys
import threading
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import Retry, _aside, _consumer
from gridsync.streams._consumer import CLAIM, LEAVE, TEND
from gridsync.streams._core import APPEND
from gridsync.streams._holding import RENEW, Holding
from gridsync.streams._joining import JOIN
from gridsync.streams._settling import ACK
from tests.streams.conftest import NAMESPACE, until
from tests.streams.models import LATER, Bid, Order, Placed
from tests.wire.outage import starved

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    import redis

    from tests.streams.conftest import Group, Store, World

GROUP = "billing"
LIMITS = resource.getrlimit(resource.RLIMIT_NOFILE)


def pending(raw: redis.Redis, store: Store) -> dict[int, str]:
    """Return position → consumer of everything pending."""
    rows = raw.xpending_range(store.keys.log, GROUP, "-", "+", 1000)
    return {int(row["message_id"][:-2]): row["consumer"].decode() for row in rows}


def age(raw: redis.Redis, store: Store, *only: int) -> None:
    """Let what is pending look as if nobody had touched it for an hour; nobody's patience decides about a test."""
    for position, consumer in pending(raw, store).items():
        if not only or position in only:
            raw.xclaim(store.keys.log, GROUP, consumer, 0, [f"{position}-0"], idle=3_600_000, justid=True)


def aside(store: Store) -> tuple[str, str, str]:
    return store.keys.retry(GROUP), store.keys.failed(GROUP), store.keys.waiting(GROUP)


def consumers(raw: redis.Redis, store: Store) -> set[str]:
    return {row["name"].decode() for row in raw.xinfo_consumers(store.keys.log, GROUP)}


def calls(raw: redis.Redis, command: str) -> int:
    """Return how often the server has run *command*."""
    return int(raw.info("commandstats").get(f"cmdstat_{command}", {"calls": 0})["calls"])


def gated(world: World, gate: threading.Event, begun: list[int], first: int = 1) -> Callable[[Any], Any]:
    """Return a handler that notes the position and, from position *first* on, works until the gate opens."""

    async def work(recorded: Any) -> None:
        begun.append(recorded.position)
        await until(lambda: recorded.position < first or gate.is_set())

    def block(recorded: Any) -> None:
        begun.append(recorded.position)
        assert recorded.position < first or gate.wait(10)

    return work if world.is_async else block


@asynccontextmanager
async def running(group: Group, handler: Callable[[Any], Any], **options: Any) -> AsyncIterator[asyncio.Task[Any]]:
    """Consume in the background; stopped and awaited at the end."""
    task = asyncio.create_task(group.consume(handler, **options))
    try:
        yield task
    finally:
        group.stop()
        await task


@pytest.fixture(autouse=True)
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut short by chance."""
    monkeypatch.setattr(_aside.Aside, "chance", lambda _: 1.0)


class Counted:
    """A driver that counts how often one operation is run."""

    def __init__(self, io: Any, operation: Any) -> None:
        self._io = io
        self._operation = operation
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    async def run(self, operation: Any, keys: Any, args: Any = (), **options: Any) -> Any:
        self.count += operation is self._operation
        return await self._io.run(operation, keys, args, **options)


async def filled(world: World, count: int) -> Store:
    store = world.store(Order)
    await store.append("a", [Placed(kwh=n + 1) for n in range(count)])
    return store


async def test_every_event_is_handled_in_order_and_acknowledged(world: World, raw: redis.Redis):
    store = await filled(world, 40)
    seen: list[Any] = []
    done = await store.group(GROUP).consume(seen.append, idle_stop=0)
    assert [e.position for e in seen] == list(range(1, 41))
    assert seen == await store.read_all()
    assert (done.handled, done.failed, done.stolen, done.returned) == (40, 0, 0, 0)
    assert pending(raw, store) == {}
    assert consumers(raw, store) == set()


async def test_new_events_arrive_while_consuming(world: World):
    store = world.store(Order)
    group, seen = store.group(GROUP), list[int]()
    async with running(group, lambda e: seen.append(e.position)):
        for n in range(5):
            await store.append("a", Placed(kwh=1))
            await until(lambda n=n: len(seen) == n + 1)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_group_goes_on_where_it_was_and_starts_where_it_is_told(world: World):
    store = await filled(world, 3)
    seen: list[int] = []

    async def drain(name: str, **options: Any) -> list[int]:
        seen.clear()
        await store.group(name, **options).consume(lambda e: seen.append(e.position), idle_stop=0)
        return list(seen)

    assert await drain("first") == [1, 2, 3]
    assert await drain("now", start="now") == []
    await store.append("a", Placed(kwh=1))
    assert await drain("first") == [4]
    assert await drain("now", start="now") == [4]
    with pytest.raises(errors.UsageError, match="first"):
        store.group("x", start="tomorrow")


async def test_two_consumers_share_the_events(world: World, raw: redis.Redis):
    store = await filled(world, 200)
    other = world.store(Order)
    seen: list[int] = []
    results = await asyncio.gather(
        *(s.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0.2, batch=3) for s in (store, other))
    )
    assert sorted(seen) == list(range(1, 201))
    assert sum(r.handled for r in results) == 200
    assert pending(raw, store) == {}


async def test_what_a_dead_consumer_held_is_taken_over_once(world: World, raw: redis.Redis):
    store = await filled(world, 10)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead", {store.keys.log: ">"}, count=6)
    age(raw, store)
    seen: list[int] = []
    groups = [store.group(GROUP), world.store(Order).group(GROUP)]
    await asyncio.gather(*(g.consume(lambda e: seen.append(e.position), idle_stop=0.2, batch=2) for g in groups))
    assert sorted(seen) == list(range(1, 11))
    assert pending(raw, store) == {}


CHILD = """
import sys
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import EventStore
from tests.streams.models import Order

url, namespace, group = sys.argv[1:]
store = EventStore(SyncIO(parse(url, connect_timeout=10.0), pool_size=2, timeout=10.0), namespace, "orders", Order)

def handle(recorded):
    print(recorded.position, flush=True)
    if recorded.position == 3:
        sys.stdin.read()

store.group(group).consume(handle)
"""


async def test_a_killed_process_loses_nothing_and_repeats_only_what_it_had_not_finished(world: World, raw: redis.Redis):
    store = await filled(world, 10)
    words = [sys.executable, "-c", CHILD, world.url, NAMESPACE, GROUP]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as child:
        assert child.stdout is not None
        lines = [await asyncio.to_thread(child.stdout.readline) for _ in range(3)]
        child.kill()
    assert [int(line) for line in lines] == [1, 2, 3]
    age(raw, store)
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert sorted(seen) == list(range(3, 11))
    assert pending(raw, store) == {}


async def test_a_long_handler_and_what_waits_behind_it_are_not_claimed(world: World, raw: redis.Redis):
    store = await filled(world, 4)
    gate, begun, other = threading.Event(), list[int](), list[int]()
    async with running(store.group(GROUP), gated(world, gate, begun, 2), claim_idle=3.0):
        await until(lambda: 2 in begun and len(pending(raw, store)) == 3)
        io = Counted(world.io(), CLAIM)
        async with running(world.store(Order, io=io).group(GROUP), lambda e: other.append(e.position), claim_idle=3.0):
            # Several times over, it looked for deliveries that had been idle for too long.
            await until(lambda: io.count >= 4)
            assert other == []
            gate.set()
            await until(lambda: not pending(raw, store))
    assert begun == [1, 2, 3, 4]
    assert other == []


async def test_stop_finishes_what_runs_and_gives_the_rest_back_at_once(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    group, gate, begun = store.group(GROUP), threading.Event(), list[int]()
    async with running(group, gated(world, gate, begun, 2)) as task:
        await until(lambda: 2 in begun)
        group.stop()
        gate.set()
        done = await task
    assert begun == [1, 2]
    assert (done.handled, done.returned) == (2, 3)
    assert consumers(raw, store) == {"~free"}
    seen: list[int] = []
    # With the default claim_idle of 30 s: they were given back, they did not have to grow old.
    await world.store(Order).group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert sorted(seen) == [3, 4, 5]
    assert (await group.consume(seen.append)).handled == 0


async def test_stop_wakes_a_consumer_that_waits(world: World, raw: redis.Redis):
    group = world.store(Order).group(GROUP)
    async with running(group, print) as task:
        await until(lambda: raw.info("clients")["blocked_clients"])
        await asyncio.to_thread(group.stop)
        async with asyncio.timeout(20):
            await task


async def test_an_acknowledgement_of_a_stolen_delivery_does_nothing(world: World, raw: redis.Redis):
    store = await filled(world, 1)

    def steal(recorded: Any) -> None:
        raw.xclaim(store.keys.log, GROUP, "thief", 0, [f"{recorded.position}-0"])

    done = await store.group(GROUP).consume(steal, idle_stop=0)
    assert (done.handled, done.stolen) == (0, 1)
    assert pending(raw, store) == {1: "thief"}


async def test_what_was_stolen_while_it_waited_its_turn_is_not_begun(world: World, raw: redis.Redis):
    store = await filled(world, 4)
    gate, begun = threading.Event(), list[int]()
    async with running(store.group(GROUP), gated(world, gate, begun, 2), claim_idle=3.0) as task:
        await until(lambda: 2 in begun)
        raw.xclaim(store.keys.log, GROUP, "thief", 0, ["3-0"])
        before = calls(raw, "xpending")
        await until(lambda: calls(raw, "xpending") >= before + 6)  # two renewals of three
        raw.xclaim(store.keys.log, GROUP, "thief", 0, ["3-0"])
        gate.set()
        await until(lambda: list(pending(raw, store)) == [3])
    assert begun == [1, 2, 4]
    assert task.result().stolen == 1


async def test_a_failed_event_comes_again_and_the_consumer_goes_on(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    seen: list[int] = []
    failures: list[Any] = []

    def handle(recorded: Any) -> None:
        seen.append(recorded.position)
        if seen.count(2) == 1 and recorded.position == 2:
            raise ZeroDivisionError

    policy = Retry(first_s=0.1)
    async with running(store.group(GROUP), handle, on_error=failures.append, policy=policy) as task:
        await until(lambda: len(seen) == 4)
    assert seen == [1, 2, 3, 2]
    assert (task.result().handled, task.result().failed) == (3, 1)
    assert [(type(f.error), f.position, f.recorded.event) for f in failures] == [(ZeroDivisionError, 2, Placed(kwh=2))]
    assert pending(raw, store) == {}


async def test_a_failed_event_keeps_its_pause_when_the_consumer_leaves(world: World, raw: redis.Redis):
    """Otherwise a fleet that restarts often would run a failing event as often."""
    store = await filled(world, 1)
    done = await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: None, policy=LATER)
    assert done.failed == 1
    assert pending(raw, store) == {1: "~parked"}
    age(raw, store)
    again = await store.group(GROUP).consume(lambda _: None, idle_stop=0)
    assert again.handled == 0
    raw.zadd(store.keys.retry(GROUP), {"1-0": 0})
    assert (await store.group(GROUP).consume(lambda _: None, idle_stop=0)).handled == 1


async def test_without_on_error_a_failure_is_logged_and_a_failing_on_error_too(
    world: World, caplog: pytest.LogCaptureFixture
):
    store = await filled(world, 1)
    await store.group("a").consume(lambda _: 1 / 0, idle_stop=0, policy=LATER)
    assert "position 1 was not handled (attempt 1): ZeroDivisionError" in caplog.text
    assert "it comes again" in caplog.text
    await store.group("b").consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: {}["x"], policy=LATER)
    assert "on_error of group 'b' failed at position 1" in caplog.text


async def test_an_event_that_cannot_be_read_neither_stops_the_consumer_nor_spins(world: World, raw: redis.Redis):
    store = world.store([Placed, Bid])
    await store.append("a", [Placed(kwh=1), Bid(price=1), Placed(kwh=2)])
    await store.append("a", Placed(kwh=3))
    raw.xadd(store.keys.log, {"t": "Placed", "x": "not ours"}, id="5-0")
    failures: list[Any] = []
    seen: list[int] = []
    reader = world.store(Placed)
    done = await reader.group(GROUP).consume(
        lambda e: seen.append(e.position), idle_stop=0.3, on_error=failures.append, policy=LATER
    )
    assert seen == [1, 3, 4]
    assert (done.handled, done.failed) == (3, 2)
    assert [(f.position, f.recorded) for f in failures] == [(2, None), (5, None)]
    assert isinstance(failures[0].error, errors.UnknownEventType)
    assert isinstance(failures[1].error, errors.InvalidEvent)
    assert failures[0].raw[b"d"] == b'{"kind":"bid","price":1}'
    assert set(pending(raw, store)) == {2, 5}


async def test_a_known_consumer_gets_back_at_once_what_it_held_before_a_crash(world: World, raw: redis.Redis):
    store = await filled(world, 40)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "w1", {store.keys.log: ">"}, count=35)
    raw.xreadgroup(GROUP, "w2", {store.keys.log: ">"}, count=1)
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), consumer="w1", idle_stop=0, batch=10)
    assert seen == [*range(1, 36), *range(37, 41)]
    assert pending(raw, store) == {36: "w2"}


async def test_many_deliveries_in_work_do_not_hide_an_abandoned_one_behind_them(world: World, raw: redis.Redis):
    """The claim goes on where it stopped; one that began at the head each time would never come so far."""
    store = await filled(world, 300)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "busy", {store.keys.log: ">"}, count=300)
    age(raw, store, 300)
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), batch=1, idle_stop=0)
    assert seen == [300]


async def test_new_events_do_not_wait_behind_a_long_pending_list(world: World, raw: redis.Redis):
    store = await filled(world, 300)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "busy", {store.keys.log: ">"}, count=300)
    await store.append("a", Placed(kwh=1))
    seen: list[int] = []
    io = Counted(world.io(), CLAIM)
    await world.store(Order, io=io).group(GROUP).consume(lambda _: seen.append(io.count), idle_stop=0, batch=1)
    assert seen == [1]
    assert io.count >= 30


async def test_a_group_that_was_destroyed_is_made_again_where_it_had_got_to(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    await store.group(GROUP).consume(lambda _: None, idle_stop=0)
    seen: list[int] = []
    async with running(store.group(GROUP, start="now"), lambda e: seen.append(e.position), claim_idle=0.3):
        await until(lambda: raw.info("clients")["blocked_clients"])
        await store.append("a", Placed(kwh=6))
        await until(lambda: seen == [6])
        await until(lambda: raw.hget(store.keys.floors, GROUP).split()[0] == b"6")
        raw.xgroup_destroy(store.keys.log, GROUP)
        await store.append("a", Placed(kwh=7))
        await until(lambda: 7 in seen)
    assert seen == [6, 7]
    assert raw.xinfo_groups(store.keys.log)[0]["lag"] == 0


async def test_after_a_flush_a_group_consumes_what_is_appended_anew(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    seen: list[Any] = []
    async with running(store.group(GROUP, start="now"), lambda e: seen.append(e.event.kwh), claim_idle=0.3):
        await until(lambda: raw.info("clients")["blocked_clients"])
        raw.flushall()
        await store.append("a", [Placed(kwh=100), Placed(kwh=101)])
        await until(lambda: len(seen) == 2)
    assert seen == [100, 101]


async def test_a_flush_during_a_handler_acknowledges_nothing_of_the_new_log(world: World, raw: redis.Redis):
    store = await filled(world, 2)
    seen: list[float] = []

    def handle(recorded: Any) -> None:
        if recorded.event.kwh == 1:
            raw.flushall()
        seen.append(recorded.event.kwh)

    async with running(store.group(GROUP), handle) as task:
        await until(lambda: seen)
        await store.append("a", [Placed(kwh=100), Placed(kwh=101)])
        await until(lambda: 101 in seen)
    assert seen == [1, 100, 101]
    assert (task.result().handled, task.result().stolen) == (2, 1)


async def test_the_noted_floor_never_passes_what_is_pending(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    failing = lambda e: 1 / (e.position - 3)  # noqa: E731
    await store.group(GROUP).consume(failing, idle_stop=0, on_error=lambda _: None, policy=LATER)
    assert raw.hget(store.keys.floors, GROUP).split()[0] == b"2"
    raw.xgroup_destroy(store.keys.log, GROUP)
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert seen == [3, 4, 5, 6]


async def test_a_consumer_outlives_its_connections(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    seen: list[int] = []
    async with running(store.group(GROUP), lambda e: seen.append(e.position)):
        await until(lambda: len(seen) == 1)
        for n in range(2, 5):
            await until(lambda: raw.info("clients")["blocked_clients"])
            raw.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")
            await store.append("a", Placed(kwh=1))
            await until(lambda n=n: len(seen) == n)
    assert seen == [1, 2, 3, 4]


async def test_deleted_events_do_not_stay_pending_for_ever(
    world: World, raw: redis.Redis, caplog: pytest.LogCaptureFixture
):
    store = await filled(world, 4)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead", {store.keys.log: ">"}, count=2)
    raw.xreadgroup(GROUP, "known", {store.keys.log: ">"}, count=2)
    age(raw, store, 1, 2)
    raw.xdel(store.keys.log, "1-0", "3-0")
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), consumer="known", idle_stop=0)
    assert sorted(seen) == [2, 4]
    assert pending(raw, store) == {}
    assert caplog.text.count("deleted unhandled") == 2


async def test_dead_consumers_are_removed_only_when_they_hold_nothing(world: World, raw: redis.Redis):
    store = await filled(world, 2)
    raw.script_load(TEND.source)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "holds", {store.keys.log: ">"}, count=1)
    raw.xgroup_createconsumer(store.keys.log, GROUP, "empty")
    keys = (store.keys.log, store.keys.floors, *aside(store), store.keys.dead(GROUP))
    await until(lambda: all(row["idle"] > 2 for row in raw.xinfo_consumers(store.keys.log, GROUP)))
    floor, undelivered, held, since, *aside_now = raw.execute_command(*TEND.words(keys, (GROUP, 60_000)))
    assert (floor, undelivered, held, aside_now) == (0, 1, 1, [0, 0, 0])
    assert since == int(raw.xrange(store.keys.log, count=1)[0][1][b"w"])
    assert consumers(raw, store) == {"holds", "empty"}
    raw.execute_command(*TEND.words(keys, (GROUP, 1)))
    assert consumers(raw, store) == {"holds"}
    assert pending(raw, store) == {1: "holds"}


class Twice:
    """A driver whose network delivers one script twice: what a repeat after a lost reply looks like to the server."""

    def __init__(self, io: Any, operation: Any) -> None:
        self._io = io
        self._operation = operation
        self.count = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    async def run(self, operation: Any, keys: Any, args: Any = (), **options: Any) -> Any:
        if operation is self._operation:
            self.count += 1
            await self._io.run(operation, keys, args, **options)
        return await self._io.run(operation, keys, args, **options)


@pytest.mark.parametrize("operation", [APPEND, JOIN, ACK, LEAVE, TEND], ids=lambda o: o.name)
async def test_a_lost_reply_of_any_script_changes_no_result(world: World, raw: redis.Redis, operation: Any):
    io = Twice(world.io(), operation)
    store = world.store(Order, io=io)
    await store.append("a", [Placed(kwh=n + 1) for n in range(5)], expected_version=0)
    await store.append("a", Placed(kwh=6))
    seen: list[int] = []
    done = await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert io.count
    assert seen == [1, 2, 3, 4, 5, 6]
    assert (done.handled, done.stolen) == (6, 0)
    assert pending(raw, store) == {}
    assert consumers(raw, store) == set()


def test_an_answer_to_a_renewal_that_comes_late_lets_go_of_nothing_that_came_again_meanwhile():
    """It failed and was put aside before the server was asked, and was due again before the answer was read."""
    holding = Holding("log", GROUP, "me", 30.0, 0.0)
    holding.held.update({b"1-0": 0, b"2-0": 0})
    assert holding.request(10.0) is not None
    del holding.held[b"1-0"]
    holding.held[b"1-0"] = 1
    assert holding.settle([b"1-0", b"2-0"], 10.0)
    assert holding.held == {b"1-0": 1}


async def test_a_renewal_delivered_twice_renews_only_what_is_still_ours(world: World, raw: redis.Redis):
    store = await filled(world, 2)
    raw.script_load(RENEW.source)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "me", {store.keys.log: ">"}, count=1)
    raw.xreadgroup(GROUP, "thief", {store.keys.log: ">"}, count=1)
    words = RENEW.words((store.keys.log,), (GROUP, "me", "1-0", "2-0", "3-0"))
    assert [raw.execute_command(*words) for _ in range(2)] == [[b"2-0", b"3-0"]] * 2
    assert pending(raw, store) == {1: "me", 2: "thief"}
    assert [row["times_delivered"] for row in raw.xpending_range(store.keys.log, GROUP, "-", "+", 9)] == [1, 1]


class Unanswered:
    """A driver that loses the reply of the first reading of one kind: applied, and nobody knows."""

    def __init__(self, io: Any, name: str) -> None:
        self._io = io
        self._name = name
        self.lost = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    async def run(self, operation: Any, keys: Any, args: Any = (), **options: Any) -> Any:
        return self._pass(operation, await self._io.run(operation, keys, args, **options))

    async def block(self, operation: Any, keys: Any, args: Any, **options: Any) -> Any:
        return self._pass(operation, await self._io.block(operation, keys, args, **options))

    def _pass(self, operation: Any, reply: Any) -> Any:
        if operation.name == self._name and not self.lost:
            self.lost += 1
            raise errors.OutcomeUnknown("the reply was lost")
        return reply


@pytest.mark.parametrize("name", ["streams.read_new", CLAIM.name, ACK.name, TEND.name, JOIN.name])
async def test_deliveries_of_a_lost_reply_are_found_again_at_once(
    world: World, raw: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
):
    """With the default claim_idle of 30 s: nothing waits for it."""
    monkeypatch.setattr(_consumer, "PAUSE_MIN", 0.01)
    store = await filled(world, 6)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead", {store.keys.log: ">"}, count=2)
    raw.xclaim(store.keys.log, GROUP, "~free", 0, ["1-0", "2-0"], time=1, justid=True)
    io = Unanswered(world.io(), name)
    seen: list[int] = []
    done = await world.store(Order, io=io).group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0.3)
    assert io.lost == 1
    assert seen == [1, 2, 3, 4, 5, 6]
    assert done.handled == 6
    assert pending(raw, store) == {}


@pytest.mark.parametrize(
    "options",
    [
        {"concurrency": 0},
        {"batch": 0},
        {"batch": 1001},
        {"claim_idle": 0},
        {"claim_idle": float("nan")},
        {"idle_stop": -1},
        {"consumer": ""},
        {"consumer": "~free"},
    ],
)
async def test_a_bad_option_is_refused_before_anything_is_sent(world: World, raw: redis.Redis, options: dict[str, Any]):
    store = world.store(Order)
    with pytest.raises(errors.UsageError):
        await store.group(GROUP).consume(print, **options)
    with pytest.raises(errors.UsageError):
        store.group("")
    assert raw.dbsize() == 0


@pytest.mark.leaves_keys
async def test_a_log_of_a_wrong_type_ends_the_consumer_with_an_error(world: World, raw: redis.Redis):
    store = world.store(Order)
    raw.set(store.keys.log, "not ours")
    async with asyncio.timeout(20):
        with pytest.raises(errors.ServerError, match="WRONGTYPE"):
            await store.group(GROUP).consume(print)


@pytest.mark.parametrize(
    ("argument", "words"),
    [
        ({"handler": None}, "must be a function of one event, not None"),
        ({"on_error": "log"}, "must be a function of one failure, not 'log'"),
        ({"batch": "10"}, "batch='10' must be a whole number from 1"),
    ],
)
async def test_what_cannot_work_is_refused_before_an_event_is_taken(world: World, argument: Any, words: str):
    store = await filled(world, 1)
    with pytest.raises(errors.UsageError, match=words):
        await store.group(GROUP).consume(**{"handler": print, "idle_stop": 0, **argument})


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_a_thread_refuses_coroutine_functions_and_concurrency(world: World):
    async def handle(_: Any) -> None:
        """Never called."""

    store = await filled(world, 1)
    group = store.group(GROUP)
    with pytest.raises(errors.UsageError, match="coroutine function"):
        await group.consume(handle)
    failures: list[Any] = []
    done = await group.consume(lambda e: handle(e), idle_stop=0, on_error=failures.append, policy=LATER)  # noqa: PLW0108
    assert (done.handled, done.failed) == (0, 1)
    assert isinstance(failures[0].error, errors.UsageError)
    with pytest.raises(errors.UsageError, match="threads"):
        await group.consume(print, concurrency=2)


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_an_interrupted_thread_gives_everything_back(world: World, raw: redis.Redis):
    store = await filled(world, 4)

    def handle(recorded: Any) -> None:
        if recorded.position == 2:
            raise KeyboardInterrupt

    def consume() -> None:
        with pytest.raises(KeyboardInterrupt):
            store.group(GROUP).group.consume(handle)

    await asyncio.to_thread(consume)
    assert consumers(raw, store) == {"~free"}
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert sorted(seen) == [2, 3, 4]


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_task_runs_as_many_handlers_as_it_was_told(world: World, raw: redis.Redis):
    store = await filled(world, 12)
    gate, begun = threading.Event(), list[int]()
    async with running(store.group(GROUP), gated(world, gate, begun), concurrency=5, batch=3) as task:
        await until(lambda: len(begun) == 5)
        gate.set()
        await until(lambda: len(begun) == 12 and not pending(raw, store))
    assert begun[:5] == [1, 2, 3, 4, 5]
    assert task.result().handled == 12


async def test_a_slow_consumer_leaves_to_others_what_it_could_not_begin(world: World, raw: redis.Redis):
    store = await filled(world, 20)
    gate, begun, other = threading.Event(), list[int](), list[int]()
    async with running(store.group(GROUP), gated(world, gate, begun)):
        await until(lambda: begun)
        async with running(world.store(Order).group(GROUP), lambda e: other.append(e.position)):
            await until(lambda: len(other) == 19)
        gate.set()
    assert begun == [1]
    assert pending(raw, store) == {}


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_slow_handler_does_not_hold_up_the_others(world: World):
    store = await filled(world, 30)
    gate, begun = threading.Event(), list[int]()
    slow = gated(world, gate, begun)

    async def handle(recorded: Any) -> None:
        if recorded.position == 1:
            await slow(recorded)
        else:
            begun.append(recorded.position)

    async with running(store.group(GROUP), handle, concurrency=2, batch=4):
        await until(lambda: len(begun) == 30)
        gate.set()


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_cancelled_consumer_acknowledges_nothing_unhandled_and_gives_everything_back(
    world: World, raw: redis.Redis
):
    store = await filled(world, 5)
    gate, begun = threading.Event(), list[int]()
    task = asyncio.create_task(store.group(GROUP).consume(gated(world, gate, begun), concurrency=2))
    await until(lambda: len(begun) == 2)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await until(lambda: consumers(raw, store) == {"~free"})
    assert set(pending(raw, store)) == {1, 2}
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert sorted(seen) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
@pytest.mark.any_server
@pytest.mark.parametrize("ordered", [False, True])
async def test_a_handler_whose_own_work_was_cancelled_has_failed_and_ends_no_consumer(
    world: World, raw: redis.Redis, *, ordered: bool
):
    """Otherwise its worker is gone without a word, and what it held is renewed for ever."""
    store, seen, failures = await filled(world, 6), list[int](), list[Any]()

    def cancelled(kind: Any, recorded: Any) -> Any:
        seen.append(recorded.position)
        work = kind()
        if len(seen) == 2:
            work.cancel()
        else:
            work.set_result(None)
        return work

    def handle(recorded: Any) -> None:
        cancelled(concurrent.futures.Future, recorded).result()

    async def handle_async(recorded: Any) -> None:
        await cancelled(asyncio.Future, recorded)

    options = {"policy": Retry(first_s=0.02, max_s=0.02), "on_error": failures.append}
    group, handler = store.group(GROUP, ordered=ordered), handle_async if world.is_async else handle
    async with running(group, handler, concurrency=3 if world.is_async else 1, **options) as task:
        await until(lambda: len(seen) == 7 and pending(raw, store) == {})
    assert [(type(failure.error), failure.decided) for failure in failures] == [
        (concurrent.futures.CancelledError, "park" if ordered else "retry")
    ]
    assert (task.result().handled, task.result().failed) == (6, 1)


async def test_cancelling_at_any_moment_loses_nothing(world: World, raw: redis.Redis):
    """Cancel after 0, 1, 2, … 79 steps of the loop; whatever was not handled then is handled later."""
    store = await filled(world, 30)
    handled: list[int] = []
    for steps in range(80):
        task = asyncio.create_task(
            store.group(GROUP).consume(lambda e: handled.append(e.position), batch=2, idle_stop=0)
        )
        for _ in range(steps):
            await asyncio.sleep(0)
        if task.done():
            break
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    await until(lambda: consumers(raw, store) <= {"~free"})
    age(raw, store)
    await store.group(GROUP).consume(lambda e: handled.append(e.position), idle_stop=0)
    assert set(handled) == set(range(1, 31))
    assert pending(raw, store) == {}


async def test_closing_the_driver_ends_its_consumers(world: World, raw: redis.Redis):
    io = world.io()
    task = asyncio.create_task(world.store(Order, io=io).group(GROUP).consume(print))
    await until(lambda: raw.info("clients")["blocked_clients"])
    await (io.close() if world.is_async else asyncio.to_thread(io.close))
    async with asyncio.timeout(20):
        with pytest.raises(errors.GridsyncError, match="closed"):
            await task


def test_an_outage_that_lasts_does_not_hurry_what_others_keep():
    """The watchdog blocks no request past the earliest deadline: one that has passed would cut all of them short."""
    holding = Holding("log", GROUP, "me", 3.0, now=0.0)
    holding.held[b"1-0"] = None
    now = 0.0
    while now < 30.0:
        now = holding.due
        assert holding.request(now) is not None
        assert holding.settle(errors.Unavailable("away"), now)
        assert holding.deadline > now
    assert holding.settle([b"1-0"], now)
    assert holding.request(now + 1) is None


async def test_a_server_without_memory_takes_acknowledgements(world: World, raw: redis.Redis):
    """What was handled would be handled again, on a server that could take nothing but what frees memory."""
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    seen: list[int] = []

    def handle(recorded: Any) -> None:
        seen.append(recorded.position)
        raw.config_set("maxmemory", 1)

    try:
        if world.is_async:

            async def handler(recorded: Any) -> None:
                handle(recorded)

            consumed = await store.group(GROUP).consume(handler, idle_stop=0.1)
        else:
            consumed = await store.group(GROUP).consume(handle, idle_stop=0.1)
    finally:
        raw.config_set("maxmemory", 0)
    assert (seen, consumed.handled, pending(raw, store)) == ([1, 2], 2, {})


async def test_a_consumer_without_a_descriptor_for_its_connection_waits_longer_each_time(
    world: World, caplog: pytest.LogCaptureFixture
):
    """What works on another connection in between must not make it hurry: that would fill the log."""
    store = world.store(Order)
    group, seen = store.group(GROUP), list[int]()
    await store.append("a", Placed(kwh=1))

    def pauses() -> list[str]:
        said = [record.getMessage() for record in caplog.records if "cannot read, next attempt in" in record.msg]
        return [message.partition("next attempt in ")[2].partition(" s:")[0] for message in said]

    with starved():
        async with running(group, lambda e: seen.append(e.position)):
            await until(lambda: len(pauses()) >= 3, 20)
            resource.setrlimit(resource.RLIMIT_NOFILE, LIMITS)
            await until(lambda: seen == [1], 20)
    assert pauses()[:3] == ["0.1", "0.2", "0.4"]
    assert "Too many open files" in caplog.text


async def test_a_lost_group_whose_events_were_removed_is_told_so(world: World, raw: redis.Redis):
    """It would go on behind events that it never had, and nobody would know."""
    store = await filled(world, 6)
    await store.group(GROUP).consume(lambda e: 1 / (e.position - 3), idle_stop=0, on_error=lambda _: None, policy=LATER)
    raw.xgroup_destroy(store.keys.log, GROUP)
    raw.xtrim(store.keys.log, minid="5-0", approximate=False)
    raw.hset(store.keys.meta, "trimmed", 4)
    with pytest.raises(errors.Truncated) as caught:
        await store.group(GROUP).consume(lambda _: None, idle_stop=0)
    assert caught.value.first == 5
    assert "2 events" in str(caught.value)
    skip = store.group(GROUP).group.skip_removed
    assert (await skip() if world.is_async else await asyncio.to_thread(skip)) == 2
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert seen == [5, 6]
    assert raw.xinfo_groups(store.keys.log)[0]["lag"] == 0
