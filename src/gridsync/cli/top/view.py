"""How a snapshot looks: tables for `--once`, a screen of a given size for a person who watches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Final, NamedTuple

from rich.console import Group
from rich.table import Table
from rich.text import Text

from gridsync.cli._shared import shown
from gridsync.cli.top.state import SECTIONS

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import JustifyMethod, RenderableType

    from gridsync.cli.top.model import LockRow, Snapshot
    from gridsync.cli.top.state import State
    from gridsync.cli.top.vitals import Vitals

COLUMNS: Final = {
    "locks": ("kind", "name", "holder", "fence", "ends in", "wait"),
    "limits": ("limiter", "keys", "busiest key", "used"),
    "streams": ("store", "group", "events", "lag", "pending", "parked", "dead", "consumers", "oldest"),
    "caches": ("cache", "keys"),
    "servers": ("server", "version", "role", "ops/s", "cpu", "hits", "memory", "clients", "blocked", "keys"),
}
_WORDS: Final = frozenset({"name", "holder", "limiter", "busiest key", "store", "group", "cache", "server", "version"})
_LEFT: Final = _WORDS | {"kind", "role"}
"""Columns of text; the others are numbers and stand to the right."""
AROUND: Final = 5
"""Lines of a screen that are no rows: three above, the heading, and the keys."""
NAME_LEAST: Final = 10
"""How far a column of names is pressed together before the last columns are left out."""
GAP: Final = 2
KEYS: Final = "↑↓ select   enter inspect   tab section   p pause   q quit"


class Row(NamedTuple):
    """A line of a table."""

    id: str
    cells: tuple[str, ...]


def rows(snapshot: Snapshot, section: str, now: float) -> list[Row]:
    """Return the rows of a section; *now* is on this machine's monotonic clock."""
    if section == "locks":
        return [Row(row.id, _lock(row, now)) for row in snapshot.locks]
    if section == "limits":
        return [
            Row(row.id, (shown(row.limiter), f"{row.keys:,}", shown(row.busiest), f"{row.used:,}"))
            for row in snapshot.limits
        ]
    if section == "streams":
        found = []
        for each in snapshot.streams:
            counts = (each.events, each.lag, each.pending, each.parked, each.dead, each.consumers)
            numbers = tuple(f"{count:,}" for count in counts)
            found.append(Row(each.id, (shown(each.store), shown(each.group) or "-", *numbers, _age(each.oldest_age))))
        return found
    if section == "caches":
        return [Row(row.id, (shown(row.cache), f"{row.keys:,}")) for row in snapshot.caches]
    silent = ("-", "away", *["-"] * (len(COLUMNS["servers"]) - 3))
    away = [Row(each.server, (shown(each.server), *silent)) for each in snapshot.away]
    return [*away, *(Row(each.server, _vitals(each)) for each in snapshot.servers)]


def _lock(row: LockRow, now: float) -> tuple[str, ...]:
    rest = "" if row.expires_in is None else f"{max(row.expires_in - (now - row.asked), 0.0):.1f} s"
    fence = "" if row.fence is None else str(row.fence)
    return row.kind, shown(row.name), row.state, fence, rest, f"{row.waiting:,}"


def _vitals(each: Vitals) -> tuple[str, ...]:
    most = f" of {_size(each.memory_max)}" if each.memory_max else ""
    numbers = (f"{each.clients:,}", f"{each.blocked:,}", f"{each.keys:,}")
    memory = f"{_size(each.memory)}{most}"
    return (
        shown(each.server),
        shown(each.version),
        each.role,
        f"{each.ops:,.0f}",
        _percent(each.cpu),
        _percent(each.hit_rate),
        memory,
        *numbers,
    )


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f} %"


def _size(amount: int) -> str:
    return f"{amount / 1e9:.1f} GB" if amount >= 10**9 else f"{amount / 1e6:.1f} MB"


def _age(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds:,.1f} s"


def tables(snapshot: Snapshot, width: int) -> Group:
    """Return everything, one table below the other."""
    now = time.monotonic()
    parts: list[RenderableType] = [_head(snapshot)]
    for section in SECTIONS:
        found = rows(snapshot, section, now)
        if found:
            parts += [Text(), Text(section, "bold"), _table(section, found, None, width)]
    parts += [Text(shown(str(each)), "red") for each in snapshot.away]
    parts += [Text(f"cannot be read: {shown(each)}", "yellow") for each in snapshot.unreadable]
    if snapshot.left_out:
        parts.append(Text(f"... and more {', '.join(snapshot.left_out)} than are kept", "yellow"))
    elif not snapshot.complete and not snapshot.away:
        parts.append(Text("... and perhaps more: the time was over before all was looked at", "yellow"))
    return Group(*parts)


