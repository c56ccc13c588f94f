"""What a grid counts about itself, for `Grid.stats` and for OpenTelemetry.

One `Counts` per grid: it travels with the grid's endpoint, so that whatever connects there counts into it.  Only slow
paths count: a connection, a failed attempt, a lease, a handled event; and limiters, by one addition for each decision.
Any other command that succeeds at once counts nothing.
"""

from __future__ import annotations

import weakref
from collections import defaultdict
from dataclasses import dataclass, field, fields
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from gridsync._io import telemetry
from gridsync._io.decided import Decided

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gridsync._io.guard import Guard
    from gridsync._io.wire.mux import MuxWire
    from gridsync._io.wire.pool import Pool


@dataclass(frozen=True, slots=True)
class Stats:
    """What a grid did since it was made, and what it is doing now; a copy that does not change any more.

    Cost: no input or output, a few microseconds.
    """

    connections_open: int = 0
    """Connections that are set up now, those of the watchdog among them."""
    connections_idle: int = 0
    """How many of them nobody uses at this moment; an asyncio connection is idle when nothing is under way on it."""
    connections_opened: int = 0
    """Connections that were set up since the start."""
    connections_reopened: int = 0
    """How many of them took the place of one that broke, or came when the server had been met before."""
    in_flight: int = 0
    """Requests that wait for their reply; for threads, connections in use."""
    line: int = 0
    """Callers that wait for room on a connection, or for a connection."""
    failures: Mapping[str, int] = field(default_factory=lambda: MappingProxyType({}))
    """Attempts that failed, by reason: a code such as ``LOADING``, ``not-applied`` (no connection), or ``ambiguous``
    (sent and not answered).  Most were repeated, and their callers saw nothing of it."""
    leases_kept: int = 0
    """Leases and memberships that the watchdog renews now."""
    leases_lost: int = 0
    """Leases that ended before they were released."""
    locks_acquired: int = 0
    """Leases that were granted."""
    votes_young: int = 0
    """Votes of a `Redlock`'s master that did not count: it was started lately, and may have forgotten leases."""
    events_consumed: int = 0
    """Events that a handler finished and that were acknowledged."""
    events_failed: int = 0
    """Events whose handler raised."""
    ears: int = 0
    """Who listens now: waiters for a wake-up, and holders of a lease older than a moment for its revocation."""
    breakers: Mapping[str, str] = field(default_factory=lambda: MappingProxyType({}))
    """The state of the circuit breaker of each server that was met: ``closed``, ``open`` or ``half-open``."""
    replica_reads: int = 0
    """Reads that a replica answered."""
    replica_fallbacks: int = 0
    """Reads that no replica answered, so that the primary did (``read_from="prefer_replica"``)."""
    servers_away: int = 0
    """Servers that count as away now, so that calls to them fail at once."""
    repeats_refused: int = 0
    """Failed attempts that were not repeated, because the retry budget was used up."""
    decisions_degraded: int = 0
    """Answers of limiters whose server was away, by their ``on_error``."""
    decisions: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What limiters decided, by their name, and then by who and how: ``server.admitted``, ``cache.denied``."""
    findings: tuple[str, ...] = ()
    """What the server lacks of what locks rely on, as found once after the first lease; `Grid.health` tells more."""

    @property
    def ambiguous(self) -> int:
        """Attempts that were sent and not answered: the server may have run them or not."""
        return self.failures.get("ambiguous", 0)

    def to_dict(self) -> dict[str, Any]:
        """Return the same as plain values, for JSON."""
        plain = {each.name: getattr(self, each.name) for each in fields(self)}
        return {
            **plain,
            "failures": dict(self.failures),
            "breakers": dict(self.breakers),
            "decisions": {limiter: dict(decided) for limiter, decided in self.decisions.items()},
            "findings": list(self.findings),
            "ambiguous": self.ambiguous,
        }


class Counts:
    """The counters of one grid, and the connections that it looks at when it is asked."""

    def __init__(self) -> None:
        """Begin at zero."""
        # Incremented without a lock: one addition to a dictionary is one step for the interpreter's own.
        self.totals: defaultdict[tuple[str, str], int] = defaultdict(int)
        self.wires: weakref.WeakSet[MuxWire] = weakref.WeakSet()
        self.pools: weakref.WeakSet[Pool] = weakref.WeakSet()
        self.decided = Decided()
        self.decisions = self.decided.of
        self.groups: dict[tuple[str, int, str], Sequence[int]] = {}
        """What consumers have said of their groups: the last that spoke stands last."""
        self.peers: dict[str, tuple[str, int]] = {}
        """The address and port behind the name of each server, as of the last connection."""
        self.findings: tuple[str, ...] = ()
        """What the audit of the server found."""

    def add(self, what: str, name: str = "") -> None:
        """Count that *what* happened once."""
        self.totals[what, name] += 1

    def tally(self, what: str, name: str = "", value: float = 1.0) -> None:
        """Count it and tell OpenTelemetry, where it listens; see `IO.tally`."""
        self.totals[what, name] += 1
        listener = telemetry.listener
        if listener is not None:
            listener.tally(what, name, value)

    def report(self, who: tuple[str, int, str], facts: Sequence[int] | None) -> None:
        """Keep what a consumer says of its group; see `IO.report`."""
        self.groups.pop(who, None)
        if facts is not None:
            self.groups[who] = facts

    def total(self, what: str) -> int:
        """Return how often *what* happened, whatever its name."""
        return sum(count for (kind, _), count in list(self.totals.items()) if kind == what)

    def stats(self, *, leases: int, ears: int, guard: Guard) -> Stats:
        """Put a copy of everything together; the driver says what it keeps, who listens and what protects it."""
        wires = [wire for wire in list(self.wires) if not wire.closed]
        pools = list(self.pools)
        states = {name: str(state) for name, state in sorted(guard.states().items())}
        failures = {name: count for (what, name), count in sorted(self.totals.items()) if what == "attempt.failed"}
        decisions: dict[str, dict[str, int]] = {}
        for limiter, who, how, number in self.decided:
            decisions.setdefault(limiter, {})[f"{who}.{how}"] = number
        return Stats(
            connections_open=len(wires) + sum(pool.open for pool in pools),
            connections_idle=sum(not wire.load for wire in wires) + sum(pool.idle for pool in pools),
            connections_opened=self.total("connection.opened"),
            connections_reopened=self.total("connection.reopened"),
            in_flight=sum(wire.load for wire in wires) + sum(pool.open - pool.idle for pool in pools),
            line=sum(wire.line for wire in wires) + sum(pool.waiting for pool in pools),
            failures=MappingProxyType(failures),
            leases_kept=leases,
            leases_lost=self.total("lock.lost"),
            locks_acquired=self.total("lock.wait"),
            votes_young=self.total("redlock.young"),
            events_consumed=self.total("stream.consumed"),
            events_failed=self.total("stream.failed"),
            ears=ears,
            breakers=MappingProxyType(states),
            replica_reads=self.total("read.replica"),
            replica_fallbacks=self.total("read.fallback"),
            servers_away=sum(state != "closed" for state in states.values()),
            repeats_refused=guard.budget.refused,
            decisions_degraded=self.total("limit.degraded"),
            decisions=MappingProxyType({limiter: MappingProxyType(each) for limiter, each in decisions.items()}),
            findings=self.findings,
        )
