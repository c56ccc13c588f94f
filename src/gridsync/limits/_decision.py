"""What a limiter answers."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from gridsync.limits._rules import Rule


class Ticket(NamedTuple):
    """What a limiter needs to know to give a hit back: `Limiter.refund`.  It may be stored and used elsewhere."""

    key: str
    """Who was limited."""
    hit: str
    """The hit's id in the log of *key*."""
    cost: int
    """What it took, in units."""


class Decision(NamedTuple):
    """The answer to one call.  It is true if the call is admitted.

    With several rules the numbers are those of the rule that binds: the one that keeps the caller out longest, or,
    if the call is admitted, the one that has least left.
    """

    allowed: bool
    """Whether the call is admitted."""
    limit: int
    """Units that the binding rule admits in its window, that its bucket holds, or how many slots there are."""
    remaining: int
    """Units left for now in the binding rule's window, after this decision."""
    retry_after: float | None
    """Seconds after which the same call will be admitted if nobody else hits in between; 0.0 if it was admitted now,
    ``None`` if it never will be because the cost is above the limit.  Minimal: a microsecond less does not do.
    Slots may be given back before that."""
    reset_after: float
    """Seconds after which the binding rule's window is empty if nobody hits in between."""
    rule: Rule
    """The binding rule."""
    source: Literal["server", "lease", "cache", "local", "policy"] = "server"
    """Who decided: the server; this process, by permits that it leased (``"lease"``, and `remaining` is what is left of
    these); this process, which remembers a denial of the server (``"cache"``); this process alone
    (``on_error="local"``, and `limit` is its share); or the policy (``"allow"`` or ``"deny"``), which knows nothing of
    what is used: `remaining` is 0 then."""
    ticket: Ticket | None = None
    """What `refund` takes to give the hit back; ``None`` if the server took nothing."""
    delay: float = 0.0
    """Seconds from the answer until the call may be made; only what `reserve` and `acquire` admit has to wait."""

    @property
    def degraded(self) -> bool:
        """Whether the server was away, so that this is an answer of the limiter's ``on_error``."""
        return self.source in ("local", "policy")

    def __bool__(self) -> bool:
        """Whether the call is admitted."""
        return self.allowed
