"""What the commands that look at a server share: how they ask, what they exit with, how they print."""

from __future__ import annotations

import json
import sys
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Final

from gridsync.errors import GridsyncError
from gridsync.grid import Grid
from gridsync.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

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


def shown(text: str) -> str:
    """Return what others wrote so that no line of theirs looks like one of ours, and nothing steers the terminal."""
    return "".join(sign if sign.isprintable() else ascii(sign)[1:-1] for sign in text)


def print_json(what: object) -> None:
    """Print one JSON object."""

    def plain(value: object) -> str:
        assert isinstance(value, datetime)  # noqa: S101 - nothing else in what is printed is no JSON
        return value.isoformat()

    print(json.dumps(what, default=plain))
