"""Retention that goes on by itself: what was declared is seen to, by one process at a time, until it is stopped."""

from __future__ import annotations

# ruff: noqa: ANN401 - the calls of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from tests.streams.conftest import Both, World, until
from tests.streams.models import Order, Placed
from tests.streams.test_retention import GROUP, LATER, filled, kept, positions

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import Store

pytestmark = pytest.mark.any_server

HOUR = 3600


def declared(store: Store, **said: Any) -> Any:
    """Return the retention, with a `run` that is awaited for both kinds."""
    return Both(store.store.retention(**said), is_async=store.is_async)


async def test_it_keeps_the_log_small_in_every_period_until_it_is_stopped(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    retention = declared(store, max_count=2, period=1)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.xlen(store.keys.log) == 2)
    await store.append("a", [Placed(kwh=n) for n in (7, 8)])
    await until(lambda: raw.xrange(store.keys.log)[0][0] == b"7-0")
    retention.inner.stop()
    assert await running == 6
    assert await retention.run() == 0
    assert repr(retention.inner).endswith("Retention of 'orders'>")


async def test_one_process_works_in_each_period(world: World, raw: redis.Redis):
    """The turn is another one's: nothing goes before it has ended, and then all that may."""
    store = await filled(world, 6)
    raw.set(store.keys.turn, "another", px=HOUR * 1000)
    raw.config_resetstat()
    retention = declared(store, max_count=2, period=1)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.info("commandstats").get("cmdstat_pttl", {}).get("calls", 0) > 0)
    retention.inner.stop()
    assert await running == 0
    assert len(positions(raw, store)) == 6
    raw.delete(store.keys.turn)
    again = declared(store, max_count=2, period=HOUR)
    running = asyncio.create_task(again.run())
    await until(lambda: raw.xlen(store.keys.log) == 2)
    assert 0 < raw.pttl(store.keys.turn) <= HOUR * 1000
    again.inner.stop()
    assert await running == 4


async def test_who_died_in_its_turn_is_followed_a_period_later(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    # Taken, and nothing done: it expires, however long who waits would say a period is.
    raw.set(store.keys.turn, "dead", px=1000)
    retention = declared(store, max_count=1, period=HOUR)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.xlen(store.keys.log) == 1)
    retention.inner.stop()
    assert await running == 5


async def test_a_turn_without_an_end_is_none(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    raw.set(store.keys.turn, "by hand")
    retention = declared(store, max_count=1, period=HOUR)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.xlen(store.keys.log) == 1)
    assert raw.pttl(store.keys.turn) > 0
    retention.inner.stop()
    assert await running == 2


async def test_what_leaves_the_log_is_in_the_archive_first(world: World, raw: redis.Redis, tmp_path: Path):
    store = await filled(world, 6)
    retention = declared(store, max_count=2, archive=tmp_path / "orders")
    assert await retention.run(once=True) == 4
    assert positions(raw, store) == [5, 6]
    there = world.store(Order, archive=tmp_path / "orders")
    assert [each.position for each in await there.read_all()] == [1, 2, 3, 4, 5, 6]


async def test_an_archive_that_cannot_be_written_lets_nothing_go_and_is_tried_again(
    world: World, raw: redis.Redis, tmp_path: Path
):
    store = await filled(world, 6)
    (tmp_path / "orders").write_text("a file where the directory should be")
    retention = declared(store, max_count=2, archive=tmp_path / "orders", period=1)
    with pytest.raises(OSError, match="orders"):
        await retention.run(once=True)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.exists(store.keys.turn))
    assert len(positions(raw, store)) == 6
    (tmp_path / "orders").unlink()
    await until(lambda: raw.xlen(store.keys.log) == 2)
    retention.inner.stop()
    assert await running == 4


async def test_a_declared_retention_runs_beside_the_groups_and_ends_with_them(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    declared(store, max_count=5, period=HOUR)
    retention = declared(store, max_count=1, period=1)
    store.store.on(Placed, group=GROUP)(lambda _: None)
    running = asyncio.create_task(kept(store).run())
    # What is said last is what counts; the group has had the rest.
    await until(lambda: raw.xlen(store.keys.log) == 1)
    store.store.stop()
    done = await running
    assert done.groups[f"orders/{GROUP}"].handled == 6
    assert await retention.run(once=True) == 0, "the end of a run is none of what was declared"


async def test_each_partition_keeps_its_share_and_has_a_turn_of_its_own(world: World, raw: redis.Redis):
    store = world.store(Order, partitions=2)
    for n in range(20):
        await store.append(f"s{n}", Placed(kwh=n + 1))
    logs = [core.keys for core in store.store._core.partitions]
    assert min(raw.xlen(keys.log) for keys in logs) > 2
    # One of them is another one's turn: the other one goes on.
    raw.set(logs[0].turn, "another", px=HOUR * 1000)
    before = raw.xlen(logs[0].log)
    retention = declared(store, max_count=4, period=1)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.xlen(logs[1].log) == 2)
    retention.inner.stop()
    assert await running == 20 - before - 2
    assert raw.xlen(logs[0].log) == before


async def test_a_log_of_links_is_kept_small_as_well(world: World):
    store = await filled(world, 6, log="link")
    assert await declared(store, max_count=2).run(once=True) == 4
    assert [each.event.kwh for each in await store.read_all(after=4)] == [5, 6]


