"""A server of our own with the data of a backup: it reads the files, nobody else reaches it, and it ends with us.

It listens on a unix socket in a directory that only this user may enter.  A supervisor ends it when this process ends,
however that happens (`gridsync.embedded`).
"""

from __future__ import annotations

import fcntl
from contextlib import contextmanager
from typing import TYPE_CHECKING, Final

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from gridsync._embedded.binary import ADVICE, ServerBinary, candidates, examine
from gridsync.embedded import LOCK, EmbeddedServer, find_server, open_embedded
from gridsync.errors import Misconfigured, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from gridsync.ops.archive import Part

__all__ = ["database", "databases", "loaded", "plain_client", "programs"]

LOAD_S: Final = 3600.0
"""How long a server may take to load a backup, in seconds."""


def programs(parts: Sequence[Part]) -> list[ServerBinary]:
    """Return the servers that are installed here, those first that surely read what *parts* were taken of.

    Raises:
        UsageError: There is none.
    """
    found = list[ServerBinary]()
    for program in [find_server(), *_others()]:
        if not any((each.kind, each.version) == (program.kind, program.version) for each in found):
            found.append(program)
    wanted = max((_numbers(part.version) for part in parts), default=(0,))
    kinds = {part.kind for part in parts}

    def distance(program: ServerBinary) -> tuple[bool, bool, list[int]]:
        # The nearest one that is not older: what it writes, the old server most likely reads.
        apart = [ours - theirs for ours, theirs in zip(_numbers(program.version), wanted, strict=False)]
        older = apart < [0, 0]
        return program.kind not in kinds, older, [-each for each in apart] if older else apart

    return sorted(found, key=distance)


def _others() -> Iterator[ServerBinary]:
    for path, source in candidates():
        try:
            yield examine(path, source)
        except UsageError:
            continue


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(word) if word.isdigit() else 0 for word in version.split(".")[:2])


@contextmanager
def loaded(
    directory: Path, parts: Sequence[Part], *, appendonly: bool = False
) -> Iterator[tuple[EmbeddedServer, ServerBinary]]:
    """Run a server on the files in *directory*, by the first program that can read them; at the end it lives no more.

    Raises:
        UsageError: None can; the message has what the best one said.
    """
    refused, options = "", "?appendonly=yes" if appendonly else ""
    for program in programs(parts):
        try:
            server = open_embedded(f"embedded://{directory}{options}", timeout=LOAD_S, binary=program)
        except Misconfigured as error:
            refused = refused or f"{program} cannot read it: {_reason(str(error))}"
            continue
        try:
            with server:
                yield server, program
        finally:
            _wait_for_its_end(directory)
        return
    of = ", ".join(sorted({f"{part.kind} {part.version}" for part in parts}))
    raise UsageError(f"{refused}; it was taken of {of}: put such a server on PATH ({ADVICE})")


def _wait_for_its_end(directory: Path) -> None:
    """Return when neither server nor supervisor lives: until then it may write to its files, whatever their name."""
    with (directory / LOCK).open("rb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)


def _reason(log: str) -> str:
    """Return the line of a server's log that says why it ended."""
    lines = [line.split(" # ", 1)[-1].strip() for line in log.splitlines() if " # " in line]
    telling = [line for line in lines if "format" in line or "Bad" in line or "rror" in line or "Wrong" in line]
    return (telling or lines or [log[-200:]])[0]


def plain_client(url: str, **options: object) -> redis.Redis:
    """Return a plain client that repeats nothing and waits for slow commands."""
    given = {"socket_timeout": LOAD_S, "retry": Retry(NoBackoff(), 0), **options}
    return redis.Redis.from_url(url, **given)  # type: ignore[no-any-return,no-untyped-call,unused-ignore]


@contextmanager
def database(client: redis.Redis, number: int) -> Iterator[redis.Redis]:
    """Speak to another database of the server of *client*."""
    # A connection keeps the number that it was made with, so a pool that has some cannot be given another.
    pool = client.connection_pool
    options = {**pool.connection_kwargs, "db": number}
    other = redis.ConnectionPool(connection_class=pool.connection_class, **options)
    try:
        yield redis.Redis(connection_pool=other)
    finally:
        other.disconnect()


def databases(client: redis.Redis) -> Iterator[redis.Redis]:
    """Yield a client of each database that holds keys, one after the other."""
    for number in sorted(int(name[2:]) for name in client.info("keyspace")):
        with database(client, number) as one:
            yield one
