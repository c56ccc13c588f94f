"""`Grid.stats`, and what Prometheus gets of it."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import threading
from typing import TYPE_CHECKING

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from gridsync import AsyncGrid, Grid, Settings, UsageError
from gridsync._io import decided
from gridsync.contrib.prometheus import GridCollector
from gridsync.testing.proxy import FaultProxy
from tests.wire.fake import eventually, soon

if TYPE_CHECKING:
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
