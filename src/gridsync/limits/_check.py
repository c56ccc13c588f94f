"""Several limiters asked together: all admit, or nothing is taken from any.

Where one script may touch all their keys, it runs the scripts of each, first those that look, then those that take:
nobody can come between.  On a Cluster the keys of different subjects lie in different slots, so there the limiters are
asked in turn, and what was taken is given back when one denies.  Then no limit is exceeded either, but others may be
denied because of what is about to be given back; the answer says so (`Checked.atomic`).
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.limits._base import BaseLimiter
from gridsync.limits._core import UNDO_S, VERDICT_LENGTH

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from gridsync._io import IO, Arg
    from gridsync.errors import GridsyncError
    from gridsync.limits._core import Prepared, Verdict, Windows
    from gridsync.limits._decision import Decision

_CHECK = load("gridsync.limits", "check")
ASKED_MAX = 64

Asked = tuple[BaseLimiter, str, int]
"""A limiter, whom it limits, and how many units."""


@dataclass(frozen=True, slots=True)
class Checked:
    """The answer of several limiters together.  It is true if all admit, and only then anything was taken."""

    allowed: bool
    """Whether the call is admitted."""
    decisions: tuple[Decision, ...]
    """What each limiter says, in the order in which they were asked.  If the call is denied, each says what it would
    answer alone, and has no ticket."""
    atomic: bool
    """Whether all were asked in one step; if not, they were asked in turn, and what was taken was given back."""
    asked: tuple[Asked, ...]
    """Who was asked."""

    @property
    def binding(self) -> Decision:
        """The decision that keeps the caller out longest, or, if the call is admitted, the one with least left."""
        if self.allowed:
            return min(self.decisions, key=lambda decision: decision.remaining)
        return max(self.decisions, key=lambda d: float("inf") if d.retry_after is None else d.retry_after)

    @property
    def retry_after(self) -> float | None:
        """Seconds after which the same call will be admitted if nobody else hits in between, ``None`` for never."""
        return self.binding.retry_after

    @property
    def degraded(self) -> bool:
        """Whether the server was away, so that the limiters' ``on_error`` decided."""
        return any(decision.degraded for decision in self.decisions)

    def __bool__(self) -> bool:
        """Whether the call is admitted."""
        return self.allowed


@dataclass(frozen=True, slots=True)
class Part:
    """What one limiter is asked."""

    limiter: BaseLimiter
    key: str
    cost: int
    windows: Windows
    call: Prepared

    def decision(self, verdict: Verdict, *, taken: bool) -> Decision:
        """Return what the limiter says; a limiter that would admit, and was not asked to, counts nothing."""
        hit = self.call.hit if taken or verdict[0] else ""
        return self.limiter._decision(verdict, self.key, self.cost, hit)  # noqa: SLF001 - a limiter's other half

    def degraded(self, error: GridsyncError, *, take: bool) -> Decision:
        """Return what the limiter says without a server, or raise *error*."""
        return self.limiter._degraded(error, self.key, self.cost, take=take)  # noqa: SLF001 - as above

    async def refund(self, timeout: float | None = None) -> None:
        """Give back what was taken."""
        await self.windows.refund(self.key, self.call.hit, self.cost, timeout=timeout)
        self.limiter._forget(self.key)  # noqa: SLF001 - as above


def parts(io: IO, asks: Iterable[tuple[BaseLimiter, str] | Asked]) -> list[Part]:
    """Read what is asked.

    Raises:
        UsageError: Somebody cannot be asked, or is asked twice for one key.
    """
    read: list[Part] = []
    for ask in asks:
        if not isinstance(ask, tuple) or len(ask) not in (2, 3):
            raise UsageError(f"check() asks (limiter, key) or (limiter, key, cost), not {ask!r:.100}")
        limiter, key, cost = (*ask, 1)[:3]
        if not isinstance(limiter, BaseLimiter):
            raise UsageError(f"check() asks limiters, not {limiter!r:.100}")
        limiter._check(key, cost)  # noqa: SLF001 - a limiter's other half
        windows = limiter._windows  # noqa: SLF001 - as above
        call = windows.prepared(key, cost)
        if call.io is not io:
            raise UsageError(f"check() asks limiters of its own grid, which {limiter!r} is not")
        read.append(Part(limiter, key, cost, windows, call))
    if not 1 <= len(read) <= ASKED_MAX:
        raise UsageError(f"check() asks 1 to {ASKED_MAX} limiters at once, not {len(read)}")
    if len({part.call.key for part in read}) < len(read):
        raise UsageError("check() asks a limiter twice for the same key; ask once, for the whole cost")
    return read


