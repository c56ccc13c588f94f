"""Reading several partitions: subscriptions, projections and groups see all of them, and each by itself."""

# ruff: noqa: ANN401 - events and stores of every kind

from __future__ import annotations

import asyncio
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Diverged, Truncated, UsageError
from gridsync.streams import DEAD, STOP
from tests.streams.conftest import until
from tests.streams.models import Order, Placed
from tests.streams.test_consumer import gated
from tests.streams.test_partitions import STREAMS, filled

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import World

pytestmark = pytest.mark.any_server

ALL = sorted((stream, version) for stream in STREAMS for version in (1, 2))


def told(events: list[Any]) -> list[tuple[str, int]]:
    """Return stream and version of each, sorted, after a look at the order within each partition."""
    for partition in {e.partition for e in events}:
        positions = [e.position for e in events if e.partition == partition]
        assert positions == sorted(positions)
    return sorted((e.stream, e.version) for e in events)


async def test_reading_all_goes_through_every_partition(world: World):
    store = await filled(world)
    assert told(await store.read_all()) == ALL
    assert len(await store.read_all(limit=5)) == 5
    assert len(await store.read_all(types=[Placed], category="order", reverse=True)) == len(ALL)
    with pytest.raises(UsageError, match="say which one with partition="):
        await store.read_all(before=3)
    with pytest.raises(UsageError, match="numbered from 0 to 2"):
        await store.read_all(partition=3)
    one = await store.read_all(partition=1)
    assert await store.read_all(partition=1, after=one[0].checkpoint, before=one[-1].position) == one[1:-1]


@pytest.mark.parametrize("wrong", [3, "3", "3:4:x", '["0","0"]', '["0","0",0]', "{}", '["0","0","no"]'])
async def test_a_checkpoint_of_another_shape_is_refused(world: World, wrong: int | str):
    """Taken for a partition's own, it would skip what the others hold."""
    store = world.store(Order, partitions=3)
    with pytest.raises(UsageError, match="after="):
        await store.read_all(after=wrong)
    with pytest.raises(UsageError, match="after="):
        store.subscribe(after=wrong)


async def test_a_subscription_goes_from_the_past_into_the_present_of_every_partition(world: World):
    store = await filled(world)
    events = store.subscribe()
    seen = await events.take(len(ALL))
    assert told(seen) == ALL
    for stream in STREAMS:
        waiting = asyncio.create_task(events.next())
        await store.append(stream, Placed(kwh=9), expected_version=2)
        assert ((found := await waiting).stream, found.version) == (stream, 3)
    events.stop()
    assert await events.next() is None


async def test_one_checkpoint_holds_that_of_every_partition(world: World):
    store = await filled(world)
    events = store.subscribe()
    seen = await events.take(7)
    rest = store.subscribe(after=events.checkpoint)
    seen += await rest.take(len(ALL) - 7)
    assert told(seen) == ALL, "nothing left out and nothing twice"
    assert await store.read_all(after=rest.checkpoint) == []
    fresh = store.subscribe(after="now")
    waiting = asyncio.create_task(fresh.next())
    for _ in range(1000):
        await store.append("order-5", Placed(kwh=3))
        if waiting.done():
            break
    assert (await waiting).stream == "order-5"


async def test_a_subscription_to_one_partition_sees_no_other(world: World):
    store = await filled(world)
    mine = await store.read_all(partition=2)
    events = store.subscribe(partition=2, after=mine[0].checkpoint)
    assert await events.take(len(mine) - 1) == mine[1:]
    assert events.checkpoint == mine[-1].checkpoint


async def test_what_a_partition_lost_is_named(world: World, raw: redis.Redis):
    store = await filled(world)
    events = store.subscribe()
    await events.take(len(ALL))
    keys = store.store._core.partitions[1].keys
    raw.delete(keys.log)
    with pytest.raises(Diverged, match="the log of partition 1 of 'orders'") as lost:
        await world.store(Order, partitions=3).subscribe(after=events.checkpoint).take(1)
    assert lost.value.name == "the log of partition 1 of 'orders'"
    raw.xadd(keys.log, {"i": "x"}, id="5-0")
    with pytest.raises(Truncated, match="partition 1"):
        await store.read_all(partition=1, after=2)


