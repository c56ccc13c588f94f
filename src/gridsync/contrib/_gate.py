"""What several policies say to one request together, and how it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from gridsync.contrib._policy import Asked, Policy
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, UsageError
from gridsync.grid import AsyncGrid

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync._io.aio import AsyncIO
    from gridsync.contrib._scope import Scope
    from gridsync.limits import AsyncLimiter, Decision

logger = logging.getLogger("gridsync")

GridOf = AsyncGrid | Callable[["Scope"], AsyncGrid]
"""The grid, or a function that finds it in the scope of a request."""

TYPES = "https://iana.org/assignments/http-problem-types#"
TOO_MANY, AWAY = 429, 503
TITLES = {
    "quota-exceeded": "Request cannot be satisfied as assigned quota has been exceeded",
    "temporary-reduced-capacity": "Request cannot be satisfied due to temporary server capacity constraints",
}


class Problem(NamedTuple):
    """Why a request is refused (RFC 9457)."""

    status: int
    body: dict[str, object]


class Verdict(NamedTuple):
    """What all policies said."""

    problem: Problem | None
    """``None`` if the request is admitted."""
    headers: list[tuple[str, str]]
    """What the response shall say, refused or not."""
    decisions: list[Decision]
    """Of those policies that are no shadows, in their order, up to the first that denied."""
    held: list[Asked]
    """Whose slots the request holds until it has ended: for `Gate.give_back`."""


class Gate:
    """Several policies in order.  All of them admit a request, or nothing is taken from any."""

    def __init__(self, grid: GridOf, policies: Iterable[Policy]) -> None:
        """Check that they can stand side by side.

        Raises:
            UsageError: There is none, one is no policy, or two have the same name.
        """
        self._grid = grid
        self._policies = tuple(policies)
        if not isinstance(grid, AsyncGrid) and not callable(grid):
            raise UsageError(f"grid must be an AsyncGrid, or a function that returns one, not {grid!r:.100}")
        if not self._policies:
            raise UsageError("there is no policy; pass one or more such as Policy('api', '100/minute', key=…)")
        for policy in self._policies:
            if not isinstance(policy, Policy):
                raise UsageError(f"a policy is a gridsync.contrib.asgi.Policy, not {policy!r:.100}")
        names = [policy.name for policy in self._policies]
        if len(set(names)) < len(names):
            raise UsageError(f"two policies have the same name, and would share a limiter: {names}")
        self._io: AsyncIO | None = None
        self._limiters: list[AsyncLimiter] = []
        self._undoing: set[asyncio.Task[None]] = set()

    async def judge(self, scope: Scope) -> Verdict:
        """Ask the policies that a request concerns."""
        asked = self._asked(scope)
        if not asked:
            return Verdict(None, [], [], [])
        refusing: list[Asked] = []
        try:
            for number, one in enumerate(asked, start=1):
                await self._ask(one)
                if one.refuses:
                    refusing = [one, *await self._others(one, asked[number:])]
                    break
        except BaseException:
            # Cancelled, or an error that no policy stands for.  What was under way may have been taken.
            self._undo(asked)
            raise
        if refusing:
            await self.give_back(asked)
        return told(asked, refusing)

    async def give_back(self, asked: list[Asked]) -> None:
        """Give back what was taken; goes on if the caller is cancelled."""
        if undoing := self._undo(asked):
            await asyncio.wait(undoing)

    def _undo(self, asked: list[Asked]) -> set[asyncio.Task[None]]:
        taken = [one for one in asked if one.decision is not None and one.decision.ticket is not None]
        tasks = {asyncio.ensure_future(give_back(one)) for one in taken}
        self._undoing |= tasks
        for task in tasks:
            task.add_done_callback(self._undoing.discard)
        return tasks

    def _asked(self, scope: Scope) -> list[Asked]:
        asked = []
        for policy, limiter in zip(self._policies, self._bound(scope), strict=True):
            wants = policy.asks(scope)
            if wants is not None:
                asked.append(Asked(policy, limiter, *wants))
        return asked

    def _bound(self, scope: Scope) -> list[AsyncLimiter]:
        """Return the limiters of the policies, made anew when the grid was opened anew."""
        grid = self._grid if isinstance(self._grid, AsyncGrid) else self._grid(scope)
        io = grid._io  # noqa: SLF001 - a limiter lives as long as its grid's driver
        if self._io is not io:
            self._limiters = [policy.limiter(grid) for policy in self._policies]
            self._io = io
        return self._limiters

    async def _ask(self, one: Asked) -> None:
        try:
            one.decision = await one.limiter.hit(one.key, one.cost)
        except (Unavailable, OutcomeUnknown) as error:
            one.error = error
        one.count()

    async def _others(self, first: Asked, rest: list[Asked]) -> list[Asked]:
        """Return those that would deny too, so that a client is not told to come again too early."""
        if first.decision is None or first.decision.degraded:
            return []  # nobody asks a server twice that is away
        enforced = [one for one in rest if not one.policy.shadow]
        looks = [one.limiter.peek(one.key, one.cost) for one in enforced]
        for one, look in zip(enforced, await asyncio.gather(*looks, return_exceptions=True), strict=True):
            if isinstance(look, GridsyncError):
                continue
            if isinstance(look, BaseException):
                raise look
            one.decision = look
        return [one for one in enforced if one.decision is not None and not one.decision.allowed]


async def give_back(one: Asked) -> None:
    """Give back what one policy took; if that fails, it stays counted."""
    try:
        await one.limiter.refund(one.decision.ticket if one.decision is not None else None)
    except GridsyncError as error:
        logger.info("policy %r could not give back what a request took: %s", one.policy.name, error)


def told(asked: list[Asked], refusing: list[Asked]) -> Verdict:
    """Put into words what the policies said."""
    shown = [one for one in asked if not one.policy.shadow]
    headers = []
    if shown:
        headers.append(("ratelimit-policy", ", ".join(item for one in shown for item in one.policy_items())))
    items = [item for one in shown if (item := one.limit_item(given_back=bool(refusing))) is not None]
    if items:
        headers.append(("ratelimit", ", ".join(items)))
    decisions = [one.decision for one in shown if one.decision is not None]
    if not refusing:
        return Verdict(None, headers, decisions, [one for one in asked if one.holds])
    waits = [one.retry_after_s for one in refusing]
    longest = None if None in waits else max(wait for wait in waits if wait is not None)
    if longest is not None:
        headers.append(("retry-after", str(ceil(longest))))
    violated = [name for one in refusing if (name := one.violated()) is not None]
    status, kind = (TOO_MANY, "quota-exceeded") if violated else (AWAY, "temporary-reduced-capacity")
    body: dict[str, object] = {"type": TYPES + kind, "title": TITLES[kind], "status": status}
    body["detail"] = "; ".join(one.why() for one in refusing)
    if violated:
        body["violated-policies"] = violated
    return Verdict(Problem(status, body), headers, decisions, [])
