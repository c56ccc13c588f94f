"""Real servers that freeze, refuse and are cut off: what an outage costs, and what a storm adds."""

from __future__ import annotations

import asyncio
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid, Settings
from gridsync._io import Category, Command
from gridsync._io.aio import AsyncIO
from gridsync._io.breaker import State, StateChange
from gridsync._io.guard import Policy
from gridsync._io.wire.endpoint import parse
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable
from gridsync.testing.proxy import Break, FaultProxy
from tests.wire.fake import HELLO, FakeServer, Peer, Words, soon, until
from tests.wire.outage import LONG_S, PING, Outage, bounded
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.testing.servers import RedisServer

SET = Command("test.set", Category.IDEMPOTENT, ("SET",))


@pytest.fixture(params=KINDS)
async def outage(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Outage]:
    world = World(request.param, flushed.url)
    yield Outage(world)
    await world.close()


@pytest.fixture
def frozen(flushed: RedisServer) -> Iterator[RedisServer]:
    """The server, which goes on after the test at the latest."""
    yield flushed
    if flushed.running:
        flushed.resume()


async def test_a_frozen_server_costs_one_timeout(outage: Outage, frozen: RedisServer, caplog: pytest.LogCaptureFixture):
    """A hundred callers lose a timeout each, side by side; whoever comes later loses nothing."""
    outage.driver(frozen.url, pause_s=LONG_S)
    await bounded(*(outage.ping() for _ in range(20)))
    with caplog.at_level(logging.WARNING, "gridsync"):
        frozen.pause()
        first = await bounded(*(outage.ping() for _ in range(100)))
        assert all(isinstance(result, Unavailable) for result in first), "a read is never applied"
        assert outage.breaker.state is State.OPEN
        later = await bounded(*(outage.ping(LONG_S) for _ in range(300)))
        assert all("calls fail at once, the next probe may leave in" in str(result) for result in later)
        assert all(isinstance(result, Unavailable) for result in later)
        frozen.resume()
        with pytest.raises(Unavailable, match="has been away for"):
            await outage.ping(LONG_S)
        outage.breaker.hurry()
        assert await outage.ping(LONG_S) == b"PONG"
        assert await bounded(*(outage.ping() for _ in range(20))) == [b"PONG"] * 20
    assert outage.path == ["open", "half-open", "closed"], "one probe"
    told = [record.getMessage() for record in caplog.records]
    assert sum("calls fail at once" in text for text in told) == 1
    assert sum("calls are sent again" in text for text in told) == 1


async def test_service_comes_back_by_itself(outage: Outage, frozen: RedisServer):
    outage.driver(frozen.url, pause_s=0.05)
    await outage.ping()
    frozen.pause()
    await bounded(*(outage.ping() for _ in range(10)))
    assert "open" in outage.path
    frozen.resume()

    async def answered() -> bool:
        try:
            return bool(await outage.ping() == b"PONG")
        except Unavailable:
            return False

    await until(answered)
    assert outage.path[-2:] == ["half-open", "closed"]


async def test_of_many_callers_after_the_pause_one_probes(outage: Outage):
    """A server that comes back under load must not be met by everybody at once, nor everybody wait for a silent one."""
    silent = False

    def greet(peer: Peer, words: Words) -> None:
        if words[0] == b"HELLO":
            connections.append(peer)
        if not silent:
            peer.send(HELLO if words[0] == b"HELLO" else b"+PONG\r\n")

    connections: list[Peer] = []
    with FakeServer(greet, greeting=None) as server:
        outage.driver(server.url, pause_s=LONG_S)
        await outage.ping()
        silent = True
        await bounded(*(outage.ping() for _ in range(30)))
        assert outage.path == ["open"]
        before = len(connections)
        outage.breaker.hurry()
        results = await bounded(*(outage.ping(LONG_S) for _ in range(50)))
        assert all(isinstance(result, Unavailable) for result in results)
        assert len(connections) == before + 1
        assert outage.path == ["open", "half-open", "open"]
        silent = False
        outage.breaker.hurry()
        results = await bounded(*(outage.ping(LONG_S) for _ in range(50)))
        assert b"PONG" in results
        assert outage.path[-2:] == ["half-open", "closed"]
        assert await outage.ping() == b"PONG"
        await outage.world.close()


