"""Where the wake-ups of all waiters of a process arrive, for asyncio.  `hub.py` tells the states; this is its twin."""

from __future__ import annotations

import asyncio
import contextlib
from functools import partial
from math import inf
from typing import TYPE_CHECKING, Any

from gridsync._io.ears import BEGINS, ENDS, MESSAGES, Ears, Relay, pauses, subscription, unconfirmed
from gridsync._io.retry import REDIRECTS_MAX
from gridsync._io.wire import mux
from gridsync._io.wire.faults import REDIRECTS, Fault, ReplyError, as_public, is_transient
from gridsync._io.wire.place import leads_to
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Ear
    from gridsync._io.ears import Tap
    from gridsync._io.route import Topology
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.mux import MuxWire
    from gridsync._io.wire.place import Place


def see(future: asyncio.Future[None]) -> None:
    """Take note of how *future* ended, even if nobody waits for it any more."""
    if not future.cancelled():
        future.exception()


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)


class TaskEar:
    """Where one task hears its wake-ups."""

    __slots__ = ("_heard", "_hub", "_waiting", "_woken", "channel", "message", "token")

    def __init__(self, hub: AsyncHub, token: str, channel: str) -> None:
        """Register with *hub*."""
        self._hub = hub
        self.token = token
        self.channel = channel
        self.message = ""
        self._heard = ""
        self._woken = False
        self._waiting: asyncio.Future[None] | None = None
        hub.ears.add(self)

    async def open(self) -> None:
        """Return when the subscription is confirmed."""
        if self.channel not in self._hub.ears.heard:
            await self._hub.open(self.channel)

    async def wait(self, timeout: float) -> bool:
        """Wait until a wake-up comes, at most *timeout* seconds."""
        if not self._woken:
            # A future and a timer, where `asyncio.timeout` and an Event cost three times as much.
            loop = self._hub.loop
            waiting = self._waiting = loop.create_future()
            timer = loop.call_later(timeout, _end, waiting) if timeout < inf else None
            try:
                await waiting
            finally:
                if timer is not None:
                    timer.cancel()
                self._waiting = None
        heard, self._woken = self._woken, False
        self.message = self._heard if heard else ""
        return heard

    def wake(self, message: str = "") -> None:
        """End a `wait`."""
        self._heard = "" if self._woken else message
        self._woken = True
        if self._waiting is not None:
            _end(self._waiting)

    def follow(self, other: Ear) -> None:
        """Let *other* hear what comes here."""
        self._hub.ears.add(Relay(self.token, self.channel, other.wake))

    def close(self) -> None:
        """Stop listening."""
        if self._hub.ears.discard(self):
            self._hub.leave(self.channel)


class AsyncHub:
    """The subscribers of a process, and who listens."""

    def __init__(self, topology: Topology, *, timeout: float) -> None:
        """Connect to the servers that *topology* names when the first ear opens."""
        self._topology = topology
        self._timeout = timeout
        self.loop = asyncio.get_running_loop()
        self._subscribers: dict[Place, TaskSubscriber] = {}
        self._changed = asyncio.Event()
        self._closed = False
        self.ears = Ears()

    async def open(self, channel: str) -> None:
        """Return when *channel* is subscribed where it belongs, trying as often as the command timeout allows.

        Raises:
            Unavailable: The server did not confirm within the command timeout.
            PermissionDenied: The ACL forbids it.
        """
        subscriber = self._subscriber(self._topology.subscriber(channel))
        if channel in subscriber.subscribed:
            return
        last: Exception | None = None
        redirects = 0
        try:
            async with asyncio.timeout(self._timeout):
                for pause in pauses():
                    changed = self._changed
                    subscriber = self._subscriber(self._topology.subscriber(channel))
                    try:
                        await subscriber.subscribe(channel)
                    except (Fault, ReplyError) as error:
                        last = error
                        self._topology.failed((channel,), error)
                        if isinstance(error, ReplyError):
                            if not is_transient(error):
                                raise as_public(error, f"the subscription to {channel!r}") from error
                            redirects += error.code in REDIRECTS
                            if error.code in REDIRECTS and redirects <= REDIRECTS_MAX:
                                continue
                    else:
                        return
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(pause):
                            await changed.wait()
        except TimeoutError:
            subscriber.give_up(channel)
        raise unconfirmed(self._topology.subscriber(channel), channel, self._timeout, last)

    def _subscriber(self, place: Place) -> TaskSubscriber:
        if self._closed:
            raise UsageError(f"this grid ({place}) was closed; make a new one")
        found = self._subscribers.get(place)
        if found is None:
            found = TaskSubscriber(place, self.ears, sharded=self._topology.sharded, stall_s=self._timeout)
            self._subscribers[place] = found
        return found

    def leave(self, channel: str) -> None:
        """Nobody listens on *channel* any more: end its subscription, unless it serves others of this process."""
        if self._topology.sharded:
            self._end(channel)

    def _end(self, channel: str) -> None:
        for subscriber in self._subscribers.values():
            subscriber.leave({channel} & subscriber.concerned(), unless=self.ears.__contains__)

    def untap(self, tap: Tap) -> None:
        """Take *tap* away, and end the subscription to its channel if nobody else is there."""
        if self.ears.discard(tap):
            self._end(tap.channel)

    def move(self, endpoint: Endpoint) -> None:
        """Cut every connection that does not lead to *endpoint*, and hurry those who wait for one."""
        for subscriber in self._subscribers.values():
            subscriber.move(endpoint)
        self._hurry()

    def review(self) -> None:
        """Leave what belongs to another node now, and whoever has no channel left; whom that concerns is woken."""
        for place, subscriber in list(self._subscribers.items()):
            subscriber.leave(subscriber.concerned(), unless=partial(self._belongs, place))
            if subscriber.retire_if_idle():
                del self._subscribers[place]
        self._hurry()

    def _belongs(self, place: Place, channel: str) -> bool:
        return self._topology.subscriber(channel) == place

    def close(self) -> None:
        """End the connections."""
        self._closed = True
        for subscriber in self._subscribers.values():
            subscriber.close()
        self._hurry()

    def _hurry(self) -> None:
        changed, self._changed = self._changed, asyncio.Event()
        changed.set()


