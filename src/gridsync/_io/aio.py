"""AsyncIO: the driver for asyncio.  One multiplexed connection, or a few, for all tasks of a loop.

Bound to the loop in which it is first used.  Blocking commands have connections of their own; the watchdog is a
thread with its own connection (`keeper.py`), so that a blocked loop does not lose its leases.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from functools import partial
from itertools import chain, count
from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._io import telemetry, who
from gridsync._io.aio_hub import AsyncHub, TaskEar
from gridsync._io.breaker import cleanup_failed
from gridsync._io.clock import Tokens, clock_of, monotonic
from gridsync._io.ears import Tap
from gridsync._io.keeper import Keeper
from gridsync._io.keys import shard_wake_prefix, wake_prefix
from gridsync._io.listening import Listening
from gridsync._io.probe import LEAST_S, Recent, Usage, aprobe, late
from gridsync._io.reads import TaskReads
from gridsync._io.retry import REDIRECTS_MAX, TooLate, recover, spare_s
from gridsync._io.route.lanes import one_server, one_slot
from gridsync._io.route.open import open_topology
from gridsync._io.scope import TaskScope, here
from gridsync._io.signals import LoopSignal, call, call_in, in_background
from gridsync._io.stays import Stays
from gridsync._io.tracking import Tracking
from gridsync._io.wire.faults import REDIRECTS, ROLE_CHANGED, Fault, ReplyError, as_public
from gridsync._io.wire.mux import DRAIN_S
from gridsync._io.wire.place import leads_to
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import Arg, Keep, ReadFrom, Signal
    from gridsync._io.counts import Stats
    from gridsync._io.probe import Facts
    from gridsync._io.route import Topology
    from gridsync._io.scripts import Bound, Operation
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.mux import MuxWire
    from gridsync._io.wire.node import Node
    from gridsync._io.wire.place import Place

T = TypeVar("T")
_thread = threading.get_ident
_NOWHERE = 0
"""No thread's identifier."""
BLOCK_GRACE_S = 0.5
"""How much longer than the server a client waits for the reply to a blocking command."""

UNBLOCK_TRIES = 50
UNBLOCK_PAUSE_S = 0.01


