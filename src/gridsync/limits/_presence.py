"""How many processes use a limiter: what ``share="auto"`` divides by while the server is away.

One sorted set per limiter: process → until when it counts as alive.  The watchdog writes it every `BEAT_S` seconds, as
long as a limiter with that name is in use here, and learns from the answer how many there are; whoever is silent for
`LIFE_S` counts no more.
"""

from __future__ import annotations

import weakref
from typing import TYPE_CHECKING, Any

from gridsync._io import load
from gridsync._io.keys import PROCESS_CHARS, limiter_here

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, Script

_BEAT = load("gridsync.limits", "beat")
BEAT_S = 10.0
LIFE_S = 30.0
SILENT_S = 2 * BEAT_S
"""When a heart that has not beaten is started again, as in the child of a fork."""


class Presence:
    """The processes that use one limiter, as of the last beat; all limiters of that name here share it."""

    def __init__(self, io: IO, key: str) -> None:
        """Use `presence` instead."""
        self._io, self.key = io, key
        self._begun = float("-inf")
        self.beaten = float("-inf")
        """When the last beat was answered."""
        self.processes = 1
        """How many there are, this one among them."""

    def use(self, now: float) -> None:
        """See to it that the heart beats; costs nothing while it does."""
        if now - max(self._begun, self.beaten) > SILENT_S:
            self._begun = now
            self._io.keep(_Heart(self, self._io.token()[:PROCESS_CHARS], now))


class _Heart:
    """What the watchdog keeps; it stops with the last limiter that needs it."""

    __slots__ = ("_key", "_presence", "_process", "deadline", "due")

    def __init__(self, presence: Presence, process: str, now: float) -> None:
        # Weak, or the watchdog would keep it for ever.
        self._presence = weakref.ref(presence)
        self._key, self._process = presence.key, process
        self.due = now
        self.deadline = now + LIFE_S

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Return the next beat, while somebody is interested."""
        self.deadline = now + LIFE_S
        if self._presence() is None:
            return None
        return _BEAT, (self._key,), (self._process, str(int(LIFE_S * 1000)))

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - as Keep
        """Take the count."""
        presence = self._presence()
        if presence is None:
            return False
        self.due = sent + BEAT_S
        if isinstance(reply, int):
            presence.processes, presence.beaten = max(1, reply), sent
        return True


_all: weakref.WeakValueDictionary[tuple[int, str], Presence] = weakref.WeakValueDictionary()


def presence(io: IO, namespace: str, limiter: str) -> Presence:
    """Return the presence of *limiter* on the server of *io*."""
    key = limiter_here(namespace, limiter)
    # A presence holds its io, so no other has the same id meanwhile.
    found = _all.get((id(io), key))
    if found is None:
        found = _all[id(io), key] = Presence(io, key)
    return found
