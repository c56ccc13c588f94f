"""What the commands that look at a server share: how they ask, what they exit with, how they print."""

from __future__ import annotations

import json
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import run_sync
from gridsync._units import name as checked
from gridsync.errors import GridsyncError
from gridsync.grid import Grid
from gridsync.settings import Settings
from gridsync.streams import RawEvent
from gridsync.streams._partitions import noted

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.streams import EventStore

DONE: Final = 0
NOTHING: Final = 1
"""There was nothing to tell of, or to take away."""
FAILED: Final = 2
SCAN_COUNT: Final = 1000
"""How many keys a server looks at for one step of a list."""


@contextmanager
def asking() -> Iterator[list[int]]:
    """Take the exit code that a command puts into the list; what gridsync raises is printed, and is `FAILED`."""
    outcome: list[int] = []
    try:
        yield outcome
    except GridsyncError as error:
        print(f"gridsync: {error}", file=sys.stderr)
        outcome[:] = [FAILED]


def open_grid(url: str | None, namespace: str | None) -> Grid:
    """Open a grid as the options of a command say."""
    given = {"redis_url": url, "gridsync_namespace": namespace}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if settings.redis_url == "embedded://":
        print("gridsync: neither --url nor REDIS_URL names a server; this one is new, and empty", file=sys.stderr)
    return Grid(settings=settings)


def raw_store(grid: Grid, store: str) -> EventStore[RawEvent]:
    """Open the store of that name without knowing its models, with the options that it was begun with."""
    name = checked(store, "the name of an event store")
    partitions, by = run_sync(noted(grid._io, grid.namespace, name))  # noqa: SLF001
    opened = grid.events(name, RawEvent, partitions=partitions, partition_by=by)
    log = opened.info().log
    return opened if log == "copy" else grid.events(name, RawEvent, partitions=partitions, partition_by=by, log=log)


class Scan:
    """The keys of a server, or of all primaries of a cluster, that match a pattern: step by step, for a time.

    A key may come twice, as SCAN says.
    """

    def __init__(self, grid: Grid, pattern: str, seconds: float, kind: str | None = None) -> None:
        """Look for keys of type *kind*, or of any, for so many seconds; nothing is sent."""
        self._client: Any = grid.client
        self._words = ("MATCH", pattern, "COUNT", str(SCAN_COUNT), *(("TYPE", kind) if kind else ()))
        self._until = time.monotonic() + seconds
        self.complete = False
        """Whether that were all; false if the time was over before, or whoever iterated has broken off."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names.  The clock is looked at between steps: where nothing matches, none are yielded for long."""
        cluster = hasattr(self._client, "get_primaries")
        for node in self._client.get_primaries() if cluster else (None,):
            options = {"target_nodes": node} if cluster else {}
            cursor: Any = 0
            while True:
                cursor, keys = self._client.execute_command("SCAN", cursor, *self._words, **options)
                for key in keys:
                    yield key.decode(errors="replace")
                    if self.late():
                        return
                if cluster:
                    (cursor,) = cursor.values()
                if cursor == 0:
                    break
                if self.late():
                    return
        self.complete = True

    def late(self) -> bool:
        """Tell whether the time is over."""
        return time.monotonic() >= self._until


def shown(text: str) -> str:
    """Return what others wrote so that no line of theirs looks like one of ours, and nothing steers the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def print_json(what: object) -> None:
    """Print one JSON object."""

    def plain(value: object) -> str:
        assert isinstance(value, datetime)  # noqa: S101 - nothing else in what is printed is no JSON
        return value.isoformat()

    print(json.dumps(what, default=plain))
