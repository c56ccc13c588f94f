"""From the files of a backup to a running server of our own that holds all of it."""

from __future__ import annotations

import shutil
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import redis

from gridsync.errors import Damaged, UsageError
from gridsync.ops.archive import check, read_manifest
from gridsync.ops.packing import unpacked
from gridsync.ops.throwaway import loaded, plain_client

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gridsync._embedded.binary import ServerBinary
    from gridsync.ops.archive import Manifest, Part
    from gridsync.ops.taking import Tell

__all__ = ["Source", "copy", "materialised", "sound", "the_database"]

PAGE: Final = 500
"""Keys that one step of a copy looks at."""
AT_ONCE: Final = 8 << 20
"""Bytes of values that are under way at once, unless one alone is larger."""
_BULK: Final = str(1 << 40)


def sound(path: Path) -> Manifest:
    """Return what a backup consists of, after every file was compared with it.

    Raises:
        Damaged: A file is not as it was written.
        UsageError: It is no backup.
    """
    manifest = read_manifest(path)
    if wrong := check(path, manifest):
        raise Damaged(f"{path}: {', '.join(wrong)}; nothing was written: use another backup", name=str(path))
    return manifest


@dataclass(frozen=True, slots=True)
class Source:
    """A backup that is to be read."""

    path: Path
    manifest: Manifest
    identity: Path | None
    """The file with age's key, if it takes one."""
    tell: Tell

    def unpack(self, part: Part, to: Path) -> None:
        """Write what is in a file to *to*."""
        done = 0
        with to.open("wb") as file:
            for piece in unpacked(self.path, self.manifest, part, self.identity):
                file.write(piece)
                done += len(piece)
                self.tell(part.file, done, part.raw_size)

    def unpack_log(self, to: Path) -> None:
        """Write the files of an append log."""
        to.mkdir(mode=0o700)
        for part in self.manifest.parts:
            name = part.file.removesuffix(f".{self.manifest.encryption}").removesuffix(f".{self.manifest.compression}")
            # The others are named in this one, and a server finds it by the name that it knows.
            self.unpack(part, to / ("appendonly.aof.manifest" if name.endswith(".manifest") else name))


@contextmanager
def materialised(source: Source, work: Path) -> Iterator[tuple[redis.Redis, ServerBinary]]:
    """Run a server with everything that a backup holds, its files in *work*.

    The parts of a cluster are loaded one after the other, and copied into one server.

    Raises:
        UsageError: No server here can read it, or it cannot be decrypted.
        Damaged: It does not hold what was taken.
    """
    parts = source.manifest.parts
    aof = any(part.method == "aof" for part in parts)
    with ExitStack() as stack:
        if aof:
            source.unpack_log(work / "appendonlydir")
        elif len(parts) == 1:
            source.unpack(parts[0], work / "dump.rdb")
        server, program = stack.enter_context(loaded(work, parts, appendonly=aof))
        client = stack.enter_context(plain_client(server.url))
        client.config_set("proto-max-bulk-len", _BULK)
        for part in parts if not aof and len(parts) > 1 else ():
            _add(source, part, work / "part", client)
        yield client, program


def _add(source: Source, part: Part, directory: Path, into: redis.Redis) -> None:
    directory.mkdir(mode=0o700)
    source.unpack(part, directory / "dump.rdb")
    with loaded(directory, [part]) as (server, _), plain_client(server.url) as client:
        copy(client, into, lambda _: None)
    shutil.rmtree(directory, ignore_errors=True)


def the_database(client: redis.Redis) -> int:
    """Return the one database that holds keys.

    Raises:
        UsageError: Several do.
    """
    found = sorted(int(name[2:]) for name in client.info("keyspace"))
    if len(found) > 1:
        raise UsageError(
            f"the backup has keys in the databases {', '.join(map(str, found))}, and a URL names one; restore it with "
            "--to into the directory of a server"
        )
    return found[0] if found else 0


def copy(source: redis.Redis, target: Any, told: Any) -> int:  # noqa: ANN401
    """Copy every key to *target*, values and times of expiry as they are; returns how many there were.

    A key that is there is replaced, so it may be run again.  Keys that have expired meanwhile are left out.

    Raises:
        UsageError: The target cannot take a value: it is too old for it, or one is too large for its settings.
    """
    done, cursor = 0, 0
    while True:
        cursor, names = source.scan(cursor, count=PAGE)
        for group in _groups(source, names):
            done += _copy_group(source, target, group)
            told(done)
        if not cursor:
            return done


def _groups(source: redis.Redis, names: Sequence[Any]) -> Iterator[list[bytes]]:
    with source.pipeline(transaction=False) as asked:
        for name in names:
            asked.memory_usage(name)
        sizes = asked.execute() if names else []
    group, held = list[bytes](), 0
    for name, size in zip(names, sizes, strict=True):
        if group and held + (size or 0) > AT_ONCE:
            yield group
            group, held = [], 0
        group.append(name)
        held += size or 0
    if group:
        yield group


def _copy_group(source: redis.Redis, target: Any, names: Sequence[Any]) -> int:  # noqa: ANN401
    with source.pipeline(transaction=False) as asked:
        for name in names:
            asked.dump(name)
            asked.pexpiretime(name)
        said = asked.execute()
    count = 0
    with target.pipeline(transaction=False) as writing:
        for name, value, until in zip(names, said[::2], said[1::2], strict=True):
            if value is not None:
                writing.restore(name, max(until, 0), value, replace=True, absttl=until > 0)
                count += 1
        try:
            writing.execute()
        except redis.ResponseError as error:
            what = str(error)
            if "version or checksum" in what:
                what = "the server is older than the one the backup was taken of, or of the other kind"
            raise UsageError(
                f"the server did not take a value: {what}; restore into a server that can read it"
            ) from error
    return count
