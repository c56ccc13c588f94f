"""Which node: one server, the master that Sentinel names, or the owner of a Cluster slot.

A `Topology` knows which servers there are, and is shared by all routes of a driver.  A route maps the keys of a request
to a node, with connections of its own: a `Pool` for threads, and for asyncio a `Node` for each lane (`lanes.py`).
`open.py` makes the topology that a URL asks for.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol

from gridsync._io.route.lanes import lane_of, open_lanes
from gridsync._io.wire.faults import REDIRECTS, Fault, ReplyError
from gridsync._io.wire.pool import Pool
from gridsync.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io.route.lanes import Lanes
    from gridsync._io.route.replica import Replica
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.node import Node
    from gridsync._io.wire.place import Place

__all__ = ["AsyncRoute", "AsyncStandalone", "Route", "Standalone", "StandaloneTopology", "Topology"]


class Route(Protocol):
    """Finds the pool for a request's keys."""

    def pool(self, keys: Sequence[object]) -> Pool:
        """Return the pool of the node that holds *keys*; any node if there are none."""

    def at(self, address: str) -> Pool:
        """Return the pool of the node at *address*, ``host:port``, where a reply or a connection pointed."""

    def connect(self, timeout: float) -> None:
        """Find the servers and open one connection now.

        Raises:
            Unavailable: No server answers.
            Misconfigured: One refuses us.
        """

    def close(self) -> None:
        """Close every pool."""


class AsyncRoute(Protocol):
    """Finds the shared connection for a request's keys."""

    def node(self, keys: Sequence[object]) -> Node:
        """Return the lane for *keys* of the node that holds them; any node's first if there are none."""

    def at(self, address: str, keys: Sequence[object] = ()) -> Node:
        """Return the lane for *keys* of the node at *address*, ``host:port``, where a reply or a connection pointed."""

    async def connect(self, deadline: float) -> None:
        """Find the servers and open one connection now; *deadline* is on the loop's clock.

        Raises:
            Unavailable: No server answers.
            Misconfigured: One refuses us.
        """

    async def close(self) -> None:
        """Close every connection, letting what is under way finish."""


class Topology(Protocol):
    """Knows which servers there are; any thread may ask, and no call but `close` waits for anything."""

    def pools(self, size: int) -> Route:
        """Return a route for threads, with at most *size* connections for each node."""

    def nodes(self, *, lanes: int, inflight_max: int, stall_s: float) -> AsyncRoute:
        """Return a route for asyncio, with *lanes* shared connections for each node."""

    @property
    def sharded(self) -> bool:
        """Whether a channel is heard on one node only: the owner of its slot."""

    def subscriber(self, channel: str) -> Place:
        """Return where *channel* is to be heard, or a key's changes."""

    @property
    def turns(self) -> int:
        """How often a key turned out to be elsewhere than was thought: a reply pointed there, or a new table."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call *callback*, from any thread, when slots may have changed hands or nodes may have left."""

    def replica(self, keys: Sequence[object]) -> Replica | None:
        """Return where a replica of the node that holds *keys* is found; ``None`` if nobody knows of replicas."""

    def on_move(self, callback: Callable[[Endpoint], None]) -> None:
        """Call *callback*, from any thread, when only the server that it is given is still of use.

        For connections that no route of this topology holds; those of its routes it sees to itself.
        """

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        """Take note that a request for *keys* ended with *error*, and find out what has changed, if it may have.

        Raises:
            Misconfigured: *error* shows that this is not the topology of these servers.
        """

    def close(self) -> None:
        """Stop finding out."""


class StandaloneTopology:
    """One server, whose address never changes."""

    sharded = False
    turns = 0

    def __init__(self, place: Place) -> None:
        """Name the server."""
        self._place = place

    def pools(self, size: int) -> Standalone:
        """Return a route for threads."""
        return Standalone(Pool(self._place, size=size))

    def nodes(self, *, lanes: int, inflight_max: int, stall_s: float) -> AsyncStandalone:
        """Return a route for asyncio."""
        return AsyncStandalone(open_lanes(self._place, count=lanes, inflight_max=inflight_max, stall_s=stall_s))

    def subscriber(self, channel: str) -> Place:  # noqa: ARG002 - whichever it is
        """Return the server."""
        return self._place

    def replica(self, keys: Sequence[object]) -> None:
        """Know of none."""

    def on_change(self, callback: Callable[[], None]) -> None:
        """Never call *callback*."""

    def on_move(self, callback: Callable[[Endpoint], None]) -> None:
        """Never call *callback*."""

    def failed(self, keys: Sequence[object], error: Exception) -> None:  # noqa: ARG002 - whichever keys they are
        """Change nothing."""
        if isinstance(error, ReplyError) and error.code in REDIRECTS:
            text = f"{self._place} is a node of a Redis Cluster ({error}): write redis+cluster://… in the URL"
            raise Misconfigured(text)

    def close(self) -> None:
        """Do nothing."""


class Standalone:
    """One server for all keys, for threads."""

    def __init__(self, pool: Pool) -> None:
        """Route everything to *pool*."""
        self._pool = pool

    def pool(self, keys: Sequence[object]) -> Pool:  # noqa: ARG002 - there is only one
        """Return the pool."""
        return self._pool

    def at(self, address: str) -> Pool:  # noqa: ARG002 - there is only one
        """Return the pool."""
        return self._pool

    def connect(self, timeout: float) -> None:
        """Open one connection."""
        try:
            self._pool.give(self._pool.take(timeout))
        except Fault as error:
            raise Unavailable(str(error)) from error

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class AsyncStandalone:
    """One server for all keys, for asyncio."""

    def __init__(self, lanes: Lanes) -> None:
        """Route everything to *lanes*."""
        self._lanes = lanes

    def node(self, keys: Sequence[object]) -> Node:
        """Return the lane for *keys*."""
        # The usual case without a call.
        return self._lanes[0] if len(self._lanes) == 1 else lane_of(self._lanes, keys)

    def at(self, address: str, keys: Sequence[object] = ()) -> Node:  # noqa: ARG002 - there is only one server
        """Return the lane for *keys*."""
        return lane_of(self._lanes, keys)

    async def connect(self, deadline: float) -> None:
        """Open the first lane."""
        try:
            await self._lanes[0].ready(deadline)
        except Fault as error:
            raise Unavailable(str(error)) from error

    async def close(self) -> None:
        """Close every lane side by side."""
        await asyncio.gather(*(lane.close() for lane in self._lanes))
