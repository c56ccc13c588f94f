"""A drill: whether a backup can be restored, tried out on a server of our own.

What is compared
    counts: for each wing as many permanent keys as were taken, with the same digest over names and types, and no
    more expiring ones.  histories: in every partition of every event store, positions and versions without a gap,
    and counters that say the same.  order books: rebuilt of their events, the same as the live one.

Not compared: values, key by key.  The digest of the file and the server's own checksum stand for those.  Nor the number
of keys of an append log: it is taken while it grows, so nobody has counted what is in it.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

from gridsync._io import run_sync
from gridsync._io.keys import unescaped
from gridsync._io.wire.endpoint import parse
from gridsync.errors import GridsyncError
from gridsync.grid import Grid
from gridsync.market import EVENTS
from gridsync.market._core import stream_of
from gridsync.market._look import terms
from gridsync.ops.fences import floor_us, raise_fences
from gridsync.ops.loading import Source, materialised, sound
from gridsync.ops.rdb import Contents, inspect
from gridsync.ops.snapshot import Snapshot
from gridsync.ops.throwaway import databases
from gridsync.streams._pages import is_hole, number

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from gridsync._embedded.binary import ServerBinary
    from gridsync.ops.archive import Manifest
    from gridsync.ops.taking import Tell

__all__ = ["Drill", "drill"]

PAGE: Final = 500
_META: Final = re.compile(rb"\{([^{}:]*):events(?:/[0-9]+)?:([^{}]*)\}:meta", re.DOTALL)
_BOOK: Final = re.compile(rb"\{([^{}:]*):events:([^{}]*)\}:orderbook:([^:]*):book", re.DOTALL)
_MASK: Final = (1 << 128) - 1


@dataclass(slots=True)
class Drill:
    """What a drill has found."""

    backup: str
    server: str = ""
    """Which program read it."""
    loaded_s: float = 0.0
    """How long it took until a server held it all, in seconds: unpacking included."""
    seconds: float = 0.0
    """How long the drill took."""
    keys: int = 0
    stores: int = 0
    """Partitions of event stores whose history was read."""
    events: int = 0
    books: int = 0
    """Order books that were compared."""
    compared: list[str] = field(default_factory=list)
    """What was compared with what."""
    wrong: list[str] = field(default_factory=list)
    """What is not as it should be."""
    unknown: list[str] = field(default_factory=list)
    """What could not be compared, and why."""


def drill(path: Path, work: Path, tell: Tell, *, now_us: int, identity: Path | None = None) -> Drill:
    """Load a backup into a server of our own, compare, and end that server; *work* is an empty directory for its files.

    Raises:
        Damaged: A file is not as it was written.
        UsageError: It is no backup, no server here reads it, or it cannot be decrypted.

    Cost: the memory and the time that loading it takes, and one read of every event.
    """
    began, manifest = time.monotonic(), sound(path)
    found = Drill(manifest.id)
    found.compared.append(f"SHA-256 of {len(manifest.parts)} files, with what was written")
    with materialised(Source(path, manifest, identity, tell), work) as (client, program):
        found.server, found.loaded_s = str(program), time.monotonic() - began
        _compare(found, manifest, _contents(client, program))
        for one in databases(client):
            _histories(found, one)
            _books(found, one)
        raise_fences(client, floor_us(manifest, now_us))
    found.compared += [
        f"positions and versions of {found.events} events in {found.stores} partitions, with their counters",
        f"{found.books} order books, with what their events make",
    ]
    found.seconds = time.monotonic() - began
    return found


def _contents(client: redis.Redis, program: ServerBinary) -> Contents:
    """Return what the server holds now, as it would tell a replica."""
    client.config_set("repl-diskless-sync-delay", "0")
    snapshot = Snapshot(parse(_url(client), connect_timeout=10))
    pieces = iter(snapshot)
    try:
        contents = inspect(lambda: next(pieces, b""))
    finally:
        snapshot.close()
    contents.unknown = contents.unknown and f"{program}: {contents.unknown}"
    return contents


def _url(client: redis.Redis) -> str:
    """Return the URL of what *client* speaks to now."""
    options = client.connection_pool.connection_kwargs
    return f"unix://{quote(options['path'])}?db={options.get('db', 0)}"


def _compare(found: Drill, manifest: Manifest, contents: Contents) -> None:
    found.keys = contents.keys
    if reasons := {contents.unknown, *(part.unknown for part in manifest.parts if part.wings is None)} - {""}:
        found.unknown.append(f"keys: {', '.join(sorted(reasons))}")
        return
    found.compared.append("the number of keys of each wing, and a digest of their names and types, with what was taken")
    for wing in sorted({*contents.wings, *(name for part in manifest.parts for name in part.wings or {})}):
        taken = [part.wings[wing] for part in manifest.parts if part.wings and wing in part.wings]
        permanent, expiring = (sum(each[name] for each in taken) for name in ("permanent", "expiring"))
        digest = sum(int(each["digest"], 16) for each in taken) & _MASK
        here = contents.wings.get(wing)
        count, kept = (here.permanent, here.expiring) if here else (0, 0)
        if count != permanent:
            found.wrong.append(f"{wing}: {count} permanent keys, and {permanent} were taken")
        elif (here.digest if here else 0) != digest:
            found.wrong.append(f"{wing}: other permanent keys than were taken")
        if kept > expiring:
            found.wrong.append(f"{wing}: {kept} keys that expire, and {expiring} were taken")


def _histories(found: Drill, client: redis.Redis) -> None:
    for name in client.scan_iter(match="*}:meta", count=1000):
        if _META.fullmatch(name):
            meta: Any = client.hgetall(name)
            position = meta.get(b"pos", b"0")
            if position.isdigit():
                found.stores += 1
                _history(found, client, name.removesuffix(b":meta"), int(position))


def _history(found: Drill, client: redis.Redis, base: bytes, last: int) -> None:
    """Read the log of one partition, and compare it with what the streams and the counters say."""
    shown, versions, before = base.decode(errors="replace"), dict[bytes, int](), 0
    for entry in _entries(client, base + b":log"):
        here = number(entry)
        if before and here != before + 1:
            found.wrong.append(f"{shown}: position {here} comes after {before}")
            return
        before = here
        found.events += 1
        if is_hole(entry):
            continue
        said = dict(zip(entry[1][::2], entry[1][1::2], strict=True))
        stream, version = said[b"s"], int(said[b"v"])
        if stream in versions and version != versions[stream] + 1:
            found.wrong.append(f"{shown}: {stream.decode()} has version {version} after {versions[stream]}")
            return
        versions[stream] = version
    if before != last and (before or client.xlen(base + b":log")):
        found.wrong.append(f"{shown}: the log ends at position {before}, and the counter says {last}")
    for stream, version in versions.items():
        counted: Any = client.hget(base + b":versions", stream)
        if counted is None or int(counted) != version:
            found.wrong.append(
                f"{shown}: {stream.decode()} ends with version {version}, and the counter says {counted!r}"
            )


def _entries(client: redis.Redis, log: bytes) -> Iterator[Any]:
    start = "-"
    while page := client.xrange(log, start, "+", count=PAGE):
        raw = [_flat(entry) for entry in page]
        yield from raw
        start = f"({raw[-1][0].decode()}"


def _flat(entry: Any) -> Any:  # noqa: ANN401
    name, fields = entry
    return [name, [word for pair in (fields or {}).items() for word in pair]]


def _books(found: Drill, client: redis.Redis) -> None:
    url = _url(client)
    for name in client.scan_iter(match="*}:orderbook:*:book", count=1000):
        if not (told := _BOOK.fullmatch(name)):
            found.unknown.append(f"{name.decode(errors='replace')}: a book in a store of several partitions")
            continue
        namespace, store, market = (unescaped(each.decode(errors="replace")) for each in told.groups())
        with Grid(url, namespace=namespace, audit=False) as grid:
            try:
                wrong = _unlike(grid, store, market)
            except GridsyncError as error:
                wrong = str(error)
        found.books += 1
        if wrong:
            found.wrong.append(f"order book {market}: {wrong}")


def _unlike(grid: Grid, store: str, market: str) -> str:
    """Return how a book is not what its events say; nothing if it is."""
    events = grid.events(store, EVENTS)
    if (log := events.info().log) != "copy":
        events = grid.events(store, EVENTS, log=log)
    core: Any = events._core  # noqa: SLF001
    tick, lot = run_sync(terms(core.of(stream_of(market)), market)) or ("1", "1")
    return ", ".join(grid.orderbook(market, tick=tick, lot=lot, store=events).verify().differences[:3])
