"""What Prometheus gets beyond `Grid.stats`: counters by name, durations, near caches, mirrors, and how it is served."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import httpx
import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.parser import text_string_to_metric_families

from gridsync import AsyncGrid, Grid, LockTimeout, Settings
from gridsync._io import spread
from gridsync._io.counts import Counts
from gridsync._io.telemetry import TALLIES
from gridsync.cache import Near, Space
from gridsync.contrib.prometheus import GridCollector, StoreCollector, metrics_app
from gridsync.testing.servers import RedisServer
from tests.streams.models import Order, Placed
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

pytestmark = pytest.mark.any_server


def seen(registry: CollectorRegistry) -> dict[str, float]:
    """What a scrape shows, by name and labels without that of the grid."""
    found: dict[str, float] = {}
    for family in text_string_to_metric_families(generate_latest(registry).decode()):
        for sample in family.samples:
            labels = ",".join(f"{label}={value}" for label, value in sorted(sample.labels.items()) if label != "grid")
            found[f"{sample.name}{{{labels}}}"] = sample.value
    return found


def collected(grid: Grid | AsyncGrid) -> CollectorRegistry:
    registry = CollectorRegistry()
    registry.register(GridCollector(grid, name="g"))
    return registry


def test_waits_and_holds_of_locks_are_histograms_and_who_gave_up_is_counted(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        registry = collected(grid)
        before = seen(registry)
        assert before["gridsync_lock_timeout_total{name=}"] == 0, "a counter that begins at 1 has never increased"
        with grid.lock("job"), pytest.raises(LockTimeout):
            grid.lock("job").acquire(timeout=0.01)
        after = seen(registry)
    assert after["gridsync_lock_timeout_total{name=}"] == 1
    for what in ("wait", "hold"):
        assert after[f"gridsync_lock_{what}_seconds_count{{name=}}"] == 1
        assert after[f"gridsync_lock_{what}_seconds_bucket{{le=+Inf,name=}}"] == 1
        assert after[f"gridsync_lock_{what}_seconds_sum{{name=}}"] > 0


def test_caches_and_their_copies_are_counted_by_name(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        registry = collected(grid)
        prices = grid.cache(Space("prices", int, ttl=60), near=Near())
        for _ in range(3):
            assert prices.get_or_load("spot", lambda: 7) == 7
        told = seen(registry)
    assert told["gridsync_cache_load_seconds_count{name=prices}"] == 1
    assert told["gridsync_cache_miss_total{name=prices}"] >= 1
    assert told["gridsync_cache_near_misses_total{name=prices}"] >= 1
    assert {f"gridsync_cache_near_{each}_total{{name=prices}}" for each in ("hits", "evictions", "drops")} < set(told)


def test_answered_requests_are_counted_and_never_fewer():
    counts = Counts()
    assert [counts.answered(now) for now in (3, 7, 2, 4)] == [3, 7, 7, 9], "2: a node went away with what it answered"


async def test_requests_of_threads_and_of_tasks_are_counted(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        before = grid.stats().requests
        for _ in range(5):
            grid.limiter("orders", "90/minute").hit("me")
        assert grid.stats().requests >= before + 5
    async with AsyncGrid(flushed.url) as tasks:
        before = tasks.stats().requests
        for _ in range(5):
            await tasks.limiter("orders", "90/minute").hit("me")
        assert tasks.stats().requests >= before + 5


@pytest.mark.leaves_keys  # events are the data
async def test_how_far_a_mirror_is_behind_is_seen(flushed: RedisServer):
    """Without it nobody hears that a second data centre stopped following."""
    async with AsyncGrid(flushed.url) as here, AsyncGrid(flushed.url, namespace="there") as there:
        source, mirror = here.events("orders", Placed), there.events("orders", Placed)
        await source.append("a", [Placed(kwh=1), Placed(kwh=2)])
        registry, other = collected(here), collected(there)
        replication = source.replication(mirror)
        task = asyncio.create_task(replication.run())
        try:
            await soon(lambda: seen(registry).get("gridsync_mirror_lag{name=orders}") == 0, 60)
            told = seen(registry) | seen(other)
        finally:
            replication.stop()
            await task
    assert told["gridsync_mirror_oldest{name=orders}"] == 0
    assert told["gridsync_stream_mirrored_seconds_count{name=orders}"] >= 1


@pytest.mark.leaves_keys  # events are the data
async def test_a_mirror_that_cannot_be_reached_is_seen_to_fall_behind(flushed: RedisServer):
    """The last that was told would say that all is well, for as long as the other data centre is away."""
    with RedisServer() as other:
        settings = Settings(redis_url=other.url, redis_command_timeout=1)
        async with AsyncGrid(flushed.url) as here, AsyncGrid(settings=settings) as there:
            source, mirror = here.events("orders", Placed), there.events("orders", Placed)
            await source.append("a", Placed(kwh=1))
            registry = collected(here)
            replication = source.replication(mirror)
            task = asyncio.create_task(replication.run())
            try:
                await soon(lambda: seen(registry).get("gridsync_mirror_lag{name=orders}") == 0, 60)
                other.pause()
                await source.append("a", [Placed(kwh=1), Placed(kwh=2)])
                await soon(lambda: seen(registry)["gridsync_mirror_lag{name=orders}"] == 2, 60)
                await soon(lambda: seen(registry)["gridsync_mirror_oldest{name=orders}"] >= 1, 60)
            finally:
                other.resume()
                replication.stop()
                await task


@pytest.mark.leaves_keys  # events are the data
def test_the_cap_of_a_log_and_what_it_refused_are_seen(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        registry = collected(grid)
        orders = grid.events("orders", Order)
        registry.register(StoreCollector(orders))
        assert "gridsync_store_cap{store=orders}" not in seen(registry)
        orders.retention(cap_count=1000).run(once=True)
        told = seen(registry)
    assert told["gridsync_store_cap{store=orders}"] == 1000
    assert told["gridsync_stream_full_total{name=}"] == 0


def test_every_tally_of_opentelemetry_has_a_metric_of_the_same_name(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        text = generate_latest(collected(grid)).decode()
    for what, each in TALLIES.items():
        name = f"gridsync_{what.replace('.', '_').replace('-', '_')}"
        assert f"# TYPE {name}{'_total counter' if each.kind == 'count' else '_seconds histogram'}" in text


def test_nothing_is_measured_until_somebody_asks(flushed: RedisServer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(spread, "wanted", False)
    with Grid(flushed.url) as grid, grid.lock("job"):
        assert dict(grid.stats().durations) == {}
        registry = collected(grid)
        with grid.lock("another"):
            assert seen(registry)["gridsync_lock_wait_seconds_count{name=}"] == 1


def test_only_so_many_names_are_measured(monkeypatch: pytest.MonkeyPatch):
    """A limiter for each user would fill the memory, here and at Prometheus."""
    monkeypatch.setattr(spread, "NAMES_MAX", 2)
    durations = spread.Spread()
    for name in "abcdab":
        durations.add("limit.wait", name, 0.2, age=False)
    counted = {name: sum(numbers[:-1]) for name, numbers in durations.told()["limit.wait"].items()}
    assert counted == {"a": 2, "b": 2, "...": 2}


class Slow:
    """A collector that waits until it may go on, and knows in which thread it was."""

    def __init__(self) -> None:
        self.go = threading.Event()
        self.threads: list[int] = []

    def collect(self) -> Iterator[Metric]:
        self.threads.append(threading.get_ident())
        assert self.go.wait(60)
        yield GaugeMetricFamily("slow", "Slow.", value=1)


def client(registry: CollectorRegistry) -> httpx.AsyncClient:
    app: Any = metrics_app(registry)
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://app")


async def test_a_slow_scrape_does_not_hold_up_the_loop():
    registry, slow = CollectorRegistry(), Slow()
    registry.register(slow)
    async with client(registry) as asking:
        scrape = asyncio.create_task(asking.get("/metrics"))
        await soon(lambda: slow.threads)  # the loop turns while the collector waits
        slow.go.set()
        answer = await scrape
    assert "slow 1.0" in answer.text
    assert threading.get_ident() not in slow.threads


async def test_metrics_are_served_as_prometheus_asks_for_them():
    registry, slow = CollectorRegistry(), Slow()
    slow.go.set()
    registry.register(slow)
    async with client(registry) as asking:
        plain = await asking.get("/metrics")
        newer = await asking.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"})
        head = await asking.head("/metrics")
        wrong = await asking.post("/metrics")
    assert plain.headers["content-type"].startswith("text/plain")
    assert newer.headers["content-type"].startswith("application/openmetrics-text")
    assert newer.text.endswith("# EOF\n")
    assert (head.status_code, head.text, head.headers["content-length"]) == (200, "", str(len(plain.content)))
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "GET, HEAD")
