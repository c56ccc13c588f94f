"""`gridsync streams trim|floor|archive|export|import`: what leaves a log, who keeps it, its way to a file and back."""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, Literal

from gridsync.cli._shared import DONE, NOTHING, asking, open_grid, print_json, raw_store, shown, tell_missing
from gridsync.errors import UsageError
from gridsync.streams._portable import export as write_file
from gridsync.streams._portable import import_ as read_file

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gridsync.grid import Grid
    from gridsync.streams import Holder
    from gridsync.streams._core import StoreCore


def trim(
    store: str,
    *,
    max_age: float | None,
    max_count: int | None,
    max_bytes: int | None,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Remove what everybody has had; returns 0, 1 if nothing went, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        if max_age is max_count is max_bytes is None:
            raise UsageError(
                "no limit was given; say --max-age, --max-count or --max-bytes: --max-count 1 removes all that "
                "everybody has had"
            )
        opened = raw_store(grid, store)
        done = opened.trim(max_age=max_age, max_count=max_count, max_bytes=max_bytes)
        if as_json:
            print_json({"store": store, **asdict(done)})
        else:
            print(f"{done.removed} events were removed from the log of {shown(store)}; {done.left} are left")
            if done.held_by is not None:
                print(f"{done.kept} more had to stay for {done.held_by[0]} {shown(done.held_by[1])}")
            if not done.left:
                tell_missing(opened.info())
        outcome.append(DONE if done.removed else NOTHING)
    return outcome[0]


def floor(store: str, *, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Say who holds what; returns 0, 1 if nobody holds anything, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        found = opened.floor()
        if as_json:
            print_json({"store": store, **asdict(found)})
        else:
            for holder in found.holders:
                print(_line(holder))
            print(
                f"{found.free} of {found.events} events in the log of {shown(store)} may be removed; it takes about "
                f"{found.log_bytes} bytes"
            )
            if not found.events:
                tell_missing(opened.info())
        outcome.append(DONE if found.holders else NOTHING)
    return outcome[0]


def release(
    store: str,
    kind: Literal["group", "projection", "reader", "replicator"],
    name: str,
    *,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Forget one who holds the floor; returns 0, 1 if it was not known, 2 if nobody answers."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        done = raw_store(grid, store).release(kind, name)
        if as_json:
            print_json({"store": store, "kind": kind, "name": name, "released": done})
        else:
            print(f"{kind} {shown(name)} {'is forgotten' if done else 'was not known'}")
        outcome.append(DONE if done else NOTHING)
    return outcome[0]


def archive(store: str, directory: Path, *, url: str | None, namespace: str | None, as_json: bool) -> int:
    """Copy what is new into files; returns 0, 1 if nothing was, 2 if that failed."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        opened = raw_store(grid, store)
        with files(directory):
            done = opened.archive(directory)
        if as_json:
            print_json({"store": store, "directory": str(directory), **asdict(done)})
        else:
            print(f"{done.events} events of {shown(store)} were written into {done.files} files in {directory}")
            if not done.events:
                tell_missing(opened.info())
        outcome.append(DONE if done.events else NOTHING)
    return outcome[0]


def export(
    store: str,
    path: Path,
    *,
    after: int,
    partition: int | None,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Write the log into a file; returns 0, 1 if it holds no event, 2 if that failed."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        core, partitions = _one(grid, store, partition)
        with files(path):
            done = write_file(core, partitions, after, path)
        if as_json:
            print_json({"store": store, "file": str(path), **asdict(done)})
        else:
            print(f"{done.events} events of {shown(store)}, positions {done.first} to {done.last}, are in {path}")
            if not done.events:
                tell_missing(raw_store(grid, store).info())
        outcome.append(DONE if done.events else NOTHING)
    return outcome[0]


def import_(
    store: str,
    path: Path,
    *,
    partition: int | None,
    dry_run: bool,
    url: str | None,
    namespace: str | None,
    as_json: bool,
) -> int:
    """Write the events of a file into a store; returns 0, 1 if all were there, 2 if that failed."""
    with asking() as outcome, open_grid(url, namespace) as grid:
        with files(path):
            done = read_file(*_one(grid, store, partition), path, dry_run=dry_run)
        if as_json:
            print_json({"store": store, "file": str(path), "dry_run": dry_run, **asdict(done)})
        else:
            verb = "would be" if dry_run else "were"
            print(f"{done.new} of {done.events} events {verb} written to {shown(store)}; {done.there} were there")
        outcome.append(DONE if done.new else NOTHING)
    return outcome[0]


def _one(grid: Grid, store: str, partition: int | None) -> tuple[StoreCore[Any], int]:
    cores = raw_store(grid, store)._core.chosen(partition)  # noqa: SLF001
    if len(cores) > 1:
        raise UsageError(
            f"{store!r} is in {len(cores)} partitions, and a file holds one of them; say which: --partition 0 to "
            f"{len(cores) - 1}"
        )
    return cores[0], len(raw_store(grid, store)._core.partitions)  # noqa: SLF001


@contextmanager
def files(path: Path) -> Iterator[None]:
    """Take what goes wrong with a file for a mistake of the caller."""
    try:
        yield
    except OSError as error:
        what = error.strerror or error
        raise UsageError(f"{path}: {what}; name one that is there, in a directory that may be written") from error
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: {error}; install the extra `archive`, or let the name end in .gz") from error


def _line(holder: Holder) -> str:
    since = "" if holder.since is None else f" since {holder.since:%Y-%m-%d %H:%M:%S} UTC"
    seen = "" if holder.seen is None else f", last heard of {holder.seen:%Y-%m-%d %H:%M:%S} UTC"
    return (
        f"{holder.kind} {shown(holder.name)}: at position {holder.position}, holds {holder.held} events, about "
        f"{holder.held_bytes} bytes,{since}{seen}"
    )
