"""One channel in one process: what is published arrives here once, and is handed to every local subscriber.

States: *unknown* (no position yet) → *following* (each message is the one after the position) ⇄ *behind* (something was
missed, or may have been).  While it is behind, messages are held back, at most `HELD_MAX` of them.  Nobody works in the
background: the subscribers who wait for a message bring it up to date, one of them at a time.  They look at the server
when it is behind, and once in `CHECK_S` though nothing happened, since the last message before a silence may be lost.

Subscribing comes before looking: what is published from the confirmation on is heard, what was published before the
look is in the history, and offsets put the two together.  A subscription that breaks ends in *behind*.
"""

from __future__ import annotations

import logging
from collections import deque
from itertools import islice
from typing import TYPE_CHECKING, Any, Final
from weakref import WeakKeyDictionary, WeakValueDictionary

from gridsync._io import keys as key_names
from gridsync._io import load
from gridsync._io.mutex import Mutex
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.fanout._attendance import Attendance
from gridsync.fanout._message import Gap, Message, Position, heard, kept

if TYPE_CHECKING:
    from gridsync._io import IO, Ear
    from gridsync._io.ears import Tap
    from gridsync._io.keys import ChannelKeys
    from gridsync.fanout._message import Why
    from gridsync.fanout._subscriber import Subscriber

LOOK: Final = load("gridsync.fanout", "look")

LIFE_S: Final = 24 * 3600.0
"""How long a channel is remembered after the last publication, and the last look of a subscriber."""
CHECK_S: Final = 5.0
"""How often it is looked whether something was missed though nothing shows it: a lost message costs as much."""
AGAIN_S: Final = 1.0
"""How long it takes until it is tried again when the server did not answer."""
PAGE: Final = 200
"""How many messages of the history one look brings, and how many bytes it may be, but for the last."""
PAGE_BYTES: Final = 1 << 20
RECENT_MAX: Final = 100
"""How many messages are remembered for subscribers that come back at once."""
HELD_MAX: Final = 500
"""How many messages are held back while it is behind; what does not fit is in the history."""
_RECOVERED: Final = 0
_WHY: Final[dict[int, Why]] = {1: "epoch", 2: "history", 3: "epoch", 4: "token"}
"""What `look.lua` says of a position that it cannot go on from."""
_log = logging.getLogger("gridsync")


class Seen:
    """What a look brought."""

    __slots__ = ("messages", "now_ms", "top", "why")

    def __init__(self, since: Position | None, reply: list[Any]) -> None:
        """Read the *reply* to a look from *since*."""
        code, epoch, top, mark, self.now_ms, entries = reply
        self.top = Position(epoch.decode(), top, mark.decode())
        self.why: Why | None = None if code == _RECOVERED else _WHY[code]
        # The first publication follows the epoch, which is the mark of none.
        prev = "" if since is None else since.mark or since.epoch
        self.messages = kept(self.top.epoch, prev, entries)

    def gap(self, since: Position) -> Gap | None:
        """Return what is missing after *since*, if anything is."""
        if self.why is None:
            return None
        lost = self.top.offset - since.offset if self.why == "history" else None
        return Gap(lost, self.top, self.why)


