"""Erasing: a stream's events go for good, whoever reads goes on, and nothing that was decided on them is written."""

from __future__ import annotations

# ruff: noqa: ANN401 - the calls of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import ANY, DEAD, EXISTS, NO_STREAM, Erased, Park, _erase
from gridsync.streams._portable import restored
from tests.streams.conftest import Both
from tests.streams.models import LATER, Order, Placed
from tests.streams.test_keeper import declared
from tests.streams.test_replication import replication
from tests.streams.test_retention import GROUP, kept

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server

SECRET = "Annemarie Kowalski"


async def peopled(world: World, order: str = "abacbca", **options: Any) -> Store:
    """Return a store with an event for each letter, in the stream of that name; those of a are personal."""
    store = world.store(Order, **options)
    for letter in order:
        await store.append(letter, Placed(kwh=1, buyer=SECRET if letter == "a" else "x"))
    return store


def everything(raw: redis.Redis) -> bytes:
    """Return all that the server tells."""
    look = {
        b"stream": raw.xrange,
        b"hash": raw.hgetall,
        b"zset": lambda key: raw.zrange(key, 0, -1),
        b"set": raw.smembers,
    }
    return b"".join(repr((key, look[raw.type(key)](key))).encode() for key in raw.scan_iter())


async def places(store: Store, **options: Any) -> list[tuple[str, int, int]]:
    return [(e.stream, e.version, e.position) for e in await store.read_all(**options)]


LEFT = [("b", 1, 2), ("c", 1, 4), ("b", 2, 5), ("c", 2, 6)]


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_what_was_erased_is_gone_and_readers_pass_it_over(world: World, raw: redis.Redis, log: Any):
    store = await peopled(world, log=log)
    checkpoints = [e.checkpoint for e in await store.read_all()]
    assert SECRET.encode() in everything(raw)
    assert await kept(store).erase("a") == Erased(3, 3, 0)
    assert await kept(store).erase("a") == Erased(3, 0, 0)
    assert SECRET.encode() not in everything(raw)
    for reverse in (False, True):
        assert await store.read("a", reverse=reverse) == []
        assert await store.read("a", from_version=2, to_version=3, reverse=reverse) == []
        assert await places(store, reverse=reverse) == LEFT[:: -1 if reverse else 1]
        assert await places(store, before=4, reverse=reverse) == LEFT[:1]
        assert await places(store, after=2, before=4, reverse=reverse) == []
        assert await places(store, limit=2, reverse=reverse) == (LEFT[::-1] if reverse else LEFT)[:2]
    for position, checkpoint in enumerate(checkpoints, 1):
        assert await places(store, after=checkpoint) == [place for place in LEFT if place[2] > position]
    await store.append("b", Placed(kwh=1))
    assert await places(store, after=checkpoints[-1]) == [("b", 3, 8)], "the newest was erased, and one came after it"


async def test_nothing_that_was_decided_on_it_is_written_and_versions_go_on(world: World, raw: redis.Redis):
    store = world.store(Order)
    first = Placed(kwh=1, buyer=SECRET)
    await store.append("a", first, expected_version=NO_STREAM, event_ids="1")
    await store.append("a", first, event_ids="2")
    await kept(store).erase("a")
    for again in (
        {"expected_version": NO_STREAM, "event_ids": "1"},
        {"expected_version": 1, "event_ids": "2"},
        {"expected_version": ANY, "event_ids": "1"},
        {"expected_version": ANY, "event_ids": "2"},
        {"expected_version": NO_STREAM},
    ):
        with pytest.raises(errors.WrongVersion) as caught:
            await store.append("a", first, **again)
        assert caught.value.actual == 2
    assert SECRET.encode() not in everything(raw)
    assert (await store.append("a", Placed(kwh=3), expected_version=2)).version == 3
    assert (await store.append("a", Placed(kwh=4), expected_version=EXISTS)).version == 4
    assert [e.version for e in await store.read("a")] == [3, 4]
    assert [e.version for e in await store.read("a", reverse=True)] == [4, 3]
    assert [e.version for e in await store.read("a", from_version=2, to_version=3)] == [3]
    assert await kept(store).erase("a") == Erased(4, 2, 0)


