"""One pub/sub connection for all waiters of a process, for threads.  `AsyncHub` in `aio_hub.py` is its twin.

States: *closed* (no connection) → *opening* (connected, SUBSCRIBE sent) → *open* (confirmed).  A broken connection
goes back to *closed* and wakes every ear, since a message may have been missed; the ear's owner looks at the state
in Redis and opens again.
"""

from __future__ import annotations

import threading
import time
from typing import TYPE_CHECKING, Any

import hiredis

from gridsync._io.clock import monotonic
from gridsync._io.wire import blocking
from gridsync._io.wire.endpoint import ProtocolError
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.place import leads_to
from gridsync.errors import Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place


PAUSE_S = 0.02
PAUSE_MAX_S = 0.5


def pauses() -> Iterator[float]:
    """Return how long to wait between attempts to connect, in seconds, for ever."""
    pause = PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, PAUSE_MAX_S)


def unconfirmed(endpoint: Place, channel: str, timeout: float, last: Fault | None) -> Unavailable:
    """Return the exception for a subscription that was not confirmed in time."""
    why = f": {last}" if last is not None else ""
    return Unavailable(f"{endpoint} did not confirm the subscription to {channel!r} in {timeout:g} s{why}")


class ThreadEar:
    """Where one thread hears its wake-ups."""

    def __init__(self, hub: ThreadHub, token: str, channel: str) -> None:
        """Register with *hub*."""
        self._hub = hub
        self.token = token
        self.channel = channel
        self.message = ""
        self._heard = ""
        self._event = threading.Event()
        hub.ears[token] = self

    async def open(self) -> None:
        """Return when the subscription is confirmed."""
        self._hub.open(self.channel)

    async def wait(self, timeout: float) -> bool:
        """Block until a wake-up comes, at most *timeout* seconds."""
        heard = self._event.wait(max(timeout, 0))
        self.message = self._heard if heard else ""
        self._event.clear()
        return heard

    def wake(self, message: str = "") -> None:
        """End a `wait`."""
        self._heard = "" if self._event.is_set() else message
        self._event.set()

    def close(self) -> None:
        """Stop listening."""
        self._hub.ears.pop(self.token, None)


class ThreadHub:
    """The subscriber's connection and the thread that reads from it."""

    def __init__(self, endpoint: Callable[[], Place], *, timeout: float) -> None:
        """Connect to the server that *endpoint* names when the first ear opens."""
        self._endpoint = endpoint
        self._timeout = timeout
        self.reset()

    def after_fork(self) -> None:
        """Forget everything: the child of a fork has not the thread, and the connection is its parent's."""
        if self._wire is not None:
            self._wire.close()  # our copy of the descriptor
        self.reset()

    def reset(self) -> None:
        """Begin with nothing."""
        self.ears: dict[str, ThreadEar] = {}
        self._lock = threading.Lock()
        self._confirmed: set[str] = set()
        self._changed = threading.Condition(self._lock)
        self._wire: BlockingWire | None = None
        self._met = False
        self._closed = False

    def open(self, channel: str) -> None:
        """Return when *channel* is subscribed, connecting anew as often as the command timeout allows.

        Raises:
            Unavailable: The server did not confirm within the command timeout.
        """
        if channel in self._confirmed:
            return
        deadline = monotonic() + self._timeout
        last: Fault | None = None
        for pause in pauses():
            try:
                if self._subscribe(channel, deadline):
                    return
            except Fault as error:
                last = error
            rest = deadline - monotonic()
            if rest <= 0:
                break
            time.sleep(min(pause, rest))
        raise unconfirmed(self._endpoint(), channel, self._timeout, last)

    def _subscribe(self, channel: str, deadline: float) -> bool:
        # Whoever connects holds the lock; the others must not wait for longer than they may.
        if not self._lock.acquire(timeout=max(deadline - monotonic(), 0)):
            return False
        try:
            if channel in self._confirmed:
                return True
            if self._closed:
                raise UsageError(f"this grid ({self._endpoint()}) was closed; make a new one")
            wire = self._wire
            if wire is None:
                # Connecting under the lock is right here: every other waiter needs this very connection.
                rest = max(deadline - monotonic(), 0.001)
                wire = blocking.connect(self._endpoint(), timeout=rest, met_before=self._met)
                self._met = True
                self._wire = wire
                threading.Thread(target=self._read, args=(wire,), name="gridsync-hub", daemon=True).start()
            words: tuple[Any, ...] = ("SUBSCRIBE", channel)
            try:
                wire.send(hiredis.pack_command(words))
            except OSError as error:
                wire.shutdown()
                raise Fault(f"the connection for wake-ups to {wire.endpoint} broke: {error}", applied=False) from error
            while channel not in self._confirmed:
                rest = deadline - monotonic()
                if self._wire is not wire:
                    return False
                if rest <= 0:
                    wire.shutdown()  # it may be silent for ever: the next one opens another
                    return False
                self._changed.wait(rest)
            return True
        finally:
            self._lock.release()

    def hears(self, channel: str) -> bool:
        """Tell whether *channel* is subscribed."""
        return channel in self._confirmed

    def wake(self, channel: str, message: bytes) -> None:  # noqa: ARG002 - tokens are unique among channels
        """Wake the ear that *message* names; what names none is dropped."""
        token, _, rest = message.decode(errors="replace").partition(" ")
        ear = self.ears.get(token)
        if ear is not None:
            ear.wake(rest)

    def move(self, endpoint: Endpoint) -> None:
        """Cut the connection unless it leads to *endpoint*; every ear is woken then."""
        wire = self._wire
        if wire is not None and not leads_to(wire.endpoint, endpoint):
            wire.shutdown()

    def close(self) -> None:
        """End the connection; the thread ends with it."""
        self._closed = True
        wire = self._wire
        if wire is not None:
            wire.shutdown()

    def _read(self, wire: BlockingWire) -> None:
        try:
            while True:
                try:
                    push = wire.read()
                except BlockingIOError:
                    continue  # nothing was said for a while: keepalive tells whether the peer lives
                except TimeoutError:
                    continue
                self._take(push)
        except (OSError, EOFError, ProtocolError, ValueError):
            pass
        finally:
            with self._lock:
                if self._wire is wire:
                    self._wire = None
                    self._confirmed.clear()
                self._changed.notify_all()
            wire.close()
            for ear in list(self.ears.values()):
                ear.wake()

    def _take(self, push: object) -> None:
        if not isinstance(push, list) or len(push) < 3:  # noqa: PLR2004 - kind, channel, payload
            return
        kind, channel, payload = push[0], push[1], push[2]
        if kind == b"message":
            self.wake(channel.decode(), payload)
        elif kind == b"subscribe":
            with self._lock:
                self._confirmed.add(channel.decode())
                self._changed.notify_all()
