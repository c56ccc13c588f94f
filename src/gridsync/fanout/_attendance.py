"""Who is present: the members of one channel in this process, renewed by the watchdog however busy the program is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load
from gridsync._io.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, Script

HERE: Final = load("gridsync.fanout", "here")
GONE: Final = load("gridsync.fanout", "gone")

TTL_S: Final = 30.0
"""How long a member counts as present after it was renewed: who dies is present for so long."""
RENEWALS: Final = 3
"""Members are renewed when a third of that is over, so two renewals may fail."""
RETRY: Final = 12
"""A failed renewal is tried again after this fraction of it."""
AT_ONCE: Final = 500
"""How many members one request renews."""
TTL_MS: Final = str(round(TTL_S * 1000))


class Attendance:
    """A `Keep`."""

    def __init__(self, io: IO, keys: tuple[str, str]) -> None:
        """Keep nobody yet."""
        self._io, self._keys = io, keys
        self._mutex = Mutex()
        self._members: dict[str, str] = {}
        self._left: list[tuple[str, str]] = []
        """Who is still to be renewed in this round."""
        self._sent: list[tuple[str, str]] = []
        self.due: float = 0.0
        self.deadline: float = 0.0

    async def come(self, member: str, about: str) -> None:
        """Tell everybody that *member* is present."""
        await self._io.run(HERE, self._keys, (TTL_MS, member, about))
        with self._mutex:
            first = not self._members
            self._members[member] = about
            if first:
                self._begin_round(self._io.monotonic() + TTL_S / RENEWALS)
                self._io.keep(self)

    async def go(self, member: str) -> None:
        """Tell everybody that *member* is present no longer; if it cannot be told, it is so in `TTL_S`."""
        with self._mutex:
            if self._members.pop(member, None) is not None and not self._members:
                self._io.unkeep(self)
        await self._io.run(GONE, self._keys, (member,))

    def _begin_round(self, due: float) -> None:
        self.due, self.deadline, self._left = due, due + TTL_S, []

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:  # noqa: ARG002 - as Keep
        """Renew some."""
        with self._mutex:
            self._left = [pair for pair in self._left if pair[0] in self._members] or list(self._members.items())
            self._sent = self._left[:AT_ONCE]
        if not self._sent:
            return None
        return HERE, self._keys, (TTL_MS, *(word for pair in self._sent for word in pair))

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401
        """Go on with the others, or wait for the next round; only `go` ends it."""
        with self._mutex:
            if isinstance(reply, Exception):
                self.due, self.deadline = sent + TTL_S / RETRY, sent + TTL_S
            else:
                self._left = self._left[len(self._sent) :]
                if self._left:
                    self.due, self.deadline = sent, sent + TTL_S
                else:
                    self._begin_round(sent + TTL_S / RENEWALS)
        return True