async def test_a_group_that_was_given_up_is_counted(world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch):
    store = await filled(world, 4)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: None, policy=LATER)
    retention = declared(store, max_count=1, expire_after=60)
    assert await retention.run(once=True) == 0
    floor, seen = raw.hget(store.keys.floors, GROUP).split()
    raw.hset(store.keys.floors, GROUP, b"%b %d" % (floor, int(seen) - 61_000))
    counted: list[tuple[str, str]] = []
    monkeypatch.setattr(
        store.store._core.partitions[0].io, "tally", lambda what, name="", _=1.0: counted.append((what, name))
    )
    assert await retention.run(once=True) == 3
    assert await retention.run(once=True) == 0
    assert counted == [("stream.expired", f"orders/{GROUP}")]


@pytest.mark.parametrize(
    "said",
    [
        {},
        {"max_count": 0},
        {"max_count": 1, "period": 0.5},
        {"max_count": 1, "expire_after": 0},
        {"on_cap": "block"},
        {"cap_count": 1},
        {"cap_count": True},
        {"cap_bytes": 0},
        {"cap_count": 9, "on_cap": "x"},
        {"cap_count": 9, "on_cap": "spill"},
    ],
    ids=str,
)
async def test_a_declaration_that_cannot_be_used_is_refused(world: World, said: Any):
    with pytest.raises(errors.UsageError):
        world.store(Order).store.retention(**said)


async def test_a_server_that_answers_for_good_that_it_cannot_ends_it(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    raw.hset(store.keys.turn, "no", "turn")
    with pytest.raises(errors.ServerError, match="WRONGTYPE"):
        await declared(store, max_count=1).run()
    raw.delete(store.keys.turn)


@pytest.mark.parametrize("broken", ["diverged", "truncated", "damaged", "another store's"])
async def test_an_archive_that_contradicts_the_server_ends_a_run_and_nothing_goes(
    world: World, raw: redis.Redis, tmp_path: Path, broken: str
):
    """Somebody has to look: what is removed now might be nowhere else."""
    store = await filled(world, 6)
    retention = declared(store, max_count=2, archive=tmp_path, period=1)
    running = asyncio.create_task(retention.run())
    await until(lambda: positions(raw, store) == [5, 6])
    retention.inner.stop()
    assert await running == 4
    if broken == "diverged":
        raw.flushall()
        await filled(world, 9)
        expected: Any = errors.Diverged
    elif broken == "truncated":
        await store.append("a", [Placed(kwh=7)] * 3)
        raw.xtrim(store.keys.log, minid="8-0", approximate=False)
        expected = errors.Truncated
    elif broken == "damaged":
        (tmp_path / "manifest.json").write_text("{}")
        expected = errors.Damaged
    else:
        (tmp_path / "manifest.json").write_text('{"store": "others", "partition": 0, "segments": []}')
        expected = errors.UsageError
    before = positions(raw, store)
    raw.delete(store.keys.turn)
    with pytest.raises(expected):
        await asyncio.wait_for(declared(store, max_count=1, archive=tmp_path, period=1).run(), 60)
    assert positions(raw, store) == before


async def test_an_archive_that_fails_in_one_partition_ends_the_run_for_all(
    world: World, raw: redis.Redis, tmp_path: Path
):
    store = world.store(Order, partitions=2)
    for n in range(20):
        await store.append(f"s{n}", Placed(kwh=n + 1))
    (tmp_path / "partition-1").mkdir()
    (tmp_path / "partition-1" / "manifest.json").write_text("{}")
    logs = [core.keys.log for core in store.store._core.partitions]
    with pytest.raises(errors.Damaged, match="partition-1"):
        await asyncio.wait_for(declared(store, max_count=2, archive=tmp_path, period=HOUR).run(), 60)
    assert raw.xlen(logs[1]) > 1, "nothing left the one whose archive is broken"


async def test_a_server_that_is_away_in_the_middle_is_waited_for(world: World, raw: redis.Redis):
    """It answers that it is loading, or is gone and back: the loop goes on a period later, with another server."""
    store = await filled(world, 6)
    retention = declared(store, max_count=2, period=1)
    running = asyncio.create_task(retention.run())
    await until(lambda: raw.xlen(store.keys.log) == 2)
    raw.config_set("min-replicas-to-write", 1)
    try:
        refused = raw.info("errorstats").get("errorstat_NOREPLICAS", {}).get("count", 0)
        await until(lambda: raw.info("errorstats").get("errorstat_NOREPLICAS", {}).get("count", 0) > refused)
        raw.client_kill_filter(_type="normal", skipme=True)
    finally:
        raw.config_set("min-replicas-to-write", 0)
    await store.append("a", [Placed(kwh=1)] * 3)
    await until(lambda: positions(raw, store) == [8, 9])
    retention.inner.stop()
    assert await running == 7


async def test_a_run_that_is_cancelled_leaves_nothing_behind(raw: redis.Redis, flushed: RedisServer):
    world = World(flushed.url, is_async=True)
    store = await filled(world, 6)
    running = asyncio.create_task(declared(store, max_count=2, period=HOUR).run())
    await until(lambda: raw.xlen(store.keys.log) == 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    raw.delete(store.keys.turn)
    assert await declared(store, max_count=1).run(once=True) == 1
    await world.close()
