"""`gridsync locks`: who holds what, who waits, and how an operator takes a lock away."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync._io.keys import lock_name, lock_pattern
from gridsync.errors import GridsyncError
from gridsync.grid import Grid
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.locks import LockInfo

DONE: Final = 0
NOT_HELD: Final = 1
FAILED: Final = 2
SCAN_COUNT = 1000
"""How many keys a server looks at for one step of a list."""


def ls(*, url: str | None, namespace: str | None, most: int, seconds: float, as_json: bool) -> int:
    """Print the locks that are held; returns 0, or 2 if the server cannot be asked."""
    with _asking() as outcome, _grid(url, namespace) as grid:
        names, complete = _held(grid, most, seconds)
        found = [info for info in (grid.lock(name).info(waiters_max=0) for name in names) if info.holder is not None]
        if as_json:
            _print_json({"locks": [_plain(info) for info in found], "complete": complete})
        else:
            for info in found:
                print(_line(info))
            if not complete:
                print(f"... and perhaps more: stopped at {most} locks or {seconds:g} s", file=sys.stderr)
        outcome.append(DONE)
    return outcome[0]


def info(name: str, *, url: str | None, namespace: str | None, waiters: int, as_json: bool) -> int:
    """Print who holds a lock and who waits; returns 0, 1 if nobody holds it, or 2 if the server cannot be asked."""
    with _asking() as outcome, _grid(url, namespace) as grid:
        found = grid.lock(name).info(waiters_max=waiters)
        if as_json:
            _print_json(_plain(found))
        else:
            print(_line(found))
            for place, waiter in enumerate(found.waiters, start=1):
                silent = "" if waiter.alive else ", silent"
                print(f"  {place}. {_who(waiter)}, since {waiter.since:%Y-%m-%d %H:%M:%S} UTC{silent}")
        outcome.append(DONE if found.holder is not None else NOT_HELD)
    return outcome[0]


def take_away(
    name: str, *, reason: str, owner: str | None, url: str | None, namespace: str | None, as_json: bool
) -> int:
    """Take a lock away; returns 0, 1 if nobody or another than *owner* held it, or 2 if the server cannot be asked."""
    with _asking() as outcome, _grid(url, namespace) as grid:
        fence = grid.lock(name).force_release(reason, owner=owner)
        if as_json:
            _print_json({"name": name, "broken": fence is not None, "fence": fence})
        elif fence is None:
            print(f"lock {name!r} was not held{f' by {owner}' if owner else ''}")
        else:
            print(f"lock {name!r} was taken away; refuse fences below {fence}")
        outcome.append(DONE if fence is not None else NOT_HELD)
    return outcome[0]


@contextmanager
def _asking() -> Iterator[list[int]]:
    outcome: list[int] = []
    try:
        yield outcome
    except GridsyncError as error:
        print(f"gridsync: {error}", file=sys.stderr)
        outcome[:] = [FAILED]


def _grid(url: str | None, namespace: str | None) -> Grid:
    given = {"redis_url": url, "gridsync_namespace": namespace}
    return Grid(settings=Settings(**{name: value for name, value in given.items() if value is not None}))


def _held(grid: Grid, most: int, seconds: float) -> tuple[list[str], bool]:
    """Return the names of locks that are held, and whether these are all."""
    names: set[str] = set()
    until = time.monotonic() + seconds
    # On a cluster this goes over all primaries.
    for key in grid.client.scan_iter(match=lock_pattern(grid.namespace), count=SCAN_COUNT):
        name = lock_name(grid.namespace, key.decode(errors="replace"))
        if name is not None:
            names.add(name)
        if len(names) >= most or time.monotonic() >= until:
            return sorted(names), False
    return sorted(names), True


def _who(one: Any) -> str:  # noqa: ANN401 - a Holder or a Waiter
    note = f" ({_shown(one.note)})" if one.note else ""
    return f"{_shown(one.host)} pid {one.pid} {_shown(one.task)}{note}"


def _shown(text: str) -> str:
    # Others wrote it: no line of theirs shall look like one of ours, and nothing steers the terminal.
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def _line(info: LockInfo) -> str:
    holder = info.holder
    if holder is None:
        return f"{_shown(info.name)}: free, {info.waiting} wait"
    return (
        f"{_shown(info.name)}: {_who(holder)}, owner {_shown(holder.owner)}, fence {holder.fence}, "
        f"since {holder.since:%Y-%m-%d %H:%M:%S} UTC, ends in {holder.expires_in:.1f} s, {info.waiting} wait"
    )


def _plain(info: LockInfo) -> dict[str, Any]:
    return asdict(info)


def _print_json(what: object) -> None:
    def plain(value: object) -> str:
        assert isinstance(value, datetime)  # noqa: S101 - nothing else in what is printed is no JSON
        return value.isoformat()

    print(json.dumps(what, default=plain))
