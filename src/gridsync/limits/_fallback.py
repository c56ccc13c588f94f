"""What a limiter answers while its server is away, as its user chose when it was made.

=========  ============================================================================================
policy     a hit that the server does not answer
=========  ============================================================================================
``raise``  raises `Unavailable` or `OutcomeUnknown`
``allow``  is admitted: the work matters more than the limit
``deny``   is denied: the limit matters more than the work
``local``  is counted in this process, against its *share* of each limit
=========  ============================================================================================

A cost above the limit is denied by all but ``raise``: that needs no server.

A key's local windows do not begin empty: of what the server said was left, this process takes its share.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from gridsync._io.local import LocalWindows
from gridsync.limits._presence import presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.limits._core import Verdict

OnError = Literal["raise", "allow", "deny", "local"]
Share = float | Literal["auto"]
POLICIES: tuple[str, ...] = get_args(OnError)
RETRY_US = 1_000_000
"""When a caller who was denied for want of a server may ask again: about the pause between probes."""


class Fallback:
    """Answers in place of the server, for every subject of one limiter."""

    __slots__ = ("_io", "_local", "_name", "_presence", "_rules", "_share", "limits", "policy")

    def __init__(
        self, io: IO, namespace: str, name: str, rules: Sequence[tuple[int, int]], *, policy: OnError, share: Share
    ) -> None:
        """Keep the policy; *rules* are limit and window in microseconds."""
        self._io, self._name, self._rules = io, name, tuple(rules)
        self.policy = policy
        self._presence = presence(io, namespace, name) if share == "auto" else None
        self._share = 1.0 if share == "auto" else float(share)
        self.limits = tuple(limit for limit, _ in rules)
        """What is admitted in each rule's window."""
        self._local = LocalWindows(rules, io.monotonic) if policy == "local" else None
        self._divide(self._share)

    def learn(self, subject: str, verdict: Verdict) -> None:
        """Take note of what the server said is left, for the time when it does not answer; with ``local`` only."""
        if self._local is not None:
            now = self._local.learn(subject, verdict[1], verdict[3])
            if self._presence is not None:
                self._presence.use(now)

    def answer(self, subject: str, cost: int, *, take: bool) -> Verdict:
        """Return what the policy says to a hit, or with *take* false to a peek."""
        self._io.tally("limit.degraded", self._name)
        if self._local is not None:
            if self._presence is not None:
                self._divide(1 / self._presence.processes)
            return self._local.hit(subject, cost) if take else self._local.peek(subject, cost)
        tightest = self.limits.index(min(self.limits))
        if cost > self.limits[tightest]:
            return [-1, 0, 0, tightest]
        return [0, 0, 0, tightest] if self.policy == "allow" else [RETRY_US, 0, RETRY_US, tightest]

    def reset(self, subject: str) -> None:
        """Forget what this process counted by itself, and what the server said."""
        if self._local is not None:
            self._local.reset(subject)

    def _divide(self, share: float) -> None:
        if self._local is not None:
            self.limits = tuple(max(1, int(limit * share)) for limit, _ in self._rules)
            self._local.allow(self.limits)