async def test_only_the_version_that_was_meant_is_erased(world: World):
    store = await peopled(world, "aab")
    with pytest.raises(errors.WrongVersion, match="nothing was erased"):
        await kept(store).erase("a", expected_version=1)
    with pytest.raises(errors.WrongVersion):
        await kept(store).erase("nobody", expected_version=EXISTS)
    with pytest.raises(errors.UsageError):
        await kept(store).erase("a", expected_version=NO_STREAM)
    assert await kept(store).erase("nobody") == Erased(0, 0, 0)
    assert await kept(store).erase("a", expected_version=2) == Erased(2, 2, 0)
    await store.append("a", Placed(kwh=9))
    assert await kept(store).erase("a", expected_version=2) == Erased(2, 0, 0), "sent again, it erases nothing newer"
    assert [e.version for e in await store.read("a")] == [3]


async def test_a_long_stream_goes_in_steps_and_all_at_once_for_readers(
    world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    store = await peopled(world, "b")
    for _ in range(3):
        await store.append("a", [Placed(kwh=1)] * 700)
    await store.append("b", Placed(kwh=1))
    assert await kept(store).erase("a") == Erased(2100, 2100, 0)
    assert await places(store) == [("b", 1, 1), ("b", 2, 2102)]
    assert not raw.exists(store.keys.stream("a"))
    # One that broke off after a step.
    await store.append("a", [Placed(kwh=1)] * 9)
    monkeypatch.setattr(_erase, "STEP", 4)
    touched = [getattr(store.keys, key) for key in ("meta", "versions", "log", "floors", "erased", "holes")]
    touched += [store.keys.stream("a"), store.keys.erasing("a")]
    raw.evalsha(raw.script_load(_erase.ERASE.source), len(touched), *touched, "a", "-1", "0", "4")
    assert await store.read("a") == []
    assert await store.read("a", reverse=True) == []
    await store.append("a", [Placed(kwh=1)] * 2)
    assert [e.version for e in await store.read("a")] == [2110, 2111]
    assert await kept(store).erase("a") == Erased(2111, 5 + 2, 0)
    assert await places(store) == [("b", 1, 1), ("b", 2, 2102)]


async def test_snapshots_go_with_it_and_none_comes_late(world: World, raw: redis.Redis):
    store = world.store(Order)
    totals = store.aggregate({"sum": 0.0}, lambda total, e: {"sum": total["sum"] + e.kwh}, name="T", snapshot_every=1)
    await totals.execute("a", lambda _: Placed(kwh=5))
    assert raw.exists(store.keys.snapshot("T", "a"))
    await kept(store).erase("a")
    assert not raw.exists(store.keys.snapshot("T", "a"))
    loaded = await totals.load("a")
    assert (loaded.state, loaded.version) == ({"sum": 0.0}, 0)


async def test_a_stream_that_goes_on_is_loaded_from_there(world: World):
    store = await peopled(world, "aa")
    await kept(store).erase("a")
    await store.append("a", Placed(kwh=5))
    totals = store.aggregate(0.0, lambda total, e: total + e.kwh)
    loaded = await totals.load("a")
    assert (loaded.state, loaded.version) == (5.0, 3)
    assert (await totals.execute("a", lambda _: Placed(kwh=2))).version == 4


async def test_a_subscription_and_a_projection_go_on(world: World, raw: redis.Redis):
    store = await peopled(world, "ab")
    events, view = store.subscribe(), store.projection("count")

    def count(changes: Any, e: Any) -> None:
        changes.add(e.stream, 1)

    assert [e.position for e in await events.take(2)] == [1, 2]
    assert (await view.run(count, once=True)).events == 2
    await store.append("a", [Placed(kwh=1)] * 3)
    await kept(store).erase("a")
    await kept(store).erase("b")
    assert raw.xlen(store.keys.log) == 0
    await view.run(count, once=True)
    await store.append("c", Placed(kwh=1))
    assert (await events.next()).position == 6
    events.stop()
    assert (await view.run(count, once=True)).events == 1
    assert await store.read_all(after=(await store.read("c"))[0].checkpoint) == []


@pytest.mark.parametrize("policy", [LATER, Park(first_s=30_000_000, max_s=30_000_000)], ids=["parked", "waiting"])
async def test_a_group_gets_none_of_it_and_holds_nothing_for_it(world: World, raw: redis.Redis, policy: Any):
    store = await peopled(world, "ba")
    seen: list[int] = []

    def handle(e: Any) -> None:
        if e.stream == "a":
            raise ValueError
        seen.append(e.position)

    group = store.group(GROUP)
    await group.consume(handle, idle_stop=0, on_error=lambda _: None, policy=policy)
    for letter in "aba":
        await store.append(letter, Placed(kwh=1))
    await kept(store).erase("a")
    raw.zadd(store.keys.retry(GROUP), dict.fromkeys(raw.zrange(store.keys.retry(GROUP), 0, -1), 0))
    await store.group(GROUP).consume(handle, idle_stop=0)
    assert seen == [1, 4]
    assert raw.xpending(store.keys.log, GROUP)["pending"] == 0
    assert not raw.exists(store.keys.failed(GROUP), store.keys.waiting(GROUP), store.keys.retry(GROUP))
    await store.append("b", [Placed(kwh=1)] * 2)
    await store.group(GROUP).consume(handle, idle_stop=0)
    assert seen == [1, 4, 6, 7]
    assert (await kept(store).trim(max_count=1)).left == 1


async def test_a_group_whose_newest_events_were_erased_has_no_lag(world: World, raw: redis.Redis):
    store = await peopled(world, "b")
    group = store.group(GROUP)
    info = Both(group.group, is_async=world.is_async).info
    assert (await group.consume(lambda _: None, idle_stop=0)).handled == 1
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    assert (await info()).lag == 2
    await kept(store).erase("a")
    assert (await info()).lag == 0
    await store.append("b", Placed(kwh=1))
    assert (await group.consume(lambda _: None, idle_stop=0)).handled == 1
    assert raw.xinfo_groups(store.keys.log)[0]["last-delivered-id"] == b"4-0"
    await kept(store).erase("b")
    assert ((await info()).lag, (await info()).pending) == (0, 0)


async def test_its_dead_letters_go_and_those_of_others_stay(world: World, raw: redis.Redis):
    store = await peopled(world, "abab")
    for group in (GROUP, "other"):
        await store.group(group).consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: None, policy=DEAD)
    assert await kept(store).erase("a") == Erased(2, 2, 4)
    assert SECRET.encode() not in everything(raw)
    assert raw.xlen(store.keys.dead(GROUP)) == 2


