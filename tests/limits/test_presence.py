"""``share="auto"``: the processes that use a limiter count each other, and divide it when the server is away."""

from __future__ import annotations

import asyncio
import gc
import os
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid, Settings
from gridsync._io.keys import limiter_here
from gridsync._io.local import LocalWindows
from gridsync.limits import AsyncLimiter, _presence
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.sim import Simulation
from tests.limits.test_fallback import HOUR, Clock
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer
    from gridsync.testing.sim import SimIO

HERE = limiter_here("gridsync", "calls")


@pytest.fixture
def proxy(flushed: RedisServer) -> Iterator[FaultProxy]:
    with FaultProxy(flushed.url) as between:
        yield between


def settings(url: str) -> Settings:
    return Settings(redis_url=url, redis_command_timeout=30, redis_connection_timeout=30, gridsync_breaker_pause=300)


def shared(grid: Any, *rules: str) -> Any:  # noqa: ANN401 - either kind
    return grid.limiter("calls", *rules, on_error="local", share="auto")


def processes(limiter: Any) -> int:  # noqa: ANN401 - either kind
    return limiter._fallback._presence.processes


def test_three_processes_divide_a_limit_by_three(flushed: RedisServer, proxy: FaultProxy, monkeypatch: Any) -> None:  # noqa: ANN401
    """A fleet must not admit the whole limit in each of its processes when the server is gone."""
    monkeypatch.setattr(_presence, "BEAT_S", 0.05)
    with ExitStack() as stack:
        grids = [stack.enter_context(Grid(settings=settings(proxy.url))) for _ in range(3)]
        limiters = [shared(grid, "90/minute") for grid in grids]
        for limiter in limiters:
            assert limiter.hit("k").source == "server"
        eventually(lambda: [processes(limiter) for limiter in limiters] == [3, 3, 3])
        assert flushed.command("PTTL", HERE) > 0
        proxy.refuse()
        proxy.cut()
        for grid in grids:
            grid._io._timeout = 0.3  # nobody is there, so nobody needs more
        admitted = []
        for limiter in limiters:
            decisions = [limiter.hit("k") for _ in range(40)]
            assert all(decision.degraded for decision in decisions)
            assert {decision.limit for decision in decisions} == {30}
            admitted.append(sum(map(bool, decisions)))
        assert admitted == [29, 29, 29], "a third of the 89, 88 and 87 that the server had left"


async def test_a_task_counts_as_well(flushed: RedisServer) -> None:
    async with AsyncGrid(settings=settings(flushed.url)) as grid:
        limiter = shared(grid, "90/minute")
        await limiter.hit("k")
        with Grid(settings=settings(flushed.url)) as other:
            twin = shared(other, "90/minute")
            twin.hit("k")
            await asyncio.to_thread(eventually, lambda: flushed.command("ZCARD", HERE) == 2)


def test_limiters_of_one_name_beat_once_and_stop_with_the_last(flushed: RedisServer, monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.setattr(_presence, "BEAT_S", 0.02)
    with Grid(settings=settings(flushed.url)) as grid:
        limiters = [shared(grid, "90/minute") for _ in range(5)]
        for limiter in limiters:
            limiter.hit("k")
        eventually(lambda: flushed.command("ZCARD", HERE) == 1)
        assert grid.stats().leases_kept == 1
        del limiters, limiter
        gc.collect()
        eventually(lambda: grid.stats().leases_kept == 0)


def test_nothing_beats_unless_it_was_asked_for(flushed: RedisServer) -> None:
    with Grid(settings=settings(flushed.url)) as grid:
        grid.limiter("calls", "90/minute", on_error="local", share=0.5).hit("k")
        grid.limiter("calls", "90/minute").hit("k")
        assert grid.stats().leases_kept == 0
        assert flushed.command("EXISTS", HERE) == 0


def test_the_child_of_a_fork_counts_by_itself(flushed: RedisServer, monkeypatch: Any) -> None:  # noqa: ANN401
    """It has no watchdog of its parent's, and another name."""
    monkeypatch.setattr(_presence, "SILENT_S", 0.0)
    with Grid(settings=settings(flushed.url)) as grid:
        limiter = shared(grid, "90/minute")
        limiter.hit("k")
        eventually(lambda: flushed.command("ZCARD", HERE) == 1)
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            limiter.hit("k")
            eventually(lambda: processes(limiter) == 2)
            os.write(writer, b"1")
            os._exit(0)
        assert os.read(reader, 1) == b"1"
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)


