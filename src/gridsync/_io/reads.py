"""Reads that a replica may answer, because their caller said so.

Each read leaves in one write with ROLE, and its answer counts only if the server is a replica in touch with its primary
at that moment.  A script goes as ``EVALSHA_RO``, which cannot write.  With ``replica`` a read is repeated on replicas
until its deadline; with ``prefer_replica`` the first failure sends it to the primary, and as long as every replica has
failed a moment ago, no time is spent on them.
"""

from __future__ import annotations

import asyncio
import logging
import time
from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, Protocol

from gridsync._io import telemetry
from gridsync._io.clock import monotonic
from gridsync._io.retry import TooLate, recover
from gridsync._io.scripts import Category
from gridsync._io.wire.endpoint import ROLE, wrong_role
from gridsync._io.wire.faults import REDIRECTS, Fault, ReplyError, as_public, is_transient
from gridsync._io.wire.node import Node
from gridsync._io.wire.place import leads_to
from gridsync._io.wire.pool import Pool
from gridsync.errors import Misconfigured, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from gridsync._io import Arg, ReadFrom
    from gridsync._io.route import Topology
    from gridsync._io.route.replica import Replica
    from gridsync._io.scripts import Operation
    from gridsync._io.wire.endpoint import Endpoint

_log = logging.getLogger("gridsync")
LEAST_S = 0.001
SHARE = 0.5
"""How much of a read's time may be spent on replicas when the primary may answer as well."""


class Run(Protocol):
    """Runs an operation on the primary, as `IO.run`."""

    def __call__(
        self, operation: Operation, keys: Sequence[str], args: Sequence[Arg], *, timeout: float
    ) -> Coroutine[Any, Any, Any]:
        """Run it."""


class Reads(ABC):
    """The reads of one driver that replicas may answer; an `Attempts` whose attempts go to them."""

    def __init__(self, server: Endpoint, topology: Topology, timeout: float) -> None:
        """Open nothing yet; *timeout* is the driver's command timeout."""
        self.budget = server.guard.budget
        self.counts = server.counts
        self.monotonic = monotonic
        self.failed = topology.failed
        self._topology = topology
        self._timeout = timeout

    async def read(
        self,
        run: Run,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        read_from: ReadFrom,
        timeout: float | None,
    ) -> Any:  # noqa: ANN401
        """Run *operation*, which must be of category `read`; see `IO.read`.  On the primary *run* does it."""
        assert operation.category is Category.READ, f"{operation.name} may not be sent to a replica"  # noqa: S101
        limit = self._timeout if timeout is None else timeout
        place = self._topology.replica(keys)
        if read_from == "replica":
            if place is None:
                raise UsageError(
                    "read_from='replica': this URL names one server and no replicas; "
                    "connect through redis+sentinel:// or redis+cluster://, or use 'prefer_replica'"
                )
            return await self.run(operation, keys, args, timeout=limit)
        if place is None:
            return await run(operation, keys, args, timeout=limit)
        started = monotonic()
        if not place.hopeless():
            try:
                return await self.run(operation, keys, args, timeout=limit * SHARE, repeat=False)
            except Unavailable as error:
                _log.info("%s is read from the primary: %s", operation.name, error)
            except Misconfigured as error:
                place.doubt(place.known)
                _log.warning("%s is read from the primary: %s", operation.name, error)
        self.counts.tally("read.fallback")
        return await run(operation, keys, args, timeout=limit - (monotonic() - started))

    async def run(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg] = (),
        *,
        timeout: float,
        repeat: bool = True,
    ) -> Any:  # noqa: ANN401
        """Run *operation* on a replica; what measures calls is put around this."""
        reply = await self._run(operation, keys, args, timeout, repeat=repeat)
        self.counts.add("read.replica")
        return reply

    async def _run(
        self, operation: Operation, keys: Sequence[str], args: Sequence[Arg], timeout: float, *, repeat: bool
    ) -> Any:  # noqa: ANN401
        started = monotonic()
        failure: Fault | ReplyError
        try:
            return await self.attempt(operation.words(keys, args), keys, started + timeout)
        except (Fault, ReplyError) as error:
            failure = error
        missing = isinstance(failure, ReplyError) and failure.code == "NOSCRIPT"
        if repeat or missing:
            return await recover(
                self, operation, keys, args, failure=failure, started=started, deadline=started + timeout
            )
        self.failed(keys, failure)
        telemetry.failed(self.counts, operation, failure)
        if isinstance(failure, ReplyError):
            raise as_public(failure, operation.name) from failure
        raise Unavailable(f"{operation.name}: {failure}") from failure

    def where(self, keys: Sequence[str]) -> Endpoint:
        """Return the replica that a read of *keys* goes to, as far as is known."""
        return self._place(keys).known

    @abstractmethod
    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""

    @abstractmethod
    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,
    ) -> Any:  # noqa: ANN401
        """Send *words* and ROLE once to a replica."""

    def _place(self, keys: Sequence[object]) -> Replica:
        place = self._topology.replica(keys)
        if place is None:
            raise Fault("nobody knows the replicas any more", applied=False)
        return place

    @staticmethod
    def _together(words: tuple[Any, ...], asking: str | None) -> tuple[tuple[Any, ...], tuple[Any, ...]]:
        """Return what leaves in one write."""
        if asking is not None:
            raise Fault(f"its slot is on the move to {asking}, and a replica does not know", applied=False)
        return ROLE, ("EVALSHA_RO", *words[1:]) if words[0] == "EVALSHA" else words

    def _judged(self, place: Replica, endpoint: Endpoint, role: object, reply: Any) -> Any:  # noqa: ANN401
        """Return *reply* if it counts, else raise what is wrong, and doubt the replica if that is its fault."""
        error: object = role if isinstance(role, Fault) else wrong_role(endpoint, role) or reply
        if not isinstance(error, Fault | ReplyError):
            return reply
        if isinstance(error, Fault) or (is_transient(error) and error.code not in REDIRECTS):
            place.doubt(endpoint)
        raise error


