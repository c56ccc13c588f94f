"""Taking a backup: every server's snapshot, packed and described.

States: a partial directory → a file for each server, whole → the manifest → the name.  Whatever ends it before the last
leaves no backup.  Nothing is changed at the server, so nothing has to be mended there after a kill.

Invariant: a listed backup holds, of each server, everything that it had acknowledged before the moment `Part.offset`
stands for, and nothing later.  Servers of a cluster have a moment each.
"""

from __future__ import annotations

import os
import re
import secrets
import shutil
import time
from collections.abc import Callable
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, BinaryIO, Final, TypeAlias, cast

from gridsync import __version__
from gridsync.errors import Unavailable, UsageError
from gridsync.ops.archive import Manifest, Part, backups_in, check, digest_of, is_file_name, partial, seal
from gridsync.ops.packing import Packer, best_compression, encryption_for
from gridsync.ops.rdb import inspect
from gridsync.ops.retention import Keep, kept
from gridsync.ops.snapshot import Snapshot, ask, servers_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

    from gridsync._io.wire.endpoint import Endpoint
    from gridsync.ops.archive import Backup
    from gridsync.ops.rdb import Contents
    from gridsync.ops.snapshot import About

__all__ = ["Tell", "Wanted", "now_us", "prune", "take"]

Tell: TypeAlias = Callable[[str, int, int | None], None]
"""Hears how far it has got: what, bytes so far, and of how many, where that is known."""

_PIECE: Final = 1 << 18
_TRIES: Final = 100
_UNCOUNTED: Final = (
    "an append log grows while it is taken, so its keys were not counted: one that is missing shows only in a history "
    "or a book"
)


@dataclass(frozen=True, slots=True)
class Wanted:
    """What a backup is to be."""

    to: Path
    recipients: tuple[str, ...] = ()
    """Public keys: it is encrypted for these."""
    timeout: float = 5.0
    """Seconds for a connection."""
    data: Path | None = None
    """The server's data directory: its append log is taken, instead of a snapshot by wire."""


def now_us() -> int:
    """Return what this machine takes the time to be, in microseconds since 1970."""
    return time.time_ns() // 1000


@dataclass(frozen=True, slots=True)
class _Run:
    """One backup that is being written."""

    path: Path
    manifest: Manifest
    wanted: Wanted
    tell: Tell


def take(url: str, wanted: Wanted, tell: Tell, *, password_file: str | None = None) -> Backup:
    """Take a backup of the servers that *url* names; *password_file* has the password that is not in it.

    Raises:
        GridsyncError: A server could not be reached or refused, or the disk or the encryption did; there is no backup.

    Cost: a fork at each server, one after the other, or with `Wanted.data` one read of its files; here about 10 MB of
    memory, however much it is.
    """
    manifest = _begun(encryption_for(wanted.recipients))
    with _on_disk(wanted.to), partial(wanted.to, manifest.id) as path:
        run = _Run(path, manifest, wanted, tell)
        servers = servers_of(url, timeout=wanted.timeout, password_file=password_file)
        if wanted.data is not None:
            _append_log(run, wanted.data, servers)
        else:
            for number, (server, slots) in enumerate(servers):
                _snapshot(run, server, slots, f"part-{number}.rdb")
            _see_the_same(servers, url, wanted, password_file)
        final = seal(path, manifest)
    return next(each for each in backups_in(wanted.to) if each.path == final)


def _see_the_same(before: Sequence[tuple[Endpoint, str]], url: str, wanted: Wanted, password_file: str | None) -> None:
    """See that each slot of a cluster is where it was: one that moved meanwhile may be in no snapshot.

    Raises:
        Unavailable: It is not.
    """
    if before[0][1]:
        after = servers_of(url, timeout=wanted.timeout, password_file=password_file)
        if _places(after) != _places(before):
            raise Unavailable(
                "slots moved to other servers while the cluster's backup was taken, so nothing was kept; run it again"
            )


