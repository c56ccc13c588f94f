"""Aggregates: what a stream amounts to, decisions on it, and snapshots that are only a shortcut."""

# ruff: noqa: ANN401 - states and decisions of every kind

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from pydantic import BaseModel

from gridsync import AsyncGrid, errors
from gridsync.streams import Decided, Loaded
from gridsync.streams._aggregate import SNAPSHOT
from gridsync.streams._pages import PAGE
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import Store, World


class Sum(BaseModel):
    """What was placed."""

    kwh: float = 0
    seen: int = 0


def add(state: Sum, event: Placed | Cancelled) -> Sum:
    return Sum(kwh=state.kwh + (event.kwh if isinstance(event, Placed) else 0), seen=state.seen + 1)


def place(kwh: float) -> Any:
    return lambda _: Placed(kwh=kwh)


async def test_a_stream_amounts_to_what_its_events_say(world: World):
    store = world.store(Order)
    sums = store.aggregate(Sum(), add)
    assert await sums.load("a") == Loaded(Sum(), 0)
    for _ in range(2):
        await store.append("a", [Placed(kwh=1)] * (PAGE + 3))
    total = 2 * PAGE + 6
    assert await sums.load("a") == Loaded(Sum(kwh=total, seen=total), total)


async def test_a_decision_is_appended_at_the_version_it_was_made_at(world: World):
    store = world.store(Order)
    sums = store.aggregate(Sum(), add)
    done = await sums.execute("a", lambda state: [Placed(kwh=1 + state.kwh), Cancelled(reason="x")], correlation_id="r")
    assert (done.state, done.version, done.attempts) == (Sum(kwh=1, seen=2), 2, 1)
    assert (done.appended.version, done.appended.position) == (2, 2)
    nothing = await sums.execute("a", lambda _: None)
    assert nothing == Decided(Sum(kwh=1, seen=2), 2, None, 1)
    assert (await sums.execute("a", lambda _: [])).appended is None
    assert [e.correlation_id for e in await store.read("a")] == ["r", "r"]


def meddle(store: Store, rival: Store, often: int) -> None:
    """Let *rival* append right before the first appends of *store*, as another process would."""
    core, loop, left = store.store._core, asyncio.get_running_loop(), [Placed(kwh=1)] * often
    original = core.append

    async def append(*args: Any) -> Any:
        if left and rival.is_async:
            await rival.append("a", left.pop())
        elif left:
            asyncio.run_coroutine_threadsafe(rival.append("a", left.pop()), loop).result(10)
        return await original(*args)

    core.append = append  # type: ignore[method-assign]


async def test_whoever_was_slower_decides_again_on_what_is_new(world: World):
    store = world.store(Order)
    meddle(store, world.store(Order), 2)
    states = []

    def decide(state: Sum) -> Placed:
        states.append(state.kwh)
        return Placed(kwh=100)

    done = await store.aggregate(Sum(), add).execute("a", decide)
    assert states == [0, 1, 2]
    assert (done.state.kwh, done.version, done.attempts) == (102, 3, 3)


async def test_many_at_once_all_get_their_turn(world: World):
    stores = [world.store(Order) for _ in range(6)]

    async def work(store: Store) -> None:
        sums = store.aggregate(Sum(), add, snapshot_every=3)
        for _ in range(5):
            await sums.execute("a", lambda state: Placed(kwh=state.seen + 1), attempts=1000)

    await asyncio.gather(*(work(store) for store in stores))
    # Each saw all that came before: the numbers are 1, 2, 3, ... in order.
    assert [e.event.kwh for e in await stores[0].read("a")] == list(range(1, 31))


async def test_who_is_always_slower_is_told(world: World):
    store = world.store(Order)
    meddle(store, world.store(Order), 3)
    with pytest.raises(errors.WrongVersion):
        await store.aggregate(Sum(), add).execute("a", place(1), attempts=3)
    assert len(await store.read("a")) == 3


