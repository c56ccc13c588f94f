"""Partitions: a store in several hash slots, and what still holds over all of them."""

# ruff: noqa: ANN401 - events and stores of every kind

from __future__ import annotations

import asyncio
from binascii import crc_hqx
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import UsageError, WrongVersion
from gridsync._io.keys import SLOTS, event_partitions
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.streams import ANY, NO_STREAM, Check, EventStore, Write
from tests.streams.conftest import NAMESPACE, Both, until
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.streams.conftest import World

pytestmark = pytest.mark.any_server

STREAMS = [f"order-{n}" for n in range(12)]


def slot(key: str) -> int:
    """Return the hash slot of a key with a tag, as the specification of Redis Cluster has it."""
    return crc_hqx(key[key.index("{") + 1 : key.index("}")].encode(), 0) % 16384


def nowhere(**options: Any) -> Any:
    """Return a store that nobody asks anything."""
    place = parse("redis://127.0.0.1:1", connect_timeout=1.0)
    return EventStore(SyncIO(place, pool_size=1, timeout=1.0), NAMESPACE, "orders", Order, **options)


async def filled(world: World, partitions: int = 3, **options: Any) -> Any:
    """Return a store with two events in each of twelve streams."""
    store = world.store(Order, partitions=partitions, **options)
    for stream in STREAMS:
        await store.append(stream, [Placed(kwh=1), Placed(kwh=2)], expected_version=NO_STREAM)
    return store


@pytest.mark.parametrize("masters", [1, 2, 3, 4, 6, 12])
def test_partitions_spread_evenly_over_the_masters(masters: int):
    """Naive tags give six masters 3, 3, 0, 5, 5 and 0 of sixteen partitions, and two of them nothing to do."""
    ends = [round(k * SLOTS / masters) for k in range(masters + 1)]
    for store in ("orders", "batteries", "a:b", "{ä}"):
        for partitions in range(2, 65):
            slots = [slot(keys.log) for keys in event_partitions("app", store, partitions)]
            share = [sum(low <= each < high for each in slots) for low, high in pairwise(ends)]
            assert max(share) - min(share) <= 1, (store, partitions)


def test_the_tags_are_those_of_the_wire_contract():
    """Others would be other keys: every event would be gone."""
    for store, count in (("orders", 3), ("ümläut", 64)):
        name = crc_hqx(store.encode(), 0)
        for k, keys in enumerate(event_partitions("app", store, count)):
            assert slot(keys.log) == (32768 + name + 131072 * k) // (8 * count)
            opened, digits = keys.base[1:-7], keys.base[-7:-1]
            assert opened == f"app:events/{count}:{store}/{k}."
            same = (
                [d for n in range(8**6) if slot(f"{{{opened}{(d := f'{n:06o}')}}}") == slot(keys.log)] if k == 1 else []
            )
            assert digits == min(same, key=lambda d: (d[3:], -int(d[:3], 8)), default=digits)


def test_all_keys_of_a_partition_lie_in_one_slot_and_no_other_store_has_them():
    seen: set[str] = set()
    for store in ("orders", "orders/1.004711", "orders%"):
        for partitions in (2, 3):
            for keys in event_partitions("app", store, partitions):
                whole = (*keys, keys.stream("a}b"), keys.snapshot("a", "b"), keys.view("v"), keys.dead("g"))
                assert len({slot(key) for key in whole}) == 1
                assert keys.base not in seen
                seen.add(keys.base)


def test_a_stream_is_in_the_same_partition_for_ever():
    """These numbers stand in the wire contract: another function would look for streams where they are not."""
    store = nowhere(partitions=6)
    assert [store.partition_of(stream) for stream in ("order-1", "order-2", "ümläut", "x")] == [1, 3, 3, 3]
    by_category = nowhere(partitions=6, partition_by="category")
    assert {by_category.partition_of(stream) for stream in STREAMS} == {by_category.partition_of("order")}
    by_tenant = nowhere(partitions=6, partition_by=lambda stream: stream.rpartition("@")[2])
    assert by_tenant.partition_of("a@shop") == by_tenant.partition_of("b@shop") == store.partition_of("shop")


def test_a_number_of_partitions_that_cannot_be_is_refused():
    for wrong in (0, -1, 65, 2.0, True, "2"):
        with pytest.raises(UsageError, match="partitions must be a whole number from 1 to 64"):
            nowhere(partitions=wrong)


async def test_what_decides_the_partition_must_be_a_function_to_strings(world: World):
    with pytest.raises(UsageError, match="'stream', 'category' or a function"):
        world.store(Order, partitions=2, partition_by="tenant")
    odd = world.store(Order, partitions=2, partition_by=len)
    with pytest.raises(UsageError, match="partition_by returned 1 for stream 'a'"):
        await odd.append("a", Placed(kwh=1))


