"""Projections: a view and how far it has got change together, so every event counts once."""

# ruff: noqa: ANN401 - changes and events of every kind

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, errors
from gridsync.streams import Changes, Projected
from gridsync.streams._projection import BATCH, PROJECT
from tests.streams.conftest import until
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import Store, World


def count(changes: Changes, recorded: Any) -> None:
    changes.add(recorded.stream, 1)
    changes.set("last", recorded.position)


def view(raw: redis.Redis, store: Store, name: str = "totals") -> dict[str, str]:
    return {k.decode(): v.decode() for k, v in raw.hgetall(store.keys.view(name)).items()}


async def test_a_view_and_its_checkpoint_go_together(world: World, raw: redis.Redis):
    store = world.store(Order)
    totals = store.projection("totals")
    assert await totals.run(count, once=True) == Projected(0, "0")
    assert (await totals.get("a"), await totals.checkpoint()) == (None, "0")
    for stream in ("a", "b"):
        for _ in range(2):
            await store.append(stream, [Placed(kwh=1)] * (BATCH + 20))
    done = await totals.run(count, once=True)
    last = (await store.read_all(reverse=True, limit=1))[0]
    assert done == Projected(4 * (BATCH + 20), last.checkpoint)
    assert await totals.checkpoint() == last.checkpoint
    assert await totals.get("a") == await totals.get("b") == str(2 * (BATCH + 20))
    assert await totals.run(count, once=True) == Projected(0, last.checkpoint)
    assert view(raw, store) == {"a": "240", "b": "240", "last": "480"}


async def test_what_a_batch_changes_in_a_field_is_one_change(world: World):
    store = world.store(Order)

    def play(changes: Changes, recorded: Any) -> None:
        kwh = recorded.event.kwh
        if kwh == 1:
            changes.set("set, add", 5)
            changes.add("set, add", 2)
            changes.add("add, remove", 5)
            changes.remove("add, remove")
            changes.add("add, remove, add", 5)
            changes.remove("add, remove, add")
            changes.add("add, remove, add", -3)
            changes.add("add, set", 1)
            changes.set("add, set", "text")
            changes.set("kept", "ümläut \0 {}")
            changes.set("gone", "x")
        else:
            changes.add("set, add", 1)
            changes.remove("gone")

    totals = store.projection("totals")
    for kwh in (1, 2):
        await store.append("a", Placed(kwh=kwh))
        await totals.run(play, once=True)
    fields = ("set, add", "add, remove", "add, remove, add", "add, set", "kept", "gone")
    assert [await totals.get(field) for field in fields] == ["8", None, "-3", "text", "ümläut \0 {}", None]


async def test_types_and_a_category_are_chosen(world: World):
    store = world.store(Order)
    await store.append("order-1", [Placed(kwh=1), Cancelled(reason="x")])
    await store.append("bill-1", [Placed(kwh=1)])
    totals = store.projection("totals", types=[Placed], category="order")
    done = await totals.run(count, once=True)
    assert done.events == 1
    assert done.checkpoint.startswith("3:"), "what is not wanted is passed over"
    assert (await totals.get("order-1"), await totals.get("bill-1")) == ("1", None)


async def test_it_goes_on_until_it_is_stopped(world: World):
    store = world.store(Order)
    totals = store.projection("totals")
    running = asyncio.create_task(totals.run(count))
    seen: list[str | None] = []

    async def at(value: str) -> None:
        while (now := await totals.get("a")) != value:
            seen.append(now)
            await asyncio.sleep(0.005)

    for n in (1, 2, 3):
        await store.append("a", Placed(kwh=1))
        await asyncio.wait_for(at(str(n)), 10)
    totals.inner.stop()
    assert (await asyncio.wait_for(running, 10)).events == 3
    assert "stopped" in repr(totals.inner)


async def test_several_that_run_it_count_every_event_once(world: World, raw: redis.Redis):
    stores = [world.store(Order) for _ in range(4)]
    runners = [store.projection("totals") for store in stores]
    running = [asyncio.create_task(runner.run(count)) for runner in runners]
    for n in range(30):
        await stores[n % 4].append("a", [Placed(kwh=1)] * (n % 5 + 1))
    total = len(await stores[0].read("a"))
    await until(lambda: view(raw, stores[0]).get("a") == str(total))
    for runner in runners:
        runner.inner.stop()
    done = await asyncio.gather(*running)
    assert sum(one.events for one in done) >= total
    assert view(raw, stores[0]) == {"a": str(total), "last": str(total)}


