"""What becomes of an event whose handler fails: tried again, put in line, given up, and given back; never lost."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import DEAD, SKIP, STOP, Park, Retry, _aside, _consumer
from gridsync.streams._aside import BEGIN, BURY, DUE, PARK
from gridsync.streams._consumer import TEND
from gridsync.streams._failures import TEXT_MAX, Rules, described
from gridsync.streams._letters import REPLAY
from tests.streams.conftest import NAMESPACE, until
from tests.streams.models import LATER, Bid, Order, Placed
from tests.streams.test_consumer import GROUP, Twice, Unanswered, age, consumers, filled, pending, running

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Group, Store, World

SOON = Retry(first_s=0.05, max_s=0.05)
BEHIND = Park(first_s=0.05, max_s=0.05)


@pytest.fixture(autouse=True)
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut short by chance."""
    monkeypatch.setattr(_aside.Aside, "chance", lambda _: 1.0)


async def letters(group: Group) -> list[Any]:
    found = group.group.dead_letters()
    return [each async for each in found] if hasattr(found, "__aiter__") else list(found)


async def replay(group: Group, *args: Any, **options: Any) -> Any:
    done = group.group.dead_letters().replay(*args, **options)
    return await done if asyncio.iscoroutine(done) else done


async def discard(group: Group, letter_id: str) -> Any:
    done = group.group.dead_letters().discard(letter_id)
    return await done if asyncio.iscoroutine(done) else done


def deliveries(raw: redis.Redis, store: Store) -> dict[int, int]:
    """Return position → how often it was begun, of everything pending."""
    rows = raw.xpending_range(store.keys.log, GROUP, "-", "+", 1000)
    return {int(row["message_id"][:-2]): row["times_delivered"] for row in rows}


def due_now(raw: redis.Redis, store: Store) -> None:
    """Let the time of everything that was put aside come."""
    for entry_id in raw.zrange(store.keys.retry(GROUP), 0, -1):
        raw.zadd(store.keys.retry(GROUP), {entry_id: 0})


def nothing_left(raw: redis.Redis, store: Store) -> bool:
    keys = store.keys
    return not pending(raw, store) and not raw.exists(keys.retry(GROUP), keys.failed(GROUP), keys.waiting(GROUP))


class Breaks:
    """A handler that raises at some positions, each as often as it is told."""

    def __init__(self, **times: int) -> None:
        self.times = {int(name[1:]): count for name, count in times.items()}
        self.seen: list[int] = []
        self.done: list[int] = []

    def __call__(self, recorded: Any) -> None:
        self.seen.append(recorded.position)
        if self.times.get(recorded.position, 0):
            self.times[recorded.position] -= 1
            raise ValueError(f"not now: {recorded.position}")
        self.done.append(recorded.position)


async def test_a_failed_event_comes_again_long_before_it_could_be_claimed(world: World, raw: redis.Redis):
    """A refusal that only waits for the claim time is no retry."""
    store, handler = await filled(world, 3), Breaks(p2=3)
    async with running(store.group(GROUP), handler, policy=SOON, on_error=lambda _: None) as task:
        await until(lambda: 2 in handler.done)
        await until(lambda: nothing_left(raw, store))
    assert handler.seen == [1, 2, 3, 2, 2, 2]
    assert (task.result().handled, task.result().failed, task.result().dead) == (3, 3, 0)


async def test_nothing_is_acknowledged_because_it_failed(world: World, raw: redis.Redis):
    store = await filled(world, 2)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, policy=LATER, on_error=lambda _: None)
    assert pending(raw, store) == {1: "~parked", 2: "~parked"}
    assert raw.hget(store.keys.floors, GROUP).split()[0] == b"0"


async def test_what_is_parked_is_never_claimed_however_long_it_waits(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, policy=LATER, on_error=lambda _: None)
    age(raw, store)
    handler = Breaks()
    await store.group(GROUP).consume(handler, idle_stop=0.3, claim_idle=0.1)
    assert handler.seen == []
    assert pending(raw, store) == {1: "~parked"}


