"""Cluster: a slot table that follows MOVED, and one pool or a few shared connections for each node.

All keys of one operation share a hash tag, so the slot of the first one (`lanes.slot_of`) decides.  The table is read
from ``CLUSTER SLOTS`` of any node that answers: first whoever was last pointed to or answered last, then the other
known nodes, the seeds of the URL last.  One short-lived thread reads it, also under asyncio; whoever asks meanwhile is
served from the table as it is.

===============================  ====================================================================================
what a node says                 what follows
===============================  ====================================================================================
MOVED                            the slot points there at once, the table is read anew; the request follows at once
ASK                              ASKING and the request leave in one piece for that node, known or not
TRYAGAIN                         the request is repeated after a pause: its slot is on the move
CLUSTERDOWN, READONLY, nothing   the table is read anew; the request is repeated as its category allows
===============================  ====================================================================================

Invariants: at most one thread reads, beside those that connect for the first time, and no two within `PAUSE_S`; an
owner that is unknown is replaced by any node, whose MOVED tells; a node that left the table takes no new requests and
lets those under way finish.

Source: https://redis.io/docs/latest/operate/oss_and_stack/reference/cluster-spec/
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from redis.crc import REDIS_CLUSTER_HASH_SLOTS as SLOTS

from gridsync._io.clock import monotonic
from gridsync._io.route.cluster_nodes import ClusterNodes, ClusterPools
from gridsync._io.route.lanes import slot_of
from gridsync._io.route.replica import Replica
from gridsync._io.signals import call
from gridsync._io.wire import blocking
from gridsync._io.wire.faults import Fault, ReplyError, as_public
from gridsync.errors import Misconfigured, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Container, Iterator, Sequence

    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint

_log = logging.getLogger("gridsync")
PAUSE_S = 0.05
"""The shortest time between two readings of the table."""
ANSWER_S = 1.0
"""How long one node may take to say which slots are where; then the next is asked."""
ASKED_S = 10.0
"""How long a node that is in no table is kept after an ASK pointed to it."""


class ClusterTopology:
    """Who owns which slot.  Thread-safe and fork-safe; asking it never waits."""

    sharded = True

    def __init__(self, endpoint: Endpoint) -> None:
        """Begin with the seeds that *endpoint* names; every node is greeted as it says, whatever its host and port."""
        self._template = replace(endpoint, vouched=True)
        self._seeds = tuple(f"{host}:{port}" for host, port in endpoint.seeds)
        self._endpoints = {
            address: replace(self._template, host=host, port=port)
            for address, (host, port) in zip(self._seeds, endpoint.seeds, strict=True)
        }
        self._owners: list[str] = [""] * SLOTS
        self.turns = 0
        self._primaries = self._seeds
        self._replicas: dict[str, tuple[Endpoint, ...]] = {}
        self._shards: dict[str, Replica] = {}
        self._asked: dict[str, float] = {}
        self._turn = 0
        self._changed: list[Callable[[], None]] = []
        self._reset()
        _topologies.add(self)

    def _reset(self) -> None:
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wire: BlockingWire | None = None
        self._first = self._seeds[0]

    # -- for the routes ---------------------------------------------------------------------------------------------

    def owner(self, keys: Sequence[object]) -> str:
        """Return the address of the node that serves *keys*; any node if there are none or nobody knows."""
        if keys:
            address = self._owners[slot_of(keys[0])]
            if address:
                return address
        primaries = self._primaries
        return primaries[self._turn % len(primaries)]

    @property
    def choices(self) -> int:
        """How many nodes `owner` chooses from for a request without keys."""
        return len(self._primaries)

    def named(self, address: str) -> Endpoint:
        """Return the node at *address*, of which a reply may have told us for the first time."""
        known = self._endpoints.get(address)
        if known is None:
            host, _, port = address.rpartition(":")
            # No host: the node does not know how we call it, and means its own.
            known = replace(self._template, host=host or self._template.host, port=int(port))
            self._endpoints[address] = known
        return known

    def knows(self, address: str) -> bool:
        """Tell whether the node at *address* belongs to the cluster, as far as we know."""
        return address in self._endpoints

    # -- the topology -----------------------------------------------------------------------------------------------

    def pools(self, size: int) -> ClusterPools:
        """Return a route for threads, with at most *size* connections for each node."""
        return ClusterPools(self, size)

    def nodes(self, *, lanes: int, inflight_max: int, stall_s: float) -> ClusterNodes:
        """Return a route for asyncio, with *lanes* shared connections for each node."""
        return ClusterNodes(self, lanes=lanes, inflight_max=inflight_max, stall_s=stall_s)

    def subscriber(self, channel: str) -> Endpoint:
        """Return the owner of the channel's slot: what is published there reaches no other node."""
        return self.named(self.owner((channel,)))

    def on_change(self, callback: Callable[[], None]) -> None:
        """Call *callback*, from the reading thread, when the table was read; another one may call it meanwhile."""
        self._changed.append(callback)

    def replica(self, keys: Sequence[object]) -> Replica:
        """Return where a replica of the node that serves *keys* is found."""
        owner = self.owner(keys)
        place = self._shards.get(owner)
        if place is None:
            # One step of the interpreter: all who race here get the same.
            place = self._shards.setdefault(owner, Replica(owner, self._template, Shard(self, owner)))
        return place

    def replicas_of(self, owner: str) -> Sequence[Endpoint]:
        """Return the replicas of the node at *owner* that the table names; without any, read it anew soon."""
        found = self._replicas.get(owner, ())
        if not found:
            self._read_soon()
        return found

    def on_move(self, callback: Callable[[Endpoint], None]) -> None:
        """Never call *callback*: the nodes of a cluster do not stand in for each other."""

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        """Follow a MOVED at once, and read the table anew where it may be wrong."""
        if isinstance(error, ReplyError):
            if error.code == "MOVED":
                if self._owners[error.slot] == error.target:
                    return  # somebody else was told before
                self.named(error.target)
                self.turns += 1
                self._owners[error.slot] = self._first = error.target
            elif error.code == "ASK":
                # A new node without slots is in no table; it is kept while it is asked.
                self._asked[error.target] = monotonic()
                self.turns += 1
                return
            elif error.code not in _TABLE_IN_DOUBT:
                return
        else:
            suspect = self.owner(keys)
            if not keys:
                self._turn += 1
            if suspect == self._first:
                # A node that is silent would cost the reading `ANSWER_S`.
                self._first = next((other for other in self._primaries if other != suspect), suspect)
        self._read_soon()

    def close(self) -> None:
        """End the reading that may be under way."""
        self._closed.set()
        wire = self._wire
        if wire is not None:
            wire.shutdown()

    # -- reading the table ------------------------------------------------------------------------------------------

    def find(self, timeout: float) -> None:
        """Read the table now.

        Raises:
            Unavailable: No seed answered.
            Misconfigured: One refuses us, or is no node of a cluster.
        """
        failures = self._read(monotonic() + timeout)
        if failures is None:
            return
        for failure in failures:
            if isinstance(failure, Misconfigured):
                raise failure
        why = "; ".join(str(failure) for failure in failures)
        raise Unavailable(f"no node of the cluster {self._template.shown} answers: {why}")

    def _read_soon(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed.is_set():
                self._thread = threading.Thread(target=self._run, name="gridsync-cluster", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        try:
            failures = self._read(float("inf"))
            if failures is not None and not self._closed.is_set():
                _log.warning("no node of the cluster tells who owns which slot: %s", "; ".join(map(str, failures)))
        except Exception:  # noqa: BLE001 - an error of ours; the table stays as it is
            _log.exception("the slot table could not be read; the next request that fails asks for another reading")
        finally:
            self._closed.wait(PAUSE_S)
            # What failed meanwhile is repeated after a pause, and asks for another reading if this one did not help.
            with self._lock:
                self._thread = None

    def _read(self, deadline: float) -> list[Exception] | None:
        """Take the first complete table that a node tells, else the fullest; the failures if none told any."""
        failures: list[Exception] = []
        best: tuple[int, str, list[Any]] | None = None
        for address in self._candidates():
            timeout = min(ANSWER_S, self._template.connect_timeout, deadline - monotonic())
            if timeout <= 0 or self._closed.is_set():
                break
            try:
                ranges = self._ask(self.named(address), timeout)
            except (Fault, ReplyError, Misconfigured, Unavailable) as error:
                failures.append(_explained(address, error))
                continue
            slots = sum(last - first + 1 for first, last, *_ in ranges)
            if best is None or slots > best[0]:
                best = (slots, address, ranges)
            if slots == SLOTS:
                break
        if best is None:
            return failures
        _, self._first, ranges = best
        self._take(self.named(self._first), ranges)
        return None

    def _candidates(self) -> Iterator[str]:
        told: set[str] = set()
        for address in (self._first, *self._primaries, *self._endpoints.copy(), *self._seeds):
            if address not in told:
                told.add(address)
                yield address

    def _ask(self, endpoint: Endpoint, timeout: float) -> list[Any]:
        wire = self._wire = blocking.connect(endpoint, timeout=timeout, met_before=True)
        try:
            return _table(wire.call(("CLUSTER", "SLOTS"), timeout))
        finally:
            self._wire = None
            wire.close()

    def _take(self, asked: Endpoint, ranges: list[Any]) -> None:
        owners = [""] * SLOTS
        primaries: dict[str, None] = {}
        nodes: dict[str, Endpoint] = {}
        replicas: dict[str, dict[str, Endpoint]] = {}
        for first, last, *served_by in ranges:
            owner = ""
            for rank, (host, port, *_) in enumerate(served_by):
                # A host that is unknown, or not to be told, is the one that we asked.
                name = host.decode() if host not in (None, b"", b"?") else asked.host
                address = f"{name}:{port}"
                nodes[address] = self._endpoints.get(address) or replace(self._template, host=name, port=port)
                if rank == 0:
                    owner = address
                    primaries[owner] = None
                    owners[first : last + 1] = [owner] * (last - first + 1)
                else:
                    replicas.setdefault(owner, {})[address] = replace(nodes[address], role="slave")
        if nodes:
            now = monotonic()
            self._asked = {address: at for address, at in self._asked.copy().items() if now - at < ASKED_S}
            self._endpoints = {address: self.named(address) for address in self._asked} | nodes
            self._primaries = tuple(primaries)
            self.turns += owners != self._owners
            self._owners = owners
            self._replicas = {owner: tuple(each.values()) for owner, each in replicas.items()}
            self._retire(primaries)
            for changed in self._changed:
                call(changed)

    def _retire(self, primaries: Container[str]) -> None:
        for address in list(self._shards):
            # Another thread may have read the table as well, and have done so before.
            if address not in primaries and (gone := self._shards.pop(address, None)) is not None:
                gone.retired = True

    def _after_fork(self) -> None:
        if self._wire is not None:
            self._wire.close()  # our copy of the descriptor
        self._reset()


class Shard:
    """The replicas of one node, as the slot table names them: those that the cluster takes for alive."""

    def __init__(self, topology: ClusterTopology, owner: str) -> None:
        """Look into *topology*."""
        self._topology = topology
        self._owner = owner

    def look(self, timeout: float) -> Sequence[Endpoint]:  # noqa: ARG002 - nobody is asked
        """Return them."""
        return self._topology.replicas_of(self._owner)

    async def alook(self) -> Sequence[Endpoint]:
        """As `look`."""
        return self._topology.replicas_of(self._owner)


def _table(reply: Any) -> list[Any]:  # noqa: ANN401 - whatever was answered
    """Return *reply* if it is a slot table; if not, the next node is asked, as after any other failure."""
    try:
        fits = all(
            0 <= first <= last < SLOTS
            and all(port >= 0 and (host is None or host.decode().isprintable()) for host, port, *_ in served_by)
            for first, last, *served_by in reply
        )
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise Fault(f"it answered CLUSTER SLOTS with {reply!r:.100}, which is no slot table", applied=False)
    return list(reply)


_TABLE_IN_DOUBT = frozenset({"CLUSTERDOWN", "READONLY", "UNBLOCKED", "MASTERDOWN", "LOADING"})


def _explained(address: str, error: Exception) -> Exception:
    if isinstance(error, ReplyError) and "cluster support disabled" in str(error):
        return Misconfigured(
            f"{address} is not a node of a cluster ({error}); write redis:// instead of redis+cluster://"
        )
    if isinstance(error, ReplyError) and error.code == "NOPERM":
        return as_public(error, f"CLUSTER SLOTS, asked of {address}")
    return error


_topologies: weakref.WeakSet[ClusterTopology] = weakref.WeakSet()


def _reset_all() -> None:
    for topology in list(_topologies):
        topology._after_fork()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_reset_all)
