"""Policies, and what one of them says to a request: what the middleware and the dependency have in common."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from math import ceil
from typing import TYPE_CHECKING

from gridsync._io.clock import monotonic
from gridsync._units import count
from gridsync.contrib._fields import limit_item, policy_item
from gridsync.contrib._scope import Scope, inside
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.limits import Concurrency, FixedWindow, Rate
from gridsync.limits._options import check_options
from gridsync.limits._rate import LIMIT_MAX
from gridsync.limits._rules import read_rule

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync._units import Seconds
    from gridsync.contrib._leases import Leases
    from gridsync.contrib.keys import KeyFunction
    from gridsync.grid import AsyncGrid
    from gridsync.limits import AsyncLimiter, Decision, OnError, Rule, Share

logger = logging.getLogger("gridsync")

CostFunction = Callable[[Scope], int]
"""Tells how many units a request takes."""

KEY_CHARS_MAX = 200
LOG_EVERY_S = 10.0
PARTITION_BYTES = 12
RETRY_S = 1.0
"""When to come again after a limiter could not be asked: about the pause between probes of a server that is away."""
_NAME = re.compile(r"[ -~]{1,64}")


@dataclass(slots=True)
class Counts:
    """What a policy said since the program started, in requests."""

    admitted: int = 0
    denied: int = 0
    """Also by a shadow policy, which lets them pass."""
    degraded: int = 0
    """Of both: those that were decided without the server."""
    failed: int = 0
    """Those that nobody decided, because the server was away and the limiter raises."""


class Policy:
    """A quota: what is admitted, for whom, and of which requests.

    Args:
        name: What clients are told, and the limiter's name; up to 64 printable ASCII characters.
        *rules: One or more rates, such as ``"100/minute"``, which must all admit; or one rule of another kind, such as
            ``"10/s burst 20"`` or `Concurrency`, whose slots are held until the response has been sent.
        key: Whom a request counts for; `gridsync.contrib.keys` has the common ones.
        cost: Units that a request takes, or a function of its scope that tells; 0 takes nothing and is admitted.
        paths: Which paths it is about: each is a whole path, or ends with ``*`` and is the beginning of one.
        methods: Which methods it is about, ``GET`` with ``HEAD``; default is all of them.
        shadow: Only count and log what it would deny.  Clients are told nothing of it.
        partition: Tell clients to which partition of the quota a request belongs: ``pk``, a digest of its key.
        on_error: What is answered while the server is away.  ``"raise"`` answers 503; see `Limiter`.
        budget: Longest time of one decision, in seconds.
        share: With ``"local"``, the part of each limit that this process admits by itself.
        deny_cache: How many keys' denials are remembered here, so that who keeps knocking costs the server nothing;
            for requests that no other policy concerns, shadows apart.
        leased: Decide by permits that this process leases, mostly without a round trip; see `Limiter.leased`.  For keys
            that are few and busy, such as ``join("all")``, and for sliding windows.  It is asked after the policies
            that are not leased, and takes nothing if one of them denies.
        limiter: Makes the limiter, instead of *rules* and these options.

    Raises:
        UsageError: The name, a path or the combination of arguments cannot be used.
        InvalidLimit: A rule cannot be read.

    A key of more than 200 characters is cut and gets a digest, so that clients do not decide how large keys are.
    """

    def __init__(
        self,
        name: str,
        *rules: str | Rule,
        key: KeyFunction,
        cost: int | CostFunction = 1,
        paths: Iterable[str] = ("*",),
        methods: Iterable[str] | None = None,
        shadow: bool = False,
        partition: bool = False,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        leased: bool = False,
        limiter: Callable[[AsyncGrid], AsyncLimiter] | None = None,
    ) -> None:
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise UsageError(f"the name of a policy must be 1 to 64 printable ASCII characters, not {name!r:.100}")
        if not callable(key) or isinstance(key, type):
            raise UsageError(f"policy {name!r} needs a key function, such as ClientAddress(), not {key!r:.100}")
        if not callable(cost) and cost != 0:
            count(cost, f"the cost of policy {name!r}", LIMIT_MAX)
        if (limiter is None) != bool(rules):
            raise UsageError(f"policy {name!r} needs rules such as '100/minute', or else limiter=, and not both")
        read = [read_rule(rule) for rule in rules]
        if len(read) > 1 and not all(isinstance(rule, Rate) for rule in read):
            raise UsageError(
                f"policy {name!r} has several rules, which only sliding windows can share: one policy each"
            )
        if leased and not all(isinstance(rule, Rate) for rule in read):
            raise UsageError(f"policy {name!r} ({read[0]}) leases no permits: that takes sliding windows")
        check_options(f"policy {name!r}", read, on_error=on_error, budget=budget, share=share, deny_cache=deny_cache)
        self.name = name
        """What clients are told, and the limiter's name."""
        self.shadow = shadow
        """Whether it only counts and logs."""
        self.partition = partition
        """Whether clients are told of partitions."""
        self.leased = leased
        """Whether it decides by permits that this process leases."""
        self._key, self._cost = key, cost
        self._make = limiter or (
            lambda grid: grid.limiter(name, *read, on_error=on_error, budget=budget, share=share, deny_cache=deny_cache)
        )
        if isinstance(paths, str) or isinstance(methods, str):
            raise UsageError(f"paths and methods of policy {name!r} must be lists, not one string")
        wanted = tuple(paths)
        if any(not path.startswith(("/", "*")) or "*" in path[:-1] for path in wanted):
            raise UsageError(f"paths of policy {name!r} begin with '/' and may end with '*': {wanted!r}")
        self._exact = frozenset(path for path in wanted if not path.endswith("*"))
        self._beginnings = tuple(path[:-1] for path in wanted if path.endswith("*"))
        self._methods = None if methods is None else frozenset(str(method).upper() for method in methods)
        if self._methods is not None and "GET" in self._methods:
            self._methods |= {"HEAD"}  # the same work, and no way around
        self.counts: Counts = Counts()
        """What it said, in this process."""
        self._log_next_s = 0.0
        self._unlogged = 0

    def __repr__(self) -> str:
        return f"<Policy {self.name!r}{' shadow' if self.shadow else ''}>"

    def limiter(self, grid: AsyncGrid) -> AsyncLimiter:
        """Make its limiter on *grid*, to look at what a key has used, or to reset it."""
        return self._make(grid)

    def asks(self, scope: Scope) -> tuple[str, int] | None:
        """Return the key and the cost of a request, or ``None`` if this policy does not concern it."""
        path = inside(scope)
        if path not in self._exact and not path.startswith(self._beginnings):
            return None
        if self._methods is not None and scope.get("method", "GET") not in self._methods:
            return None
        key = self._key(scope)
        if key is None:
            return None
        if not isinstance(key, str):
            raise UsageError(f"the key function of policy {self.name!r} must return a string or None, not {key!r:.100}")
        if not key.isascii():
            key = key.encode(errors="backslashreplace").decode()  # nobody's lone surrogate makes an error of ours
        if len(key) > KEY_CHARS_MAX:
            key = f"{key[: KEY_CHARS_MAX // 2]}~{sha256(key.encode()).hexdigest()}"
        cost = self._cost if isinstance(self._cost, int) else self._cost(scope)
        return (key, cost) if cost else None

    def _would_deny(self, key: str) -> None:
        """Warn of what this shadow would have denied, but not for each request of a flood."""
        self._unlogged += 1
        now_s = monotonic()
        if now_s >= self._log_next_s:
            logger.warning(
                "shadow policy %r would have denied %d requests, lastly of %r", self.name, self._unlogged, key
            )
            self._log_next_s, self._unlogged = now_s + LOG_EVERY_S, 0


