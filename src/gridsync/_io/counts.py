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

from gridsync._io import gauges, spread, telemetry
from gridsync._io.copies import FIGURES
from gridsync._io.decided import Decided

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from gridsync._io import Reporting
    from gridsync._io.copies import Copies
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
    groups: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What consumers of this grid were told of their groups at their last housekeeping, by ``store/group``: ``lag``,
    ``pending``, ``oldest`` (seconds), ``parked``, ``waiting`` and ``dead``."""
    outboxes: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What relays of this grid were told of their outboxes, by ``store/target``: ``waiting`` (consignments), ``events``
    and ``oldest`` (seconds)."""
    mirrors: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What replicators of the stores of this grid saw last, by store: ``lag`` (events) and ``oldest``
    (seconds)."""
    near: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What near caches of this grid did, by the cache's name: the first fields of `NearStats`."""
    requests: int = 0
    """Requests that were answered by servers, about: those of the watchdog and repeats among them."""
    tallies: Mapping[str, Mapping[str, int]] = field(default_factory=lambda: MappingProxyType({}))
    """What happened how often, by the name of OpenTelemetry's counter without ``gridsync.`` and then by its name: a
    cache, a store and group, a server; nothing where there are too many, such as locks."""
    durations: Mapping[str, Mapping[str, tuple[float, ...]]] = field(default_factory=lambda: MappingProxyType({}))
    """How long things took, for Prometheus' histograms; empty unless a `GridCollector` was made in this process."""
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
            "groups": {name: dict(facts) for name, facts in self.groups.items()},
            "outboxes": {name: dict(facts) for name, facts in self.outboxes.items()},
            "mirrors": {name: dict(facts) for name, facts in self.mirrors.items()},
            "near": {name: dict(facts) for name, facts in self.near.items()},
            "tallies": {what: dict(names) for what, names in self.tallies.items()},
            "durations": {what: {name: list(each) for name, each in of.items()} for what, of in self.durations.items()},
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
        self.decided: Decided = Decided()
        self.decisions: Callable[[str], list[int]] = self.decided.of
        self.spread: spread.Spread = spread.Spread()
        self._answered = self._requests = 0
        self.reports: dict[str, dict[tuple[str, int, str], Sequence[int]]] = {"group": {}, "outbox": {}, "mirror": {}}
        """What consumers have said of their groups, and relays of their outboxes: the last that spoke stands last."""
        self.peers: dict[str, tuple[str, int]] = {}
        """The address and port behind the name of each server, as of the last connection."""
        self.findings: tuple[str, ...] = ()
        """What the audit of the server found."""

    def add(self, what: str, name: str = "") -> None:
        """Count that *what* happened once."""
        self.totals[what, name] += 1

    def tally(self, what: str, name: str = "", value: float = 1.0) -> None:
        """Count it and tell OpenTelemetry, where it listens; see `IO.tally`."""
        if name and len(self.totals) >= spread.NAMES_MAX and (what, name) not in self.totals:
            name = "..."  # there may be a limiter for each user
        self.totals[what, name] += 1
        if spread.wanted and (kind := telemetry.TALLIES[what].kind) != "count":
            self.spread.add(what, name, value, age=kind == "age")
        listener = telemetry.listener
        if listener is not None:
            listener.tally(what, name, value)

    def report(self, what: Reporting, who: tuple[str, int, str], facts: Sequence[int] | None) -> None:
        """Keep what a consumer says of its group, a relay of its outbox, or a replicator; see `IO.report`."""
        kept = self.reports[what]
        kept.pop(who, None)
        if facts is not None:
            kept[who] = facts

    def total(self, what: str) -> int:
        """Return how often *what* happened, whatever its name."""
        return sum(count for (kind, _), count in list(self.totals.items()) if kind == what)

    def answered(self, now: int) -> int:
        """Return how many requests were answered in all, of *now* by the servers that are there: it only grows."""
        self._requests += max(0, now - self._answered)
        self._answered = now
        return self._requests

    def stats(self, *, leases: int, ears: int, guard: Guard, copies: Iterable[Copies]) -> Stats:
        """Put a copy of everything together; the driver says what it keeps, who listens and what protects it."""
        wires = [wire for wire in list(self.wires) if not wire.closed]
        pools = list(self.pools)
        states = {name: str(state) for name, state in sorted(guard.states().items())}
        failures = {name: count for (what, name), count in sorted(self.totals.items()) if what == "attempt.failed"}
        tallies: dict[str, dict[str, int]] = {}
        for (what, name), count in sorted(self.totals.items()):
            if what in telemetry.TALLIES and telemetry.TALLIES[what].kind == "count":
                tallies.setdefault(what, {})[name] = count
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
            decisions=_frozen(decisions),
            groups=_frozen(gauges.reported(self, "group")),
            outboxes=_frozen(gauges.reported(self, "outbox")),
            mirrors=_frozen(gauges.reported(self, "mirror")),
            near=_frozen({each.name: dict(zip(FIGURES, each.figures, strict=True)) for each in copies}),
            requests=self.answered(guard.answered()),
            tallies=_frozen(tallies),
            durations=MappingProxyType(dict(self.spread.told())),
            findings=self.findings,
        )


def _frozen(of_each: dict[str, dict[str, int]]) -> Mapping[str, Mapping[str, int]]:
    return MappingProxyType({name: MappingProxyType(each) for name, each in of_each.items()})
