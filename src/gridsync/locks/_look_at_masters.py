"""Looking in at a Redlock: what each master says, and whom a majority names."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from gridsync.errors import GridsyncError
from gridsync.locks import _look

if TYPE_CHECKING:
    from gridsync.locks._look import Holder, LockInfo
    from gridsync.locks._masters import Master, Masters
    from gridsync.locks._spec import Spec

LIMIT_S = 1.0
"""How long one master may take to answer who looks in, at least."""


@dataclass(frozen=True, slots=True)
class MasterInfo:
    """What one master of a Redlock says at one moment."""

    name: str
    """Its address."""
    error: str
    """Why it did not answer, or is no master; empty if all is well."""
    uptime_s: int
    """For how long it has run, in seconds; 0 if it did not answer."""
    run_id: str
    """Which run of the server it is; another one after each start."""
    votes_in: float
    """Seconds until its votes count, which they do not while it may have forgotten leases; 0 if they count."""
    lock: LockInfo | None
    """Who has its vote, and who waits there; ``None`` if it did not answer."""

    @property
    def reachable(self) -> bool:
        """Whether it answered, and is a master."""
        return not self.error


@dataclass(frozen=True, slots=True)
class QuorumInfo:
    """What the masters know of a lock at one moment."""

    name: str
    holder: Holder | None
    """Who has the votes of a majority; `Holder.expires_in` is how long a majority counts on it."""
    masters: tuple[MasterInfo, ...]
    """In the order in which they were named."""
    quorum: int
    """How many of them make a majority."""
    fence: int
    """The largest fence that any of them remembers; 0 if none does."""

    @property
    def reachable(self) -> int:
        """How many masters answered."""
        return sum(master.reachable for master in self.masters)


async def look(masters: Masters, spec: Spec, waiters: int) -> QuorumInfo:
    """Ask all masters at the same time; one that does not answer is told as such."""
    _look.most(waiters, "waiters_max")
    limit = max(masters.limit(spec.ttl_ms / 1000), LIMIT_S)
    told = await masters.each(*(_look_at(masters, master, spec, waiters, limit) for master in masters.all))
    found = tuple(
        MasterInfo(master.name, str(each), 0, "", 0.0, None) if isinstance(each, GridsyncError) else each
        for master, each in zip(masters.all, told, strict=True)
    )
    locks = [master.lock for master in found if master.lock is not None]
    return QuorumInfo(
        name=spec.name,
        holder=_elected([lock.holder for lock in locks if lock.holder is not None], masters.quorum),
        masters=found,
        quorum=masters.quorum,
        fence=max((lock.fence for lock in locks), default=0),
    )


async def _look_at(masters: Masters, master: Master, spec: Spec, waiters: int, limit: float) -> MasterInfo:
    await master.look(limit)
    lock = await _look.look(master.io, spec, waiters, timeout=limit)
    wait_s = 0.0 if master.durable else max(0.0, masters.wait_s(master, master.seen))
    return MasterInfo(master.name, "", master.uptime_s, master.run.decode(), wait_s, lock)


def _elected(holders: list[Holder], quorum: int) -> Holder | None:
    for owner in {holder.owner for holder in holders}:
        votes = sorted((each for each in holders if each.owner == owner), key=lambda each: -each.expires_in)
        if len(votes) >= quorum:
            return votes[quorum - 1]
    return None
