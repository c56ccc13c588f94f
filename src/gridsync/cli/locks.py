"""`gridsync locks`: who holds what, who waits, and how an operator takes something away."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import run_sync
from gridsync._io.keys import entity, pattern
from gridsync.cli import together
from gridsync.cli._shared import DONE, NOTHING, Scan, asking, open_grid, print_json, shown
from gridsync.errors import UsageError
from gridsync.locks import LockInfo, RWLock, RWLockInfo, Semaphore, SemaphoreInfo, _look, _redlock

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.grid import Grid
    from gridsync.locks import Election, Holder, Lock, Waiter

    Info = LockInfo | RWLockInfo | SemaphoreInfo | together.State

KINDS: Final = ("lock", "semaphore", "rwlock", "election", "redlock", *together.KINDS)
"""What can be held or waited for, by the wing of its keys; a master has one vote of a Redlock."""
HOLDERS_MAX = 100
"""How many holders of one thing are shown."""


def ls(*, url: str | None, namespace: str | None, most: int, seconds: float, as_json: bool) -> int:
    """Print what is held or waited for; returns 0, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        found, complete = _held(grid, most, seconds)
        if as_json:
            print_json({"locks": [plain(kind, info) for kind, info in found], "complete": complete})
        else:
            for kind, info in found:
                print(line(kind, info))
            if not complete:
                print(f"... and perhaps more: stopped at {most} locks or {seconds:g} s", file=sys.stderr)
        outcome.append(DONE)
    return outcome[0]


def info(name: str, *, kind: str, url: str | None, namespace: str | None, waiters: int, as_json: bool) -> int:
    """Print who holds it and who waits; returns 0, 1 if it is free or open, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        found = look(grid, kind, name, HOLDERS_MAX, waiters)
        if as_json:
            print_json(plain(kind, found))
        else:
            print(line(kind, found), *who(found), sep="\n  ")
        outcome.append(NOTHING if idle(found) else DONE)
    return outcome[0]


def who(found: Info) -> Iterator[str]:
    """Yield a line for each holder, unless there can be only one, and for each waiter."""
    if isinstance(found, together.State):
        return
    if not isinstance(found, LockInfo):
        for holder in found.holders:
            yield f"{_share(holder, 'holds', 'reads', 'writes')}: {held_by(holder)}"
    for place, waiter in enumerate(found.waiters, start=1):
        share = "" if isinstance(found, LockInfo) else f" {_share(waiter, 'wants', 'to read', 'to write')}:"
        silent = "" if waiter.alive else ", silent"
        yield f"{place}.{share} {_who(waiter)}, since {waiter.since:%Y-%m-%d %H:%M:%S} UTC{silent}"


def take_away(
    name: str, *, kind: str, reason: str, owner: str | None, url: str | None, namespace: str | None, as_json: bool
) -> int:
    """Take it away; returns 0, 1 if nobody or another than *owner* held it, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        fence = _break(grid, kind, name, reason, owner)
        outcome.append(taken_away(kind, name, owner, fence, as_json=as_json))
    return outcome[0]


def taken_away(kind: str, name: str, owner: str | None, fence: int | None, *, as_json: bool) -> int:
    """Print what was taken away from whom; returns 0, or 1 if it was nothing."""
    if as_json:
        print_json({"kind": kind, "name": name, "broken": fence is not None, "fence": fence})
    elif fence is None:
        print(f"{kind} {name!r} was not held{f' by {owner}' if owner else ''}")
    else:
        print(f"{kind} {name!r} was taken away; refuse fences below {fence}")
    return DONE if fence is not None else NOTHING


def _thing(grid: Grid, kind: str, name: str) -> Lock | Semaphore | RWLock | Election:
    match kind:
        case "lock":
            return grid.lock(name)
        case "rwlock":
            return grid.rwlock(name)
        case "election":
            return grid.election(name)
    return grid.semaphore(name, 1)  # what it is made with says nothing about what there is


def look(grid: Grid, kind: str, name: str, holders: int, waiters: int) -> Info:
    """Ask the server about one of `KINDS`; at most so many holders and waiters are told."""
    if kind == "redlock":
        io = grid._io  # noqa: SLF001 - one of several masters; there is no grid of all of them
        return run_sync(_look.look(io, _redlock.spec(grid.namespace, name, 1, wake=io.wake_prefix), waiters))
    if kind in together.KINDS:
        return together.look(grid, kind, name)
    thing = _thing(grid, kind, name)
    if isinstance(thing, Semaphore | RWLock):
        return thing.info(holders_max=holders, waiters_max=waiters)
    return thing.info(waiters_max=waiters)


