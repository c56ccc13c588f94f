"""What a simulated process is told of changed keys: in virtual time what `gridsync._io.tracking` does in a thread."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

from gridsync._io.ears import PAUSE_S
from gridsync._io.links import Line, Refused, invalidated
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.testing._scheduler import Promise

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync._io.copies import Copies
    from gridsync._io.links import Link, Watcher
    from gridsync.testing._network import Connection
    from gridsync.testing._simio import SimIO


class SimTracking:
    """Who is told which keys have changed on one server."""

    def __init__(self, io: SimIO) -> None:
        """Connect to nothing until somebody reads."""
        self._io = io
        self.copies: dict[str, Copies] = {}
        self.refused = ""
        self.turns = 0
        self._line: Line | None = None
        self._not_before = 0.0

    def watchers(self) -> Iterable[Watcher]:
        """Return who is told."""
        return list(self.copies.values())

    def link(self, name: str, watcher: Watcher) -> Link | None:
        """Return the link to the server; ``None`` if there is none yet, which is seen to."""
        if self._line is not None:
            self._line.witness = name
            return self._line.links.get(watcher)
        if self._io.monotonic() >= self._not_before:
            line = self._line = Line(self.watchers, now=self._io.monotonic(), timeout=self._io.timeout)
            line.witness = name
            self._io.process.start(self._run(line), "near")
        return None

    async def _run(self, line: Line) -> None:
        gone: Promise[None] = Promise()
        connection: Connection | None = None
        try:
            connection = await self._io.process.connect(
                self._io.server, partial(_told, line), lambda: self._lost(line, gone)
            )
            while connection.open:
                now = self._io.monotonic()
                for words in line.requests(now):
                    sent = connection.send(words)
                    sent.when_done(partial(_answered, line, connection, sent))
                await self._io.settled(gone, line.rest(now))
        except Fault as error:
            self._io.process.log(f"near: {error}")
        finally:
            if connection is not None:
                connection.break_client()
            self._lost(line, gone)

    def _lost(self, line: Line, gone: Promise[None]) -> None:
        line.lose()
        gone.set(None)
        if self._line is line:
            self._line = None
            self._not_before = self._io.process.monotonic() + PAUSE_S


def _told(line: Line, push: list[Any]) -> None:
    told, names = invalidated(push)
    if told:
        line.told(names)


def _answered(line: Line, connection: Connection, sent: Promise[Any]) -> None:
    try:
        line.answered(sent.result())
    except (Fault, ReplyError, Refused):
        connection.break_client()
