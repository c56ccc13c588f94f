"""How the servers are: what INFO tells, and what happened between two looks at it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, Final

from gridsync._io.keys import health
from gridsync.cli._shared import plain_errors, primaries
from gridsync.errors import Unavailable

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.grid import Grid

_PARTS: Final = ("server", "clients", "memory", "persistence", "stats", "replication", "cpu", "keyspace")
RATE_S: Final = 0.1
"""The shortest time in which anything is counted."""


@dataclass(frozen=True, slots=True)
class Vitals:
    """One server at one moment; rates are those since the look before, ``None`` at the first."""

    server: str
    """Host and port, or the socket's path."""
    version: str
    """Product and version."""
    role: str
    """``primary`` or ``replica``."""
    ops: float
    """Commands per second."""
    cpu: float | None
    """Percent of one processor."""
    hit_rate: float | None
    """Percent of the lookups since the look before that found something; ``None`` if there were none."""
    memory: int
    """Bytes in use."""
    memory_max: int
    """``maxmemory``; 0 is no limit."""
    clients: int
    """Connections."""
    blocked: int
    """Clients in a blocking command."""
    keys: int
    """Keys of all databases."""
    evicted: int
    """Keys that were evicted since the server started."""
    replicas: int
    """Replicas that are connected."""


@dataclass(frozen=True, slots=True)
class Away:
    """A primary of a cluster that does not answer, while others do."""

    server: str
    """Host and port."""
    since: datetime
    """When it was first asked in vain."""
    why: str
    """What happened when it was asked last."""

    def __str__(self) -> str:
        return f"no answer from {self.server} for {(datetime.now(UTC) - self.since).total_seconds():.0f} s: {self.why}"


class Pulse:
    """Looks at every primary, again and again."""

    def __init__(self, grid: Grid) -> None:
        """Ask the servers of *grid*; nothing is sent yet."""
        self._grid = grid
        self._before: dict[str, tuple[float, Mapping[str, Any]]] = {}
        self.away: dict[str, Away] = {}
        """The primaries of a cluster that do not answer, by host and port; whose turn it is to be asked comes first."""

    def look(self) -> tuple[Vitals, ...]:
        """Ask each primary once; of those of a cluster that were away, one, by turns: each may cost a timeout.

        Raises:
            GridsyncError: None of them answers, or one may not be asked.
        """
        with plain_errors():
            client: Any = self._grid.client
            nodes = primaries(client)
        names = [self._only() if node is None else str(node.name) for node in nodes]
        self.away = {name: away for name, away in self.away.items() if name in names}
        passed = set(list(self.away)[1:])
        found = []
        for node, name in zip(nodes, names, strict=True):
            if name in passed:
                continue
            try:
                with plain_errors():
                    found.append(self._ask(client, node, name))
            except Unavailable as error:
                if node is None:
                    raise
                self.missed(name, error)
            else:
                self.away.pop(name, None)
        if not found:
            raise Unavailable("; ".join(f"{each.server}: {each.why}" for each in self.away.values()))
        return tuple(found)

    def missed(self, name: str, error: Unavailable) -> None:
        """Note that a primary of a cluster does not answer."""
        before = self.away.pop(name, None)
        since = before.since if before is not None else datetime.now(UTC)
        self.away[name] = Away(name, since, str(error).partition("; ")[0])

    def _ask(self, client: Any, node: Any, name: str) -> Vitals:  # noqa: ANN401 - a redis-py client of either kind
        options = {} if node is None else {"target_nodes": node}
        info = client.execute_command("INFO", *_PARTS, **options)
        now = time.monotonic()
        before = self._before.get(name)
        if before is None or now - before[0] >= RATE_S:
            self._before[name] = now, info
        return _vitals(name, info, now, before)

    def _only(self) -> str:
        return str(self._grid._io.where((health(self._grid.namespace).probe,)))  # noqa: SLF001 - the command's own grid


def _vitals(name: str, info: Mapping[str, Any], now: float, before: tuple[float, Mapping[str, Any]] | None) -> Vitals:
    cpu, hit_rate, ops = None, None, float(info["instantaneous_ops_per_sec"])
    # After a restart its counters begin anew.
    if before is not None and before[1]["run_id"] == info["run_id"] and now - before[0] >= RATE_S:
        spent, past = now - before[0], before[1]
        cpu = round(100 * (_cpu(info) - _cpu(past)) / spent, 1)
        ops = round((info["total_commands_processed"] - past["total_commands_processed"]) / spent, 1)
        hits, misses = (info[each] - past[each] for each in ("keyspace_hits", "keyspace_misses"))
        hit_rate = round(100 * hits / (hits + misses), 1) if hits + misses > 0 else None
    product = info.get("server_name", "redis")
    return Vitals(
        server=name,
        version=f"{product} {info.get(f'{product}_version', info['redis_version'])}",
        role="primary" if info["role"] == "master" else "replica",
        ops=ops,
        cpu=cpu,
        hit_rate=hit_rate,
        memory=info["used_memory"],
        memory_max=info["maxmemory"],
        clients=info["connected_clients"],
        blocked=info["blocked_clients"],
        keys=sum(space["keys"] for key, space in info.items() if key.startswith("db") and isinstance(space, dict)),
        evicted=info["evicted_keys"],
        replicas=info["connected_slaves"],
    )


def _cpu(info: Mapping[str, Any]) -> float:
    return float(info["used_cpu_sys"]) + float(info["used_cpu_user"])
