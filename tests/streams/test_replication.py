"""Replication: a store is the same in another place, is promoted there, and what never crossed is told."""

# ruff: noqa: ANN401 - stores of either kind

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import DEAD, Check, Write
from tests.streams.conftest import Both, until
from tests.streams.models import Order, Placed
from tests.streams.test_delivery import committing

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server


def replication(world: World, source: Store, target: Store) -> Any:
    return Both(source.store.replication(target.store), is_async=world.is_async)


def sited(world: World, store: Store) -> Any:
    return Both(store.store, is_async=world.is_async)


async def filled(world: World, count: int = 30, **options: Any) -> Store:
    store = world.store(Order, **options)
    for n in range(count // 3):
        stream = f"{['anna', 'bert', 'ümläut'][n % 3]}-{n % 4}"
        await store.append(stream, [Placed(kwh=n + 1)] * 2, metadata={"n": n})
        await store.append(stream, Placed(kwh=n + 1))
    return store


def content(raw: redis.Redis, store: Store) -> list[Any]:
    """Return all that a store holds of its events."""
    found: list[Any] = []
    for core in store.store._core.partitions:
        keys = core.keys
        names = sorted(raw.hgetall(keys.versions).items())
        streams = [raw.xrange(keys.stream(name.decode())) for name, _ in names]
        kept = raw.hmget(keys.meta, "pos", "log")
        found.append([raw.xrange(keys.log), names, streams, raw.zrange(keys.recent, 0, -1, withscores=True), kept])
    return found


@pytest.mark.parametrize("options", [{}, {"log": "link"}, {"partitions": 3, "partition_by": "category"}], ids=str)
async def test_a_mirror_is_its_source_again(world: World, raw: redis.Redis, options: dict[str, Any]):
    source, target = await filled(world, **options), world.store(Order, "copy", **options)
    moving = replication(world, source, target)
    assert await moving.run(once=True) == 30
    assert content(raw, target) == content(raw, source)
    await source.append("anna-1", Placed(kwh=7))
    status = await moving.status()
    assert (status.follows, status.events, status.target.role, status.source.role) == (True, 1, "mirror", "primary")
    assert status.seconds > 0
    assert await moving.run(once=True) == 1
    assert content(raw, target) == content(raw, source)
    status = await moving.status()
    assert (status.events, status.seconds) == (0, 0)
    assert [event.checkpoint for event in await target.read_all()] == [e.checkpoint for e in await source.read_all()]


async def test_it_follows_what_is_appended_until_it_is_stopped(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    moving, ready = replication(world, source, target), list[bool]()
    running = asyncio.create_task(moving.run(on_ready=lambda: ready.append(True)))
    await until(lambda: ready)
    await source.append("anna-1", Placed(kwh=7))
    await until(lambda: raw.hget(target.keys.meta, "pos") == b"31")
    moving.inner.stop()
    assert await running == 31
    assert content(raw, target) == content(raw, source)


async def test_a_mirror_takes_no_events_but_those_of_its_source(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    before, there = content(raw, target), await source.read("anna-0")
    with pytest.raises(errors.ReadOnlyStore, match="promote") as refused:
        await target.append("anna-0", Placed(kwh=1))
    assert (refused.value.name, refused.value.why, refused.value.epoch) == ("copy", "mirror", 0)
    with pytest.raises(errors.ReadOnlyStore):
        await target.commit([Write("a", [Placed(kwh=1)]), Check("anna-0", 3)])
    # What was written before is told, for whoever asks has perhaps lost the answer at the source.
    again = await target.append(
        "anna-0", [event.event for event in there[:2]], expected_version=0, event_ids=[event.id for event in there[:2]]
    )
    assert (again.replayed, again.version) == (True, 2)
    assert content(raw, target) == before


def collecting(world: World, seen: list[int]) -> Any:
    async def collect(event: Any) -> None:
        seen.append(event.position)

    return collect if world.is_async else lambda event: seen.append(event.position)


async def test_a_group_on_a_mirror_has_a_place_of_its_own(world: World, raw: redis.Redis):
    source, target = await filled(world, 9), world.store(Order, "copy")
    moving, seen = replication(world, source, target), list[int]()
    await moving.run(once=True)
    handler = collecting(world, seen)
    await target.group("billing").consume(handler, idle_stop=0)
    await source.append("anna-0", Placed(kwh=1))
    await source.group("billing").consume(collecting(world, []), idle_stop=0)
    await moving.run(once=True)
    await target.group("billing").consume(handler, idle_stop=0)
    assert seen == list(range(1, 11))
    assert raw.hget(target.keys.floors, "billing").split()[0] == b"10"


async def test_a_handler_on_a_mirror_cannot_append(world: World, raw: redis.Redis):
    source, target = await filled(world, 3), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    failures: list[Any] = []
    handler = committing(world, lambda tx, _: tx.append("b", Placed(kwh=1)))
    await target.group("billing").consume(handler, policy=DEAD, on_error=failures.append, idle_stop=0)
    assert [type(failure.error) for failure in failures] == [errors.ReadOnlyStore] * 3
    assert raw.xlen(target.keys.log) == 3


async def test_a_group_goes_on_where_it_was_when_the_mirror_is_promoted_there_and_back(world: World):
    source, target = await filled(world, 9), world.store(Order, "copy")
    sides, seen = [source, target], list[int]()
    handler = collecting(world, seen)
    for turn in range(3):
        old, new = sides
        await old.append("anna-0", [Placed(kwh=1)] * 2)
        await old.group("billing").consume(handler, idle_stop=0)
        await old.append("anna-0", Placed(kwh=1))
        await sited(world, old).fence()
        await replication(world, old, new).run(once=True)
        assert (await sited(world, new).promote()).epoch == turn + 1
        sides.reverse()
    await sides[0].group("billing").consume(handler, idle_stop=0)
    assert seen == list(range(1, 19)), "nothing is left out, and while nobody dies nothing comes twice"


async def test_the_source_keeps_what_has_not_crossed_until_that_is_released(world: World):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    await source.append("anna-0", [Placed(kwh=1)] * 9)
    kept = sited(world, source)
    done = await kept.trim(max_count=1)
    assert (done.removed, done.kept, done.held_by[0]) == (30, 8, "replicator")
    assert await replication(world, source, target).run(once=True) == 9
    await source.append("anna-0", [Placed(kwh=1)] * 9)
    holder = (await kept.floor()).holders[0]
    assert await kept.release(holder.kind, holder.name)
    await kept.trim(max_count=1)
    with pytest.raises(errors.Truncated):
        await replication(world, source, target).run(once=True)


async def test_what_the_source_has_lost_is_never_passed_over(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    before = content(raw, target)
    # A failover: the last two are gone, and others were appended.
    for key, last in ((source.keys.log, "30-0"), (source.keys.log, "29-0")):
        raw.xdel(key, last)
    raw.delete(source.keys.log, source.keys.stream("anna-0"), source.keys.versions, source.keys.recent)
    raw.hset(source.keys.meta, "pos", 0)
    for n in range(31):
        await source.append("anna-9", Placed(kwh=n + 1))
    with pytest.raises(errors.Diverged):
        await replication(world, source, target).run(once=True)
    assert content(raw, target) == before


async def test_wrong_use_is_refused_and_leaves_everything_as_it_was(world: World, raw: redis.Redis):
    source, other = await filled(world), world.store(Order, "other")
    await other.append("a", Placed(kwh=1))
    mirror = world.store(Order, "copy")
    await replication(world, source, mirror).run(once=True)
    for target, problem in (
        (source, "itself"),
        (other, "has 1 events and is no mirror"),
        (world.store(Order, "p3", partitions=3), "1 partition"),
        (world.store(Order, "links", log="link"), "log="),
    ):
        before = content(raw, source), content(raw, other)
        with pytest.raises(errors.UsageError, match=problem):
            await replication(world, source, target).run(once=True)
        assert (content(raw, source), content(raw, other)) == before
        assert (await sited(world, source).site()).role == "primary"
    with pytest.raises(errors.UsageError, match="mirrors another store"):
        await replication(world, other, mirror).run(once=True)
    split = world.store(Order, "split", partitions=2)
    await split.append("a", Placed(kwh=1))
    with pytest.raises(errors.UsageError, match="partition"):
        await replication(world, source, world.store(Order, "split")).run(once=True)
    with pytest.raises(errors.UsageError, match="takes events already"):
        await sited(world, source).promote()


async def test_a_promoted_mirror_takes_events_and_fences_its_source(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    moving = replication(world, source, target)
    running = asyncio.create_task(moving.run())
    await until(lambda: raw.hget(target.keys.meta, "pos") == b"30")
    site = await sited(world, target).promote()
    assert (site.role, site.epoch, site.positions) == ("primary", 1, (30,))
    with pytest.raises(errors.Promoted) as told:
        await running
    assert told.value.fence == 1
    assert (await target.append("anna-0", Placed(kwh=1))).position == 31
    with pytest.raises(errors.ReadOnlyStore, match="other site") as refused:
        await source.append("anna-0", Placed(kwh=1))
    assert (refused.value.why, refused.value.epoch) == ("superseded", 1)
    status = await moving.status()
    assert (status.follows, status.source.role, status.target.role) == (False, "superseded", "primary")
    with pytest.raises(errors.UsageError, match="superseded"):
        await sited(world, source).promote()


async def test_a_planned_switch_there_and_back_loses_nothing(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    await source.append("anna-0", Placed(kwh=1))
    assert (await sited(world, source).fence()).role == "fenced"
    with pytest.raises(errors.ReadOnlyStore, match="fenced"):
        await source.append("anna-0", Placed(kwh=1))
    assert await replication(world, source, target).run(once=True) == 1
    assert (await sited(world, target).promote()).epoch == 1
    await target.append("anna-0", [Placed(kwh=1)] * 5)
    # Back: the old side ends where the new one went on.
    back = replication(world, target, source)
    assert await back.run(once=True) == 5
    assert content(raw, source) == content(raw, target)
    assert (await sited(world, source).site()).role == "mirror"
    # It holds nothing any more for who follows no longer.
    assert (await sited(world, source).floor()).holders == ()
    await sited(world, target).fence()
    assert (await sited(world, source).promote()).epoch == 2
    assert (await source.append("anna-0", Placed(kwh=1))).position == 37


async def test_a_stale_fence_does_not_close_the_new_primary(world: World):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    await sited(world, target).promote()
    with pytest.raises(errors.UsageError, match=r"takes events in epoch 1 .* a higher one"):
        await sited(world, target).fence(1)
    assert (await sited(world, target).site()).role == "primary"
    for epoch in (0, True, "1", 10**9 + 1, 10**5000):
        with pytest.raises(errors.UsageError, match="from 1"):
            await sited(world, source).fence(epoch)
    await sited(world, source).fence(1)
    await sited(world, source).fence(1)
    assert (await sited(world, source).promote(force=True)).epoch == 2


async def test_of_two_sites_that_were_promoted_one_gives_way(world: World, tmp_path: Path):
    """Both have taken events, and neither may lose them without a word."""
    left, right = await filled(world), world.store(Order, "copy")
    await replication(world, left, right).run(once=True)
    await sited(world, left).fence()
    for store in (left, right):
        await sited(world, store).promote()
        await store.append("anna-0", Placed(kwh=7))
    for source, target in ((left, right), (right, left)):
        with pytest.raises(errors.UsageError, match="has 31 events and is no mirror"):
            await replication(world, source, target).run(once=True)
    with pytest.raises(errors.UsageError, match="fence without an epoch the one that is to give way"):
        await sited(world, right).fence((await sited(world, left).site()).epoch)
    await sited(world, right).fence()
    with pytest.raises(errors.Diverged, match="set aside"):
        await replication(world, left, right).run(once=True)
    aside = await sited(world, right).set_aside(left.store, tmp_path / "tail.jsonl")
    assert aside.divergence.events == 1
    assert await replication(world, left, right).run(once=True) == 1
    assert (await sited(world, left).reappend(aside.files[0])).new == 1


async def test_the_other_side_is_a_store_of_the_same_kind(world: World):
    store = await filled(world)
    with pytest.raises(errors.UsageError, match="the other side must be an"):
        store.store.replication("orders")
    with pytest.raises(errors.UsageError, match="the other side must be an"):
        await sited(world, store).divergence(None)
    with pytest.raises(errors.UsageError, match="the other side must be an"):
        await sited(world, store).set_aside("orders", "tail.jsonl")


async def test_what_was_erased_at_the_source_stands_nowhere_at_the_mirror(world: World, raw: redis.Redis):
    source, target = await filled(world), world.store(Order, "copy")
    await replication(world, source, target).run(once=True)
    await source.append("gone-1", [Placed(kwh=1)] * 3)
    await source.append("stays-1", Placed(kwh=1))
    await source.append("gone-1", [Placed(kwh=1)] * 2)
    await sited(world, source).erase("gone-1")
    await source.append("gone-1", Placed(kwh=2))
    await sited(world, source).erase("anna-0")
    assert await replication(world, source, target).run(once=True) == 7
    assert [event.version for event in await target.read("gone-1", from_version=6)] == [6]
    keys = target.keys
    assert raw.zrange(keys.holes, 0, -1) == [
        b"%d %d gone-1" % at for at in ((31, 1), (32, 2), (33, 3), (35, 4), (36, 5))
    ]
    assert (raw.hgetall(keys.erased), raw.hget(keys.versions, "gone-1")) == ({b"gone-1": b"5"}, b"6")
    # What had crossed before is erased by who asks for it there, too; a mirror lets that happen.
    assert (await sited(world, target).erase("anna-0")).events > 0
    await source.append("anna-0", Placed(kwh=3))
    assert await replication(world, source, target).run(once=True) == 1
    found = [[event.checkpoint for event in await each.read_all()] for each in (source, target)]
    assert found[0] == found[1]
