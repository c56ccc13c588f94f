"""Leased permits: a limiter's decisions on one key, made in this process without asking anybody.

`Leased` and `AsyncLeased` say the same things in two worlds; made by `Limiter.leased`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from gridsync._io import run_sync
from gridsync._io.decided import CACHE, LEASE
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.limits._decision import Decision

if TYPE_CHECKING:
    from types import TracebackType

    from gridsync.limits._base import BaseLimiter
    from gridsync.limits._leasing import Answer, Leasing

_new = tuple.__new__


class BaseLeased:
    """Leased permits of no world yet."""

    __slots__ = ("_about", "_count", "_key", "_leasing", "_limiter", "_take")

    def __init__(self, limiter: BaseLimiter, key: str, leasing: Leasing) -> None:
        self._limiter, self._key, self._leasing = limiter, key, leasing
        self._take = leasing.permits.take
        self._count = limiter._count  # noqa: SLF001 - a part of it
        rule = limiter.rules[0]
        self._about = (rule.limit, 0.0, rule)
        """What decisions of the current batch say: the binding rule's limit, its reset, and the rule itself."""

    @property
    def key(self) -> str:
        """Whom it limits."""
        return self._key

    def __repr__(self) -> str:
        state = " closed" if self._leasing.closed else ""
        return f"<{type(self).__name__} {self._key!r} of {self._limiter!r}{state}>"

    def _told(self, answer: Answer, cost: int) -> Decision:
        decision = self._limiter._decision(answer.verdict, self._key, cost, answer.hit)  # noqa: SLF001 - a part of it
        if answer.source == "server":
            return decision
        if answer.source == "cache":
            self._count[CACHE + 1] += 1
        else:
            self._count[LEASE] += 1
            self._about = (decision.limit, decision.reset_after, decision.rule)
        return decision._replace(source=answer.source)


class Leased(BaseLeased):
    """Permits of one key, taken from the server in batches and used here; made by `Limiter.leased`.

    It may be used by any number of threads; use one for each key of a process.  Close it, or use it in a ``with``
    statement, so that what is unused goes back at once.  In the child of a fork it starts with nothing.
    """

    __slots__ = ()

    def hit(self, cost: int = 1) -> Decision:
        """Take *cost* units: from the batch that was leased, or else from the server, with a new batch.

        Args:
            cost: Units, a whole number from 1.

        Returns:
            The decision; it is true if the call is admitted.  Its `source` is ``lease`` if it was a leased permit,
            ``cache`` if it is a denial that the server gave lately, else as `Limiter.hit`.

        Raises:
            UsageError: *cost* is no whole number from 1, or this was closed; the others as `Limiter.hit`.

        Guarantee: no window ever admits more than its limit, whatever becomes of this process or of the network: a
            permit counts as used when its lease ends, and is not used later (tests/limits/test_leased.py).
        Not guaranteed: that a denial is needed: others may hold permits that they do not use, for at most the ttl, and
            those of a process that dies stay counted for the ttl and the window.
        Cost: about a microsecond, and one round trip for each batch.
        """
        if type(cost) is int and cost > 0:
            left = self._take(cost)
            if left >= 0:
                self._count[LEASE] += 1
                limit, reset, rule = self._about
                # Not by its own constructor, which is a Python function.
                return _new(Decision, (True, limit, left, 0.0, reset, rule, "lease", None, 0.0))
        self._limiter._check(self._key, cost)  # noqa: SLF001 - a part of it
        try:
            answer = run_sync(self._leasing.refill(cost))
        except (Unavailable, OutcomeUnknown) as error:
            return self._limiter._degraded(error, self._key, cost, take=True)  # noqa: SLF001
        return self._told(answer, cost)

    def enforce(self, cost: int = 1) -> Decision:
        """Take *cost* units as `hit` does, or raise `RateLimited`."""
        decision = self.hit(cost)
        if not decision.allowed:
            raise self._limiter._refusal(decision, self._key, cost)  # noqa: SLF001
        return decision

    def close(self) -> None:
        """Give back what is unused, and lease no more; safe to call twice.

        If the server is away, the watchdog goes on trying until the permits have left every window by themselves.

        Cost: one round trip, and one script of O(m log n) for the m entries that came after the batch.
        """
        run_sync(self._leasing.close())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


class AsyncLeased(BaseLeased):
    """The asyncio twin of `Leased`; made by `AsyncLimiter.leased`.

    It may be used by any number of tasks; a cancelled `hit` may have been taken, and leaves no batch behind.
    """

    __slots__ = ()

    async def hit(self, cost: int = 1) -> Decision:
        """Take *cost* units, from the batch or from the server with a new batch; see `Leased.hit`."""
        if type(cost) is int and cost > 0:
            left = self._take(cost)
            if left >= 0:
                self._count[LEASE] += 1
                limit, reset, rule = self._about
                return _new(Decision, (True, limit, left, 0.0, reset, rule, "lease", None, 0.0))
        self._limiter._check(self._key, cost)  # noqa: SLF001 - a part of it
        try:
            answer = await self._leasing.refill(cost)
        except (Unavailable, OutcomeUnknown) as error:
            return self._limiter._degraded(error, self._key, cost, take=True)  # noqa: SLF001
        return self._told(answer, cost)

    async def enforce(self, cost: int = 1) -> Decision:
        """Take *cost* units as `hit` does, or raise `RateLimited`; see `Leased.enforce`."""
        decision = await self.hit(cost)
        if not decision.allowed:
            raise self._limiter._refusal(decision, self._key, cost)  # noqa: SLF001
        return decision

    async def close(self) -> None:
        """Give back what is unused, and lease no more; see `Leased.close`."""
        await self._leasing.close()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()
