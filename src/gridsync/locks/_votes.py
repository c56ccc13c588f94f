"""The lease of a Redlock: a vote from each master, each renewed by that master's own watchdog.

A vote's states::

    none ──seeded──▶ given anew ──renewed──▶ holds ──"not yours"──▶ gone, for good
                          ▲                    │
                          └────lost by server──┘

Only a vote that holds counts, until its own deadline.  The lease lasts as long as a majority holds: its deadline is the
latest one that a majority of the votes reaches.  A master that lost the vote (restart, flush, eviction) is asked for it
anew, and counts again with the renewal after that: in between, somebody else may have had it.

Failure points.  *A renewal that comes after the release* would ask for the vote anew, for nobody: so the release leaves
a mark wherever a renewal is, or may be, on its way.  *Watchdogs that settle at the same moment*: each writes what is
its own, and then the deadline until that fits what all have written; so a stale one does not stay.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from gridsync._io import load
from gridsync._io.keys import PROCESS_CHARS, wake_channel
from gridsync.errors import GridsyncError
from gridsync.locks._hold import JITTER, MARGIN, MARGIN_S, RENEWALS, RETRY, Hold, give_back
from gridsync.locks._spec import FENCE_TTL_MS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Arg, Script
    from gridsync.locks._masters import Master, Masters
    from gridsync.locks._spec import Spec

_log = logging.getLogger("gridsync")
UPHOLD = load("gridsync.locks", "uphold")
NEVER = float("-inf")


class Vote:
    """One master's part of a lease; what its watchdog keeps."""

    __slots__ = ("_asked", "_hold", "counts_until", "due", "ghost", "gone", "master")

    def __init__(self, hold: QuorumHold, master: Master, counts_until: float, *, ghost: bool) -> None:
        """Begin with a vote that counts until then, or that is none yet.

        Args:
            hold: What it is a part of.
            master: Whose vote it is.
            counts_until: Its own deadline; `NEVER` if it was not given.
            ghost: Whether a request for it may still be on its way, to arrive after the release.
        """
        self._hold = hold
        self.master = master
        self.counts_until = counts_until
        self.ghost = ghost
        self.gone = False
        self.due = 0.0
        self._asked = False

    @property
    def deadline(self) -> float:
        """When the lease as a whole is lost."""
        return self._hold.deadline

    @property
    def haunted(self) -> bool:
        """Whether a request may reach the master after the release that is about to leave."""
        return self.ghost or self._asked

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for a renewal, or for a release once nobody needs the lease any more."""
        # First this, then the look whether it has ended: a release looks the other way round.
        self._asked = True
        call = self._hold.request_of(self, now)
        self._asked = call is not None
        return call

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Take the outcome."""
        if isinstance(reply, Exception):
            self.ghost = True
        self._asked = False
        return self._hold.settle_of(self, reply, sent)


