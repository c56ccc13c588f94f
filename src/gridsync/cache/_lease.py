"""The lease of a load: renewed by the watchdog while the loader works, left to expire when its process dies."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Arg, Script

HOLD: Final = load("gridsync.cache", "hold")
RENEWALS = 3
"""A lease is renewed when a third of it is over, so two renewals may fail."""
RETRY = 12
"""A failed renewal is tried again after this fraction of the lease."""


class Lease:
    """A `Keep`."""

    __slots__ = ("_args", "_keys", "_lease", "deadline", "due")

    def __init__(self, key: str, token: str, lease: float, now: float) -> None:
        """Renew for as long as it is kept: *lease* seconds each time."""
        self._keys, self._args, self._lease = (key,), (token, str(round(lease * 1000))), lease
        self.due = now + lease / RENEWALS
        self.deadline = now + lease

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:  # noqa: ARG002 - as Keep
        """Ask each time."""
        return HOLD, self._keys, self._args

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401
        """Go on unless it is no longer ours: then what is loaded will not be stored."""
        if isinstance(reply, Exception):
            self.due = sent + self._lease / RETRY
            return sent < self.deadline
        self.due, self.deadline = sent + self._lease / RENEWALS, sent + self._lease
        return bool(reply)
