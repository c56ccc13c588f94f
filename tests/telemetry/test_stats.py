"""`Grid.stats`, and what Prometheus gets of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import re
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gridsync import AsyncGrid, Grid, Settings, UsageError
from gridsync._io import decided, spread
from gridsync._io.counts import Counts
from gridsync.contrib.prometheus import GridCollector, StoreCollector
from gridsync.streams import DEAD
from gridsync.testing.proxy import FaultProxy
from tests.streams.models import Order, Placed
from tests.wire.fake import eventually, soon

if TYPE_CHECKING:
    from gridsync.streams import Delivery
    from gridsync.testing.servers import RedisServer


def test_connections_and_leases_are_counted(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        assert grid.stats().connections_open == grid.stats().connections_idle == 1
        with grid.lock("job"):
            held = grid.stats()
        after = grid.stats()
    assert (held.leases_kept, held.locks_acquired, held.in_flight, held.line) == (1, 1, 0, 0)
    assert (after.leases_kept, after.leases_lost) == (0, 0)
    assert held.connections_opened >= 1
    assert held.connections_reopened == 0


def test_threads_in_line_and_waiters_are_counted(flushed: RedisServer):
    settings = Settings(redis_url=flushed.url, redis_pool_size=1, redis_command_timeout=30)
    with Grid(settings=settings) as grid:
        flushed.pause()
        limiter = grid.limiter("orders", "5/second")
        threads = [threading.Thread(target=limiter.hit, args=("me",)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: (grid.stats().in_flight, grid.stats().line) == (1, 1))
        finally:
            flushed.resume()
        for thread in threads:
            thread.join()
        assert (grid.stats().in_flight, grid.stats().line) == (0, 0)
        waiter = threading.Thread(target=lambda: grid.lock("job").acquire().release())
        with grid.lock("job"):
            waiter.start()
            eventually(lambda: grid.stats().ears == 1)
        waiter.join()
        assert grid.stats().ears == 0


async def test_tasks_in_flight_and_in_line_are_counted(flushed: RedisServer):
    settings = Settings(redis_url=flushed.url, gridsync_inflight_max=2, redis_command_timeout=30)
    async with AsyncGrid(settings=settings) as grid:
        flushed.pause()
        limiter = grid.limiter("orders", "5/second")
        tasks = [asyncio.create_task(limiter.hit("me")) for _ in range(5)]
        try:
            await soon(lambda: (grid.stats().in_flight, grid.stats().line) == (2, 3))
            assert (grid.stats().connections_open, grid.stats().connections_idle) == (1, 0)
        finally:
            flushed.resume()
        await asyncio.gather(*tasks)
        assert (grid.stats().in_flight, grid.stats().line) == (0, 0)


def test_failures_are_counted_by_reason_and_a_success_counts_nothing(flushed: RedisServer):
    flushed.command("SCRIPT", "FLUSH")
    with FaultProxy(flushed.url) as proxy, Grid(proxy.url) as grid:
        limiter = grid.limiter("orders", "50/second")
        limiter.hit("me")
        assert dict(grid.stats().failures) == {"NOSCRIPT": 1}
        limiter.hit("me")
        assert dict(grid.stats().failures) == {"NOSCRIPT": 1}
        proxy.cut()
        limiter.hit("me")
        stats = grid.stats()
        assert stats.connections_reopened >= 1
        assert json.loads(json.dumps(stats.to_dict())) == stats.to_dict()
        assert stats.to_dict()["ambiguous"] == stats.ambiguous


def test_the_child_of_a_fork_has_stats_of_its_own_connections(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        readable, writable = os.pipe()
        child = os.fork()
        if child == 0:  # pragma: no cover - another process
            try:
                os.write(writable, str(grid.stats().connections_open).encode())
            finally:
                os._exit(0)
        os.close(writable)
        with os.fdopen(readable, "rb") as pipe:
            assert pipe.read() == b"0"
        os.waitpid(child, 0)


async def test_an_async_grid_that_is_not_open_has_no_stats():
    with pytest.raises(UsageError, match="not open"):
        AsyncGrid("redis://127.0.0.1:1").stats()


async def test_prometheus_sees_every_counter(flushed: RedisServer):
    registry = CollectorRegistry()
    grid = AsyncGrid(flushed.url)
    registry.register(GridCollector(grid, name="orders"))
    assert generate_latest(registry) == b""
    flushed.command("SCRIPT", "FLUSH")
    async with grid, grid.lock("job"):
        text = generate_latest(registry).decode()
    assert 'gridsync_leases_kept{grid="orders"} 1.0' in text
    assert 'gridsync_locks_acquired_total{grid="orders"} 1.0' in text
    assert 'gridsync_attempts_failed_total{grid="orders",reason="NOSCRIPT"} 1.0' in text
    stats = {"connections_open", "connections_opened", "in_flight", "ears", "events_consumed", "events_failed"}
    assert all(f"gridsync_{name}" in text for name in stats)


@pytest.mark.any_server
@pytest.mark.leaves_keys  # events are the data
async def test_prometheus_sees_decisions_and_the_groups_that_are_consumed(flushed: RedisServer):
    registry = CollectorRegistry()
    seen: list[str] = []
    async with AsyncGrid(flushed.url) as grid:
        registry.register(GridCollector(grid, name="g"))
        await grid.limiter("orders", "2/hour").hit("me")
        store = grid.events("orders", Placed)
        await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
        group = store.group("billing")

        def handle(_: object) -> None:
            seen.append(generate_latest(registry).decode())
            group.stop()

        await group.consume(handle, claim_idle=600)
        after = generate_latest(registry).decode()
    assert 'gridsync_limit_decisions_total{grid="g",limiter="orders",outcome="admitted",source="server"} 1.0' in after
    assert 'gridsync_group_lag{grid="g",name="orders/billing"} 2.0' in seen[0]
    assert "gridsync_group_lag{" not in after, "who has left says nothing more"


@pytest.mark.any_server
@pytest.mark.leaves_keys
def test_prometheus_sees_what_stores_hold_whoever_consumes(flushed: RedisServer):
    """A group that nobody consumes is what an alarm is for."""
    registry = CollectorRegistry()
    with Grid(flushed.url) as grid:
        orders, bills = grid.events("orders", Order), grid.events("bills", Order)
        registry.register(StoreCollector(orders, bills, groups_max=2))
        orders.append("a", [Placed(kwh=1), Placed(kwh=2), Placed(kwh=3)])
        outbox = orders.outbox(bills)

        def bill(delivery: Delivery[Any]) -> None:
            if delivery.position == 3:
                raise ValueError
            with delivery.commit() as tx:
                tx.send(outbox, "b", [Placed(kwh=1), Placed(kwh=1)])

        orders.group("billing").consume(bill, idle_stop=0, policy={ValueError: DEAD}, on_error=lambda _: None)
        orders.append("a", Placed(kwh=4))
        for name in ("another", "late"):
            orders.group(name).consume(lambda _: None, idle_stop=0)
        orders.trim(max_count=3)
        lines = generate_latest(registry).decode().splitlines()
        told = dict(line.rsplit(" ", 1) for line in lines if line.startswith("gridsync_") and "_oldest" not in line)
        sizes = {name: float(told.pop(f'gridsync_store_bytes{{store="{name}"}}')) for name in ("orders", "bills")}
        flushed.command("CONFIG", "RESETSTAT")
        registry = CollectorRegistry()
        registry.register(StoreCollector(orders))
        with flushed.client() as client:
            assert "cmdstat_evalsha" not in client.info("commandstats"), "to register asks nothing"
    assert sizes["orders"] > sizes["bills"] >= 0
    assert {name: float(value) for name, value in told.items()} == {
        'gridsync_store_up{store="orders"}': 1,
        'gridsync_store_up{store="bills"}': 1,
        'gridsync_store_events{store="orders"}': 3,
        'gridsync_store_events{store="bills"}': 0,
        'gridsync_store_removed{store="orders"}': 1,
        'gridsync_store_removed{store="bills"}': 0,
        'gridsync_store_streams{store="orders"}': 1,
        'gridsync_store_streams{store="bills"}': 0,
        'gridsync_store_free{store="orders"}': 2,
        'gridsync_store_free{store="bills"}': 0,
        'gridsync_store_groups{store="orders"}': 3,
        'gridsync_store_groups{store="bills"}': 0,
        'gridsync_store_outboxes{store="orders"}': 1,
        'gridsync_store_outboxes{store="bills"}': 0,
        'gridsync_store_group_lag{group="billing",store="orders"}': 1,
        'gridsync_store_group_pending{group="billing",store="orders"}': 0,
        'gridsync_store_group_parked{group="billing",store="orders"}': 0,
        'gridsync_store_group_waiting{group="billing",store="orders"}': 0,
        'gridsync_store_group_dead{group="billing",store="orders"}': 1,
        'gridsync_store_group_consumers{group="billing",store="orders"}': 0,
        'gridsync_store_group_lag{group="another",store="orders"}': 0,
        'gridsync_store_group_pending{group="another",store="orders"}': 0,
        'gridsync_store_group_parked{group="another",store="orders"}': 0,
        'gridsync_store_group_waiting{group="another",store="orders"}': 0,
        'gridsync_store_group_dead{group="another",store="orders"}': 0,
        'gridsync_store_group_consumers{group="another",store="orders"}': 0,
        'gridsync_store_outbox_waiting{store="orders",target="bills"}': 2,
        'gridsync_store_outbox_events{store="orders",target="bills"}': 4,
    }


@pytest.mark.any_server
def test_every_metric_that_the_page_is_alarmed_by_is_exported(flushed: RedisServer):
    """An alarm about a metric that does not exist never rings."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    wanted = set(re.findall(r"gridsync_[a-z_]+", page.partition("### What to be alarmed by")[2]))
    registry = CollectorRegistry()
    with Grid(flushed.url) as grid:
        registry.register(GridCollector(grid))
        registry.register(StoreCollector(grid.events("orders", Placed)))
        text = generate_latest(registry).decode()
    assert len(wanted) >= 8
    assert {name for name in wanted if f"# TYPE {name} " not in text} == set()


