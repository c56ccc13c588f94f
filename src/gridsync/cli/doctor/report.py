"""What the doctor says: findings, how bad the worst is, and where each is explained."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

from gridsync.cli._shared import shown

if TYPE_CHECKING:
    from gridsync.health import Item, Status

Severity = Literal["ok", "unknown", "warn", "fail"]

SEVERITY: Final[dict[Status, Severity]] = {"ok": "ok", "unknown": "unknown", "degraded": "warn", "down": "fail"}
EXIT: Final[dict[Severity, int]] = {"ok": 0, "unknown": 0, "warn": 1, "fail": 2}
PAGE: Final = "docs/doctor.md"
SECTIONS: Final = {
    "reaching-it": ("connection", "round trip", "loading", "role", "write", "scripts", "clock"),
    "version": ("version", "known flaws"),
    "memory": ("memory", "machine memory", "fragmentation", "eviction"),
    "clients": ("clients", "blocked clients", "output buffers", "refused clients"),
    "slow-commands": ("slow log", "latency events", "command times"),
    "persistence": ("append log", "fsync", "fsync delays", "snapshot", "last save", "fork"),
    "replication": ("replication", "min replicas"),
    "cluster-and-sentinel": ("cluster", "shards", "nodes", "sentinels", "sentinel"),
    "keys": ("hit rate", "keys", "keys that stay"),
    "users-and-encryption": ("permissions", "user", "encryption", "certificate", "client certificate"),
    "the-servers-machine": ("overcommit", "huge pages"),
    "this-program": ("python", "libraries", "descriptors", "settings", "environment"),
}
"""Where on `PAGE` each finding is explained."""
_ANCHORS: Final = {name: anchor for anchor, names in SECTIONS.items() for name in names}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at, on one server or in this program."""

    where: str
    """Host and port, the socket's path, or ``this program``."""
    severity: Severity
    """``ok``, ``warn``, ``fail``, or ``unknown`` if the server did not let us look."""
    what: str
    """Its name, such as ``memory``."""
    value: str | float | None
    """What was found."""
    unit: str
    """The unit of a number."""
    advice: str
    """What to do about it; of what is ok perhaps what would tell more."""
    link: str
    """Where it is explained."""

    @classmethod
    def of(cls, where: str, item: Item) -> Finding:
        """Return what *item* says about *where*."""
        link = f"{PAGE}#{_ANCHORS[item.name]}"
        return cls(where, SEVERITY[item.status], item.name, item.value, item.unit, item.advice, link)

    def __str__(self) -> str:
        value = f"{self.value:g}" if isinstance(self.value, float) else shown(str(self.value))
        line = f"{self.severity:<7}  {self.what:<15} {value} {self.unit}".rstrip()
        if self.severity in ("ok", "unknown"):
            return line + (f"\n         {'':<15} ({shown(self.advice)})" if self.advice else "")
        return f"{line}\n         → {shown(self.advice)}\n         → {self.link}"


@dataclass(frozen=True, slots=True)
class Report:
    """All findings, those of one server together."""

    server: str
    """The server that the URL leads to."""
    spent_s: float
    """How long the look took, in seconds."""
    findings: tuple[Finding, ...]
    """Everything that was looked at."""

    @property
    def severity(self) -> Severity:
        """That of the worst finding; what is unknown makes it no worse."""
        worst = max((EXIT[each.severity] for each in self.findings), default=0)
        return ("ok", "warn", "fail")[worst]

    @property
    def exit_code(self) -> int:
        """Return 0 if all is ok, 1 with warnings, 2 with failures."""
        return EXIT[self.severity]

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values."""
        return {"severity": self.severity, **asdict(self)}

    def to_json(self) -> str:
        """Return the same as one JSON object."""
        return json.dumps(self.to_dict())

    def __str__(self) -> str:
        """A heading for each server, a line for each finding, and a count."""
        lines: list[str] = []
        for where in dict.fromkeys(each.where for each in self.findings):
            lines += ["", shown(where), *(str(each) for each in self.findings if each.where == where)]
        counts = {severity: sum(each.severity == severity for each in self.findings) for severity in EXIT}
        told = ", ".join(f"{count} {severity}" for severity, count in counts.items() if count)
        return "\n".join(
            [*lines[1:], "", f"{shown(self.server)} is {self.severity}: {told} ({self.spent_s * 1000:.0f} ms)"]
        )
