"""What the commands that look at a server share: how they ask, what they exit with, how they print."""

from __future__ import annotations

import json
import re
import sys
import time
from contextlib import contextmanager
from datetime import datetime
from typing import TYPE_CHECKING, Any, Final

from redis.exceptions import (
    ConnectionError,  # noqa: A004
    NoPermissionError,
    RedisClusterException,
    ResponseError,
    TimeoutError,  # noqa: A004
)

from gridsync._io import run_sync
from gridsync._io.wire.endpoint import redacted
from gridsync._units import name as checked
from gridsync.errors import (
    GridsyncError,
    Misconfigured,
    OutcomeUnknown,
    PermissionDenied,
    ServerError,
    Unavailable,
    UsageError,
)
from gridsync.grid import Grid
from gridsync.settings import Settings
from gridsync.streams import RawEvent
from gridsync.streams._partitions import noted

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from gridsync.streams import EventStore, StoreInfo

DONE: Final = 0
NOTHING: Final = 1
"""There was nothing to tell of, or to take away."""
FAILED: Final = 2
_ADVICE: Final = (
    (Misconfigured, "see user, password and permissions at the server; `gridsync health` tells which are missing"),
    (ServerError, "if another program wrote to a key of it, name another --namespace; `redis-cli --scan` lists keys"),
    (Unavailable, "see whether --url, or REDIS_URL, names the server; `gridsync health` says more"),
    (OutcomeUnknown, "run it again: what was done is not done twice"),
    (UsageError, "--help says what may be given"),
)
"""What to do about an error that does not say it itself behind a semicolon."""
_ADVISED: Final = re.compile(r"; (?![^()]*\))")
"""What parts the advice from what happened, but for another error that is told in brackets."""
SCAN_COUNT: Final = 1000
"""How many keys a server looks at for one step of a list."""


@contextmanager
def asking() -> Iterator[list[int]]:
    """Take the exit code that a command puts into the list; what gridsync raises is printed, and is `FAILED`."""
    outcome: list[int] = []
    try:
        yield outcome
    except GridsyncError as error:
        tell(error)
        outcome[:] = [FAILED]


def tell(error: GridsyncError) -> None:
    """Say what is wrong, as *error* does, and in another line what to do about it."""
    what, do = (*_ADVISED.split(str(error), maxsplit=1), "")[:2]
    # A question is half of an advice.
    known = "" if do and not do.endswith("?") else next((a for kind, a in _ADVICE if isinstance(error, kind)), "")
    complain(what, f"{do} {known}".strip())


def complain(what: str, do: str) -> None:
    """Say what is wrong, and in another line what to do about it."""
    print(f"gridsync: {what}", *([f"  {do}"] if do else []), sep="\n", file=sys.stderr)


def tell_missing(found: StoreInfo, group: str | None = None) -> bool:
    """Say that there is no such store, or no such group of it, if that is why there was nothing to do."""
    if not found.last:
        complain(
            f"the event store {shown(found.name)} has no events in this namespace",
            "`gridsync streams ls` lists those that have; --namespace names another one",
        )
    elif group is not None and group not in found.groups:
        names = ", ".join(shown(name) for name in found.groups)
        complain(
            f"the event store {shown(found.name)} has no consumer group {shown(group)}",
            f"it has {names}" if names else "it has none: a group is made by its first consumer",
        )
    else:
        return False
    return True


def open_grid(
    url: str | None, namespace: str | None, *, patience: float | None = None, audit: bool | None = None
) -> Grid:
    """Open a grid as the options of a command say; *patience* bounds the time for a connection, in seconds."""
    given = {"redis_url": url, "gridsync_namespace": namespace}
    settings = Settings(**{name: value for name, value in given.items() if value is not None})
    if settings.redis_url == "embedded://":
        tell_unnamed()
    elif patience is not None:
        shorter = min(patience, settings.redis_connection_timeout)
        settings = settings.model_copy(update={"redis_connection_timeout": shorter})
    return Grid(settings=settings, audit=audit)


def place_of(url: str) -> str:
    """Return which server a URL names, for a title: neither who asks, nor how."""
    return redacted(url).partition("?")[0]


def tell_unnamed() -> None:
    """Say that nobody named a server, so that what follows is about one that was started for it."""
    print("gridsync: neither --url nor REDIS_URL names a server; this one is new, and empty", file=sys.stderr)