@pytest.mark.any_server
def test_a_store_that_cannot_be_asked_ends_no_scrape(flushed: RedisServer):
    registry = CollectorRegistry()
    settings = Settings(redis_url=flushed.url, redis_command_timeout=0.2, redis_connection_timeout=30)
    with Grid(settings=settings) as grid:
        registry.register(StoreCollector(grid.events("orders", Placed)))
        flushed.pause()
        text = generate_latest(registry).decode()
        flushed.resume()
    assert 'gridsync_store_up{store="orders"} 0.0' in text
    assert "gridsync_store_events{" not in text


@pytest.mark.any_server
async def test_prometheus_asks_only_for_stores_of_threads(flushed: RedisServer):
    with pytest.raises(UsageError, match="event stores of a Grid"):
        StoreCollector()
    async with AsyncGrid(flushed.url) as grid:
        with pytest.raises(UsageError, match="event stores of a Grid"):
            StoreCollector(grid.events("orders", Placed))  # type: ignore[arg-type]
    with Grid(flushed.url) as threads, pytest.raises(UsageError, match="groups_max"):
        StoreCollector(threads.events("orders", Placed), groups_max=0)


async def test_decisions_are_counted_by_limiter_source_and_outcome(flushed: RedisServer):
    async with AsyncGrid(flushed.url) as grid:
        limiter = grid.limiter("orders", "2/hour", deny_cache=10)
        for cost in (1, 1, 1, 1, 3):
            await limiter.hit("me", cost)
        await limiter.peek("me")
        await grid.limiter("orders", "9/hour").hit("you")
        await grid.limiter("jobs", "1/hour burst 3").hit("me")
        told = grid.stats().decisions
        assert told == {
            "jobs": {"server.admitted": 1},
            "orders": {"server.admitted": 3, "server.denied": 1, "cache.denied": 2},
        }
        assert json.loads(json.dumps(grid.stats().to_dict()))["decisions"] == told


