"""The connections to the nodes of a cluster: one pool for each under threads, a few shared ones under asyncio.

Made when they are first asked for; closed when the slot table (`cluster.py`) does not name their node any more.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from gridsync._io.clock import monotonic
from gridsync._io.route.lanes import lane_of, open_lanes
from gridsync._io.signals import call_in
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.pool import Pool
from gridsync.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.route.cluster import ClusterTopology
    from gridsync._io.route.lanes import Lanes
    from gridsync._io.wire.node import Node

LEAST_S = 0.001


class ClusterPools:
    """A pool for each node, for threads."""

    def __init__(self, topology: ClusterTopology, size: int) -> None:
        """Open nothing yet."""
        self._topology = topology
        self._size = size
        self._pools: dict[str, Pool] = {}
        self._closed = False
        topology.on_change(self._prune)

    def pool(self, keys: Sequence[object]) -> Pool:
        """Return the pool of the node that owns the slot of *keys*."""
        address = self._topology.owner(keys)
        pool = self._pools.get(address)
        return pool if pool is not None else self.at(address)

    def at(self, address: str) -> Pool:
        """Return the pool of the node at *address*; a node that nobody knows gets one until the table is read."""
        # One step of the interpreter, so that no lock is needed: a pool made in vain has opened nothing.
        pool = self._pools.setdefault(address, Pool(self._topology.named(address), size=self._size))
        if self._closed:
            pool.close()
        return pool

    def connect(self, timeout: float) -> None:
        """Read the slot table and open one connection; a primary that is away keeps nobody from the others."""
        deadline = monotonic() + timeout
        self._topology.find(timeout)
        first: Fault | None = None
        for others in reversed(range(self._topology.choices)):
            pool, rest = self.pool(()), deadline - monotonic()
            try:
                # Half of what is left, so that one that is silent does not cost it all.
                pool.give(pool.take(max(rest / 2 if others else rest, LEAST_S)))
            except Fault as error:
                first = first or error
                self._topology.failed((), error)
            else:
                return
        raise Unavailable(str(first)) from first

    def _prune(self) -> None:
        for address in list(self._pools):
            # Another thread may have read the table as well, and have done so before.
            if not self._topology.knows(address) and (gone := self._pools.pop(address, None)) is not None:
                gone.retire()

    def close(self) -> None:
        """Close every pool."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.close()


class ClusterNodes:
    """The shared connections to each node, for asyncio."""

    def __init__(self, topology: ClusterTopology, *, lanes: int, inflight_max: int, stall_s: float) -> None:
        """Open nothing yet; must be called in the loop that will use it."""
        self._topology = topology
        self._lanes = lanes
        self._inflight_max = inflight_max
        self._stall_s = stall_s
        self._loop = asyncio.get_running_loop()
        self._nodes: dict[str, Lanes] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False
        topology.on_change(lambda: call_in(self._loop, self._prune))

    def node(self, keys: Sequence[object]) -> Node:
        """Return the lane for *keys* of the node that owns their slot."""
        return self.at(self._topology.owner(keys), keys)

    def at(self, address: str, keys: Sequence[object] = ()) -> Node:
        """Return the lane for *keys* of the node at *address*; an unknown node is kept until the table is read."""
        lanes = self._nodes.get(address)
        if lanes is None:
            endpoint = self._topology.named(address)
            if self._closed:
                raise UsageError(f"this grid ({endpoint}) was closed; make a new one")
            lanes = self._nodes[address] = open_lanes(
                endpoint, count=self._lanes, inflight_max=self._inflight_max, stall_s=self._stall_s
            )
        return lane_of(lanes, keys)

    async def connect(self, deadline: float) -> None:
        """Read the slot table and open one connection; see `ClusterPools.connect`."""
        await asyncio.to_thread(self._topology.find, deadline - self._loop.time())
        first: Fault | None = None
        for others in reversed(range(self._topology.choices)):
            now = self._loop.time()
            try:
                await self.node(()).ready((now + deadline) / 2 if others else deadline)
            except Fault as error:
                first = first or error
                self._topology.failed((), error)
            else:
                return
        raise Unavailable(str(first)) from first

    def _prune(self) -> None:
        if self._closed:
            return
        for address in list(self._nodes):
            if not self._topology.knows(address):
                for node in self._nodes.pop(address):
                    task = self._loop.create_task(node.retire(), name="gridsync-retire")
                    self._leaving.add(task)
                    task.add_done_callback(self._leaving.discard)

    async def close(self) -> None:
        """Close every connection side by side, letting what is under way finish."""
        self._closed = True
        await asyncio.gather(*(node.close() for lanes in self._nodes.values() for node in lanes), *self._leaving)
