"""Links: a log that says which event of which stream comes next, and does not repeat the payload.

An entry of such a log has the id, the stream, the version, the type and the time of its event.  What is missing is read
from the streams, for a page at once, and put where a copy has it; so whoever reads on need not know the difference.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Literal

from gridsync._io import load
from gridsync.errors import Truncated, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io import IO, ReadFrom
    from gridsync._io.keys import EventKeys

RESOLVE: Final = load("gridsync.streams", "resolve")

Log = Literal["copy", "link"]
"""Whether the log repeats the payload of each event."""

MODES: Final = {"copy": "", "link": "link"}
"""What the scripts and the store's own record call them."""
OTHER_LOG: Final = "OTHERLOG"
"""The code of the error of a script that was told another mode than the store was begun with."""
_LINK: Final = 10
"""How long the fields of a link are: ``i s v t w`` and their values."""
_ATTEMPTS: Final = 20
_PAUSE_S: Final = 0.05
"""How long to wait for replicas that lag behind each other."""


def mode(log: str) -> str:
    """Return what the scripts call *log*.

    Raises:
        UsageError: There is no such mode.
    """
    if log not in MODES:
        raise UsageError(f"log={log!r:.100}: the log has a 'copy' of each event, or a 'link' to it")
    return MODES[log]


def other(store: str, log: str) -> UsageError:
    """Return the error of a store that was begun with another mode than *log*."""
    begun = "link" if log == "copy" else "copy"
    return UsageError(
        f"the store {store!r} was begun with log={begun!r} and is used with log={log!r}: all who use it must agree, "
        "and a store cannot be changed; copy its events into a new one"
    )


def is_dangling(entry: Any) -> bool:  # noqa: ANN401
    """Tell whether an entry of a log of links lacks its payload."""
    return len(entry[1]) == _LINK


def differs(entry: Any, mode: str) -> bool:  # noqa: ANN401 - [id, [field, value, ...]]
    """Tell whether an entry of the log was surely written in another mode."""
    # The fifth field is the time of a link, the payload of a copy, and anything where others have written.
    return len(entry[1]) >= _LINK and entry[1][8] == (b"d" if mode else b"w")


async def resolved(
    io: IO,
    keys: EventKeys,
    entries: list[Any],
    takes: Callable[[Any], bool] | None = None,
    read_from: ReadFrom = "primary",
) -> list[Any]:
    """Return *entries* of the log with what their streams say of them.

    What *takes* does not want stays as it is, and so does what its stream no longer has: whoever decodes it says so.

    Raises:
        Unavailable: The replica that answers lacks events which another one has shown.
    """
    places = [k for k, entry in enumerate(entries) if len(entry[1]) == _LINK and (takes is None or takes(entry))]
    if not places:
        return entries
    # Between two positions a stream has no gap: of a page, each stream is read as one run, or as few.
    runs: list[list[int]] = []
    streams: dict[bytes, tuple[int, list[int]]] = {}
    for k in sorted(places, key=lambda k: int(entries[k][0][:-2])):
        flat = entries[k][1]
        stream, version = flat[3], int(flat[5])
        number, run = streams.get(stream, (len(streams) + 1, [0, 0, -1]))
        if run[2] + 1 == version:
            run[2] = version
        else:
            run = [number, version, version]
            runs.append(run)
        streams[stream] = (number, run)
    asked = (keys.meta, *(keys.stream(stream.decode()) for stream in streams))
    args = [str(word) for run in runs for word in run]
    last = max(int(entries[k][0][:-2]) for k in places)
    found = await io.read(RESOLVE, asked, args, read_from=read_from)
    for _ in range(_ATTEMPTS):
        if read_from == "primary" or found[0] >= last:
            break
        # The page came from a replica that was further than this one.
        await io.sleep(_PAUSE_S)
        found = await io.read(RESOLVE, asked, args, read_from=read_from)
    else:
        raise Unavailable(f"replicas lag behind each other: one has shown event {last}, another is at {found[0]}")
    there = {(run[0], event[0]): event[1] for run, events in zip(runs, found[1:], strict=True) for event in events}
    whole = list(entries)
    for k in places:
        link = entries[k][1]
        fields = there.get((streams[link[3]][0], b"%b-0" % link[5]), ())
        # In another history another event may stand there.
        if len(fields) >= _LINK and (fields[1], fields[9]) == (link[1], link[9]):
            whole[k] = _joined(entries[k], fields)
    return whole


def _joined(entry: Sequence[Any], fields: Sequence[bytes]) -> list[Any]:
    """Return an entry as a log of copies has it: ``i s v t d w``, and ``m`` if there is one."""
    return [entry[0], [*entry[1][:8], *fields[6:]], *entry[2:]]


def dangling(log_name: str, stream: str, version: int, position: int) -> Truncated:
    """Return the error of a link whose event is gone."""
    return Truncated(
        f"{log_name}: event {position} is event {version} of stream {stream!r}, which does not have it any more: it "
        "was removed, and a log of links has no copy; go on behind it, or restore the stream",
        name=log_name,
        first=position + 1,
    )
