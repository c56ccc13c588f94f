"""The ``gridsync`` command on a cluster: what it lists is on all primaries."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.testing.servers import server_kinds
from tests.command import Command
from tests.streams.models import Order, Placed
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)


def test_stores_and_locks_of_all_primaries_are_listed(flushed: RedisCluster):
    names = [f"name-{n}" for n in range(12)]
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        for name in names:
            grid.events(name, Order).append("anna", Placed(kwh=1))
        leases = [grid.lock(name).acquire() for name in names]
        code, told = Command("streams").asked(flushed, "ls")
        assert (code, told["complete"]) == (0, True)
        assert sorted(each["name"] for each in told["stores"]) == sorted(names)
        code, told = Command("locks").asked(flushed, "ls")
        assert (code, told["complete"]) == (0, True)
        assert sorted(each["name"] for each in told["locks"]) == sorted(names)
        for lease in leases:
            lease.release()