class QuorumHold(Hold):
    """A lease that a majority of the masters granted."""

    __slots__ = ("_about", "_masters", "_votes", "orphan")

    def __init__(
        self,
        masters: Masters,
        spec: Spec,
        owner: str,
        fence: int,
        sent: float,
        *,
        about: str,
        given: Sequence[bool],
        ghosts: Sequence[bool],
    ) -> None:
        """Begin a lease.

        Args:
            masters: Whose votes make it.
            spec: What is held.
            owner: The acquisition's identifier.
            fence: The number that the majority wrote down.
            sent: When the first request of the round left.
            about: Who holds it, for others to read.
            given: Which masters' votes count.
            ghosts: To which masters a request may still be on its way.
        """
        self._masters = masters
        self._about = about
        self.orphan = False
        """Whether it is given back because nobody is left who needs it."""
        until = sent + spec.ttl_ms / 1000 * MARGIN - MARGIN_S
        self._votes = [
            Vote(self, master, until if has else NEVER, ghost=ghost)
            for master, has, ghost in zip(masters.all, given, ghosts, strict=True)
        ]
        super().__init__(masters.io, spec, owner, fence, sent)

    def _watch(self) -> None:
        for vote in self._votes:
            # What is missing is asked for soon: until then one failure less can be borne.
            vote.due = self.renew_at if vote.counts_until > NEVER else self._soon(self._io.monotonic())
            vote.master.io.keep(vote)

    def _unwatch(self) -> None:
        for vote in self._votes:
            vote.master.io.unkeep(vote)

    def _renewed(self, sent: float, term_s: float) -> None:
        self._term_s = term_s
        self.due = self.renew_at = self._next(sent)
        self._count()

    def _next(self, sent: float) -> float:
        early = ord(self.process[-1]) % 32 / 32 * JITTER
        return sent + self._term_s / RENEWALS * (1 - early)

    def _soon(self, now: float) -> float:
        return now + self._term_s / RETRY

    def _count(self) -> None:
        """Set the deadline to the latest that a majority reaches."""
        while True:
            deadline = min(self._reached(), self.last)
            self.deadline = deadline
            if deadline == min(self._reached(), self.last):
                return

    def _reached(self) -> float:
        return sorted((vote.counts_until for vote in self._votes), reverse=True)[self._masters.quorum - 1]

    # -- for the watchdogs ------------------------------------------------------------------------------------------

    def request_of(self, vote: Vote, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Return what to ask *vote*'s master, if anything."""
        if not self.ended and (why := self._orphaned()):
            self.orphan = True
            self.lose(why)
            _log.warning("the lease of %s (fence %d) was never released: %s", self.spec, self.fence, why)
            for other in self._votes:
                if other is not vote:
                    other.due = now
                    other.master.io.keep(other)
        if self.orphan:
            return self.farewell(ghost=True)
        if self.ended or now >= self.deadline:
            return None
        if vote is self._votes[0]:
            self._hears()  # what is said at one of them; whoever misses it learns with the next renewal
        return self._upholding()

    def _upholding(self) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        args = (self.owner, self.spec.ttl_text, str(self.fence), str(FENCE_TTL_MS), self._about)
        return UPHOLD, self.spec.keys, args

    def settle_of(self, vote: Vote, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Take what *vote*'s master said; false ends the keeping of this vote."""
        if self.ended:
            if isinstance(reply, list):
                self._io.notify(lambda: self._wake_at(vote.master, reply[1:]))
            return False
        now = self._io.monotonic()
        # A vote is never due later than at its own deadline: one of them is that of the lease.
        if reply == 1:
            vote.counts_until = sent + self._term_s * MARGIN - MARGIN_S
            vote.due = min(self._next(sent), vote.counts_until)
        elif reply in (0, 2):
            # The first "not yours" is final where the vote was ours; where it never was, a rival gives up in a moment.
            vote.gone = reply == 0 and vote.counts_until > NEVER
            vote.counts_until = NEVER
            vote.due = self._soon(now)
        else:
            vote.due = self._soon(now) if now >= vote.counts_until else min(self._soon(now), vote.counts_until)
        self._count()
        if now >= self.deadline:
            self._overdue(self._why(reply))
            return False
        vote.due = min(vote.due, self.last)
        return not vote.gone

    def _why(self, reply: object) -> str:
        held = sum(vote.counts_until > NEVER for vote in self._votes)
        if held < self._masters.quorum:
            return f"{held} of {len(self._votes)} masters have its vote, and {self._masters.quorum} are needed"
        return str(reply)

    def _wake_at(self, master: Master, messages: Sequence[bytes]) -> None:
        for message in messages:
            master.io.wake(wake_channel(self.spec.wake, self.owner), message)

    # -- for its holder ---------------------------------------------------------------------------------------------

    async def extend(self) -> None:
        """Renew now at every master.

        Raises:
            Unavailable: Less than a majority answered.
        """
        sent = self._io.monotonic()
        votes = [vote for vote in self._votes if not vote.gone]
        call = self._upholding()
        replies = await self._masters.each(*(vote.master.run_at(*call) for vote in votes))
        for vote, reply in zip(votes, replies, strict=True):
            vote.ghost = vote.ghost or isinstance(reply, GridsyncError)
            if not self.settle_of(vote, reply, sent):
                vote.master.io.unkeep(vote)
        failed = [reply for reply in replies if isinstance(reply, GridsyncError)]
        if not self.ended and self._reached() < sent:
            raise self._masters.too_few(failed, self.spec)

    async def let_go(self, timeout: float | None = None) -> int:
        """Give every vote back; 1 if a majority was ours, 0 if it was not."""
        ghosts = [vote.haunted for vote in self._votes]
        limit = self._masters.limit(self.spec.ttl_ms / 1000) if timeout is None else timeout
        replies = await give_back_all(self._masters, self.spec, self.owner, ghosts, limit=limit)
        codes = [None if isinstance(reply, GridsyncError) else reply for reply in replies]
        if sum(code in (1, 2) for code in codes) >= self._masters.quorum:
            return 1
        if codes.count(0) > len(codes) - self._masters.quorum:
            return 0
        raise self._masters.too_few([reply for reply in replies if isinstance(reply, GridsyncError)], self.spec)


async def give_back_all(
    masters: Masters,
    spec: Spec,
    owner: str,
    ghosts: Sequence[bool],
    *,
    limit: float,
) -> list[int | GridsyncError]:
    """Run the release script at every master, and return what each said.

    *ghosts* says at which of them a request of *owner* may still be on its way.
    """
    ours = masters.io.process_name == owner[:PROCESS_CHARS]
    return await masters.each(
        *(
            give_back(each.io, spec, owner, ghost=ghost, ours=ours, timeout=limit)
            for each, ghost in zip(masters.all, ghosts, strict=True)
        )
    )