async def test_attempts_are_counted_by_the_server_through_every_restart(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    failures: list[Any] = []
    for _ in range(3):
        await (
            world.store(Order)
            .group(GROUP)
            .consume(lambda _: 1 / 0, idle_stop=0, policy=LATER, on_error=failures.append)
        )
        due_now(raw, store)
    assert [(f.attempts, f.decided, f.retry_in) for f in failures] == [(n, "retry", LATER.first_s) for n in (1, 2, 3)]


async def test_pauses_grow_up_to_the_longest_on_the_clock_of_the_server(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    pauses: list[Any] = []
    policy = Retry(first_s=100, factor=3, max_s=1000)
    for _ in range(4):
        await store.group(GROUP).consume(
            lambda _: 1 / 0, idle_stop=0, policy=policy, on_error=lambda f: pauses.append(f.retry_in)
        )
        seconds, micros = raw.time()
        ((_, due),) = raw.zrange(store.keys.retry(GROUP), 0, -1, withscores=True)
        now = seconds * 1000 + micros // 1000
        assert pauses[-1] * 1000 - 60_000 < due - now <= pauses[-1] * 1000
        due_now(raw, store)
    assert pauses == [100, 300, 900, 1000]


def test_a_pause_is_drawn_between_nothing_and_its_longest_and_never_overflows():
    retry = Retry(first_s=1, factor=100, max_s=60)
    assert [retry.pause_ms(n, 0.5) for n in (1, 2, 10**6)] == [500, 30_000, 30_000]
    assert retry.pause_ms(1, 0.0) == 0


def test_chances_are_spread_evenly():
    class Tokens:
        count = 0

        def token(self) -> str:
            self.count += 1
            return f"process{self.count}"

    from gridsync._io.keys import events  # noqa: PLC0415 - the fixture of this module replaces what is tested here

    aside = _aside.Aside(Tokens(), events("n", "s"), "g", "c")  # type: ignore[arg-type]
    drawn = [REAL_CHANCE(aside) for _ in range(2000)]
    assert all(0 <= each < 1 for each in drawn)
    assert all(150 < sum(low <= each * 10 < low + 1 for each in drawn) < 250 for low in range(10))


REAL_CHANCE = _aside.Aside.chance


async def test_a_retry_is_handed_out_though_another_consumer_put_it_aside(
    world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_consumer, "BLOCK_MAX", 0.2)
    store, handler = await filled(world, 1), Breaks()
    async with running(world.store(Order).group(GROUP), handler):
        await until(lambda: handler.done == [1])
        await store.append("a", Placed(kwh=2))
        await until(lambda: handler.done == [1, 2])
        raw.xclaim(store.keys.log, GROUP, "~parked", 0, ["2-0"], force=True, justid=True)
        raw.zadd(store.keys.retry(GROUP), {"2-0": 0})
        await until(lambda: handler.done == [1, 2, 2])


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_retry_does_not_wait_for_the_read_that_another_worker_began_before_it(world: World):
    store = world.store(Order)
    gate, seen = asyncio.Event(), list[int]()

    async def handle(recorded: Any) -> None:
        seen.append(recorded.position)
        await gate.wait()
        if len(seen) == 1:
            raise ValueError

    group = store.group(GROUP)
    async with running(group, handle, concurrency=2, policy=SOON, on_error=lambda _: None):
        await store.append("a", Placed(kwh=1))
        await until(lambda: seen)
        gate.set()
        # Shorter than the read that is under way.
        async with asyncio.timeout(_consumer.BLOCK_MAX * 0.8):
            await until(lambda: len(seen) == 2)


async def test_what_is_due_and_what_is_new_take_turns(world: World, raw: redis.Redis):
    store, handler = await filled(world, 60), Breaks(**{f"p{n}": 1 for n in range(1, 31)})
    await store.group(GROUP).consume(handler, idle_stop=0, policy={ValueError: LATER}, on_error=lambda _: None)
    due_now(raw, store)
    await store.append("b", [Placed(kwh=n + 1) for n in range(30)])
    handler.seen.clear()
    await store.group(GROUP).consume(handler, idle_stop=0, batch=4)
    old = [place for place, position in enumerate(handler.seen) if position <= 30]
    assert sorted(handler.seen) == [*range(1, 31), *range(61, 91)]
    assert min(old) < 10
    assert max(old) > 30


class Slow:
    """A driver to whose clock every call takes so many seconds longer than it does."""

    def __init__(self, io: Any, seconds: float) -> None:
        self._io = io
        self._seconds = seconds
        self._passed = 0.0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    def monotonic(self) -> float:
        return float(self._io.monotonic()) + self._passed

    async def run(self, *args: Any, **options: Any) -> Any:
        reply = await self._io.run(*args, **options)
        self._passed += self._seconds
        return reply

    async def block(self, *args: Any, **options: Any) -> Any:
        reply = await self._io.block(*args, **options)
        self._passed += self._seconds
        return reply


async def test_a_consumer_that_is_late_makes_the_retries_that_were_due_before_it_ends(world: World, raw: redis.Redis):
    """On a busy machine it looked at its idle time first, and left what had been due long before."""
    store, handler = await filled(world, 2), Breaks(p1=2)
    group = world.store(Order, io=Slow(world.io(), 1.0)).group(GROUP)
    await group.consume(handler, idle_stop=0.5, policy=SOON, on_error=lambda _: None)
    assert handler.seen == [1, 2, 1, 1]
    assert nothing_left(raw, store)


async def test_however_slow_the_server_is_new_events_are_read_and_an_idle_consumer_ends(world: World):
    """The next search for abandoned events was due before the last one was over, and nothing else was done."""
    await filled(world, 3)
    handler = Breaks()
    group = world.store(Order, io=Slow(world.io(), 1.0)).group(GROUP)
    await asyncio.wait_for(group.consume(handler, idle_stop=0, claim_idle=1.0), 30)
    assert handler.seen == [1, 2, 3]


@pytest.mark.parametrize("count", [1, 3])
async def test_after_so_many_attempts_an_event_is_a_dead_letter_with_its_cause(
    world: World, raw: redis.Redis, count: int
):
    store, handler = await filled(world, 2), Breaks(p1=99)
    group, failures = store.group(GROUP), list[Any]()
    policy = Retry(max_attempts=count, first_s=0.02, max_s=0.02)
    async with running(group, handler, policy=policy, on_error=failures.append, consumer="w1") as task:
        await until(lambda: raw.xlen(store.keys.dead(GROUP)) and 2 in handler.seen)
        await until(lambda: nothing_left(raw, store))
    (letter,) = await letters(group)
    assert (letter.position, letter.stream, letter.type, letter.attempts) == (1, "a", "Placed", count)
    assert (letter.error, letter.text, letter.consumer) == ("ValueError", "not now: 1", "w1")
    assert letter.raw[b"d"] == (await store.read("a"))[0].event.model_dump_json().encode()
    assert letter.first <= letter.last
    assert (letter.first == letter.last) == (count == 1)
    assert [f.decided for f in failures] == ["retry"] * (count - 1) + ["dead"]
    assert (task.result().dead, task.result().handled) == (1, 1)
    assert await discard(group, letter.id) is True
    assert await discard(group, letter.id) is False
    assert await letters(group) == []


async def test_an_event_that_cannot_be_read_becomes_a_dead_letter_with_its_bytes(world: World):
    store = world.store([Placed, Bid])
    await store.append("a", [Placed(kwh=1), Bid(price=1)])
    group = world.store(Placed).group(GROUP)
    done = await group.consume(
        lambda _: None, idle_stop=0, policy={errors.UnknownEventType: DEAD}, on_error=lambda _: None
    )
    assert (done.handled, done.failed, done.dead) == (1, 1, 1)
    (letter,) = await letters(group)
    assert letter.error == "gridsync.errors.UnknownEventType"
    assert letter.raw[b"d"] == b'{"kind":"bid","price":1}'


async def test_a_dead_letter_holds_what_was_deleted_from_the_log_meanwhile(world: World, raw: redis.Redis):
    store = await filled(world, 1)

    def handle(_: Any) -> None:
        raw.xdel(store.keys.log, "1-0")
        raise ValueError

    group = store.group(GROUP)
    await group.consume(handle, idle_stop=0, policy=DEAD, on_error=lambda _: None)
    (letter,) = await letters(group)
    assert b'"kwh":1' in letter.raw[b"d"]
    assert pending(raw, store) == {}
    # It cannot be replayed, and is not thrown away for it.
    assert (await replay(group)).trimmed == 1
    assert len(await letters(group)) == 1


async def test_the_nearest_class_of_a_policy_counts(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    raised = {1: KeyError("a"), 2: IndexError("b"), 3: ValueError("c"), 4: UnicodeError("d"), 5: ArithmeticError()}
    policy = {LookupError: SKIP, KeyError: DEAD, ValueError: LATER, UnicodeError: Park(first_s=3600)}
    decided: dict[int, str] = {}

    def handle(recorded: Any) -> None:
        raise raised[recorded.position]

    # The fourth stands in the way of the fifth.
    done = await store.group(GROUP).consume(
        handle, idle_stop=0, policy=policy, on_error=lambda f: decided.update({f.position: f.decided})
    )
    assert decided == {1: "dead", 2: "skip", 3: "retry", 4: "park"}
    assert (done.failed, done.skipped, done.dead) == (4, 1, 1)
    assert pending(raw, store) == {3: "~parked", 4: "~parked", 5: "~parked"}


def test_what_a_policy_does_not_name_is_tried_again_for_ever():
    rules = Rules({KeyError: DEAD}, None)
    assert rules.judge(OSError(), 10**9) == Retry()
    assert rules.max_deliveries is None
    assert Rules(Retry(max_attempts=5), None).max_deliveries == 5
    assert Rules({Exception: Retry(max_attempts=5)}, 7).max_deliveries == 7


def test_what_a_rule_tries_for_longer_is_not_given_up_by_the_bound_of_another():
    """Else an event that ConnectionError retries for ever would be a dead letter after the attempts of Exception."""
    assert Rules({ConnectionError: Retry(), Exception: Retry(max_attempts=5)}, None).max_deliveries is None
    assert Rules({ConnectionError: Retry(max_attempts=9), Exception: Retry(max_attempts=5)}, None).max_deliveries == 9
    assert Rules({ConnectionError: DEAD, Exception: Retry(max_attempts=5)}, None).max_deliveries == 5


async def test_stop_ends_the_consumer_with_the_error_and_the_event_stays(world: World, raw: redis.Redis):
    store, handler = await filled(world, 3), Breaks(p2=1)
    with pytest.raises(ValueError, match="not now: 2"):
        await store.group(GROUP).consume(handler, policy={ValueError: STOP}, on_error=lambda _: None)
    assert handler.seen == [1, 2]
    assert pending(raw, store)[2] == "~free"
    assert deliveries(raw, store)[2] == 1
    age(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0)
    assert sorted(handler.done) == [1, 2, 3]


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_stop_lets_the_other_handlers_of_the_consumer_finish(world: World, raw: redis.Redis):
    store, done, both = await filled(world, 2), list[int](), asyncio.Event()

    async def handle(recorded: Any) -> None:
        if recorded.position == 2:
            both.set()
            raise ValueError
        await both.wait()
        await until(lambda: pending(raw, store))
        done.append(recorded.position)

    with pytest.raises(ValueError, match=r"^$"):
        await store.group(GROUP).consume(handle, concurrency=3, policy=STOP, on_error=lambda _: None)
    assert done == [1]
    assert pending(raw, store) == {2: "~free"}


async def test_later_events_of_a_stream_wait_behind_a_parked_one_in_order(world: World, raw: redis.Redis):
    store = world.store(Order)
    for _ in range(3):
        await store.append("a", Placed(kwh=1))
        await store.append("b", Placed(kwh=1))
    handler = Breaks(p1=2)
    async with running(store.group(GROUP), handler, policy=BEHIND, on_error=lambda _: None):
        await until(lambda: len(handler.done) == 6)
        await until(lambda: nothing_left(raw, store))
        # Whoever comes after it is over does not wait.
        await store.append("a", Placed(kwh=1))
        await until(lambda: 7 in handler.done)
    assert [position for position in handler.done if position % 2] == [1, 3, 5, 7]
    assert handler.done[:3] == [2, 4, 6]
    assert handler.seen.count(1) == 3
    assert handler.seen.count(3) == 1


async def test_events_that_arrive_while_others_wait_stand_behind_them(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    handler = Breaks(p1=1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    await store.group(GROUP).consume(handler, idle_stop=0, policy=BEHIND)
    assert handler.seen == [1]
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0.2, policy=BEHIND)
    assert handler.seen == [1, 1, 2, 3, 4, 5]
    assert nothing_left(raw, store)


@pytest.mark.parametrize("policy", [{ValueError: Park(max_attempts=1)}, {ValueError: SKIP, KeyError: BEHIND}])
async def test_an_event_that_is_given_up_stands_in_nobodys_way(world: World, raw: redis.Redis, policy: Any):
    store, handler = await filled(world, 3), Breaks(p1=2)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    assert handler.seen == [1]
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0.2, policy=policy, on_error=lambda _: None)
    assert handler.done == [2, 3]
    assert nothing_left(raw, store)


async def test_the_names_of_streams_do_not_get_in_each_others_way(world: World, raw: redis.Redis):
    """Names that begin alike, end in digits, or hold what separates others."""
    store = world.store(Order)
    names = ["a", "a0", "a\0", "a\x000000000000000001", "é", "aé", "0"]
    for _ in range(2):
        for name in names:
            await store.append(name, Placed(kwh=1))
    handler = Breaks(p1=1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    assert sorted(handler.done) == [n for n in range(2, 15) if n != 8]
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0.2, policy=BEHIND)
    assert handler.done[-2:] == [1, 8]
    assert nothing_left(raw, store)


async def test_an_earlier_event_that_fails_too_goes_first(world: World, raw: redis.Redis):
    """A dead consumer left it: it comes after a later one of its stream was parked."""
    store = await filled(world, 3)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead", {store.keys.log: ">"}, count=1)
    handler = Breaks(p1=1, p2=1)
    policy = Park(first_s=3600)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=policy, on_error=lambda _: None)
    age(raw, store, 1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=policy, on_error=lambda _: None)
    assert handler.seen == [2, 1]
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=BEHIND)
    assert handler.done == [1], "the other one has its pause still to come, and what waits for that waits on"
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=BEHIND)
    assert handler.done == [1, 2, 3]
    assert nothing_left(raw, store)