async def test_what_a_decision_raises_ends_the_call(world: World):
    store = world.store(Order)

    def refuse(_: Sum) -> Placed:
        raise LookupError("too late")

    with pytest.raises(LookupError, match="too late"):
        await store.aggregate(Sum(), add).execute("a", refuse)
    assert await store.read("a") == []


async def test_a_coroutine_function_decides(flushed: RedisServer):
    async with AsyncGrid(flushed.url) as grid:
        sums = grid.events("orders", Order).aggregate(Sum(), add)

        async def decide(state: Sum) -> Placed:
            await asyncio.sleep(0)
            return Placed(kwh=state.kwh + 5)

        assert (await sums.execute("a", decide)).state.kwh == 5


async def test_a_thread_refuses_a_coroutine_function(world: World):
    async def decide(_: Sum) -> Placed:
        return Placed(kwh=1)

    sums = world.store(Order).aggregate(Sum(), add)
    if world.is_async:
        assert (await sums.execute("a", decide)).version == 1
    else:
        with pytest.raises(errors.UsageError, match="AsyncGrid"):
            await sums.execute("a", decide)


def kept(raw: redis.Redis, store: Store, name: str = "Sum") -> dict[bytes, bytes]:
    return raw.hgetall(store.keys.snapshot(name, "a"))


