"""Dead letters: what a group has given up, kept with its cause until somebody replays or discards it.

Redis structure: a stream per group; an entry holds eight facts and then the event's own fields, as it was delivered.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command, load
from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._joining import join

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import IO
    from gridsync._io.keys import EventKeys

REPLAY: Final = load("gridsync.streams", "replay")
_LIST: Final = Command("streams.dead", Category.READ, ("XRANGE",))
_LAST: Final = Command("streams.dead_last", Category.READ, ("XREVRANGE",))
_COUNT: Final = Command("streams.dead_count", Category.READ, ("XLEN",))
_DISCARD: Final = Command("streams.discard", Category.IDEMPOTENT, ("XDEL",))

PAGE: Final = 100
"""Letters that one read brings at most."""
_FACTS: Final = 16
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_RATE_MIN: Final = 0.001


@dataclass(frozen=True, slots=True)
class DeadLetter:
    """An event that its group has given up, and why."""

    id: str
    """Its id among the dead letters of the group; in several partitions it begins with the number of its own."""
    position: int
    """The event's position in the store, or in its partition."""
    stream: str
    """The event's stream; empty if the entry was not written by gridsync."""
    type: str
    """The type name it was stored under."""
    error: str
    """The class of the last error: ``module.Class``, or ``Class`` if it is built in."""
    text: str
    """What the last error said, at most 1000 characters."""
    attempts: int
    """How often it was begun."""
    first: datetime
    """When it failed first, on the server's clock, in UTC."""
    last: datetime
    """When it was given up."""
    consumer: str
    """Who gave it up."""
    trace: str
    """The W3C ``traceparent`` of the last attempt; empty without tracing."""
    raw: dict[bytes, bytes]
    """The event as it was delivered, also if it cannot be read: ``t`` type, ``d`` payload and so on."""
    partition: int = 0
    """The partition of the store that its stream is in, from 0."""


@dataclass(frozen=True, slots=True)
class Replayed:
    """What one `replay` did."""

    matched: int
    """Dead letters that were chosen; with ``dry_run`` that is all."""
    replayed: int
    """Those that were given back to the group."""
    gone: int
    """Those that somebody else had replayed or discarded meanwhile."""
    trimmed: int
    """Those whose event is no longer in the log: they stay dead letters."""


class Letters:
    """The dead letters of one group, for both worlds."""

    def __init__(self, io: IO, keys: EventKeys, store: str, group: str, *, from_now: bool = False) -> None:
        """Nothing is sent."""
        self.io = io
        self.name: str = f"{store}/{checked(group, 'the name of a consumer group')}"
        self._group = group
        self._from_now = from_now
        self._dead = keys.dead(group)
        aside = (keys.retry(group), keys.failed(group), keys.waiting(group))
        self._keys = keys
        self._replaying = (keys.log, aside[0], aside[1], self._dead)

    async def count(self) -> int:
        """Count the letters."""
        count: int = await self.io.run(_COUNT, (self._dead,))
        return count

    async def last(self) -> str:
        """Return the id of the newest letter; empty if there is none."""
        found = await self.io.run(_LAST, (self._dead,), ("+", "-", "COUNT", "1"))
        return found[0][0].decode() if found else ""

    async def page(self, after: str, until: str = "+") -> list[DeadLetter]:
        """Return the next letters after the id *after*, oldest first; none at the end."""
        found = await self.io.run(_LIST, (self._dead,), (f"({after}" if after else "-", until, "COUNT", str(PAGE)))
        return [_letter(entry) for entry in found]

    async def discard(self, letter_id: str) -> bool:
        """Delete a letter; false if it was not there."""
        # After a lost reply the repeat finds nothing: it may be told as not there, and is gone all the same.
        return bool(await self.io.run(_DISCARD, (self._dead,), (checked(letter_id, "the id of a dead letter"),)))

    async def replay(
        self, choose: Callable[[DeadLetter], object] | None, *, dry_run: bool, rate: float | None, limit: int | None
    ) -> Replayed:
        """Give letters back to the group, oldest first; see `DeadLetters.replay`."""
        if rate is not None and (isinstance(rate, bool) or not isinstance(rate, int | float) or not rate >= _RATE_MIN):
            raise UsageError(f"rate={rate!r} must be a number of events per second from {_RATE_MIN:g}")
        if limit is not None and (type(limit) is not int or limit < 0):
            raise UsageError(f"limit={limit!r} must be a whole number from 0, or None")
        matched, codes = 0, {1: 0, 0: 0, -1: 0}
        # What dies again meanwhile has a later id: each letter is replayed once.
        until, after = await self.last(), ""
        if until and not dry_run:
            await join(self.io, self._keys, self._group, from_now=self._from_now)
        due = self.io.monotonic()
        while until and (letters := await self.page(after, until)):
            after = letters[-1].id
            for letter in letters:
                if choose is not None and not choose(letter):
                    continue
                if limit is not None and matched >= limit:
                    return Replayed(matched, codes[1], codes[0], codes[-1])
                matched += 1
                if dry_run:
                    continue
                if rate is not None:
                    now = self.io.monotonic()
                    await self.io.sleep(max(0.0, due - now))
                    due = max(due, now) + 1 / rate
                # A repeat after a lost reply finds the mark of the first run and says the same.
                code = await self.io.run(REPLAY, self._replaying, (self._group, letter.id, f"{letter.position}-0"))
                codes[code] += 1
                if code > 0:
                    self.io.tally("stream.replayed", self.name)
        return Replayed(matched, codes[1], codes[0], codes[-1])


def _letter(entry: Any) -> DeadLetter:  # noqa: ANN401 - [id, [field, value, ...]]
    position, attempts, first, last, consumer, error, trace, text = entry[1][1:_FACTS:2]
    raw = dict(zip(entry[1][_FACTS::2], entry[1][_FACTS + 1 :: 2], strict=False))
    return DeadLetter(
        id=entry[0].decode(),
        position=int(position),
        stream=raw.get(b"s", b"").decode(errors="replace"),
        type=raw.get(b"t", b"").decode(errors="replace"),
        error=error.decode(errors="replace"),
        text=text.decode(errors="replace"),
        attempts=int(attempts),
        first=_EPOCH + timedelta(milliseconds=int(first)),
        last=_EPOCH + timedelta(milliseconds=int(last)),
        consumer=consumer.decode(errors="replace"),
        trace=trace.decode(errors="replace"),
        raw=raw,
    )
