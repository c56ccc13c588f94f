"""gridsync against a Redis in a container: the public API, and what a container does that a process does not."""

from __future__ import annotations

import asyncio
from contextlib import closing
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import docker
import pytest
from pydantic import BaseModel

from gridsync import AsyncGrid, AuthenticationFailed, Grid, OutcomeUnknown, TLSFailed, Unavailable
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams import Recorded
    from tests.containers.conftest import RedisInContainer

    Start = Callable[..., RedisInContainer]

pytestmark = pytest.mark.containers
SERVE = Path(__file__).parents[2] / "docker" / "serve"


class Ordered(BaseModel):
    """An event."""

    kind: Literal["ordered"] = "ordered"
    kwh: int


def test_locks_limits_and_events_work_together(start_redis: Start):
    with Grid(start_redis().url) as grid:
        with grid.lock("epoch:1", ttl=5) as lease:
            assert grid.lock("epoch:1").try_acquire() is None
        with grid.lock("epoch:1", ttl=5) as later:
            assert later.fence > lease.fence

        limiter = grid.limiter("orders", "2/minute")
        assert [limiter.hit("anna").allowed for _ in range(3)] == [True, True, False]

        orders = grid.events("orders", Ordered)
        orders.append("anna", [Ordered(kwh=1), Ordered(kwh=2)], expected_version=0)
        seen: list[Recorded[Ordered]] = []
        orders.group("matching").consume(seen.append, idle_stop=0.2)
        assert [(one.position, one.event.kwh) for one in seen] == [(1, 1), (2, 2)]


async def test_locks_limits_and_events_work_together_in_asyncio(start_redis: Start):
    url = (await asyncio.to_thread(start_redis)).url
    async with AsyncGrid(url) as grid:
        async with grid.lock("epoch:1", ttl=5) as lease:
            assert await grid.lock("epoch:1").try_acquire() is None
        async with grid.lock("epoch:1", ttl=5) as later:
            assert later.fence > lease.fence

        limiter = grid.limiter("orders", "2/minute")
        assert [(await limiter.hit("anna")).allowed for _ in range(3)] == [True, True, False]

        orders = grid.events("orders", Ordered)
        await orders.append("anna", [Ordered(kwh=1), Ordered(kwh=2)], expected_version=0)
        seen: list[Recorded[Ordered]] = []
        await orders.group("matching").consume(seen.append, idle_stop=0.2)
        assert [(one.position, one.event.kwh) for one in seen] == [(1, 1), (2, 2)]


def test_a_restart_in_mid_use_loses_no_event_and_doubles_none(start_redis: Start):
    """The container is stopped, its address refuses connections for a while, and it comes back with its data."""
    running = start_redis("--appendonly", "yes", "--appendfsync", "always")
    with Grid(running.url) as grid:
        orders = grid.events("orders", Ordered)
        orders.append("anna", [Ordered(kwh=1)], expected_version=0)
        running.restart()
        orders.append("anna", [Ordered(kwh=2)], expected_version=1)
        assert [one.event.kwh for one in orders.read("anna")] == [1, 2]
        with grid.lock("after") as lease:
            lease.check()


async def test_a_restart_under_load_loses_no_event_and_doubles_none(start_redis: Start):
    """A writer that repeats its own call whenever it is told "don't know" or "not now" needs to know nothing more."""
    running = await asyncio.to_thread(start_redis, "--appendonly", "yes", "--appendfsync", "always")
    async with AsyncGrid(running.url) as grid:
        orders = grid.events("orders", Ordered)
        restart = asyncio.create_task(asyncio.to_thread(running.restart))
        version = 0
        while not restart.done():
            try:
                await orders.append(
                    "anna", [Ordered(kwh=version)], expected_version=version, event_ids=f"order-{version}"
                )
            except (OutcomeUnknown, Unavailable):
                continue
            version += 1
        await restart
        await orders.append("anna", [Ordered(kwh=version)], expected_version=version)
        assert [one.event.kwh async for one in orders.read("anna")] == list(range(version + 1))


def test_a_password_opens_the_container_and_a_wrong_one_does_not(start_redis: Start):
    running = start_redis(password="secret")
    with Grid(running.url) as grid, grid.lock("open") as lease:
        lease.check()
    with pytest.raises(AuthenticationFailed):
        Grid(running.url.replace("secret", "wrong"))


def test_a_server_that_is_told_to_stop_while_it_looks_for_its_role_stops(image: str, tmp_path: Path):
    """It became a server instead, which was killed after a minute: the shell is the container's first process."""
    (tmp_path / "health").write_text("secret")
    stub = tmp_path / "timeout"
    stub.write_text("#!/bin/sh\nexec sleep 600\n")
    stub.chmod(0o755)
    bind = {
        str(SERVE): {"bind": "/usr/local/bin/serve", "mode": "ro"},
        str(stub): {"bind": "/usr/local/bin/timeout", "mode": "ro"},
        str(tmp_path): {"bind": "/run/secrets", "mode": "ro"},
    }
    with closing(docker.from_env(timeout=120)) as engine:
        running = engine.containers.run(
            image, ["serve", "replicated"], hostname="redis-2", user="0", tmpfs={"/data": ""}, volumes=bind, detach=True
        )
        try:
            eventually(lambda: "sleep 600" in str(running.top()))
            running.stop(timeout=60)
            assert running.wait()["StatusCode"] == 143
        finally:
            running.remove(force=True)


async def test_tls_is_trusted_through_its_authority_only(start_redis: Start, certificates: Path):
    running = await asyncio.to_thread(start_redis, certificates=certificates)
    with Grid(running.url) as grid, grid.lock("open") as lease:
        lease.check()
    async with AsyncGrid(running.url) as grid, grid.lock("open") as lease:
        lease.check()
    stranger = running.url.partition("?")[0]
    with pytest.raises(TLSFailed):
        Grid(stranger)
    with pytest.raises(TLSFailed):
        await AsyncGrid(stranger).open()
