"""A service that may touch its own namespace only, on a cluster: its channels lie in the slots of their keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.ops import acl
from gridsync.ops.roles import narrowed
from tests.ops.helpers import kind_of
from tests.ops.tour import out_of_bounds, tour

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster


@pytest.mark.any_server
@pytest.mark.leaves_keys
def test_every_wing_works_for_a_service_on_a_cluster(flushed: RedisCluster):
    without = acl.unknown(kind_of(flushed.nodes[0].kind))
    _, *words = acl.line(narrowed("shop"), [acl.hashed("secret")], without).split()
    for node in flushed.nodes:
        node.command("ACL", "SETUSER", *words)
        node.command("ACL", "LOG", "RESET")
    try:
        tour(flushed.url_for("app-shop", "secret"), "shop")
        assert out_of_bounds(flushed.nodes) == []
    finally:
        for node in flushed.nodes:
            node.command("ACL", "DELUSER", "app-shop")
