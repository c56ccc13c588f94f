"""What a limiter decides: which script answers, under which key, and as which hit.

Everything that counts happens in the scripts, on the server's clock.  All numbers here are integers, times are in
microseconds.

One subject of one limiter is one sorted set.  An entry is one admitted hit, or a few: its score is the time of
admission (microseconds since 2025-01-01), its member is ``<cumulative cost><mark><hits>``.  The difference of two
cumulative costs is what was admitted between them, so what a window holds takes two look-ups, however much it holds;
and every window of the limiter reads the same log.  The mark is ``:`` while the log still counts from zero and ``+``
once its head was trimmed.  A hit is five or ten characters that name the call: a repeat after a lost reply looks for
them among the entries since its first attempt, and is not counted again when it finds them.

Entries may be merged into their newer neighbour without ever admitting more (the head of a trimmed log excepted, whose
own cost is not counted): their hits then leave the window later than they might.  That is how a log stays below
`COMPACT` bytes.  Up to a limit of `STEPS`, each hit has an entry of its own and everything is exact to the
microsecond.  Above that, time is cut into ticks of 1/`STEPS` of the window, and the hits of
one tick share entries:

* A hit joins the newest entry if that is of the same tick and a member stays within 64 bytes, which with at most 128
  entries is what a sorted set may hold in its compact form.  The entry's time is then that of the new hit.
* From the twelfth on, entries forget their hits and are a bare cumulative cost, which the compact form keeps as an
  integer; and those of one tick become one.  So the hundred newest hits are known whatever comes, and all hits of the
  last eleven ticks if fewer came: a repeat that is older than both counts again, and a refund finds nothing.
* With several windows, entries that have left a shorter one are merged by the ticks of the next longer one.

A hit that is given back leaves its entry, and that and every newer entry count its cost less.

A reservation is an entry in the future, whose hits begin with ``R``.  While the newest entry is one, whoever comes is
admitted after it or denied, so that reservations are served in the order in which they came.  An entry whose hits
begin with a capital letter stands alone: no other hit joins it, and it is left as it is until its time has come.

Permits that are leased are an entry at the end of their time, in the future too, whose hits begin with ``L``
(`_leasing`).  Hits that come meanwhile are written behind it, as ``A``; they may happen now, so for them and for
leases the window that ends now is judged, and all that lies ahead of it counts.
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, NamedTuple
from zlib import crc32

from gridsync._io import Bound, Category, Command, load
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
COMPACT = 2048
"""Bytes that a key takes at most, by ``MEMORY USAGE``, unless a resolution is asked for."""
STEPS = 40
"""Into how many steps a window is cut: as many as keep a log below `COMPACT`, with the twelve entries that name their
hits, however large its counters have grown."""
STEPS_TOGETHER = 108
"""Steps of all windows of a limiter together: with those twelve and each window's base, 128 entries at most."""
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


def merging(rules: Sequence[tuple[int, int]], ticks: Sequence[int]) -> tuple[int, list[int]]:
    """Say how entries are merged, when each of *rules* (limit and window) may let a hit leave late by its tick (us).

    Returns the tick of new entries, and for each rule that of entries which have left its window; 0 is none.  While an
    entry is younger than a window, the tick of that window is kept, and that of every longer one.
    """
    order = sorted(range(len(rules)), key=lambda index: rules[index][1])
    kept = [min(ticks[index] for index in order[place:]) for place in range(len(order))]
    for place in range(1, len(kept)):
        if finer := kept[place - 1]:
            kept[place] -= kept[place] % finer  # else two merges in a row could move a hit by the sum of both
    coarser = [0] * len(rules)
    for place, index in enumerate(order[:-1]):
        if kept[place + 1] > kept[place]:
            coarser[index] = kept[place + 1]
    return kept[0], coarser


_LETTERS = f"-_{string.digits}{string.ascii_letters}"
_HEADS = "!#$%&()*,./;<=>@"
_TAILS = [a + b for a in _LETTERS for b in _LETTERS]