def _places(servers: Sequence[tuple[Endpoint, str]]) -> list[tuple[str, int, str]]:
    return [(server.host, server.port, slots) for server, slots in servers]


def _begun(encryption: str) -> Manifest:
    now = now_us()
    stamp = datetime.fromtimestamp(now / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ")
    return Manifest(
        id=f"{stamp}-{secrets.token_hex(4)}",
        taken_us=now,
        gridsync=__version__,
        compression=best_compression(),
        encryption=encryption,
    )


def _snapshot(run: _Run, server: Endpoint, slots: str, name: str) -> None:
    asked = now_us()
    snapshot = Snapshot(server)
    try:
        part = _described(run, name, server, snapshot.about, asked)
        part.slots = slots
        part.replication_id, part.offset = snapshot.replication_id, snapshot.offset
        _pack(run, part, snapshot, snapshot.size)
    finally:
        snapshot.close()


def _append_log(run: _Run, data: Path, servers: Sequence[tuple[Endpoint, str]]) -> None:
    """Take the files of an append log while it is written and rewritten.

    They are opened, and then the server's list of them is read again: if it is the same, what is open belongs together,
    and stays readable even if a rewrite removes the names.  What is acknowledged is in the last file already; it may
    end in the middle of a command that is not, which a server that loads it leaves out.
    """
    if len(servers) != 1:
        raise UsageError(
            "--data is the directory of one server, and the URL names several; take each one, or go by wire"
        )
    server, asked = servers[0][0], now_us()
    about = ask(server)
    with ExitStack() as stack:
        listed, files = _opened_together(stack, data)
        listing = _described(run, listed.name, server, about, asked)
        for name, file in files:
            part = _described(run, name, server, about, asked)
            size = os.fstat(file.fileno()).st_size
            _pack(run, part, _pieces(file, size), size)
        _pack(run, listing, [listed.text], len(listed.text))


def _opened_together(stack: ExitStack, data: Path) -> tuple[_Listing, list[tuple[str, BinaryIO]]]:
    for _ in range(_TRIES):
        before = _listing(data)
        with ExitStack() as opened, suppress(FileNotFoundError):
            files = [
                (name, cast("BinaryIO", opened.enter_context((before.place / name).open("rb"))))
                for name in before.names
            ]
            if _listing(data) == before:
                stack.enter_context(opened.pop_all())
                return before, files
    raise UsageError(f"{data}: the append log is rewritten again and again; try again, or take a snapshot by wire")


@dataclass(frozen=True, slots=True)
class _Listing:
    """What a server says its append log consists of."""

    place: Path
    name: str
    text: bytes

    @property
    def names(self) -> list[str]:
        """The files that count, the base first."""
        words = [line.split() for line in self.text.decode().splitlines() if line.startswith("file ")]
        return [line[1].strip('"') for line in words if line[line.index("type") + 1] in ("b", "i")]


def _listing(data: Path) -> _Listing:
    found = sorted(data.glob("*/*.manifest"))
    if len(found) != 1:
        raise UsageError(
            f"{data} has {len(found)} append logs; name the data directory of a server that has appendonly yes, or "
            "leave --data out and take a snapshot by wire"
        )
    listing = _Listing(found[0].parent, found[0].name, found[0].read_bytes())
    for name in (listing.name, *listing.names):
        # Whoever runs the server writes the list; whoever takes the backup may read and write more than they.
        if not is_file_name(name) or (listing.place / name).is_symlink():
            raise UsageError(f"{found[0]} names {name!r}, which is no plain file beside it; take a snapshot by wire")
    return listing


def _pieces(file: BinaryIO, size: int) -> Iterator[bytes]:
    while size and (piece := file.read(min(size, _PIECE))):
        size -= len(piece)
        yield piece


def _described(run: _Run, name: str, server: Endpoint, about: About, asked: int) -> Part:
    suffix = f".{run.manifest.compression}" + (f".{run.manifest.encryption}" if run.manifest.encryption else "")
    if about.clock_us is not None:
        ahead = about.clock_us - asked
        run.manifest.clock_us = ahead if run.manifest.clock_us is None else max(ahead, run.manifest.clock_us)
    part = Part(
        name + suffix,
        method="wire" if run.wanted.data is None else "aof",
        source=str(server),
        kind=about.kind,
        version=about.version,
        run_id=about.run_id,
        role=about.role,
        lag_s=about.lag_s,
    )
    run.manifest.parts.append(part)
    return part


def _pack(run: _Run, part: Part, pieces: Iterable[bytes], size: int | None) -> None:
    """Write what was taken into its file, and into *part* what it is."""
    manifest, source = run.manifest, iter(pieces)
    with Packer(run.path / part.file, manifest.compression, manifest.encryption, run.wanted.recipients) as packer:

        def more() -> bytes:
            piece = next(source, b"")
            if piece:
                packer.write(piece)
                run.tell(part.source if part.method == "wire" else part.file, packer.size, size)
            return piece

        if part.method == "wire":
            _note(part, inspect(more))
        else:
            part.unknown = _UNCOUNTED
            while more():
                pass
        part.raw_sha256, part.raw_size = packer.finish(), packer.size
    part.size, part.sha256 = digest_of(run.path / part.file)


def _note(part: Part, contents: Contents) -> None:
    if contents.marked:
        raise UsageError(f"{part.source} is being restored, and may hold a part only; let `gridsync restore` end first")
    part.fence, part.unknown = contents.fence, contents.unknown
    if not contents.unknown:
        part.keys = contents.keys
        part.wings = {name: wing.plain() for name, wing in sorted(contents.wings.items())}
    if part.version == "unknown":
        part.kind = "valkey" if "valkey-ver" in contents.facts else "redis"
        part.version = contents.facts.get("valkey-ver") or contents.facts.get("redis-ver", "unknown")


@contextmanager
def _on_disk(place: Path) -> Iterator[None]:
    """Take what goes wrong with a file for a fault of the place."""
    try:
        yield
    except OSError as error:
        what = re.sub(r"^\[.*?\] ", "", str(error)) if error.strerror is None else error.strerror
        raise UsageError(f"{place}: {what}; nothing was kept: make room there, or name another directory") from error


def prune(place: Path, keep: Keep, taken: Backup | None = None) -> list[Backup]:
    """Remove the backups that need not stay, and return them.

    Only backups whose manifest is sound count, and only those are removed.  The newest one whose files are as they were
    written stays whatever is asked for, and so does the one that was just *taken*: a clock that was set back makes it
    the oldest.  So does everything, if there is none.

    Raises:
        UsageError: One could not be removed.
    """
    if keep.all:
        return []
    sound = [(each, each.manifest) for each in backups_in(place) if each.manifest is not None]
    stay = kept([manifest.taken_us for _, manifest in sound], keep)
    going = [
        each
        for each, manifest in sound
        if manifest.taken_us not in stay and (taken is None or each.path.name != taken.path.name)
    ]
    if going and not any(not check(each.path, manifest) for each, manifest in reversed(sound) if each not in going):
        # What would stay is broken: then the last good one is among those that would go.
        good = next(
            (each for each, manifest in reversed(sound) if each in going and not check(each.path, manifest)), None
        )
        going = [each for each in going if each is not good]
    for each in going:
        # Under another name first: a backup that is half removed must not be listed.
        gone = each.path.with_name(f".{each.path.name}.partial")
        try:
            each.path.rename(gone)
        except FileNotFoundError:
            continue  # another one that ended just now has removed it
        except OSError as error:
            raise UsageError(f"{each.path} cannot be removed ({error.strerror}); see who may write there") from error
        shutil.rmtree(gone, ignore_errors=True)
    return going
