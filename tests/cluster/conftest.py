"""One cluster of three primaries per kind of server, and a driver of either kind on it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync._io.aio import AsyncIO
from gridsync.testing.cluster import RedisCluster
from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import ServerKind, server_kinds
from tests.as_app import AppCluster
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator, Sequence

GET = Command("get", Category.READ, ("GET",))
SET = Command("set", Category.LAST_WINS, ("SET",))
INCR = Command("incr", Category.NEVER, ("INCR",))
MGET = Command("mget", Category.READ, ("MGET",))


@pytest.fixture(scope="session", params=server_kinds(), ids=str)
def cluster(request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    kind: ServerKind = request.param
    with AppCluster(kind) if request.config.option.as_app else RedisCluster(kind) as running:
        yield running


@pytest.fixture
def flushed(cluster: RedisCluster, request: pytest.FixtureRequest) -> Iterator[RedisCluster]:
    """The cluster, empty; fails the test if it leaves a key that neither expires nor may stay for ever."""
    cluster.flush()
    yield cluster
    if request.node.get_closest_marker("leaves_keys") is None:
        for node in cluster.nodes:
            with node.client() as client:
                assert leaked_keys(client) == []


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisCluster) -> AsyncIterator[World]:
    made = World(request.param, flushed.url)
    yield made
    await made.close()


async def run(io: Any, operation: Any, keys: Sequence[str], args: Sequence[Any] = (), **options: Any) -> Any:  # noqa: ANN401
    """Run *operation* with a driver of either kind; the one for threads blocks the loop meanwhile."""
    coroutine = io.run(operation, keys, args, **options)
    return await coroutine if isinstance(io, AsyncIO) else run_sync(coroutine)


def calls(cluster: RedisCluster, command: str) -> int:
    """Return how often all nodes together ran *command*."""
    count = 0
    for node in cluster.nodes:
        with node.client() as client:
            stats: Any = client.info("commandstats")
        count += stats.get(f"cmdstat_{command}", {"calls": 0})["calls"]
    return count
