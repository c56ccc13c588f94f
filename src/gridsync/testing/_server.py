"""The simulated server: the engine, and what surrounds it in a real one: a clock, blocked readers, subscribers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine import Engine, Status
from gridsync.testing.engine._base import COMMANDS
from gridsync.testing.engine._resp3 import as_resp3

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing._network import Connection
    from gridsync.testing._scheduler import Scheduler, Timer
    from gridsync.testing._weather import Weather

    Words = tuple[Any, ...]

EPOCH_US = 1_767_225_600_000_000
"""Where the server's wall clock starts: 2026-01-01."""
TURN_S = 0.0003
"""How long one turn of the server's loop takes at most."""
_BLOCKING = frozenset({b"XREAD", b"XREADGROUP"})


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
    """One server of a simulation."""

    def __init__(self, scheduler: Scheduler, weather: Weather, drift_ppm: int, *, strict: bool, name: str) -> None:
        """Start empty and up."""
        self._scheduler = scheduler
        self._weather = weather
        self._drift_ppm = drift_ppm
        self._jump_us = 0
        self.up: bool = True
        self.connections: list[Connection] = []
        self.watchers: list[Callable[[Call], None]] = []
        self.engine: Engine = Engine(self.now_us, self._publish, self._listeners, strict=strict, name=name)
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
        self.engine.restart()
        if lose_data:
            self.engine.forget_data()

    def start(self) -> None:
        """Come back."""
        self.up = True

    def execute(self, connection: Connection, words: Words, answer: Callable[[Any], None]) -> None:
        """Run one command and hand over the reply, now or when a blocked read gets its entry."""
        encoded = [word if isinstance(word, bytes) else str(word).encode() for word in words]
        name = encoded[0].upper()
        if name == b"SUBSCRIBE":
            connection.channels.add(encoded[1])
            answer([b"subscribe", encoded[1], len(connection.channels)])
            return
        if name == b"CLIENT":
            # CLIENT TRACKING ON BCAST PREFIX … PREFIX …
            connection.prefixes += tuple(encoded[5::2])
            answer(b"OK")
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
            self._tell(written)
            for blocked in list(self._blocked):
                if blocked.keys & written and blocked in self._blocked:
                    reply = self._reply(blocked.connection, blocked.words)
                    if reply is not None:
                        self._release(blocked, reply)

    def _tell(self, written: set[bytes]) -> None:
        """Tell of changed keys who wants to be told, at the end of a turn: what is asked in it is answered before."""
        if any(connection.prefixes for connection in self.connections):
            turn_us = self._scheduler.now_us + self._weather.up_to_us(TURN_S)
            self._scheduler.at(turn_us, lambda: self._told(sorted(written)))

    def _told(self, written: list[bytes]) -> None:
        for connection in list(self.connections):
            for prefix in connection.prefixes:
                names = [name for name in written if name.startswith(prefix)]
                if names:
                    connection.push_in_line([b"invalidate", names])

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

    def _listeners(self, channel: bytes) -> int:
        return sum(channel in connection.channels for connection in self.connections)

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
