"""Which servers there are, and what each of them answers."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from gridsync._checkup import certificate, clock, from_info, replicas_of
from gridsync._io.keys import health as health_keys
from gridsync._io.probe import probe
from gridsync._io.wire.faults import ReplyError
from gridsync.cli.doctor.server import PINGS, QUESTIONS, Seen, more_of, persistence
from gridsync.health import Item

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync._io.wire.endpoint import Endpoint
    from gridsync.grid import Grid

NODES_MAX: Final = 100
"""How many servers are looked at."""
AT_ONCE: Final = 8
IDLE: Final = "primary without slots"
"""A node of a cluster that is to get some, or one whose replica has taken its slots over."""
_LOOPBACK: Final = ("127.", "::1", "localhost")


@dataclass(frozen=True, slots=True)
class Node:
    """A server that others name."""

    endpoint: Endpoint
    role: str
    """``primary``, ``replica`` or `IDLE`."""


class Servers:
    """The server that a grid uses, and those beside it."""

    def __init__(self, grid: Grid, timeout: float) -> None:
        """Ask the server that holds the keys of a health report; *timeout* is for each server, in seconds.

        If it does not answer, a node of its cluster that did when the grid was opened tells of the others.
        """
        self._timeout = timeout
        self.seen: Seen | None = None
        self.away: dict[str, Exception] = {}
        """Who of these two did not answer, and why."""
        io = grid._io  # noqa: SLF001 - the command's own grid
        for endpoint in (io.where((health_keys(grid.namespace).probe,)), io.where(())):
            if str(endpoint) in self.away:
                break  # there is no other
            self._endpoint = endpoint
            facts = probe(endpoint, list(QUESTIONS.values()), timeout, pings=PINGS)
            if facts.failure is None:
                self.seen = Seen(facts)
                break
            self.away[str(endpoint)] = facts.failure
        self.name: str = str(self._endpoint)
        self.clustered: bool = self.seen is not None and self.seen.clustered
        self.local: bool = is_local(self._endpoint)
        self._others = list(self._found())

    def _found(self) -> Iterator[Node]:
        """Yield the other servers, once each."""
        if self.seen is None:
            return
        if self.clustered:
            for shard in self.shards:
                for node in shard[b"nodes"]:
                    yield Node(self._at(*_address(node, tls=self.seen.facts.tls)), _role(node, shard))
            return
        for told in replicas_of(self.seen.info):
            if told.get("ip") and told.get("port", "").isdigit():
                yield Node(self._at(told["ip"], int(told["port"])), "replica")

    @property
    def shards(self) -> list[dict[bytes, Any]]:
        """What the first server says about its cluster; nothing if it may not be asked."""
        reply = self.seen.replies["CLUSTER SHARDS"] if self.seen is not None else []
        return [] if isinstance(reply, ReplyError) else reply

    def _at(self, host: str, port: int) -> Endpoint:
        timeout = min(self._endpoint.connect_timeout, self._timeout)
        host = host or self._endpoint.host
        return replace(self._endpoint, host=host, port=port, role="", vouched=True, connect_timeout=timeout)

    def others(self, slow_s: float) -> list[tuple[str, list[Item]]]:
        """Return what is found of each server beside the first, several at a time."""
        nodes = [node for node in self._others if str(node.endpoint) not in {self.name, *self.away}][:NODES_MAX]

        def look(node: Node) -> tuple[str, list[Item]]:
            facts = probe(node.endpoint, list(QUESTIONS.values()), self._timeout, pings=PINGS)
            if facts.failure is not None:
                return str(node.endpoint), [_away(node, facts.failure)]
            seen = Seen(facts)
            usual = [*from_info(seen.replies["INFO"]), *persistence(seen), clock(seen.replies["TIME"], *facts.asked_at)]
            if facts.tls:
                usual.append(certificate(facts.certificate_ends, facts.asked_at[1]))
            more = more_of(seen, slow_s=slow_s, local=is_local(node.endpoint))
            return str(node.endpoint), [Item("role", "ok", node.role), *usual, *more]

        with ThreadPoolExecutor(AT_ONCE) as pool:
            return list(pool.map(look, nodes))

    def topology(self) -> list[Item]:
        """Return what only shows when all servers are looked at together."""
        found = self._shards() if self.clustered else []
        if len(self._others) > NODES_MAX:
            text = f"{NODES_MAX} of {len(self._others)} were looked at"
            found.append(Item("nodes", "unknown", text, "", "run it against the others one by one"))
        return found

    def _shards(self) -> list[Item]:
        reply = self.seen.replies["CLUSTER SHARDS"] if self.seen is not None else None
        if isinstance(reply, ReplyError):
            advice = "grant this user +cluster|shards to have every node looked at"
            return [Item("shards", "unknown", "not permitted", "", advice)]
        shards = [shard for shard in self.shards if shard[b"slots"]]
        sick = [_name(node) for shard in shards for node in shard[b"nodes"] if node[b"health"] != b"online"]
        alone = [_name(shard[b"nodes"][0]) for shard in shards if len(shard[b"nodes"]) == 1]
        replicas = sum(node[b"role"] != b"master" for shard in shards for node in shard[b"nodes"])
        text = f"{len(shards)} primaries, {replicas} replicas"
        if sick:
            advice = f"the others cannot count on {', '.join(sick)}: see whether it runs, and its log"
            return [Item("shards", "degraded", text, "", advice)]
        if alone:
            advice = f"when {', '.join(alone)} goes, its slots go with it: CLUSTER REPLICATE gives it a replica"
            return [Item("shards", "degraded", text, "", advice)]
        return [Item("shards", "ok", text)]


def is_local(endpoint: Endpoint) -> bool:
    """Tell whether the way to *endpoint* leaves no machine."""
    return endpoint.path is not None or endpoint.host.startswith(_LOOPBACK)


def _role(node: dict[bytes, Any], shard: dict[bytes, Any]) -> str:
    """Return what a node is for.  Newer servers list a primary that has failed beside the one that took over."""
    if node[b"role"] != b"master":
        return "replica"
    sound = any(other[b"role"] == b"master" and other[b"health"] == b"online" for other in shard[b"nodes"])
    return "primary" if shard[b"slots"] and (node[b"health"] == b"online" or not sound) else IDLE


def _away(node: Node, failure: Exception) -> Item:
    if node.role == "primary":
        return Item("connection", "down", str(failure), "", "calls on its slots fail: see whether it runs")
    if node.role == IDLE:
        advice = "others serve its slots, with one server less to stand by: start it, or take it out by CLUSTER FORGET"
        return Item("connection", "degraded", str(failure), "", advice)
    advice = "reads from replicas do not reach it from here: see whether it runs, and which address it announces"
    return Item("connection", "degraded", str(failure), "", advice)


def _address(node: dict[bytes, Any], *, tls: bool) -> tuple[str, int]:
    endpoint = (node.get(b"endpoint") or b"").decode()
    host = endpoint if endpoint not in ("", "?") else node[b"ip"].decode()
    ports = [node[name] for name in (b"port", b"tls-port") if name in node]
    return host, int(ports[-1 if tls else 0])


def _name(node: dict[bytes, Any]) -> str:
    host, port = _address(node, tls=False)
    return f"{host}:{port}"
