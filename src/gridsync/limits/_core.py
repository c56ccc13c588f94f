"""What a limiter decides: which script answers, under which key, and as which hit.

Everything that counts happens in the scripts, on the server's clock.  All numbers here are integers, times are in
microseconds.

One subject of one limiter is one sorted set.  An entry is an admitted hit: its score is the time of admission
(microseconds since 2025-01-01), its member is ``<cumulative cost><mark><hit>``.  The difference of two cumulative
costs is what was admitted between them, so what a window holds takes two look-ups, however much it holds; and every
window of the limiter reads the same log.  The mark is ``:`` while the log still counts from zero and ``+`` once its
head was trimmed.  The hit is ten characters that name the call: a repeat after a lost reply looks for them among the
entries since its first attempt, and is not counted again when it finds them.

An entry takes 26 bytes while a log holds at most 128 of them and about 100 above that (Redis 8.2, MEMORY USAGE).
A hit that is given back leaves the log, and every newer entry counts its cost less.

Entries may be merged into their newer neighbour without ever admitting more, which is how a log can be kept short at
the price of precision.

A reservation is an entry in the future, whose hit begins with ``R``.  While the newest entry is one, whoever comes is
admitted after it or denied, so that reservations are served in the order in which they came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gridsync._io import Category, Command, load
from gridsync._io.keys import limit
from gridsync.errors import GridsyncError, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, ReadFrom, Script

_HIT_ONE = load("gridsync.limits", "hit_one")
_HIT = load("gridsync.limits", "hit")
_PEEK = load("gridsync.limits", "peek")
_REFUND = load("gridsync.limits", "refund")
_RESET = Command("limits.reset", Category.LAST_WINS, ("UNLINK",))

Verdict = list[int]
"""What a script answers: *retry_us* (0 admitted, -1 never, else how long until the same call would be admitted),
*remaining*, *reset_us*, and which rule binds, counted from 0.  No named tuple: one costs a quarter of a microsecond."""

VERDICT_LENGTH = 4
UNDO_S = 1.0
"""How long giving back what an interrupted caller reserved may take; without it nobody else uses it."""


class Prepared(NamedTuple):
    """What a hit and a peek would send."""

    key: str
    script: Script
    """That of the hit; the one that peeks is the same for all hits of a limiter."""
    hit: str
    hit_args: tuple[Arg, ...]
    peek_args: tuple[Arg, ...]
    io: IO
    timeout: float | None


class Windows:
    """The sliding windows of one limiter, for every subject."""

    __slots__ = (
        "_hit",
        "_io",
        "_name",
        "_namespace",
        "_peek_args",
        "_prefix",
        "_refund_args",
        "_rule_args",
        "_timeout",
    )

    waiting, looking, giving_back = _HIT, _PEEK, _REFUND
    """The scripts behind `reserve`, `peek` and `refund`; that of `hit` depends on the rules."""
    can_wait = True
    """Whether `reserve` and `acquire` make sense."""

    def __init__(
        self, io: IO, namespace: str, name: str, rules: Sequence[tuple[int, int]], *, timeout: float | None = None
    ) -> None:
        """Prepare what does not change from call to call.

        *rules* are limit and window in microseconds; *timeout* is for one decision, in seconds.
        """
        self._io, self._namespace, self._name = io, namespace, name
        self._timeout = timeout
        self._prefix = limit(namespace, name, "").removesuffix("}")
        flat = tuple(str(number) for rule in rules for number in rule)
        longest = max(window for _, window in rules)
        self._peek_args = (str(longest), *flat)
        self._refund_args: tuple[str, ...] = (str(longest),)
        self._hit, self._rule_args = (_HIT_ONE, flat) if len(rules) == 1 else (_HIT, (str(longest), "0", *flat))

    async def hit(self, subject: str, cost: int) -> tuple[Verdict, str]:
        """Take *cost*, or nothing; returns the hit's id too."""
        # Ids only have to differ from those of the last seconds on the same key, so the end of a token is enough: its
        # counter, and before it as much of the process's random name as fits: four characters after 16 million hits.
        hit = self._io.token()[-10:]
        args: tuple[Arg, ...] = (hit, "0", str(cost), *self._rule_args)
        return await self._io.run(self._hit, (self._key(subject),), args, timeout=self._timeout), hit

    def prepared(self, subject: str, cost: int) -> Prepared:
        """Return what `hit` and `peek` would send, for who asks several limiters together."""
        hit = self._io.token()[-10:]
        hit_args = (hit, "0", str(cost), *self._rule_args)
        peek_args = (str(cost), *self._peek_args)
        return Prepared(self._key(subject), self._hit, hit, hit_args, peek_args, self._io, self._timeout)

    async def take(self, subject: str, cost: int, call: Prepared) -> Verdict:
        """Make a hit that was prepared; who is interrupted has taken nothing."""
        return await self._surely(call.script, subject, call.hit, cost, call.hit_args)

    async def peek(self, subject: str, cost: int, read_from: ReadFrom = "primary") -> Verdict:
        """Tell what `hit` would say, and take nothing."""
        args = (str(cost), *self._peek_args)
        keys = (self._key(subject),)
        verdict: Verdict = await self._io.read(self.looking, keys, args, read_from=read_from, timeout=self._timeout)
        return verdict

    async def reserve(self, subject: str, cost: int, max_wait_us: int) -> tuple[Verdict, str, int]:
        """Take *cost* within *max_wait_us*, or nothing; returns the hit's id and how long to wait (us) too."""
        hit = "R" + self._io.token()[-9:]
        first, *rules = self._peek_args
        args = (hit, "0", str(cost), first, str(max_wait_us), *rules)
        verdict = await self._surely(self.waiting, subject, hit, cost, args)
        return verdict, hit, verdict.pop() if len(verdict) > VERDICT_LENGTH else 0

    async def _surely(self, script: Script, subject: str, hit: str, cost: int, args: Sequence[Arg]) -> Verdict:
        """Run a script that takes, and give back what nobody will hear of."""
        try:
            verdict: Verdict = await self._io.run(script, (self._key(subject),), args, timeout=self._timeout)
        except GridsyncError as error:
            if isinstance(error, OutcomeUnknown):
                self._io.spawn(self.refund(subject, hit, cost, timeout=UNDO_S))
            raise
        except BaseException:
            # Cancelled or interrupted: it may have been taken.  The refund follows on the same connection.
            self._io.spawn(self.refund(subject, hit, cost, timeout=UNDO_S))
            raise
        return verdict

    async def acquire(self, subject: str, cost: int, max_wait_us: int) -> tuple[Verdict, str, int]:
        """As `reserve`, and return when it is time; who is interrupted before gives it back."""
        verdict, hit, delay_us = await self.reserve(subject, cost, max_wait_us)
        if delay_us:
            try:
                await self._io.sleep(delay_us / 1_000_000)
            except BaseException:
                self._io.spawn(self.refund(subject, hit, cost, timeout=UNDO_S))
                raise
        return verdict, hit, delay_us

    async def refund(self, subject: str, hit: str, cost: int, *, timeout: float | None = None) -> bool:
        """Give a hit back; false if it is not counted any more."""
        args = (hit, "0", str(cost), *self._refund_args)
        return bool(await self._io.run(self.giving_back, (self._key(subject),), args, timeout=timeout or self._timeout))

    async def reset(self, subject: str) -> None:
        """Forget the subject."""
        await self._io.run(_RESET, (self._key(subject),))

    def _key(self, subject: str) -> str:
        # The common case of `keys.limit`, without its two translations: they cost a tenth of a whole decision.
        if "{" in subject or "}" in subject or "%" in subject:
            return limit(self._namespace, self._name, subject)
        return f"{self._prefix}{subject}}}"
