"""Divergence: what one side of a store has, and the other side never got.

Two sides have the same events up to some position, and from there on each has its own: the last ones of a primary that
was lost before they crossed, and those of the mirror that was promoted.  They are found by comparing ids and times at
positions, set aside in a file, and taken off; nothing is removed that is not in the file, on the disk.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command, load
from gridsync.errors import ServerError, Truncated, UsageError
from gridsync.streams._cap import again
from gridsync.streams._core import APPEND, RECENT, REPLAYED
from gridsync.streams._lines import opened, read_entries, read_head, write_file, written
from gridsync.streams._pages import RANGE, RANGE_BACK, Mark, is_hole, mark_of, number
from gridsync.streams._sites import look

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from gridsync._io import Script
    from gridsync.streams._core import StoreCore

CUT: Final = load("gridsync.streams", "cut")
REWIND: Final = load("gridsync.streams", "rewind")
GROUPS: Final = Command("streams.noted_groups", Category.READ, ("HKEYS",))

STEP: Final = "500"
"""Events that one run of a script copies."""


@dataclass(frozen=True, slots=True)
class Branch:
    """What of one partition never crossed."""

    partition: int
    """Which one."""
    common: int
    """The last position where both sides have the same event; 0 if there is none."""
    events: int
    """How many events this side has behind it, which the other one does not have."""
    theirs: int
    """How many the other side has behind it."""


@dataclass(frozen=True, slots=True)
class Divergence:
    """What a store has that never crossed to the other side; `read_all` shows it, from `Branch.common` on."""

    store: str
    """The store."""
    branches: tuple[Branch, ...]
    """Of each partition."""

    @property
    def events(self) -> int:
        """How many events never crossed, in all partitions."""
        return sum(branch.events for branch in self.branches)


@dataclass(frozen=True, slots=True)
class SetAside:
    """What was taken off."""

    divergence: Divergence
    """What never crossed."""
    files: tuple[str, ...]
    """Where it is now; none if there was nothing."""


@dataclass(frozen=True, slots=True)
class Reappended:
    """What became of the events of a file."""

    events: int
    """Events in the file."""
    new: int
    """Those that were appended."""
    there: int
    """Those that had been appended before."""


async def compare(ours: Sequence[StoreCore[Any]], theirs: Sequence[StoreCore[Any]]) -> Divergence:
    """Compare two sides; see `EventStore.divergence`."""
    if len(ours) != len(theirs):
        raise UsageError(f"one side has {len(ours)} partition(s) and the other {len(theirs)}: they are no two sides")
    branches = [await _branch(core, other) for core, other in zip(ours, theirs, strict=True)]
    return Divergence(ours[0].name, tuple(branches))


async def _branch(ours: StoreCore[Any], theirs: StoreCore[Any]) -> Branch:
    here, there = (await look(ours)).position, (await look(theirs)).position
    common = await _common(ours, theirs, min(here, there))
    return Branch(ours.partition, common, here - common, there - common)


async def _common(ours: StoreCore[Any], theirs: StoreCore[Any], last: int) -> int:
    """Return the last position up to *last* where both have the same event: they never come together again."""

    async def same(position: int) -> bool:
        while True:
            # Where one side has erased an event, the one before it tells.
            here, there = [await _newest(core, position) for core in (ours, theirs)]
            if here is None or there is None or here.number == there.number:
                return here is not None and here == there
            position = min(here.number, there.number)

    if not last or await same(last):
        return last
    low = max([await _first(core) for core in (ours, theirs)])
    if low > last or not await same(low):
        if low <= 1:
            return 0
        raise Truncated(
            f"{ours.log_name} and {theirs.log_name} have no position in common that both still have, from {low} on: "
            "what they had before was removed, so nobody can say where they part; compare the archives",
            name=ours.log_name,
            first=low,
        )
    high = last
    while high - low > 1:
        middle = (low + high) // 2
        if await same(middle):
            low = middle
        else:
            high = middle
    return low


async def _newest(core: StoreCore[Any], position: int) -> Mark | None:
    found = await core.io.run(RANGE_BACK, (core.keys.log,), (f"{position}-0", "-", "COUNT", "1"))
    return mark_of(found[0]) if found else None


async def _first(core: StoreCore[Any]) -> int:
    found = await core.io.run(RANGE, (core.keys.log,), ("-", "+", "COUNT", "1"))
    return number(found[0]) if found else 1


def paths(path: Path, cores: Sequence[StoreCore[Any]]) -> list[Path]:
    """Return the file of each partition: *path* itself if there is one."""
    if len(cores) == 1:
        return [path]
    return [path.with_name(f"partition-{core.partition}-{path.name}") for core in cores]


async def export(ours: Sequence[StoreCore[Any]], found: Divergence, path: Path) -> tuple[str, ...]:
    """Write what never crossed into files; returns those of partitions that have something."""
    files = list[str]()
    for core, branch, file in zip(ours, found.branches, paths(path, ours), strict=True):
        if branch.events:
            await _export(core, len(ours), branch, file)
            files.append(str(file))
    return tuple(files)


async def _export(core: StoreCore[Any], partitions: int, branch: Branch, file: Path) -> list[Any]:
    """Write the events of a branch into a file, or find them there; returns their entries."""
    there, pages = list[Any](), core.log_pages(start=branch.common + 1, holes=True)
    while page := await pages.next():
        there += page
    if await core.io.aside(file.exists):
        # An earlier attempt has written it, and has perhaps begun to remove what is in it.
        _, entries = await core.io.aside(partial(_read, file))
        if list(map(mark_of, entries)) != list(map(mark_of, there)):
            raise UsageError(f"{file} holds other events: give another name; nothing was written or removed")
        return entries
    head = {"store": core.name, "partition": core.partition, "partitions": partitions, "after": branch.common}
    await core.io.aside(lambda: write_file(file, written(head, there)))
    return there


def _read(file: Path) -> tuple[dict[str, Any], list[Any]]:
    try:
        with opened(file, "rb") as lines:
            return read_head(lines, str(file)), list(read_entries(lines, str(file)))
    except FileNotFoundError as error:
        raise UsageError(f"{file}: {error}") from error


async def set_aside(ours: Sequence[StoreCore[Any]], theirs: Sequence[StoreCore[Any]], path: Path) -> SetAside:
    """Write what never crossed into files and take it off; see `EventStore.set_aside`."""
    found, files = await compare(ours, theirs), list[str]()
    for core, other in zip(ours, theirs, strict=True) if found.events else ():
        if (role := (await look(core)).role) not in ("fenced", "superseded"):
            raise UsageError(
                f"{core.log_name} is {role}: fence it first, or what it gets meanwhile would be taken off with the rest"
            )
        # What has not crossed yet would be taken off as what never can, or all of it, for a wrong URL.
        if not (there := await look(other)).known:
            raise UsageError(f"{other.log_name} is not at the other side: see whether its URL and namespace are right")
        if there.role == "mirror":
            raise UsageError(f"{other.log_name} is still a mirror: let it follow to the end, or promote it")
    # What came before it was fenced is counted, too.
    found = await compare(ours, theirs) if found.events else found
    for core, branch, file in zip(ours, found.branches, paths(path, ours), strict=True):
        if branch.events:
            entries = await _export(core, len(ours), branch, file)
            await _take_off(core, branch.common, entries)
            files.append(str(file))
    return SetAside(found, tuple(files))


async def _take_off(core: StoreCore[Any], common: int, entries: Sequence[Any]) -> None:
    """Remove events that are in a file; the log last, so that a repeat knows what is to be done."""
    keys, kept = core.keys, dict[bytes, int]()
    for entry in entries:
        fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
        kept.setdefault(fields[b"s"], int(fields[b"v"]) - 1)
    for stream, version in kept.items():
        name = stream.decode()
        touched = (keys.meta, keys.versions, keys.stream(name), keys.cut(name), keys.erased)
        await _until_done(core, CUT, touched, (stream, str(version), STEP))
    done = [keys.done(group.decode()) for group in await core.io.run(GROUPS, (keys.floors,))]
    whole = (keys.meta, keys.log, keys.cut(""), keys.recent, keys.floors, keys.holes, *done)
    await _until_done(core, REWIND, whole, (str(common), STEP))


async def _until_done(core: StoreCore[Any], script: Script, keys: Sequence[str], args: Sequence[str | bytes]) -> None:
    # A repeat goes on where the first one ended.
    while not (done := await core.io.run(script, keys, args)):
        pass
    if done < 0:
        raise UsageError(f"{core.log_name} takes events again, or mirrors another store: nothing more was taken off")


async def reappend(cores: Sequence[StoreCore[Any]], path: Path) -> Reappended:
    """Append the events of a file; see `EventStore.reappend`."""
    head, entries = await cores[0].io.aside(partial(_read, path))
    if head.get("partitions", 1) != len(cores):
        raise UsageError(
            f"{path} is of a store in {head.get('partitions', 1)} partition(s), and this one has {len(cores)}"
        )
    core = cores[head.get("partition", 0)]
    new = [await _append(core, entry) for entry in entries if not is_hole(entry)]
    return Reappended(len(new), sum(new), len(new) - sum(new))


async def _append(core: StoreCore[Any], entry: Any) -> bool:  # noqa: ANN401 - [id, [field, value, ...]]
    """Append an event to its stream, whatever its version is now; false if its id is there."""
    fields = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
    stream, about = fields[b"s"].decode(), fields.get(b"m", b"")
    keys = core.keys
    args = (stream, "-1", str(RECENT), about, core.mode, fields[b"i"], fields[b"t"], fields[b"d"])
    touched = (keys.meta, keys.versions, keys.log, keys.recent, keys.stream(stream))
    try:
        # A lost reply may mean written: the id is found.
        reply = await again(core, await core.io.run(APPEND, touched, args), APPEND, touched, args, 1)
    except ServerError as error:
        await core.compare(error)
        raise
    return bool(reply[0] != REPLAYED)
