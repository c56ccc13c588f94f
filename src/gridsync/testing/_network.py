"""The simulated server, and connections that break, dawdle and deliver late.

A connection is two one-way pipes that keep their order.  Each end learns of a break on its own: what the client holds
for lost may still be in a socket buffer and be applied later, and that is the point.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Any, NamedTuple

from gridsync._io.wire.faults import Fault
from gridsync.testing._scheduler import Promise, Timer
from gridsync.testing.engine import Engine, ReplyError, Status
from gridsync.testing.engine._base import COMMANDS
from gridsync.testing.engine._resp3 import as_resp3

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from gridsync.testing._scheduler import Scheduler
    from gridsync.testing.faults import Faults

    Words = tuple[Any, ...]
    Log = Callable[[str, str], None]

EPOCH_US = 1_767_225_600_000_000
"""Where the server's wall clock starts: 2026-01-01."""
_BLOCKING = frozenset({b"XREAD", b"XREADGROUP"})


class Weather:
    """Draws faults and delays from the seed."""

    def __init__(self, faults: Faults, random: random.Random, clock: Callable[[], int]) -> None:
        """Take the chances."""
        self.faults = faults
        self._random = random
        self._clock = clock
        self.script: deque[str] = deque()
        """Fates of the next requests, in order, before chance decides again."""

    def fate(self) -> str:
        """Draw what happens to one request."""
        if self.script:
            return self.script.popleft()
        if self.calm():
            return "fine"
        draw = self._random.random()
        for name in ("request_lost", "reply_lost", "late", "slow"):
            chance: float = getattr(self.faults, name)
            if draw < chance:
                return name
            draw -= chance
        return "fine"

    def chance(self, probability: float) -> bool:
        """Draw yes or no."""
        return probability > 0 and not self.calm() and self._random.random() < probability

    def heads(self) -> bool:
        """Toss a coin."""
        return self._random.random() < 0.5  # noqa: PLR2004 - even odds

    def calm(self) -> bool:
        """Tell whether the bad weather is over."""
        return self._clock() >= self.faults.calm_after_s * 1e6

    def latency_us(self) -> int:
        """Draw how long one way takes."""
        low, high = self.faults.latency_s
        return int(self._random.uniform(low, high) * 1e6) + 1

    def up_to_us(self, seconds: float) -> int:
        """Draw a time of at most *seconds*."""
        return int(self._random.uniform(0, seconds) * 1e6) + 1


class Call(NamedTuple):
    """A command that the server has run."""

    at_us: int
    """The server's wall clock, in microseconds."""
    process: str
    words: list[bytes]
    """As sent; scripts by their digest."""
    reply: Any


class Blocked:
    """A client that waits for an entry."""

    def __init__(self, connection: Connection, words: list[bytes], answer: Callable[[Any], None], end: Timer) -> None:
        """Remember what to try again."""
        self.connection = connection
        self.words = words
        self.answer = answer
        self.end = end
        self.keys = frozenset(COMMANDS[words[0].upper()].keys(words[1:]))


