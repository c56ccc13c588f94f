"""Restoring: the data of a backup, with its fences raised, in the directory of a stopped server or in a running one.

Into a directory
    States: everything is made in ``.gridsync-restore`` inside of the directory, and is whole and on the disk there →
    what was in its way is in ``before-restore-<time>`` → ``appendonlydir`` is renamed → ``dump.rdb`` is renamed.  Each
    of the two is whole by itself, and a server reads one of them: ``appendonly yes`` the first, ``no`` the second.  So at
    every moment a server that is started finds the old data, none, or all of the new, never a part of it.

Into a running server
    States: it is empty → a mark says which backup is on its way, and who writes it → keys → the mark is gone.  What is
    interrupted goes on when it is run again: the mark lets it in, and each key is replaced.  Whoever was not dead but
    slow finds another's mark, or none, and stops.  Until the mark is gone, services stay away.

Both begin with the same server of our own, where fences are raised before anything reaches the target.
"""  # noqa: E501

from __future__ import annotations

import os
import secrets
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import ResponseError

from gridsync.errors import Damaged, UsageError
from gridsync.ops.archive import synchronise
from gridsync.ops.fences import behind_us, floor_us, raise_fences
from gridsync.ops.files import workplace
from gridsync.ops.loading import Source, copy, materialised, sound, the_database
from gridsync.ops.rdb import MARK
from gridsync.ops.throwaway import database, databases

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from gridsync.ops.archive import Manifest
    from gridsync.ops.fences import Raised
    from gridsync.ops.taking import Tell

__all__ = ["MARK", "Restored", "into_directory", "into_server"]

WORK: Final = ".gridsync-restore"
_RESULTS: Final = ("appendonlydir", "dump.rdb")
_SKEW_US: Final = 1_000_000
_LOOK_S: Final = 0.05


@dataclass(frozen=True, slots=True)
class Restored:
    """What was restored."""

    backup: str
    raised: Raised
    server: str
    """Which program has read the backup, and written the files."""
    keys: int
    aside: str = ""
    """Where that is which was there before."""


def into_directory(
    path: Path, to: Path, tell: Tell, *, now_us: int, force: bool = False, identity: Path | None = None
) -> Restored:
    """Write the data into the directory of a server that does not run.

    Raises:
        UsageError: There is something in it, and not *force*; or no server here reads the backup.
        Damaged: The backup is not as it was written; nothing was changed.
    """
    manifest = sound(path)
    floor = floor_us(manifest, now_us)
    with _working(to, force=force) as work:
        with materialised(Source(path, manifest, identity, tell), work) as (client, program):
            _unmark(client)
            raised = raise_fences(client, floor)
            keys = _count(client)
            _save(client, work)
        _flush(work)
        aside = _aside(to)
        for name in _RESULTS:
            (work / name).rename(to / name)
            synchronise(to)
    return Restored(manifest.id, raised, str(program), keys, aside)


@contextmanager
def _working(to: Path, *, force: bool) -> Iterator[Path]:
    """Make the directory in which everything is made; it is gone at the end, and so is what a killed restore left."""
    try:
        to.mkdir(parents=True, exist_ok=True)
        there = sorted(each.name for each in to.iterdir() if each.name not in (WORK, "lost+found"))
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror or error}; name the data directory of a stopped server") from error
    if there and not force:
        raise UsageError(
            f"{to} is not empty ({', '.join(there[:5])}); stop its server, and move that away or say --force, which "
            "keeps it aside"
        )
    try:
        with workplace(to / WORK, "restoring into") as work:
            yield work
    except PermissionError as error:
        raise UsageError(f"{to / WORK}: {error.strerror}; run it as root, or as whoever owns {to}") from error
    except OSError as error:
        raise UsageError(f"{to}: {error.strerror or error}; nothing was changed: make room there") from error


def _unmark(client: redis.Redis) -> None:
    """Remove the mark of an earlier restore, which an append log may have: it would let others in."""
    for one in databases(client):
        one.delete(MARK)


def _count(client: redis.Redis, *, forever: bool = False) -> int:
    """Return how many keys there are in all databases, or how many of them never expire."""
    return sum(said["keys"] - forever * said["expires"] for said in client.info("keyspace").values())


def _save(client: redis.Redis, work: Path) -> None:
    """Have the server write a snapshot and an append log, whichever its successor is configured to read."""
    full = f"the server could not write its files into {work}; make room there"
    try:
        if client.config_get("appendonly")["appendonly"] == "no":
            client.config_set("appendonly", "yes")
        else:
            client.bgrewriteaof()
        while True:
            said: dict[str, Any] = client.info("persistence")
            # Before whether one is under way: after a failure the server tries again, and again.
            if said["aof_last_bgrewrite_status"] != "ok":
                raise UsageError(full)
            if not said["aof_rewrite_in_progress"] and not said.get("aof_rewrite_scheduled"):
                break
            time.sleep(_LOOK_S)
        if not (work / "appendonlydir").is_dir():
            raise UsageError(full)
        client.config_set("save", "")
        client.save()
    except ResponseError as error:
        raise UsageError(full) from error


