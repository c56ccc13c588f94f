"""Real sentinels, real failovers, live traffic: what callers see of it, which is nothing."""

from __future__ import annotations

import asyncio
import gc
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
import redis

from gridsync.testing.sentinels import SentinelSet
from gridsync.testing.servers import server_kinds
from tests.sentinel.helpers import KINDS, FakeSentinel, Traffic, do, opened
from tests.wire.conftest import open_sockets
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer, ServerKind
    from tests.sentinel.conftest import Pair


@contextmanager
def announcements(servers: SentinelSet) -> Iterator[list[float]]:
    """Collect the moments at which any sentinel announces a switch."""
    heard: list[float] = []
    clients = [sentinel.client(socket_timeout=None) for sentinel in servers.sentinels if sentinel.running]
    subscriptions = [client.pubsub(ignore_subscribe_messages=True) for client in clients]

    def listen(subscription: Any) -> None:  # noqa: ANN401 - redis-py's
        try:
            for _ in subscription.listen():
                heard.append(time.monotonic())  # noqa: PERF401 - read while it grows
        except (redis.ConnectionError, ValueError, AttributeError, OSError):
            pass  # closed below

    threads = []
    for subscription in subscriptions:
        subscription.subscribe("+switch-master")
        threads.append(threading.Thread(target=listen, args=(subscription,), daemon=True))
        threads[-1].start()
    try:
        yield heard
    finally:
        for subscription in subscriptions:
            subscription.unsubscribe()
        for thread in threads:
            thread.join(10)
        for subscription, client in zip(subscriptions, clients, strict=True):
            subscription.close()
            client.close()


def report(what: str, announced: float, served: float) -> None:
    """Print what a failover took; ``pytest -rP`` shows it."""
    print(f"{what}: the switch was announced {announced:.2f} s after it was gone, served {served:+.3f} s after that")  # noqa: T201


def expect_rising(traffic: Traffic) -> None:
    """Check that no fence was given twice, and that each task's fences rise."""
    every = [fence for fences in traffic.fences for fence in fences]
    assert len(set(every)) == len(every)
    for fences in traffic.fences:
        assert fences == sorted(fences)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_planned_failover_is_not_seen_by_callers(kind: str, healthy: SentinelSet):
    async with opened(kind, healthy.url) as grid, Traffic(grid) as traffic:
        await soon(lambda: len(traffic.successes) > 50)
        await asyncio.to_thread(healthy.failover)
        moved = time.monotonic()
        await soon(lambda: len(traffic.since(moved)) > 50)
    assert not traffic.errors
    expect_rising(traffic)


@pytest.mark.parametrize("kind", KINDS)
async def test_a_killed_primary_costs_a_pause_and_no_error(kind: str, healthy: SentinelSet):
    with announcements(healthy) as heard:
        async with opened(kind, healthy.url, timeout=30) as grid, Traffic(grid) as traffic:
            await soon(lambda: len(traffic.successes) > 50)
            healthy.kill_master()
            killed = time.monotonic()
            await soon(lambda: heard and len(traffic.since(heard[0])) > 50, 40)
            before = max(fence for fences in traffic.fences for fence in fences)
            lease = await do(grid.lock("job").acquire, timeout=30)
            await do(lease.release)
    assert not traffic.errors
    expect_rising(traffic)
    assert lease.fence > before
    report(kind, heard[0] - killed, traffic.since(killed)[0][1] - heard[0])


@pytest.mark.faults
@pytest.mark.parametrize("kind", KINDS)
async def test_a_sentinel_that_slept_through_a_failover_is_not_believed(kind: str, healthy: SentinelSet):
    """It comes back with the primary of yesterday in its file, and is the first of the list."""
    sleeper = healthy.sentinels[0]
    sleeper.kill()
    async with opened(kind, healthy.url) as grid:
        healthy.kill_master()
        await do((await do(grid.lock("job").acquire, timeout=30)).release)
        # The old primary stays away: if it came back as one, it and the sleeper would agree until both are corrected.
        healthy.restart(sleeper)
        async with opened(kind, healthy.url) as late:
            lease = await do(late.lock("job").acquire, timeout=30)
            assert healthy.wait().command("HGETALL", "{gridsync:lock:job}")
            assert await do(lease.release)


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", server_kinds(), ids=str)
async def test_twenty_failovers_leave_nothing(kind: str, program: ServerKind):
    """Redis-py's pool lost a slot, and so a connection, at each."""
    with SentinelSet(program) as servers:
        async with opened(kind, servers.url, timeout=30) as grid:
            async with Traffic(grid) as traffic:
                await soon(lambda: len(traffic.successes) > 50)
                sockets, threads = open_sockets(), threading.active_count()
                for _ in range(20):
                    await asyncio.to_thread(servers.failover)
                    moved = time.monotonic()
                    await soon(lambda moved=moved: len(traffic.since(moved)) > 20)  # type: ignore[misc]
                # Two tasks of each kind at most are under way at once, each with a connection, and those that wait.
                await soon(lambda: open_sockets() <= sockets + 6)
                assert threading.active_count() <= threads + 6
            assert not traffic.errors
            expect_rising(traffic)


