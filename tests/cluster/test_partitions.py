"""A store in several partitions uses all nodes of a cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.testing.servers import server_kinds
from tests.streams.models import Placed

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from tests.wire.world import World

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


async def test_six_partitions_are_two_on_each_of_three_nodes(world: World, flushed: RedisCluster):
    """If this broke, a node would have nothing to do, and another one twice as much."""
    store = world.store(world.io(), Placed, partitions=6)
    for number in range(30):
        await world.do(store.append, f"order-{number}", Placed(kwh=1), expected_version=0)
    logs = []
    for node in flushed.nodes:
        with node.client() as client:
            logs.append(sum(key.endswith(b"}:log") for key in client.scan_iter(count=1000)))
    assert logs == [2, 2, 2]
    found = await world.all(store.read_all())
    assert sorted(e.stream for e in found) == sorted(f"order-{number}" for number in range(30))