class ThreadReads(Reads):
    """For threads: a pool of connections to the replica that was chosen."""

    def __init__(self, server: Endpoint, topology: Topology, timeout: float, *, size: int) -> None:
        """Open nothing yet; at most *size* connections to each replica."""
        super().__init__(server, topology, timeout)
        self._size = size
        self._pools: dict[Replica, Pool] = {}
        self._closed = False

    async def sleep(self, seconds: float) -> None:
        """Block for *seconds*."""
        time.sleep(seconds)  # noqa: ASYNC251 - as SyncIO

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,  # noqa: ARG002 - a read has nothing to lose
    ) -> Any:  # noqa: ANN401
        """Send *words* and ROLE once to a replica."""
        place = self._place(keys)
        together = self._together(words, asking)
        pool = self._pools.get(place) or self._open(place)
        wire = pool.take(_left(deadline))
        while not leads_to(wire.endpoint, place.known):
            pool.discard(wire)  # another one is read from by now
            wire = pool.take(_left(deadline))
        role: object
        reply: Any = None
        try:
            role, reply = wire.exchange_many(together, max(deadline - monotonic(), LEAST_S))
        except Fault as fault:
            role = fault
        finally:
            pool.give(wire)
        return self._judged(place, wire.endpoint, role, reply)

    def _open(self, place: Replica) -> Pool:
        for old in list(self._pools):
            if old.retired and (gone := self._pools.pop(old, None)) is not None:  # else another thread was faster
                gone.retire()
        # One step of the interpreter: all who race here get the same, and a pool made in vain has opened nothing.
        pool = self._pools.setdefault(place, Pool(place, size=self._size))
        if self._closed:
            pool.close()
        return pool

    def close(self) -> None:
        """Close every connection."""
        self._closed = True
        for pool in list(self._pools.values()):
            pool.close()


class TaskReads(Reads):
    """For asyncio: one shared connection to the replica that was chosen."""

    def __init__(self, server: Endpoint, topology: Topology, timeout: float, *, inflight_max: int) -> None:
        """Open nothing yet."""
        super().__init__(server, topology, timeout)
        self._inflight_max = inflight_max
        self._nodes: dict[Replica, Node] = {}
        self._leaving: set[asyncio.Task[None]] = set()
        self._closed = False

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""
        await asyncio.sleep(seconds)

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,  # noqa: ARG002 - a read has nothing to lose
    ) -> Any:  # noqa: ANN401
        """Send *words* and ROLE once to a replica."""
        place = self._place(keys)
        together = self._together(words, asking)
        if self._closed:
            raise UsageError(f"this grid ({place}) was closed; make a new one")
        node = self._nodes.get(place) or self._open(place)
        until = asyncio.get_running_loop().time() + _left(deadline)
        wire = await node.ready(until)
        while not leads_to(wire.endpoint, place.known):
            node.leave()  # another one is read from by now
            wire = await node.ready(until)
        role, reply = await asyncio.gather(*wire.post_together(list(together), until), return_exceptions=True)
        return self._judged(place, wire.endpoint, role, reply)

    def _open(self, place: Replica) -> Node:
        for old in [each for each in self._nodes if each.retired]:
            task = asyncio.get_running_loop().create_task(self._nodes.pop(old).retire(), name="gridsync-retire")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)
        node = self._nodes[place] = Node(place, inflight_max=self._inflight_max, stall_s=self._timeout)
        return node

    async def close(self) -> None:
        """Close every connection, letting what is under way finish."""
        self._closed = True
        await asyncio.gather(*(node.close() for node in self._nodes.values()), *self._leaving)


def _left(deadline: float) -> float:
    """Return the seconds until *deadline*.

    Raises:
        Fault: There are none.
    """
    rest = deadline - monotonic()
    if rest < LEAST_S:
        raise TooLate
    return rest
