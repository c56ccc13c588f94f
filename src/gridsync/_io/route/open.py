"""From a URL to the place that it names, and to the topology around it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io.route import StandaloneTopology
from gridsync._io.route.cluster import ClusterTopology
from gridsync._io.route.primary import Primary
from gridsync._io.route.sentinel import SentinelTopology, is_sentinel, parse_sentinel
from gridsync._io.wire.endpoint import parse

if TYPE_CHECKING:
    from redis.credentials import CredentialProvider

    from gridsync._io.route import Topology
    from gridsync._io.wire.place import Place


def open_place(
    url: str, *, connect_timeout: float, credentials: CredentialProvider | None = None, password_file: str | None = None
) -> Place:
    """Return what *url* names; nothing is connected yet.

    Raises:
        InvalidURL: The scheme, an option or a value cannot be used; the message says which.
        TLSFailed: A certificate or key file that the URL names cannot be loaded.
    """
    read = parse_sentinel if is_sentinel(url) else parse
    return read(url, connect_timeout=connect_timeout, credentials=credentials, password_file=password_file)


def open_topology(place: Place) -> Topology:
    """Return what knows the servers of *place*; nothing is opened yet."""
    if place.server.topology == "cluster":
        return ClusterTopology(place.server)
    if isinstance(place, Primary):
        return SentinelTopology(place)
    return StandaloneTopology(place)