async def test_each_partition_is_a_store_of_its_own(world: World, raw: redis.Redis):
    store = await filled(world)
    found = await store.read_all()
    assert sorted((e.stream, e.version) for e in found) == sorted((s, v) for s in STREAMS for v in (1, 2))
    for partition in range(3):
        its = await store.read_all(partition=partition)
        assert {e.partition for e in its} == {partition} == {store.store.partition_of(e.stream) for e in its}
        assert [e.position for e in its] == list(range(1, len(its) + 1)), "no gap within a partition"
    assert [(e.version, e.event.kwh) for e in await store.read("order-3", reverse=True)] == [(2, 2), (1, 1)]
    with pytest.raises(WrongVersion):
        await store.append("order-3", Placed(kwh=3), expected_version=1)
    again = await store.append("order-3", Placed(kwh=3), expected_version=2, event_ids="x")
    assert (await store.append("order-3", Placed(kwh=3), expected_version=2, event_ids="x")).position == again.position
    assert len({key[: key.index(b"}")] for key in raw.scan_iter()}) == 4, "three partitions and a directory"


async def test_one_partition_is_where_it_always_was(world: World, raw: redis.Redis):
    """An existing store must open as before."""
    store = world.store(Order, partitions=1, partition_by="category")
    await store.append("a", Placed(kwh=1))
    assert {key.partition(b"}")[0] for key in raw.scan_iter()} == {f"{{{NAMESPACE}:events:orders".encode()}
    assert (await store.read_all(partition=0))[0].partition == 0


@pytest.mark.parametrize(("first", "then"), [(1, 3), (3, 1), (3, 6)])
async def test_a_store_opened_with_another_number_of_partitions_says_so(world: World, first: int, then: int):
    """Otherwise streams would be begun anew in other places, beside those that are there."""
    await world.store(Order, partitions=first).append("order-1", Placed(kwh=1))
    other = world.store(Order, partitions=then)
    message = f"is in {first} partition.* opened with partitions={then}"
    parts = [Write("order-1", Placed(kwh=1), ANY)]
    for call in (
        other.append("order-1", Placed(kwh=1)),
        other.commit(parts),
        other.read("order-2"),
        other.read_all(),
        other.read_all(reverse=True),
        other.subscribe().next(),
        other.projection("view").run(lambda _changes, _recorded: None, once=True),
        other.group("g").consume(lambda _: None, idle_stop=0),
        other.aggregate(0, lambda state, _: state).load("order-2"),
        Both(other.store, is_async=world.is_async).info(),
        Both(other.group("g").group, is_async=world.is_async).info(),
    ):
        with pytest.raises(UsageError, match=message):
            await call
    assert len(await world.store(Order, partitions=first).read_all()) == 1


async def test_an_archive_that_was_begun_before_the_first_event_hides_no_number_of_partitions(
    world: World, raw: redis.Redis, tmp_path: Path
):
    """Whoever opened the store otherwise would read nothing, and append to other places."""
    await Both(world.store(Order).store, is_async=world.is_async).archive(tmp_path)
    assert raw.hgetall(world.store(Order).keys.meta) == {b"archived": b"0"}
    await world.store(Order, partitions=4).append("a", Placed(kwh=1))
    for partitions in (1, 8):
        with pytest.raises(UsageError, match="is in 4 partition"):
            await world.store(Order, partitions=partitions).read_all()


@pytest.mark.parametrize("ordered", [False, True])
async def test_a_consumer_that_was_there_before_the_first_event_is_told_that_it_looks_in_the_wrong_place(
    world: World, raw: redis.Redis, *, ordered: bool
):
    """It would wait for ever, and its events with it."""
    store = world.store(Order)
    group = store.group("billing", ordered=ordered)
    consuming = asyncio.create_task(group.consume(lambda _: None, claim_idle=0.3))
    try:
        await until(lambda: raw.exists(store.keys.log))
        await world.store(Order, partitions=4).append("a", Placed(kwh=1))
        with pytest.raises(UsageError, match="is in 4 partition"):
            await asyncio.wait_for(asyncio.shield(consuming), 60)
    finally:
        group.stop()
        await asyncio.wait([consuming])


async def test_another_function_than_the_first_is_refused(world: World):
    await world.store(Order, partitions=3).append("order-1", Placed(kwh=1))
    with pytest.raises(UsageError, match="partitioned by 'stream' and was opened with partition_by 'category'"):
        await world.store(Order, partitions=3, partition_by="category").append("order-1", Placed(kwh=1))


async def test_a_commit_is_in_one_partition_or_refused(world: World):
    store = await filled(world, partition_by="category")
    done = await store.commit(
        [Write("order-1", Placed(kwh=3), 2), Check("order-2", 2), Write("order-new", Placed(kwh=4))]
    )
    assert [done.appended[stream].version for stream in ("order-1", "order-new")] == [3, 1]
    elsewhere = next(f"{c}-1" for c in "abcdefgh" if store.store.partition_of(c) != store.store.partition_of("order"))
    with pytest.raises(UsageError, match=f"partitioned by 'category', are in 2: .*'{elsewhere}' in partition"):
        await store.commit([Write("order-1", Placed(kwh=5)), Check(elsewhere, NO_STREAM)])
    assert len(await store.read("order-1")) == 3
