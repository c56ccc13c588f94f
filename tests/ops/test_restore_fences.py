"""Every fence after a restore is higher than every one that was ever given, whatever the clocks said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.errors import ReadOnlyStore
from gridsync.ops.archive import Manifest, Part
from gridsync.ops.fences import MARGIN_US, floor_us, raise_fences
from gridsync.testing.servers import RedisServer, server_kinds
from tests.command import called
from tests.faults.test_clock import HOUR_S, LIBRARIES, ClockedServer, links_to
from tests.ops.backing import AT_ONCE, backup_of, drilled, restored
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = [pytest.mark.leaves_keys, pytest.mark.any_server]


@pytest.fixture
def clocked() -> Iterator[ClockedServer]:
    """A server whose clock can be set."""
    kinds = [kind for kind in server_kinds() if not links_to(kind, "jemalloc")]
    if not LIBRARIES or not kinds:
        pytest.skip("no server's clock can be set: libfaketime is missing, or every server is linked to jemalloc")
    with ClockedServer(kinds[0], LIBRARIES[0], durable=False) as running:
        running.command("CONFIG", "SET", "repl-diskless-sync-delay", "0")
        yield running


def fences(server: RedisServer, count: int = 1) -> list[int]:
    given = list[int]()
    with Grid(server.url, audit=False) as grid:
        for _ in range(count):
            with grid.lock("settlement", ttl=60) as lease, grid.semaphore("workers", limit=2, ttl=60).acquire() as slot:
                given += [lease.fence, slot.fence]
    return given


def test_fences_given_after_the_backup_by_a_clock_that_was_set_back_are_not_given_again(
    clocked: ClockedServer, tmp_path: Path
):
    """Then a fence is the last one plus one, and a backup has forgotten the last ones."""
    given = fences(clocked)
    clocked.set_clock(-HOUR_S)
    backup = backup_of(clocked, tmp_path)
    given += fences(clocked, 20)
    clocked.command("FLUSHALL")
    clocked.set_clock(0)
    restored(backup.path, "--url", clocked.url)
    clocked.set_clock(-HOUR_S)
    assert min(fences(clocked, 3)) > max(given)


def test_a_server_that_is_started_an_hour_behind_gives_higher_fences_all_the_same(
    clocked: ClockedServer, tmp_path: Path
):
    given = fences(clocked)
    backup = backup_of(clocked, tmp_path / "to")
    given += fences(clocked, 20)
    target = tmp_path / "target"
    restored(backup.path, "--to", str(target))
    clocked.stop()
    clocked._options |= {"dir": str(target), **AT_ONCE}
    clocked.set_clock(-HOUR_S)
    clocked.start()
    assert min(fences(clocked, 3)) > max(given)


def test_a_running_server_whose_clock_is_behind_is_refused(clocked: ClockedServer, tmp_path: Path):
    """A name that the backup does not know would be given a fence of an hour ago."""
    fences(clocked)
    backup = backup_of(clocked, tmp_path)
    clocked.command("FLUSHALL")
    clocked.set_clock(-HOUR_S)
    code, _, error = called("restore", str(backup.path), "--url", clocked.url)
    assert code == 2
    assert "s behind, and fences come of it" in error
    assert "set the clock right" in error.splitlines()[1]
    assert clocked.command("DBSIZE") == 0


def test_the_floor_is_beyond_every_clock_and_fence_that_is_known():
    manifest = Manifest(id="x", taken_us=10, clock_us=5)
    assert floor_us(manifest, 100) == 105 + MARGIN_US
    assert floor_us(Manifest(id="x", taken_us=10, clock_us=-5), 100) == 100 + MARGIN_US
    ahead = Manifest(id="x", taken_us=10, parts=[Part("a", fence=700), Part("b", fence=1000)])
    assert floor_us(ahead, 100) == 1000 + MARGIN_US
    with pytest.raises(Exception, match="clock is 0 s behind the time of the backup"):
        floor_us(manifest, 9)


@pytest.mark.parametrize("way", ["--to", "--url"])
def test_a_service_that_keeps_to_another_database_gets_higher_fences_too(way: str, tmp_path: Path):
    """The number of the database stands in the URL of the service; the directory of a server holds all of them."""
    with RedisServer(options=AT_ONCE) as server, Grid(f"{server.url[:-1]}3", audit=False) as grid:
        with grid.lock("settlement", ttl=60) as lease:
            fence = lease.fence
        orders = grid.events("orders", Order)
        orders.append("order-1", Placed(kwh=1), expected_version=0)
        backup = backup_of(server, tmp_path)
        server.command("FLUSHALL")
        where = str(tmp_path / "target") if way == "--to" else f"{server.url[:-1]}3"
        said = restored(backup.path, way, where)
        assert said["raised"]["fences"] == 1
        assert said["raised"]["floor"] > fence
        if way == "--url":
            with grid.lock("settlement", ttl=60) as lease:
                assert lease.fence > said["raised"]["floor"]


def test_a_drill_reads_the_histories_of_every_database(tmp_path: Path):
    with RedisServer(options=AT_ONCE) as server, Grid(f"{server.url[:-1]}3", audit=False) as grid:
        orders = grid.events("orders", Order)
        orders.append("order-1", Placed(kwh=1), expected_version=0)
        grid.orderbook("power", tick="0.01", lot="0.1").place("s1", "sell", "2.0", "61.50", owner="solar-7")
        grid.client.hset("{gridsync:events:orders}:versions", "order-1", "9")
        code, found = drilled(backup_of(server, tmp_path / "to").path)
        assert (code, found["stores"], found["books"]) == (1, 2, 1)
        assert found["wrong"] == ["{gridsync:events:orders}: order-1 ends with version 1, and the counter says b'9'"]


def test_what_is_no_fence_is_left_alone_and_a_second_run_goes_higher_still():
    with RedisServer() as server, server.client() as raw:
        raw.set("{gridsync:lock:a}:fence", "41", ex=1000)
        raw.set("mine:fence", "7")
        raw.hset("{gridsync:lock:b}:fence", "f", "1")
        raised = raise_fences(raw, 1000)
        assert (raised.fences, raw.get("{gridsync:lock:a}:fence"), raw.get("mine:fence")) == (1, b"1000", b"7")
        raise_fences(raw, 1000)
        assert raw.get("{gridsync:lock:a}:fence") == b"1001"
        assert raw.ttl("{gridsync:lock:a}:fence") > 6 * 24 * 3600


def test_what_is_raised_beyond_the_clock_is_remembered_until_the_clock_is_past_it():
    """Else it is forgotten, and the clock gives numbers that are smaller."""
    month_s = 30 * 24 * 3600
    with RedisServer() as server, server.client() as raw:
        floor_us = (raw.time()[0] + month_s) * 1_000_000
        raw.set("{gridsync:lock:a}:fence", "41", ex=1000)
        raw.hset("{gridsync:events:orders/1}:lease:billing", mapping={"g": floor_us, "m": "somebody"})
        raised = raise_fences(raw, floor_us)
        assert (raised.fences, raised.generations) == (1, 1)
        assert raw.ttl("{gridsync:lock:a}:fence") > month_s + 6 * 24 * 3600
        # One that counts ahead of every clock goes on from where it is.
        assert raw.hgetall("{gridsync:events:orders/1}:lease:billing") == {b"g": str(floor_us + 1).encode()}


def test_the_generation_of_an_ordered_group_is_raised_and_nobody_holds_the_partition(tmp_path: Path):
    with RedisServer(options=AT_ONCE) as server, Grid(server.url, audit=False) as grid:
        orders = grid.events("orders", Order)
        orders.append("order-1", Placed(kwh=1), expected_version=0)
        group = orders.group("billing", ordered=True)
        seen = list[float]()
        group.consume(lambda each: (seen.append(each.event.kwh), group.stop()))
        key = "{gridsync:events:orders}:lease:billing"
        before = int(server.command("HGET", key, "g"))
        server.command("HSET", key, "m", "dead", "o", f"dead.{before}", "t", "99999999999999")
        backup = backup_of(server, tmp_path)
        said = restored(backup.path, "--url", server.url, "--force")
        assert said["raised"]["generations"] == 1
        assert int(server.command("HGET", key, "g")) >= said["raised"]["floor"] // 1000 > before
        assert server.command("HMGET", key, "m", "o", "t") == [None] * 3
        orders.append("order-1", Placed(kwh=2), expected_version=1)
        again = grid.events("orders", Order).group("billing", ordered=True)
        again.consume(lambda each: (seen.append(each.event.kwh), again.stop()))
        assert seen == [1, 2]


def test_a_store_with_a_second_site_comes_back_fenced_until_it_is_promoted(tmp_path: Path):
    """The other one may have been promoted since."""
    with RedisServer(options=AT_ONCE) as server, Grid(server.url, audit=False) as grid:
        orders = grid.events("orders", Order)
        orders.append("order-1", Placed(kwh=1), expected_version=0)
        server.command("HSET", "{gridsync:events:orders}:meta", "site", "frankfurt")
        backup = backup_of(server, tmp_path)
        said = restored(backup.path, "--url", server.url, "--force")
        assert said["raised"]["closed"] == ["orders"]
        with pytest.raises(ReadOnlyStore):
            orders.append("order-1", Placed(kwh=2), expected_version=1)
        orders.promote()
        orders.append("order-1", Placed(kwh=2), expected_version=1)
