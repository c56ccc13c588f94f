"""Aside: what is done with a delivery that failed, and how it comes back; one script each.

Redis structures: the entry stays in the group's pending list, under the consumer ``~parked``, which no claim touches;
a sorted set says when it is due, a hash what is known about it, and a second sorted set holds what waits behind it.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gridsync._io import load
from gridsync.streams._failures import described

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync._io.keys import EventKeys

BEGIN: Final = load("gridsync.streams", "begin")
PARK: Final = load("gridsync.streams", "park")
BURY: Final = load("gridsync.streams", "bury")
DUE: Final = load("gridsync.streams", "due")
_CHANCES: Final = 2**48


class Setback(NamedTuple):
    """What the server keeps about a failed delivery."""

    first_ms: int
    last_ms: int
    attempts: int
    """When the last failure was noted; 0 if it is a dead letter that was given back."""
    consumer: str
    kind: str
    trace: str
    text: str

    @classmethod
    def read(cls, record: bytes) -> Setback:
        """Read what `park.lua` and `replay.lua` write."""
        first, last, attempts, size, rest = record.split(b" ", 4)
        end = int(size)
        kind, trace, text = rest[end + 1 :].decode(errors="replace").split("\n", 2)
        return cls(int(first), int(last), int(attempts), rest[:end].decode(errors="replace"), kind, trace, text)


class Aside:
    """The scripts for failed deliveries, as one consumer of one group calls them."""

    def __init__(self, io: IO, keys: EventKeys, group: str, consumer: str) -> None:
        """Nothing is sent."""
        self._io = io
        self._head = (group, consumer)
        log, retry, failed, waiting = keys.log, keys.retry(group), keys.failed(group), keys.waiting(group)
        self.settling = (log, retry, failed, waiting)
        """The keys of every script that takes a delivery off the pending list."""
        self._beginning = (log, failed, waiting)
        self._burying = (*self.settling, keys.dead(group))

    def chance(self) -> float:
        """Return a number drawn evenly from 0 to 1: of a new token, whose hash is as good as a die."""
        return int.from_bytes(hashlib.blake2b(self._io.token().encode(), digest_size=6).digest()) / _CHANCES

    async def begin(self, entry_id: bytes, attempts: int, stream: bytes) -> tuple[int, str]:
        """Return 1 to begin, 0 if it waits behind another, -1 if it was lost; and the trace of its last attempt."""
        # A repeat sets the same count.
        code, record = await self._io.run(BEGIN, self._beginning, (*self._head, entry_id, str(attempts), stream))
        return code, Setback.read(record).trace if record else ""

    async def park(  # noqa: PLR0917 - one argument per fact that is noted
        self, entry_id: bytes, error: Exception, attempts: int, delay_ms: int, stream: bytes, trace: str
    ) -> tuple[int, int]:
        """Put a delivery aside; returns -1 if it was another's, and after how many ms it is due."""
        kind, text = described(error)
        # A repeat finds what is noted about this attempt and gives the first answer.
        code, due_ms = await self._io.run(
            PARK,
            self.settling,
            (*self._head, entry_id, str(delay_ms), str(attempts), stream, f"{kind}\n{trace}\n{text}"),
        )
        return code, due_ms

    async def bury(self, entry: Any, error: Exception, attempts: int, trace: str) -> int:  # noqa: ANN401
        """Make a delivery a dead letter; returns -1 if it was another's."""
        kind, text = described(error)
        # A repeat finds nothing pending, which is the same success.
        code: int = await self._io.run(
            BURY, self._burying, (*self._head, entry[0], str(attempts), kind, trace, text, *entry[1])
        )
        return code

    async def due(self, count: int) -> tuple[float | None, Any, Any]:
        """Take what is due; returns the seconds until the next, entries with their attempts, and ids without event."""
        # Never repeated: what a lost reply delivered is found in this consumer's pending list.
        next_ms, entries, gone = await self._io.run(DUE, self.settling, (*self._head, str(count)))
        return None if next_ms < 0 else next_ms / 1000, entries, gone
