"""One subscriber: what it has read, what waits for it, and where the rest is.

It reads the history by pages until it has caught up with its station, and follows that from then on.  In between
nothing waits for it, so a client that resumes from far behind costs one page of memory.  By the offsets of what it
takes out of its queue it sees what was dropped there.
"""

from __future__ import annotations

from collections import deque
from math import inf
from typing import TYPE_CHECKING, Final

from gridsync._units import seconds
from gridsync.errors import TooSlow, UsageError
from gridsync.fanout._mailbox import KINDS
from gridsync.fanout._message import Gap, Message, Position

if TYPE_CHECKING:
    from gridsync._io import Ear
    from gridsync._units import Seconds
    from gridsync.fanout._mailbox import OnFull
    from gridsync.fanout._message import Item
    from gridsync.fanout._station import Seen, Station
    from gridsync.fanout._token import Resume, Signer

LEAST_S: Final = 0.001
NOWHERE: Final = Position("", 0, "")


class Subscriber:
    """Reads one channel, for one client."""

    def __init__(
        self,
        station: Station,
        name: str,
        *,
        queue: int,
        on_full: OnFull,
        resume: Resume | None,
        asked: bool,
        signer: Signer,
        member: str | None,
        about: str,
    ) -> None:
        """Read nothing yet; *asked* to resume without *resume* means that the token was none."""
        self._signer = signer
        self._member, self._about = member, about
        self._station = station
        self._io = station.io
        self._name = name
        self._size = queue
        self._box = KINDS[on_full](queue)
        self._resume = resume
        self._asked = asked
        self._pages: deque[Item] = deque()
        self._next: Message | None = None
        self._ear: Ear | None = None
        self._follows = False
        self._waiting = False
        """Whether it waits for somebody to wake it."""
        self._slow = False
        self.position: Position = NOWHERE
        """What was read last."""
        self._cursor: Position | None = None
        """What was read of the history last."""
        self.recovered: bool | None = None

    # -- coming and going -------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Be there: what is published from now on will be read, and what was missed if it can be."""
        if self._ear is not None:
            raise UsageError(f"this subscription to {self._name!r} was entered before; make a new one")
        station, io = self._station, self._io
        token = io.token()
        ear = self._ear = io.ear(token, station.live)
        station.enter(self)
        try:
            await ear.open()
            if self._resume is not None:
                await self._come_back(*self._resume)
            else:
                await self._begin(ear)
            if self._member is not None:
                await station.attendance.come(self._member, self._about)
        except BaseException:
            self.close()
            raise

    async def _begin(self, ear: Ear) -> None:
        """Begin where the channel is now."""
        station = self._station
        while (at := station.follow(self, None)) is None:
            await self._settle_station(ear, patient=False)
        self.position = at
        self._follows = True
        if self._asked:
            self.recovered = False
            self._pages.append(Gap(None, at, "token"))

    async def _come_back(self, cursor: Position, until_ms: int) -> None:
        """Read what came after *cursor*."""
        station = self._station
        self.position = self._cursor = cursor
        fresh = not until_ms or station.server_ms() < until_ms
        missed = station.resume(self, cursor) if fresh else None
        if missed is not None:
            self._pages.extend(missed)
            self._follows = self.recovered = True
            return
        seen = await station.look(cursor, until_ms)
        self._read(seen)
        self.recovered = seen.why is None

    def close(self) -> None:
        """Be gone; safe to call twice."""
        ear, self._ear = self._ear, None
        if ear is not None:
            ear.wake()
            ear.close()
            self._station.leave(self)
            if self._member is not None:
                # If it cannot be told, it is known within the time that a member counts without renewal.
                self._io.spawn(self._station.attendance.go(self._member))

    def token(self, item: Item | None, expires: Seconds | None) -> str:
        """Return a resume token for the position of *item*, or for what was read last."""
        position = self.position if item is None else item.position
        if expires is None:
            return self._signer.sign(position, 0)
        wait = seconds(expires, "expires", least=LEAST_S)
        return self._signer.sign(position, self._station.server_ms() + round(wait * 1000))

    @property
    def closed(self) -> bool:
        """Whether it was opened and closed again."""
        return self._ear is None

    # -- reading ----------------------------------------------------------------------------------------------------

    async def next(self, timeout: float | None) -> Item | None:
        """Return what comes next; ``None`` if nothing did in *timeout* seconds, or it was closed.

        Cancelled at any moment it has taken nothing that it does not return.
        """
        io, station = self._io, self._station
        until = inf if timeout is None else io.monotonic() + timeout
        while True:
            with station.mutex:
                item = self._take()
                if item is not None:
                    self.position = item.position
                    if isinstance(item, Gap):
                        io.tally("channel.gap")  # not by name: there may be a channel for each user
                    return item
                ear = self._ear
                if ear is None:
                    return None
                # From here on whoever has something for us wakes us.
                self._waiting = True
                guard = self._follows and station.wait(self)
            try:
                if self._slow:
                    raise self._too_slow()
                if not self._follows:
                    await self._catch_up(ear)
                elif guard or until < inf:
                    now = io.monotonic()
                    rest = station.rest(now) if guard else inf
                    if rest <= 0:
                        await station.refresh(ear)
                    elif now < until:
                        await ear.wait(min(rest, until - now))
                    else:
                        return None
                else:
                    await ear.wait(inf)
            finally:
                station.wakened(self)

    def _too_slow(self) -> TooSlow:
        return TooSlow(
            f"the channel {self._name!r} published more than {self._size} messages that this subscriber did not read; "
            f"it has read up to {self.position.offset}: subscribe anew after that",
            name=self._name,
            position=self.position,
        )

    def _take(self) -> Item | None:
        if self._pages:
            return self._pages.popleft()
        while True:
            item = self._next or self._box.pop()
            self._next = None
            # What follows from what was read last is the next one; that is nearly always so.
            if item is None or (isinstance(item, Message) and item.prev == self.position.mark):
                return item
            gap = self._judged(item)
            if gap is not None:
                return gap

    def _judged(self, item: Item) -> Item | None:
        """Return *item*, or the gap before it; ``None`` if it was read before."""
        at = self.position
        same = item.position.epoch == at.epoch
        if isinstance(item, Gap):
            missed = item.position.offset - at.offset
            if item.why != "history" or not same:
                return item
            return Gap(missed, item.position, item.why) if missed > 0 else None
        if same and item.offset <= at.offset:
            return None
        self._next = item
        before = Position(item.epoch, item.offset - 1, item.prev)
        if same and item.offset > at.offset + 1:
            return Gap(item.offset - at.offset - 1, before, self._box.why)
        return Gap(None, before, "epoch")

    async def _catch_up(self, ear: Ear) -> None:
        """Follow the station, or read one more page of the history."""
        cursor, station = self._cursor, self._station
        if station.follow(self, cursor) is not None:
            self._follows = True
        elif station.behind:
            await self._settle_station(ear)
        else:
            self._read(await station.look(cursor))

    async def _settle_station(self, ear: Ear, *, patient: bool = True) -> None:
        rest = self._station.rest(self._io.monotonic())
        with self._station.mutex:
            self._waiting = True
        if rest <= 0:
            await self._station.refresh(ear, patient=patient)
        else:
            await ear.wait(rest)

    def _read(self, seen: Seen) -> None:
        cursor = self._cursor or NOWHERE
        gap = seen.gap(cursor)
        if gap is not None:
            self._pages.append(gap)
            self._cursor = gap.position
        elif seen.messages:
            self._pages.extend(seen.messages)
            self._cursor = seen.messages[-1].position

    # -- what the station does --------------------------------------------------------------------------------------

    def put(self, item: Item) -> None:
        """Take *item*; called with the station's mutex held, where the connection is read."""
        if not self._box.put(item):
            self._slow = True
            self._station.unfollow(self)
        if self._waiting:
            self.wake()

    def wake(self) -> bool:
        """Wake the reader if it waits; true if so.  Called with the station's mutex held."""
        if not self._waiting or self._ear is None:
            return False
        self._waiting = False
        self._station.woken(self)
        self._ear.wake()
        return True
