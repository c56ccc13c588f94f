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
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, get_args

from gridsync._io.local import LocalWindows
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.limits._core import Verdict

OnError = Literal["raise", "allow", "deny", "local"]
POLICIES: tuple[str, ...] = get_args(OnError)
RETRY_US = 1_000_000
"""When a caller who was denied for want of a server may ask again: about the pause between probes."""


class Fallback:
    """Answers in place of the server, for every subject of one limiter."""

    __slots__ = ("_io", "_local", "_name", "limits", "policy")

    def __init__(self, io: IO, name: str, rules: Sequence[tuple[int, int]], policy: OnError, share: float) -> None:
        """Check and keep the policy; *rules* are limit and window in microseconds.

        Raises:
            UsageError: There is no such policy, or *share* is not above 0 and at most 1.
        """
        if policy not in POLICIES:
            raise UsageError(f"on_error of limiter {name!r} must be one of {', '.join(POLICIES)}, not {policy!r}")
        if isinstance(share, bool) or not isinstance(share, int | float) or not 0 < share <= 1:
            raise UsageError(f"share of limiter {name!r} must be above 0 and at most 1, not {share!r}")
        if share != 1 and policy != "local":
            raise UsageError(f"share of limiter {name!r} means something with on_error='local' only, not {policy!r}")
        self._io, self._name = io, name
        self.policy = policy
        self.limits = tuple(max(1, int(limit * share)) if policy == "local" else limit for limit, _ in rules)
        """What is admitted in each rule's window."""
        windows = [(limit, window) for limit, (_, window) in zip(self.limits, rules, strict=True)]
        self._local = LocalWindows(windows, io.monotonic) if policy == "local" else None

    def answer(self, subject: str, cost: int, *, take: bool) -> Verdict:
        """Return what the policy says to a hit, or with *take* false to a peek."""
        self._io.tally("limit.degraded", self._name)
        if self._local is not None:
            return self._local.hit(subject, cost) if take else self._local.peek(subject, cost)
        tightest = self.limits.index(min(self.limits))
        if cost > self.limits[tightest]:
            return [-1, 0, 0, tightest]
        return [0, 0, 0, tightest] if self.policy == "allow" else [RETRY_US, 0, RETRY_US, tightest]

    def reset(self, subject: str) -> None:
        """Forget what this process counted by itself."""
        if self._local is not None:
            self._local.reset(subject)
