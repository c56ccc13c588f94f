"""A backup on a disk: one directory, which has its name once it is whole.

States of a directory: ``.<id>.partial`` while it is written, locked by whoever writes it; ``<id>`` when every file is
on the disk and ``manifest.json`` says what they are.  The rename is the last step, so what has no manifest is no
backup: a process that was killed leaves a partial one, which the next backup to the same place removes.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import shutil
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync.errors import Damaged, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

__all__ = [
    "Backup",
    "Manifest",
    "Part",
    "backups_in",
    "check",
    "digest_of",
    "is_file_name",
    "partial",
    "read_manifest",
    "seal",
]

FORMAT: Final = 1
MANIFEST: Final = "manifest.json"
_PIECE: Final = 1 << 20
_NAME: Final = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")
_FILE: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_PACKED: Final = [(way, tool) for way in ("zst", "gz") for tool in ("", "age", "gpg")]
_LATEST_US: Final = int(datetime.max.replace(tzinfo=UTC).timestamp()) * 1_000_000


@dataclass(slots=True)
class Part:
    """What was taken of one server."""

    file: str
    method: str = "wire"
    """``wire`` for a snapshot, ``aof`` for one file of an append log."""
    source: str = ""
    """Which server, without its password."""
    kind: str = "unknown"
    version: str = "unknown"
    run_id: str = "unknown"
    role: str = "unknown"
    lag_s: float | None = None
    """Of a replica: how long ago it had heard of its primary, in seconds."""
    replication_id: str = ""
    offset: int = 0
    slots: str = ""
    """Of a cluster's primary: which."""
    size: int = 0
    """Bytes of the file."""
    sha256: str = ""
    raw_size: int = 0
    """Bytes of what is in it, unpacked."""
    raw_sha256: str = ""
    keys: int | None = None
    wings: dict[str, dict[str, Any]] | None = None
    """Wing → how many keys there are, and a digest of them; ``None`` if that is not known."""
    unknown: str = ""
    """Why it is not known."""
    fence: int = 0
    """The largest fence that it remembers."""


@dataclass(slots=True)
class Manifest:
    """What a backup consists of."""

    id: str
    taken_us: int
    """When it was begun, in microseconds since 1970 by the clock of who took it."""
    clock_us: int | None = None
    """How far the server's clock was ahead of that, where it told."""
    gridsync: str = ""
    """The version of gridsync."""
    compression: str = "zst"
    encryption: str = ""
    """``age``, ``gpg``, or nothing."""
    parts: list[Part] = field(default_factory=list)

    @property
    def taken(self) -> datetime:
        """When it was begun."""
        return datetime.fromtimestamp(self.taken_us / 1e6, UTC)

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(part.size for part in self.parts)

    @property
    def fence(self) -> int:
        """The largest fence that any server remembered."""
        return max((part.fence for part in self.parts), default=0)


@dataclass(frozen=True, slots=True)
class Backup:
    """A directory that may be a backup."""

    path: Path
    manifest: Manifest | None
    problem: str = ""
    """What is wrong with it, and nothing if nothing is known to be."""


def is_file_name(name: str) -> bool:
    """Tell whether a file of a backup may have this name: it leads nowhere else."""
    return _FILE.fullmatch(name) is not None


def digest_of(path: Path) -> tuple[int, str]:
    """Return size and SHA-256 of a file."""
    digest, size = hashlib.sha256(), 0
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            size += len(piece)
    return size, digest.hexdigest()


def _text(said: dict[str, Any]) -> bytes:
    return json.dumps(said, sort_keys=True, indent=1).encode()


