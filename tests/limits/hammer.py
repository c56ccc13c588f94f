"""A process of its own that hits a key of every rule as fast as it can: ``python -m tests.limits.hammer URL HITS``."""

from __future__ import annotations

import sys

from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.limits import GCRA, ApproxWindow, Concurrency, FixedWindow, Limiter

RULES = {
    "windows": ("100/hour", "300/day"),
    "bucket": (GCRA(1, 3600, burst=100),),
    "fixed": (FixedWindow(100, 3600),),
    "approx": (ApproxWindow(100, 3600),),
    "slots": (Concurrency(100, ttl_s=3600),),
}


def main(url: str, hits: str) -> None:
    """Wait for a line, hit, and say how many each rule admitted."""
    io = SyncIO(parse(url, connect_timeout=5.0), pool_size=1, timeout=5.0)
    limiters = [Limiter(io, "t", name, *rules) for name, rules in RULES.items()]
    io.connect()
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    sys.stdin.readline()
    admitted = [0] * len(limiters)
    for _ in range(int(hits)):
        for index, limiter in enumerate(limiters):
            admitted[index] += bool(limiter.hit("ada"))
    sys.stdout.write(" ".join(map(str, admitted)) + "\n")
    io.close()


if __name__ == "__main__":
    main(*sys.argv[1:])