class TaskSubscriber:
    """The connection to one server."""

    def __init__(self, place: Place, ears: Ears, *, sharded: bool, stall_s: float) -> None:
        """Connect when the first channel is asked for."""
        self._place = place
        self._ears = ears
        self._sharded = sharded
        self._stall_s = stall_s
        self.subscribed: set[str] = set()
        self._connecting = asyncio.Lock()
        self._asked: dict[str, asyncio.Future[None]] = {}
        self._wire: MuxWire | None = None
        self._met = False
        self._moves = 0
        self._retired = False

    async def subscribe(self, channel: str) -> None:
        """Return when the server says that *channel* is subscribed.

        Raises:
            Fault: The connection broke, or the channel belongs elsewhere by now.
            ReplyError: It refused.
        """
        async with self._connecting:
            wire = await self._connected()
        if channel in self.subscribed:
            return
        asked = self._asked.get(channel)
        if asked is None:
            asked = self._asked[channel] = wire.post_push(subscription(channel, sharded=self._sharded))
            asked.add_done_callback(partial(self._answered, channel))
        # Shielded: one impatient waiter must not cancel the confirmation for the others.
        await asyncio.shield(asked)
        if channel not in self.subscribed:
            raise Fault(f"{self._place} has ended the subscription", applied=False)

    async def _connected(self) -> MuxWire:
        if self._retired:
            raise Fault(f"{self._place} is of no use any more", applied=False)
        if self._wire is None or self._wire.closed:
            moves = self._moves
            self._wire = await mux.connect(
                self._place,
                inflight_max=1,
                stall_s=self._stall_s,
                met_before=self._met,
                on_push=self._take,
                on_lost=self._lost,
            )
            self._met = True
            if moves != self._moves or self._retired:
                # Nobody could tell us while there was nothing to cut.
                self._wire.abort()
                raise Fault(f"{self._place} moved while {self._wire.endpoint} was being connected to", applied=False)
        return self._wire

    def _answered(self, channel: str, asked: asyncio.Future[None]) -> None:
        if self._asked.get(channel) is asked:
            del self._asked[channel]
        see(asked)

    def concerned(self) -> set[str]:
        """Return the channels that are subscribed or asked for."""
        return self.subscribed | self._asked.keys()

    def leave(self, channels: set[str], *, unless: Callable[[str], bool]) -> None:
        """End the subscriptions to *channels*, except where *unless* says so.

        Whoever listens there is woken; whoever asks for one still gets a `Fault`, and asks elsewhere.
        """
        left = {channel for channel in channels if not unless(channel)}
        lost = self.subscribed & left
        self.subscribed -= left
        for channel in left:
            asked = self._asked.get(channel)
            if asked is not None and not asked.done():
                asked.set_exception(Fault(f"{channel!r} belongs to another node now", applied=False))
            if self._wire is not None:
                self._wire.post_push(subscription(channel, sharded=self._sharded, end=True)).add_done_callback(see)
        self._ears.lose(lost, self)

    def give_up(self, channel: str) -> None:
        """Cut the connection if it has not answered for *channel*: it may be silent for ever."""
        if channel in self._asked and self._wire is not None:
            self._wire.abort()

    def move(self, endpoint: Endpoint) -> None:
        """Cut the connection unless it leads to *endpoint*, also one that is being set up."""
        self._moves += 1
        if self._wire is not None and not leads_to(self._wire.endpoint, endpoint):
            self._wire.abort()

    def retire_if_idle(self) -> bool:
        """End the connection if there is no channel on it; true if so, and then it serves nobody any more."""
        if self._connecting.locked() or self.concerned():
            return False
        self.close()
        return True

    def close(self) -> None:
        """End the connection."""
        self._retired = True
        if self._wire is not None:
            self._wire.abort()

    def _lost(self, wire: MuxWire) -> None:
        if wire is self._wire:
            self._wire = None
            lost, self.subscribed = self.subscribed, set()
            self._ears.lose(lost, self)

    def _take(self, push: list[Any]) -> None:
        kind, channel = push[0], push[1].decode(errors="replace")
        if kind in MESSAGES:
            self._ears.hear(channel, push[2])
        elif kind in BEGINS:
            self.subscribed.add(channel)
            self._ears.heard[channel] = self
        elif kind in ENDS:
            self.subscribed.discard(channel)
            self._ears.lose({channel}, self)