async def test_a_reader_is_remembered_in_every_partition(world: World):
    store = await filled(world)
    events = store.subscribe(reader="dashboard")
    await events.take(len(ALL))
    events.stop()
    assert await events.next() is None
    again = store.subscribe(reader="dashboard")
    waiting = asyncio.create_task(again.next())
    await store.append("order-1", Placed(kwh=3))
    assert ((found := await waiting).stream, found.version) == ("order-1", 3)


def count(changes: Any, recorded: Any) -> None:
    changes.add("events", 1)
    changes.add(recorded.stream, 1)


async def test_a_projection_has_a_view_in_every_partition(world: World):
    store = await filled(world)
    view = store.projection("counts")
    done = await view.run(count, once=True)
    assert done.events == len(ALL)
    assert await view.total("events") == len(ALL)
    assert [await view.get(stream) for stream in STREAMS] == ["2"] * len(STREAMS)
    with pytest.raises(UsageError, match="is in 3 partitions"):
        await view.get("events")
    assert sum([int(await view.get("events", partition=k) or 0) for k in range(3)]) == len(ALL)
    assert (await view.get("nobody"), await view.total("nobody")) == (None, 0)
    assert await store.read_all(after=await view.checkpoint()) == []
    assert (await view.run(count, once=True)).events == 0


async def test_a_total_of_texts_is_refused(world: World):
    store = await filled(world)
    view = store.projection("names")
    await view.run(lambda changes, recorded: changes.set("last", recorded.stream), once=True)
    with pytest.raises(UsageError, match="is no whole number"):
        await view.total("last")


async def test_a_running_projection_follows_all_partitions_and_counts_once(world: World):
    store = world.store(Order, partitions=3)
    views = [store.projection("counts") for _ in range(2)]
    running = [asyncio.create_task(view.run(count)) for view in views]
    for stream in STREAMS:
        await store.append(stream, [Placed(kwh=1)] * 3)
    async with asyncio.timeout(60):
        while await views[0].total("events") < 3 * len(STREAMS):  # noqa: ASYNC110 - a look at the server
            await asyncio.sleep(0.02)
    for view in views:
        view.inner.stop()
    await asyncio.gather(*running)
    assert await views[0].total("events") == 3 * len(STREAMS)


async def test_an_aggregate_and_its_snapshot_live_with_their_stream(world: World, raw: redis.Redis):
    store = world.store(Order, partitions=3)
    totals = store.aggregate(0.0, lambda total, event: total + event.kwh, snapshot_every=2)
    for _ in range(3):
        await totals.execute("order-1", lambda _: Placed(kwh=2))
    assert (await totals.load("order-1")).state == 6.0
    keys = store.store._core.of("order-1").keys
    assert raw.hget(keys.snapshot("float", "order-1"), "v") == b"2"


async def test_a_group_handles_the_events_of_all_partitions_once(world: World):
    store = await filled(world)
    seen: Counter[tuple[str, int]] = Counter()
    done = await store.group("billing").consume(lambda e: seen.update([(e.stream, e.version)]), idle_stop=0)
    assert (done.handled, sorted(seen.items())) == (len(ALL), [(each, 1) for each in ALL])
    assert (await store.group("billing").consume(lambda _: None, idle_stop=0)).handled == 0


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_consumer_that_ends_when_idle_has_read_every_partition_to_its_end(world: World, *, ordered: bool):
    """One of them has much more than a batch, and the others, which have nothing left, do not end it."""
    store = world.store(Order, partitions=3)
    await store.append(STREAMS[0], Placed(kwh=1))
    for _ in range(4):
        await store.append(STREAMS[-1], [Placed(kwh=1)] * 50)
    done = await store.group("billing", ordered=ordered).consume(lambda _: None, idle_stop=0, batch=7)
    assert done.handled == 201


async def test_what_comes_while_it_is_consumed_is_handled_and_stop_ends_it(world: World):
    store = world.store(Order, partitions=3)
    group, seen = store.group("billing"), []
    consuming = asyncio.create_task(group.consume(lambda e: seen.append(e.stream)))
    for stream in STREAMS:
        await store.append(stream, Placed(kwh=1))
    await until(lambda: len(seen) == len(STREAMS), 60.0)
    group.stop()
    assert (await consuming).handled == len(STREAMS)


