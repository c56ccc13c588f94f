"""`gridsync doctor`: a health report, and everything around it, of every server and of this program."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gridsync._checkup import PING_SLOW
from gridsync._io.route.primary import Primary
from gridsync.cli._shared import asking, open_grid, place_of
from gridsync.cli.doctor import machine, sentinels
from gridsync.cli.doctor.keyspace import sample
from gridsync.cli.doctor.nodes import Servers
from gridsync.cli.doctor.report import Finding, Report
from gridsync.cli.doctor.server import more_of
from gridsync.health import Item

if TYPE_CHECKING:
    from gridsync.grid import Grid
    from gridsync.settings import Settings

_MOMENTARY: Final = frozenset({"ping", "usage", "breakers"})
"""What a health report tells of a program that runs; this one has just begun, and measures twenty pings."""
PROGRAM: Final = "this program"
_GONE: Final = "it does not answer now, and no call to it succeeds: see whether it runs, and its log"


def command(*, url: str | None, namespace: str | None, timeout: float, as_json: bool) -> int:
    """Print all findings; returns 0 if all is ok, 1 with warnings, 2 with failures or if no server can be reached."""
    with asking() as outcome, open_grid(url, namespace, patience=timeout) as grid:
        report = examine(grid, grid.settings, timeout)
        print(report.to_json() if as_json else report)
        outcome.append(report.exit_code)
    return outcome[0]


def examine(grid: Grid, settings: Settings, timeout: float) -> Report:
    """Look at the servers of a grid, for at most *timeout* seconds each, and at this program."""
    began = time.monotonic()
    slow_s = PING_SLOW * settings.redis_command_timeout
    health = grid.health(timeout=timeout)
    items: list[Item] = [item for item in health.items if item.name not in _MOMENTARY]
    found = [Finding.of(health.server, item) for item in items]
    servers = Servers(grid, timeout)
    for name, failure in servers.away.items():
        # Also of one that had just answered: it hangs, or was ended meanwhile.
        found = [each for each in found if (each.where, each.what) != (name, "connection")]
        found.append(Finding.of(name, Item("connection", "down", str(failure), "", _GONE)))
    others = servers.others(slow_s)
    if servers.seen is not None:
        items = more_of(servers.seen, slow_s=slow_s, local=servers.local)
        items += machine.kernel(servers.seen) if servers.local else []
        found += [Finding.of(servers.name, item) for item in [*items, *servers.topology()]]
        silent = {*servers.away, *(name for name, told in others for item in told if item.name == "connection")}
        found.append(Finding.of(*sample(grid, servers.name, silent if servers.clustered else ())))
    found += [Finding.of(name, item) for name, told in others for item in told]
    place = grid._io._endpoint  # noqa: SLF001 - the command's own grid
    if isinstance(place, Primary):
        found += [Finding.of(name, item) for name, items in sentinels.examine(place, timeout) for item in items]
    found += [Finding.of(PROGRAM, item) for item in machine.program(settings, servers.seen, os.environ)]
    if (file := place.server.tls_options.get("ssl_certfile")) is not None:
        found.append(Finding.of(PROGRAM, machine.certificate(Path(file), time.time())))
    return Report(place_of(settings.redis_url), time.monotonic() - began, tuple(found))
