"""From a URL to the topology that it asks for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io.route import StandaloneTopology

if TYPE_CHECKING:
    from gridsync._io.route import Topology
    from gridsync._io.wire.endpoint import Endpoint


def open_topology(endpoint: Endpoint) -> Topology:
    """Return what knows the servers of *endpoint*; nothing is opened yet."""
    return StandaloneTopology(endpoint)
