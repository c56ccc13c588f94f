"""Connections that are cut, refused, reset, slowed down, sliced, or that let nothing through; a server that freezes."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable
from gridsync.testing.proxy import Break
from tests.faults.traffic import ECHO, INCR, Traffic, run
from tests.wire.fake import soon, until

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World


def cut(proxy: FaultProxy) -> None:
    proxy.cut()


def reset(proxy: FaultProxy) -> None:
    proxy.cut(reset=True)


def away(proxy: FaultProxy) -> None:
    proxy.refuse()
    proxy.cut()


def slices(proxy: FaultProxy) -> None:
    proxy.slice_bytes = 7


def single_bytes(proxy: FaultProxy) -> None:
    proxy.slice_bytes = 1


def latency(proxy: FaultProxy) -> None:
    proxy.delay_s, proxy.jitter_s = 0.001, 0.003


def narrow(proxy: FaultProxy) -> None:
    proxy.bytes_per_s = 20_000


def worn_out(proxy: FaultProxy) -> None:
    proxy.limit_bytes = 4_000


def slow_to_close(proxy: FaultProxy) -> None:
    proxy.close_delay_s = 0.2
    replies_lost(proxy)


def replies_lost(proxy: FaultProxy) -> None:
    for command in ("EVALSHA", "INCR", "SET", "GET"):
        proxy.on(Break.REPLY, command, nth=3)


def requests_lost(proxy: FaultProxy) -> None:
    for command in ("EVALSHA", "INCR", "SET", "GET"):
        proxy.on(Break.REQUEST, command, nth=3)


def replies_halved(proxy: FaultProxy) -> None:
    for command in ("EVALSHA", "INCR", "GET"):
        proxy.on(Break.HALF_REPLY, command, nth=3)


def replies_reset(proxy: FaultProxy) -> None:
    for command in ("EVALSHA", "INCR", "GET"):
        proxy.on(Break.RESET, command, nth=3)


def replies_corrupt(proxy: FaultProxy) -> None:
    for command in ("EVALSHA", "INCR", "SET", "GET"):
        proxy.on(Break.CORRUPT, command, nth=3)


FAULTS = [
    cut, reset, away, slices, single_bytes, latency, narrow, worn_out, slow_to_close,
    replies_lost, requests_lost, replies_halved, replies_reset, replies_corrupt,
]  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS, ids=lambda fault: fault.__name__)
async def test_a_broken_network_breaks_no_promise(
    server: RedisServer, proxy: FaultProxy, world: World, recorder: Recorder, fault: Callable[[FaultProxy], None]
):
    """Operations with an id happen once, counts happen at most once, and every caller gets its own replies."""
    async with Traffic(world, recorder, proxy.url) as traffic:
        for _ in range(2):
            before = proxy.accepted
            await asyncio.to_thread(fault, proxy)
            if fault is not away:
                await traffic.flows(2)
            await asyncio.to_thread(proxy.heal)
            await traffic.flows()
            # Threads have a connection each; nobody tries a second time what another is trying.
            assert proxy.accepted - before <= 60, "a storm of connections"
    await traffic.judge(server)


@pytest.mark.parametrize("direction", ["requests", "replies"])
async def test_what_a_black_hole_swallowed_is_not_known_and_comes_at_most_once(
    server: RedisServer, proxy: FaultProxy, world: World, recorder: Recorder, direction: str
):
    async with Traffic(world, recorder, proxy.url, timeout=0.3) as traffic:
        failed = traffic.unsure
        await asyncio.to_thread(proxy.blackhole, requests=direction == "requests", replies=direction == "replies")
        await soon(lambda: traffic.unsure > failed)
        await asyncio.to_thread(proxy.heal)
        await traffic.flows(2)
    await traffic.judge(server, late_copies=True)


async def test_a_task_that_tries_again_at_once_leaves_the_loop_to_the_others(server: RedisServer, proxy: FaultProxy):
    """While the breaker is open a call fails without waiting for anything; a loop around it must not stop the world."""
    io = AsyncIO(parse(proxy.url, connect_timeout=5.0), inflight_max=100, timeout=0.1)
    await io.connect()
    await asyncio.to_thread(server.kill)
    turns = 0

    async def other() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    busy = asyncio.create_task(other())
    seen: list[int] = []
    while len(seen) < 100:
        try:
            await io.run(ECHO, ["x"])
        except Unavailable as error:
            if "calls fail at once" in str(error):
                seen.append(turns)
    assert len(set(seen)) == 100
    busy.cancel()
    await io.close()


async def test_callers_of_a_frozen_server_fail_by_their_deadline_and_no_reply_is_mixed_up(
    server: RedisServer, world: World, recorder: Recorder
):
    """What a frozen server answers when it goes on belongs to callers that have left."""
    async with Traffic(world, recorder, server.url, timeout=0.3) as traffic:
        failed = traffic.unsure
        server.pause()
        try:
            await soon(lambda: traffic.unsure > failed)
        finally:
            server.resume()
        await traffic.flows(2)
    await traffic.judge(server, late_copies=True)


async def test_a_count_that_a_frozen_server_did_not_answer_is_sent_once(
    server: RedisServer, proxy: FaultProxy, world: World
):
    io = world.io(proxy.url, timeout=0.2)
    await world.do(io.connect)
    server.pause()
    try:
        calls = [asyncio.create_task(run(world, io, INCR, "n")) for _ in range(5)]
        done = await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)
        assert all(isinstance(error, OutcomeUnknown | Unavailable) for error in done)
    finally:
        server.resume()
    await soon(lambda: server.command("GET", "n"))
    assert len(proxy.requests("INCR")) <= 5
    assert int(server.command("GET", "n")) <= 5


async def test_a_half_open_connection_is_given_up(server: RedisServer, proxy: FaultProxy, world: World):
    """The peer has vanished without a word: the first caller pays with its deadline, the next ones do not."""
    io = world.io(proxy.url, timeout=0.3)
    await world.do(io.connect)
    await asyncio.to_thread(proxy.blackhole)
    with pytest.raises(GridsyncError):
        await run(world, io, ECHO, "lost")
    await asyncio.to_thread(proxy.heal)
    assert await run(world, io, ECHO, "found") == b"found"
    assert server.running


async def test_a_server_that_hangs_up_on_everybody_meets_no_storm(proxy: FaultProxy, world: World):
    """However many callers try again at once: few connect before the breaker opens, then one in a while."""
    io = world.io(proxy.url, timeout=1.0)
    await world.do(io.connect)
    proxy.limit_bytes = 1
    await asyncio.to_thread(proxy.cut)
    before, refused = proxy.accepted, 0

    async def caller() -> None:
        nonlocal refused
        for _ in range(50):
            with pytest.raises(Unavailable):
                await run(world, io, ECHO, "x")
            refused += 1

    await asyncio.gather(*(caller() for _ in range(20)))
    assert refused == 1000
    assert proxy.accepted - before <= 60, "a storm of connections"
    await asyncio.to_thread(proxy.heal)
    await eventually_echoes(world, io)


async def eventually_echoes(world: World, io: Any) -> None:  # noqa: ANN401 - either kind
    """Return when the server is found again."""

    async def echoes() -> bool:
        try:
            return bool(await run(world, io, ECHO, "back") == b"back")
        except Unavailable:
            return False

    await until(echoes)


async def test_a_thousand_calls_meet_a_cut_and_none_is_lost(proxy: FaultProxy, world: World):
    io = world.io(proxy.url, timeout=20)
    await world.do(io.connect)
    rule = proxy.on(Break.REPLY, "ECHO", nth=300, times=3)
    calls = [run(world, io, ECHO, str(n)) for n in range(1000)]
    assert await asyncio.gather(*calls) == [b"%d" % n for n in range(1000)]
    assert rule.hits
