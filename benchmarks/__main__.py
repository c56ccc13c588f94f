"""``python -m benchmarks``: start one server, measure every row beside each of its peers, print, and write a file."""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from pathlib import Path

from benchmarks import report
from benchmarks.pair import ROWS
from benchmarks.server import server

HERE = Path(__file__).resolve().parent


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--rows", default="", help=f"some of: {','.join(ROWS)} (default: all)")
    parser.add_argument("--runs", type=int, default=5, help="runs of each side; the median counts (default: 5)")
    parser.add_argument("--seconds", type=float, default=1.0, help="seconds that a run measures (default: 1.0)")
    parser.add_argument("--json", type=Path, default=HERE / "results.json", help="the file to write")
    asked = parser.parse_args()
    asked.rows = [name.strip() for name in asked.rows.split(",") if name.strip()] or list(ROWS)
    if unknown := [name for name in asked.rows if name not in ROWS]:
        parser.error(f"no such row: {', '.join(unknown)}; there are {', '.join(ROWS)}")
    return asked


def main() -> int:
    """Run what was asked for; 1 if a side could not be measured."""
    asked = _arguments()
    described = report.machine()
    found: list[report.Figure] = []
    failed = 0
    with server() as (port, info):
        used = report.versions(info)
        print(report.heading(described, used), flush=True)
        for row in (ROWS[name] for name in asked.rows):
            for peer in row.peers:
                words = ["-m", "benchmarks.pair", row.name, peer.package, port, asked.runs, asked.seconds]
                child = subprocess.run(
                    [sys.executable, *map(str, words)], cwd=HERE.parent, capture_output=True, text=True, check=False
                )
                if child.returncode:
                    failed += 1
                    print(f"{row.name:<20} {peer.package}: FAILED\n{child.stderr}", flush=True)
                    continue
                runs = json.loads(child.stdout)
                figure = report.figure(row, peer, runs["ours"], runs["peer"])
                found.append(figure)
                print(report.line(figure, report.verdict(row, peer, figure["ratio"])), flush=True)
    report.write(asked.json, described, used, found)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
