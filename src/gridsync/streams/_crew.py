"""Crew: one consumer of a store in several partitions, which is a session for each of them.

The sessions know nothing of each other, so a node that is away stops its own partitions only.  What they share is how
many handlers run at once (`_turns.py`), and with threads whose thread it is that runs them (`Desk`).
"""

from __future__ import annotations

from collections import deque
from contextvars import copy_context
from dataclasses import astuple, dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridsync._io import run_sync
from gridsync.streams._away import patiently
from gridsync.streams._model import E
from gridsync.streams._settling import Consumed

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence
    from contextvars import Context

    from gridsync._io import IO, Signal
    from gridsync.streams._consumer import Session
    from gridsync.streams._directory import Directory

T = TypeVar("T")


class Crew(Generic[E]):
    """Sessions that are begun and ended together."""

    def __init__(self, io: IO, directory: Directory, stop: Signal) -> None:
        """Nothing is sent."""
        self._io = io
        self._directory = directory
        self._stop = stop
        self.halt = io.signal()
        """What every session is stopped by."""
        self._broken: list[Exception] = []

    async def run(self, sessions: Sequence[Session[E]], desk: Desk | None = None) -> Consumed:
        """Run all of them to their end; if one breaks, the others end as if they had been stopped."""
        drop = self._stop.on_set(self.halt.set)
        try:
            await patiently(self._stop, "the directory of a store", self._directory.open)
            working = [self._work(session, desk) for session in sessions]
            done = await self._io.beside(*working, *(() if desk is None else (desk.serve(),)))
        finally:
            self.halt.set()
            drop()
        if self._broken:
            raise self._broken[0]
        return Consumed(*(sum(column) for column in zip(*(astuple(each) for each in done if each), strict=True)))

    async def _work(self, session: Session[E], desk: Desk | None) -> Consumed | None:
        try:
            return await session.run()
        except Exception as error:  # noqa: BLE001 - raised when the others have ended
            self._broken.append(error)
            self.halt.set()
            return None
        finally:
            if desk is not None:
                desk.left()


@dataclass(slots=True)
class _Call:
    work: Callable[[], None]
    context: Context
    done: Signal
    error: BaseException | None = None


class Desk:
    """Where the threads of several sessions hand over what the caller's own thread is to do, one after the other.

    A handler sees the thread that called `consume`, and never another handler beside it, however many partitions
    there are.
    """

    def __init__(self, io: IO, sessions: int, halt: Signal) -> None:
        """Serve so many; an interrupt of the caller's thread throws *halt*."""
        self._io = io
        self._halt = halt
        self._calls: deque[_Call] = deque()
        self._arrived = io.signal()
        self._left: deque[None] = deque(maxlen=sessions)
        self._sessions = sessions
        self._closed: BaseException | None = None

    def done_by(self, work: Callable[[T], Coroutine[Any, Any, None]]) -> Callable[[T], Coroutine[Any, Any, None]]:
        """Return *work* as what is handed over; the caller waits until it is done."""

        async def hand_over(what: T) -> None:
            call = _Call(lambda: run_sync(work(what)), copy_context(), self._io.signal())
            self._calls.append(call)
            # Read after the call was put there: who set up this signal looks there afterwards.
            self._arrived.set()
            if self._closed is not None:
                raise self._closed
            await call.done.wait()
            if call.error is not None:
                raise call.error

        return hand_over

    def left(self) -> None:
        """Say that a session has ended; from its thread."""
        self._left.append(None)
        self._arrived.set()

    async def serve(self) -> None:
        """Do what is handed over until all sessions have ended."""
        try:
            while True:
                self._arrived = self._io.signal()
                over = len(self._left) == self._sessions
                while self._calls:
                    self._do(self._calls.popleft())
                if over:
                    return
                await self._arrived.wait()
        except BaseException as error:
            # An interrupt, here or in a handler: nothing that waits is begun any more.
            self._closed = error
            self._halt.set()
            while self._calls:
                self._settle(self._calls.popleft(), error)
            raise

    def _do(self, call: _Call) -> None:
        error: BaseException | None = None
        try:
            call.context.run(call.work)
        except Exception as raised:  # noqa: BLE001 - it is the session's
            error = raised
        except BaseException as raised:
            self._settle(call, raised)
            raise
        self._settle(call, error)

    @staticmethod
    def _settle(call: _Call, error: BaseException | None) -> None:
        call.error = error
        call.done.set()
