"""``python -m benchmarks``: start one server, measure every row beside each of its peers, print, and write a file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from benchmarks import report
from benchmarks.pair import NOBODY, ROWS
from benchmarks.server import server

if TYPE_CHECKING:
    from collections.abc import Iterator

    from benchmarks.harness import Row

HERE = Path(__file__).resolve().parent
START_S = 60.0
"""What a child process may take to start, with servers of its own."""
RUN_S = 20.0
"""What one run may take, or four times what it measures; then the child is ended."""


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help=f"some of: {','.join(ROWS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side; the median counts (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds that a run measures (default: 1.0)")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="the file to write")
    parser.add_argument(
        "--headlines", action="store_true", help="measure nothing, print the README's table of that file"
    )
    parser.add_argument("--table", action="store_true", help="measure nothing, print all rows of that file")
    asked = parser.parse_args()
    asked.rows = [name.strip() for name in asked.rows.split(",") if name.strip()] or list(ROWS)
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return asked


def _measure(row: Row, package: str, port: int, asked: argparse.Namespace) -> dict[str, list[float]] | None:
    """Return the runs of ours and of a peer, or ``None`` if that could not be measured."""
    words = ["-m", "benchmarks.pair", row.name, package, port, asked.runs, asked.seconds]
    limit = START_S + asked.runs * 2 * max(RUN_S, 4 * asked.seconds)
    try:
        child = subprocess.run(
            [sys.executable, *map(str, words)],
            cwd=HERE.parent,
            capture_output=True,
            text=True,
            check=True,
            timeout=limit,
        )
    except subprocess.TimeoutExpired:
        print(f"{row.name:<{report.NAME}} {package}: FAILED: no end within {limit:g} s", flush=True)
    except subprocess.CalledProcessError as failure:
        print(f"{row.name:<{report.NAME}} {package}: FAILED\n{failure.stderr}", flush=True)
    else:
        found: dict[str, list[float]] = json.loads(child.stdout)
        return found
    return None


def _figures(row: Row, port: int, asked: argparse.Namespace) -> Iterator[tuple[report.Figure, float | None] | None]:
    """Measure a row: its figures, each with its target; ``None`` for what could not be measured."""
    ours: list[float] = []
    for peer in row.peers:
        runs = _measure(row, peer.package, port, asked)
        ours += runs["ours"] if runs else []
        yield (report.figure(row, peer, runs["ours"], runs["peer"]), peer.target) if runs else None
    if not row.peers:
        runs = _measure(row, NOBODY, port, asked)
        ours += runs["ours"] if runs else []
    for limit in row.limits:
        yield (report.limit_figure(row, limit, ours), 1.0) if ours else None


def main() -> int:
    """Run what was asked for; 1 if a side could not be measured."""
    asked = _arguments()
    if asked.headlines:
        print(report.headlines(json.loads(asked.json.read_text())["rows"]), end="")
        return 0
    if asked.table:
        print(report.table(json.loads(asked.json.read_text())["rows"], ROWS), end="")
        return 0
    described = report.machine()
    found: list[report.Figure] = []
    failed = 0
    with server() as (port, info):
        used = report.versions(info)
        print(report.heading(described, used), flush=True)
        for row in (ROWS[name] for name in asked.rows):
            for measured in _figures(row, port, asked):
                if measured is None:
                    failed += 1
                    continue
                figure, target = measured
                found.append(figure)
                print(report.line(figure, report.verdict(row, target, figure["ratio"])), flush=True)
    report.write(asked.json, described, used, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