class Server:
    """The one server of a simulation."""

    def __init__(self, scheduler: Scheduler, weather: Weather, log: Log, drift_ppm: int, *, strict: bool) -> None:
        """Start empty and up."""
        self._scheduler = scheduler
        self._weather = weather
        self._log = log
        self._drift_ppm = drift_ppm
        self._jump_us = 0
        self.up = True
        self.connections: list[Connection] = []
        self.watchers: list[Callable[[Call], None]] = []
        self.engine = Engine(self.now_us, self._publish, strict=strict)
        self._blocked: list[Blocked] = []

    def now_us(self) -> int:
        """Return the server's wall clock, in microseconds."""
        now = self._scheduler.now_us
        return EPOCH_US + now + now * self._drift_ppm // 1_000_000 + self._jump_us

    def jump(self, us: int) -> None:
        """Set the wall clock forward or back."""
        self._jump_us += us

    def stop(self, *, lose_data: bool) -> None:
        """Go away: connections break, scripts are forgotten."""
        self.up = False
        for connection in list(self.connections):
            connection.break_both()
        self._blocked.clear()
        self.engine.forget_scripts()
        if lose_data:
            self.engine.forget_data()

    def execute(self, connection: Connection, words: Words, answer: Callable[[Any], None]) -> None:
        """Run one command and hand over the reply, now or when a blocked read gets its entry."""
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        name = encoded[0].upper()
        if name == b"SUBSCRIBE":
            connection.channels.add(encoded[1])
            answer([b"subscribe", encoded[1], len(connection.channels)])
            return
        reply = self._reply(connection, encoded)
        block_ms = _block_ms(encoded) if name in _BLOCKING and reply is None else None
        if block_ms is None:
            answer(reply)
        else:
            end_us = self._scheduler.now_us + block_ms * 1000 if block_ms else 1 << 62
            blocked = Blocked(connection, encoded, answer, self._scheduler.at(end_us, lambda: self.end(connection)))
            self._blocked.append(blocked)
        self._wake()

    def _reply(self, connection: Connection, words: list[bytes]) -> Any:  # noqa: ANN401
        try:
            reply = plain(as_resp3(words, self.engine.execute(*words)))
        except ReplyError as error:
            reply = error
        for look in self.watchers:
            look(Call(self.now_us(), connection.owner, words, reply))
        return reply

    def _wake(self) -> None:
        touched = self.engine.data.touched
        while touched:
            written = set(touched)
            touched.clear()
            for blocked in list(self._blocked):
                if blocked.keys & written and blocked in self._blocked:
                    reply = self._reply(blocked.connection, blocked.words)
                    if reply is not None:
                        self._release(blocked, reply)

    def _release(self, blocked: Blocked, reply: Any) -> None:  # noqa: ANN401
        self._blocked.remove(blocked)
        blocked.end.cancel()
        blocked.answer(reply)

    def unblock(self, connection: Connection) -> bool:
        """Answer nil to a blocked client, as its timeout or ``CLIENT UNBLOCK`` does; false if it is not blocked."""
        for blocked in self._blocked:
            if blocked.connection is connection:
                self._release(blocked, None)
                return True
        return False

    def end(self, connection: Connection) -> None:
        """Let a blocked read run into its timeout."""
        self.unblock(connection)

    def forget(self, connection: Connection) -> None:
        """Take note that a connection is gone."""
        if connection in self.connections:
            self.connections.remove(connection)
        self._blocked = [blocked for blocked in self._blocked if blocked.connection is not connection]

    def _publish(self, channel: bytes, message: bytes) -> int:
        heard = [connection for connection in self.connections if channel in connection.channels]
        faults = self._weather.faults
        for connection in heard:
            if self._weather.chance(faults.message_lost):
                continue
            for _ in range(1 + self._weather.chance(faults.message_doubled)):
                late = self._weather.chance(faults.message_late)
                wait = self._weather.up_to_us(faults.message_late_s) if late else 0
                connection.push([b"message", channel, message], wait)
        return len(heard)


def _block_ms(words: list[bytes]) -> int | None:
    upper = [word.upper() for word in words]
    options = upper[: upper.index(b"STREAMS")]
    return int(words[options.index(b"BLOCK") + 1]) if b"BLOCK" in options else None


def plain(reply: Any) -> Any:  # noqa: ANN401
    """Return what a parser makes of a reply: a status is a string like any other."""
    if isinstance(reply, Status):
        return bytes(reply)
    if isinstance(reply, list):
        return [plain(item) for item in reply]
    return reply


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
        self.open = True
        """What the client believes."""
        self.last_read_us = scheduler.now_us
        self.channels: set[bytes] = set()
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

    def _pushed(self, message: list[Any]) -> None:
        if self.open and self._on_push is not None:
            self._on_push(message)

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
