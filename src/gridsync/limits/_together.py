"""`Limits` and `AsyncLimits`: what is asked of several limiters at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io import run_sync
from gridsync.limits import _check

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync._io import IO
    from gridsync.limits._api import AsyncLimiter, Limiter
    from gridsync.limits._check import Checked


class Limits:
    """All limiters of a grid; `Grid.limits`."""

    __slots__ = ("_io",)

    def __init__(self, io: IO) -> None:
        """Keep the driver."""
        self._io = io

    def check(self, asks: Iterable[tuple[Limiter, str] | tuple[Limiter, str, int]]) -> Checked:
        """Take units from several limiters, from all of them or from none.

        ::

            grid.limits.check([(per_member, "ada", 1), (per_address, "192.0.2.7", 1), (bytes_out, "all", 5_000)])

        Args:
            asks: Of each limiter, whom it limits, and how many units; without a number one.  1 to 64 limiters, with
                rules of any kind.

        Returns:
            What each of them says, and whether all admit; it is true if they do.

        Raises:
            UsageError: As `Limiter.hit`; a limiter is another grid's, or is asked twice for the same key.
            Unavailable: The server could not be reached in time; nothing was taken.  If a limiter's ``on_error`` is
                ``"raise"``; else each is asked for its policy, and all must admit.
            OutcomeUnknown: As `Limiter.hit`, as above.
            ServerError: As `Limiter.hit`.

        Guarantee: all or nothing; no limit is exceeded; a call that is repeated after a lost reply counts once.  On one
            server, also behind sentinels, nobody comes between, and a denied call writes nothing
            (tests/limits/test_check.py).
        Not guaranteed on a Cluster, where `Checked.atomic` is false: the limiters are asked in turn, and what was taken
            is given back when one denies; until then others may be denied because of it, and if it cannot be given
            back it stays taken.
        Cost: one round trip and one script, which costs a peek and a hit of each limiter; on a Cluster a round trip for
            each limiter, and two more if one denies.
        """
        return run_sync(_check.check(self._io, _check.parts(self._io, asks)))

    def refund(self, checked: Checked) -> bool:
        """Give back all that a `check` took.

        Returns:
            True if all of it was given back; see `Limiter.refund`.

        Raises:
            UsageError: *checked* is no answer of `check`.  The others as `Limiter.refund`.

        Cost: a round trip for each limiter.
        """
        return run_sync(_check.give_back(self._io, checked))


class AsyncLimits:
    """The asyncio twin of `Limits`; `AsyncGrid.limits`."""

    __slots__ = ("_io",)

    def __init__(self, io: IO) -> None:
        """Keep the driver."""
        self._io = io

    async def check(self, asks: Iterable[tuple[AsyncLimiter, str] | tuple[AsyncLimiter, str, int]]) -> Checked:
        """Take units from several limiters, from all of them or from none; see `Limits.check`.

        A cancelled call may have been taken on one server; on a Cluster it gives back.
        """
        return await _check.check(self._io, _check.parts(self._io, asks))

    async def refund(self, checked: Checked) -> bool:
        """Give back all that a `check` took; see `Limits.refund`."""
        return await _check.give_back(self._io, checked)
