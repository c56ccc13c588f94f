"""A LIFO pool of blocking wires: thread-safe, fork-safe, bounded.

Taking and giving back are one ``list.pop`` and one ``list.append``, which the interpreter makes atomic; the lock is
only taken when the pool is empty.  The most recently used wire goes out first, so a burst's spare wires grow idle.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from typing import TYPE_CHECKING

from gridsync._io import telemetry
from gridsync._io.wire import blocking
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.place import leads_to
from gridsync.errors import GridsyncError, UsageError

if TYPE_CHECKING:
    from gridsync._io.breaker import Breaker
    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

IDLE_CHECK_S = 0.5
"""A wire that rested longer is looked at before it is used: the server may have closed it."""


class Pool:
    """All connections of one process to one server, for threads."""

    def __init__(self, endpoint: Place, *, size: int) -> None:
        """Open nothing yet."""
        self.endpoint = endpoint
        self.size = size
        self._met = False
        self._closed = False
        self._retired = False
        self._reset()
        _pools.add(self)

    def _reset(self) -> None:
        self._idle: list[BlockingWire] = []
        self._all: set[BlockingWire] = set()
        self._open = 0
        self._moves = 0
        self._waiting = 0
        self._answered = 0
        self._breaker: Breaker | None = None
        self._condition = threading.Condition(threading.Lock())

    @property
    def open(self) -> int:
        """How many connections there are, in use or idle."""
        return self._open

    @property
    def idle(self) -> int:
        """How many of them rest."""
        return len(self._idle)

    @property
    def waiting(self) -> int:
        """How many threads wait for one."""
        return self._waiting

    @property
    def answered(self) -> int:
        """How many requests were answered so far, about: threads that discard wires do not wait for each other."""
        return self._answered + sum(wire.answered for wire in list(self._all))

    def take(self, timeout: float, *, insist: bool = False) -> BlockingWire:
        """Return a wire for the calling thread alone, opening one if there is room, else waiting for one.

        With *insist* the breaker is not asked.

        Raises:
            Fault: None came free within *timeout* seconds, or the server cannot be reached; nothing was sent.
        """
        wire = self.take_idle()
        return wire if wire is not None else self._take_slowly(timeout, insist=insist)

    def take_idle(self) -> BlockingWire | None:
        """Return a wire that rests and is good, at once, or ``None``."""
        while True:
            try:
                wire = self._idle.pop()
            except IndexError:
                return None
            if time.monotonic() - wire.idle_since < IDLE_CHECK_S or not wire.is_stale():
                return wire
            self.discard(wire)

    def _take_slowly(self, timeout: float, *, insist: bool) -> BlockingWire:
        deadline = time.monotonic() + timeout
        breaker = self._breaker = self.endpoint.server.guard.breaker(self)
        with self._condition:
            self._waiting += 1
            try:
                while True:
                    if self._retired:
                        raise Fault(f"{self.endpoint} belongs to the cluster no more", applied=False)
                    if self._closed:
                        raise UsageError(f"this grid ({self.endpoint}) was closed; make a new one")
                    if not insist:
                        breaker.check()
                    with contextlib.suppress(IndexError):  # others pop without the lock
                        wire = self._idle.pop()
                        telemetry.waited(self.endpoint.known, time.monotonic() - deadline + timeout)
                        return wire
                    if self._open < self.size:
                        self._open += 1
                        break
                    rest = deadline - time.monotonic()
                    if rest <= 0 or not self._condition.wait(rest):
                        telemetry.waited(self.endpoint.known, timeout, in_vain=1)
                        raise Fault(
                            f"all {self.size} connections to {self.endpoint} were busy for {timeout:g} s; "
                            f"raise REDIS_POOL_SIZE or use fewer threads",
                            applied=False,
                        )
            finally:
                self._waiting -= 1
        moves = self._moves
        # Never connect while holding the lock: the others would wait for a server that may not answer.
        try:
            began = time.monotonic() if insist else breaker.admit()
        except (Fault, GridsyncError):
            self._forget()
            raise
        try:
            wire = blocking.connect(
                self.endpoint,
                timeout=min(self.endpoint.connect_timeout, max(deadline - time.monotonic(), 0.001)),
                met_before=self._met,
            )
        except BaseException as error:
            self._forget()
            seen = breaker.judged(error, began)
            if seen is error:
                raise
            raise seen from error
        breaker.connected()
        self._met = True
        self._all.add(wire)
        wire.endpoint.counts.pools.add(self)
        if moves != self._moves:
            self.discard(wire)
            raise Fault(f"{self.endpoint} moved while {wire.endpoint} was being connected to", applied=False)
        return wire

    def give(self, wire: BlockingWire) -> None:
        """Take a wire back; a closed one is forgotten."""
        if wire.closed:
            self.discard(wire)
            if wire.fault is not None and self._breaker is not None:
                # As long as another wire was answered, the node is there.
                since = max([wire.unanswered_since, *(other.idle_since for other in list(self._all))])
                self._breaker.failed(since, str(wire.fault))
            return
        wire.idle_since = time.monotonic()
        self._idle.append(wire)
        if self._waiting:
            with self._condition:
                self._condition.notify()
        if self._closed:
            self._discard_idle()

    def discard(self, wire: BlockingWire) -> None:
        """Close a wire and make room for another."""
        wire.close()
        if wire in self._all:
            self._all.discard(wire)
            self._answered += wire.answered
        self._forget()

    def leave(self) -> None:
        """Connect anew for what comes; a wire in use is judged when its turn has come again."""
        self._discard_idle()

    def move(self, endpoint: Endpoint) -> None:
        """Cut what leads elsewhere than to *endpoint*: whoever waits for a reply there is told at once."""
        self._moves += 1
        if self._breaker is not None:
            self._breaker.hurry()
        for wire in list(self._all):
            if not leads_to(wire.endpoint, endpoint):
                wire.shutdown()
        idle: list[BlockingWire] = []
        with contextlib.suppress(IndexError):
            while True:
                idle.append(self._idle.pop())
        for wire in idle:
            if leads_to(wire.endpoint, endpoint):
                self.give(wire)
            else:
                self.discard(wire)

    def _forget(self) -> None:
        with self._condition:
            self._open -= 1
            self._condition.notify()

    def retire(self) -> None:
        """Close it because the server left: who still comes hears that nothing was sent, and asks elsewhere."""
        self._retired = True
        self.close()

    def close(self) -> None:
        """Close the idle wires; one in use is closed when it is given back."""
        with self._condition:
            self._closed = True
            self._condition.notify_all()
        self._discard_idle()

    def retreat(self) -> None:
        """Close the idle wires, and those in use when they are given back."""
        for wire in list(self._all):
            wire.closed = True
        self._discard_idle()
        with self._condition:
            self._condition.notify_all()  # whoever waits for one shall hear it at once

    def _discard_idle(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self.discard(self._idle.pop())

    def _after_fork(self) -> None:
        # Close our copies of the descriptors, those in use by threads that the child does not have as well: the
        # parent's connections live on, and end when the parent says so.
        for wire in self._all:
            wire.close()
        self.endpoint.server.guard.after_fork()
        self._reset()


_pools: weakref.WeakSet[Pool] = weakref.WeakSet()


def _reset_all() -> None:
    for pool in list(_pools):
        pool._after_fork()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_reset_all)