def test_a_lost_beat_is_made_up_for(flushed: RedisServer, proxy: FaultProxy, monkeypatch: Any) -> None:  # noqa: ANN401
    monkeypatch.setattr(_presence, "BEAT_S", 0.05)
    sha = _presence._BEAT.sha.encode()
    rule = proxy.on(Break.REQUEST, lambda words: words[0] == b"EVALSHA" and words[1] == sha)
    with Grid(settings=settings(proxy.url)) as grid:
        limiter = shared(grid, "90/minute")
        limiter.hit("k")
        eventually(lambda: rule.hits and flushed.command("ZCARD", HERE) == 1)


def test_who_died_counts_no_more() -> None:
    """Otherwise the survivors would admit less and less."""
    sim = Simulation(3)
    seen: list[tuple[float, int]] = []

    async def work(io: SimIO) -> None:
        limiter = AsyncLimiter(io, "t", "calls", "90/minute", on_error="local", share="auto")
        for _ in range(80):
            await limiter.hit("k")
            await io.sleep(1.0)
            seen.append((sim.now, processes(limiter)))

    for name in "abc":
        sim.start(name, work)
    sim.at(15.0, lambda: sim.kill("b"))
    sim.run(until=90.0)
    assert {count for at, count in seen if 12 < at < 15} == {3}
    assert {count for at, count in seen if at > 60} == {2}
    assert sim.server.engine.execute("ZCARD", limiter_here("t", "calls")) <= 2


# -- what the server said last ----------------------------------------------------------------------------------------


def test_what_the_server_had_left_is_what_there_is_here():
    clock = Clock()
    windows = LocalWindows([(100, HOUR)], clock)
    windows.allow([25])
    windows.learn("k", 40, 0)
    assert windows.peek("k", 1)[:2] == [0, 10], "a quarter of 40"
    assert windows.peek("k", 1)[:2] == [0, 10]
    assert windows.hit("k", 10)[:2] == [0, 0]
    assert windows.hit("k", 1)[0] == HOUR
    assert windows.hit("other", 25)[:2] == [0, 0]


def test_what_the_server_said_leaves_the_window_as_hits_do():
    clock = Clock()
    windows = LocalWindows([(100, HOUR)], clock)
    windows.learn("k", 0, 0)
    clock.us += HOUR - 1
    assert windows.hit("k", 1)[0] == 1
    clock.us += 1
    assert windows.hit("k", 100)[0] == 0


def test_old_news_say_nothing():
    clock = Clock()
    windows = LocalWindows([(100, HOUR)], clock)
    windows.learn("k", 0, 0)
    clock.us += HOUR
    assert windows.hit("k", 100)[0] == 0


def test_what_was_counted_here_is_not_counted_again():
    """After an outage the server does not know what was admitted here, nor here what it admitted: the larger counts."""
    clock = Clock()
    windows = LocalWindows([(100, HOUR)], clock)
    windows.hit("k", 30)
    windows.learn("k", 80, 0)
    assert windows.peek("k", 1)[1] == 70
    windows.learn("k", 50, 0)
    assert windows.hit("k", 1)[1] == 49


def test_only_the_rule_that_was_told_of_is_used_up():
    """A day that is nearly used up must not lock a key out for a minute."""
    windows = LocalWindows([(10, HOUR), (50, 10 * HOUR), (90, 20 * HOUR)], Clock())
    windows.learn("k", 5, 1)
    denied = windows.peek("k", 6)
    assert (denied[1], denied[3]) == (5, 1)
    assert windows.hit("k", 5)[:2] == [0, 0]


def test_no_more_news_than_promised_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gridsync._io.local.SUBJECTS_MAX", 2)
    windows = LocalWindows([(1, HOUR)], Clock())
    for subject in "abac":
        windows.learn(subject, 0, 0)
    assert list(windows._told) == ["a", "c"]
    windows.reset("a")
    assert list(windows._told) == ["c"]
