"""The child process that measures one row beside one peer, or alone, in turns, so that both meet the same machine."""

from __future__ import annotations

import argparse
import gc
import json
import socket
import sys

from benchmarks import (
    cache,
    commands,
    contention,
    events,
    fanout,
    faults,
    growth,
    limit_scripts,
    limits,
    locks,
    market,
    replication,
    top,
)
from benchmarks.harness import Bench

NOBODY = "nobody"
"""Instead of a peer, for rows that have none."""
ROWS = {
    row.name: row
    for module in (
        *(commands, growth, faults, locks, contention, limits, limit_scripts),
        *(events, cache, fanout, replication, market, top),
    )
    for row in module.ROWS
}


def _empty(bench: Bench) -> None:
    """Leave nothing behind for the next measure, neither in the server nor in this process."""
    with socket.create_connection((bench.host, bench.port)) as connection:
        connection.sendall(b"FLUSHALL SYNC\r\n")
        if connection.recv(64) != b"+OK\r\n":
            raise ConnectionError("the server did not empty itself")
    gc.collect()


def main() -> None:
    """Measure, and print ``{"ours": [...], "peer": [...]}``."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.pair")
    parser.add_argument("row", choices=ROWS)
    parser.add_argument("package")
    parser.add_argument("port", type=int)
    parser.add_argument("runs", type=int)
    parser.add_argument("seconds", type=float)
    asked = parser.parse_args()
    row = ROWS[asked.row]
    sides = [("ours", row.ours), *(("peer", peer.measure) for peer in row.peers if peer.package == asked.package)]
    bench = Bench("127.0.0.1", asked.port, asked.seconds)
    figures: dict[str, list[float]] = {"ours": [], "peer": []}
    for _ in range(asked.runs):
        for side, measure in sides:
            _empty(bench)
            figures[side].append(measure(bench))
    json.dump(figures, sys.stdout)


if __name__ == "__main__":
    main()
