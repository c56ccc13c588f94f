"""Limiters: how many calls of one kind are admitted in any window of time.

`Limiter` and `AsyncLimiter` say the same things in two worlds; `Decision` is what they answer.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

from gridsync._io import run_sync
from gridsync._units import read_from as source
from gridsync._units import seconds
from gridsync.errors import InvalidLimit, OutcomeUnknown, Unavailable, UsageError
from gridsync.limits._core import Windows
from gridsync.limits._fallback import Fallback
from gridsync.limits._rate import LIMIT_MAX, Rate

if TYPE_CHECKING:
    from gridsync._io import IO, ReadFrom
    from gridsync._units import Seconds
    from gridsync.errors import GridsyncError
    from gridsync.limits._core import Verdict
    from gridsync.limits._fallback import OnError

RULES_MAX = 16
BUDGET_MIN_S = 0.001


class Decision(NamedTuple):
    """The answer to one call.  It is true if the call is admitted.

    With several rules the numbers are those of the rule that binds: the one that keeps the caller out longest, or,
    if the call is admitted, the one that has least left.
    """

    allowed: bool
    """Whether the call is admitted."""
    limit: int
    """Units that the binding rule admits in its window."""
    remaining: int
    """Units left for now in the binding rule's window, after this decision."""
    retry_after: float | None
    """Seconds after which the same call will be admitted if nobody else hits in between; 0.0 if it was admitted now,
    ``None`` if it never will be because the cost is above the limit.  Minimal: a microsecond less does not do."""
    reset_after: float
    """Seconds after which the binding rule's window is empty if nobody hits in between."""
    rule: Rate
    """The binding rule."""
    source: Literal["server", "local", "policy"] = "server"
    """Who decided: the server; this process alone (``on_error="local"``, and `limit` is its share); or the policy
    (``"allow"`` or ``"deny"``), which knows nothing of what is used: `remaining` is 0 then."""

    @property
    def degraded(self) -> bool:
        """Whether the server was away, so that this is an answer of the limiter's ``on_error``."""
        return self.source != "server"

    def __bool__(self) -> bool:
        """Whether the call is admitted."""
        return self.allowed


class _Limiter:
    """What both worlds share: the checks of arguments and the way from integers to a decision."""

    __slots__ = ("_fallback", "_name", "_rules", "_windows")

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *rules: str | Rate,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: float = 1.0,
    ) -> None:
        if not isinstance(name, str) or not name:
            raise UsageError(f"a limiter needs a name, not {name!r}")
        if not rules:
            raise InvalidLimit(f"limiter {name!r} has no rule; pass one or more such as '100/second'")
        if len(rules) > RULES_MAX:
            raise InvalidLimit(f"limiter {name!r} has {len(rules)} rules; at most {RULES_MAX} are checked at once")
        self._name = name
        self._rules = tuple(rule if isinstance(rule, Rate) else Rate.parse(rule) for rule in rules)
        windows = [(rate.limit, rate.window_us) for rate in self._rules]
        timeout = None if budget is None else seconds(budget, f"budget of limiter {name!r}", least=BUDGET_MIN_S)
        self._windows = Windows(io, namespace, name, windows, timeout=timeout)
        self._fallback = Fallback(io, name, windows, on_error, share)

    @property
    def name(self) -> str:
        """The name under which processes share this limiter."""
        return self._name

    @property
    def rules(self) -> tuple[Rate, ...]:
        """The rules, in the order in which they were given."""
        return self._rules

    def __repr__(self) -> str:
        rules = ", ".join(str(rule) for rule in self._rules)
        return f"<{type(self).__name__} {self._name!r} {rules}>"

    def _check(self, key: str, cost: int = 1) -> None:
        if not isinstance(key, str) or not key:
            raise UsageError(f"limiter {self._name!r} needs the key of whom it limits, a string, not {key!r}")
        if not key.isascii():
            _check_unicode(self._name, key)
        if type(cost) is not int or not 1 <= cost <= LIMIT_MAX:
            raise UsageError(f"the cost of a hit on limiter {self._name!r} must be a whole number from 1, not {cost!r}")

    def _decision(self, verdict: Verdict) -> Decision:
        retry_us, remaining, reset_us, index = verdict
        rule = self._rules[index]
        retry_after = retry_us / 1_000_000 if retry_us >= 0 else None
        return Decision(retry_us == 0, rule.limit, remaining, retry_after, reset_us / 1_000_000, rule)

    def _degraded(self, error: GridsyncError, key: str, cost: int, *, take: bool) -> Decision:
        """Answer in place of a server that is away, or raise *error*."""
        fallback = self._fallback
        if fallback.policy == "raise":
            raise error
        decision = self._decision(fallback.answer(key, cost, take=take))
        source: Literal["local", "policy"] = "local" if fallback.policy == "local" else "policy"
        return decision._replace(source=source, limit=fallback.limits[self._rules.index(decision.rule)])


