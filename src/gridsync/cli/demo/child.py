"""What a child process runs: ``python -m gridsync.cli.demo.child``, its configuration on standard input."""

from __future__ import annotations

import asyncio
import os
import sys
from contextlib import suppress

import redis

from gridsync.cli.demo.keys import sweep
from gridsync.cli.demo.link import Link
from gridsync.cli.demo.posters import meter, trader
from gridsync.cli.demo.workers import worker
from gridsync.errors import GridsyncError
from gridsync.grid import Grid


def main() -> int:
    """Play the role that the configuration names."""
    link = Link()
    try:
        if link.config.role == "meter":
            meter(link)
        else:
            asyncio.run({"trader": trader, "worker": worker}[link.config.role](link))
    except Exception as error:
        cause: BaseException = error
        while isinstance(cause, BaseExceptionGroup):
            # Of a hundred tasks that failed alike, one is enough to tell.
            cause = cause.exceptions[0]
        if not isinstance(cause, GridsyncError):
            raise
        print(f"{type(cause).__name__}: {cause}", file=sys.stderr)
        if not link.orphaned.is_set():
            return 1
    if not link.orphaned.is_set():
        return 0
    # All children sweep, each after its own last write: so the last of them leaves nothing behind.
    if link.config.sweep:
        with suppress(GridsyncError, redis.RedisError), Grid(link.config.url, namespace=link.config.namespace) as grid:
            sweep(grid.client, link.config.namespace)
    return 1


if __name__ == "__main__":
    code: int = main()
    sys.stdout.flush()
    # Not through the interpreter's end: it would wait for the thread that waits for the next line.
    os._exit(code)