async def test_a_probe_outlives_the_call_that_sent_it():
    """A server may need longer to greet than a call may take: then some probe must be let to its end."""
    slow = threading.Event()
    greeted_late: list[Peer] = []

    def answer(peer: Peer, words: Words) -> None:
        if words[0] != b"HELLO":
            peer.send(b"+PONG\r\n")
        elif slow.is_set():
            greeted_late.append(peer)
        else:
            peer.send(HELLO)

    with FakeServer(answer, greeting=None) as server:
        endpoint = parse(server.url, connect_timeout=LONG_S)
        endpoint.guard.govern(Policy(pause_s=0.05), [])
        io = AsyncIO(endpoint, inflight_max=100, timeout=0.2)
        assert await io.run(PING, (), timeout=LONG_S) == b"PONG"
        (breaker,) = endpoint.guard._breakers.values()
        slow.set()
        server.peers[0].close()
        while breaker.state is not State.HALF_OPEN:
            with pytest.raises(Unavailable):
                await io.run(PING, ())
        with pytest.raises(Unavailable, match="a probe is under way"):
            await io.run(PING, (), timeout=LONG_S)
        await soon(lambda: len(greeted_late) > 1)
        greeted_late[-1].send(HELLO)
        await soon(lambda: breaker.state is State.CLOSED)
        assert await io.run(PING, (), timeout=LONG_S) == b"PONG"
        await io.close()


async def test_refused_connections_cost_one_timeout(outage: Outage, flushed: RedisServer):
    outage.driver(flushed.url, pause_s=LONG_S)
    await outage.ping()
    flushed.stop()
    first = await bounded(*(outage.ping() for _ in range(30)))
    assert all(isinstance(result, Unavailable) for result in first)
    while outage.breaker.state is State.CLOSED:
        # They may have given up a moment before that; whoever is under way when it opens goes on to its deadline.
        await bounded(outage.ping())
    later = await bounded(*(outage.ping(LONG_S) for _ in range(100)))
    assert all("calls fail at once" in str(result) for result in later)
    flushed.start()
    outage.breaker.hurry()
    assert await outage.ping() == b"PONG"
    assert outage.path == ["open", "half-open", "closed"]


async def test_a_short_restart_is_bridged(outage: Outage, flushed: RedisServer):
    """The breaker waits about a timeout, so a server that is back before loses no call."""
    outage.driver(flushed.url, timeout=LONG_S)
    await outage.ping()
    flushed.stop()
    calls = [asyncio.ensure_future(outage.ping()) for _ in range(20)]
    await asyncio.sleep(0)
    await asyncio.to_thread(flushed.start)
    assert await bounded(*calls) == [b"PONG"] * 20
    assert not outage.changes


async def test_a_cut_connection_is_no_outage(outage: Outage, flushed: RedisServer):
    with FaultProxy(flushed.url) as proxy:
        outage.driver(proxy.url, timeout=10.0)
        await outage.ping()
        for _ in range(5):
            proxy.on(Break.REPLY, "PING")
            results = await bounded(*(outage.ping() for _ in range(100)))
            assert results == [b"PONG"] * 100
        assert not outage.changes
        await outage.world.close()


async def test_one_slow_command_is_no_outage(outage: Outage):
    slow = Command("test.slow", Category.ACCUMULATING, ("SLOW",))

    def answer(peer: Peer, words: Words) -> None:
        if words[0] != b"SLOW":
            peer.send(b"+AT LAST\r\n" * peer.requests.count((b"SLOW",)) + b"+PONG\r\n")
            peer.requests.remove((b"SLOW",)) if (b"SLOW",) in peer.requests else None

    with FakeServer(answer) as server:
        outage.driver(server.url)
        await outage.ping()
        with pytest.raises(OutcomeUnknown):
            await outage.run(slow, timeout=0.1)
        assert await outage.ping() == b"PONG"
        assert not outage.changes
        await outage.world.close()