async def test_a_batch_that_fails_changes_nothing(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * (BATCH + 5))

    def stumble(changes: Changes, recorded: Any) -> None:
        count(changes, recorded)
        if recorded.position == BATCH + 3:
            raise LookupError("not this one")

    totals = store.projection("totals")
    with pytest.raises(LookupError):
        await totals.run(stumble, once=True)
    assert view(raw, store) == {"a": str(BATCH), "last": str(BATCH)}
    assert (await totals.run(count, once=True)).events == 5


@pytest.mark.parametrize("there", ["text", "1.5", "9007199254740991", "-", "", "12345678901234567890"])
async def test_what_cannot_be_added_to_is_named_and_nothing_is_changed(world: World, raw: redis.Redis, there: str):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    raw.hset(store.keys.view("totals"), "a", there)

    def both(changes: Changes, recorded: Any) -> None:
        changes.set("b", "x")
        count(changes, recorded)

    with pytest.raises(errors.ServerError, match="NOTANUMBER"):
        await store.projection("totals").run(both, once=True)
    assert view(raw, store) == {"a": there}


@pytest.mark.leaves_keys
@pytest.mark.parametrize("which", ["view", "places"])
async def test_a_key_of_a_wrong_type_fails_and_changes_nothing(world: World, raw: redis.Redis, which: str):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    totals = store.projection("totals")
    key = store.keys.view("totals") if which == "view" else store.keys.places
    raw.set(key, "not ours")
    with pytest.raises(errors.ServerError, match="WRONGTYPE"):
        await totals.run(count, once=True)
    other = store.keys.places if which == "view" else store.keys.view("totals")
    assert not raw.exists(other)


async def test_the_same_changes_twice_are_made_once(world: World, raw: redis.Redis):
    """The very same request arrives twice, which is what a repeat after a lost reply is."""
    store = world.store(Order)
    keys = (store.keys.view("totals"), store.keys.places)
    raw.script_load(PROJECT.source)
    words = PROJECT.words(keys, ("totals", "0", "1:1:x", "add", "a", "1"))
    assert [raw.execute_command(*words) for _ in range(3)] == [b"1:1:x"] * 3
    assert view(raw, store) == {"a": "1"}
    late = PROJECT.words(keys, ("totals", "0", "2:2:y", "add", "a", "1"))
    assert raw.execute_command(*late) == b"1:1:x"
    assert view(raw, store) == {"a": "1"}


async def test_lost_events_end_it(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    totals = store.projection("totals")
    await totals.run(count, once=True)
    raw.delete(store.keys.log, store.keys.meta, store.keys.versions, store.keys.recent, store.keys.stream("a"))
    await store.append("a", [Placed(kwh=1)] * 5)
    with pytest.raises(errors.Diverged):
        await totals.run(count, once=True)
    assert (await store.projection("anew").run(count, once=True)).events == 5


async def test_a_coroutine_function_changes_a_view(flushed: RedisServer):
    async with AsyncGrid(flushed.url) as grid:
        store = grid.events("orders", Order)
        await store.append("a", Placed(kwh=1))

        async def slowly(changes: Changes, recorded: Any) -> None:
            await asyncio.sleep(0)
            count(changes, recorded)

        totals = store.projection("totals")
        assert (await totals.run(slowly, once=True)).events == 1
        assert await totals.get("a") == "1"


async def test_a_thread_refuses_a_coroutine_function(world: World):
    async def never(changes: Changes, recorded: Any) -> None:
        count(changes, recorded)

    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    totals = store.projection("totals")
    if world.is_async:
        assert (await totals.run(never, once=True)).events == 1
    else:
        with pytest.raises(errors.UsageError, match="AsyncGrid"):
            await totals.run(never, once=True)


@pytest.mark.parametrize(
    "change",
    [
        lambda changes: changes.set("", "x"),
        lambda changes: changes.set("a", 1.5),
        lambda changes: changes.set("a", "\ud800"),
        lambda changes: changes.set("a", value=True),
        lambda changes: changes.add("a", 1.5),
        lambda changes: changes.add("a", 2**53),
        lambda changes: (changes.set("a", "x"), changes.add("a", 1)),
        lambda changes: changes.remove(7),
    ],
)
def test_a_change_that_cannot_be_is_refused(change: Any):
    with pytest.raises(errors.UsageError):
        change(Changes())


async def test_a_bad_argument_is_refused(world: World):
    store = world.store(Order)
    for options in ({"name": ""}, {"name": "x", "types": []}):
        with pytest.raises(errors.UsageError):
            store.projection(**options)
    with pytest.raises(errors.UsageError):
        await store.projection("x").run(None)
