"""What is printed, and what is written to ``results.json``."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable

    from benchmarks.harness import Peer, Row

PACKAGES = (
    "gridsync-redis",
    "redis",
    "hiredis",
    "pydantic",
    "valkey-glide",
    "coredis",
    "python-redis-lock",
    "pottery",
    "limits",
    "throttled-py",
    "faststream",
)


class Figure(TypedDict):
    """One row of the file: ours beside one peer, medians."""

    name: str
    ours: float
    peer_name: str
    peer: float
    ratio: float
    unit: str
    better: str


def figure(row: Row, peer: Peer, ours: list[float], theirs: list[float]) -> Figure:
    """Make the row of the file from the runs of both sides; the ratio is always ours / peer."""
    mine, other = median(ours), median(theirs)
    return Figure(
        name=row.name,
        ours=round(mine, 2),
        peer_name=peer.package,
        peer=round(other, 2),
        ratio=round(mine / other, 3),
        unit=row.unit,
        better=row.better,
    )


def verdict(row: Row, peer: Peer, ratio: float) -> str:
    """Say whether the target is reached."""
    if peer.target is None:
        return ""
    reached = ratio >= peer.target if row.better == "higher" else ratio <= peer.target
    sign = "≥" if row.better == "higher" else "≤"
    return f"{sign} {peer.target:g}  {'pass' if reached else 'miss'}"


HEAD = f"{'row':<20} {'ours':>9}  {'peer':<18} {'peer':>9}  {'unit':<12} {'ratio':>7}  target"


def line(found: Figure, said: str) -> str:
    """Return the row as a line of the table."""
    return (
        f"{found['name']:<20} {_number(found['ours'])}  {found['peer_name']:<18} {_number(found['peer'])}"
        f"  {found['unit']:<12} {found['ratio']:>6.2f}x  {said}".rstrip()
    )


def _number(value: float) -> str:
    return f"{value:>9,.0f}" if value >= 100 else f"{value:>9.3g}"


def heading(described: dict[str, Any], used: dict[str, str]) -> str:
    """Return what stands above the table: the machine and what runs on it."""
    programs = ", ".join(f"{name} {version}" for name, version in used.items())
    return (
        f"{described['cpu']}, {described['cores']} cores, load {described['load_1min']}, {described['os']}, "
        f"Python {described['python']}\n{programs}\n\n{HEAD}"
    )


def machine() -> dict[str, Any]:
    """Describe this computer."""
    cpu = platform.processor() or platform.machine()
    described = Path("/proc/cpuinfo")
    if described.exists():
        names = [text.partition(":")[2].strip() for text in described.read_text().splitlines() if "model name" in text]
        cpu = names[0] if names else cpu
    return {
        "cpu": cpu,
        "cores": os.cpu_count(),
        "os": platform.platform(),
        "python": platform.python_version(),
        "load_1min": round(os.getloadavg()[0], 2),
    }


def versions(info: dict[str, str]) -> dict[str, str]:
    """Return the version of every package that takes part, and of the server."""
    found = {package: metadata.version(package) for package in PACKAGES}
    server = info.get("server_name", "redis")
    return {server + "-server": info.get(f"{server}_version", info.get("redis_version", "?")), **found}


def write(path: Path, described: dict[str, Any], used: dict[str, str], rows: Iterable[Figure]) -> None:
    """Write the file; rows that were not run this time are kept as they are."""
    new = list(rows)
    done = {(row["name"], row["peer_name"]) for row in new}
    old = json.loads(path.read_text())["rows"] if path.exists() else []
    kept = [row for row in old if (row["name"], row["peer_name"]) not in done]
    path.write_text(json.dumps({"machine": described, "versions": used, "rows": kept + new}, indent=2) + "\n")