@dataclass(slots=True)
class Asked:
    """One policy's part in the judgement of one request."""

    policy: Policy
    limiter: AsyncLimiter
    key: str
    cost: int
    leases: Leases | None = None
    """The permits by which it decides, if it has any."""
    decision: Decision | None = None
    """What it said; ``None`` as long as nobody has answered."""
    next: Decision | None = None
    """What it would say to the next request, if nothing is left."""

    async def hit(self) -> Decision:
        """Take what the request costs, by itself."""
        if self.leases is None:
            return await self.limiter.hit(self.key, self.cost)
        return await self.leases.of(self.key).hit(self.cost)

    @property
    def denies(self) -> bool:
        """Whether it does not admit the request."""
        return self.decision is not None and not self.decision.allowed

    @property
    def holds(self) -> bool:
        """Whether what it took has to be given back when the request has ended."""
        held = self.decision is not None and self.decision.ticket is not None
        return held and any(isinstance(rule, Concurrency) for rule in self.limiter.rules)

    @property
    def retry_after_s(self) -> float | None:
        """When the same request would be admitted, in seconds; ``None`` if never."""
        return None if self.decision is None else self.decision.retry_after

    def violated(self) -> str | None:
        """Name the rule that is used up to clients, if one is."""
        if self.decision is None or self.decision.source == "policy":
            return None
        return _item_name(self.policy.name, self.limiter, self.decision.rule)

    def policy_items(self) -> list[str]:
        """Return what ``RateLimit-Policy`` says of it: one item for each rule."""
        items = []
        for rule in self.limiter.rules:
            window_s, unit = (None, "concurrent-requests") if isinstance(rule, Concurrency) else (_window_s(rule), None)
            name = _item_name(self.policy.name, self.limiter, rule)
            items.append(policy_item(name, rule.limit, window_s, self._partition(), unit))
        return items

    @property
    def used_up(self) -> bool:
        """Whether this request took the last unit, and it is not known when there is more."""
        decision = self.decision
        if decision is None or decision.ticket is None or decision.remaining > 0:
            return False
        return not isinstance(decision.rule, FixedWindow)  # whose units come back all at once

    async def look_ahead(self) -> None:
        """Ask when there is more: else clients would wait until the window is empty."""
        try:
            seen = await self.limiter.peek(self.key)
        except (Unavailable, OutcomeUnknown):
            return  # and then they do
        if not seen.degraded:
            self.next = seen

    def limit_item(self) -> str | None:
        """Return what ``RateLimit`` says of it; nothing if the server did not say."""
        decision = self.decision if self.next is None else self.next
        if decision is None or decision.degraded or decision.source == "lease":  # what is left of a batch says little
            return None
        name = _item_name(self.policy.name, self.limiter, decision.rule)
        return limit_item(name, decision.remaining, decision.retry_after or decision.reset_after, self._partition())

    def why(self) -> str:
        """Say in words why it refuses."""
        decision, name = self.decision, self.policy.name
        if decision is None or decision.source == "policy":
            return f"policy {name!r} cannot be checked at the moment"
        if decision.retry_after is None:
            return f"policy {name!r} admits {decision.rule}, and this request takes {self.cost}: it never fits"
        return f"policy {name!r} admits {decision.rule}; come again in {ceil(decision.retry_after)} s"

    def count(self) -> None:
        """Count what was said, and warn of what a shadow would have denied."""
        counts, decision = self.policy.counts, self.decision
        if decision is None:
            return
        counts.degraded += decision.degraded
        counts.admitted += decision.allowed
        counts.denied += not decision.allowed
        if self.policy.shadow and not decision.allowed:
            self.policy._would_deny(self.key)  # noqa: SLF001 - same module

    def _partition(self) -> bytes | None:
        return sha256(self.key.encode()).digest()[:PARTITION_BYTES] if self.policy.partition else None


def _item_name(name: str, limiter: AsyncLimiter, rule: Rule) -> str:
    return name if len(limiter.rules) == 1 else f"{name}-{_window_s(rule):g}s"


def _window_s(rule: Rule) -> float:
    """Return in how many seconds the limit comes back: of a bucket, how long it takes to fill."""
    _, window_us = rule.quota
    return window_us / 1_000_000