async def test_a_later_event_that_fails_too_waits_for_the_first_one(world: World, raw: redis.Redis):
    """Two of a stream were in work at the same time; what comes behind them must not overtake the second."""
    store = await filled(world, 3)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xreadgroup(GROUP, "other", {store.keys.log: ">"}, count=1)
    raw.script_load(PARK.source)
    keys = (store.keys.log, *(key(GROUP) for key in (store.keys.retry, store.keys.failed, store.keys.waiting)))
    words = PARK.words(keys, (GROUP, "other", "1-0", "3600000", "1", "a", "ValueError\n\nnot now"))
    handler = Breaks(p2=1)

    def handle(recorded: Any) -> None:
        if not handler.seen:
            assert raw.execute_command(*words) == [1, 3_600_000]
        handler(recorded)

    await store.group(GROUP).consume(handle, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    assert handler.seen == [2]
    assert raw.zrange(store.keys.retry(GROUP), 0, -1) == [b"1-0"]
    for done in ([1], [1, 2, 3]):
        due_now(raw, store)
        await store.group(GROUP).consume(handler, idle_stop=0, policy=BEHIND)
        assert handler.done == done
    assert nothing_left(raw, store)


CHILD = """
import os, signal, sys
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import EventStore
from tests.streams.models import LATER, Order

url, namespace, group = sys.argv[1:]
store = EventStore(SyncIO(parse(url, connect_timeout=10.0), pool_size=2, timeout=10.0), namespace, "orders", Order)

def handle(recorded):
    if recorded.position == 2:
        os.kill(os.getpid(), signal.SIGKILL)

store.group(group).consume(handle, consumer="w1", idle_stop=0, max_deliveries=3, on_error=lambda f: None)
"""


async def test_an_event_that_kills_its_process_again_and_again_becomes_a_dead_letter(world: World, raw: redis.Redis):
    """No handler raised, nobody could count: the server did.  What was prefetched beside it is innocent."""
    store, group = await filled(world, 4), world.store(Order).group(GROUP)
    words = [sys.executable, "-c", CHILD, world.url, NAMESPACE, GROUP]
    ends = [(await asyncio.to_thread(subprocess.run, words, check=False)).returncode for _ in range(3)]
    assert deliveries(raw, store) == {2: 3, 3: 1, 4: 1}
    ends += [(await asyncio.to_thread(subprocess.run, words, check=False)).returncode]
    assert ends == [-9, -9, -9, 0]
    (letter,) = await letters(group)
    assert (letter.position, letter.attempts) == (2, 3)
    assert letter.error == "gridsync.errors.TooManyDeliveries"
    assert nothing_left(raw, store)
    assert raw.xlen(store.keys.dead(GROUP)) == 1


async def test_leaving_politely_counts_no_attempt(world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    """A fleet that is restarted often would otherwise give up events that nobody ever tried to the end."""
    # However long the first event takes here, the rest is taken ahead of the second one.
    monkeypatch.setattr(_consumer, "AHEAD", 1e9)
    store = await filled(world, 9)
    for left in (7, 5, 3, 1):
        group, begun = store.group(GROUP), list[int]()

        def stop(recorded: Any, group: Group = group, begun: list[int] = begun) -> None:
            begun.append(recorded.position)
            if len(begun) == 2:
                group.stop()

        assert (await group.consume(stop, concurrency=1)).returned > 0
        assert list(deliveries(raw, store).values()) == [0] * left


async def test_a_lost_reply_counts_no_attempt(world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(_consumer, "PAUSE_MIN", 0.01)
    store = await filled(world, 1)
    failures: list[Any] = []
    io = Unanswered(world.io(), "streams.read_new")
    await (
        world.store(Order, io=io)
        .group(GROUP)
        .consume(lambda _: 1 / 0, idle_stop=0, policy=LATER, on_error=failures.append)
    )
    assert io.lost == 1
    assert [f.attempts for f in failures] == [1]
    assert pending(raw, store) == {1: "~parked"}


@pytest.mark.parametrize("operation", [PARK, BURY, BEGIN, REPLAY, TEND], ids=lambda o: o.name)
async def test_a_script_that_is_run_twice_does_once_what_it_does(world: World, raw: redis.Redis, operation: Any):
    io = Twice(world.io(), operation)
    store = world.store(Order, io=io)
    await store.append("a", [Placed(kwh=n + 1) for n in range(3)])
    handler, group = Breaks(p1=4, p2=1), store.group(GROUP)
    failures: list[Any] = []
    policy = Park(max_attempts=2, first_s=0.02, max_s=0.02)
    done = await group.consume(handler, idle_stop=0.3, policy=policy, on_error=failures.append)
    assert [(f.position, f.attempts, f.decided) for f in failures] == [
        (1, 1, "park"), (1, 2, "dead"), (2, 1, "park"),
    ]  # fmt: skip
    assert (done.handled, done.failed, done.stolen, done.dead) == (2, 3, 0, 1)
    assert handler.done == [2, 3]
    assert [letter.position for letter in await letters(group)] == [1]
    assert (await replay(group)).replayed == 1
    assert await letters(group) == []
    done = await store.group(GROUP).consume(handler, idle_stop=0.3, policy=policy, on_error=failures.append)
    assert [(f.attempts, f.decided) for f in failures[3:]] == [(1, "park"), (2, "dead")]
    assert [letter.attempts for letter in await letters(group)] == [2]
    assert io.count
    assert nothing_left(raw, store)


class Late:
    """A driver that remembers the first request of one script, whose copy the network may deliver much later."""

    def __init__(self, io: Any, operation: Any) -> None:
        self._io = io
        self._operation = operation
        self._copy: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    async def run(self, operation: Any, keys: Any, args: Any = (), **options: Any) -> Any:
        if operation is self._operation and self._copy is None:
            self._copy = operation.words(tuple(keys), tuple(args))
        return await self._io.run(operation, keys, args, **options)

    def arrive(self, raw: redis.Redis) -> Any:
        raw.script_load(self._operation.source)
        return raw.execute_command(*self._copy)


@pytest.mark.parametrize("operation", [PARK, BEGIN], ids=lambda o: o.name)
async def test_a_request_of_an_earlier_attempt_that_comes_late_changes_nothing(
    world: World, raw: redis.Redis, operation: Any
):
    """The copy of a request that was cut off: the event is with the same consumer again, which has begun it since."""
    io = Late(world.io(), operation)
    store = world.store(Order, io=io)
    await store.append("a", Placed(kwh=1))
    answers: list[Any] = []

    def handle(recorded: Any) -> None:
        attempts = deliveries(raw, store)[recorded.position]
        if attempts < 3:
            raise ValueError(attempts)
        answers.append((io.arrive(raw), deliveries(raw, store)))

    done = await store.group(GROUP).consume(
        handle, consumer="c", idle_stop=0.3, policy=Retry(first_s=0.02, max_s=0.02), on_error=lambda _: None
    )
    (((code, *_), now),) = answers
    assert (code, now) == (-1, {1: 3})
    assert (done.handled, done.failed, done.stolen) == (1, 2, 0)
    assert nothing_left(raw, store)


@pytest.mark.parametrize("name", [PARK.name, BURY.name, BEGIN.name, DUE.name])
async def test_an_event_whose_failure_could_not_be_told_is_not_lost(
    world: World, raw: redis.Redis, name: str, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(_consumer, "PAUSE_MIN", 0.01)
    store, handler = await filled(world, 2), Breaks(p1=2)
    io = Unanswered(world.io(), name)
    policy = Retry(max_attempts=2, first_s=0.02, max_s=0.02)
    group = world.store(Order, io=io).group(GROUP)
    await group.consume(handler, idle_stop=0.3, policy=policy, on_error=lambda _: None, claim_idle=5)
    assert io.lost == 1
    assert [letter.position for letter in await letters(group)] == [1]
    assert nothing_left(raw, store)


async def test_a_failure_of_a_stolen_delivery_changes_nothing(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    decided: list[str] = []

    def steal(recorded: Any) -> None:
        raw.xclaim(store.keys.log, GROUP, "thief", 0, [f"{recorded.position}-0"])
        raise (ValueError, KeyError, OSError)[recorded.position - 1]

    done = await store.group(GROUP).consume(
        steal,
        idle_stop=0,
        policy={ValueError: LATER, KeyError: DEAD, OSError: SKIP},
        on_error=lambda f: decided.append(f.decided),
    )
    assert decided == ["stolen"] * 3
    assert (done.failed, done.stolen, done.dead, done.skipped) == (3, 3, 0, 0)
    assert pending(raw, store) == {1: "thief", 2: "thief", 3: "thief"}
    assert not raw.exists(store.keys.retry(GROUP), store.keys.failed(GROUP), store.keys.dead(GROUP))


async def test_an_event_that_fails_again_after_the_group_was_lost_is_put_aside_again(world: World, raw: redis.Redis):
    """What is noted of the same attempt by the same consumer is of the group before: this one is no repeat of that."""
    store = await filled(world, 1)
    for _ in range(2):
        await store.group(GROUP).consume(
            lambda _: 1 / 0, consumer="c", idle_stop=0, policy=LATER, on_error=lambda _: None
        )
        assert pending(raw, store) == {1: "~parked"}
        raw.xgroup_destroy(store.keys.log, GROUP)


async def test_a_group_that_is_lost_while_events_are_parked_tries_them_again(world: World, raw: redis.Redis):
    store, handler = await filled(world, 4), Breaks(p2=1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    raw.xgroup_destroy(store.keys.log, GROUP)
    await store.group(GROUP).consume(handler, idle_stop=0.2, policy=BEHIND, on_error=lambda _: None)
    assert handler.done == [1, 2, 3, 4]
    assert nothing_left(raw, store)


@pytest.mark.parametrize("lost", ["retry", "failed", "waiting"])
async def test_a_lost_key_of_ours_strands_no_event(world: World, raw: redis.Redis, lost: str):
    """Evicted, or deleted by hand: the events are still pending, and are handed out."""
    store, handler = await filled(world, 3), Breaks(p1=1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    raw.delete(getattr(store.keys, lost)(GROUP))
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0.5, claim_idle=0.3, policy=BEHIND, on_error=lambda _: None)
    assert sorted(handler.done) == [1, 2, 3]
    assert nothing_left(raw, store)


async def test_a_parked_event_that_was_acknowledged_or_deleted_by_hand_strands_nobody(
    world: World, raw: redis.Redis, caplog: pytest.LogCaptureFixture
):
    store = world.store(Order)
    for name in "abab":
        await store.append(name, Placed(kwh=1))
    handler = Breaks(p1=1, p2=1)
    await store.group(GROUP).consume(handler, idle_stop=0, policy=Park(first_s=3600), on_error=lambda _: None)
    raw.xack(store.keys.log, GROUP, "1-0")
    raw.xdel(store.keys.log, "2-0")
    due_now(raw, store)
    await store.group(GROUP).consume(handler, idle_stop=0.2, policy=BEHIND, on_error=lambda _: None)
    assert handler.done == [3, 4]
    assert nothing_left(raw, store)
    assert caplog.text.count("deleted unhandled") == 1


async def dead(world: World, count: int, **options: Any) -> tuple[Store, Group]:
    """Return a store with *count* dead letters and their group."""
    store = await filled(world, count)
    group = store.group(GROUP, **options)
    await group.consume(lambda _: 1 / 0, idle_stop=0, policy=DEAD, on_error=lambda _: None)
    return store, group


async def test_a_replay_goes_to_its_own_group_only(world: World, raw: redis.Redis):
    """Put back into the log, an event would happen again for everybody."""
    store, group = await dead(world, 3)
    other = Breaks()
    await store.group("other").consume(other, idle_stop=0)
    length = raw.xlen(store.keys.log)
    assert (await replay(group)).replayed == 3
    handler = Breaks()
    await store.group(GROUP).consume(handler, idle_stop=0)
    await store.group("other").consume(other, idle_stop=0)
    assert handler.done == [1, 2, 3]
    assert other.done == [1, 2, 3]
    assert raw.xlen(store.keys.log) == length
    assert nothing_left(raw, store)
    assert await letters(group) == []


async def test_a_replay_takes_what_it_is_told(world: World, raw: redis.Redis):
    store, group = await dead(world, 6)
    done = await replay(group, lambda letter: letter.position % 2, dry_run=True)
    assert (done.matched, done.replayed) == (3, 0)
    assert len(await letters(group)) == 6
    assert (await replay(group, lambda letter: letter.position % 2, limit=2)).replayed == 2
    assert [letter.position for letter in await letters(group)] == [2, 4, 5, 6]
    assert sorted(pending(raw, store)) == [1, 3]
    assert (await replay(group, limit=0)).matched == 0
    for options in ({"rate": 0}, {"rate": float("nan")}, {"limit": -1}, {"limit": True}):
        with pytest.raises(errors.UsageError):
            await replay(group, **options)


async def test_a_replayed_event_has_all_its_attempts_again_and_remembers_when_it_failed_first(world: World):
    store, group = await dead(world, 1)
    (first,) = await letters(group)
    await replay(group)
    policy = Retry(max_attempts=2, first_s=0.02, max_s=0.02)
    decided: list[Any] = []
    again = store.group(GROUP)
    await again.consume(
        lambda _: 1 / 0, idle_stop=0.3, policy=policy, on_error=lambda f: decided.append((f.attempts, f.decided))
    )
    assert decided == [(1, "retry"), (2, "dead")]
    (letter,) = await letters(again)
    assert letter.first == first.first
    assert letter.last > first.last


async def test_what_dies_again_during_a_replay_is_not_replayed_by_it(world: World, raw: redis.Redis):
    store, group = await dead(world, 3)
    key = store.keys.dead(GROUP)

    def choose(letter: Any) -> bool:
        if letter.position == 3:
            # The first one was given back; a consumer had it at once, and buried it again.
            raw.xadd(key, first)
        return True

    ((_, first),) = raw.xrange(key, count=1)
    done = await replay(group, choose)
    assert (done.matched, done.replayed) == (3, 3)
    assert [letter.position for letter in await letters(group)] == [1]


async def test_a_replay_goes_no_faster_than_it_is_told(world: World, monkeypatch: pytest.MonkeyPatch):
    store, _ = await dead(world, 4)
    io = world.io()
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    monkeypatch.setattr(io, "sleep", sleep)
    monkeypatch.setattr(io, "monotonic", lambda: 0.0)
    group = world.store(Order, io=io).group(GROUP)
    assert (await replay(group, rate=10)).replayed == 4
    assert [round(each, 6) for each in slept] == [0.0, 0.1, 0.2, 0.3]
    assert store


async def test_a_replay_after_the_group_was_lost_makes_it_again(world: World, raw: redis.Redis):
    store, group = await dead(world, 2)
    raw.xgroup_destroy(store.keys.log, GROUP)
    assert (await replay(group)).replayed == 2
    handler = Breaks()
    await store.group(GROUP).consume(handler, idle_stop=0)
    assert sorted(handler.done) == [1, 2]


async def test_two_replays_at_once_give_each_letter_back_once(world: World, raw: redis.Redis):
    store, group = await dead(world, 30)
    results = await asyncio.gather(*(replay(world.store(Order).group(GROUP)) for _ in range(3)))
    assert sum(done.replayed for done in results) >= 30
    handler = Breaks()
    await store.group(GROUP).consume(handler, idle_stop=0)
    assert sorted(handler.done) == list(range(1, 31))
    assert await letters(group) == []
    assert nothing_left(raw, store)


async def test_many_dead_letters_are_told_in_pages(world: World):
    _, group = await dead(world, 250)
    found = await letters(group)
    assert [letter.position for letter in found] == list(range(1, 251))


def test_whatever_an_error_says_is_kept_in_bounds():
    class Rude(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    assert described(Rude())[1] == "(its text cannot be told)"
    kind, text = described(ValueError("\ud800" + "x" * 5000))
    assert kind == "ValueError"
    assert len(text) == TEXT_MAX
    assert text.startswith("?x")


async def test_an_error_of_many_lines_is_told_whole(world: World):
    store = await filled(world, 1)
    group = store.group(GROUP)

    def handle(_: Any) -> None:
        raise ValueError("one\ntwo\n\nthree é\0")

    policy = Retry(max_attempts=2, first_s=0.02, max_s=0.02)
    await group.consume(handle, idle_stop=0.2, policy=policy, on_error=lambda _: None, consumer="w 1\n é")
    (letter,) = await letters(group)
    assert letter.text == "one\ntwo\n\nthree é\0"
    assert letter.consumer == "w 1\n é"
    assert letter.attempts == 2


@pytest.mark.parametrize(
    "options",
    [
        {"policy": "retry"},
        {"policy": {ValueError: 3}},
        {"policy": {"ValueError": DEAD}},
        {"policy": {KeyboardInterrupt: DEAD}},
        {"max_deliveries": 0},
        {"max_deliveries": True},
    ],
)
async def test_a_bad_policy_is_refused_before_anything_is_sent(world: World, raw: redis.Redis, options: dict[str, Any]):
    with pytest.raises(errors.UsageError):
        await world.store(Order).group(GROUP).consume(print, **options)
    assert raw.dbsize() == 0


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"max_attempts": 1.5}, {"first_s": 0}, {"factor": 0.5}, {"factor": 1e9}, {"max_s": -1}],
)
def test_a_bad_retry_is_refused(options: dict[str, Any]):
    with pytest.raises(errors.UsageError):
        Retry(**options)


async def test_a_consumer_that_only_failed_leaves_no_trace_of_itself(world: World, raw: redis.Redis):
    store = await filled(world, 2)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, policy=LATER, on_error=lambda _: None)
    assert consumers(raw, store) == {"~parked"}
