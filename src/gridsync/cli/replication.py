"""`gridsync replicate|promote|fence|divergence`: a store follows another one, takes its place, and what was lost."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from dataclasses import asdict
from itertools import islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from gridsync._io import run_sync
from gridsync._io.interrupts import heeded
from gridsync.cli._shared import DONE, NOTHING, asking, complain, open_grid, print_json, raw_store, shown, tell
from gridsync.cli.keeping import files as files_of
from gridsync.errors import GridsyncError, Promoted, UsageError
from gridsync.streams import RawEvent
from gridsync.streams._divergence import export as write_files
from gridsync.streams._divergence import paths
from gridsync.streams._partitions import noted
from gridsync.streams._sites import must_be_known

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gridsync.streams import Divergence, EventStore, Mirrored, Recorded, Site

BEHIND: Final = 1
NO_MIRROR: Final = 3
"""The target was promoted, or never was a mirror."""


class Sides(NamedTuple):
    """From where to where."""

    source: str
    target: str
    store: str
    namespace: str | None
    archive: Path | None = None


@contextmanager
def stores(sides: Sides, *, awaited: bool = False) -> Iterator[tuple[EventStore[RawEvent], EventStore[RawEvent]]]:
    """Open a store at both sides as the source has it, which has it at all, unless it is *awaited*."""
    with open_grid(sides.source, sides.namespace) as here, open_grid(sides.target, sides.namespace) as there:
        partitions, by = run_sync(noted(here._io, here.namespace, sides.store))  # noqa: SLF001 - as `raw_store` does
        options: dict[str, Any] = {"partitions": partitions, "partition_by": by}
        options["log"] = raw_store(here, sides.store).info().log
        source = here.events(sides.store, RawEvent, archive=sides.archive, **options)
        try:
            run_sync(must_be_known(source._core.partitions, "at --from"))  # noqa: SLF001
        except UsageError as error:
            if not awaited:
                raise
            what, _, do = str(error).partition("; ")
            complain(f"{what}: its first event is awaited", do)
        yield source, there.events(sides.store, RawEvent, **options)


def replicate(sides: Sides, *, once: bool, ready_file: Path | None, as_json: bool) -> int:
    """Follow until stopped; returns 0, 2 if that cannot go on, 3 if the target was promoted."""
    try:
        with asking() as outcome, stores(sides, awaited=not once) as (source, target):
            moving = source.replication(target)

            def ready() -> None:
                if ready_file is not None:
                    ready_file.write_text(f"{os.getpid()}\n", encoding="utf-8")
                _say({"ready": sides.store}, f"{shown(sides.store)} is mirrored", as_json=as_json)

            def hurry() -> None:
                raise KeyboardInterrupt

            with heeded(moving.stop, hurry):
                try:
                    moved = moving.run(once=once, on_ready=ready)
                except Promoted as error:
                    tell(error)
                    outcome.append(NO_MIRROR)
                else:
                    _say({"store": sides.store, "moved": moved}, f"{moved} events have crossed", as_json=as_json)
                    outcome.append(DONE)
    finally:
        if ready_file is not None:
            ready_file.unlink(missing_ok=True)
    return outcome[0]


def status(sides: Sides, lag_events: int | None, lag_seconds: float | None, *, as_json: bool) -> int:
    """Tell how far a mirror is behind; returns 0, 1 if that is too far, 2 if nobody answers, 3 if it is no mirror."""
    with asking() as outcome, stores(sides) as (source, target):
        found = source.replication(target).status()
        behind = {"follows": found.follows, "events": found.events, "seconds": found.seconds}
        _say({"store": sides.store, **behind, **asdict(found)}, _line(found), as_json=as_json)
        late = (lag_events is not None and found.events > lag_events) or (
            lag_seconds is not None and found.seconds > lag_seconds
        )
        outcome.append(BEHIND if late else DONE)
        if not found.follows:
            outcome[:] = [NO_MIRROR]
    return outcome[0]


def promote(target: str, store: str, old: str | None, namespace: str | None, *, force: bool, as_json: bool) -> int:
    """Promote a mirror and fence the old side; returns 0, 1 if the latter failed, 2 if nothing was done."""
    with asking() as outcome, open_grid(target, namespace) as grid:
        site = raw_store(grid, store).promote(force=force)
        fenced = None if old is None else _fenced(old, store, namespace, site.epoch)
        text = _site(site) + ("; the old side was fenced" if fenced else "; the old side is NOT fenced by this")
        behind = _ahead(fenced, site) if fenced else None
        _say({**asdict(site), "old_side_fenced": bool(fenced), "not_crossed": behind}, text, as_json=as_json)
        if behind:
            complain(
                f"{behind} events of the old side never crossed",
                "gridsync divergence lists them, and sets them aside before the old side can follow",
            )
        outcome.append(NOTHING if old is not None and fenced is None else DONE)
    return outcome[0]


def _fenced(url: str, store: str, namespace: str | None, epoch: int) -> Site | None:
    try:
        with open_grid(url, namespace) as grid:
            return raw_store(grid, store).fence(epoch)
    except GridsyncError as error:
        what, _, do = str(error).partition("; ")
        complain(f"the old side: {what}", do or "`gridsync fence` fences it when it is back")
        return None


def _ahead(old: Site, new: Site) -> int:
    """Return how many events the old side has behind those that were there when the new one was promoted."""
    return sum(max(0, here - there) for here, there in zip(old.positions, new.positions, strict=False))


def fence(url: str, store: str, epoch: int | None, namespace: str | None, *, as_json: bool) -> int:
    """Fence a store; returns 0, 1 if it was fenced for a later epoch before, 2 if it was not fenced."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        site = raw_store(grid, store).fence(epoch)
        old = epoch is not None and epoch < site.epoch
        if old:
            complain(
                f"--epoch {epoch} is an old one: {shown(store)} was fenced for epoch {site.epoch} before, and stays so",
                "say the epoch that `gridsync promote` has printed",
            )
        _say(asdict(site), _site(site), as_json=as_json)
        outcome.append(NOTHING if old else DONE)
    return outcome[0]


