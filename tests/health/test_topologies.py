"""Reports, counters and spans of a cluster and of a primary that sentinels name."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Grid
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.sentinels import SentinelSet

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.health import Item
    from gridsync.testing.servers import RedisServer

PATIENCE = 30.0
"""Seconds; for reports that shall not end because the machine is busy."""


@contextmanager
def started(topology: str) -> Iterator[tuple[str, list[RedisServer]]]:
    """Start servers; yields their URL and those that take writes."""
    if topology == "cluster":
        with RedisCluster() as cluster:
            yield cluster.url, list(cluster.nodes)
    else:
        with SentinelSet(replicas=0, sentinels=1) as servers:
            yield servers.url, [servers.master]


@pytest.mark.parametrize("topology", ["cluster", "sentinel"])
def test_a_report_is_about_the_server_that_takes_the_writes(topology: str):
    with started(topology) as (url, servers), Grid(url) as grid:
        addresses = {f"{server.host}:{server.port}" for server in servers}
        found = grid.health(timeout=PATIENCE)
        assert found.server in addresses, str(found)
        assert (found.item("write").status, found.item("role").value) == ("ok", "primary"), str(found)
        assert [item.status for item in found.items if item.name == "cluster"] == ["ok"] * (topology == "cluster")
        with grid.lock("job"):
            stats = grid.stats()
        assert stats.connections_opened >= 1
        assert stats.locks_acquired == 1
        with grid.lock("job"):
            assert grid._io.where(("{gridsync:lock:job}",)).port in {server.port for server in servers}

    async def look() -> None:
        async with AsyncGrid(url) as other:
            assert (await other.health(timeout=PATIENCE)).server in addresses
            async with other.lock("job"):
                assert other.stats().connections_opened >= 1

    with started(topology) as (url, servers):
        addresses = {f"{server.host}:{server.port}" for server in servers}
        asyncio.run(look())


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_sentinels_are_asked_whether_they_could_agree(kind: str):
    """A primary that works today is no comfort if nobody can replace it."""
    with SentinelSet(replicas=1, sentinels=3) as servers:
        url = f"{servers.url}?sentinel_timeout=3"  # a machine that stalls makes no sentinel silent

        async def sentinels() -> Item:
            if kind == "sync":
                with Grid(url) as grid:
                    return (await asyncio.to_thread(grid.health, timeout=PATIENCE)).item("sentinels")
            async with AsyncGrid(url) as agrid:
                return (await agrid.health(timeout=PATIENCE)).item("sentinels")

        found = await sentinels()
        assert (found.status, found.value) == ("ok", "3 of 3 answer, quorum reached")
        first, second, _ = servers.sentinels
        first.stop()
        found = await sentinels()
        assert (found.status, found.value) == ("degraded", "2 of 3 answer")
        assert f"{first.host}:{first.port}" in found.advice
        second.pause()
        found = await sentinels()
        assert (found.status, found.value) == ("degraded", "1 of 3 answer")
        second.resume()