@pytest.mark.faults
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
async def test_a_thousand_switches_leave_no_socket_task_thread_or_place(kind: str, pair: Pair):
    """A scripted sentinel names the one server and the other, as fast as callers follow, with calls under way."""
    with FakeSentinel(pair[0]) as sentinel:
        async with opened(kind, sentinel.url, timeout=30) as grid:
            await soon(lambda: sentinel.listeners)
            await do(grid.limiter("calls", "1000000/minute").hit, "someone")
            before = left_open(grid)
            over = asyncio.Event()
            calls = asyncio.create_task(limits(grid, over))
            for turn in range(1000):
                here, there = pair[turn % 2], pair[(turn + 1) % 2]
                sentinel.announce(there)
                await soon(lambda there=there: leads(grid, there))  # type: ignore[misc]
                assert not leads(grid, here)
            over.set()
            await calls
            # By chance two threads did, or did not, need a connection each; a leak would be hundreds.
            most = Left(*(count + 2 for count in before))
            await soon(lambda: left_open(grid) <= most)
            stats = grid.stats()
            assert (stats.in_flight, stats.line) == (0, 0)
            assert stats.connections_opened > 1000
            assert not stats.repeats_refused


def leads(grid: Any, server: RedisServer) -> bool:  # noqa: ANN401 - either kind
    """Tell whether the next call goes to *server*."""
    return bool(grid._io.where(("k",)).port == server.port)


def left_open(grid: Any) -> Left:  # noqa: ANN401
    """Count what a switch may leave behind."""
    gc.collect()
    tasks = len(asyncio.all_tasks())
    return Left(open_sockets(), threading.active_count(), tasks, grid.stats().connections_open)


class Left(NamedTuple):
    """How many there are; one is less than another if nothing grew."""

    sockets: int
    threads: int
    tasks: int
    places: int

    def __le__(self, other: tuple[int, ...]) -> bool:
        return all(mine <= theirs for mine, theirs in zip(self, other, strict=True))


async def limits(grid: Any, over: asyncio.Event) -> None:  # noqa: ANN401
    """Hit as fast as a caller can."""
    while not over.is_set():
        await do(grid.limiter("calls", "1000000/minute").hit, "someone")


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", server_kinds(), ids=str)
async def test_a_frozen_primary_that_wakes_up_later_gets_nothing_more(kind: str, program: ServerKind):
    """Its connections stay open, and nothing but the announcement tells that they are of no use."""
    with SentinelSet(program) as servers:
        async with opened(kind, servers.url, timeout=60) as grid, Traffic(grid) as traffic:
            await soon(lambda: len(traffic.successes) > 50)
            with announcements(servers) as heard:
                old = servers.master
                old.pause()
                frozen = time.monotonic()
                await soon(lambda: heard and len(traffic.since(heard[0])) > 50, 60)
            report(f"{program} {kind}", heard[0] - frozen, traffic.since(frozen)[0][1] - heard[0])
            old.resume()
            assert await asyncio.to_thread(servers.wait) is not old
            back = time.monotonic()
            await soon(lambda: len(traffic.since(back)) > 50)
        assert not traffic.errors
        expect_rising(traffic)


@pytest.mark.faults
@pytest.mark.timeout(400)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("program", server_kinds(), ids=str)
async def test_five_killed_primaries_that_come_back(kind: str, program: ServerKind):
    with SentinelSet(program) as servers:
        async with opened(kind, servers.url, timeout=60) as grid, Traffic(grid) as traffic:
            for _ in range(5):
                await soon(lambda: len(traffic.successes) > 50)
                with announcements(servers) as heard:
                    old = servers.kill_master()
                    killed = time.monotonic()
                    await soon(lambda: heard and len(traffic.since(heard[0])) > 50, 60)
                report(f"{program} {kind}", heard[0] - killed, traffic.since(killed)[0][1] - heard[0])
                servers.restart(old)
                await asyncio.to_thread(servers.wait)
        assert not traffic.errors
        expect_rising(traffic)
