"""The watchdog of a simulated process: does in virtual time what `gridsync._io.keeper.Keeper` does in a thread."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io.keeper import TIMEOUT_MAX_S, TIMEOUT_MIN_S
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.testing._scheduler import Promise

if TYPE_CHECKING:
    from gridsync._io import Keep
    from gridsync.testing._network import Connection
    from gridsync.testing._simio import SimIO


class Watchdog:
    """Renews what is kept, on a connection of its own; a task that lives while something is kept."""

    def __init__(self, io: SimIO) -> None:
        """Start with nothing."""
        self._io = io
        self._kept: list[Keep] = []
        self._connection: Connection | None = None
        self._news: Promise[None] | None = None

    def keep(self, item: Keep) -> None:
        """Renew *item* when it is due, until it ends or is taken back."""
        self._kept.append(item)
        if self._news is None:
            self._news = Promise()
            task = self._io.process.start(self._watch(), "watchdog")
            task.finished.when_done(lambda: self._io.ended_badly(task))
        else:
            self._news.set(None)

    def unkeep(self, item: Keep) -> None:
        """Take *item* back."""
        self._kept = [kept for kept in self._kept if kept is not item]

    async def _watch(self) -> None:
        while self._kept:
            self._news = Promise()
            now = self._io.monotonic()
            rest = min(item.due for item in self._kept) - now
            if rest > 0:
                await self._io.settled(self._news, rest)
                continue
            await self._io.breathe()
            await self._renew_what_is_due(now)
        self._news = None

    async def _renew_what_is_due(self, now: float) -> None:
        """Do what `gridsync._io.keeper.Keeper` does in one turn."""
        items = list(self._kept)
        asked = []
        for item in items:
            if item.due > now:
                continue
            call = item.request(now)
            if call is None:
                self._settle(item, None, now)
            else:
                asked.append((item, (self._io.process.scripts.get(call[0].name, call[0]), *call[1:])))
        if not asked:
            return
        timeout = min(TIMEOUT_MAX_S, max(TIMEOUT_MIN_S, min(item.deadline for item in items) - now))
        try:
            if self._connection is None or not self._connection.open:
                self._connection = await self._io.process.connect(self._io.server)
            replies = await self._exchange([call for _, call in asked], self._connection, timeout)
        except Fault as error:
            replies = [error] * len(asked)
        for (item, _), reply in zip(asked, replies, strict=True):
            self._settle(item, reply, now)

    async def _exchange(self, calls: list[Any], connection: Connection, timeout: float) -> list[Any]:
        until = self._io.monotonic() + timeout
        sent = [connection.send(script.words(tuple(keys), tuple(args))) for script, keys, args in calls]
        replies = [await self._one(promise, until, connection) for promise in sent]
        for place, reply in enumerate(replies):
            if isinstance(reply, ReplyError) and reply.code == "NOSCRIPT":
                script, keys, args = calls[place]
                _loaded = connection.send(("SCRIPT", "LOAD", script.source))
                again = connection.send(script.words(tuple(keys), tuple(args)))
                replies[place] = await self._one(again, until, connection)
        return replies

    async def _one(self, promise: Promise[Any], until: float, connection: Connection) -> Any:  # noqa: ANN401
        if not await self._io.settled(promise, until - self._io.monotonic()):
            connection.break_client()
        try:
            return promise.result()
        except (Fault, ReplyError) as error:
            return error

    def _settle(self, item: Keep, reply: object, sent: float) -> None:
        if not item.settle(reply, sent):
            self.unkeep(item)
