"""A shared connection of an asyncio process to one server, set up when needed and replaced when it breaks."""

from __future__ import annotations

import asyncio
import weakref
from typing import TYPE_CHECKING

from gridsync._io.breaker import Rejected, State
from gridsync._io.signals import call_in
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.mux import DRAIN_S, MuxWire, connect
from gridsync._io.wire.place import leads_to
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from gridsync._io.breaker import Breaker
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place


class Node:
    """At most one shared connection to one server: a lane, and the only one unless more were asked for.

    Connecting is single-flight: a hundred callers that find the connection gone wait for one attempt.
    """

    def __init__(self, endpoint: Place, *, inflight_max: int, stall_s: float) -> None:
        """Open nothing yet."""
        self.endpoint = endpoint
        self._inflight_max = inflight_max
        self._stall_s = stall_s
        self.wire: MuxWire | None = None
        self.lanes = weakref.WeakSet([self])
        """All that lead to the same server, this one among them; weak, so that none outlives its route."""
        self._leaving: set[asyncio.Task[None]] = set()
        self._attempt: asyncio.Task[MuxWire] | None = None
        self._attempt_began = 0.0
        self._answered = 0
        self._breaker: Breaker | None = None
        self._loop = asyncio.get_running_loop()
        self.met = False
        self._closed = False
        self._retired = False

    async def ready(self, deadline: float) -> MuxWire:
        """Return a connected wire that has room.

        Raises:
            Fault: There is none before *deadline*; nothing was sent.
            GridsyncError: The server cannot be reached for a reason that does not heal.
        """
        loop = asyncio.get_running_loop()
        while True:
            if self._retired:
                raise Fault(f"{self.endpoint} belongs to the cluster no more", applied=False)
            if self._closed:
                raise UsageError(f"this grid ({self.endpoint}) was closed; make a new one")
            wire = self.wire
            if wire is None or wire.closed:
                breaker = self._breaker = self.endpoint.server.guard.breaker(self)
                try:
                    if self._attempt is None:
                        self._attempt_began = breaker.admit()
                        self._attempt = loop.create_task(self._connect(breaker), name="gridsync-connect")
                        self._attempt.add_done_callback(self._attempted)
                    else:
                        breaker.check()
                except Rejected:
                    # A caller that tries again at once must not keep the loop from everybody else.
                    await asyncio.sleep(0)
                    raise
                attempt, began = self._attempt, self._attempt_began
                try:
                    async with asyncio.timeout_at(deadline):
                        # Not awaited itself: one impatient caller must not take the attempt away from the others, and
                        # `close` must not look like a cancellation of its callers.
                        await asyncio.wait([attempt])
                except TimeoutError:
                    late = Fault(f"no connection to {self.endpoint} in time", applied=False)
                    if breaker.state is not State.HALF_OPEN:  # what a probe finds, it tells itself
                        breaker.failed(began, str(late))
                    raise late from None
                if attempt.cancelled():
                    continue
                wire = attempt.result()
            await wire.room(deadline)
            if not wire.closed:
                return wire

    async def _connect(self, breaker: Breaker) -> MuxWire:
        wire = await self._set_up(
            breaker,
            self._attempt_began,
            inflight_max=self._inflight_max,
            stall_s=self._stall_s,
            met_before=any(lane.met for lane in self.lanes),
        )
        self.met = True
        self._answered = self.answered
        self.wire = wire
        wire.on_fault = self._failed
        return wire

    def _failed(self, since: float, reason: str, count: int) -> None:
        # As long as something was heard on another lane, the server is there.
        heard = [lane.wire.heard_at for lane in self.lanes if lane.wire is not None]
        assert self._breaker is not None  # noqa: S101 - it was asked before there was a wire
        self._breaker.failed(max([since, *heard]), reason, count)

    async def own(self, resting: list[MuxWire], wait: float) -> MuxWire:
        """Return a connection for one caller alone, who asks the server to be silent for *wait* seconds.

        One of those *resting* if there is a good one, else a new one; the breaker is asked either way.

        Raises:
            Fault: The server cannot be reached, or counts as away; nothing was sent.
            GridsyncError: It cannot be reached for a reason that does not heal.
        """
        breaker = self._breaker = self.endpoint.server.guard.breaker(self)
        try:
            breaker.check()
            wire = None
            while resting and wire is None:
                rested = resting.pop()
                wire = None if rested.closed else rested
            if wire is None:
                # It may be silent for as long as the server blocks: no stall check.
                began = breaker.admit()
                wire = await self._set_up(breaker, began, inflight_max=1, stall_s=float("inf"), met_before=True)
        except Rejected:
            await asyncio.sleep(0)  # as in `ready`
            raise

        def failed(since: float, reason: str, count: int) -> None:
            # While the server was blocking, silence was what it had been asked for.
            breaker.failed(min(since + wait, self._loop.time()), reason, count)

        wire.on_fault = failed
        return wire

    async def _set_up(
        self, breaker: Breaker, began: float, *, inflight_max: int, stall_s: float, met_before: bool
    ) -> MuxWire:
        try:
            wire = await connect(self.endpoint, inflight_max=inflight_max, stall_s=stall_s, met_before=met_before)
        except BaseException as error:
            seen = breaker.judged(error, began)
            if seen is error:
                raise
            raise seen from error
        breaker.connected()
        return wire

    def leave(self) -> None:
        """Connect anew for what comes, and cut the present connection when it has answered what is under way."""
        wire, self.wire = self.wire, None
        if wire is not None:
            self._answered += wire.answered
            task = asyncio.get_running_loop().create_task(_leave(wire), name="gridsync-leave")
            self._leaving.add(task)
            task.add_done_callback(self._leaving.discard)

    def move(self, endpoint: Endpoint) -> None:
        """Cut the connection unless it leads to *endpoint*: whoever waits for a reply there is told at once."""
        if self._breaker is not None:
            self._breaker.hurry()
        if self.wire is not None and not leads_to(self.wire.endpoint, endpoint):
            self.wire.abort()
        if self._attempt is not None:
            self._attempt.cancel()  # it may be waiting for the old one; its callers begin another

    @property
    def answered(self) -> int:
        """How many requests were answered so far."""
        return self._answered + (0 if self.wire is None else self.wire.answered)

    def retreat(self) -> None:
        """Give up the connection, and the attempt to set one up; from any thread."""
        call_in(self._loop, self._retreat)

    def _retreat(self) -> None:
        if self._attempt is not None:
            self._attempt.cancel()
        wire, self.wire = self.wire, None
        if wire is not None:
            self._answered += wire.answered
            wire.abort()

    def _attempted(self, task: asyncio.Task[MuxWire]) -> None:
        self._attempt = None
        if not task.cancelled():
            task.exception()  # every caller may be gone by now: the exception counts as seen

    async def retire(self) -> None:
        """Close it because the server left: who still comes hears that nothing was sent, and asks elsewhere."""
        self._retired = True
        await self.close()

    async def close(self) -> None:
        """Take no more requests, let those under way finish for a second, then cut the connection."""
        self._closed = True
        wire, self.wire = self.wire, None
        try:
            if self._attempt is not None:
                self._attempt.cancel()
                await asyncio.wait([self._attempt])
            if wire is not None:
                await wire.drain(DRAIN_S)
            if self._leaving:
                await asyncio.wait(self._leaving)
        finally:
            if wire is not None:
                wire.abort()


async def _leave(wire: MuxWire) -> None:
    try:
        await wire.drain(DRAIN_S)
    finally:
        wire.abort()