def _check_unicode(name: str, key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UsageError(f"limiter {name!r} was given the key {key!r}, which is not valid Unicode") from None


class Limiter(_Limiter):
    """A limit that all processes share, exact in every window; made by `Grid.limiter`.

    It may be used by any number of threads, and holds no state but what ``on_error="local"`` counts.

    Args:
        io: The driver.
        namespace: The first part of every key.
        name: The name under which processes share it.
        *rules: One to sixteen rates, such as ``"100/second"`` or ``Rate(100, per_s=1)``, which must all admit a hit.
        on_error: What `hit` and `peek` answer when the server is away, that is, instead of raising `Unavailable` or
            `OutcomeUnknown`: ``"raise"`` those; ``"allow"`` or ``"deny"`` the call; or decide ``"local"``, by windows
            of this process alone.  Refusals that no waiting heals, such as a wrong password, are always raised.
        budget: Longest time of one decision, repeats included, in seconds from 0.001; default is the command timeout.
            Once the server's breaker is open, no time is spent at all.
        share: With ``"local"``, the part of each limit that this process admits by itself, above 0 and at most 1:
            1/n keeps the limit for n processes; at least one unit is admitted.

    Raises:
        InvalidLimit: A rule cannot be read or kept.
        UsageError: The name is empty, or an option cannot be used.

    Not guaranteed by ``"local"``: the limit where n x share is above 1, nor in a window that holds both hits which the
    server admitted and hits which this process did: it may hold the sum of the two limits.  The server never hears of
    local hits.  A process keeps 10,000 keys, and forgets the one that was hit longest ago.
    """

    __slots__ = ()

    def hit(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* if every rule has room for them now; otherwise take nothing.

        Args:
            key: Whom to limit, such as a user or an address; each has windows of its own.
            cost: Units, a whole number from 1.

        Returns:
            The decision; it is true if the call is admitted.

        Raises:
            UsageError: *key* is empty or no string, or *cost* is not a whole number from 1.
            Unavailable: The server could not be reached in time; nothing was taken.  With ``on_error="raise"`` only.
            OutcomeUnknown: No answer came, after repeats; it may have been taken.  With ``on_error="raise"`` only.
            ServerError: The key holds something else, or the server refused.

        Guarantee: no window of a rule's length, half-open and on the server's clock, ever admits more than its limit;
            no call is denied that would have fitted; a denied call writes nothing; a hit that is repeated after a
            lost reply, within the longest window, counts once (tests/limits/).
        Not guaranteed: the count across a failover, which loses what was not yet replicated, across a step of the
            server's clock, or under an eviction policy that drops keys; and a copy of a lost request that comes after
            its repeat was answered counts as well.
        Cost: one round trip and one script of O(log n) in the hits that the longest window holds; 26 bytes for each
            of them up to 128, about 100 bytes above.
        """
        self._check(key, cost)
        try:
            verdict = run_sync(self._windows.hit(key, cost))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        return self._decision(verdict)

    def peek(self, key: str, cost: int = 1, *, read_from: ReadFrom = "primary") -> Decision:
        """Say what `hit` would answer now, and take nothing; `Decision.remaining` is what is left without this call.

        Args:
            key: As `hit`.
            cost: As `hit`.
            read_from: Who answers: the ``primary``; a ``replica`` only, for dashboards that shall cost the primary
                nothing; or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest
                hits, and looks at its own clock.

        Raises:
            UsageError: As `hit`; or *read_from* is ``replica``, and the URL names no replicas.
            Unavailable: The server could not be reached in time.
            ServerError: The key holds something else, or the server refused.

        Cost: one round trip and one script of O(log n) that writes nothing.
        """
        self._check(key, cost)
        try:
            verdict = run_sync(self._windows.peek(key, cost, source(read_from)))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=False)
        return self._decision(verdict)

    def reset(self, key: str) -> None:
        """Forget what *key* has used.

        A reset that is repeated after a lost reply also forgets what was hit in between.

        Raises:
            UsageError: *key* is empty or no string.
            Unavailable: The server could not be reached in time; nothing was forgotten.
            OutcomeUnknown: No answer came, after repeats.

        Cost: one command of O(1); memory is freed in the background.
        """
        self._check(key)
        self._fallback.reset(key)
        run_sync(self._windows.reset(key))


class AsyncLimiter(_Limiter):
    """The asyncio twin of `Limiter`: the same arguments, answers, errors and guarantees; made by `AsyncGrid.limiter`.

    It may be used by any number of tasks, and holds no state but what ``on_error="local"`` counts.  A cancelled `hit`
    may have been taken.
    """

    __slots__ = ()

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* if every rule has room for them now; see `Limiter.hit`."""
        self._check(key, cost)
        try:
            verdict = await self._windows.hit(key, cost)
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        return self._decision(verdict)

    async def peek(self, key: str, cost: int = 1, *, read_from: ReadFrom = "primary") -> Decision:
        """Say what `hit` would answer now, and take nothing; see `Limiter.peek`."""
        self._check(key, cost)
        try:
            verdict = await self._windows.peek(key, cost, source(read_from))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=False)
        return self._decision(verdict)

    async def reset(self, key: str) -> None:
        """Forget what *key* has used; see `Limiter.reset`."""
        self._check(key)
        self._fallback.reset(key)
        await self._windows.reset(key)
