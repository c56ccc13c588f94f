"""What several policies say to one request together, and how it is told."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from math import ceil
from typing import TYPE_CHECKING, NamedTuple

from gridsync.contrib._leases import Leases
from gridsync.contrib._policy import RETRY_S, Asked, Policy
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, UsageError
from gridsync.grid import AsyncGrid

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gridsync._io.aio import AsyncIO
    from gridsync.contrib._scope import Scope
    from gridsync.limits import AsyncLimiter, Checked, Decision

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
    """Of those policies that are no shadows, in their order; none if the server was away and a policy raises."""
    held: list[Asked]
    """Whose slots the request holds until it has ended: for `Gate.give_back`."""


class Gate:
    """Several policies.  All of them admit a request, or nothing is taken from any."""

    def __init__(self, grid: GridOf, policies: Iterable[Policy]) -> None:
        """Check that they can stand side by side.

        Raises:
            UsageError: There is none, one is no policy, or two have the same name.
        """
        if isinstance(policies, Policy):
            raise UsageError(f"policies must be several, such as [{policies!r}], not one")
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
        self._leases: list[Leases | None] = []
        self._undoing: set[asyncio.Task[None]] = set()

    async def judge(self, scope: Scope) -> Verdict:
        """Ask the policies that a request concerns."""
        grid, asked = self._asked(scope)
        enforced = [one for one in asked if not one.policy.shadow]
        if enforced:
            try:
                await self._decide(grid, enforced)
            except (Unavailable, OutcomeUnknown):
                for one in enforced:
                    one.policy.counts.failed += 1
                return away(enforced)
            denied = [one for one in enforced if one.denies]
            for one in denied or enforced:
                one.count()
            if denied:
                return told(enforced, denied)
        more = [look(one) for one in asked if one.policy.shadow] + [one.look_ahead() for one in enforced if one.used_up]
        if more:
            try:
                await asyncio.gather(*more)
            except BaseException:
                self._give_back([one for one in asked if one.decision is not None])  # shadows hold slots, too
                raise
        return told(enforced, [])._replace(held=[one for one in asked if one.holds])

    async def _decide(self, grid: AsyncGrid, enforced: list[Asked]) -> None:
        """Take from all of them or from none; what a cancelled caller took is given back."""
        if len(enforced) == 1:
            enforced[0].decision = await enforced[0].hit()
            return
        shared = [one for one in enforced if one.leases is None]
        for one, decision in zip(shared, await self._take(grid, shared), strict=True):
            one.decision = decision
        leased = [one for one in enforced if one.leases is not None]
        if not leased or any(one.denies for one in shared):
            return
        try:
            for one in leased:
                one.decision = await one.hit()
                if one.denies:
                    break
            else:
                return
        except BaseException:
            self._give_back(shared)
            raise
        if shared:
            await self.give_back(shared)
        for one in shared:
            one.decision = None  # as if it had not been asked

    async def _take(self, grid: AsyncGrid, enforced: list[Asked]) -> Sequence[Decision]:
        """Take from all of those that lease nothing, or from none."""
        if not enforced:
            return []
        checking = asyncio.ensure_future(grid.limits.check([(one.limiter, one.key, one.cost) for one in enforced]))
        try:
            return (await asyncio.shield(checking)).decisions
        except asyncio.CancelledError:
            self._keep(asyncio.ensure_future(undo(grid, checking)))
            raise

    async def give_back(self, held: list[Asked]) -> None:
        """Give back the slots of a request that has ended; goes on if the caller is cancelled."""
        await asyncio.wait(self._give_back(held))

    def _give_back(self, asked: list[Asked]) -> set[asyncio.Task[None]]:
        giving = {asyncio.ensure_future(give_back(one)) for one in asked}
        for task in giving:
            self._keep(task)
        return giving

    def _keep(self, task: asyncio.Task[None]) -> None:
        """Hold on to a task that nobody may be waiting for."""
        self._undoing.add(task)
        task.add_done_callback(self._undoing.discard)

    def _asked(self, scope: Scope) -> tuple[AsyncGrid, list[Asked]]:
        """Return the policies that a request concerns, with their limiters."""
        grid = self._grid if isinstance(self._grid, AsyncGrid) else self._grid(scope)
        io = grid._io  # noqa: SLF001 - a limiter lives as long as its grid's driver
        if self._io is not io:
            self._limiters = [policy.limiter(grid) for policy in self._policies]
            self._leases = [
                Leases(limiter) if policy.leased else None
                for policy, limiter in zip(self._policies, self._limiters, strict=True)
            ]
            self._io = io
        asked = []
        for policy, limiter, leases in zip(self._policies, self._limiters, self._leases, strict=True):
            wants = policy.asks(scope)
            if wants is not None:
                asked.append(Asked(policy, limiter, *wants, leases))
        return grid, asked


async def look(shadow: Asked) -> None:
    """Ask a policy that must not trouble anybody."""
    try:
        shadow.decision = await shadow.hit()
    except GridsyncError as error:
        shadow.policy.counts.failed += 1
        logger.info("shadow policy %r could not be asked: %s", shadow.policy.name, error)
    else:
        shadow.count()


async def undo(grid: AsyncGrid, checking: asyncio.Future[Checked]) -> None:
    """Give back what was taken for a request that was cancelled meanwhile; if that fails, it stays counted."""
    try:
        await grid.limits.refund(await checking)
    except GridsyncError as error:
        logger.info("what a cancelled request took stays counted: %s", error)


async def give_back(one: Asked) -> None:
    """Give back what one policy took; if that fails, it stays counted."""
    try:
        await one.limiter.refund(one.decision.ticket if one.decision is not None else None)
    except GridsyncError as error:
        logger.info("policy %r could not give back what a request took: %s", one.policy.name, error)


def told(enforced: list[Asked], denied: list[Asked]) -> Verdict:
    """Put into words what the policies said."""
    headers = policy_headers(enforced)
    items = [item for one in enforced if (item := one.limit_item()) is not None]
    if items:
        headers.append(("ratelimit", ", ".join(items)))
    decisions = [one.decision for one in enforced if one.decision is not None]
    if not denied:
        return Verdict(None, headers, decisions, [])
    waits = [one.retry_after_s for one in denied]
    longest = None if None in waits else max(wait for wait in waits if wait is not None)
    if longest is not None:
        headers.append(("retry-after", str(ceil(longest))))
    return Verdict(problem(denied), headers, decisions, [])


def away(enforced: list[Asked]) -> Verdict:
    """Say that nobody could be asked."""
    return Verdict(problem(enforced), [*policy_headers(enforced), ("retry-after", str(ceil(RETRY_S)))], [], [])


def policy_headers(enforced: list[Asked]) -> list[tuple[str, str]]:
    """Return the ``RateLimit-Policy`` of a request that any policy concerns."""
    items = [item for one in enforced for item in one.policy_items()]
    return [("ratelimit-policy", ", ".join(items))] if items else []


def problem(refusing: list[Asked]) -> Problem:
    """Say why a request is refused: because of a quota, or for want of a server."""
    violated = [name for one in refusing if (name := one.violated()) is not None]
    status, kind = (TOO_MANY, "quota-exceeded") if violated else (AWAY, "temporary-reduced-capacity")
    body: dict[str, object] = {"type": TYPES + kind, "title": TITLES[kind], "status": status}
    body["detail"] = "; ".join(one.why() for one in refusing)
    if violated:
        body["violated-policies"] = violated
    return Problem(status, body)
