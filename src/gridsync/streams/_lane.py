"""Lanes: one partition of a store on its way into its mirror.

A lane reads the source's log as every reader does, in pages that prove that they go on where the last one ended, and
writes each page with the checkpoint of its last event in one script (`mirror.lua`).  The mirror alone knows how far it
has got: a lane that comes new begins there, and a page that was written before, by whomever, is found to be there.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load
from gridsync.errors import Diverged, InvalidEvent, Promoted, Truncated, Unavailable, UsageError
from gridsync.streams._core import RECENT
from gridsync.streams._pages import PAGE, is_hole, mark_of, number
from gridsync.streams._retention import Keeping
from gridsync.streams._sites import fence, introduce, look

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.streams._core import StoreCore
    from gridsync.streams._sites import Seen

FOLLOW: Final = load("gridsync.streams", "follow")
MIRROR: Final = load("gridsync.streams", "mirror")
CARRY: Final = load("gridsync.streams", "carry")

PAGE_MIN: Final = 50
PAGE_MAX: Final = 1000
PAGE_BYTES: Final = 2**20
"""What a page brings about, in bytes of payload: as many events as that is, between the least and the most."""
_GAP: Final = 1
_OTHER: Final = 2
_NO_MIRROR: Final = 3
_SAME: Final = 1
_ANOTHERS: Final = 2
_ITS_OWN: Final = 3
_TAIL: Final = 4
_FIELDS: Final = [b"i", b"s", b"v", b"t", b"d", b"w"]


class Lane:
    """One partition of the source, and the same one of the target."""

    def __init__(self, source: StoreCore[Any], target: StoreCore[Any]) -> None:
        """Nothing is sent."""
        self.source = source
        self.target = target
        self.size = PAGE
        """How many events the next page is to bring."""
        self.at = "0"
        """The checkpoint of the last event that is surely in the mirror."""
        self.begun = False
        self.again = source.io.signal()
        """Ends the present session, so that another one begins where the mirror is."""
        self.epoch = 0
        """The epoch of the source."""
        self.moved = 0
        self._site = ""
        self._token = source.io.token()
        self._carried: dict[bytes, bytes] = {}
        self._own = ""
        self._keeping = Keeping(source.io, source.keys, source.name)

    @property
    def reader(self) -> str:
        """The name under which the source knows this mirror."""
        return reader_name(self._own)

    async def begin(self, _core: StoreCore[Any]) -> str:
        """Make the target the mirror, if it is not, and return the checkpoint up to where it is one.

        Raises:
            UsageError: It cannot be the mirror of this source.
            Diverged: The target has events that this source does not have.
        """
        source, target = self.source, self.target
        self._site = await introduce(source)
        there, here = await look(source), await look(target)
        self.epoch = there.epoch
        last = await self._common(here)
        keys = target.keys
        touched = (keys.meta, keys.log, keys.mirror, keys.readers, keys.floors)
        words = (self._site, str(there.epoch), target.io.token(), last, reader_name(self._site))
        # A lost reply may mean that it is one now: the repeat finds it so.
        reply = await target.io.run(FOLLOW, touched, words)
        if reply[0]:
            raise self._refused(reply)
        self.at, self._own = reply[1].decode(), reply[2].decode()
        # Before the first page, so that nothing goes from under it.
        await self.hold()
        self.begun = True
        return self.at

    async def _common(self, here: Seen) -> str:
        """Return the checkpoint of the target's last event, if it was fenced and the source has that event."""
        if here.role not in ("fenced", "superseded") or here.newest == "0":
            return "0"
        found = await self.source.log_pages(start=here.position, end=here.position).next()
        return here.newest if found and mark_of(found[0]).checkpoint() == here.newest else "0"

    async def hold(self) -> None:
        """Let the source keep what the mirror does not have, for as long as it takes."""
        await self._keeping.note(self.reader, "replicator", 0.0, self.at)

    async def carry(self, groups: dict[bytes, bytes]) -> None:
        """Note at the mirror how far groups of the source have got, so that they go on there when it is promoted."""
        if groups == self._carried:
            return
        known = [(name, note.split()) for name, note in groups.items()]
        words = [word for name, note in known if note[2:] != [b"expired"] for word in (name, note[0])]
        keys = self.target.keys
        # One that comes late is older: a group would begin earlier, and never too late.
        await self.target.io.run(CARRY, (keys.meta, keys.log, keys.mirror, keys.floors), (self._site, *words))
        self._carried = groups

    async def apply(self, entries: Sequence[Any]) -> None:
        """Write the entries of a page that follows what was written last.

        Raises:
            Promoted: The target takes events of its own.
            Diverged: Other events stand there.
            Unavailable: The target has lost what it had; it is to be begun again.
        """
        target, streams, words, size = self.target, dict[bytes, int](), list[bytes | str](), 0
        for entry in entries:
            flat = entry[1]
            if is_hole(entry):
                # Its place crosses, so that positions and versions stay the same on both sides.
                flat = [b"i", b"", b"s", flat[1], b"v", flat[3], b"t", b"", b"d", b"", b"w", b""]
            if flat[:12:2] != _FIELDS:
                raise self._unreadable(entry)
            event_id, stream, version, kind, data, time = flat[1:12:2]
            more = flat[12:]
            place = streams.setdefault(stream, len(streams) + 1)
            words += (str(place), version, event_id, kind, data, time, str(len(more)), *more)
            size += len(data)
        before, after = self._before(entries), mark_of(entries[-1]).checkpoint()
        keys = target.keys
        touched = (keys.meta, keys.versions, keys.log, keys.recent, keys.mirror, keys.erased, keys.holes)
        named = (keys.stream(stream.decode()) for stream in streams)
        head = (str(RECENT), target.mode, self._site, str(self.epoch), before, after)
        # A lost reply may mean written: the repeat finds these events there.
        code, position = await target.io.run(MIRROR, (*touched, *named), (*head, *streams, *words))
        if code:
            raise await self._stopped(code, position)
        self.moved += number(entries[-1]) - int(self.at.partition(":")[0])
        self.at = after
        self.size = max(PAGE_MIN, min(PAGE_MAX, PAGE_BYTES * len(entries) // max(size, 1)))
        if not is_hole(entries[-1]):
            target.io.tally("stream.mirrored", target.name, float(entries[-1][1][11]))

    def _before(self, entries: Sequence[Any]) -> str:
        """Return the checkpoint that this page follows: pages are written one after the other."""
        if int(self.at.partition(":")[0]) + 1 != number(entries[0]):
            raise Unavailable(f"{self.target.log_name} is at {self.at!r}, and {number(entries[0])} was to be written")
        return self.at

    def report(self, behind: int | None, since_us: int = 0) -> None:
        """Tell whoever measures how many events have not crossed, and since when; ``None`` when nobody looks."""
        who = (self.source.name, self.source.partition, self._token)
        self.source.io.report("mirror", who, None if behind is None else (behind, since_us if behind else 0))

    async def fence(self, epoch: int) -> None:
        """Let the source take no more events, for its mirror does, in a newer epoch."""
        await fence((self.source,), epoch)

    async def _stopped(self, code: int, position: int) -> Exception:
        """Return the error for a page that was not written."""
        name = self.target.log_name
        if code == _GAP:
            return Unavailable(f"{name} ends at {position}: a failover has lost what it had; it is read again")
        if code == _OTHER:
            return Diverged(
                f"{name}: at {position} stands another event than at the source: they are two histories; compare them "
                "with gridsync divergence, and let the one that is to go on be mirrored",
                name=name,
                checkpoint=self.at,
            )
        return await self.promoted()

    async def promoted(self) -> Exception:
        """Return the error for a target that is no mirror of this source any more."""
        here = await look(self.target)
        if here.role == "mirror" and here.mirrors == self._site:
            return Diverged(
                f"{self.target.log_name} mirrors epoch {here.mirrors_epoch} of this store, and the source is in "
                f"{self.epoch}: a failover or a restore has brought an older one back; nothing was written",
                name=self.target.log_name,
                checkpoint=self.at,
            )
        return Promoted(
            f"{self.target.log_name} is no mirror of this store any more, it is {here.role} in epoch {here.epoch}: "
            "nothing was written, and the source was fenced if it could be reached and is in an older epoch; "
            "gridsync divergence tells what it has that never crossed",
            name=self.target.name,
            fence=here.epoch,
            reason="promoted",
        )

    def _refused(self, reply: Sequence[Any]) -> Exception:
        name, code = self.target.log_name, reply[0]
        if code == _SAME:
            return UsageError(
                f"{name} is to mirror itself: both sides are the same store, or one is a copy of the other's keys; "
                "give the URLs of two servers"
            )
        if code == _ANOTHERS:
            return UsageError(f"{name} mirrors another store already; promote it, or use another target")
        if code == _ITS_OWN:
            return UsageError(
                f"{name} has {reply[1]} events and is no mirror, which begins empty; if it was the primary before, "
                "fence it, compare it with gridsync divergence, and begin again"
            )
        if code == _TAIL:
            return Diverged(
                f"{name} was fenced and ends at {reply[1]} with an event that the source does not have: what never "
                "crossed must be set aside before it can be a mirror; see gridsync divergence --set-aside",
                name=name,
                checkpoint=str(reply[1]),
            )
        return Diverged(
            f"{name} is in epoch {reply[1]} and the source in {self.epoch}: the source is the older side, which is "
            "fenced and mirrors the newer one",
            name=name,
            checkpoint=self.at,
        )

    def _unreadable(self, entry: Any) -> Exception:  # noqa: ANN401
        fields = entry[1][::2]
        if b"d" not in fields and b"s" in fields:
            return Truncated(
                f"{self.source.log_name}: the payload of event {number(entry)} is in no stream any more, so it cannot "
                "cross; restore it, or begin a new mirror behind it",
                name=self.source.log_name,
                first=number(entry) + 1,
            )
        return InvalidEvent(f"entry {entry[0]!r} of {self.source.log_name} was not written by gridsync")


def reader_name(site: str) -> str:
    """Return the name under which a store knows the mirror of that name."""
    return f"mirror {site}"