def brief(token: str) -> str:
    """Return five characters for a call: as good as random, one in 2**28, and no part of others that stand in a row."""
    number = crc32(token.encode())
    return f"{_HEADS[number & 15]}{_TAILS[number >> 4 & 4095]}{_TAILS[number >> 16 & 4095]}"


class Windows:
    """The sliding windows of one limiter, for every subject."""

    __slots__ = (
        "_bound",
        "_hit",
        "_io",
        "_merges",
        "_name",
        "_namespace",
        "_peek_args",
        "_prefix",
        "_refund_args",
        "_rule_args",
        "_timeout",
        "_wait_args",
        "tick_us",
    )

    waiting: Script = _HIT
    """The script behind `reserve`; that of `hit` depends on the rules."""
    looking: Script = _PEEK
    """The script behind `peek`."""
    giving_back: Script = _REFUND
    """The script behind `refund`."""
    can_wait = True
    """Whether `reserve` and `acquire` make sense."""

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        rules: Sequence[tuple[int, int]],
        *,
        timeout: float | None = None,
        tick_us: int | None = None,
    ) -> None:
        """Prepare what does not change from call to call.

        *rules* are limit and window in microseconds; *timeout* is for one decision, in seconds.  *tick_us* is 0 for
        logs that are exact to the microsecond, or by how much a hit may leave a window late; by default it follows from
        the rules.
        """
        self._io, self._namespace, self._name = io, namespace, name
        self._timeout = timeout
        self._bound: Bound | None = None
        self._prefix = limit(namespace, name, "").removesuffix("}")
        longest = max(window for _, window in rules)
        self._peek_args = (str(longest), *(str(number) for rule in rules for number in rule))
        self._refund_args: tuple[str, ...] = (str(longest),)
        steps = min(STEPS, STEPS_TOGETHER // len(rules))
        ticks = [(0 if most <= steps else window // steps) if tick_us is None else tick_us for most, window in rules]
        tick, coarser = merging(rules, ticks)
        self.tick_us: int = tick
        self._merges = any((tick, *coarser))  # hits share entries: then they have short ids
        flat = tuple(str(n) for rule, coarse in zip(rules, coarser, strict=True) for n in (*rule, coarse))
        # What follows the cost in a reservation; the longest wait stands behind the first of these.
        self._wait_args: tuple[str, ...] = (str(longest), str(tick), *flat)
        self._hit, self._rule_args = _HIT, (str(longest), "0", str(tick), *flat)
        if len(rules) == 1:
            self._hit, self._rule_args = _HIT_ONE, (*flat[:2], str(tick))

    async def hit(self, subject: str, cost: int) -> tuple[Verdict, str]:
        """Take *cost*, or nothing; returns the hit's id too."""
        hit, bound = self._name_hit(), self._bound
        if bound is None:
            bound = self._bound = Bound(self._hit, (), (None, "0", None, *self._rule_args))
        return await self._io.run(bound, (self._key(subject),), (hit, str(cost)), timeout=self._timeout), hit

    def prepared(self, subject: str, cost: int) -> Prepared:
        """Return what `hit` and `peek` would send, for who asks several limiters together."""
        hit = self._name_hit()
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
        hit = self._name_hit()
        first, *rules = self._wait_args
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
        await self._io.run(_RESET, (self._key(subject),), timeout=self._timeout)

    def _name_hit(self) -> str:
        # Ids only have to differ from those of the last seconds on the same key, so the end of a token is enough: its
        # counter, and before it as much of the process's random name as fits: four characters after 16 million hits.
        token = self._io.token()
        return brief(token) if self._merges else token[-10:]

    def _key(self, subject: str) -> str:
        # The common case of `keys.limit`, without its two translations: they cost a tenth of a whole decision.
        if "{" in subject or "}" in subject or "%" in subject:
            return limit(self._namespace, self._name, subject)
        # Not a format string: that would write `Tier.FREE` for a member of an enumeration of strings, not its value.
        return self._prefix + subject + "}"