@pytest.mark.parametrize(
    "code", ["WRONGTYPE", "NOPERM", "OOM", "LOADING", "BUSY", "MISCONF", "READONLY", "NOREPLICAS", "MASTERDOWN", "ERR"]
)
async def test_a_refusal_is_an_answer(outage: Outage, code: str):
    """However many there are, and however long it goes on: only silence and broken connections open a breaker."""
    with FakeServer(lambda peer, _: peer.send(b"-%s x\r\n" % code.encode())) as server:
        outage.driver(server.url)
        results = await bounded(*(outage.ping() for _ in range(30)))
        assert all(isinstance(result, GridsyncError) for result in results)
        assert not outage.changes
        await outage.world.close()


async def test_a_lease_outlives_an_open_breaker(outage: Outage, frozen: RedisServer):
    """The watchdog does not ask the breaker: it renews as soon as the server is there, and tells the others."""
    io = outage.driver(frozen.url, pause_s=LONG_S)
    lock = outage.world.lock(io, ttl=30.0)
    lease = await outage.world.do(lock.acquire)
    frozen.pause()
    await bounded(*(outage.ping() for _ in range(10)))
    assert outage.path == ["open"]
    frozen.resume()
    item = next(iter(io._keeper._items.values()))
    item.due = 0.0
    with io._keeper._condition:
        io._keeper._next = 0.0
        io._keeper._condition.notify()
    await soon(lambda: outage.path == ["open", "closed"])
    await outage.world.do(lease.release)


CUTS = 20