def raw_store(grid: Grid, store: str, models: Any = RawEvent) -> EventStore[Any]:  # noqa: ANN401 - as `Grid.events`
    """Open the store of that name without knowing its *models*, with the options that it was begun with."""
    name = checked(store, "the name of an event store")
    partitions, by = run_sync(noted(grid._io, grid.namespace, name))  # noqa: SLF001
    opened = grid.events(name, models, partitions=partitions, partition_by=by)
    log = opened.info().log
    return opened if log == "copy" else grid.events(name, models, partitions=partitions, partition_by=by, log=log)


@contextmanager
def plain_errors() -> Iterator[None]:
    """Turn what a plain redis-py client raises into errors of ours."""
    try:
        yield
    except NoPermissionError as error:
        raise PermissionDenied(f"the server's ACL refuses: {error}") from None
    except (ConnectionError, TimeoutError, RedisClusterException) as error:
        raise Unavailable(str(error) or "the server does not answer") from None
    except ResponseError as error:
        raise ServerError(str(error), code=str(error).partition(" ")[0]) from None


def primaries(client: Any) -> list[Any]:  # noqa: ANN401 - a redis-py client of either kind
    """Return the primaries of a cluster, each for ``target_nodes``; of any other server one ``None``."""
    return list(client.get_primaries()) if hasattr(client, "get_primaries") else [None]


class Walk:
    """The keys of a server, or of all primaries of a cluster, that match a pattern: a step at a time, round and round.

    A key may come twice in a round, as SCAN says.
    """

    def __init__(self, grid: Grid, pattern: str, *, kind: str | None = None, count: int = SCAN_COUNT) -> None:
        """Go over keys of type *kind*, or of any, of which the server looks at *count* for a step; nothing is sent."""
        self._grid = grid
        self._words = ("MATCH", pattern, "COUNT", str(count), *(("TYPE", kind) if kind else ()))
        self._cursor: Any = 0
        self._ahead: list[Any] = []
        self.rounds = 0
        """How often it has been over all keys."""
        self.without: frozenset[str] = frozenset()
        """The nodes of a cluster that are passed over, each by host and port."""
        self.silent: str | None = None
        """The node of a cluster that did not answer the last step."""

    def leave_out(self, nodes: Iterable[str]) -> None:
        """Begin a new round, over all primaries of a cluster but *nodes*."""
        self.without = frozenset(nodes)
        self._ahead, self._cursor = [], 0

    def step(self) -> list[str]:
        """Return the names that the next step finds; it may be none.

        Raises:
            GridsyncError: A server does not answer, or refuses; the next step begins with all primaries of a cluster
                anew, for another may have taken over from this one.
        """
        self.silent = None
        try:
            with plain_errors():
                return self._step()
        except Unavailable:
            if self._ahead and self._ahead[0] is not None:
                self.silent = self._ahead[0].name
                self.leave_out(self.without)
            raise

    def _step(self) -> list[str]:
        client: Any = self._grid.client
        if not self._ahead:
            self._ahead = [each for each in primaries(client) if each is None or each.name not in self.without]
            if not self._ahead:
                raise Unavailable("no node of the cluster answers")
        cluster = self._ahead[0] is not None
        options = {"target_nodes": self._ahead[0]} if cluster else {}
        cursor, keys = client.execute_command("SCAN", self._cursor, *self._words, **options)
        if cluster:
            (cursor,) = cursor.values()
        self._cursor = cursor
        if cursor == 0:
            self._ahead.pop(0)
            self.rounds += not self._ahead
        return [key.decode(errors="replace") for key in keys]


class Scan:
    """The keys of a server, or of all primaries of a cluster, that match a pattern: step by step, for a time.

    A key may come twice, as SCAN says.
    """

    def __init__(self, grid: Grid, pattern: str, seconds: float, kind: str | None = None) -> None:
        """Look for keys of type *kind*, or of any, for so many seconds; nothing is sent."""
        self._walk = Walk(grid, pattern, kind=kind)
        self._until = time.monotonic() + seconds
        self.complete = False
        """Whether that were all; false if the time was over before, or whoever iterated has broken off."""

    def __iter__(self) -> Iterator[str]:
        """Yield the names.  The clock is looked at between steps: where nothing matches, none are yielded for long."""
        while not self._walk.rounds:
            for key in self._walk.step():
                yield key
                if self.late():
                    return
            if not self._walk.rounds and self.late():
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
