"""A lease that was granted: how long it may be counted on, and when to renew it.

The same for everything that is held for a time: a lock, one side of a reader-writer lock, permits of a semaphore.
Invariant: `Hold.deadline` comes before the server's, because it is counted from before the request left, or from not
later than the hand-over.  What was handed over begins with a short term; its first renewal makes it a whole ttl.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io.keys import PROCESS_CHARS
from gridsync.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, Script, Signal
    from gridsync.locks._spec import Spec

MARGIN = 0.99
MARGIN_S = 0.002
"""The local deadline: a hundredth and two milliseconds before the server's, counted from before the request left."""
RENEWALS = 3
"""A lease is renewed when a third of it is over, so two renewals may fail."""
RETRY = 20
"""A failed renewal is tried again after this fraction of the lease."""


class Hold:
    """One acquisition that was granted: what the lease shows and the watchdog renews."""

    __slots__ = (
        "_io",
        "_signal",
        "_term_s",
        "deadline",
        "due",
        "ended",
        "fence",
        "ghost",
        "owner",
        "since",
        "spec",
        "unconfirmed",
        "why_lost",
    )

    def __init__(
        self,
        io: IO,
        spec: Spec,
        owner: str,
        fence: int,
        sent: float,
        *,
        term_s: float | None = None,
        ghost: bool = False,
    ) -> None:
        """Begin a lease.

        Args:
            io: Where it lives.
            spec: What is held.
            owner: The acquisition's identifier.
            fence: Its number.
            sent: When the request that was granted left, or earlier.
            term_s: How long the lease runs until its first renewal; the ttl of *spec* by default.
            ghost: Whether a request of this acquisition may still be on its way, to arrive after the release.
        """
        self._io = io
        self.spec = spec
        self.owner = owner
        self.fence = fence
        self.ended = False
        self.unconfirmed = False
        self.why_lost = ""
        self._signal: Signal | None = None
        self.ghost = ghost
        self._renewed(sent, spec.ttl_ms / 1000 if term_s is None else term_s)
        io.keep(self)
        self.since = io.monotonic()

    def _renewed(self, sent: float, term_s: float) -> None:
        self._term_s = term_s
        self.deadline = sent + term_s * MARGIN - MARGIN_S
        self.due = sent + term_s / RENEWALS

    @property
    def signal(self) -> Signal:
        """The switch that is thrown when the lease is lost."""
        if self._signal is None:
            self._signal = self._io.signal()
            if self.why_lost:
                self._signal.set()
        return self._signal

    def remaining(self) -> float:
        """Return the seconds for which this process may count on the lease; 0 when it ended."""
        return 0.0 if self.ended else max(0.0, self.deadline - self._io.monotonic())

    def check(self) -> None:
        """Raise `LeaseLost` unless the lease is surely still ours."""
        self.disown()
        if not self.ended and self._io.monotonic() >= self.deadline:
            self.lose("it was not renewed in time")
        if self.why_lost:
            raise self.error()
        if self.ended:
            message = f"the lease of {self.spec} was released already, or its grid was closed"
            raise LeaseLost(message, name=self.spec.name, fence=self.fence)

    def disown(self) -> None:
        """Lose the lease if this is a copy of it in the child of a fork: it belongs to the parent, who renews it."""
        if not self.ended and self._io.token()[:PROCESS_CHARS] != self.owner[:PROCESS_CHARS]:
            self.lose("it belongs to the process that took it, and this is a fork of that")

    def lose(self, why: str) -> None:
        """Note that the lease is gone; the first reason stays."""
        if self.ended:
            return
        self.ended = True
        self.why_lost = why
        self._io.unkeep(self)
        self._io.tally("lock.lost")
        if self._signal is not None:
            self._signal.set()

    def error(self) -> LeaseLost:
        """Return the exception that tells of the loss."""
        return LeaseLost(
            f"the lease of {self.spec} (fence {self.fence}) is lost: {self.why_lost}; "
            f"stop, and let the fence protect what you wrote",
            name=self.spec.name,
            fence=self.fence,
        )

    def renewal(self) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        """Return the script call that renews the lease; it answers 1, or 0 when it is not ours any more."""
        return self.spec.renew, self.spec.renew_keys, (self.owner, self.spec.ttl_text)

    # -- for the watchdog -------------------------------------------------------------------------------------------

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for a renewal while there is still time."""
        if self.ended or now >= self.deadline:
            return None
        return self.renewal()

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Take a renewal's outcome; the first "not yours" is final."""
        if self.ended:
            return False
        if reply == 1:
            self._renewed(sent, self.spec.ttl_ms / 1000)
            return True
        if reply == 0:
            self.lose("it ended on the server, or was taken away")
            return False
        now = self._io.monotonic()
        if now >= self.deadline:
            self.lose(f"it was not renewed in time ({reply})" if reply is not None else "it was not renewed in time")
            return False
        self.due = min(now + self._term_s / RETRY, self.deadline)
        return True
