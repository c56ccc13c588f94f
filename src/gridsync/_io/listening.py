"""Messages for somebody who does not wait: a callback per token, on the connections that wake the waiters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io.signals import call

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.ears import Ears


class Listening:
    """Hears what is published for one token, from the moment at which `ready` says so.  It is an ear of its own."""

    __slots__ = ("_ears", "_hear", "_leave", "_open_soon", "channel", "token")

    def __init__(
        self,
        ears: Ears,
        token: str,
        channel: str,
        hear: Callable[[str], object],
        *,
        open_soon: Callable[[str], object],
        leave: Callable[[str], object],
    ) -> None:
        """Register with *ears*; *open_soon* subscribes a channel in the background, *leave* ends that."""
        self._ears = ears
        self.token: str = token
        self.channel: str = channel
        self._hear = hear
        self._open_soon = open_soon
        self._leave = leave
        ears.add(self)

    def ready(self) -> bool:
        """Tell whether messages arrive now; if not, see to it in the background.  Never blocks; from any thread."""
        if self.channel in self._ears.heard:
            return True
        self._open_soon(self.channel)
        return False

    def wake(self, message: str = "") -> None:
        """Take a message; called where the connection is read, without one when that broke."""
        if message:
            call(lambda: self._hear(message))

    def close(self) -> None:
        """Stop listening; safe to call twice, and from any thread."""
        if self._ears.discard(self):
            self._leave(self.channel)
