"""Where the wake-ups of all waiters of a process arrive, for threads.  `aio_hub.py` is the twin for asyncio.

One connection for one server, one for each node of a Cluster that owns the slot of a channel somebody waits on.  There
a channel is subscribed while an ear listens; on one server, where all waiters share a channel, for good.

States of a `ThreadSubscriber`: *closed* (no connection) → *opening* → *open*; a channel: *asked* → *subscribed*.
A connection that broke, a slot that moved and a server that stands in for another end subscriptions, and wake the ears
on them, since a message may have been missed; the ear's owner looks at the state in Redis and opens again.

Every request goes with a HELLO, which whoever got this far may send: its reply says that the request was answered, by
a push or, just before, by an error.  What is subscribed is what the pushes say, so a subscription that the server ends
while we do cannot be taken for another.
"""

from __future__ import annotations

import contextlib
import threading
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Any

import hiredis

from gridsync._io.clock import monotonic
from gridsync._io.ears import BEGINS, ENDS, MESSAGES, Ears, Relay, pauses, subscription, unconfirmed
from gridsync._io.retry import REDIRECTS_MAX
from gridsync._io.wire import blocking
from gridsync._io.wire.endpoint import ProtocolError
from gridsync._io.wire.faults import REDIRECTS, Fault, ReplyError, as_public, is_transient
from gridsync._io.wire.place import leads_to
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Ear
    from gridsync._io.ears import Tap
    from gridsync._io.route import Topology
    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

LEAST_S = 0.001
HELLO: tuple[Any, ...] = ("HELLO",)


class ThreadEar:
    """Where one thread hears its wake-ups."""

    __slots__ = ("_gate", "_heard", "_hub", "channel", "message", "token")

    def __init__(self, hub: ThreadHub, token: str, channel: str) -> None:
        """Register with *hub*."""
        self._hub = hub
        self.token = token
        self.channel = channel
        self.message = ""
        self._heard = ""
        # A lock is all that one waiter needs: it is held until somebody wakes.  An Event costs five times as much to
        # make and three times as much to wait for, between a hand-over and its taker's first step.
        self._gate = threading.Lock()
        self._gate.acquire()
        hub.ears.add(self)

    async def open(self) -> None:
        """Return when the subscription is confirmed."""
        if self.channel not in self._hub.ears.heard:
            self._hub.open(self.channel)

    async def wait(self, timeout: float) -> bool:
        """Block until a wake-up comes, at most *timeout* seconds."""
        heard = self._gate.acquire(timeout=min(max(timeout, 0), threading.TIMEOUT_MAX))
        self.message = self._heard if heard else ""
        return heard

    def wake(self, message: str = "") -> None:
        """End a `wait`; from any thread."""
        self._heard = message if self._gate.locked() else ""
        try:
            self._gate.release()
        except RuntimeError:
            self._heard = ""  # it was woken already

    def follow(self, other: Ear) -> None:
        """Let *other* hear what comes here."""
        self._hub.ears.add(Relay(self.token, self.channel, other.wake))

    def close(self) -> None:
        """Stop listening."""
        if self._hub.ears.discard(self):
            self._hub.leave(self.channel)