async def storm(outage: Outage, proxy: FaultProxy, *, callers: int, each: int) -> tuple[list[Any], int]:
    """Cut every connection twenty times while callers write; returns what became of them, and the requests seen."""
    requests = done = 0

    def count(words: Words) -> bool:
        nonlocal requests
        requests += words[0] == b"SET"
        return False

    proxy.on(Break.REQUEST, count)

    async def write(caller: int) -> list[Any]:
        nonlocal done
        results = []
        for n in range(each):
            try:
                results.append(await outage.run(SET, f"k{caller}", str(n), "EX", "100"))
            except GridsyncError as error:
                results.append(error)
            done += 1
        return results

    writers = [asyncio.ensure_future(write(n)) for n in range(callers)]
    for cut in range(CUTS):
        await soon(lambda cut=cut: done >= (cut + 1) * callers * each // (CUTS + 2))  # type: ignore[misc]
        await asyncio.to_thread(proxy.cut)
    results = await asyncio.wait_for(asyncio.gather(*writers), 60)
    return [result for own in results for result in own], requests


async def test_a_storm_loses_nothing_and_adds_little(outage: Outage, flushed: RedisServer):
    callers, each = (200, 100) if outage.world.kind == "asyncio" else (30, 100)
    burst = CUTS * callers
    with FaultProxy(flushed.url) as proxy:
        outage.driver(proxy.url, timeout=20.0, retry_burst=burst)
        await outage.ping()
        results, requests = await storm(outage, proxy, callers=callers, each=each)
        assert results == [b"OK"] * (callers * each)
        assert requests <= 1.1 * callers * each + burst
        assert not outage.changes, "the server was there all the time"
        await outage.world.close()


async def test_a_storm_is_bounded_by_the_budget(outage: Outage, flushed: RedisServer):
    """With next to no budget, some calls are given up instead of repeated, and say why."""
    callers, each = (200, 50) if outage.world.kind == "asyncio" else (30, 50)
    with FaultProxy(flushed.url) as proxy:
        outage.driver(proxy.url, timeout=20.0, retry_ratio=0.01, retry_burst=10)
        await outage.ping()
        results, requests = await storm(outage, proxy, callers=callers, each=each)
        lost = [result for result in results if result != b"OK"]
        assert all("the retry budget is used up" in str(error) for error in lost)
        assert len(lost) == outage.io.stats().repeats_refused
        assert requests <= 1.01 * callers * each + 10
        if outage.world.kind == "asyncio":
            assert lost, "a cut costs more than ten of two hundred requests under way"
        await outage.world.close()


async def test_a_thousand_calls_under_way_survive_a_cut(outage: Outage, flushed: RedisServer):
    """The default store of repeats is what one connection holds."""
    if outage.world.kind == "sync":
        pytest.skip("a thread has one call under way")
    with FaultProxy(flushed.url) as proxy:
        outage.driver(proxy.url, timeout=20.0)
        await outage.ping()
        proxy.blackhole(requests=False)
        calls = [asyncio.ensure_future(outage.run(SET, f"k{n}", "1", "EX", "100")) for n in range(1000)]
        await asyncio.sleep(0)
        await soon(lambda: len(proxy.requests("SET")) == 1000)
        proxy.cut()
        proxy.heal()
        assert await bounded(*calls) == [b"OK"] * 1000
        await outage.world.close()


async def test_a_grid_tells_of_state_changes(flushed: RedisServer):
    """Settings reach the breaker, and a callback hears of it, in both worlds."""
    settings = Settings(
        redis_url=flushed.url, redis_command_timeout=0.2, redis_connection_timeout=30, gridsync_breaker_pause=0.01
    )
    heard: list[StateChange] = []
    with Grid(settings=settings) as grid:
        grid.on_state_change(heard.append)
        async with AsyncGrid(settings=settings) as agrid:
            agrid.on_state_change(heard.append)
            limiter, alimiter = grid.limiter("x", "9/s"), agrid.limiter("x", "9/s")
            flushed.stop()
            for _ in range(4):
                with pytest.raises((Unavailable, OutcomeUnknown)):
                    await asyncio.to_thread(limiter.hit, "k")
                with pytest.raises((Unavailable, OutcomeUnknown)):
                    await alimiter.hit("k")
            assert [change.after for change in heard].count("open") >= 2
            assert grid.stats().servers_away == agrid.stats().servers_away == 1
            degraded = grid.limiter("y", "9/s", on_error="allow")
            assert await asyncio.to_thread(degraded.hit, "k")
            assert grid.stats().decisions_degraded == 1
            assert {change.endpoint for change in heard} == {f"127.0.0.1:{flushed.port}"}
            flushed.start()


async def test_switched_off_every_call_waits(flushed: RedisServer):
    settings = Settings(
        redis_url=flushed.url, redis_command_timeout=0.1, redis_connection_timeout=30, gridsync_breaker=False
    )
    heard: list[StateChange] = []
    async with AsyncGrid(settings=settings) as grid:
        grid.on_state_change(heard.append)
        flushed.stop()
        for _ in range(5):
            with pytest.raises((Unavailable, OutcomeUnknown), match="no success in"):
                await grid.limiter("x", "9/s").hit("k")
        assert not heard
        flushed.start()


async def test_an_outage_is_logged_once_however_many_locks_were_asked_for(
    frozen: RedisServer, caplog: pytest.LogCaptureFixture
):
    """Each of a thousand callers whose lock may be taken gives it back, in vain: that is no thousand warnings."""
    settings = Settings(
        redis_url=frozen.url, redis_command_timeout=1.0, redis_connection_timeout=30, gridsync_breaker_pause=LONG_S
    )
    with caplog.at_level(logging.DEBUG, "gridsync"):
        async with AsyncGrid(settings=settings) as grid:
            frozen.pause()
            tries = [grid.lock(f"job:{n}").try_acquire() for n in range(50)]
            results = await asyncio.gather(*tries, return_exceptions=True)
            assert all(isinstance(result, OutcomeUnknown) for result in results)
    cleanups = [record for record in caplog.records if "a clean-up failed" in record.getMessage()]
    assert cleanups
    assert all(record.levelno == logging.DEBUG for record in cleanups)
    assert sum(record.levelno >= logging.WARNING for record in caplog.records) == 1
