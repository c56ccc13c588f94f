"""What limiters of both worlds share: the checks of arguments, and the way from integers to a decision or an error."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Literal

from gridsync._io.decided import CACHE, LOCAL, POLICY
from gridsync._io.denials import Denials
from gridsync._io.permits import Permits
from gridsync._units import count, seconds
from gridsync._units import name as checked
from gridsync.errors import InvalidLimit, RateLimited, UsageError
from gridsync.limits._algorithms import Slots, algorithm
from gridsync.limits._core import Windows
from gridsync.limits._decision import Decision, Ticket
from gridsync.limits._fallback import Fallback
from gridsync.limits._leasing import TTL_MAX_S, TTL_MIN_S, TTL_OF_WINDOW, Leasing
from gridsync.limits._options import check_options
from gridsync.limits._rate import LIMIT_MAX, Rate
from gridsync.limits._rules import read_rule

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync._units import Seconds
    from gridsync.errors import GridsyncError
    from gridsync.limits._core import Verdict
    from gridsync.limits._fallback import OnError, Share
    from gridsync.limits._rules import Rule

_new = tuple.__new__
RULES_MAX = 16
WAIT_MAX_S = 3600.0
"""The longest wait; the scripts believe no reservation that lies further ahead."""


class BaseLimiter:
    """A limiter of no world yet."""

    __slots__ = ("_count", "_denials", "_fallback", "_io", "_learn", "_name", "_rules", "_windows")

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *rules: str | Rule,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        resolution: Seconds | None = None,
    ) -> None:
        checked(name, "a limiter's name")
        if not rules:
            raise InvalidLimit(f"limiter {name!r} has no rule; pass one or more such as '100/second'")
        if len(rules) > RULES_MAX:
            raise InvalidLimit(f"limiter {name!r} has {len(rules)} rules; at most {RULES_MAX} are checked at once")
        self._io, self._name = io, name
        self._rules = tuple(map(read_rule, rules))
        timeout = check_options(
            f"limiter {name!r}", self._rules, on_error=on_error, budget=budget, share=share, deny_cache=deny_cache
        )
        tick_us = None if resolution is None else self._tick_us(resolution)
        self._windows = algorithm(io, namespace, name, self._rules, timeout=timeout, tick_us=tick_us)
        self._fallback = Fallback(
            io, namespace, name, [rule.quota for rule in self._rules], policy=on_error, share=share
        )
        self._learn = self._fallback.learn if on_error == "local" else None
        self._count = io.decisions(name)
        self._denials = Denials(deny_cache, io.monotonic) if deny_cache else None

    def _tick_us(self, resolution: Seconds) -> int:
        """Check the resolution, and return it in microseconds."""
        rates = [rule for rule in self._rules if isinstance(rule, Rate)]
        if len(rates) < len(self._rules):
            raise UsageError(f"resolution of limiter {self._name!r} is for sliding windows, not {self._rules[0]}")
        most = min(rate.per_s for rate in rates)
        return round(seconds(resolution, f"resolution of limiter {self._name!r}", most=most) * 1_000_000)

    @property
    def name(self) -> str:
        """The name under which processes share this limiter."""
        return self._name

    @property
    def rules(self) -> tuple[Rule, ...]:
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
            raise UsageError(
                f"the cost of a hit on limiter {self._name!r} must be a whole number from 1 to"
                f" {LIMIT_MAX}, not {cost!r:.100}"
            )

    def _decision(self, verdict: Verdict, key: str = "", cost: int = 1, hit: str = "", delay_us: int = 0) -> Decision:
        retry_us, remaining, reset_us, index = verdict
        rule = self._rules[index]
        retry_after = retry_us / 1_000_000 if retry_us >= 0 else None
        # Not by their own constructors, which are Python functions: a fifth of a microsecond each, on every hit.
        ticket = _new(Ticket, (key, hit, cost)) if hit and retry_us == 0 else None
        reset_after, delay = reset_us / 1_000_000, delay_us / 1_000_000
        admitted = retry_us == 0
        if hit:
            self._count[0 if admitted else 1 if retry_us > 0 else 2] += 1
            if self._learn is not None:
                self._learn(key, verdict)
        return _new(
            Decision, (admitted, rule.limit, remaining, retry_after, reset_after, rule, "server", ticket, delay)
        )

    def _remembered(self, verdict: Verdict) -> Decision:
        self._count[CACHE + 1] += 1
        return self._decision(verdict)._replace(source="cache")

    def _forget(self, key: str) -> None:
        if self._denials is not None:
            self._denials.forget(key)

    def _wait_us(self, key: str, cost: int, longest: Seconds, what: str) -> int:
        """Check the arguments of a call that may wait, and return how long in microseconds."""
        self._check(key, cost)
        if not self._windows.can_wait:
            raise UsageError(
                f"nobody can wait in line for limiter {self._name!r} ({self._rules[0]}): that takes sliding windows or"
                " GCRA, or a semaphore; use hit() or enforce(), and come again after retry_after"
            )
        return int(seconds(longest, f"{what} of limiter {self._name!r}", most=WAIT_MAX_S) * 1_000_000)

    def _slots(self) -> Slots:
        if not isinstance(self._windows, Slots):
            raise UsageError(
                f"limiter {self._name!r} ({self._rules[0]}) counts beginnings, which no block gives back at its end:"
                " use enforce(), or a limiter whose rule is Concurrency"
            )
        return self._windows

    def _leasing(self, key: str, ttl: Seconds | None, batch: int | None) -> Leasing:
        """Check the arguments of `leased`, and return what leases permits of *key*."""
        self._check(key)
        what = f"limiter {self._name!r}"
        if type(self._windows) is not Windows:
            raise UsageError(f"{what} ({self._rules[0]}) leases no permits: that takes sliding windows; use hit()")
        quotas = [rule.quota for rule in self._rules]
        shortest_s = min(window_us for _, window_us in quotas) / 1_000_000
        if shortest_s < 2 * TTL_MIN_S:
            raise UsageError(f"{what} has a window of {shortest_s:g} s: too short for leases; use hit()")
        ttl_s = min(max(shortest_s / TTL_OF_WINDOW, TTL_MIN_S), TTL_MAX_S)
        if ttl is not None:
            ttl_s = seconds(ttl, f"ttl of a lease of {what}", least=TTL_MIN_S, most=shortest_s / 2)
        most = min(limit for limit, _ in quotas)
        if batch is not None:
            most = min(most, count(batch, f"batch of a lease of {what}", LIMIT_MAX))
        return Leasing(self._windows, key, quotas, Permits(self._io.monotonic), ttl_s=ttl_s, most=most)

    def _check_ticket(self, ticket: Ticket) -> None:
        if not isinstance(ticket, Ticket):
            raise UsageError(f"limiter {self._name!r} gives back what a Decision.ticket names, not {ticket!r}")
        self._check(ticket.key, ticket.cost)

    def _degraded(self, error: GridsyncError, key: str, cost: int, *, take: bool) -> Decision:
        """Answer in place of a server that is away, or raise *error*."""
        fallback = self._fallback
        if fallback.policy == "raise":
            raise error
        decision = self._decision(fallback.answer(key, cost, take=take))
        source: Literal["local", "policy"] = "local" if fallback.policy == "local" else "policy"
        if take:
            how = 0 if decision.allowed else 2 if decision.retry_after is None else 1
            self._count[(LOCAL if source == "local" else POLICY) + how] += 1
        return decision._replace(source=source, limit=fallback.limits[self._rules.index(decision.rule)])

    def _waited(self, decision: Decision, key: str, cost: int) -> Decision:
        """Tell how long a caller waited for its turn, or raise if it has none."""
        if not decision.allowed:
            raise self._refusal(decision, key, cost)
        self._io.tally("limit.wait", self._name, decision.delay)
        return decision

    def _refusal(self, decision: Decision, key: str, cost: int) -> RateLimited:
        """Say in words why a call is denied."""
        if decision.retry_after is None:
            why = f"a cost of {cost} is above the limit and never fits; split the call, or raise the limit"
        elif decision.source == "policy":
            why = f"the server is away, and on_error='deny'; ask again in {decision.retry_after:g} s"
        else:
            why = f"{cost} asked for, {decision.remaining} left; come again in {decision.retry_after:g} s"
        message = f"limiter {self._name!r} denies {key!r} by its rule {decision.rule}: {why}"
        return RateLimited(message, name=self._name, key=key, retry_after=decision.retry_after)

    def _refuse(self, function: object, *, coroutine: bool) -> None:
        """Refuse to limit a function of the other world, or a generator, whose body runs after the call."""
        if not callable(function):
            raise UsageError(f"{self!r} limits functions, not {function!r:.100}: write @limiter.limited(key=...)")
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise UsageError(f"{function!r} is a generator: its body runs after the call; use enforce() inside it")
        if inspect.iscoroutinefunction(function) != coroutine:
            wanted = "a coroutine function" if coroutine else "a plain function"
            raise UsageError(f"{self!r} can only decorate {wanted}, not {function!r}")


def _check_unicode(name: str, key: str) -> None:
    try:
        key.encode()
    except UnicodeEncodeError:
        raise UsageError(f"limiter {name!r} was given the key {key!r}, which is not valid Unicode") from None