class ThreadHub:
    """The subscribers of a process, and who listens."""

    def __init__(self, topology: Topology, *, timeout: float) -> None:
        """Connect to the servers that *topology* names when the first ear opens."""
        self._topology = topology
        self._timeout = timeout
        self.ears = Ears()
        self.reset()

    def after_fork(self) -> None:
        """Forget everything: the child of a fork has not the threads, and the connections are its parent's."""
        for subscriber in self._subscribers.values():
            subscriber.abandon()
        self.reset()

    def reset(self) -> None:
        """Begin with nothing."""
        self.ears.reset()
        self._subscribers: dict[Place, ThreadSubscriber] = {}
        self._changed = threading.Condition()
        self._changes = 0
        self._closed = False

    def open(self, channel: str) -> None:
        """Return when *channel* is subscribed where it belongs, trying as often as the command timeout allows.

        Raises:
            Unavailable: The server did not confirm within the command timeout.
            PermissionDenied: The ACL forbids it.
        """
        deadline = monotonic() + self._timeout
        last: Exception | None = None
        redirects = 0
        for pause in pauses():
            changes = self._changes
            subscriber = self._subscriber(self._topology.subscriber(channel))
            try:
                if channel not in subscriber.subscribed:
                    subscriber.subscribe(channel, deadline)
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
            rest = deadline - monotonic()
            if rest <= 0:
                break
            with self._changed:
                if changes == self._changes:
                    self._changed.wait(min(pause, rest))
        raise unconfirmed(self._topology.subscriber(channel), channel, self._timeout, last)

    def _subscriber(self, place: Place) -> ThreadSubscriber:
        with self._changed:
            if self._closed:
                raise UsageError(f"this grid ({place}) was closed; make a new one")
            found = self._subscribers.get(place)
            if found is None:
                found = ThreadSubscriber(place, self.ears, sharded=self._topology.sharded)
                self._subscribers[place] = found
            return found

    def leave(self, channel: str) -> None:
        """Nobody listens on *channel* any more: end its subscription, unless it serves others of this process."""
        if self._topology.sharded:
            self._end(channel)

    def _end(self, channel: str) -> None:
        for subscriber in list(self._subscribers.values()):
            subscriber.leave({channel} & subscriber.concerned(), unless=self.ears.__contains__)

    def untap(self, tap: Tap) -> None:
        """Take *tap* away, and end the subscription to its channel if nobody else is there."""
        if self.ears.discard(tap):
            self._end(tap.channel)

    def move(self, endpoint: Endpoint) -> None:
        """Cut every connection that does not lead to *endpoint*, and hurry those who wait for one."""
        with self._changed:
            for subscriber in self._subscribers.values():
                subscriber.move(endpoint)
            self._hurry()

    def review(self) -> None:
        """Leave what belongs to another node now, and whoever has no channel left; whom that concerns is woken."""
        with self._changed:
            subscribers = dict(self._subscribers)
        for place, subscriber in subscribers.items():
            subscriber.leave(subscriber.concerned(), unless=partial(self._belongs, place))
        with self._changed:
            for place, subscriber in subscribers.items():
                # Two threads may review: the other one may have retired it, and a waiter may have a new one by now.
                if self._subscribers.get(place) is subscriber and subscriber.retire_if_idle():
                    del self._subscribers[place]
            self._hurry()

    def _belongs(self, place: Place, channel: str) -> bool:
        return self._topology.subscriber(channel) == place

    def close(self) -> None:
        """End the connections; the threads end with them."""
        with self._changed:
            self._closed = True
            for subscriber in self._subscribers.values():
                subscriber.close()
            self._hurry()

    def _hurry(self) -> None:
        self._changes += 1
        self._changed.notify_all()


