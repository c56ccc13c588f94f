"""SimIO: the third driver.  Virtual time, the shipped retry layer, one multiplexed connection per process.

It follows AsyncIO where the two could differ: calls on a connection keep their order, an overdue request keeps its
place, a peer that is silent for a whole command timeout counts as dead, a broken hub wakes every ear.
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._io.counts import Counts
from gridsync._io.ears import Tap
from gridsync._io.guard import Guard
from gridsync._io.keys import PROCESS_CHARS, wake_prefix
from gridsync._io.listening import Listening
from gridsync._io.retry import TooLate, recover, spare_s
from gridsync._io.wire.faults import Fault, ReplyError, as_public
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable
from gridsync.testing._scheduler import Promise
from gridsync.testing._tracking import SimTracking
from gridsync.testing._waiting import Hub, SimEar, SimScope, SimSignal
from gridsync.testing._watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import IO, Arg, Keep, ReadFrom, Reporting, Signal
    from gridsync._io.budget import Budget
    from gridsync._io.scripts import Bound, Operation
    from gridsync.testing._network import Connection
    from gridsync.testing._process import Process
    from gridsync.testing._scheduler import Task
    from gridsync.testing._server import Server

T = TypeVar("T")
BLOCK_GRACE_S = 0.5
UNBLOCK_TRIES = 50
UNBLOCK_PAUSE_S = 0.01
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


def _name(coroutine: Coroutine[Any, Any, Any]) -> str:
    return getattr(coroutine, "__qualname__", "work")


class SimIO:
    """Everything a core may ask of the world, for the tasks of one simulated process."""

    def __init__(self, process: Process, server: Server, *, timeout: float) -> None:
        """Open nothing yet.

        Args:
            process: Where it lives.
            server: What it talks to.
            timeout: The command timeout, in seconds.
        """
        self.process = process
        self.server = server
        self.timeout = timeout
        self.counts: Counts = Counts()
        self.decisions: Callable[[str], list[int]] = self.counts.decisions
        self.report: Callable[[Reporting, tuple[str, int, str], Sequence[int] | None], None] = self.counts.report
        self._scheduler = process.scheduler
        self._hub = Hub(self)
        self.hears: Callable[[object], bool] = self._hub.ears.heard.__contains__
        self.wake: Callable[[str, bytes], None] = self._hub.ears.hear
        self.tracking: SimTracking = SimTracking(self)
        self._opening: set[str] = set()
        self._main: Connection | None = None
        self.endpoint = "the server"
        self.answered: int = 0
        """How many requests were answered so far."""
        self._guard = Guard(clock=process.monotonic)
        self._guard.timeout_s = timeout
        self.budget: Budget = self._guard.budget
        self._breaker = self._guard.breaker(self)
        self._connecting: Promise[Connection] | None = None
        self._watchdog = Watchdog(self)
        random = process.random
        self._prefix = "".join(random.choice(_DIGITS) for _ in range(PROCESS_CHARS))
        self._tokens = 0

    # -- commands ---------------------------------------------------------------------------------------------------

    async def run(
        self,
        operation: Operation | Bound,
        keys: Sequence[str],
        args: Sequence[Any] = (),
        *,
        timeout: float | None = None,
    ) -> Any:  # noqa: ANN401
        """Run a script or command; see `IO.run`."""
        self._must_live()
        whole, keys, args = operation.whole(keys, args)
        operation = self.process.scripts.get(whole.name, whole)
        limit = self.timeout if timeout is None else timeout
        started = self.monotonic()
        await self.breathe()
        try:
            words = operation.words(tuple(keys), tuple(args))
            return await self.attempt(words, keys, started + limit, spare=spare_s(limit))
        except (Fault, ReplyError) as error:
            failure = error
        return await recover(self, operation, keys, args, failure=failure, started=started, deadline=started + limit)

    def read(
        self,
        operation: Operation,
        keys: Sequence[str],
        args: Sequence[Arg] = (),
        *,
        read_from: ReadFrom,  # noqa: ARG002 - there is one server
        timeout: float | None = None,
    ) -> Coroutine[Any, Any, Any]:
        """Run it on the only server, as a replica that is never behind."""
        return self.run(operation, keys, args, timeout=timeout)

    async def attempt(
        self,
        words: tuple[Any, ...],
        keys: Sequence[object],  # noqa: ARG002 - there is one server
        deadline: float,
        asking: str | None = None,  # noqa: ARG002 - as above
        spare: float = 0.0,
    ) -> Any:  # noqa: ANN401
        """Send *words* once, for `recover`; *deadline* is on the clock of `monotonic`."""
        self._must_live()
        began = self.monotonic()
        connection = await self._connected(deadline)
        if deadline - self.monotonic() < spare:
            raise TooLate
        sent = connection.send(words)
        if not await self.settled(sent, deadline - self.monotonic()):
            silent_s = (self._scheduler.now_us - connection.last_read_us) / 1e6
            overdue = Fault("the server did not answer in time", applied=True)
            self._breaker.failed(max(began, self.monotonic() - silent_s), str(overdue))
            if silent_s >= self.timeout:
                connection.break_client()
            raise overdue
        try:
            reply = sent.result()
        except Fault as fault:
            if fault.ambiguous:
                self._breaker.failed(began, str(fault))
            raise
        self.answered += 1
        return reply

    def failed(self, keys: Sequence[object], error: Exception) -> None:
        """There is one server, and it stays where it is."""

    async def _connected(self, deadline: float) -> Connection:
        if self._main is not None and self._main.open:
            return self._main
        connecting = self._connecting
        if connecting is not None:
            self._breaker.check()
        else:
            self._breaker.admit()
            connecting = self._connecting = Promise()
            self.process.start(self._connect(connecting), "connect")
        if not await self.settled(connecting, deadline - self.monotonic()):
            raise Fault("no connection in time", applied=False)
        return connecting.result()

    async def _connect(self, connecting: Promise[Connection]) -> None:
        began = self.monotonic()
        try:
            self._main = await self.process.connect(self.server)
        except Fault as error:
            self._connecting = None
            connecting.fail(self._breaker.judged(error, began))
        else:
            self._connecting = None
            self._breaker.connected()
            connecting.set(self._main)

    def retreat(self) -> None:
        """Give up the connection: the breaker has opened."""
        connection, self._main = self._main, None
        if connection is not None:
            connection.break_client()

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
        self._must_live()
        if stop.is_set():
            return None
        await self.breathe()
        try:
            connection = await self.process.connect(self.server)
        except Fault as error:
            raise Unavailable(str(error)) from error
        if stop.is_set():
            connection.break_client()
            return None
        drop = stop.on_set(lambda: self.spawn(self._unblock(connection)))
        try:
            first = connection.send(tuple(ahead)) if ahead else None
            sent = connection.send(operation.words(tuple(keys), tuple(args)))
            if first is not None and await self.settled(first, wait + BLOCK_GRACE_S):
                first.result()
            if not await self.settled(sent, wait + BLOCK_GRACE_S):
                raise OutcomeUnknown(f"{operation.name}: no answer; what it may have received is still pending")
            return sent.result()
        except Fault as error:
            if not error.ambiguous:
                raise Unavailable(f"{operation.name}: {error}") from error
            raise OutcomeUnknown(f"{operation.name}: {error}; what it may have received is still pending") from error
        except ReplyError as error:
            raise as_public(error, operation.name) from error
        finally:
            drop()
            connection.break_client()

    async def _unblock(self, connection: Connection) -> None:
        # The call may still be on its way when the server hears of it, so it is asked again.
        for _ in range(UNBLOCK_TRIES):
            if not connection.open or await self._ask_to_unblock(connection):
                return
            await self.sleep(UNBLOCK_PAUSE_S)
        connection.break_client()

    def _ask_to_unblock(self, connection: Connection) -> Promise[bool]:
        answer: Promise[bool] = Promise()
        self.process.after_latency(lambda: answer.set(self.server.unblock(connection)))
        return answer

    # -- tasks and time ---------------------------------------------------------------------------------------------

    async def gather(self, *coroutines: Coroutine[Any, Any, T]) -> list[T]:
        """Run all of them side by side."""
        tasks = [self.process.start(coroutine, _name(coroutine)) for coroutine in coroutines]
        failed: list[Task] = []

        def ended(task: Task) -> None:
            if task.error is not None or task.cancelled:
                failed.append(task)
                for other in tasks:
                    other.cancel()

        for task in tasks:
            task.finished.when_done(lambda task=task: ended(task))  # type: ignore[misc] # bound now
        try:
            for task in tasks:
                await self._ended(task)
        except asyncio.CancelledError:
            for task in tasks:
                task.cancel()
            for task in tasks:
                await self._ended(task)
            raise
        for task in failed:
            if task.error is not None:
                raise task.error
        return [task.finished.result() for task in tasks]

    fan = gather
    beside = gather

    @staticmethod
    async def _ended(task: Task) -> None:
        gate: Promise[None] = Promise()
        task.finished.when_done(lambda: gate.set(None))
        await gate

    async def aside(self, work: Callable[[], T]) -> T:
        """Run *work*, now."""
        return work()

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* of this process's clock pass."""
        self._must_live()
        await self.settled(Promise(), seconds)

    async def settled(self, promise: Promise[Any], timeout: float | None) -> bool:
        """Wait for *promise*, at most *timeout* seconds of this process's clock; true if it is settled."""
        until = 1 << 62 if timeout is None else self._scheduler.now_us + self.process.true_us(max(timeout, 0))
        return await self._scheduler.wait(promise, until)

    async def breathe(self) -> None:
        """Let others run, so that a pause can fall between the look at the clock and the sending."""
        gate: Promise[None] = Promise()
        self._scheduler.at(self._scheduler.now_us, lambda: gate.set(None))
        await gate

    def spawn(self, coroutine: Coroutine[Any, Any, Any]) -> None:
        """Run *coroutine* to its end in a task that nobody cancels."""
        if not self.process.alive:
            coroutine.close()
            return
        task = self.process.start(coroutine, f"clean-up {_name(coroutine)}")
        task.finished.when_done(lambda: self.ended_badly(task))

    def ended_badly(self, task: Task) -> None:
        """Log what a task of the driver's own raised; what no driver may raise fails the run."""
        if task.error is not None:
            self.process.log(f"{task.name} failed: {task.error!r}")
            if not isinstance(task.error, GridsyncError):
                self.process.unexpected(task)

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wake_prefix(self, tag: str) -> str:
        """Return what a script needs to wake the waiters of *tag*; there is one server."""
        return wake_prefix(tag)

    def together(self, keys: Sequence[str]) -> bool:  # noqa: ARG002 - there is one server
        """Tell that one script may touch all of *keys*."""
        return True

    def ear(self, token: str, channel: str) -> SimEar:
        """Return the ear of a waiter."""
        return SimEar(self._hub, token, channel)

    def tally(self, what: str, name: str = "", value: float = 1.0) -> None:  # noqa: ARG002 - only counted
        """Count that *what* happened to *name*."""
        self.counts.add(what, name)

    def listen(self, token: str, channel: str, heard: Callable[[str], object]) -> Listening:
        """Call *heard* with each message for *token*."""
        return Listening(self._hub.ears, token, channel, heard, open_soon=self._open_soon, leave=lambda _channel: None)

    def tap(self, channel: str, taken: Callable[[bytes], object], lost: Callable[[], object]) -> Tap:
        """Call *taken* with every message on *channel*."""
        tap = Tap(channel, taken, lost, self._hub.untap)
        self._hub.ears.add(tap)
        return tap

    def _open_soon(self, channel: str) -> None:
        if channel not in self._opening:
            self._opening.add(channel)
            self.spawn(self._open(channel))

    async def _open(self, channel: str) -> None:
        with contextlib.suppress(GridsyncError):
            await self._hub.open(channel)
        self._opening.discard(channel)

    def signal(self) -> SimSignal:
        """Return a new switch."""
        return SimSignal(self)

    def scope(self) -> SimScope:
        """Return the block that the running task is about to enter."""
        return SimScope(self)

    def here(self) -> object:
        """Return the running task."""
        return self._scheduler.running

    def over(self) -> bool:
        """A process that was killed is not asked any more."""
        return False

    def notify(self, callback: Callable[[], object]) -> None:
        """Call *callback* now; what it raises fails the run."""
        callback()

    def keep(self, item: Keep) -> None:
        """Renew *item* when it is due, until it ends or is taken back."""
        self._must_live()
        self._watchdog.keep(item)

    def unkeep(self, item: Keep) -> None:
        """Take *item* back."""
        self._watchdog.unkeep(item)

    # -- the rest ---------------------------------------------------------------------------------------------------

    def monotonic(self) -> float:
        """Return seconds on this process's clock, which starts anywhere and drifts."""
        self._must_live()
        return self.process.monotonic()

    def who(self) -> str:
        """Return the process's name in the place of its host."""
        return f"{self.process.name}\t0\t"

    def token(self) -> str:
        """Return a new identifier."""
        self._tokens += 1
        return f"{self._prefix}{self._tokens:x}"

    @property
    def process_name(self) -> str:
        """What every `token` begins with."""
        return self._prefix

    def note(self, kind: str, **facts: Any) -> None:  # noqa: ANN401 - whatever the checker wants to know
        """Write a line of history: what this process saw or did at this moment."""
        self._must_live()
        self.process.note(kind, facts)

    def _must_live(self) -> None:
        # A killed program does nothing more, also not in the ``finally`` blocks that Python runs when it is dropped.
        if not self.process.alive:
            raise GeneratorExit


if TYPE_CHECKING:

    def _is_an_io(io: SimIO) -> IO:
        """Let the type checker compare it with the contract."""
        return io
