"""What readers do while the server is away: which errors pass, and how long to wait for that."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Final

from gridsync.errors import GridsyncError, LogFull, OutcomeUnknown, ServerError, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import Signal

BLOCK_MAX: Final = 5.0
"""Seconds of one blocking read at most: the bound of everything that a wake-up should have told."""
PAUSE_MIN: Final = 0.1
PAUSE_MAX: Final = 5.0
"""Seconds between attempts while the server is away, doubling."""

_GONE: Final = frozenset({"NOGROUP", "UNBLOCKED"})
"""The group was lost: deleted, flushed, evicted, or not yet there on a promoted replica."""
_FINAL: Final = frozenset({"ERR", "WRONGTYPE", "PARTITIONED"})
"""What no waiting heals; anything else that a server answers (LOADING, READONLY, OOM, …) passes."""


_log = logging.getLogger("gridsync.streams")


def is_gone(error: GridsyncError) -> bool:
    """Say whether the group is lost."""
    return isinstance(error, ServerError) and error.code in _GONE


def raise_if_final(error: GridsyncError) -> None:
    """Raise what no waiting heals: all but an absent server, what one answers for the moment, and a log at its cap."""
    if isinstance(error, ServerError):
        if error.code in _FINAL:
            raise error
    elif not isinstance(error, Unavailable | OutcomeUnknown | LogFull):
        raise error


async def patiently(stop: Signal, what: str, attempt: Callable[[], Awaitable[object]]) -> None:
    """Attempt it until it succeeds, or until stopped; *what* it is goes into the log.

    Raises:
        GridsyncError: What no waiting heals.
    """
    pause = PAUSE_MIN
    while not stop.is_set():
        try:
            await attempt()
        except GridsyncError as error:
            raise_if_final(error)
            _log.warning("%s, next attempt in %.1f s: %s", what, pause, error)
            await stop.wait(pause)
            pause = min(pause * 2, PAUSE_MAX)
        else:
            return
