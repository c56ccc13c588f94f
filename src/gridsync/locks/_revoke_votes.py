"""Taking a Redlock away: its fence is raised on a majority, its holder told, its votes given back in its name.

In this order, each step at all masters and safe to repeat::

    revoke: raise each master's own fence ──▶ confirm: write the largest of them to a majority ──▶ release, with a mark

*Why two steps for the fence.*  Whoever is granted next goes beyond the largest fence of its own majority, which need
not have the master whose clock is ahead.  The votes are still the old holder's until they are given back, so nobody is
granted in between.  *Why a mark.*  A holder that does not listen goes on to uphold its votes: each master refuses it
for a minute, which is long after its lease has ended for want of them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable
from gridsync.locks import _look, _look_at_masters
from gridsync.locks._redlock import CONFIRM
from gridsync.locks._spec import FENCE_TTL_MS
from gridsync.locks._votes import give_back_all

if TYPE_CHECKING:
    from gridsync.locks._masters import Masters
    from gridsync.locks._spec import Spec


async def force_release(masters: Masters, spec: Spec, owner: str | None, reason: str) -> int | None:
    """Take the lock away from *owner*, or from whoever holds it now; the fence that separates it from all later ones.

    Returns ``None`` if nobody, or another, held a majority.

    Raises:
        Unavailable: Less than a majority answered.
        OutcomeUnknown: Masters failed half way, so that it may still be held, or the fence may not be known to all.
        UsageError: *reason* is no text, or *owner* cannot be one.
    """
    why = _look.told(spec, reason)
    if owner is None:
        info = await _look_at_masters.look(masters, spec, 0)
        if info.reachable < info.quorum:
            raise Unavailable(
                f"{spec}: {info.reachable} of {len(info.masters)} masters answer, {info.quorum} are needed"
            )
        if info.holder is None:
            return None
        owner = info.holder.owner
    limit = max(masters.limit(spec.ttl_ms / 1000), _look_at_masters.LIMIT_S)
    call = _look.revocation(spec, owner, why)
    said = await masters.each(*(master.run_at(*call, timeout=limit) for master in masters.all))
    failed = [reply for reply in said if isinstance(reply, GridsyncError)]
    if len(failed) > len(masters.all) - masters.quorum:
        raise masters.too_few(failed, spec)
    raised = {
        master: int(reply)
        for master, reply in zip(masters.all, said, strict=True)
        if not isinstance(reply, GridsyncError) and reply
    }
    if not raised:
        return None
    fence = max(raised.values())
    keys, args = (spec.keys[0], spec.keys[3]), (owner, str(fence), str(FENCE_TTL_MS))
    written = await masters.each(*(master.run_at(CONFIRM, keys, args, timeout=limit) for master in raised))
    known = sum(not isinstance(reply, GridsyncError) and reply[0] == 1 for reply in written)
    ghosts = [True] * len(masters.all)
    freed = await give_back_all(masters, spec, owner, ghosts, limit=limit)
    failed += [reply for reply in (*written, *freed) if isinstance(reply, GridsyncError)]
    if known >= masters.quorum <= sum(not isinstance(reply, GridsyncError) for reply in freed):
        return fence
    if len(raised) + sum(isinstance(reply, GridsyncError) for reply in said) < masters.quorum:
        return None
    raise OutcomeUnknown(
        f"{spec}: {known} of {len(masters.all)} masters know that it was taken away from {owner!r}, and "
        f"{masters.quorum} are needed; call again, or let its lease end"
        + (f"; the last error: {failed[-1]}" if failed else "")
    )
