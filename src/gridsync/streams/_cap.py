"""The cap: how many events a log may hold at most, and what becomes of an append that would be one too many.

Redis structure: three fields of the meta hash.  The scripts that append compare one of them, the last position that may
be given out; whoever is refused removes what may go, by the policy that the store has noted, and asks again.  So a cap
holds though nobody runs a retention, and costs those who fit under it nothing.
"""

from __future__ import annotations

import logging
from math import ceil
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, get_args

from gridsync._io import load
from gridsync.errors import LogFull, UsageError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync._io.keys import EventKeys
    from gridsync._io.scripts import Bound, Script
    from gridsync.streams._core import StoreCore

TRIM: Final = load("gridsync.streams", "trim")
CAP: Final = load("gridsync.streams", "cap")

STEP: Final = 1000
"""Events that one run of the script removes at most: it blocks the server while it runs."""
FULL: Final = 5
"""The code of a script that would append, and does not."""
CAP_MIN: Final = 2
"""The newest event stays, and another one must fit beside it."""
_SPARE: Final = 0.1
"""By how much of its cap handlers may make a log larger, as in `complete.lua`."""
_ATTEMPTS: Final = 20
"""How often others may take the room that was made before an append gives up."""

OnCap = Literal["block", "expire_group", "spill"]
"""Who is passed over when a log is at its cap: nobody; groups; projections and registered readers."""

_log = logging.getLogger("gridsync.streams")


class Cap(NamedTuple):
    """What a log may hold at most: so many events, or so many bytes; -1 for any number."""

    events: int
    size: int
    policy: OnCap


def capped(count: int | None, size: int | None, policy: OnCap, *, archived: bool) -> Cap | None:
    """Check the arguments of `EventStore.retention`; ``None`` if there is no cap."""
    if policy not in get_args(OnCap):
        raise UsageError(f"on_cap={policy!r:.100}: one of {', '.join(get_args(OnCap))}")
    for what, value, least in (("cap_count", count, CAP_MIN), ("cap_bytes", size, 1)):
        if value is not None and (type(value) is not int or value < least):
            raise UsageError(f"{what}={value!r:.100} must be a whole number from {least}")
    if count is None and size is None:
        return None
    if policy == "spill" and not archived:
        raise UsageError("on_cap='spill' lets readers go on in the archive: say which one with archive=directory")
    return Cap(-1 if count is None else count, -1 if size is None else size, policy)


async def trimmed(  # noqa: PLR0917 - what the script takes
    io: IO, keys: EventKeys, keep: int, age_us: int, step: int, expire_ms: int, room: int = 0
) -> Any:  # noqa: ANN401
    """Run the script that removes what may go; `trim.lua` says what it answers."""
    args = (str(keep), str(age_us), str(step), str(expire_ms), str(room))
    return await io.run(TRIM, (keys.log, keys.meta, keys.floors, keys.places, keys.readers, keys.holes), args)


def expired(io: IO, store: str, groups: Sequence[bytes], why: str) -> list[str]:
    """Tell that groups were given up; returns their names."""
    names = [name.decode() for name in groups]
    for name in names:
        io.tally("stream.expired", f"{store}/{name}")
        _log.warning("group %r of %r %s and was given up", name, store, why)
    return names


async def again(  # noqa: PLR0917 - a call, and what it was for
    core: StoreCore[Any],
    reply: Any,  # noqa: ANN401
    script: Script | Bound,
    keys: Sequence[str],
    args: Sequence[object],
    count: int,
    *,
    spare: bool = False,
    full: int = FULL,
) -> Any:  # noqa: ANN401
    """Return *reply*, or if it was that the log is at its cap, the one after room was made for *count* events.

    Args:
        core: The log.
        reply: What the script answered.
        script: What was called.
        keys: With which keys.
        args: With which arguments, event ids among them: so a repeat is one.
        count: How many events it appends.
        spare: Whether it may go over the cap by a tenth.
        full: The code that says so.

    Raises:
        LogFull: There is no room, and none can be made.
    """
    refused, attempts = None, _ATTEMPTS
    while reply[0] == full and refused is None and attempts:
        refused = await _make_room(core, count, spare=spare)
        # A delivery may be the oldest one by now, which need not wait for anybody.
        if refused is None or spare:
            reply, attempts = await core.io.run(script, keys, args), attempts - 1
    if reply[0] != full:
        return reply
    core.io.tally("stream.full", core.name)
    raise refused or LogFull(
        f"{core.log_name} is at its cap, and others were faster whenever there was room; nothing was appended",
        name=core.name,
        partition=core.partition,
        count=count,
    )


async def _make_room(core: StoreCore[Any], count: int, *, spare: bool) -> LogFull | None:
    while True:
        removed, *_, told, gone, held, cap = await trimmed(core.io, core.keys, -1, -1, STEP, -1, count)
        expired(core.io, core.name, gone, "stood in the way at the cap")
        if not cap or held + count <= cap + (ceil(cap * _SPARE) if spare else 0):
            return None
        if not removed:
            break
    holder = min(told, key=lambda row: row[2], default=None)
    if count >= cap:
        why = f"{count} more never fit: append them in smaller parts, or raise the cap"
    elif holder is None:
        why = "the newest one stays: append fewer at once, or raise the cap"
    else:
        kind, name = holder[0].decode(), holder[1].decode()
        why = (
            f"{count} more do not fit before {kind}{f' {name!r}' if name else ''}, which has had those up to position "
            f"{holder[2]}, gets on: see floor(), let it catch up, release it, or raise the cap"
        )
    return LogFull(
        f"{core.log_name} holds {held} events and may hold {cap}; nothing was appended: {why}",
        name=core.name,
        partition=core.partition,
        count=count,
        held=held,
        cap=cap,
        holder=None if holder is None else (holder[0].decode(), holder[1].decode()),
    )
