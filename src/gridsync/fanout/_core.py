"""Why and when: the decisions of a fan-out channel, once for sync and asyncio.

A channel is a counter, a bounded history and a name that is published on, all changed by one script.  A message is what
was published and where it stands; the history is the truth, a message that arrives is a hint that comes with its
contents.

Failure points.  *A lost reply to a publication*: the repeat finds its id, and the first offset.  *A lost message*: the
next one does not follow, or the look that is due brings it.  *A subscription that breaks*: everything is looked at
anew.  *The state is gone* (deleted, expired, flushed): the script that comes next gives the channel another epoch.
*A failover that lost publications*: others take their offsets, with marks that do not follow from what was seen.

Invariants: a subscriber is given each publication at most once, in order, and each one that it is not given lies in a
gap that it is told of.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, get_args

from gridsync import _units
from gridsync._io import keys as key_names
from gridsync._io import load
from gridsync.errors import UsageError
from gridsync.fanout._mailbox import OnFull
from gridsync.fanout._message import Position
from gridsync.fanout._station import LIFE_S, station_of
from gridsync.fanout._subscriber import Subscriber
from gridsync.fanout._token import Resume, Signer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.fanout._station import Station

PUBLISH: Final = load("gridsync.fanout", "publish")
PRESENT: Final = load("gridsync.fanout", "present")

HISTORY_MAX: Final = 100_000
"""How many publications a channel may keep."""
PAYLOAD_BYTES_MAX: Final = 1 << 20
"""How large a payload may be."""
QUEUE_MAX: Final = 100_000
"""How many messages may wait for one subscriber."""
IDS_MIN: Final = 1000
"""How many ids are known at the least, however little history is kept."""
IDS_S_MIN: Final = 300.0
"""How long they are known at the least after the last publication, in seconds."""
KEEP_S_MAX: Final = 30 * 24 * 3600.0
LEAST_S: Final = 0.001
PRESENT_MAX: Final = 10_000
"""How many members one call tells."""
ABOUT_BYTES_MAX: Final = 4096


@dataclass(frozen=True, slots=True)
class Member:
    """Somebody who is present on a channel."""

    name: str
    """Who."""
    connection: str
    """Which of the subscriptions of that name; unique."""
    about: str
    """What it tells about itself."""


def _ms(seconds: float) -> str:
    return str(round(seconds * 1000))


class ChannelCore:
    """One channel: its keys, its publications and its subscribers in this process."""

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        history: int,
        keep: _units.Seconds,
        secrets: Sequence[str | bytes],
    ) -> None:
        """Send nothing."""
        self.io = io
        self.name = _units.name(name, "the name of a channel")
        self.history = _units.count(history, "history", HISTORY_MAX)
        self.keep_s = _units.seconds(keep, "keep", least=LEAST_S, most=KEEP_S_MAX)
        self._keys = key_names.channel(namespace, name)
        self.signer = Signer(f"{namespace}:{name}", secrets)
        self._life_ms = _ms(max(LIFE_S, 2 * self.keep_s))
        self._bounds = (
            *(str(self.history), _ms(self.keep_s)),
            *(str(max(self.history, IDS_MIN)), _ms(max(self.keep_s, IDS_S_MIN))),
        )
        self._station = station_of(io, self._keys, self._life_ms)

    @property
    def station(self) -> Station:
        """What hears this channel in this process; the child of a fork has one of its own."""
        if self._station.process != self.io.process_name:
            self._station = station_of(self.io, self._keys, self._life_ms)
        return self._station

    async def publish(self, payload: str | bytes, id: str | None, key: str | None) -> Position:  # noqa: A002
        """Publish, and return where it stands."""
        data = payload.encode() if isinstance(payload, str) else payload
        if not isinstance(data, bytes) or len(data) > PAYLOAD_BYTES_MAX:
            raise UsageError(f"a payload is text or bytes, at most {PAYLOAD_BYTES_MAX} of them, not {payload!r:.60}")
        token = self.io.token()
        name = token if id is None else _units.name(id, "the id of a publication")
        about = "" if key is None else _units.name(key, "the key of a publication")
        args = (token, self._life_ms, name, about, data, self.station.live, *self._bounds)
        _, epoch, offset, mark = await self.io.run(PUBLISH, self._keys[:3], args)
        return Position(epoch.decode(), offset, mark.decode())

    async def position(self) -> Position:
        """Return where the channel is."""
        return (await self.station.look(None)).top

    def subscriber(
        self, after: Position | str | None, *, queue: int, on_full: OnFull, member: str | None, about: str
    ) -> Subscriber:
        """Return who will read what comes *after* that."""
        if on_full not in get_args(OnFull):
            raise UsageError(f"on_full={on_full!r}: it must be one of {', '.join(map(repr, get_args(OnFull)))}")
        resume = Resume(after, 0) if isinstance(after, Position) else self.signer.read(after) if after else None
        return Subscriber(
            self.station,
            self.name,
            queue=_units.count(queue, "queue", QUEUE_MAX),
            on_full=on_full,
            resume=resume,
            asked=after is not None,
            signer=self.signer,
            member=self._member(member, about),
            about=about,
        )

    def _member(self, name: str | None, about: str) -> str | None:
        if name is None:
            return None
        if len(about.encode()) > ABOUT_BYTES_MAX:
            raise UsageError(f"about=… may have at most {ABOUT_BYTES_MAX} bytes")
        return f"{self.io.token()} {_units.name(name, 'the name of a member')}"

    async def present(self, limit: int) -> tuple[int, list[Member]]:
        """Return how many members are present, and who *limit* of them are."""
        count, words = await self.io.run(PRESENT, self._keys[3:5], (str(limit),))
        members = []
        for member, about in zip(words[::2], words[1::2], strict=True):
            connection, _, name = member.decode().partition(" ")
            members.append(Member(name, connection, about.decode()))
        return count, members

    async def presence(self, limit: int) -> list[Member]:
        """Return who is present."""
        return (await self.present(_units.count(limit, "limit", PRESENT_MAX)))[1]

    async def count(self) -> int:
        """Return how many members are present."""
        return (await self.present(0))[0]
