"""What the tests of backups have in common: a server with data of every wing, and its backups."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gridsync.cache import Space
from gridsync.errors import Diverged
from gridsync.ops.archive import backups_in
from gridsync.testing.servers import RedisServer
from tests.command import called
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from gridsync import Grid
    from gridsync.ops.archive import Backup
    from gridsync.testing.servers import ServerKind

PRICES = Space("prices", int, ttl=600)
AT_ONCE = {"repl-diskless-sync-delay": "0"}
"""A snapshot begins when it is asked for; by default a server waits five seconds for more replicas."""


def source(kind: ServerKind | None = None, **options: str) -> RedisServer:
    """Return a server that keeps its data in a directory of its own below its directory."""
    made = RedisServer(kind, options=AT_ONCE | options)
    data = made.directory / "data"
    data.mkdir()
    made._options["dir"] = str(data)
    return made


def data_of(server: RedisServer) -> Path:
    return Path(server._options["dir"])


def fill(grid: Grid) -> dict[str, Any]:
    """Write something of every wing, and return what has to be there after a restore."""
    orders = grid.events("orders", Order)
    for number in range(20):
        orders.append(f"order-{number % 3}", Placed(kwh=number + 1), expected_version=number // 3)
    with grid.lock("settlement", ttl=60) as lease:
        fence = lease.fence
    with grid.semaphore("workers", limit=2, ttl=60).acquire() as slot:
        share = slot.fence
    grid.limiter("api", "100/hour").hit("anna")
    grid.cache(PRICES).set("gas", 7)
    book = grid.orderbook("power", tick="0.01", lot="0.1")
    book.place("s1", "sell", "2.0", "61.50", owner="solar-7")
    book.place("b1", "buy", "1.5", "61.50", owner="city-1")
    return {"events": [each.id for each in orders.read_all()], "fence": fence, "share": share}


def backup_of(server: RedisServer | str, to: Path, *words: str) -> Backup:
    url = server if isinstance(server, str) else server.url
    code, output, error = called("backup", "--to", str(to), "--url", url, "--json", *words)
    assert code == 0, (output, error)
    said = json.loads(output.splitlines()[-1])
    return next(each for each in backups_in(to) if str(each.path) == said["path"])


def restored(backup: Path, *words: str) -> dict[str, Any]:
    code, output, error = called("restore", str(backup), "--json", *words)
    assert code == 0, (output, error)
    said: dict[str, Any] = json.loads(output.splitlines()[-1])
    return said


def drilled(backup: Path, *words: str) -> tuple[int, dict[str, Any]]:
    code, output, error = called("restore", str(backup), "--drill", "--json", *words)
    assert code in (0, 1), error
    return code, json.loads(output.splitlines()[-1])


def is_told(grid: Grid, checkpoint: str) -> bool:
    """Tell whether a reader that was at *checkpoint* is told that it cannot go on."""
    try:
        list(grid.events("orders", Order).read_all(after=checkpoint))
    except Diverged:
        return True
    return False