async def test_a_trim_forgets_what_it_passes_and_a_cap_counts_what_is_there(world: World, raw: redis.Redis):
    store = await peopled(world, "abaabb")
    await declared(store, cap_count=6).run(once=True)
    await kept(store).note_reader("slow", 0)
    await kept(store).erase("a")
    assert [int(score) for _, score in raw.zrange(store.keys.holes, 0, -1, withscores=True)] == [1, 3, 4]
    await store.append("b", [Placed(kwh=1)] * 3)
    with pytest.raises(errors.LogFull) as caught:
        await store.append("b", Placed(kwh=1))
    assert (caught.value.held, caught.value.cap) == (6, 6)
    await kept(store).note_reader("slow", 5)
    await store.append("b", [Placed(kwh=1)] * 2)
    assert raw.xlen(store.keys.log) <= 6
    assert await kept(store).release("reader", "slow")
    assert (await kept(store).trim(max_count=1)).left == 1
    assert not raw.exists(store.keys.holes)
    with pytest.raises(errors.Truncated):
        await store.read_all()


async def test_a_log_of_nothing_but_erased_events_has_room(world: World):
    store = await peopled(world, "aaaaa")
    await declared(store, cap_count=5).run(once=True)
    await kept(store).erase("a")
    assert (await store.append("b", [Placed(kwh=1)] * 4)).position == 9
    floor = await kept(store).floor()
    assert (floor.events, floor.cap) == (4, 5)


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_archives_pass_it_over_whether_they_have_it_or_not(
    world: World, raw: redis.Redis, tmp_path: Path, log: Any
):
    store = await peopled(world, "abac", log=log, archive=tmp_path)
    await kept(store).archive(tmp_path)
    for letter in "abba":
        await store.append(letter, Placed(kwh=1, buyer=SECRET if letter == "a" else "x"))
    await kept(store).erase("a")
    await store.append("b", Placed(kwh=1))
    expected = [("b", 1, 2), ("c", 1, 4), ("b", 2, 6), ("b", 3, 7), ("b", 4, 9)]
    checkpoint = (await store.read_all(before=5))[-1].checkpoint
    assert (await kept(store).archive(tmp_path)).events == 5
    assert (await kept(store).trim(max_count=1)).left == 1
    raw.xtrim(store.keys.stream("b"), maxlen=1, approximate=False)
    for reverse in (False, True):
        assert await places(store, reverse=reverse) == expected[:: -1 if reverse else 1]
        assert [e.version for e in await store.read("b", reverse=reverse)] == [1, 2, 3, 4][:: -1 if reverse else 1]
        assert await store.read("a", reverse=reverse) == []
    assert await places(store, after=checkpoint) == expected[2:]
    assert await places(store, after=5, before=8) == expected[2:4]
    assert (await kept(store).archive(tmp_path)).events == 0