def _flush(work: Path) -> None:
    """See that the results are on the disk, and are whose the directory is: a server has a user of its own."""
    owner = work.parent.stat()
    for place in (work / "appendonlydir", *(work / "appendonlydir").iterdir(), work / "dump.rdb"):
        synchronise(place)
        if os.geteuid() == 0 and owner.st_uid:
            os.chown(place, owner.st_uid, owner.st_gid, follow_symlinks=False)
    synchronise(work)


def _aside(to: Path) -> str:
    """Move what is there away, and return where it is now."""
    there = [each for each in to.iterdir() if each.name in _RESULTS]
    if not there:
        return ""
    aside = to / f"before-restore-{datetime.now(UTC):%Y%m%dT%H%M%S.%fZ}"
    aside.mkdir(mode=0o700)
    for each in there:
        each.rename(aside / each.name)
    synchronise(aside)
    synchronise(to)
    return str(aside)


def into_server(
    path: Path,
    target: Any,  # noqa: ANN401
    work: Path,
    tell: Tell,
    *,
    now_us: int,
    force: bool = False,
    identity: Path | None = None,
) -> Restored:
    """Write the data into a running server, key by key; *work* is an empty directory for a server of our own.

    Raises:
        UsageError: It holds keys, and not *force*; its clock is behind; or it cannot take a value.
        Damaged: The backup is not as it was written; nothing was changed.
    """
    manifest = sound(path)
    floor = floor_us(manifest, now_us)
    _see_clocks(manifest, target, now_us)
    _see_empty(manifest, target, force=force)
    with ExitStack() as stack:
        client, program = stack.enter_context(materialised(Source(path, manifest, identity, tell), work))
        # Whatever number the database has in the backup: the URL says where its keys go.
        client = stack.enter_context(database(client, the_database(client)))
        _unmark(client)
        raised = raise_fences(client, floor)
        total, forever = _count(client), _count(client, forever=True)
        # It took a while until here, and somebody may have written meanwhile.
        _see_empty(manifest, target, force=force)
        if force and not _is_under_way(manifest, target):
            for node in _nodes(target):
                target.execute_command("FLUSHALL", **node)
        mark = f"{manifest.id} {secrets.token_hex(8)}"
        target.set(MARK, mark)

        def told(count: int) -> None:
            tell("keys", count, total)
            if target.get(MARK) != mark.encode():
                raise UsageError(
                    f"{MARK} is not of this restore any more; see whether another one runs, and whether the server "
                    "evicts (maxmemory-policy)"
                )

        done = copy(client, target, told)
        there = _size(target)
        if there <= forever:
            raise Damaged(
                f"the server holds {there} keys after {forever} were copied that never expire; see whether the "
                "server evicts (maxmemory-policy), and run it again",
                name=str(path),
            )
        target.delete(MARK)
    return Restored(manifest.id, raised, str(program), done)


def _nodes(target: Any) -> list[dict[str, Any]]:  # noqa: ANN401
    """Return the options that send a command to each primary: one server has none."""
    return [{"target_nodes": node} for node in target.get_primaries()] if hasattr(target, "get_primaries") else [{}]


def _see_clocks(manifest: Manifest, target: Any, now_us: int) -> None:  # noqa: ANN401
    for node in _nodes(target):
        said = target.execute_command("TIME", **node)
        seconds, rest = said if len(said) == 2 else next(iter(said.values()))  # noqa: PLR2004
        if (late := behind_us(manifest, now_us, int(seconds) * 1_000_000 + int(rest))) > _SKEW_US:
            raise UsageError(
                f"the server's clock is {late / 1e6:.0f} s behind, and fences come of it: a lock that the backup does "
                "not know would be given one that was given before; set the clock right, then restore"
            )


def _see_empty(manifest: Manifest, target: Any, *, force: bool) -> None:  # noqa: ANN401
    if force or _is_under_way(manifest, target):
        return
    if count := _size(target):
        raise UsageError(
            f"the server holds {count} keys; name an empty one, or say --force, which removes everything it holds"
        )


def _is_under_way(manifest: Manifest, target: Any) -> bool:  # noqa: ANN401
    """Tell whether a restore of the same backup has begun there, and not ended."""
    mark: bytes = target.get(MARK) or b""
    return mark.split(b" ")[0] == manifest.id.encode()


def _size(target: Any) -> int:  # noqa: ANN401
    return sum(int(target.execute_command("DBSIZE", **node)) for node in _nodes(target))