def screen(snapshot: Snapshot | None, state: State, trouble: str, size: tuple[int, int]) -> Group:
    """Return a screen of so many columns and lines; *trouble* is why the snapshot is old, if it is."""
    if snapshot is None:
        return Group(Text(shown(trouble) or "asking the server ...", "red" if trouble else ""))
    found = rows(snapshot, state.section, time.monotonic())
    place = state.place([row.id for row in found])
    width, height = size
    room = max(height - AROUND, 1)
    parts: list[RenderableType] = [_head(snapshot), _tabs(snapshot, state)]
    parts.append(Text(shown(trouble), "bold red", no_wrap=True, overflow="ellipsis") if trouble else _sums(snapshot))
    if state.inspecting:
        name = found[place].id if found else ""
        asked = snapshot.focus == (state.section, name)
        lines = (snapshot.detail or ("nothing more is known of it",)) if asked else ("asking the server ...",)
        parts += [Text(shown(name), "bold"), *(Text(line, no_wrap=True, overflow="ellipsis") for line in lines[:room])]
        used = 1 + min(len(lines), room)
    else:
        first = max(0, min(place - room // 2, len(found) - room))
        parts.append(_table(state.section, found[first : first + room], place - first, width))
        used = 1 + min(len(found), room)
    parts += [Text()] * max(height - 3 - used - 1, 0)
    parts.append(
        Text(
            KEYS if not state.inspecting else "enter or esc back   tab section   p pause   q quit", "dim", no_wrap=True
        )
    )
    return Group(*parts)


def _head(snapshot: Snapshot) -> Text:
    walked = f"{snapshot.keys:,} keys" if snapshot.complete or snapshot.left_out else f"{snapshot.keys:,} keys so far"
    parts = (("gridsync top", "bold"), f"  {shown(snapshot.server)}  namespace {shown(snapshot.namespace)}, {walked}")
    return Text.assemble(*parts, no_wrap=True, overflow="ellipsis")


def _sums(snapshot: Snapshot) -> Text:
    every = snapshot.servers
    cpu = [each.cpu for each in every if each.cpu is not None]
    hits = [each.hit_rate for each in every if each.hit_rate is not None]
    text = (
        f"{sum(each.ops for each in every):,.0f} ops/s   cpu {_percent(max(cpu, default=None))}   "
        f"memory {_size(sum(each.memory for each in every))}   {sum(each.clients for each in every):,} clients   "
        f"hit rate {_percent(sum(hits) / len(hits) if hits else None)}"
    )
    away = "".join(f"{shown(str(each))}   " for each in snapshot.away)
    odd = f"cannot read {shown(', '.join(snapshot.unreadable))}   " if snapshot.unreadable else ""
    return Text.assemble((away, "bold red"), (odd, "yellow"), text, no_wrap=True, overflow="ellipsis")


def _tabs(snapshot: Snapshot, state: State) -> Text:
    text = Text(no_wrap=True, overflow="ellipsis")
    for section in SECTIONS:
        more = "+" if section in snapshot.left_out else ""
        label = f" {section} {len(getattr(snapshot, section))}{more} "
        text.append(label, "reverse" if section == state.section else "")
        text.append(" ")
    if state.paused:
        text.append("paused", "bold yellow")
    return text


def _table(section: str, found: Sequence[Row], chosen: int | None, width: int) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, GAP, 0, 0), header_style="dim", expand=True)
    left = width + GAP
    for place, title in enumerate(COLUMNS[section]):
        # What is short is shown in full; names give way, and where they cannot any more, the last columns.
        short = title not in _WORDS
        least = max(len(title), *(len(row.cells[place]) for row in found), 0) if short else NAME_LEAST
        left -= least + GAP
        if left < 0 and place:
            break
        justify: JustifyMethod = "left" if title in _LEFT else "right"
        ratio = None if short else 2 if title == "holder" else 1
        table.add_column(title, justify=justify, no_wrap=True, overflow="ellipsis", min_width=least, ratio=ratio)
    for place, row in enumerate(found):
        cells = row.cells[: len(table.columns)]
        table.add_row(*map(Text, cells), style="reverse" if place == chosen else "")
    return table
