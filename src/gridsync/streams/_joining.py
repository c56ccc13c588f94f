"""Joining: making sure that a consumer group exists, and that it does not pass over events that were removed.

Redis structure: one hash notes up to where each group of a store has acknowledged everything.  A group that was lost is
made again there; one that lost its events to retention (`_retention.py`) is told so first.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gridsync._io import load
from gridsync.errors import Truncated

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync._io.keys import EventKeys

JOIN: Final = load("gridsync.streams", "join")


async def join(io: IO, keys: EventKeys, group: str, *, from_now: bool) -> None:
    """Make the group if it is not there.

    Raises:
        Truncated: Events were removed that it has not had.
    """
    skipped, first = await _joined(io, keys, group, from_now=from_now, skip=False)
    if skipped:
        raise Truncated(
            f"group {group!r} has not had {skipped} events before position {first}, and they were removed: restore "
            "them, or call skip_removed() to go on without them",
            name=f"group {group!r}",
            first=first,
        )


async def skip_removed(io: IO, keys: EventKeys, group: str, *, from_now: bool) -> int:
    """Let the group go on behind the events that were removed; returns how many it has not had."""
    skipped, _ = await _joined(io, keys, group, from_now=from_now, skip=False)
    if skipped:
        await _joined(io, keys, group, from_now=from_now, skip=True)
    return skipped


async def _joined(io: IO, keys: EventKeys, group: str, *, from_now: bool, skip: bool) -> tuple[int, int]:
    aside = (keys.retry(group), keys.failed(group), keys.waiting(group))
    # A repeat finds the group, which is the same success.
    args = (group, str(int(from_now)), str(int(skip)))
    _, skipped, first = await io.run(JOIN, (keys.log, keys.meta, keys.floors, *aside), args)
    return skipped, first
