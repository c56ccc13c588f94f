"""Is the server fit for what gridsync promises on it?  `Grid.health` asks, and its answer is a `Health`.

Each item is ``ok``, ``degraded`` (it works, and a promise or a reserve is missing), ``down`` (it does not work) or
``unknown`` (it was not looked at, because the server's ACL forbids it).  The report is as bad as its worst item; what
is unknown makes it no worse.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["LOCKS", "Health", "Item", "Status"]

Status = Literal["ok", "degraded", "down", "unknown"]

LOCKS: Final = (
    *("connection", "role", "write", "scripts"),
    *("eviction", "memory", "append log", "fsync", "snapshot"),
    *("replication", "min replicas", "sentinels", "cluster"),
)
"""The items that decide whether a lock which was granted stays granted: ``grid.health().only(LOCKS).findings``."""
_RANK: Final = {"unknown": 0, "ok": 0, "degraded": 1, "down": 2}


@dataclass(frozen=True, slots=True)
class Item:
    """One thing that was looked at."""

    name: str
    """What, such as ``memory``."""
    status: Status
    """``ok``, ``degraded``, ``down``, or ``unknown`` if the server's ACL forbids to look."""
    value: str | float | None
    """What was found."""
    unit: str = ""
    """The unit of a number, in UCUM: ``ms``, ``s``, ``d`` or ``%``."""
    advice: str = ""
    """Why it is not ok, and what to do."""

    def __str__(self) -> str:
        """One line."""
        value = f"{self.value:g}" if isinstance(self.value, float) else str(self.value)
        return f"{self.status:<8}  {self.name:<12} {value} {self.unit}".rstrip() + (
            f"\n          → {self.advice}" if self.advice else ""
        )


@dataclass(frozen=True, slots=True)
class Health:
    """What a look at the server found; ``str()`` is for people, `to_json` for programs."""

    status: Literal["ok", "degraded", "down"]
    """That of the worst item."""
    server: str
    """Host and port, or the socket's path."""
    spent_s: float
    """How long the report took, in seconds."""
    items: tuple[Item, ...]
    """Everything that was looked at."""

    def item(self, name: str) -> Item:
        """Return the item *name*.

        Raises:
            KeyError: It was not looked at, as most are not while there is no connection; the message has those that
                were.
        """
        for item in self.items:
            if item.name == name:
                return item
        names = ", ".join(item.name for item in self.items)
        raise KeyError(f"{name!r} was not looked at; this report has {names}")

    @property
    def findings(self) -> tuple[Item, ...]:
        """The items that are ``degraded`` or ``down``: each says what to do."""
        return tuple(item for item in self.items if _RANK[item.status])

    def only(self, names: Iterable[str]) -> Health:
        """Return a report on some items alone, such as `LOCKS`; those that were not looked at are left out."""
        wanted = frozenset(names)
        chosen = tuple(item for item in self.items if item.name in wanted)
        return replace(self, status=worst(chosen), items=chosen)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return asdict(self)

    def to_json(self) -> str:
        """Return the same as one JSON object."""
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def to_prometheus(self) -> str:
        """Return the same in Prometheus' text format, for a file that an exporter collects.

        ``gridsync_health`` and, for each item, ``gridsync_health_item``: 0 is ok or unknown, 1 degraded, 2 down.
        """
        server = self.server.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
        lines = [
            "# HELP gridsync_health 0 ok, 1 degraded, 2 down.",
            "# TYPE gridsync_health gauge",
            f'gridsync_health{{server="{server}"}} {_RANK[self.status]}',
            "# HELP gridsync_health_item 0 ok or unknown, 1 degraded, 2 down.",
            "# TYPE gridsync_health_item gauge",
        ]
        lines += [
            f'gridsync_health_item{{server="{server}",item="{item.name}"}} {_RANK[item.status]}' for item in self.items
        ]
        return "\n".join(lines) + "\n"

    def __str__(self) -> str:
        """A headline, and a line for each item."""
        head = f"{self.server} is {self.status} ({self.spent_s * 1000:.0f} ms)"
        return "\n".join([head, *map(str, self.items)])


def unreachable(server: str, error: Exception) -> Health:
    """Return the report on a *server* that could not be looked at, and why."""
    item = Item("connection", "down", str(error), "", "no call succeeds until this does")
    return Health("down", server, 0.0, (item,))


def worst(items: Iterable[Item]) -> Literal["ok", "degraded", "down"]:
    """Return the status of the worst item."""
    rank = max((_RANK[item.status] for item in items), default=0)
    return "down" if rank == _RANK["down"] else "degraded" if rank else "ok"
