"""SyncIO: the driver for threads.  Its awaitables never suspend; `run_sync` drives them with one ``send``.

Blocking calls block the calling thread and no other.  The lean wire and its pool are in `wire/`; the watchdog and the
hub each have one daemon thread, started when the first lease is kept or the first waiter waits.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
import weakref
from functools import partial
from itertools import count
from typing import TYPE_CHECKING, Any, TypeVar

import hiredis

from gridsync._io import run_sync, telemetry, who
from gridsync._io.breaker import cleanup_failed
from gridsync._io.clock import Tokens, monotonic
from gridsync._io.ears import Tap
from gridsync._io.fan import Fan, beside
from gridsync._io.hub import ThreadEar, ThreadHub
from gridsync._io.keeper import Keeper
from gridsync._io.keys import shard_wake_prefix, wake_prefix
from gridsync._io.listening import Listening
from gridsync._io.probe import Recent, Usage, late, probe
from gridsync._io.reads import ThreadReads
from gridsync._io.retry import REDIRECTS_MAX, TooLate, recover, spare_s
from gridsync._io.route.lanes import one_server, one_slot
from gridsync._io.route.open import open_topology
from gridsync._io.scope import ThreadScope, here
from gridsync._io.signals import ThreadSignal, call, in_background
from gridsync._io.stays import Stays
from gridsync._io.tracking import Tracking
from gridsync._io.wire.faults import ASKING, REDIRECTS, Fault, ReplyError, as_public
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import Arg, Keep, ReadFrom, Signal
    from gridsync._io.counts import Stats
    from gridsync._io.probe import Facts
    from gridsync._io.scripts import Bound, Operation
    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place
    from gridsync._io.wire.pool import Pool

T = TypeVar("T")
_pack = hiredis.pack_command
BLOCK_GRACE_S = 0.5
"""How much longer than the server a client waits for the reply to a blocking command."""

LEAST_S = 0.001
"""The shortest time that a reply is given once a connection was found."""
UNBLOCK_TRIES = 50
UNBLOCK_PAUSE_S = 0.01


class SyncIO(Stays):
    """Everything a core may ask of the world, for threads.

    Thread-safe.  After a fork the child starts with no connection, no kept lease and a new process name.
    """

    def __init__(self, endpoint: Place, *, pool_size: int, timeout: float) -> None:
        """Open nothing yet."""
        self._endpoint = endpoint
        self._timeout = timeout
        self._topology = open_topology(endpoint)
        self._route = self._topology.pools(pool_size)
        self.monotonic = monotonic
        self.token = Tokens()
        self.who = who.thread
        self.wake_prefix = shard_wake_prefix if self._topology.sharded else wake_prefix
        self.together = one_slot if self._topology.sharded else one_server
        self._keeper = Keeper(partial(self._topology.pools, 1), self._topology.failed)
        self.keep = self._keeper.keep
        self.unkeep = self._keeper.unkeep
        self._hub = ThreadHub(self._topology, timeout=timeout)
        self.hears = self._hub.ears.heard.__contains__
        self.wake = self._hub.ears.hear
        self._opening: set[str] = set()
        self.tracking = Tracking(self._topology, timeout=timeout)
        self._blocking = self._topology.pools(pool_size)
        self._fan = Fan()
        self._blocked: set[BlockingWire] = set()
        self.reads = ThreadReads(endpoint.server, self._topology, timeout, size=pool_size)
        self._moved = threading.Condition()
        self._moves = 0
        self._looking = threading.Lock()
        self._recent = Recent()
        moved = weakref.WeakMethod(self._move)
        self._topology.on_move(lambda endpoint: (move := moved()) and move(endpoint))
        self._topology.on_change(self._hub.review)
        self._topology.on_change(self.tracking.review)
        self._topology.on_move(self.tracking.move)
        ending = (
            *(self._topology, self._keeper, self._hub, self.tracking, self._blocking, self.reads, self._route),
            self._fan,
        )
        self._shut = partial(_shut, self._blocked, *(each.close for each in ending))
        # Dropped without a close: its threads must not outlive it.
        self._dropped = weakref.finalize(self, in_background, self._shut)
        self._dropped.atexit = False
        self.counts = endpoint.server.counts
        self.tally = self.counts.tally
        self.decisions = self.counts.decisions
        self.report = self.counts.report
        self.budget = endpoint.server.guard.budget
        endpoint.server.guard.serve(timeout, self.tally)
        telemetry.watch(self)
        _drivers.add(self)

    def connect(self) -> None:
        """Open one connection now, so that a wrong address or password shows at once."""
        self._route.connect(self._endpoint.connect_timeout)

    def _move(self, endpoint: Endpoint) -> None:
        self._hub.move(endpoint)
        with self._moved:
            self._moves += 1
            self._moved.notify_all()

    def _pauses(self) -> Callable[[float], Coroutine[Any, Any, None]]:
        """Return pauses that end when the primary moves, at once if it did so during the attempt before."""
        seen = self._moves

        async def pause(seconds: float) -> None:
            nonlocal seen
            with self._moved:
                self._moved.wait_for(lambda: self._moves != seen, seconds)
                seen = self._moves

        return pause

    def close(self) -> None:
        """Close every connection and stop the threads; leases still held are left to expire."""
        self._dropped.detach()
        self._shut()

    async def run(
        self,
        operation: Operation | Bound,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a script or command; see `IO.run`."""
        limit = self._timeout if timeout is None else timeout
        started = monotonic()
        failure: Fault | ReplyError
        try:
            # `_send`, spelled out: between two system calls this thread holds the interpreter lock, and with many
            # threads each microsecond there costs three.
            pool = self._route.pool(keys)
            rest = limit
            wire = pool.take_idle()
            if wire is None:
                wire = pool.take(limit)
                rest = started + limit - monotonic()
                if rest < spare_s(limit):
                    pool.give(wire)
                    raise TooLate
            words = operation.words(keys, args)
            try:
                reply = wire.exchange(words if isinstance(words, bytes) else _pack(words), rest)
            finally:
                pool.give(wire)
        except Fault as fault:
            failure = fault
        else:
            if reply.__class__ is not ReplyError:
                return reply
            failure = reply
        return await recover(
            self,
            operation,
            keys,
            args,
            failure=failure,
            started=started,
            deadline=started + limit,
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
        return self.reads.read(self.run, operation, keys, args, read_from=read_from, timeout=timeout)

    @staticmethod
    def _send(pool: Pool, words: tuple[Any, ...], limit: float, *, asking: bool = False, spare: float = 0.0) -> Any:  # noqa: ANN401
        deadline = monotonic() + limit
        wire = pool.take(limit)
        try:
            rest = deadline - monotonic()
            if rest < spare:
                raise TooLate
            rest = max(rest, LEAST_S)
            return wire.exchange_many((ASKING, words), rest)[1] if asking else wire.exchange(_pack(words), rest)
        finally:
            pool.give(wire)

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],
        deadline: float,
        asking: str | None = None,
        spare: float = 0.0,
    ) -> Any:  # noqa: ANN401
        """Send *words* once, for `recover`."""
        rest = deadline - monotonic()
        if rest <= 0:
            raise TooLate
        pool = self._route.pool(keys) if asking is None else self._route.at(asking)
        reply = self._send(pool, words, rest, asking=asking is not None, spare=spare)
        if isinstance(reply, ReplyError):
            raise reply
        return reply

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
        """Run a blocking command on a connection of its own; see `IO.block`."""
        if stop.is_set():
            return None
        words = operation.words(keys, args)
        asking: str | None = None
        for redirects in count():
            try:
                reply = self._block_once((ahead, words), keys, asking, wait, stop)
            except Fault as error:
                self.failed(keys, error)
                telemetry.failed(self.counts, operation, error)
                if not error.ambiguous:
                    raise Unavailable(f"{operation.name}: {error}") from error
                text = f"{operation.name}: {error}; what it may have received is still pending"
                raise OutcomeUnknown(text) from error
            if not isinstance(reply, ReplyError):
                return reply
            self.failed(keys, reply)
            if reply.code == "UNBLOCKED":
                return None
            if reply.code not in REDIRECTS or redirects == REDIRECTS_MAX:
                raise as_public(reply, operation.name)
            asking = reply.target if reply.code == "ASK" else None
        raise AssertionError  # the loop has no other end

    def _block_once(
        self, lines: Sequence[Sequence[Any]], keys: Sequence[str], asking: str | None, wait: float, stop: Signal
    ) -> Any:  # noqa: ANN401
        pool = self._blocking.pool(keys) if asking is None else self._blocking.at(asking)
        wire = pool.take(self._timeout)
        self._blocked.add(wire)
        leaving = False
        drop = stop.on_set(lambda: self._unblock(wire) if leaving else None)
        try:
            leaving = True
            if stop.is_set():
                return None
            limit = wait + BLOCK_GRACE_S
            # ASKING holds for the next command only.
            requests = [
                tuple(each) for line in lines if line for each in ((line,) if asking is None else (ASKING, line))
            ]
            replies = wire.exchange_many(requests, limit)
            return next((reply for reply in replies if isinstance(reply, ReplyError)), replies[-1])
        finally:
            drop()
            self._blocked.discard(wire)
            if wire.fault is not None:
                # While the server was blocking, silence was what it had been asked for.
                wire.unanswered_since = min(wire.unanswered_since + wait, time.monotonic())
            pool.give(wire)

    def _unblock(self, wire: BlockingWire) -> None:
        # Asking the server lets the blocked call end with a reply; only if that fails is the connection cut.  The call
        # may still be on its way when the server hears of it, so it is asked again.
        with contextlib.suppress(Fault, GridsyncError):
            pool = self._route.at(str(wire.endpoint))
            for _ in range(UNBLOCK_TRIES):
                words = ("CLIENT", "UNBLOCK", str(wire.id))
                if wire not in self._blocked or self._send(pool, words, self._timeout) == 1:
                    return
                time.sleep(UNBLOCK_PAUSE_S)
        wire.shutdown()

    def look(
        self, questions: Sequence[tuple[Any, ...]], keys: Sequence[str], timeout: float, age: float = 0.0
    ) -> tuple[Facts, Usage]:
        """Ask the server that holds *keys*, on a connection of its own; see `probe`.

        What was found at most *age* seconds ago is good enough; then only one thread asks, and the others wait for it.
        """
        pool = self._route.pool(keys)
        began = monotonic()

        def ask() -> tuple[Facts, Usage]:
            facts = probe(pool.endpoint, questions, max(began + timeout - monotonic(), LEAST_S))
            states = self._endpoint.server.guard.states()
            return facts, Usage(pool.open - pool.idle, pool.size, pool.waiting, states)

        if not age:
            return ask()
        if not self._looking.acquire(timeout=timeout):
            return late(pool.endpoint, timeout), Usage(pool.open - pool.idle, pool.size, pool.waiting)
        try:
            return self._recent.get(age) or self._recent.put(monotonic(), ask())
        finally:
            self._looking.release()

    def audit(self, item: Keep) -> None:
        """Let the watchdog ask for *item* too, a moment after the first lease is kept."""
        self._keeper.first = item

    def alive(self) -> bool:
        """Tell whether the watchdog does its work, and nobody has closed this."""
        return self._keeper.is_well

    def where(self, keys: Sequence[str]) -> Endpoint:
        """Return the server that a request for *keys* goes to, as far as is known."""
        return self._route.pool(keys).endpoint.known

    def stats(self) -> Stats:
        """Return what was counted, and what is going on now."""
        return self.counts.stats(
            leases=self._keeper.kept,
            ears=len(self._hub.ears),
            guard=self._endpoint.server.guard,
            copies=list(self.tracking.copies.values()),
        )

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them, one after the other."""
        results: list[T] = []
        for index, coroutine in enumerate(coroutines):
            try:
                results.append(await coroutine)
            except BaseException:
                for rest in coroutines[index + 1 :]:
                    rest.close()
                raise
        return results

    async def fan(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them at the same time, each but the last in a thread of its own."""
        return self._fan.run(coroutines)

    async def beside(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them at the same time, each but the last in a thread that is started for it."""
        return beside(coroutines)

    async def aside(self, work: Callable[[], T]) -> T:
        """Run *work*, now."""
        return work()

    async def sleep(self, seconds: float) -> None:
        """Block for *seconds*."""
        time.sleep(seconds)  # noqa: ASYNC251 - blocking is what this driver does

    def ear(self, token: str, channel: str) -> ThreadEar:
        """Return the ear of a waiter."""
        return ThreadEar(self._hub, token, channel)

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* to its end, now."""
        try:
            run_sync(coroutine)
        except Exception as error:  # noqa: BLE001 - nobody is there to take it
            cleanup_failed(error)

    def listen(self, token: str, channel: str, heard: Callable[[str], object]) -> Listening:
        """Call *heard* with each message for *token*, in the thread that reads them."""
        hub = self._hub
        return Listening(hub.ears, token, channel, heard, open_soon=self._open_soon, leave=hub.leave)

    def tap(self, channel: str, taken: Callable[[bytes], object], lost: Callable[[], object]) -> Tap:
        """Call *taken* with every message on *channel*; see `IO.tap`."""
        tap = Tap(channel, taken, lost, self._hub.untap)
        self._hub.ears.add(tap)
        return tap

    def _open_soon(self, channel: str) -> None:
        if channel not in self._opening:
            self._opening.add(channel)
            in_background(lambda: self._open(channel), "gridsync-subscriber")

    def _open(self, channel: str) -> None:
        # Whoever needs it asks again as long as it is not open.
        with contextlib.suppress(GridsyncError):
            self._hub.open(channel)
        self._opening.discard(channel)

    def signal(self) -> ThreadSignal:
        """Return a new switch."""
        return ThreadSignal()

    def scope(self) -> ThreadScope:
        """Return the block that the current thread is about to enter."""
        return ThreadScope()

    def here(self) -> object:
        """Return the current task, or the current thread where there is none."""
        return here()

    def over(self) -> bool:
        """Threads come and go; their world does not end."""
        return False

    def notify(self, callback: Callable[[], object]) -> None:
        """Call *callback* now."""
        call(callback)

    def _after_fork(self) -> None:
        self.token.renew()
        self._keeper.reset()
        self._fan.reset()
        self._hub.after_fork()
        self.tracking.after_fork()
        self._opening = set()
        self._moved = threading.Condition()
        self._looking = threading.Lock()
        for wire in self._blocked:
            wire.close()
        self._blocked.clear()


def _shut(blocked: set[BlockingWire], *steps: Callable[[], None]) -> None:
    for step in steps:
        step()
    for wire in list(blocked):
        wire.shutdown()


_drivers: weakref.WeakSet[SyncIO] = weakref.WeakSet()


def _reset_all() -> None:
    for driver in list(_drivers):
        driver._after_fork()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_reset_all)
