"""Export and import: a log in a file, and a file in a log, with the same ids, versions, positions and times."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load, run_sync
from gridsync.errors import ServerError, UsageError
from gridsync.streams._cap import again
from gridsync.streams._core import RECENT
from gridsync.streams._lines import opened, read_entries, read_head, write_file, written
from gridsync.streams._links import mode
from gridsync.streams._pages import ERASED, number, read_mark

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from gridsync.streams._core import StoreCore

RESTORE: Final = load("gridsync.streams", "restore")

_WHOLE: Final = frozenset({b"i", b"s", b"v", b"t", b"d", b"w"})
_HOLE: Final = frozenset({b"s", b"v", ERASED})
FULL: Final = -5
"""The code of `restore.lua` for a log that is at its cap."""
BATCH: Final = 200
"""Events that are imported at once."""


@dataclass(frozen=True, slots=True)
class Exported:
    """What went into a file."""

    events: int
    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Imported:
    """What came of a file."""

    events: int
    """Events in the file."""
    new: int
    """Those that were written; in a dry run those that would be."""
    there: int
    """Those that were there before, the same ones at the same places."""


def export(core: StoreCore[Any], partitions: int, after: int, path: Path) -> Exported:
    """Write the log of one of *partitions* behind a position into a file that is there once it is whole; blocks."""
    ends: list[int] = []
    pages = core.log_pages(mark=read_mark(after), holes=True)

    def entries() -> Iterator[Any]:
        while page := run_sync(pages.next()):
            ends[:] = (ends[0] if ends else number(page[0]), number(page[-1]))
            yield from page

    head = {"store": core.name, "partition": core.partition, "partitions": partitions, "log": core.log}
    write_file(path, written(head, entries()))
    first, last = ends or (0, 0)
    return Exported(last - first + 1 if ends else 0, first, last)


def import_(core: StoreCore[Any], partitions: int, path: Path, *, dry_run: bool) -> Imported:
    """Write the events of a file into a store that is empty, or that begins as the file does; blocks.

    Raises:
        Damaged: The file is not as it was written; nothing was imported.
        UsageError: The store holds other events; those before the first such one are there, or were imported.
        LogFull: The log is at its cap; what was imported before is there.
    """
    # To its end first: what is torn is refused as a whole.
    place = (core.partition, partitions)
    events = sum(1 for _ in _events(path, place))
    new = there = 0
    log = _log_of(path)
    entries = _events(path, place)
    while batch := list(islice(entries, BATCH)):
        if dry_run and new:
            new += len(batch)  # behind what is not there yet, as the file itself was found to be without a gap
            continue
        fresh, known = run_sync(restored(core, batch, str(path), dry_run=dry_run, log=log))
        new, there = new + fresh, there + known
    return Imported(events, new, there)


def _log_of(path: Path) -> str:
    """Return what kind of log a store without events becomes: that of the store that the file was made of."""
    with opened(path, "rb") as file:
        return mode(str(read_head(file, str(path)).get("log", "copy")))


def _events(path: Path, place: tuple[int, int]) -> Iterator[Any]:
    with opened(path, "rb") as file:
        head = read_head(file, str(path))
        if (said := (head.get("partition", 0), head.get("partitions", 1))) != place:
            raise UsageError(f"{path}: it holds partition {said[0]} of {said[1]}, not {place[0]} of {place[1]}")
        before = None
        for entry in read_entries(file, str(path)):
            if before is not None and number(entry) != before + 1:
                raise UsageError(f"{path}: position {number(entry)} follows {before}: it is no part of one log")
            before = number(entry)
            yield entry


async def restored(
    core: StoreCore[Any], batch: list[Any], where: str, *, dry_run: bool, log: str = ""
) -> tuple[int, int]:
    """Write entries of a log at their places; returns how many are new, and how many were there.

    *log* is what the scripts call the kind of log that a store without events becomes.
    """
    keys, args, streams = core.keys, [str(RECENT), str(int(dry_run)), log], dict[str, int]()
    words: list[str | bytes] = [*args]
    for entry in batch:
        fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
        if not (fields.keys() >= _WHOLE or fields.keys() >= _HOLE) or not fields[b"v"].isdigit():
            raise UsageError(f"{where}: the event at position {number(entry)} lacks a field")
        stream = fields[b"s"].decode()
        if core.home is not None and core.home(stream) != core.partition:
            raise UsageError(f"{where}: stream {stream!r} does not belong into partition {core.partition}")
        place = streams.setdefault(keys.stream(stream), len(streams) + 1)
        words += (str(place), str(number(entry)), str(len(entry[1])), *entry[1])
    # A lost reply may mean written: the repeat finds the same events.
    touched = (keys.meta, keys.versions, keys.log, keys.recent, keys.erased, keys.holes, *streams)
    try:
        reply = await core.io.run(RESTORE, touched, words)
        code, count = await again(core, reply, RESTORE, touched, words, len(batch), full=FULL)
    except ServerError as error:
        await core.compare(error)
        raise
    if code < 0:
        raise UsageError(
            f"{where}: the event at position {count} cannot be in {core.name!r}: another one is there, or those before "
            "it are not; import into a store that is empty or begins with the same events"
        )
    return code, count