async def test_handlers_share_their_turns_over_all_partitions(world: World):
    """With threads there is one at a time, in the thread that called; with tasks as many as `concurrency` says."""
    store = await filled(world)
    running, most, threads = 0, 0, set()

    def enter() -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        threads.add(threading.get_ident())

    async def busy(_: Any) -> None:
        nonlocal running
        enter()
        await asyncio.sleep(0)
        running -= 1

    def plain(_: Any) -> None:
        nonlocal running
        enter()
        running -= 1

    options: dict[str, Any] = {"concurrency": 2} if world.is_async else {}
    done = await store.group("billing").consume(busy if world.is_async else plain, idle_stop=0, **options)
    assert done.handled == len(ALL)
    assert most <= (2 if world.is_async else 1)
    assert len(threads) == 1


async def test_stop_begins_nothing_in_any_partition_though_others_wait_for_their_turn(world: World):
    store, gate, begun = await filled(world), threading.Event(), list[int]()
    group = store.group("billing")
    consuming = asyncio.create_task(group.consume(gated(world, gate, begun)))
    try:
        await until(lambda: begun)
        group.stop()
    finally:
        gate.set()
        done = await consuming
    assert (len(begun), done.handled) == (1, 1)
    assert (await store.group("billing").consume(lambda _: None, idle_stop=0)).handled == len(ALL) - 1


async def test_a_policy_that_stops_ends_all_sessions_with_the_error(world: World):
    store = await filled(world)

    def fail(_: Any) -> None:
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        await store.group("billing").consume(fail, policy=STOP, on_error=lambda _: None)
    assert (await store.group("billing").consume(lambda _: None, idle_stop=0, claim_idle=0.1)).handled > 0


async def test_dead_letters_of_all_partitions_lie_together(world: World):
    store = await filled(world)
    failures: list[Any] = []

    def fail(recorded: Any) -> None:
        raise ValueError(recorded.stream)

    group = store.group("billing")
    await group.consume(fail, policy=DEAD, on_error=failures.append, idle_stop=0)
    assert {failure.partition for failure in failures} == {0, 1, 2}
    inner = group.group.dead_letters()
    letters = [each async for each in inner] if world.is_async else await asyncio.to_thread(list, inner)
    assert sorted((each.stream, each.partition) for each in letters) == sorted(
        (stream, store.store.partition_of(stream)) for stream, _ in ALL
    )
    boxes = _awaited(inner, world)
    assert await boxes("count") == len(ALL)
    assert await boxes("discard", letters[0].id)
    assert not await boxes("discard", letters[0].id)
    with pytest.raises(UsageError, match="the partition's number, a colon"):
        await boxes("discard", "17-0")
    assert (await boxes("replay", limit=4)).replayed == 4
    assert (await boxes("replay", lambda letter: letter.partition == 2, dry_run=True)).matched <= 16
    assert (await boxes("replay", rate=10_000.0)).replayed == len(ALL) - 5
    seen: list[str] = []
    await store.group("billing").consume(lambda e: seen.append(e.stream), idle_stop=0)
    assert len(seen) == len(ALL) - 1


def _awaited(inner: Any, world: World) -> Any:
    async def call(name: str, *args: Any, **options: Any) -> Any:
        method = getattr(inner, name)
        return await method(*args, **options) if world.is_async else await asyncio.to_thread(method, *args, **options)

    return call


async def test_what_is_told_of_a_store_is_of_all_partitions(world: World):
    store = await filled(world)
    await store.group("billing").consume(lambda _: None, idle_stop=0)
    for call in (store.store.info, store.group("billing").group.info):
        found = await call() if world.is_async else await asyncio.to_thread(call)
        if call == store.store.info:
            assert (found.events, found.streams, found.partitions) == (len(ALL), len(STREAMS), 3)
            assert found.groups == ("billing",)
        else:
            assert (found.exists, found.lag, found.pending) == (True, 0, 0)


async def test_a_trim_leaves_every_partition_its_share(world: World):
    store = await filled(world)
    trim = store.store.trim
    done = await trim(max_count=6) if world.is_async else await asyncio.to_thread(trim, max_count=6)
    assert (done.removed, done.left) == (len(ALL) - 6, 6)
