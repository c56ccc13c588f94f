"""Why and when: how a lock on several independent masters is taken, once for sync and asyncio.

A round has two phases, each one request to every master at the same time::

    acquire at all ──majority──▶ confirm: write max(fences) + 1 there ──majority, in time──▶ held
        └──less──▶ release where it was granted ◀──less, or too late──┘
                        └──▶ a random pause, or a word from a release; then again

*Why two phases.*  Every majority that writes a fence has a master in common with every majority that reads.  There the
two leases lie one after the other, and each writes inside its own: so the later one has read the earlier one's fence,
or a larger one, and goes beyond it.  Each master's own fence comes from its clock where that is ahead (a hybrid clock),
so that a master that forgot everything does not begin at nothing.

*Whose votes count.*  A reply that says the lock was ours already is a vote: an earlier reply was lost.  A master that
may have forgotten a lease has none (`_masters`).  The lease is counted from before the first request left, less a
hundredth for clocks that run apart.

*Waiting.*  A waiter stands in the queue of every master that refused it.  There a release frees the lock and wakes the
first one in the queue, and hands nothing over: three masters might choose three heirs.  When votes were split, all who
have some give them back and pause for a random time, which doubles; who has none waits for a word, or for the end of
the leases that are in its way, and looks now and then.

Failure points.  *A lost reply, or one that is late*: the request may come after the release, which therefore leaves a
mark that refuses it.  *A release that is late*: it would take the vote that the same owner was given in a later round,
and a rival with it a majority; so whoever gave anything back goes on under another name.  *A caller is cancelled*: so.
*A master is away*: it costs each round its timeout, until its breaker is open.  *Less than a majority answers*: a try
fails at once, a waiter goes on for `PATIENCE_S`.  *A releaser dies half way*: what it holds ends by itself.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any
from zlib import crc32

from gridsync._io import load
from gridsync._io.keys import wake_channel
from gridsync.errors import GridsyncError, LockTimeout, OutcomeUnknown, UsageError
from gridsync.locks import _resume, _spec
from gridsync.locks._about import tell
from gridsync.locks._core import ABANDON_S, ALIVE_S, LOOK_MAX_S, LOOK_S, LOOKS
from gridsync.locks._hold import MARGIN, MARGIN_S
from gridsync.locks._votes import QuorumHold, give_back_all

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import Ear
    from gridsync.locks._masters import Master, Masters
    from gridsync.locks._spec import Spec

CONFIRM = load("gridsync.locks", "confirm")
FOREVER_MS = 10_000_000_000
"""The patience of those who wait: a release hands nothing over."""
PAUSE_S = 0.02
PAUSE_MAX_S = 0.5
"""How long to pause at most after votes were split: twice as long each time."""
PATIENCE_S = 5.0
"""How long one who waits puts up with answers from less than a majority."""


def spec(namespace: str, name: str, ttl_ms: int, *, wake: Callable[[str], str], note: str = "") -> Spec:
    """Return what the lock *name* is on each master; *wake* is `IO.wake_prefix`."""
    plain = _spec.lock(namespace, name, ttl_ms, wake=wake, note=note, kind="redlock")
    patience = str(FOREVER_MS)
    *asked, _, repeat = plain.acquire_args
    *given, _ = plain.release_args
    return replace(plain, acquire_args=(*asked, patience, repeat), release_args=(*given, patience))


async def acquire(masters: Masters, spec: Spec, timeout: float | None) -> QuorumHold | None:
    """Take the lock within *timeout* seconds (``None``: for ever, 0: one try); ``None`` if 0 and it is held.

    Raises:
        LockTimeout: Someone else still held it after *timeout* seconds.
        Unavailable: Less than a majority of the masters answered; what some granted is given back.
        UsageError: A master turned out to be none, or not to be independent.
    """
    candidate = Candidate(masters, spec)
    try:
        hold = await candidate.round(0.0)
        if hold is not None:
            return hold
        if timeout != 0:
            return await candidate.wait(timeout)
    except BaseException:
        # Cancelled, interrupted, or a master that is none: some may have granted it.
        if not candidate.over:
            masters.io.spawn(candidate.abandon())
        raise
    if candidate.deaf:
        raise masters.too_few(candidate.failed, spec)
    return None


async def resume(masters: Masters, spec: Spec, text: str) -> QuorumHold:
    """Go on with the lease that *text* tells of, if a majority still counts it as its owner's.

    Raises:
        UsageError: It is no lease of *spec*.
        LeaseLost: It has ended.
        Unavailable: Less than a majority answered.
    """
    owner, fence = _resume.read(spec, text)
    limit = masters.limit(spec.ttl_ms / 1000)
    sent = masters.io.monotonic()
    asked = (spec.renew, spec.renew_keys, (owner, spec.ttl_text))
    replies = await masters.each(*(master.run_at(*asked, timeout=limit) for master in masters.all))
    failed = [reply for reply in replies if isinstance(reply, GridsyncError)]
    if len(failed) > len(replies) - masters.quorum:
        raise masters.too_few(failed, spec)
    given = [not isinstance(reply, GridsyncError) and reply == 1 for reply in replies]
    if sum(given) < masters.quorum:
        raise _resume.ended(spec, fence)
    about = tell(masters.io.who(), spec.note)
    hold = QuorumHold(masters, spec, owner, fence, sent, about=about, given=given, ghosts=[True] * len(given))
    hold.process = masters.io.process_name
    return hold


class Candidate:
    """One acquisition on its way."""

    __slots__ = (
        "_about",
        "_answered",
        "_counted",
        "_draws",
        "_masters",
        "_owner",
        "_refusals",
        "_spec",
        "_started",
        "_under_way",
        "_votes",
        "failed",
        "over",
    )

    def __init__(self, masters: Masters, spec: Spec) -> None:
        self._masters = masters
        self._spec = spec
        self._owner = masters.io.token()
        self._about = tell(masters.io.who(), spec.note)
        self._started = masters.io.monotonic()
        self._draws = 0
        self._under_way = False
        self.over = False
        """Whether nothing is left that it asked for."""
        self._answered: Sequence[bool] = ()
        """Which masters answered in the last round."""
        self._votes = 0
        """How many votes the last round got."""
        self._counted = 0
        """How many of them counted, and were confirmed."""
        self._refusals: list[Any] = []
        """What those said who refused."""
        self.failed: list[GridsyncError] = []
        """Why others did not answer."""

    @property
    def deaf(self) -> bool:
        """Whether less than a majority answered."""
        return len(self.failed) > len(self._masters.all) - self._masters.quorum

    async def round(self, alive_s: float) -> QuorumHold | None:
        """Ask every master for its vote; with *alive_s*, join the queue of each that refuses."""
        masters, spec, io = self._masters, self._spec, self._masters.io
        limit = masters.limit(spec.ttl_ms / 1000)
        self._under_way = True
        sent = io.monotonic()
        args = (self._owner, spec.ttl_text, str(int(alive_s * 1000)), self._about, *spec.acquire_args)
        replies = await masters.each(
            *(master.run_at(spec.acquire, spec.keys, args, timeout=limit) for master in masters.all)
        )
        granted = [not isinstance(reply, GridsyncError) and reply[0] == 1 for reply in replies]
        ghosts = [isinstance(r, OutcomeUnknown) or (not isinstance(r, GridsyncError) and bool(r[-1])) for r in replies]
        self._answered = [not isinstance(reply, GridsyncError) for reply in replies]
        self.failed = [reply for reply in replies if isinstance(reply, GridsyncError)]
        self._refusals = [reply for reply in replies if not isinstance(reply, GridsyncError) and reply[0] == 0]
        self._votes, self._counted = sum(granted), 0
        if self._votes >= masters.quorum:
            fence = 1 + max(reply[1] for reply in replies if not isinstance(reply, GridsyncError) and reply[0] == 1)
            given = await self._confirmed(granted, fence, sent, limit)
            until = sent + spec.ttl_ms / 1000 * MARGIN - MARGIN_S
            self._counted = sum(given)
            if self._counted >= masters.quorum and io.monotonic() < until:
                hold = QuorumHold(
                    masters, spec, self._owner, fence, sent, about=self._about, given=given, ghosts=ghosts
                )
                io.tally("lock.wait", "", hold.since - self._started)
                return hold
        if any(granted) or any(ghosts):
            await self._retreat(ghosts, limit)
        self._under_way = False
        return None

    async def _confirmed(self, granted: Sequence[bool], fence: int, sent: float, limit: float) -> list[bool]:
        """Write the fence down where the lock was granted; which votes count then."""
        masters, keys = self._masters, (self._spec.keys[0], self._spec.keys[3])
        args = (self._owner, str(fence), str(_spec.FENCE_TTL_MS))
        voters = [index for index, has in enumerate(granted) if has]
        replies = await masters.each(*(masters.all[i].run_at(CONFIRM, keys, args, timeout=limit) for i in voters))
        self.failed += [reply for reply in replies if isinstance(reply, GridsyncError)]
        given = [False] * len(granted)
        for index, reply in zip(voters, replies, strict=True):
            if not isinstance(reply, GridsyncError) and reply[0] == 1:
                given[index] = await masters.counts(masters.all[index], reply[1], sent)
        return given

    async def _retreat(self, ghosts: Sequence[bool], limit: float) -> None:
        """Give back what a failed round got, everywhere before anything else is tried."""
        masters = self._masters
        await give_back_all(masters, self._spec, self._owner, ghosts, limit=limit)
        # A mark refuses it from now on, or this release comes late: another one goes on, behind everybody else.
        self._owner = masters.io.token()

    async def wait(self, timeout: float | None) -> QuorumHold:
        """Go on until it is ours.

        Raises:
            LockTimeout: It was not, for *timeout* seconds.
            Unavailable: Less than a majority answered for `PATIENCE_S`.
            UsageError: It was closed, at once.
        """
        io, masters = self._masters.io, self._masters
        until = None if timeout is None else self._started + timeout
        heard_at, pause_s, alive_s = io.monotonic(), PAUSE_S, ALIVE_S
        owner = ""
        ears: list[Ear] = []
        try:
            while True:
                if owner != self._owner:
                    owner = self._owner
                    ears = self._listen(ears)
                await self._open(ears)
                hold = await self.round(alive_s)
                if hold is not None:
                    return hold
                await masters.remember(self._there(), masters.limit(self._spec.ttl_ms / 1000))
                now = io.monotonic()
                if not self.deaf:
                    heard_at = now
                elif now - heard_at >= PATIENCE_S or any(isinstance(error, UsageError) for error in self.failed):
                    raise masters.too_few(self.failed, self._spec)
                look_s = min(LOOK_S * (1 + self._rank() / 10), LOOK_MAX_S)
                rest = float("inf") if until is None else until - now
                if rest <= 0:
                    break
                if self._votes or self.deaf or owner != self._owner:
                    # Not in every queue: nobody would say a word.
                    await io.sleep(min(self._draw() * pause_s, rest))
                    pause_s = min(2 * pause_s, PAUSE_MAX_S)
                else:
                    pause_s = PAUSE_S
                    await ears[0].wait(min(look_s, alive_s / LOOKS, self._ends_s() + self._draw() * PAUSE_S, rest))
                alive_s = look_s * LOOKS
        finally:
            for ear in ears:
                ear.close()
        await self.abandon()
        if self.deaf:
            raise masters.too_few(self.failed, self._spec)
        io.tally("lock.timeout")
        waited = io.monotonic() - self._started
        raise LockTimeout(
            f"{self._spec} still held after {waited:.1f} s ({self._counted} of {len(masters.all)} masters voted for "
            f"us, {masters.quorum} are needed); pass a longer timeout or use try_acquire()",
            name=self._spec.name,
            waited_s=waited,
        )

    def _listen(self, before: Sequence[Ear]) -> list[Ear]:
        for ear in before:
            ear.close()
        channel = wake_channel(self._spec.wake, self._owner)
        first, *others = [master.io.ear(self._owner, channel) for master in self._masters.all]
        for ear in others:
            ear.follow(first)
        return [first, *others]

    def _there(self) -> list[Master]:
        """Return the masters that answered just now; another one would only cost time."""
        return [master for master, answered in zip(self._masters.all, self._answered, strict=True) if answered]

    async def _open(self, ears: Sequence[Ear]) -> None:
        """Let those subscribe that are not subscribed; a master that did not answer just now would only cost time."""
        channel = wake_channel(self._spec.wake, self._owner)
        closed = [
            ear
            for ear, master, answered in zip(ears, self._masters.all, self._answered, strict=True)
            if answered and not master.io.hears(channel)
        ]
        if closed:
            await self._masters.each(*(ear.open() for ear in closed))

    def _rank(self) -> int:
        """Return how many came before us, on the master where they are fewest."""
        return max(0, min((rank for _, _, rank, *_ in self._refusals), default=0))

    def _ends_s(self) -> float:
        """Return in how many seconds enough leases have ended that are in our way, if nobody renews them."""
        missing = self._masters.quorum - self._votes
        ends: list[int] = sorted(max(ends_ms, 0) for _, ends_ms, *_ in self._refusals)
        if self._rank() > 1 or len(ends) < missing:
            return float("inf")
        return (ends[missing - 1] + 1) / 1000

    def _draw(self) -> float:
        """Return a number from 0 to 1 that no other acquisition shares."""
        self._draws += 1
        return crc32(f"{self._owner} {self._draws}".encode()) / 2**32

    async def abandon(self) -> None:
        """Take back whatever was asked for, and whatever may still be on its way."""
        masters = self._masters
        ghosts = [self._under_way] * len(masters.all)
        await give_back_all(masters, self._spec, self._owner, ghosts, limit=ABANDON_S)
        self.over = True