def _break(grid: Grid, kind: str, name: str, reason: str, owner: str | None) -> int | None:
    if kind == "redlock":
        raise UsageError(
            f"redlock {name!r} is held on a majority of masters: name all of them to `gridsync redlock break`"
        )
    if kind in together.KINDS:
        raise UsageError(f"nobody holds {kind} {name!r}, so there is nobody to take it away from")
    thing = _thing(grid, kind, name)
    if isinstance(thing, Semaphore | RWLock):
        if owner is None:
            held = thing.info(waiters_max=0)
            if held.holding > 1:
                raise UsageError(
                    f"{kind} {name!r} is held by {held.holding}: say by --owner from which one to take it away; "
                    f"`gridsync locks info` names them"
                )
            if not held.holders:
                return None
            owner = held.holders[0].owner
        return thing.force_release(reason, owner=owner)
    return thing.force_release(reason, owner=owner)


def _held(grid: Grid, most: int, seconds: float) -> tuple[list[tuple[str, Info]], bool]:
    """Return what is held, and whether that is all."""
    found: dict[tuple[str, str], Info] = {}
    met: set[tuple[str, str]] = set()
    keys = Scan(grid, pattern(grid.namespace), seconds, "hash")
    # A semaphore's first key outlives its holders, so each is asked.
    for key in keys:
        one = entity(grid.namespace, key)
        if one is not None and one[0] in KINDS and one not in met:
            met.add(one)
            info = look(grid, *one, holders=HOLDERS_MAX, waiters=0)
            if not idle(info):
                found[one] = info
        if len(found) >= most:
            break
    return _in_order(found), keys.complete


def _in_order(found: dict[tuple[str, str], Info]) -> list[tuple[str, Info]]:
    return [(kind, info) for (kind, _), info in sorted(found.items(), key=lambda item: item[0])]


def idle(info: Info) -> bool:
    """Tell whether nobody holds it, and nobody need care."""
    return info.idle if isinstance(info, together.State) else not holders_of(info)


def holders_of(info: Info) -> tuple[Holder, ...]:
    """Return who holds it, those that were told of."""
    if isinstance(info, together.State):
        return ()
    if isinstance(info, LockInfo):
        return () if info.holder is None else (info.holder,)
    return info.holders


def _share(one: Holder | Waiter, permits: str, read: str, write: str) -> str:
    if one.mode:
        return read if one.mode == "read" else write
    return f"{permits} {one.permits}"


def _who(one: Holder | Waiter) -> str:
    note = f" ({shown(one.note)})" if one.note else ""
    return f"{shown(one.host)} pid {one.pid} {shown(one.task)}{note}"


def held_by(holder: Holder) -> str:
    """Return who that is, since when and for how long, for one line."""
    return (
        f"{_who(holder)}, owner {shown(holder.owner)}, fence {holder.fence}, "
        f"since {holder.since:%Y-%m-%d %H:%M:%S} UTC, ends in {holder.expires_in:.1f} s"
    )


def line(kind: str, info: Info) -> str:
    """Return how it stands, for one line."""
    if isinstance(info, together.State):
        return str(info)
    holder = info.holder if isinstance(info, LockInfo) else None
    return f"{kind} {shown(info.name)}: {held_by(holder) if holder else state(info)}, {info.waiting} wait"


def state(info: Info) -> str:
    """Return how it stands, in a few words."""
    if isinstance(info, together.State):
        return str(info).partition(": ")[2]
    if isinstance(info, LockInfo):
        return "free" if info.holder is None else _who(info.holder)
    if isinstance(info, SemaphoreInfo):
        return f"{info.taken} of {info.limit} permits taken by {info.holding}"
    if info.writer is not None:
        return "written"
    return f"read by {info.holding}" if info.holding else "free"


def plain(kind: str, info: Info) -> dict[str, Any]:
    """Return how it stands, as JSON has it."""
    return {"kind": kind, **asdict(info), "holders": [asdict(holder) for holder in holders_of(info)]}
