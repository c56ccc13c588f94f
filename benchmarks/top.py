"""What `gridsync top` costs the server that it watches: its processor time, in percent of one processor."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Limit, Row
from gridsync import Grid
from gridsync._io.keys import limit
from gridsync.cli.top.model import Model

if TYPE_CHECKING:
    import redis

KEYS = 100_000
LOCKS = 100
BATCH = 5000
INTERVAL_S = 1.0
LEASE_S = 600.0


def _spent(client: redis.Redis) -> float:
    info = client.info("cpu")
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])


def _percent(bench: Bench) -> float:
    """Return what a second of watching takes, beyond what the server needs to be there."""
    with Grid(bench.url) as grid, ExitStack() as held:
        with grid.client.pipeline(transaction=False) as pipeline:
            for number in range(KEYS):
                name = limit(grid.namespace, f"limiter{number % 10}", str(number))
                pipeline.zadd(name, {f"1 {number}": number})
                pipeline.expire(name, 600)
                if number % BATCH == BATCH - 1:
                    pipeline.execute()
        for number in range(LOCKS):
            held.enter_context(grid.lock(f"job{number}", ttl=LEASE_S))
        model = Model(grid)
        model.refresh()
        seconds = max(bench.seconds, 10 * INTERVAL_S)
        idle = _spent(grid.client)
        time.sleep(seconds)
        before = _spent(grid.client)
        began = time.monotonic()
        looks = 0
        while (now := time.monotonic()) < began + seconds:
            model.refresh()
            looks += 1
            time.sleep(max(began + looks * INTERVAL_S - now, 0.0))
        return 100 * ((_spent(grid.client) - before) - (before - idle)) / (time.monotonic() - began)


ROWS = (Row("top-server-cost", "% of a processor", _percent, better="lower", limits=(Limit(1.0),)),)
