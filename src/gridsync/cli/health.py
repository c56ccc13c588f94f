"""`gridsync health`: one report, for a person or a supervisor."""

from __future__ import annotations

import sys
from typing import Final

from gridsync._io.wire.endpoint import redacted
from gridsync.errors import GridsyncError, UsageError
from gridsync.grid import Grid
from gridsync.health import LOCKS, Health, unreachable
from gridsync.settings import Settings

EXIT: Final = {"ok": 0, "degraded": 1, "down": 2}


def command(*, url: str | None, timeout: float, form: str, locks: bool) -> int:
    """Print the report; returns 0 for ok, 1 for degraded, 2 for down or a URL that cannot be used."""
    try:
        found = _look(url, timeout)
    except UsageError as error:
        print(f"gridsync: {error}", file=sys.stderr)
        return EXIT["down"]
    if locks:
        found = found.only(LOCKS)
    print({"json": found.to_json, "prometheus": found.to_prometheus, "text": found.__str__}[form]().rstrip())
    return EXIT[found.status]


def _look(url: str | None, timeout: float) -> Health:
    settings = Settings(**({} if url is None else {"redis_url": url}))
    if not settings.redis_url.startswith("embedded:"):
        # The report's deadline also holds for the first connection.
        patience = min(timeout, settings.redis_connection_timeout)
        settings = settings.model_copy(update={"redis_connection_timeout": patience})
    try:
        with Grid(settings=settings) as grid:
            return grid.health(timeout=timeout)
    except UsageError:
        raise
    except GridsyncError as error:
        return unreachable(redacted(settings.redis_url), error)