class Station:
    """Hears one channel for all its subscribers in this process."""

    def __init__(self, io: IO, keys: ChannelKeys, life_ms: str) -> None:
        """Hear nothing yet."""
        self.io = io
        self.process: str = io.process_name
        self._keys = keys[:3]
        self.attendance: Attendance = Attendance(io, (keys.here, keys.about))
        self._life_ms = life_ms
        self.live: str = key_names.live(io.wake_prefix(keys.base), keys.base)
        self.mutex: Mutex = Mutex()
        self.position: Position | None = None
        self._behind = True
        self._held: deque[Message] = deque(maxlen=HELD_MAX)
        self._refreshing = False
        self._losses = 0
        """How often the subscription ended, so that one that ends during a look is noticed."""
        self._due = self._not_before = 0.0
        """When to look next though nothing happens, and when at the soonest if it is behind."""
        self._clock = 0, 0.0
        """The server's time in ms at the last look, and when that was asked for."""
        self._recent: deque[Message] = deque()
        self._recent_bytes = 0
        self._tap: Tap | None = None
        self._here: set[Subscriber] = set()
        self._waiting: dict[Subscriber, None] = {}
        """Who waits for a message: one of them with a timer, who guards the others, and all others without."""
        self._guard: Subscriber | None = None
        self._following: dict[Subscriber, None] = {}

    # -- who is here ------------------------------------------------------------------------------------------------

    def enter(self, subscriber: Subscriber) -> None:
        """Count *subscriber*, whose ear is on the channel."""
        with self.mutex:
            self._here.add(subscriber)
            if self._tap is None:
                self._behind = True
                self._tap = self.io.tap(self.live, self._take, self._lost)

    def leave(self, subscriber: Subscriber) -> None:
        """Forget *subscriber*, whose ear is closed; with the last one the subscription ends."""
        with self.mutex:
            self._here.discard(subscriber)
            self._following.pop(subscriber, None)
            if self._tap is not None and not self._here:
                # Before anybody enters again: there is one tap for a channel, and the next one must not be taken away.
                self._tap.close()
                self._tap = None
                self._held.clear()
                self._behind = True

    def follow(self, subscriber: Subscriber, cursor: Position | None) -> Position | None:
        """Hand what comes to *subscriber* from now on, who has read up to *cursor*; ``None`` if that leaves a hole.

        Without a cursor it begins here.  Who has read further than this station skips what it has.
        """
        with self.mutex:
            at = self.position
            if at is None or self._behind:
                return None
            if cursor is not None and (cursor.epoch != at.epoch or cursor.offset < at.offset):
                return None
            self._following[subscriber] = None
            return at

    def resume(self, subscriber: Subscriber, cursor: Position) -> list[Message] | None:
        """Do as `follow`, and return what came after *cursor*, if that is recent enough to be remembered here.

        So a thousand sockets that come back after a short cut do not ask the server a thousand times.
        """
        with self.mutex:
            at = self.position
            if at is None or self._behind:
                return None
            missed: list[Message] = []
            if cursor != at:
                recent = self._recent
                begin = cursor.offset + 1 - recent[0].offset if recent and cursor.epoch == at.epoch else -1
                if not 0 <= begin < len(recent) or recent[begin].prev != cursor.mark:
                    return None
                missed = list(islice(recent, begin, None))
            self._following[subscriber] = None
            return missed

    def unfollow(self, subscriber: Subscriber) -> None:
        """Hand it nothing more."""
        self._following.pop(subscriber, None)

    # -- what arrives -----------------------------------------------------------------------------------------------

    def _take(self, raw: bytes) -> None:
        message = heard(raw)
        if message is None:
            return
        with self.mutex:
            if self._behind:
                self._held.append(message)
            elif not self._hand_on(message):
                self._behind = True
                self._held.append(message)
                self._rouse()

    def _lost(self) -> None:
        with self.mutex:
            self._losses += 1
            self._behind = True
            self._rouse()

    def _hand_on(self, message: Message) -> bool:
        """Hand *message* to all if it is the next one; true also if it is an old one."""
        at = self.position
        if at is None or message.epoch != at.epoch:
            return False
        if message.offset <= at.offset:
            return True
        if message.offset != at.offset + 1 or message.prev != at.mark:
            return False
        self.position = message.position
        self._remember(message)
        for subscriber in list(self._following):
            subscriber.put(message)
        return True

    def _remember(self, message: Message) -> None:
        recent = self._recent
        recent.append(message)
        self._recent_bytes += len(message.data)
        while len(recent) > RECENT_MAX or self._recent_bytes > PAGE_BYTES:
            self._recent_bytes -= len(recent.popleft().data)

    def _rouse(self) -> None:
        """Wake one who waits, to bring this up to date, or to guard."""
        one = self._guard or next(iter(self._waiting), None)
        if one is not None:
            one.wake()

    # -- waiting ----------------------------------------------------------------------------------------------------

    def wait(self, subscriber: Subscriber) -> bool:
        """Take note that *subscriber* waits; true if it is the one who guards.  Called with the mutex held.

        A timer costs as much as a message, so of a thousand who wait one has a timer.
        """
        self._waiting[subscriber] = None
        if self._guard is None:
            self._guard = subscriber
        return self._guard is subscriber

    def woken(self, subscriber: Subscriber) -> None:
        """Take note that it waits no more.  Called with the mutex held."""
        self._waiting.pop(subscriber, None)
        if self._guard is subscriber:
            self._guard = None

    def wakened(self, subscriber: Subscriber) -> None:
        """Take note that it goes on, whatever it was that woke it; if nobody guards those who wait, one of them will.

        Whoever goes on may be cancelled, or read no more: it is not to be relied on.
        """
        with self.mutex:
            self.woken(subscriber)
            if self._guard is None:
                self._rouse()

    # -- looking ----------------------------------------------------------------------------------------------------

    @property
    def behind(self) -> bool:
        """Whether something may be missing here, or nothing is known yet."""
        return self._behind

    def rest(self, now: float) -> float:
        """Return how long a subscriber may wait before it has to `refresh`, in seconds; 0 for now."""
        if self._refreshing:
            return CHECK_S  # whoever does it wakes those who depend on it
        return max(0.0, (self._not_before if self._behind else self._due) - now)

    async def refresh(self, ear: Ear, *, patient: bool = True) -> None:
        """Bring this up to date, unless another subscriber does; *ear* is the caller's.

        Raises:
            Unavailable: The server is away, for a caller who is not *patient*.
        """
        with self.mutex:
            if self._refreshing:
                return
            self._refreshing = True
        try:
            losses = self._losses
            await ear.open()
            since = self.position
            seen = await self.look(since)
            with self.mutex:
                self._settle(seen, since, losses)
        except (Unavailable, OutcomeUnknown) as error:
            if not patient:
                raise
            _log.warning("the channel %r is not heard at the moment: %s", self.live, error)
            self._behind = True
            self._not_before = self.io.monotonic() + AGAIN_S
        finally:
            with self.mutex:
                self._refreshing = False
                for subscriber in self._here:
                    if subscriber not in self._following:
                        subscriber.wake()
                if self._behind:
                    self._rouse()

    async def look(self, since: Position | None, until_ms: int = 0) -> Seen:
        """Ask the server how far the channel is, and for what came after *since*."""
        at = since or Position("", 0, "")
        asked_at, known = self.io.monotonic(), self.position
        args = (self.io.token(), self._life_ms, at.epoch, str(at.offset), at.mark)
        reply = await self.io.run(LOOK, self._keys, (*args, str(PAGE), str(PAGE_BYTES), str(until_ms)))
        seen = Seen(since, reply)
        self._clock = seen.now_ms, asked_at
        if known is not None and (seen.top.epoch != known.epoch or seen.top.offset < known.offset):
            # Nobody may have told us: the channel began anew.
            self._behind = True
        return seen

    def server_ms(self) -> int:
        """Return the server's time, as far as it is known from the last look."""
        now_ms, asked_at = self._clock
        return now_ms + int((self.io.monotonic() - asked_at) * 1000)

    def _settle(self, seen: Seen, since: Position | None, losses: int) -> None:
        if since is None:
            self.position = seen.top
        elif seen.why is not None:
            self._recent.clear()
            self._recent_bytes = 0
            self.position = seen.top
            for subscriber in list(self._following):
                subscriber.put(Gap(None, seen.top, seen.why))
        else:
            for message in seen.messages:
                self._hand_on(message)
        held = list(self._held)
        self._held.clear()
        at = self.position
        whole = at is not None and (at.epoch != seen.top.epoch or at.offset >= seen.top.offset)
        for message in held:
            whole = self._hand_on(message) and whole
        self._behind = not whole or losses != self._losses
        self._due, self._not_before = self.io.monotonic() + CHECK_S, 0.0


_stations: WeakKeyDictionary[IO, WeakValueDictionary[tuple[str, str], Station]] = WeakKeyDictionary()
_meeting: Final = Mutex()


def station_of(io: IO, keys: ChannelKeys, life_ms: str) -> Station:
    """Return the station of a channel: one in each process, which all of its subscribers share."""
    with _meeting:
        stations = _stations.setdefault(io, WeakValueDictionary())
        # The child of a fork hears nothing of what its parent hears.
        who = (io.process_name, keys.base)
        found = stations.get(who)
        if found is None:
            found = stations[who] = Station(io, keys, life_ms)
        return found
