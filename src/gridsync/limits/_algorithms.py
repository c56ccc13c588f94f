"""What limiters of other rules than sliding windows decide: which scripts answer, and what they are told.

All scripts keep the contract of those of `Windows`: the same first arguments, the same answer.  So their calls, waits
and refunds are those of `Windows` too.

**Bucket** (`GCRA`): a string that says when the bucket will be full again, to a fraction of a microsecond.  A
reservation only moves that moment further ahead, past what the bucket holds.  **Counters** (`FixedWindow`,
`ApproxWindow`): a string with the beginning of the window, what it holds, and what the one before held.  **Slots**
(`Concurrency`): a sorted set, a member for each slot that is taken, by the time at which it is free again.

A bucket and a counter remember their sixteen newest hits, so that a repeat is recognised and a refund given once; the
members of a sorted set are such a memory by themselves.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import limit
from gridsync.errors import InvalidLimit, OutcomeUnknown, Unavailable
from gridsync.limits._core import UNDO_S, Windows
from gridsync.limits._rate import Rate
from gridsync.limits._rules import GCRA, ApproxWindow, Concurrency, FixedWindow

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.limits._core import Verdict
    from gridsync.limits._decision import Ticket
    from gridsync.limits._rules import Rule


class _Single(Windows):
    """An algorithm whose limiters have one rule, told to the scripts as *args*."""

    __slots__ = ("_suffix",)

    def __init__(
        self, io: IO, namespace: str, name: str, suffix: str, args: Sequence[int], *, timeout: float | None
    ) -> None:
        self._io, self._namespace, self._name, self._timeout = io, namespace, name, timeout
        self._suffix, self._bound = suffix, None
        self._prefix = limit(namespace, name, "").removesuffix("}")
        flat = tuple(map(str, args))
        self._peek_args, self._wait_args, self._refund_args, self._rule_args = flat, flat, flat, flat
        self._merges = False

    def _key(self, subject: str) -> str:
        return super()._key(subject) + self._suffix


class Bucket(_Single):
    """The buckets of one limiter, for every subject."""

    __slots__ = ()

    looking, giving_back = load("gridsync.limits", "gcra_peek"), load("gridsync.limits", "gcra_refund")
    waiting = load("gridsync.limits", "gcra_hit")

    def __init__(self, io: IO, namespace: str, name: str, rule: GCRA, *, timeout: float | None) -> None:
        """Prepare what does not change from call to call."""
        p, q = rule.interval
        super().__init__(io, namespace, name, ":bucket", (p, q, rule.limit), timeout=timeout)
        self._hit, self._rule_args = self.waiting, (str(p), "0", str(q), str(rule.limit))


class Counters(_Single):
    """The counters of one limiter, for every subject."""

    __slots__ = ()

    looking, giving_back = load("gridsync.limits", "counter_peek"), load("gridsync.limits", "counter_refund")
    can_wait = False

    def __init__(
        self, io: IO, namespace: str, name: str, rule: FixedWindow | ApproxWindow, *, timeout: float | None
    ) -> None:
        """Prepare what does not change from call to call."""
        weighted = isinstance(rule, ApproxWindow)
        args = (rule.limit, rule.window_us, int(weighted))
        super().__init__(io, namespace, name, ":approx" if weighted else ":fixed", args, timeout=timeout)
        self._hit = load("gridsync.limits", "counter_hit")


class Slots(_Single):
    """The slots of one limiter, for every subject."""

    __slots__ = ()

    looking, giving_back = load("gridsync.limits", "slot_peek"), load("gridsync.limits", "slot_refund")
    can_wait = False

    def __init__(self, io: IO, namespace: str, name: str, rule: Concurrency, *, timeout: float | None) -> None:
        """Prepare what does not change from call to call."""
        super().__init__(io, namespace, name, ":slots", (rule.limit,), timeout=timeout)
        self._hit, self._rule_args = load("gridsync.limits", "slot_hit"), (str(rule.limit), str(rule.window_us))
        self._refund_args = ()

    async def hit(self, subject: str, cost: int) -> tuple[Verdict, str]:
        """Take *cost* slots, or none; returns the hit's id too.  Who is interrupted has none."""
        call = self.prepared(subject, cost)
        return await self.take(subject, cost, call), call.hit

    async def leave(self, ticket: Ticket | None) -> None:
        """Give slots back at the end of a block; if the server does not hear of it, their time ends by itself."""
        if ticket is None:
            return
        try:
            await self.refund(*ticket)
        except (Unavailable, OutcomeUnknown):
            pass
        except BaseException:
            self._io.spawn(self.refund(*ticket, timeout=UNDO_S))
            raise


def algorithm(
    io: IO, namespace: str, name: str, rules: Sequence[Rule], *, timeout: float | None, tick_us: int | None = None
) -> Windows:
    """Return what decides by *rules*; *tick_us* is for sliding windows.

    Raises:
        InvalidLimit: There are several, and not all of them are sliding windows.
    """
    rates = [rule for rule in rules if isinstance(rule, Rate)]
    if len(rates) == len(rules):
        windows = [(rate.limit, rate.window_us) for rate in rates]
        return Windows(io, namespace, name, windows, timeout=timeout, tick_us=tick_us)
    if len(rules) > 1 or isinstance(rules[0], Rate):
        told = ", ".join(map(str, rules))
        raise InvalidLimit(
            f"limiter {name!r} has several rules ({told}), which only sliding windows can share;"
            " make a limiter for each, and ask them together with grid.limits.check()"
        )
    rule = rules[0]
    if isinstance(rule, GCRA):
        return Bucket(io, namespace, name, rule, timeout=timeout)
    if isinstance(rule, FixedWindow | ApproxWindow):
        return Counters(io, namespace, name, rule, timeout=timeout)
    return Slots(io, namespace, name, rule, timeout=timeout)
