"""A store in several partitions of a cluster is mirrored on one server, and the other way round."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.testing.servers import RedisServer, server_kinds
from tests.streams.models import Placed

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from tests.wire.world import World

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


async def test_a_cluster_is_mirrored_on_one_server_and_back(world: World, flushed: RedisCluster):
    with RedisServer() as elsewhere:
        store = world.store(world.io(), Placed, partitions=6)
        copy = world.store(world.io(elsewhere.url), Placed, partitions=6)
        for number in range(30):
            await world.do(store.append, f"order-{number}", Placed(kwh=number + 1))
        assert await world.do(store.replication(copy).run, once=True) == 30
        assert await world.all(copy.read_all()) == await world.all(store.read_all())
        await world.do(store.fence)
        assert (await world.do(copy.promote)).epoch == 1
        for number in range(30):
            await world.do(copy.append, f"order-{number}", Placed(kwh=number + 1))
        assert await world.do(copy.replication(store).run, once=True) == 30
        assert await world.all(copy.read_all()) == await world.all(store.read_all())
        assert len(flushed.nodes) == 3