class _Request:
    """What was asked of the server and waits for its answer."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        self.answered = False
        self.error: Exception | None = None


class ThreadSubscriber:
    """The connection to one server, and the thread that reads from it."""

    def __init__(self, place: Place, ears: Ears, *, sharded: bool) -> None:
        """Connect when the first channel is asked for."""
        self._place = place
        self._ears = ears
        self._sharded = sharded
        self.subscribed: set[str] = set()
        self._connecting = threading.Lock()
        self._changed = threading.Condition(threading.Lock())
        self._line: deque[_Request] = deque()
        self._wire: BlockingWire | None = None
        self._met = False
        self._moves = 0
        self._retired = False

    def subscribe(self, channel: str, deadline: float) -> None:
        """Return when the server says that *channel* is subscribed.

        Raises:
            Fault: It did not in time, the connection broke, or the channel belongs elsewhere by now.
            ReplyError: It refused.
        """
        wire = self._connected(deadline)
        with self._changed:
            if channel in self.subscribed:
                return
            if self._wire is not wire or self._retired:
                raise Fault(f"the connection to {wire.endpoint} broke", applied=False)
            request = self._send(wire, channel)
            while not request.answered and request.error is None:
                rest = deadline - monotonic()
                if rest <= 0:
                    wire.shutdown()  # it may be silent for ever: the next one opens another
                    raise Fault(f"{self._place} said nothing", applied=False)
                self._changed.wait(rest)
            if request.error is not None:
                raise request.error
            if channel not in self.subscribed:
                raise Fault(f"{self._place} has ended the subscription", applied=False)

    def _connected(self, deadline: float) -> BlockingWire:
        # Every other waiter needs this very connection; but none may wait for longer than it may.
        if not self._connecting.acquire(timeout=max(deadline - monotonic(), 0)):
            raise Fault(f"no connection to {self._place} in time", applied=False)
        try:
            if self._retired:
                raise Fault(f"{self._place} is of no use any more", applied=False)
            wire = self._wire
            if wire is None:
                moves = self._moves
                rest = max(deadline - monotonic(), LEAST_S)
                wire = self._wire = blocking.connect(self._place, timeout=rest, met_before=self._met)
                self._met = True
                threading.Thread(target=self._read, args=(wire,), name="gridsync-hub", daemon=True).start()
                if moves != self._moves or self._retired:
                    # Nobody could tell us while there was nothing to cut.
                    wire.shutdown()
                    raise Fault(f"{self._place} moved while {wire.endpoint} was being connected to", applied=False)
            return wire
        finally:
            self._connecting.release()

    def _send(self, wire: BlockingWire, channel: str, *, end: bool = False) -> _Request:
        request = _Request("" if end else channel)
        words = subscription(channel, sharded=self._sharded, end=end)
        try:
            wire.send(hiredis.pack_command(words) + hiredis.pack_command(HELLO))
        except OSError as error:
            wire.shutdown()
            raise Fault(f"the connection for wake-ups to {wire.endpoint} broke: {error}", applied=False) from error
        self._line.append(request)
        return request

    def concerned(self) -> set[str]:
        """Return the channels that are subscribed or asked for."""
        with self._changed:
            return self._channels()

    def _channels(self) -> set[str]:
        return self.subscribed | {request.channel for request in self._line if request.channel}

    def leave(self, channels: set[str], *, unless: Callable[[str], bool]) -> None:
        """End the subscriptions to *channels*, except where *unless* says so.

        Whoever listens there is woken; whoever asks for one still gets a `Fault`, and asks elsewhere.
        """
        with self._changed:
            left = {channel for channel in channels if not unless(channel)}
            for request in self._line:
                if request.channel in left and request.error is None:
                    request.error = Fault(f"{request.channel!r} belongs to another node now", applied=False)
            self._changed.notify_all()
            lost = self.subscribed & left
            self.subscribed -= left
            if self._wire is not None:
                # A connection that breaks here has ended them all; its reader sees to the rest.
                with contextlib.suppress(Fault):
                    for channel in left:
                        self._send(self._wire, channel, end=True)
        self._ears.lose(lost, self)

    def move(self, endpoint: Endpoint) -> None:
        """Cut the connection unless it leads to *endpoint*, also one that is being set up."""
        self._moves += 1
        wire = self._wire
        if wire is not None and not leads_to(wire.endpoint, endpoint):
            wire.shutdown()

    def retire_if_idle(self) -> bool:
        """End the connection if there is no channel on it; true if so, and then it serves nobody any more."""
        if not self._connecting.acquire(blocking=False):
            return False
        try:
            with self._changed:
                # Whoever got the connection before may ask only now: it would be confirmed, and cut.
                if self._channels():
                    return False
                self.close()
            return True
        finally:
            self._connecting.release()

    def close(self) -> None:
        """End the connection; the thread ends with it."""
        self._retired = True
        wire = self._wire
        if wire is not None:
            wire.shutdown()

    def abandon(self) -> None:
        """Close our copy of the parent's descriptor, in the child of a fork."""
        if self._wire is not None:
            self._wire.close()

    def _read(self, wire: BlockingWire) -> None:
        try:
            while True:
                try:
                    frame = wire.read()
                except TimeoutError:
                    continue  # nothing was said for a while: keepalive tells whether the peer lives
                self._take(frame)
        except (OSError, EOFError, ProtocolError, ValueError, IndexError):
            pass
        finally:
            with self._changed:
                self._wire = None
                lost, self.subscribed = self.subscribed, set()
                for request in self._line:
                    request.error = request.error or Fault(f"the connection to {wire.endpoint} broke", applied=False)
                self._line.clear()
                self._changed.notify_all()
            wire.close()
            self._ears.lose(lost, self)

    def _take(self, frame: Any) -> None:  # noqa: ANN401 - a push or a reply
        if not isinstance(frame, hiredis.PushNotification):
            with self._changed:
                if isinstance(frame, ReplyError):
                    self._line[0].error = frame  # the reply to its HELLO follows
                else:
                    self._line.popleft().answered = True
                self._changed.notify_all()
            return
        kind, channel = frame[0], frame[1].decode(errors="replace")
        if kind in MESSAGES:
            self._ears.hear(channel, frame[2])
        elif kind in BEGINS:
            with self._changed:
                self.subscribed.add(channel)
                self._ears.heard[channel] = self
        elif kind in ENDS:
            with self._changed:
                self.subscribed.discard(channel)
            self._ears.lose({channel}, self)