def test_decisions_without_a_server_are_counted_too(flushed: RedisServer):
    settings = Settings(redis_url=flushed.url, redis_command_timeout=0.2, redis_connection_timeout=30)
    with Grid(settings=settings) as grid:
        local, deny = (grid.limiter(name, "1/hour", on_error=name) for name in ("local", "deny"))
        flushed.pause()
        for _ in range(2):
            local.hit("me")
            deny.hit("me")
        deny.hit("me", 2)
        flushed.resume()
        told = grid.stats().decisions
    assert told == {
        "deny": {"policy.denied": 2, "policy.never": 1},
        "local": {"local.admitted": 1, "local.denied": 1},
    }


def test_only_so_many_limiters_are_counted_by_name(monkeypatch: pytest.MonkeyPatch):
    """A limiter per user would fill the memory with counters."""
    monkeypatch.setattr(decided, "LIMITERS_MAX", 2)
    numbers = decided.Decided()
    for name in "abcda":
        numbers.of(name)[0] += 1
    assert list(numbers) == [
        ("...", "server", "admitted", 2),
        ("a", "server", "admitted", 2),
        ("b", "server", "admitted", 1),
    ]


def test_only_so_many_names_are_tallied(monkeypatch: pytest.MonkeyPatch):
    """Each is a label for Prometheus, too."""
    monkeypatch.setattr(spread, "NAMES_MAX", 2)
    counts = Counts()
    for name in "abcda":
        counts.tally("limit.degraded", name)
    counts.tally("lock.timeout")
    assert dict(counts.totals) == {
        ("limit.degraded", "a"): 2,
        ("limit.degraded", "b"): 1,
        ("limit.degraded", "..."): 2,
        ("lock.timeout", ""): 1,
    }


def test_what_a_grid_counted_is_not_lost_with_it():
    """OpenTelemetry's counters only grow."""
    numbers = decided.Decided()
    numbers.of("a-limiter-of-this-test")[1] += 3

    def told() -> list[tuple[str, str, str, int]]:
        return [each for each in decided.decided() if each[0] == "a-limiter-of-this-test"]

    before = told()
    del numbers
    gc.collect()
    assert before == told() == [("a-limiter-of-this-test", "server", "denied", 3)]
