"""Which node: standalone today; Sentinel and Cluster plug in here.

A route maps the keys of a request to a node.  A node is a `Pool` for threads and a `Node` for asyncio.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.wire.mux import Node
    from gridsync._io.wire.pool import Pool

__all__ = ["AsyncRoute", "AsyncStandalone", "Route", "Standalone"]


class Route(Protocol):
    """Finds the pool for a request's keys."""

    def pool(self, keys: Sequence[object]) -> Pool:
        """Return the pool of the node that holds *keys*; any node if there are none."""

    def close(self) -> None:
        """Close every pool."""


class AsyncRoute(Protocol):
    """Finds the node for a request's keys."""

    def node(self, keys: Sequence[object]) -> Node:
        """Return the node that holds *keys*; any node if there are none."""

    async def close(self) -> None:
        """Close every node, letting what is under way finish."""


class Standalone:
    """One server for all keys, for threads."""

    def __init__(self, pool: Pool) -> None:
        """Route everything to *pool*."""
        self._pool = pool

    def pool(self, keys: Sequence[object]) -> Pool:  # noqa: ARG002 - there is only one
        """Return the pool."""
        return self._pool

    def close(self) -> None:
        """Close the pool."""
        self._pool.close()


class AsyncStandalone:
    """One server for all keys, for asyncio."""

    def __init__(self, node: Node) -> None:
        """Route everything to *node*."""
        self._node = node

    def node(self, keys: Sequence[object]) -> Node:  # noqa: ARG002 - there is only one
        """Return the node."""
        return self._node

    async def close(self) -> None:
        """Close the node."""
        await self._node.close()
