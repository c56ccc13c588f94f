"""Holding: what a consumer has taken and not settled is renewed, so that nobody takes it over."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Arg, Script

RENEW: Final = load("gridsync.streams", "renew")


class Holding:
    """A `Keep`: tells the server that deliveries are in work, also while the handler keeps the caller busy."""

    def __init__(self, log: str, group: str, consumer: str, idle: float, now: float) -> None:
        """Renew three times before *idle* seconds have passed."""
        self.held: dict[bytes, int] = {}
        """Id → how often it was begun before this consumer took it."""
        self._asked: dict[bytes, int] = {}
        self._keys = (log,)
        self._head = (group, consumer)
        self._idle = idle
        self.due = now + idle / 3
        self.deadline = now + idle

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for everything held at this moment."""
        held = self._asked = dict(self.held)
        if not held:
            self._renewed(now)
            return None
        return RENEW, self._keys, (*self._head, *held)

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401
        """Forget what was taken over by others; after an error try again sooner."""
        if isinstance(reply, Exception):
            self.due = sent + self._idle / 12
            if sent >= self.deadline:
                # Others may have it by now, which is no reason to hurry everything else that is kept.
                self.deadline = sent + self._idle
        elif reply is not None:
            for lost in reply:
                # Settled and here again while the answer was on its way, it is another delivery, begun once more.
                if self.held.get(lost) == self._asked.get(lost):
                    self.held.pop(lost, None)
            self._renewed(sent)
        return True

    def _renewed(self, at: float) -> None:
        self.due = at + self._idle / 3
        self.deadline = at + self._idle
