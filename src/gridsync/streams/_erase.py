"""Erasing a stream: its events go for good, and that they did is known, so that nobody takes it for a loss.

Redis structures: a hash, stream → the version up to which it has no events any more; and a sorted set of the positions
that are empty in the log, until that is trimmed beyond them.  Versions and positions go on where they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import Category, Command, load
from gridsync._units import name as checked
from gridsync.errors import UsageError
from gridsync.streams._commit import Expected, expected_number
from gridsync.streams._letters import Letters
from gridsync.streams._pages import hole, is_hole, number

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, ReadFrom
    from gridsync._io.keys import EventKeys
    from gridsync.streams._core import StoreCore
    from gridsync.streams._partitions import Store

ERASE: Final = load("gridsync.streams", "erase")
_UPTO: Final = Command("streams.look_at_erased", Category.READ, ("HMGET",))
_COUNT: Final = Command("streams.count_holes", Category.READ, ("ZCOUNT",))
_HOLES: Final = Command("streams.look_at_holes", Category.READ, ("ZRANGEBYSCORE",))
_KINDS: Final = Command("streams.look_at_aggregates", Category.READ, ("SMEMBERS",))
STEP: Final = 1000
"""Events that one run of the script removes at most: it blocks the server while it runs."""
_CONFLICT: Final = 2


@dataclass(frozen=True, slots=True)
class Erased:
    """What `EventStore.erase` did."""

    version: int
    """The version up to which the stream has no events any more; its next event gets the one after it."""
    events: int
    """How many events were removed now, as far as seen from here."""
    letters: int
    """How many dead letters of them were discarded now."""


async def erase(store: Store[Any], stream: str, expected: int | Expected) -> Erased:
    """Remove the events of a stream; see `EventStore.erase`."""
    core, wanted = store.of(checked(stream, "the name of a stream")), expected_number(expected)
    if wanted == 0:
        raise UsageError("expected_version: there is nothing to erase without events; give a version, ANY or EXISTS")
    await core.directory.look()
    keys, upto, events, more, groups = core.keys, 0, 0, True, list[bytes]()
    snapshots = [keys.snapshot(kind.decode(), stream) for kind in await core.io.run(_KINDS, (keys.aggregates,))]
    store_keys = (keys.meta, keys.versions, keys.log, keys.floors)
    touched = (*store_keys, keys.erased, keys.holes, keys.stream(stream), keys.erasing(stream), *snapshots)
    while more:
        # A repeat goes on where the first run ended.
        reply = await core.io.run(ERASE, touched, (stream, str(wanted), str(upto), str(STEP)))
        if reply[0] == _CONFLICT:
            raise core.wrong_version(_CONFLICT, stream, expected, reply[1], "erased")
        _, upto, count, more, groups = reply
        events += count
    return Erased(upto, events, await _discard(core, groups, stream, upto))


async def _discard(core: StoreCore[Any], groups: Sequence[bytes], stream: str, upto: int) -> int:
    """Discard the dead letters of these events."""
    done = 0
    for group in groups:
        letters, after = Letters(core.io, core.keys, core.name, group.decode()), ""
        while page := await letters.page(after):
            after = page[-1].id
            for letter in page:
                if letter.stream == stream and int(letter.raw.get(b"v", b"0")) <= upto:
                    done += await letters.discard(letter.id)
    return done


class ErasedEvents:
    """Which versions of a stream were erased."""

    def __init__(self, io: IO, keys: EventKeys, stream: str) -> None:
        """Nothing is sent."""
        self._io = io
        self._key = keys.erased
        self._stream = stream

    async def all(self, low: int, high: int, read_from: ReadFrom) -> bool:  # noqa: ARG002 - as `ErasedPositions.all`
        """Tell whether every version up to *high* was."""
        found = await self._io.read(_UPTO, (self._key,), (self._stream,), read_from=read_from)
        return int(found[0] or 0) >= high

    async def shown(self, low: int, high: int) -> list[Any]:
        """Return what stands for each of them."""
        return [hole(version, self._stream.encode(), b"%d" % version) for version in range(low, high + 1)]


class ErasedPositions:
    """Which positions of a log were erased."""

    def __init__(self, io: IO, keys: EventKeys) -> None:
        """Nothing is sent."""
        self._io = io
        self._key = keys.holes

    async def all(self, low: int, high: int, read_from: ReadFrom) -> bool:
        """Tell whether every position from *low* to *high* was."""
        found: int = await self._io.read(_COUNT, (self._key,), (str(low), str(high)), read_from=read_from)
        return found == high - low + 1

    async def shown(self, low: int, high: int) -> list[Any]:
        """Return what stands for each of them."""
        found = await self._io.run(_HOLES, (self._key,), (str(low), str(high)))
        return [_hole(member) for member in found]


async def without_erased(io: IO, keys: EventKeys, entries: Sequence[Any], stream: str | None) -> list[Any]:
    """Return entries of an archive as they would be if it had been written after all that was erased since."""
    names = [_stream_of(entry) if stream is None else stream.encode() for entry in entries]
    asked = sorted(set(names))
    if not asked:
        return []
    said = await io.run(_UPTO, (keys.erased,), asked)
    upto = {name: int(version or 0) for name, version in zip(asked, said, strict=True)}
    return [
        entry if is_hole(entry) or _version_of(entry, stream) > upto[name] else hole(number(entry), name, b"0")
        for entry, name in zip(entries, names, strict=True)
    ]


def _hole(member: bytes) -> Any:  # noqa: ANN401
    position, version, stream = member.split(b" ", 2)
    return hole(int(position), stream, version)


def _stream_of(entry: Any) -> bytes:  # noqa: ANN401 - [id, [field, value, ...]]
    flat: list[bytes] = entry[1]
    return flat[flat.index(b"s") + 1]


def _version_of(entry: Any, stream: str | None) -> int:  # noqa: ANN401
    flat = entry[1]
    return int(flat[flat.index(b"v") + 1] if stream is None else entry[0][:-2])
