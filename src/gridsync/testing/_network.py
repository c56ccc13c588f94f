"""Connections that break, dawdle and deliver late.

A connection is two one-way pipes that keep their order.  Each end learns of a break on its own: what the client holds
for lost may still be in a socket buffer and be applied later, and that is the point.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.testing._scheduler import Promise

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing._scheduler import Scheduler
    from gridsync.testing._server import Server
    from gridsync.testing._weather import Weather

    Words = tuple[Any, ...]
    Log = Callable[[str, str], None]


class Connection:
    """One connection between a process and the server; it never comes back once it broke."""

    def __init__(
        self,
        scheduler: Scheduler,
        server: Server,
        weather: Weather,
        log: Log,
        *,
        owner: str,
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[], None] | None = None,
    ) -> None:
        """Use `connect` of the process instead."""
        self._scheduler = scheduler
        self._server = server
        self._weather = weather
        self._log = log
        self.owner = owner
        self.open: bool = True
        """What the client believes."""
        self.last_read_us: int = scheduler.now_us
        self.channels: set[bytes] = set()
        self.prefixes: tuple[bytes, ...] = ()
        """Of the keys whose changes the client wants to be told of."""
        self._served = True
        """Whether the server still reads from it."""
        self._inflight: list[Promise[Any]] = []
        self._there_us = 0
        self._back_us = 0
        self._on_push = on_push
        self._on_lost = on_lost
        server.connections.append(self)

    def send(self, words: Words) -> Promise[Any]:
        """Send a request; the promise gets its reply, or fails with `Fault` or `ReplyError`."""
        promise: Promise[Any] = Promise()
        if not self.open:
            promise.fail(Fault("the connection broke", applied=False))
            return promise
        self._inflight.append(promise)
        fate = self._weather.fate()
        faults = self._weather.faults
        wait = self._weather.latency_us()
        if fate == "slow" and self._weather.heads():
            wait += self._weather.up_to_us(faults.slow_s)
            fate = "fine"
        if fate != "fine":
            self._log(self.owner, f"fault: {fate}")
        if fate == "late":
            self._scheduler.at(self._scheduler.now_us + wait, self.break_client)
            wait += self._weather.up_to_us(faults.late_s)
        self._there_us = max(self._scheduler.now_us + wait, self._there_us)
        self._scheduler.at(self._there_us, lambda: self._arrive(words, promise, fate))
        return promise

    def _arrive(self, words: Words, promise: Promise[Any], fate: str) -> None:
        if not self._served or not self._server.up:
            return
        if fate == "request_lost":
            self.break_both()
            return
        self._log(self.owner, f"server: {_short(words)}")
        extra = self._weather.up_to_us(self._weather.faults.slow_s) if fate == "slow" else 0
        if fate == "reply_lost":
            self._server.execute(self, words, lambda reply: self._log(self.owner, f"  reply lost: {reply!r:.120}"))
            self.break_both()
        else:
            self._server.execute(self, words, lambda reply: self._answer(reply, promise, extra))

    def _answer(self, reply: Any, promise: Promise[Any], extra_us: int) -> None:  # noqa: ANN401
        self._log(self.owner, f"  replies {reply!r:.120}")
        when = self._scheduler.now_us + self._weather.latency_us() + extra_us
        self._back_us = max(when, self._back_us)
        self._scheduler.at(self._back_us, lambda: self._deliver(reply, promise))

    def _deliver(self, reply: Any, promise: Promise[Any]) -> None:  # noqa: ANN401
        if not self.open:
            return
        self.last_read_us = self._scheduler.now_us
        self._inflight.remove(promise)
        if isinstance(reply, ReplyError):
            promise.fail(reply)
        else:
            promise.set(reply)

    def push(self, message: list[Any], wait_us: int) -> None:
        """Let the server say something unasked."""
        when = self._scheduler.now_us + self._weather.latency_us() + wait_us
        self._scheduler.at(when, lambda: self._pushed(message))

    def push_in_line(self, message: list[Any]) -> None:
        """Let the server say something unasked, after what it has said before."""
        self._back_us = max(self._scheduler.now_us + self._weather.latency_us(), self._back_us)
        self._scheduler.at(self._back_us, lambda: self._pushed(message))

    def _pushed(self, message: list[Any]) -> None:
        if self.open and self._on_push is not None:
            self._on_push(message)

    def leads_to(self, server: Server) -> bool:
        """Tell whether it is a connection to *server*."""
        return self._server is server

    def break_both(self) -> None:
        """Break it for the server now and for the client a moment later: what did not arrive yet never will."""
        self._served = False
        self._server.forget(self)
        self._scheduler.at(self._scheduler.now_us + self._weather.latency_us(), self.break_client)

    def break_client(self) -> None:
        """Break it for the client: everything under way is ambiguous, and what was sent may still arrive."""
        if not self.open:
            return
        self.open = False
        inflight, self._inflight = self._inflight, []
        # The server reads what is in the pipe, and then learns that the peer is gone.
        end = max(self._there_us, self._scheduler.now_us + self._weather.latency_us())
        self._scheduler.at(end, self._hang_up)
        for promise in inflight:
            promise.fail(Fault("the connection broke", applied=True))
        if self._on_lost is not None:
            self._on_lost()

    def _hang_up(self) -> None:
        self._served = False
        self._server.forget(self)


def _short(words: Words) -> str:
    return " ".join(str(word) if len(str(word)) < 60 else f"{str(word)[:8]}…" for word in words)  # noqa: PLR2004
