"""`OncePer` and `AsyncOncePer`: at most one run per period, whoever comes first.

A hash tells which period was taken last, and by whom.  Nothing is held: a runner that dies has used its period.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gridsync import _units
from gridsync._io import Category, Command, load, run_sync
from gridsync._io.keys import once as once_key
from gridsync.locks._base import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from gridsync._io import IO

__all__ = ["AsyncOncePer", "OncePer", "Turn"]

ONCE = load("gridsync.locks", "once")
LAST = Command("HMGET", Category.READ, ("HMGET",))
PERIOD_LEAST_S = 0.1
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Turn:
    """A period that was taken."""

    begins: datetime
    """When the period begins, on the server's clock."""
    ends: datetime
    """When the next one does."""
    fence: int
    """Larger than that of every earlier run."""
    owner: str
    """The run that took it, whose identifier is unique among all processes."""


class OnceBase:
    """What both kinds share: a name and a period."""

    def __init__(self, io: IO, namespace: str, name: str, period: _units.Seconds) -> None:
        self._io = io
        self._name = _units.name(name, "the name of what runs once per period")
        what = f"the period of {name!r}"
        self._period_us = round(_units.seconds(period, what, least=PERIOD_LEAST_S) * 1_000_000)
        self._keys = (once_key(namespace, name),)

    async def _claim(self) -> Turn | None:
        run = self._io.token()
        mine, period, fence = await self._io.run(ONCE, self._keys, (run, str(self._period_us)))
        return self._turn(period, fence, run) if mine else None

    async def _last(self) -> Turn | None:
        period, fence, run = await self._io.run(LAST, self._keys, ("p", "t", "o"))
        return None if period is None else self._turn(int(period), int(fence), run.decode())

    def _turn(self, period: int, fence: int, owner: str) -> Turn:
        begins = _EPOCH + timedelta(microseconds=period * self._period_us)
        return Turn(begins, begins + timedelta(microseconds=self._period_us), fence, owner)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._name!r} period={self._period_us / 1e6:g}s>"


class OncePer(OnceBase):
    """At most one run per period among all processes; use it as a decorator, or with `claim`.

    Periods are counted on the server's clock from 1970 on in UTC, so that one of an hour begins with the hour, and one
    of a day at midnight UTC.

    Guarantee: on one primary no period is taken twice, also if a reply is lost or the clock is set back by less than a
    period.
    Not guaranteed: that every period has a run.  One that fails, or dies, has used its period: what must be done at
    least once, and not at most once, needs a lock and a record of what was done.  A run that lasts for longer than its
    period overlaps with the next; use a lock inside if it must not.
    """

    def claim(self) -> Turn | None:
        """Take the current period, or return ``None`` because it was taken.

        Raises:
            OutcomeUnknown: The server stopped answering; the period may be taken by nobody.
            Unavailable: The server could not be reached; nothing was taken.

        Cost: one round trip, O(1).
        """
        return run_sync(self._claim())

    def last(self) -> Turn | None:
        """Return the last period that anybody took, or ``None`` if none was taken for two periods.

        That it was taken does not say that its run has ended, or ended well.

        Raises:
            Unavailable: The server could not be reached.

        Cost: one round trip, O(1); changes nothing.
        """
        return run_sync(self._last())

    def __call__(self, function: Callable[P, R]) -> Callable[P, R | None]:
        """Return *function* so that a call runs it if the period is free, and else returns ``None`` at once.

        Raises:
            UsageError: It is a coroutine function or a generator.
        """
        refuse(self, function, coroutine=False)

        @functools.wraps(function)
        def once(*args: P.args, **options: P.kwargs) -> R | None:
            return None if self.claim() is None else function(*args, **options)

        return once


class AsyncOncePer(OnceBase):
    """At most one run per period among all processes; use it as a decorator, or with `claim`.

    Periods are counted on the server's clock from 1970 on in UTC, so that one of an hour begins with the hour, and one
    of a day at midnight UTC.

    Guarantee: on one primary no period is taken twice, also if a reply is lost or the clock is set back by less than a
    period.
    Not guaranteed: that every period has a run.  One that fails, is cancelled, or dies, has used its period: what must
    be done at least once, and not at most once, needs a lock and a record of what was done.  A run that lasts for
    longer than its period overlaps with the next; use a lock inside if it must not.
    """

    async def claim(self) -> Turn | None:
        """Take the current period, or return ``None`` because it was taken.

        Raises:
            OutcomeUnknown: The server stopped answering; the period may be taken by nobody.
            Unavailable: The server could not be reached; nothing was taken.

        Cost: one round trip, O(1).
        """
        return await self._claim()

    async def last(self) -> Turn | None:
        """Return the last period that anybody took, or ``None`` if none was taken for two periods.

        That it was taken does not say that its run has ended, or ended well.

        Raises:
            Unavailable: The server could not be reached.

        Cost: one round trip, O(1); changes nothing.
        """
        return await self._last()

    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]]) -> Callable[P, Coroutine[Any, Any, R | None]]:
        """Return *function* so that a call runs it if the period is free, and else returns ``None`` at once.

        Raises:
            UsageError: It is no coroutine function.
        """
        refuse(self, function, coroutine=True)

        @functools.wraps(function)
        async def once(*args: P.args, **options: P.kwargs) -> R | None:
            return None if await self.claim() is None else await function(*args, **options)

        return once
