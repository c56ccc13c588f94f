"""Blocking reads while a server is away, and what happens when this machine runs out of descriptors instead."""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

import pytest

from gridsync import Settings
from gridsync._io.breaker import State
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.grid import Grid
from gridsync.testing.proxy import FaultProxy
from tests.wire.fake import eventually, soon
from tests.wire.outage import LONG_S, TIMEOUT_S, Outage, bounded, starved
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer


@pytest.fixture(params=KINDS)
async def outage(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Outage]:
    world = World(request.param, flushed.url)
    yield Outage(world)
    if flushed.running:
        flushed.resume()
    await world.close()


async def blocked(server: RedisServer, count: int) -> None:
    await soon(lambda: server.command("INFO", "clients")["blocked_clients"] == count)


async def test_blocking_reads_of_a_frozen_server_cost_one_timeout(outage: Outage, flushed: RedisServer):
    """A consumer that comes back again and again must not wait for each of its reads."""
    outage.driver(flushed.url, pause_s=LONG_S)
    assert await outage.pop(0.01, patience_s=20.0) is None
    flushed.pause()
    began = time.monotonic()
    while outage.path != ["open"]:
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await outage.pop(0.01)
        assert time.monotonic() - began < LONG_S
    later = await bounded(*(outage.pop() for _ in range(100)))
    assert all(isinstance(error, Unavailable) for error in later)
    assert all("calls fail at once, the next probe may leave in" in str(error) for error in later)


async def test_a_blocking_read_fails_at_once_when_other_calls_found_the_server_away(
    outage: Outage, flushed: RedisServer
):
    """Also if it has a connection at rest, which may be as dead as the others."""
    outage.driver(flushed.url, pause_s=LONG_S)
    assert await outage.pop(0.01, patience_s=20.0) is None
    flushed.pause()
    await bounded(*(outage.ping() for _ in range(10)))
    assert outage.path == ["open"]
    (error,) = await bounded(outage.pop())
    assert isinstance(error, Unavailable)
    assert "has been away for" in str(error)


async def test_a_blocking_read_may_be_the_probe(outage: Outage, flushed: RedisServer):
    outage.driver(flushed.url, pause_s=LONG_S)
    await outage.ping()
    flushed.pause()
    await bounded(*(outage.ping() for _ in range(10)))
    flushed.resume()
    outage.breaker.hurry()
    assert await outage.pop(0.01, patience_s=20.0) is None
    assert outage.path == ["open", "half-open", "closed"]
    assert await outage.ping() == b"PONG"


async def test_blocking_reads_that_are_cut_together_are_no_outage(outage: Outage, flushed: RedisServer):
    """They had heard nothing for longer than a timeout, because that is what they had asked for."""
    with FaultProxy(flushed.url) as proxy:
        outage.driver(proxy.url)
        reads = [asyncio.ensure_future(outage.pop()) for _ in range(5)]
        await blocked(flushed, 5)
        began = time.monotonic()
        await soon(lambda: time.monotonic() - began > TIMEOUT_S)
        await asyncio.to_thread(proxy.cut)
        assert all(isinstance(error, OutcomeUnknown) for error in await bounded(*reads))
        assert not outage.changes
        await outage.world.close()


async def test_a_blocking_read_that_is_given_up_is_no_failure(outage: Outage, flushed: RedisServer):
    if outage.world.kind == "sync":
        pytest.skip("a thread is not cancelled")
    outage.driver(flushed.url)
    for _ in range(5):
        read = asyncio.ensure_future(outage.pop())
        await blocked(flushed, 1)
        read.cancel()
        await asyncio.wait([read])
        await blocked(flushed, 0)
    assert not outage.changes
    assert not outage.breaker._buckets


async def test_a_lack_of_descriptors_is_not_held_against_the_server(outage: Outage, flushed: RedisServer):
    outage.driver(flushed.url)
    await outage.ping()
    assert await bounded(outage.pop(0.01, patience_s=20.0)) == [None]
    reads = [asyncio.ensure_future(outage.pop()) for _ in range(2)]
    await blocked(flushed, 2)
    with starved():
        errors = await bounded(*(outage.pop() for _ in range(20)))
        assert await outage.ping() == b"PONG", "the connection that is there goes on"
    assert all(isinstance(error, Unavailable) for error in errors), errors
    assert all("Too many open files" in str(error) and "ulimit -n" in str(error) for error in errors)
    assert outage.breaker.state is State.CLOSED
    assert not outage.changes
    for read in reads:
        read.cancel()
    if outage.world.kind == "sync":
        for wire in list(outage.io._blocked):
            wire.shutdown()
    await bounded(*reads)


def test_without_a_descriptor_the_first_connection_says_so(flushed: RedisServer):
    settings = Settings(redis_url=flushed.url)
    with starved(), pytest.raises(Unavailable, match="Too many open files"):
        Grid(settings=settings)
    with Grid(settings=settings) as grid:
        eventually(lambda: grid.stats().connections_open == 1)
