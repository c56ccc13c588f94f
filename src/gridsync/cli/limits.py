"""`gridsync limits`: what keys have used, which use most, and how an operator lets one start anew."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from gridsync._io import run_sync
from gridsync._io.keys import LIMIT_KINDS, limit, limit_of, limit_pattern
from gridsync.cli._shared import DONE, NOTHING, Scan, asking, open_grid, plain_errors, print_json, shown
from gridsync.limits import _look
from gridsync.limits._look import Kept, Usage

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.grid import Grid
    from gridsync.limits import Decision

_KEPT = {
    "bucket": "a bucket, {used} units in the last {window:g} s, full in {over_in:.3f} s",
    "fixed": "a fixed window, {used} units, over in {over_in:.3f} s",
    "approx": "two counters, {used} units, over in {over_in:.3f} s",
    "slots": "{used} slots taken, all free in {over_in:.3f} s",
}


def show(
    limiter: str,
    key: str,
    *,
    rules: Sequence[str],
    window: float,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Print what a key has used, and what each of *rules* would say; returns 0, 1 if nothing, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        found = _look_at_all(grid, limiter, key, window)
        said = [grid.limiter(limiter, rule).peek(key) for rule in rules]
        if as_json:
            log = [asdict(each) for each in found if isinstance(each, Usage)]
            kinds = {each.kind: _details(each) for each in found if isinstance(each, Kept)}
            plain = log[0] if log else {"limiter": limiter, "key": key}
            told = [_said(decision) for decision in said]
            print_json({**plain, "found": bool(found), "kinds": kinds, "rules": told})
        else:
            for each in found:
                print(line(each, window))
            if not found:
                print(f"{shown(limiter)} {shown(key)}: unused")
            for decision in said:
                print(f"  {_in_words(decision)}")
        outcome.append(DONE if found else NOTHING)
    return outcome[0]


def top(
    limiter: str | None,
    *,
    window: float,
    most: int,
    seconds: float,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Print the keys that used most within *window*; returns 0, or 2 if the server cannot be asked."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        found, complete = _found(grid, limiter, window, seconds)
        found = sorted(found, key=lambda used: (-used.used, used.limiter, used.key))[:most]
        if as_json:
            keys = [{"kind": "log", **asdict(used)} for used in found]
            print_json({"keys": keys, "window": window, "complete": complete})
        else:
            for used in found:
                print(line(used, window))
            if not complete:
                print(f"... and perhaps others: stopped after {seconds:g} s", file=sys.stderr)
        outcome.append(DONE)
    return outcome[0]


def reset(limiter: str, key: str, *, sure: bool, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Forget what a key has used; returns 0, 1 if there was nothing or the answer was no, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        found = _look_at_all(grid, limiter, key, 0)
        what = [f"{each.entries} entries" if isinstance(each, Usage) else LIMIT_KINDS[each.kind] for each in found]
        done = bool(what) and (sure or _confirmed(f"{' and '.join(what)} of {shown(limiter)} {shown(key)}"))
        if done:
            name = limit(grid.namespace, limiter, key)
            with plain_errors():
                grid.client.unlink(name, *(f"{name}:{kind}" for kind in LIMIT_KINDS))
        if as_json:
            print_json({"limiter": limiter, "key": key, "reset": done})
        elif not what:
            print(f"{shown(limiter)} {shown(key)}: nothing to forget")
        else:
            print(f"{shown(limiter)} {shown(key)}: {'starts anew' if done else 'left as it is'}")
        outcome.append(DONE if done else NOTHING)
    return outcome[0]


def _confirmed(what: str) -> bool:
    print(f"Forget {what}? [y/N] ", end="", file=sys.stderr, flush=True)
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _look_at_all(grid: Grid, limiter: str, key: str, window: float) -> list[Usage | Kept]:
    return run_sync(_look.look_at_all(grid._io, grid.namespace, limiter, key, int(window * 1_000_000)))  # noqa: SLF001


def look_at(grid: Grid, limiter: str, key: str, kind: str, window: float) -> Usage | Kept | None:
    """Ask what a key has used of one kind of rule; ``None`` if nothing."""
    io, window_us = grid._io, int(window * 1_000_000)  # noqa: SLF001 - one program
    if kind:
        return run_sync(_look.look_kind(io, grid.namespace, limiter, key, window_us, kind=kind))
    return run_sync(_look.look(io, grid.namespace, limiter, key, window_us))


def _found(grid: Grid, limiter: str | None, window: float, seconds: float) -> tuple[list[Usage | Kept], bool]:
    """Return what every key has used, and whether that is all."""
    found: dict[tuple[str, str, str], Usage | Kept] = {}
    keys = Scan(grid, limit_pattern(grid.namespace, limiter or ""), seconds)
    for key in keys:
        one = limit_of(grid.namespace, key)
        if one is not None and one not in found and (used := look_at(grid, *one, window)) is not None:
            found[one] = used
    return list(found.values()), keys.complete


def line(used: Usage | Kept, window: float) -> str:
    """Return what a key has used, for one line."""
    if isinstance(used, Kept):
        facts = {"used": f"{used.used}{' or more' if used.more else ''}", "window": window, "over_in": used.over_in}
        return f"{shown(used.limiter)} {shown(used.key)}: {_KEPT[used.kind].format(**facts)}"
    ahead = f", {used.ahead} of them ahead (reserved or leased)" if used.ahead else ""
    return (
        f"{shown(used.limiter)} {shown(used.key)}: {used.used} units in the last {window:g} s{ahead}, "
        f"{used.entries} entries from {used.first:%Y-%m-%d %H:%M:%S} to {used.last:%Y-%m-%d %H:%M:%S} UTC, "
        f"kept for {used.expires_in:.0f} s"
    )


def _details(used: Kept) -> dict[str, Any]:
    """Return what is known of one kind, without whose it is."""
    return {"used": used.used, "more": used.more, "over_in": used.over_in, "expires_in": used.expires_in}


def _said(decision: Decision) -> dict[str, Any]:
    return {
        "rule": str(decision.rule),
        "allowed": decision.allowed,
        "remaining": decision.remaining,
        "retry_after": decision.retry_after,
        "reset_after": decision.reset_after,
    }


def _in_words(decision: Decision) -> str:
    what = "admits" if decision else f"denies for {decision.retry_after:.3f} s"
    return f"{decision.rule}: {what}, {decision.remaining} left, empty in {decision.reset_after:.3f} s"
