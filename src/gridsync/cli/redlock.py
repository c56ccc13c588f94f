"""`gridsync redlock`: what the masters of a Redlock know, and which of them vote."""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING

from gridsync.cli._shared import DONE, FAILED, NOTHING, asking, print_json, shown
from gridsync.cli.health import EXIT
from gridsync.cli.locks import held_by, taken_away
from gridsync.redlock import Redlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.locks import MasterInfo


def info(name: str, *, urls: Sequence[str], namespace: str | None, max_ttl: float, as_json: bool) -> int:
    """Print what each master says; returns 0 if a majority names a holder, 1 if none does, 2 without a majority."""
    with asking() as outcome, Redlock(urls, namespace=namespace, max_ttl=max_ttl) as redlock:
        found = redlock.lock(name, ttl=max_ttl).info(waiters_max=0)
        if as_json:
            print_json(asdict(found))
        else:
            state = "free" if found.holder is None else held_by(found.holder)
            print(f"redlock {shown(found.name)}: {state}; {found.reachable} of {len(found.masters)} masters answer")
            for master in found.masters:
                print(f"  {_line(master)}")
        if found.reachable < found.quorum:
            outcome.append(FAILED)
        else:
            outcome.append(NOTHING if found.holder is None else DONE)
    return outcome[0]


def take_away(
    name: str,
    *,
    reason: str,
    owner: str | None,
    urls: Sequence[str],
    namespace: str | None,
    max_ttl: float,
    as_json: bool,
) -> int:
    """Take it away; returns 0, 1 if nobody or another than *owner* held it, or 2 without a majority."""
    with asking() as outcome, Redlock(urls, namespace=namespace, max_ttl=max_ttl) as redlock:
        fence = redlock.lock(name, ttl=max_ttl).force_release(reason, owner=owner)
        outcome.append(taken_away("redlock", name, owner, fence, as_json=as_json))
    return outcome[0]


def _line(master: MasterInfo) -> str:
    if master.lock is None:
        return f"{master.name}: {shown(master.error)}"
    holder = master.lock.holder
    vote = "free" if holder is None else f"owner {shown(holder.owner)}, ends in {holder.expires_in:.1f} s"
    young = f", votes in {master.votes_in:.0f} s" if master.votes_in else ""
    return f"{master.name}: {vote}, fence {master.lock.fence}, up for {master.uptime_s} s{young}"


def health(*, urls: Sequence[str], max_ttl: float, timeout: float, as_json: bool) -> int:
    """Print which masters vote; returns 0 if all do, 1 if a majority does, 2 if less."""
    with asking() as outcome, Redlock(urls, max_ttl=max_ttl) as redlock:
        found = redlock.health(timeout=timeout)
        print(found.to_json() if as_json else found)
        outcome.append(EXIT[found.status])
    return outcome[0]