async def test_a_snapshot_saves_reading(world: World, raw: redis.Redis):
    store = world.store(Order)
    sums = store.aggregate(Sum(), add, snapshot_every=10)
    for n in range(1, 25):
        done = await sums.execute("a", place(1))
        assert done.state == Sum(kwh=n, seen=n)
        assert kept(raw, store).get(b"v", b"0") == str(n // 10 * 10).encode()
    assert kept(raw, store)[b"d"] == b'{"kwh":20.0,"seen":20}'
    # What stands before it is not read any more.
    raw.xtrim(store.keys.stream("a"), minid="20-0", approximate=False)
    assert await sums.load("a") == Loaded(Sum(kwh=24, seen=24), 24)
    with pytest.raises(errors.Truncated):
        await store.aggregate(Sum(), add).load("a")


async def test_a_snapshot_of_another_schema_or_name_is_left_aside(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.aggregate(Sum(), add, snapshot_every=1).execute("a", place(1))
    raw.hset(store.keys.snapshot("Sum", "a"), "d", '{"kwh":1000,"seen":1}')
    assert (await store.aggregate(Sum(), add, snapshot_every=1).load("a")).state.kwh == 1000, "it is used"
    for options in ({"schema_version": 2}, {"name": "other"}):
        assert (await store.aggregate(Sum(), add, snapshot_every=1, **options).load("a")).state.kwh == 1
    assert (await store.aggregate(Sum(), add).load("a")).state.kwh == 1
    raw.hset(store.keys.snapshot("Sum", "a"), "d", "{")
    assert (await store.aggregate(Sum(), add, snapshot_every=1).load("a")).state.kwh == 1


async def test_a_snapshot_of_events_that_were_lost_is_left_aside_and_replaced(world: World, raw: redis.Redis):
    """A failover loses events, and somebody who had them in memory writes a snapshot of them."""
    store = world.store(Order)
    sums = store.aggregate(Sum(), add, snapshot_every=1)
    for _ in range(5):
        await sums.execute("a", place(100))
    old = kept(raw, store)
    raw.delete(*raw.keys())
    await store.append("a", Placed(kwh=1))
    raw.hset(store.keys.snapshot("Sum", "a"), mapping=old)
    assert await sums.load("a") == Loaded(Sum(kwh=1, seen=1), 1)
    assert (await sums.execute("a", place(1))).state.kwh == 2
    assert kept(raw, store)[b"v"] == b"2"
    assert await sums.load("a") == Loaded(Sum(kwh=2, seen=2), 2)


async def test_a_snapshot_never_goes_back(world: World, raw: redis.Redis):
    store = world.store(Order)
    sums = store.aggregate(Sum(), add, snapshot_every=1)
    first = await sums.execute("a", place(1))
    await sums.execute("a", place(1))
    assert kept(raw, store)[b"v"] == b"2"
    keys = (store.keys.snapshot("Sum", "a"), store.keys.stream("a"))
    raw.script_load(SNAPSHOT.source)
    mine = first.appended.event_ids[0]
    for version, event_id, base, answer in [
        ("1", mine, ("0", "", "0"), 0),
        ("1", "another", ("0", "", "0"), -1),
        ("9", mine, ("0", "", "0"), -1),
        ("2", kept(raw, store)[b"i"], ("1", mine, "7"), -1),
        ("2", kept(raw, store)[b"i"], ("1", "another", "7"), -1),
    ]:
        words = SNAPSHOT.words(keys, (version, event_id, *base, "Sum#1", "{}"))
        assert raw.execute_command(*words) == answer
    assert kept(raw, store)[b"d"] == b'{"kwh":2.0,"seen":2}'


async def test_a_snapshot_that_fails_is_no_failed_decision(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    sums = store.aggregate(Sum(), add, snapshot_every=2)

    def decide(_: Sum) -> Placed:
        raw.set(store.keys.snapshot("Sum", "a"), "not ours")
        return Placed(kwh=1)

    assert (await sums.execute("a", decide)).version == 2
    raw.delete(store.keys.snapshot("Sum", "a"))


async def test_the_initial_state_is_not_touched(world: World):
    store = world.store(Order)

    def note(state: list[float], event: Placed | Cancelled) -> list[float]:
        assert isinstance(event, Placed)
        state.append(event.kwh)
        return state

    lists = store.aggregate([], note)
    await lists.execute("a", place(1))
    await lists.execute("b", place(2))
    assert [(await lists.load(stream)).state for stream in "ab"] == [[1], [2]]


@pytest.mark.parametrize(
    "options",
    [{"snapshot_every": 0}, {"snapshot_every": True}, {"schema_version": 0}, {"name": ""}, {"evolve": None}],
)
async def test_a_bad_argument_is_refused_at_once(world: World, options: dict[str, Any]):
    with pytest.raises(errors.UsageError):
        world.store(Order).aggregate(Sum(), **{"evolve": add, **options})


async def test_a_bad_decision_is_refused(world: World):
    sums = world.store(Order).aggregate(Sum(), add)
    for bad in ({"decide": None}, {"decide": place(1), "attempts": 0}, {"decide": lambda _: "Placed"}):
        with pytest.raises(errors.UsageError):
            await sums.execute("a", **bad)


async def test_a_command_that_is_executed_again_gives_its_first_result(world: World):
    """A caller that lost the answer, or its process, must not place an order twice."""
    store = world.store(Order)
    sums = store.aggregate(Sum(), add, snapshot_every=1)
    first = await sums.execute("a", lambda _: [Placed(kwh=1), Placed(kwh=2)], command_id="c")
    assert (first.appended.event_ids, first.appended.replayed) == (("c-0", "c-1"), False)
    await sums.execute("a", place(5), command_id="c-0")
    again = await sums.execute("a", lambda _: pytest.fail("it was decided before"), command_id="c")
    assert (again.state, again.version, again.appended.event_ids) == (first.state, 2, ("c-0", "c-1"))
    assert (again.appended.position, again.appended.replayed) == (2, True)
    assert [e.event.kwh for e in await store.read("a")] == [1, 2, 5]
    nothing = await sums.execute("a", lambda _: None, command_id="d")
    assert nothing.appended is None
    assert (await sums.execute("a", place(7), command_id="d")).version == 4


async def test_one_command_in_many_places_at_once_is_appended_once(world: World):
    stores = [world.store(Order) for _ in range(8)]
    done = await asyncio.gather(
        *(store.aggregate(Sum(), add).execute("a", place(n + 1), command_id="c") for n, store in enumerate(stores))
    )
    (event,) = await stores[0].read("a")
    assert {(each.version, each.state.kwh) for each in done} == {(1, event.event.kwh)}
    assert sum(not each.appended.replayed for each in done) == 1
