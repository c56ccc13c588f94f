"""`gridsync health`: one report, for a person or a supervisor."""

from __future__ import annotations

from typing import Final

from gridsync.cli._shared import asking, place_of, shown, tell_unnamed
from gridsync.errors import GridsyncError, UsageError
from gridsync.grid import Grid
from gridsync.health import LOCKS, Health, unreachable
from gridsync.settings import Settings

EXIT: Final = {"ok": 0, "degraded": 1, "down": 2}


def command(*, url: str | None, timeout: float, form: str, locks: bool) -> int:
    """Print the report; returns 0 for ok, 1 for degraded, 2 for down or a URL that cannot be used."""
    with asking() as outcome:
        found = _look(url, timeout)
        if locks:
            found = found.only(LOCKS)
        if form == "text":
            print(*map(shown, str(found).split("\n")), sep="\n")
        else:
            print((found.to_json() if form == "json" else found.to_prometheus()).rstrip())
        outcome.append(EXIT[found.status])
    return outcome[0]


def _look(url: str | None, timeout: float) -> Health:
    settings = Settings(**({} if url is None else {"redis_url": url}))
    if settings.redis_url == "embedded://":
        tell_unnamed()
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
        return unreachable(place_of(settings.redis_url), error)