def divergence(
    sides: Sides, export: Path | None, set_aside: Path | None, *, reappend: bool, most: int, as_json: bool
) -> int:
    """Tell what never crossed; returns 0, 1 if something is missing, 2 if nobody can tell."""
    with asking() as outcome, stores(sides) as (old, new):
        found = old.divergence(new)
        shown_events = list(islice(_missing(old, found), most))
        path = export or set_aside
        files, put_back = tuple[str, ...](), list[dict[str, Any]]()
        if path is not None:
            with files_of(path):
                if set_aside is not None:
                    files = old.set_aside(new, path).files
                else:
                    files = run_sync(write_files(old._core.partitions, found, path))  # noqa: SLF001 - no call of a store
                for file in paths(path, new._core.partitions) if reappend else ():  # noqa: SLF001
                    if file.exists():
                        put_back.append({"file": str(file), **asdict(new.reappend(file))})
        missing = [_event(each) for each in shown_events]
        told = {**asdict(found), "events": found.events, "missing": missing, "files": files, "reappended": put_back}
        lines = [_event_line(each) for each in missing]
        lines += [f"{found.events} events of {shown(sides.store)} never crossed"]
        lines += [f"written: {file}" for file in files]
        lines += [f"appended from {each['file']}: {each['new']}; there before: {each['there']}" for each in put_back]
        _say(told, "\n".join(lines), as_json=as_json)
        outcome.append(BEHIND if found.events and set_aside is None else DONE)
    return outcome[0]


def _missing(old: EventStore[RawEvent], found: Divergence) -> Iterator[Recorded[RawEvent]]:
    for branch in found.branches:
        if branch.events:
            yield from old.read_all(after=branch.common, partition=branch.partition)


def _event(recorded: Recorded[RawEvent]) -> dict[str, Any]:
    names = ("partition", "position", "stream", "version", "id", "type", "time")
    return {name: getattr(recorded, name) for name in names}


def _event_line(event: dict[str, Any]) -> str:
    return (
        f"{event['position']} {event['time']:%Y-%m-%d %H:%M:%S} {shown(event['type'])} {shown(event['stream'])} "
        f"{event['version']}: {shown(event['id'])}"
    )


def _say(what: dict[str, Any], text: str, *, as_json: bool) -> None:
    if as_json:
        print_json(what)
    else:
        print(text)
    sys.stdout.flush()


def _site(site: Site) -> str:
    ends = ", ".join(map(str, site.positions))
    return f"{shown(site.store)} is {site.role} in epoch {site.epoch}, at {ends}"


def _line(found: Mirrored) -> str:
    follows = "follows" if found.follows else "does NOT follow"
    return (
        f"{_site(found.target)}, and {follows} {_site(found.source)}: {found.events} events behind, "
        f"{found.seconds:.1f} s"
    )
