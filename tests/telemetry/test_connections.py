"""What OpenTelemetry sees of connections, breakers and renewals."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Grid, Settings, Unavailable
from gridsync._io.breaker import State
from gridsync.testing.servers import RedisServer
from tests.wire.fake import eventually, soon

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.telemetry.conftest import Sdk

pytestmark = pytest.mark.any_server

COUNT = "db.client.connection.count"


@pytest.fixture
def alone(server: RedisServer) -> Iterator[RedisServer]:
    """A server of its own: what other tests have not closed yet is counted for theirs."""
    with RedisServer(server.kind) as running:
        yield running


def by_state(sdk: Sdk, name: str, server: RedisServer) -> dict[str, int]:
    """Return what a connection metric says of the server, by state."""
    pool = f"{server.host}:{server.port}/0"
    points = [p for p in sdk.points(name) if p.attributes["db.client.connection.pool.name"] == pool]
    return {point.attributes.get("db.client.connection.state", ""): point.value for point in points}


def test_connections_of_threads_are_counted_and_waiting_is_measured(alone: RedisServer, sdk: Sdk):
    sdk.listen()
    settings = Settings(redis_url=alone.url, redis_pool_size=1, redis_command_timeout=30)
    with Grid(settings=settings) as grid:
        limiter = grid.limiter("orders", "50/second")
        limiter.hit("me")
        assert by_state(sdk, COUNT, alone) == {"idle": 1, "used": 0}
        assert by_state(sdk, "db.client.connection.max", alone) == {"": 1}
        alone.pause()
        threads = [threading.Thread(target=limiter.hit, args=("me",)) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            eventually(lambda: by_state(sdk, COUNT, alone) == {"idle": 0, "used": 1})
            eventually(lambda: by_state(sdk, "db.client.connection.pending_requests", alone) == {"": 2})
        finally:
            alone.resume()
        for thread in threads:
            thread.join()
        assert sum(point.count for point in sdk.points("db.client.connection.wait_time")) == 2
        assert sum(point.count for point in sdk.points("db.client.connection.create_time")) == 1
    units = sdk.units()
    assert units[COUNT] == "{connection}"
    assert units["db.client.connection.wait_time"] == units["db.client.connection.create_time"] == "s"


async def test_connections_of_tasks_are_counted_and_waiting_is_measured(alone: RedisServer, sdk: Sdk):
    sdk.listen()
    settings = Settings(redis_url=alone.url, gridsync_inflight_max=2, redis_command_timeout=30)
    async with AsyncGrid(settings=settings) as grid:
        limiter = grid.limiter("orders", "50/second")
        await limiter.hit("me")
        assert by_state(sdk, COUNT, alone) == {"idle": 1}
        alone.pause()
        tasks = [asyncio.create_task(limiter.hit("me")) for _ in range(5)]
        try:
            await soon(lambda: by_state(sdk, COUNT, alone) == {"used": 1})
            assert by_state(sdk, "db.client.connection.pending_requests", alone) == {"": 3}
        finally:
            alone.resume()
        await asyncio.gather(*tasks)
        assert sum(point.count for point in sdk.points("db.client.connection.wait_time")) == 3
        assert sum(point.count for point in sdk.points("db.client.connection.create_time")) == 1


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_waiting_in_vain_is_counted(kind: str, alone: RedisServer, sdk: Sdk):
    sdk.listen()
    settings = Settings(
        redis_url=alone.url,
        redis_pool_size=1,
        gridsync_inflight_max=1,
        redis_command_timeout=30,
        gridsync_breaker=False,
    )
    with Grid(settings=settings) as grid:
        async with AsyncGrid(settings=settings) as agrid:
            sync, impatient = (grid.limiter("a", "5/s", budget=b) for b in (30, 0.02))
            task, hasty = (agrid.limiter("a", "5/s", budget=b) for b in (30, 0.02))
            alone.pause()
            if kind == "sync":
                first = asyncio.ensure_future(asyncio.to_thread(sync.hit, "me"))
                await soon(lambda: grid.stats().in_flight == 1)
                with pytest.raises(Unavailable):
                    await asyncio.to_thread(impatient.hit, "me")
            else:
                first = asyncio.ensure_future(task.hit("me"))
                await soon(lambda: agrid.stats().in_flight == 1)
                with pytest.raises(Unavailable):
                    await hasty.hit("me")
            alone.resume()
            await first
            assert sum(by_state(sdk, "db.client.connection.timeouts", alone).values()) >= 1


def test_the_state_of_each_breaker_is_a_gauge(alone: RedisServer, sdk: Sdk):
    sdk.listen()
    with Grid(alone.url) as grid:
        name = f"{alone.host}:{alone.port}"

        def states() -> dict[str, str]:
            points = sdk.points("gridsync.breaker.state")
            assert all(point.value == 1 for point in points)
            return {point.attributes["gridsync.name"]: point.attributes["gridsync.state"] for point in points}

        assert states()[name] == "closed"
        (breaker,) = grid._io._endpoint.server.guard._breakers.values()
        breaker.state = State.OPEN
        assert states()[name] == "open"


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_renewals_are_measured_and_have_no_spans(kind: str, alone: RedisServer, sdk: Sdk):
    """A span each third of a ttl, without a parent, would fill any trace store; a number tells as much."""
    sdk.listen()

    def renewed() -> dict[str, int]:
        return {point.attributes["gridsync.outcome"]: point.value for point in sdk.points("gridsync.lease.renewals")}

    if kind == "sync":
        with Grid(alone.url) as grid, grid.lock("job", ttl=3.0):
            await soon(lambda: renewed().get("answered", 0) >= 2)
    else:
        async with AsyncGrid(alone.url) as agrid, agrid.lock("job", ttl=3.0):
            await soon(lambda: renewed().get("answered", 0) >= 2)
    assert "failed" not in renewed()
    assert sdk.spans("EVALSHA locks.renew") == []
    points = [p for p in sdk.points("db.client.operation.duration") if "renew" in str(p.attributes)]
    assert {point.attributes["db.operation.name"] for point in points} == {"EVALSHA"}
    assert sum(point.count for point in points) >= 2