class AsyncIO(Stays):
    """Everything a core may ask of the world, for the tasks of one event loop."""

    def __init__(self, endpoint: Place, *, inflight_max: int, timeout: float, connections_per_node: int = 1) -> None:
        """Open nothing yet; must be called in the loop that will use it."""
        self._endpoint = endpoint
        self._timeout = timeout
        self._loop = asyncio.get_running_loop()
        self._time = clock_of(self._loop)
        self.over = self._loop.is_closed
        # In this thread and running: the running loop is ours.  Asking asyncio for it costs a system call in 3.11.
        self._home = _thread()
        self._runs = self._loop.is_running
        self._topology = open_topology(endpoint)
        self._route = self._topology.nodes(lanes=connections_per_node, inflight_max=inflight_max, stall_s=timeout)
        self._inflight_max = inflight_max
        self.monotonic = monotonic
        self.token = Tokens()
        self.who = who.task
        self.wake_prefix = shard_wake_prefix if self._topology.sharded else wake_prefix
        self.together = one_slot if self._topology.sharded else one_server
        self._keeper = Keeper(partial(self._topology.pools, 1), self._topology.failed)
        self.keep = self._keeper.keep
        self.unkeep = self._keeper.unkeep
        self._hub = AsyncHub(self._topology, timeout=timeout)
        self.hears = self._hub.ears.heard.__contains__
        self.wake = self._hub.ears.hear
        self.tracking = Tracking(self._topology, timeout=timeout)
        self._opening: set[str] = set()
        self._resting: dict[Place, list[MuxWire]] = {}
        self._blocked: set[MuxWire] = set()
        self._cleanups: set[asyncio.Task[Any]] = set()
        self._closed = False
        self.reads = TaskReads(endpoint.server, self._topology, timeout, inflight_max=inflight_max)
        self._moved = asyncio.Event()
        self._looking = asyncio.Lock()
        self._recent = Recent()
        loop, moved = self._loop, weakref.WeakMethod(self._move)
        self._topology.on_move(lambda endpoint: call_in(loop, lambda: (move := moved()) and move(endpoint)))
        review = self._hub.review
        self._topology.on_change(lambda: call_in(loop, review))
        self._topology.on_change(self.tracking.review)
        self._topology.on_move(self.tracking.move)
        # Dropped without a close: its threads must not outlive it; its connections are the loop's.
        self._dropped = weakref.finalize(
            self, in_background, partial(_end, self._topology, self.tracking, self._keeper)
        )
        self._dropped.atexit = False
        self.counts = endpoint.server.counts
        self.tally = self.counts.tally
        self.decisions = self.counts.decisions
        self.report = self.counts.report
        self.budget = endpoint.server.guard.budget
        endpoint.server.guard.serve(timeout, self.tally)
        telemetry.watch(self)
        _drivers.add(self)

    async def connect(self) -> None:
        """Open the connection now, so that a wrong address or password shows at once."""
        # A little longer than the attempt itself may take: its own error says more.
        await self._route.connect(self._time() + self._endpoint.connect_timeout + BLOCK_GRACE_S)

    def _move(self, endpoint: Endpoint) -> None:
        self._hub.move(endpoint)
        for wire in (*chain(*self._resting.values()), *self._blocked):
            if not leads_to(wire.endpoint, endpoint):
                wire.abort()
        moved, self._moved = self._moved, asyncio.Event()
        moved.set()

    def _pauses(self) -> Callable[[float], Coroutine[Any, Any, None]]:
        """Return pauses that end when the primary moves, at once if it did so during the attempt before."""
        move = self._moved

        async def pause(seconds: float) -> None:
            nonlocal move
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(seconds):
                    await move.wait()
            move = self._moved

        return pause

    async def close(self) -> None:
        """Finish clean-ups and requests under way, then close every connection.

        Raises:
            UsageError: This is another loop than its own; if that one has ended, the threads are stopped first.
        """
        if self._home == _NOWHERE:
            return  # the connections, and the loop's own descriptors, are the parent's
        if not self._at_home():
            if not self._loop.is_closed():
                raise self._misplaced()
            self._closed = True
            self._dropped.detach()
            await asyncio.to_thread(_end, self._topology, self.tracking, self._keeper)
            raise UsageError(
                "the event loop of this AsyncGrid ended before it was closed, and what was under way ended with it; "
                "close it in the loop that opened it, as `async with AsyncGrid(…)` does"
            )
        self._closed = True
        self._dropped.detach()
        try:
            if self._cleanups:
                await asyncio.wait(self._cleanups, timeout=DRAIN_S)
        finally:
            self._topology.close()
            self.tracking.close()
            self._hub.close()
            for wire in (*chain(*self._resting.values()), *self._blocked):
                wire.abort()
            try:
                await self._route.close()
                await self.reads.close()
            finally:
                self._keeper.stop()
        await asyncio.to_thread(self._keeper.close)

    async def run(
        self,
        operation: Operation | Bound,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a script or command; see `IO.run`."""
        # `_at_home`, spelled out: nothing in here is free for who calls it a hundred thousand times a second.
        if _thread() != self._home or not self._runs():
            raise self._misplaced()
        limit = self._timeout if timeout is None else timeout
        started = self._time()
        try:
            wire = self._route.node(keys).wire
            if wire is None or wire.free <= 0:
                wire = await self._route.node(keys).ready(started + limit)
                if started + limit - self._time() < spare_s(limit):
                    raise TooLate
            return await wire.post(operation.words(keys, args), started + limit)
        except (Fault, ReplyError) as error:
            failure = error
        spent = self._time() - started
        now = monotonic()
        return await recover(
            self,
            operation,
            keys,
            args,
            failure=failure,
            started=now - spent,
            deadline=now - spent + limit,
            pause=self._pauses(),
        )

    def read(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg] = (),
        *,
        read_from: ReadFrom,
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run an operation of category `read` where *read_from* says; see `IO.read`."""
        if read_from == "primary":
            return self.run(operation, keys, args, timeout=timeout)
        if not self._at_home():
            raise self._misplaced()
        return self.reads.read(self.run, operation, keys, args, read_from=read_from, timeout=timeout)

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,
    ) -> Any:  # noqa: ANN401
        """Send *words* once, for `recover`; *deadline* is on the clock of `monotonic`."""
        until = self._time() + deadline - monotonic()
        node = self._route.node(keys) if asking is None else self._route.at(asking, keys)
        wire = await node.ready(until)
        if until - self._time() < spare:
            raise TooLate
        return await (wire.post(words, until) if asking is None else wire.post_asking(words, until))

    @property
    def process_name(self) -> str:
        """What every `token` begins with."""
        return self.token.process

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        """Let the topology know, for `recover`."""
        self._topology.failed(keys, error)

    async def block(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg],
        *,
        wait: float,
        stop: Signal,
        ahead: Sequence[Arg] = (),
    ) -> Any:  # noqa: ANN401
        """Run a blocking command on a connection of its own; see `IO.block`.

        A cancelled call closes its connection: what the server may have sent is still pending there.
        """
        if not self._at_home():
            raise self._misplaced()
        if stop.is_set():
            return None
        words = operation.words(keys, args)
        asking: str | None = None
        for redirects in count():
            try:
                return await self._block_once((ahead, words), keys, asking, wait, stop)
            except ReplyError as error:
                self.failed(keys, error)
                if error.code == "UNBLOCKED":
                    return None
                if error.code not in REDIRECTS or redirects == REDIRECTS_MAX:
                    raise as_public(error, operation.name) from error
                asking = error.target if error.code == "ASK" else None
            except Fault as error:
                self.failed(keys, error)
                telemetry.failed(self.counts, operation, error)
                if not error.ambiguous:
                    raise Unavailable(f"{operation.name}: {error}") from error
                text = f"{operation.name}: {error}; what it may have received is still pending"
                raise OutcomeUnknown(text) from error
        raise AssertionError  # the loop has no other end

    async def _block_once(
        self, lines: Sequence[Sequence[Any]], keys: Sequence[str], asking: str | None, wait: float, stop: Signal
    ) -> Any:  # noqa: ANN401
        node = self._route.node(keys) if asking is None else self._route.at(asking)
        resting = self._resting.setdefault(node.endpoint, [])
        wire = await self._blocking_wire(node, resting, wait)
        if stop.is_set():
            resting.append(wire)
            return None
        self._blocked.add(wire)
        drop = stop.on_set(lambda: call_in(self._loop, lambda: self.spawn(self._unblock(wire))))
        post = wire.post if asking is None else wire.post_asking
        try:
            reply = None
            for line in lines:
                if line:
                    reply = await post(tuple(line), self._time() + wait + BLOCK_GRACE_S)
        except ReplyError as error:
            if error.code in ROLE_CHANGED:
                wire.abort()
            else:
                resting.append(wire)
            raise
        except BaseException:
            wire.abort()
            raise
        finally:
            wire.on_fault = None  # that we cut it ourselves is no fault of the server
            drop()
            self._blocked.discard(wire)
        resting.append(wire)
        return reply

    async def _blocking_wire(self, node: Node, resting: list[MuxWire], wait: float) -> MuxWire:
        self._raise_if_closed()
        wire = await node.own(resting, wait)
        try:
            self._raise_if_closed()
        except UsageError:
            wire.abort()
            raise
        return wire

    def _raise_if_closed(self) -> None:
        if self._closed:
            raise UsageError(f"this grid ({self._endpoint}) was closed; make a new one")

    async def _unblock(self, wire: MuxWire) -> None:
        # The call may still be on its way when the server hears of it, so it is asked again.
        with contextlib.suppress(Fault, ReplyError, GridsyncError):
            for _ in range(UNBLOCK_TRIES):
                if wire not in self._blocked:
                    return
                until = self._time() + self._timeout
                shared = await self._route.at(str(wire.endpoint)).ready(until)
                if await shared.post(("CLIENT", "UNBLOCK", str(wire.id)), until) == 1:
                    return
                await asyncio.sleep(UNBLOCK_PAUSE_S)
        wire.abort()

    def _at_home(self) -> bool:
        return _thread() == self._home and self._runs()

    def _misplaced(self) -> UsageError:
        return UsageError(
            "this AsyncGrid belongs to another event loop or to the parent process; open one per loop and process"
        )

    async def look(
        self, questions: Sequence[tuple[Any, ...]], keys: Sequence[str], timeout: float, age: float = 0.0
    ) -> tuple[Facts, Usage]:
        """Ask the server that holds *keys*, on a connection of its own; see `aprobe`.

        What was found at most *age* seconds ago is good enough; then only one task asks, and the others wait for it.
        """
        if not self._at_home():
            raise self._misplaced()
        node = self._route.node(keys)
        began = monotonic()

        def usage() -> Usage:
            wires = [lane.wire for lane in node.lanes if lane.wire is not None]
            load, line = sum(wire.load for wire in wires), sum(wire.line for wire in wires)
            return Usage(load, self._inflight_max * len(node.lanes), line, self._endpoint.server.guard.states())

        async def ask() -> tuple[Facts, Usage]:
            facts = await aprobe(node.endpoint, questions, max(began + timeout - monotonic(), LEAST_S))
            return facts, usage()

        if not age:
            return await ask()
        try:
            async with asyncio.timeout(timeout):
                await self._looking.acquire()
        except TimeoutError:
            return late(node.endpoint, timeout), usage()
        try:
            return self._recent.get(age) or self._recent.put(monotonic(), await ask())
        finally:
            self._looking.release()

    def audit(self, item: Keep) -> None:
        """Let the watchdog ask for *item* too, a moment after the first lease is kept."""
        self._keeper.first = item

    def alive(self) -> bool:
        """Tell whether the watchdog does its work, and nobody has closed this."""
        return not self.closed and self._keeper.is_well

    @property
    def closed(self) -> bool:
        """Whether this is of no use any more: closed, or in the child of a fork."""
        return self._closed or self._home == _NOWHERE

    def where(self, keys: Sequence[str]) -> Endpoint:
        """Return the server that a request for *keys* goes to, as far as is known."""
        return self._route.node(keys).endpoint.known

    def stats(self) -> Stats:
        """Return what was counted, and what is going on now."""
        return self.counts.stats(
            leases=self._keeper.kept,
            ears=len(self._hub.ears),
            guard=self._endpoint.server.guard,
            copies=list(self.tracking.copies.values()),
        )

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them side by side."""
        try:
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(coroutine) for coroutine in coroutines]
        except BaseExceptionGroup as failures:
            raise failures.exceptions[0] from None
        return [task.result() for task in tasks]

    fan = beside = gather

    async def aside(self, work: Callable[[], T]) -> T:
        """Run *work* in a thread; who is cancelled meanwhile waits for its end."""
        running = asyncio.ensure_future(asyncio.to_thread(work))
        try:
            return await asyncio.shield(running)
        except asyncio.CancelledError:
            await asyncio.wait([running])
            raise

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""
        await asyncio.sleep(seconds)

    def ear(self, token: str, channel: str) -> TaskEar:
        """Return the ear of a waiter."""
        return TaskEar(self._hub, token, channel)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* to its end in a task of its own, which `close` waits for."""
        task = self._loop.create_task(coroutine)
        self._cleanups.add(task)
        task.add_done_callback(self._cleaned)

    def _cleaned(self, task: asyncio.Task[Any]) -> None:
        self._cleanups.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            cleanup_failed(error)

    def listen(self, token: str, channel: str, heard: Callable[[str], object]) -> Listening:
        """Call *heard* with each message for *token*, in the loop."""
        return Listening(self._hub.ears, token, channel, heard, open_soon=self._open_soon, leave=self._leave_soon)

    def tap(self, channel: str, taken: Callable[[bytes], object], lost: Callable[[], object]) -> Tap:
        """Call *taken* with every message on *channel*; see `IO.tap`."""
        tap = Tap(channel, taken, lost, self._hub.untap)
        self._hub.ears.add(tap)
        return tap

    def _open_soon(self, channel: str) -> None:
        if channel not in self._opening:
            self._opening.add(channel)
            call_in(self._loop, lambda: None if self._closed else self.spawn(self._open(channel)))

    async def _open(self, channel: str) -> None:
        # Whoever needs it asks again as long as it is not open.
        with contextlib.suppress(GridsyncError):
            await self._hub.open(channel)
        self._opening.discard(channel)

    def _leave_soon(self, channel: str) -> None:
        call_in(self._loop, lambda: None if channel in self._hub.ears else self._hub.leave(channel))

    def signal(self) -> LoopSignal:
        """Return a new switch."""
        return LoopSignal()

    def scope(self) -> TaskScope:
        """Return the block that the current task is about to enter."""
        return TaskScope(self._loop)

    def here(self) -> object:
        """Return the current task."""
        return here()

    def notify(self, callback: Callable[[], object]) -> None:
        """Call *callback* in the loop, soon."""
        call_in(self._loop, lambda: call(callback))

    def _after_fork(self) -> None:
        self._home = _NOWHERE
        self.token.renew()
        self._keeper.reset()
        self.tracking.after_fork()


def _end(topology: Topology, tracking: Tracking, keeper: Keeper) -> None:
    topology.close()
    tracking.close()
    keeper.close()


_drivers: weakref.WeakSet[AsyncIO] = weakref.WeakSet()


def _mark_all() -> None:
    for driver in list(_drivers):
        driver._after_fork()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_mark_all)
