"""What is printed, and what is written to ``results.json``."""

from __future__ import annotations

import json
import os
import platform
from importlib import metadata
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any, NamedTuple, TypedDict

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from benchmarks.harness import Limit, Peer, Row

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
    "aiocache",
    "cashews",
    "channels-redis",
)


class Headline(NamedTuple):
    """A row of the README's table."""

    row: str
    peer: str
    what: str
    peer_is: str
    unit: str = "/s"


HEADLINES = (
    Headline("aio-commands-100", "redis", "commands, asyncio, 100 tasks", "redis-py"),
    Headline("aio-commands-100", "valkey-glide", "", "valkey-glide"),
    Headline("aio-commands-1", "redis", "commands, asyncio, 1 task", "redis-py"),
    Headline("sync-commands-1", "redis", "commands, 1 thread", "redis-py"),
    Headline("sync-commands-16", "redis", "commands, 16 threads", "redis-py"),
    Headline("aio-limiter-100", "limits", "limiter, asyncio, 100 tasks", "limits"),
    Headline("sync-lock-cycle", "redis", "lock and unlock, 1 thread", "redis-py Lock"),
    Headline("aio-lock-cycles-100", "redis", "lock and unlock, asyncio, 100 tasks", "redis-py Lock"),
    Headline("lock-contended-8", "redis", "one lock, hand-overs among 8 threads", "redis-py Lock"),
    Headline("lock-contended-8", "python-redis-lock", "", "python-redis-lock"),
    Headline("lock-handoff-p99-ms", "redis", "release until the next of 200 has it, p99", "redis-py Lock", " ms"),
    Headline("lock-fairness-24", "redis", "24 processes on one lock, most / least turns", "redis-py Lock", ""),
    Headline("aio-append-100", "redis", "append with expected version, 100 tasks", "redis-py's bare XADD"),
    Headline("consume-aio", "faststream", "consume with model and ack", "FastStream"),
    Headline("aio-cache-get-100", "cashews", "cached model read, asyncio, 100 tasks", "cashews"),
    Headline("aio-cache-get-100", "aiocache", "", "aiocache, a dict"),
    Headline("near-cache-reads", "redis", "reads of copies in the process, 1 thread", "redis-py's client-side cache"),
    Headline("fanout-1000", "channels-redis", "publications to 1,000 receivers", "channels_redis"),
    Headline("reconnect-1000", "redis", "done exactly once, of 1,000 calls cut off", "redis-py INCR", ""),
)


class Figure(TypedDict):
    """One row of the file: ours beside one peer, medians; or beside a limit."""

    name: str
    ours: float
    peer_name: str
    peer: float
    ratio: float | None
    """Ours / peer; none if the peer's figure is 0."""
    unit: str
    better: str


def figure(row: Row, peer: Peer, ours: list[float], theirs: list[float]) -> Figure:
    """Make the row of the file from the runs of both sides."""
    return _figure(row, peer.package, median(ours), median(theirs))


def limit_figure(row: Row, limit: Limit, ours: list[float]) -> Figure:
    """Make the row of the file for a limit."""
    if not limit.worst:
        return _figure(row, "limit", median(ours), limit.value)
    worst = min if row.better == "higher" else max
    return _figure(row, "limit of the worst", worst(ours), limit.value)


def _figure(row: Row, peer_name: str, ours: float, peer: float) -> Figure:
    return Figure(
        name=row.name,
        ours=round(ours, 4),
        peer_name=peer_name,
        peer=round(peer, 4),
        ratio=round(ours / peer, 3) if peer else None,
        unit=row.unit,
        better=row.better,
    )


def verdict(row: Row, target: float | None, ratio: float | None) -> str:
    """Say whether the target is reached."""
    if target is None or ratio is None:
        return ""
    reached = ratio >= target if row.better == "higher" else ratio <= target
    sign = "≥" if row.better == "higher" else "≤"
    return f"{sign} {target:g}  {'pass' if reached else 'miss'}"


NAME = 29
"""How wide the names of rows are."""
HEAD = f"{'row':<{NAME}} {'ours':>9}  {'peer':<18} {'peer':>9}  {'unit':<13} {'ratio':>7}  target"


def line(found: Figure, said: str) -> str:
    """Return the row as a line of the table."""
    ratio = "-" if found["ratio"] is None else f"{found['ratio']:.{2 if found['ratio'] >= 0.1 else 3}f}x"
    return (
        f"{found['name']:<{NAME}} {_number(found['ours'])}  {found['peer_name']:<18} {_number(found['peer'])}"
        f"  {found['unit']:<13} {ratio:>7}  {said}".rstrip()
    )


def table(figures: Iterable[Figure], rows: Mapping[str, Row]) -> str:
    """Return all lines of a file in the order of *rows*, each with its target, as a run prints them."""
    order = {name: number for number, name in enumerate(rows)}
    lines = []
    for found in sorted(figures, key=lambda found: order[found["name"]]):
        row = rows[found["name"]]
        targets = {peer.package: peer.target for peer in row.peers}
        target = targets.get(found["peer_name"], 1.0 if found["peer_name"].startswith("limit") else None)
        lines.append(line(found, verdict(row, target, found["ratio"])))
    return "\n".join([HEAD, *lines, ""])


def _number(value: float) -> str:
    return f"{value:>9,.0f}" if value >= 100 else f"{value:>9.3g}"


def headlines(rows: Iterable[Figure]) -> str:
    """Return the README's table, as far as *rows* tell; its last column is by how much ours is better."""
    found = {(row["name"], row["peer_name"]): row for row in rows}
    lines = ["| | gridsync | peer | |", "|---|--:|--:|--:|"]
    for each in HEADLINES:
        row = found.get((each.row, each.peer))
        if row is None:
            continue
        over, under = (row["ours"], row["peer"]) if row["better"] == "higher" else (row["peer"], row["ours"])
        times = f"{over / under:,.{1 if over / under < 10 else 0}f}×" if under else ""  # noqa: RUF001 - as it is printed
        ours, peer = (_number(row[side]).strip() + each.unit for side in ("ours", "peer"))
        lines.append(f"| {each.what} | {ours} | {each.peer_is} {peer} | {times} |".replace("|  |", "| |"))
    return "\n".join(lines) + "\n"


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