@contextmanager
def partial(to: Path, name: str) -> Iterator[Path]:
    """Make a directory for a backup that is being written; it is gone at the end unless it was sealed.

    Those that others left unfinished, and whose writers live no more, are removed first.
    """
    to.mkdir(mode=0o700, parents=True, exist_ok=True)
    for old in to.glob(".*.partial"):
        _remove_dead(old)
    path = to / f".{name}.partial"
    path.mkdir(mode=0o700)
    descriptor = os.open(path, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield path
    finally:
        os.close(descriptor)
        shutil.rmtree(path, ignore_errors=True)


def _remove_dead(path: Path) -> None:
    """Remove a directory unless a living process writes to it: the kernel gives its lock back when it ends."""
    with suppress(OSError):
        descriptor = os.open(path, os.O_RDONLY)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            shutil.rmtree(path, ignore_errors=True)
        finally:
            os.close(descriptor)


def seal(path: Path, manifest: Manifest) -> Path:
    """Write the manifest, see that everything is on the disk, and give the directory its name."""
    said = {"gridsync-backup": FORMAT, **asdict(manifest)}
    said["sha256"] = hashlib.sha256(_text(said)).hexdigest()
    file = path / MANIFEST
    file.write_bytes(_text(said))
    for part in manifest.parts:
        synchronise(path / part.file)
    synchronise(file)
    synchronise(path)
    final = path.parent / manifest.id
    path.rename(final)
    synchronise(final.parent)
    return final


def synchronise(path: Path) -> None:
    """Return when the file or directory is on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_manifest(path: Path) -> Manifest:
    """Read what a backup consists of.

    Raises:
        UsageError: There is no backup.
        Damaged: The manifest is not as it was written.
    """
    file = path / MANIFEST
    try:
        said = json.loads(file.read_bytes())
        expected = said.pop("sha256")
        if hashlib.sha256(_text(said)).hexdigest() != expected:
            raise Damaged(f"{file} was changed since it was written; take another backup", name=str(file))
        if said.pop("gridsync-backup") != FORMAT:
            raise UsageError(f"{file} is of another format; use the gridsync that wrote it, version {said['gridsync']}")
        manifest = Manifest(**said | {"parts": [Part(**each) for each in said["parts"]]})
        _see_sane(manifest)
    except FileNotFoundError:
        raise UsageError(f"{path} is no backup: it has no {MANIFEST}; `gridsync backups --from` lists them") from None
    except OSError as error:
        raise UsageError(f"{file}: {error.strerror or error}; see who may read it") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged(f"{file} cannot be read ({error}); take another backup", name=str(file)) from error
    return manifest


def _see_sane(manifest: Manifest) -> None:
    """See that everything is what it should be: its own checksum is no proof that gridsync has written it.

    Raises:
        ValueError: Something is not.
    """
    texts = [manifest.id, manifest.gridsync, manifest.compression, manifest.encryption]
    numbers = [manifest.taken_us]
    for part in manifest.parts:
        texts += [part.file, part.method, part.source, part.kind, part.version, part.unknown, part.slots]
        numbers += [part.size, part.raw_size, part.fence]
        if not is_file_name(part.file):
            raise ValueError(f"it names the file {part.file!r} outside of the backup")
        for wing in (part.wings or {}).values():
            numbers += [wing["permanent"], wing["expiring"], int(wing["digest"], 16)]
    perhaps = [manifest.clock_us, *(part.keys for part in manifest.parts)]
    if not all(type(text) is str for text in texts) or not all(type(each) in (int, type(None)) for each in perhaps):
        raise ValueError("something in it has a type that it cannot have")
    if not all(type(number) is int and number >= 0 for number in numbers) or manifest.taken_us > _LATEST_US:
        raise ValueError("a number in it cannot be")
    if (manifest.compression, manifest.encryption) not in _PACKED or not manifest.parts:
        raise ValueError("it has no files, or such as are packed in no way that is known")


def check(path: Path, manifest: Manifest) -> list[str]:
    """Compare each file with the manifest, and return what is wrong."""
    wrong = list[str]()
    for part in manifest.parts:
        try:
            size, digest = digest_of(path / part.file)
        except OSError as error:
            wrong.append(f"{part.file}: {error.strerror or error}")
            continue
        if size != part.size:
            wrong.append(f"{part.file} has {size} bytes, and had {part.size}")
        elif digest != part.sha256:
            wrong.append(f"{part.file} was changed since it was written")
    return wrong


def backups_in(place: Path) -> list[Backup]:
    """Return what is in a directory of backups, the oldest first; nothing but the manifests is read.

    Raises:
        UsageError: It cannot be read.
    """
    try:
        found = [each for each in place.iterdir() if _NAME.fullmatch(each.name)]
    except OSError as error:
        raise UsageError(
            f"{place}: {error.strerror or error}; name the directory that `backup --to` was given"
        ) from error
    listed = list[Backup]()
    for path in found:
        try:
            listed.append(Backup(path, read_manifest(path)))
        except (Damaged, UsageError) as error:
            listed.append(Backup(path, None, str(error)))
    # Several of one second: what is broken goes by its name alone.
    return sorted(listed, key=lambda each: (each.path.name[:16], each.manifest.taken_us if each.manifest else 0))