async def test_an_archive_that_ends_where_events_were_erased_goes_on(
    world: World, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr("gridsync.streams._retention.SEGMENT", 3)
    monkeypatch.setattr("gridsync.streams._pages.PAGE", 2)
    store = await peopled(world, "baaaaab", archive=tmp_path)
    await kept(store).erase("a")
    assert (await kept(store).archive(tmp_path)).events == 7
    await store.append("b", Placed(kwh=1))
    assert (await kept(store).archive(tmp_path)).events == 1
    await kept(store).trim(max_count=1)
    assert await places(store) == [("b", 1, 1), ("b", 2, 7), ("b", 3, 8)]
    assert await places(store, after=4, reverse=True) == [("b", 3, 8), ("b", 2, 7)]


async def test_what_was_erased_is_not_imported_and_its_place_is(world: World, raw: redis.Redis):
    store = await peopled(world, "abac")
    await kept(store).erase("a")
    await store.append("a", Placed(kwh=7))
    core = store.store._core

    async def run(work: Any) -> Any:
        from gridsync._io import run_sync  # noqa: PLC0415

        return await (work if world.is_async else asyncio.to_thread(run_sync, work))

    entries: list[Any] = []
    pages = core.log_pages(holes=True)
    while page := await run(pages.next()):
        entries += page
    before, checkpoint = await places(store), (await store.read_all())[0].checkpoint
    assert [int(entry[0][:-2]) for entry in entries] == [1, 2, 3, 4, 5]
    assert await run(restored(core, entries, "file", dry_run=False)) == (0, 5)
    raw.flushall()
    assert await run(restored(core, entries, "file", dry_run=False)) == (5, 0)
    assert await run(restored(core, entries, "file", dry_run=False)) == (0, 5)
    assert await places(store) == before
    assert await places(store, after=checkpoint) == before[1:]
    assert [e.version for e in await store.read("a")] == [3]
    with pytest.raises(errors.WrongVersion):
        await store.append("a", Placed(kwh=1), expected_version=NO_STREAM)


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_a_mirror_has_the_places_and_erases_what_it_had_before(world: World, raw: redis.Redis, log: Any):
    source, target = await peopled(world, "abaa", log=log), world.store(Order, "copy", log=log)
    moving = replication(world, source, target)
    assert await moving.run(once=True) == 4
    for letter in "aabaaab":
        await source.append(letter, Placed(kwh=1, buyer=SECRET))
    await kept(source).erase("a")
    assert await moving.run(once=True) == 7
    await kept(target).erase("a")
    assert await places(target) == await places(source) == [("b", 1, 2), ("b", 2, 7), ("b", 3, 11)]
    assert [e.checkpoint for e in await target.read_all()] == [e.checkpoint for e in await source.read_all()]
    for store in (source, target):
        assert raw.hget(store.keys.versions, "a") == b"8"
        assert len(raw.zrange(store.keys.holes, 0, -1)) == 8
    await source.append("a", Placed(kwh=1))
    await kept(source).erase("b")
    assert await moving.run(once=True) == 1
    assert (await target.read("a"))[0].version == 9


async def test_it_is_erased_in_its_partition(world: World):
    store = world.store(Order, partitions=3)
    for n in range(12):
        await store.append(f"s{n % 4}", Placed(kwh=1))
    assert await kept(store).erase("s2") == Erased(3, 3, 0)
    assert sorted(e.stream for e in await store.read_all()) == ["s0"] * 3 + ["s1"] * 3 + ["s3"] * 3
