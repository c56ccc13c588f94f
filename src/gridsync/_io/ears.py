"""Who listens on which channel, and whom a message is for: what the hubs of all drivers share.

A message is a hint to one waiter.  Its first word is the waiter's token; what follows is handed to the ear as it is.
Only where a channel is tapped, messages are more than hints to its ears: the tap takes them all, and as they are.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gridsync._io.signals import call
from gridsync.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from gridsync._io.wire.place import Place

PAUSE_S = 0.02
PAUSE_MAX_S = 0.5
MESSAGES = frozenset({b"message", b"smessage"})
"""What a push of a message begins with; those below say what is subscribed."""
BEGINS = frozenset({b"subscribe", b"ssubscribe"})
ENDS = frozenset({b"unsubscribe", b"sunsubscribe"})


def pauses() -> Iterator[float]:
    """Return how long to wait between attempts to connect, in seconds, for ever."""
    pause = PAUSE_S
    while True:
        yield pause
        pause = min(2 * pause, PAUSE_MAX_S)


class Listener(Protocol):
    """An ear, as a hub sees it."""

    token: str
    channel: str

    def wake(self, message: str = "") -> None:
        """End its `wait`."""


class Tap:
    """Takes every message of a channel, whatever it is; beside it ears wait there, and are woken by who taps."""

    __slots__ = ("_leave", "_lost", "_taken", "channel", "token")

    def __init__(
        self,
        channel: str,
        taken: Callable[[bytes], object],
        lost: Callable[[], object],
        leave: Callable[[Tap], object],
    ) -> None:
        """Call *taken* with each message, *lost* when some may have been missed, and *leave* at the end."""
        self.token: str = TAP
        self.channel: str = channel
        self._taken, self._lost, self._leave = taken, lost, leave

    def take(self, message: bytes) -> None:
        """Take a message; called where the connection is read, which nothing that somebody publishes may end."""
        call(lambda: self._taken(message))

    def wake(self, message: str = "") -> None:  # noqa: ARG002 - as the ears around it
        """Take note that the subscription has ended."""
        call(self._lost)

    def close(self) -> None:
        """Take no more, and end the subscription; for who has closed the ears of the channel before."""
        self._leave(self)


@dataclass(slots=True)
class Relay:
    """Hears in the place of an ear, for another one; see `Ear.follow`."""

    token: str
    channel: str
    wake: Callable[..., None]


TAP = ""
"""The token of a tap."""


class Ears:
    """The ears of one process.  Thread-safe."""

    def __init__(self) -> None:
        """Begin with none."""
        self._by_channel: dict[str, dict[str, Listener]] = {}
        self.heard: dict[str, object] = {}
        """Each channel that is subscribed, and by whom."""
        self.reset()

    def reset(self) -> None:
        """Forget everybody: in the child of a fork the ears are those of threads that it does not have."""
        self._lock = threading.Lock()
        self._by_channel.clear()
        self.heard.clear()

    def __len__(self) -> int:
        """Count the ears."""
        with self._lock:
            return sum(map(len, self._by_channel.values()))

    def __contains__(self, channel: object) -> bool:
        """Tell whether anybody listens on *channel*."""
        return channel in self._by_channel

    def add(self, ear: Listener) -> None:
        """Let *ear* hear what is for it."""
        with self._lock:
            self._by_channel.setdefault(ear.channel, {})[ear.token] = ear

    def discard(self, ear: Listener) -> bool:
        """Forget *ear*; true if it was the last one of its channel."""
        with self._lock:
            ears = self._by_channel.get(ear.channel, {})
            if ears.pop(ear.token, None) is None or ears:
                return False
            del self._by_channel[ear.channel]
            return True

    def hear(self, channel: str, payload: bytes) -> None:
        """Wake the ear that a message names; anybody may publish anything, and what names none is dropped."""
        ears = self._by_channel.get(channel, {})
        tap = ears.get(TAP)
        if isinstance(tap, Tap):
            tap.take(payload)
            return
        token, _, message = payload.decode(errors="replace").partition(" ")
        ear = ears.get(token)
        if ear is not None:
            ear.wake(message)

    def lose(self, channels: Iterable[str], by: object) -> None:
        """Wake every ear of *channels*, which *by* does not hear any more: a message may have been missed there."""
        with self._lock:
            for channel in channels:
                if self.heard.get(channel) is by:
                    del self.heard[channel]
            woken = [ear for channel in channels for ear in self._by_channel.get(channel, {}).values()]
        for ear in woken:
            ear.wake()


def subscription(channel: str, *, sharded: bool, end: bool = False) -> tuple[Any, ...]:
    """Return the command that begins (or ends) to hear *channel*."""
    return (f"{'S' if sharded else ''}{'UN' if end else ''}SUBSCRIBE", channel)


def unconfirmed(place: Place, channel: str, timeout: float, last: Exception | None) -> Unavailable:
    """Return the exception for a subscription that was not confirmed in time."""
    why = f": {last}" if last is not None else ""
    return Unavailable(f"{place} did not confirm the subscription to {channel!r} in {timeout:g} s{why}")