async def check(io: IO, asked: Sequence[Part]) -> Checked:
    """Take all or nothing, and say what each limiter says."""
    keys = [part.call.key for part in asked]
    together = len(keys) == 1 or io.together(keys)
    try:
        allowed, decisions = await (_together(io, keys, asked) if together else _in_turn(io, asked))
    except (Unavailable, OutcomeUnknown) as error:
        decisions = [part.degraded(error, take=False) for part in asked]
        allowed = all(decisions)
        if allowed:
            decisions = [part.degraded(error, take=True) for part in asked]
    return Checked(allowed, tuple(decisions), together, tuple((part.limiter, part.key, part.cost) for part in asked))


async def _together(io: IO, keys: Sequence[str], asked: Sequence[Part]) -> tuple[bool, list[Decision]]:
    args: list[Arg] = ["0"]
    for part in asked:
        call, peek = part.call, part.windows.looking
        names = (call.script.name.rpartition(".")[2], peek.name.rpartition(".")[2])
        args += [*names, str(len(call.hit_args)), str(len(call.peek_args)), *call.hit_args, *call.peek_args]
    admitted, *numbers = await io.run(_CHECK, keys, args, timeout=_budget(asked))
    verdicts = [numbers[at : at + VERDICT_LENGTH] for at in range(0, len(numbers), VERDICT_LENGTH)]
    allowed = admitted == 1
    return allowed, [part.decision(verdict, taken=allowed) for part, verdict in zip(asked, verdicts, strict=True)]


async def _in_turn(io: IO, asked: Sequence[Part]) -> tuple[bool, list[Decision]]:
    taken: list[tuple[Part, Verdict]] = []
    try:
        for part in asked:
            verdict = await part.windows.take(part.key, part.cost, part.call)
            if verdict[0] != 0:
                break
            taken.append((part, verdict))
        else:
            return True, [part.decision(verdict, taken=True) for part, verdict in taken]
        await io.gather(*(_refund(part) for part, _ in taken))
    except BaseException:
        for part, _ in taken:
            io.spawn(part.refund(UNDO_S))
        raise
    denied = part, verdict
    verdicts = await io.gather(*(part.windows.peek(part.key, part.cost) for part in asked if part is not denied[0]))
    looked = iter(verdicts)
    return False, [part.decision(denied[1] if part is denied[0] else next(looked), taken=False) for part in asked]


async def _refund(part: Part) -> None:
    """Give back what one limiter admitted; if that cannot be now it stays taken: too strict, and never too loose."""
    with suppress(Unavailable, OutcomeUnknown):
        await part.refund()


async def give_back(io: IO, checked: Checked) -> bool:
    """Give back what was taken; true if all of it was.

    Raises:
        UsageError: *checked* is no answer of `check`.
    """
    if not isinstance(checked, Checked):
        raise UsageError(f"refund() gives back what check() answered, not {checked!r:.100}")
    taken = [
        (limiter, decision.ticket)
        for (limiter, _, _), decision in zip(checked.asked, checked.decisions, strict=True)
        if decision.ticket is not None
    ]
    windows = [limiter._windows for limiter, _ in taken]  # noqa: SLF001 - a limiter's other half
    given = await io.gather(*(each.refund(*ticket) for each, (_, ticket) in zip(windows, taken, strict=True)))
    for limiter, ticket in taken:
        limiter._forget(ticket.key)  # noqa: SLF001 - as above
    return bool(given) and all(given)


def _budget(asked: Sequence[Part]) -> float | None:
    return min((part.call.timeout for part in asked if part.call.timeout is not None), default=None)
