"""What is said at the end: throughput, latencies, the checks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from gridsync.cli.demo.events import GateClosed, OrderPlaced, QuarterSettled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.cli.demo.audit import Check, Evidence
    from gridsync.cli.demo.run import Market


@dataclass(frozen=True, slots=True)
class Latency:
    """Half of the samples, and 99 of 100, were at most so long, in milliseconds."""

    name: str
    p50_ms: float
    p99_ms: float
    samples: int

    @classmethod
    def of(cls, name: str, samples_us: Sequence[int]) -> Latency | None:
        """Return the percentiles; ``None`` without samples."""
        if not samples_us:
            return None
        ordered = sorted(samples_us)
        p50, p99 = (ordered[round((len(ordered) - 1) * part)] / 1000 for part in (0.5, 0.99))
        return cls(name, round(p50, 2), round(p99, 2), len(ordered))


@dataclass(frozen=True, slots=True)
class Report:
    """Everything that one run has to say."""

    server: str
    seed: int
    day: str
    seconds: float
    processes: int
    quarters: int
    rates: dict[str, int]
    """What happened, per second."""
    counts: dict[str, int]
    latencies: list[Latency]
    mishaps: dict[str, Any]
    told: list[str]
    """What went wrong on purpose, for people."""
    checks: list[Check]

    @property
    def kept(self) -> bool:
        """Whether every promise was kept."""
        return all(check.kept for check in self.checks)

    def facts(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        facts = asdict(self)
        del facts["told"]
        return {**facts, "ok": self.kept}


def build(market: Market, evidence: Evidence, checks: list[Check]) -> Report:
    """Put it together."""
    placed = {entry.id: entry.time_us for entry in evidence.orders if isinstance(entry.event, OrderPlaced)}
    booked = [entry.time_us - placed[entry.id] for entry in evidence.book if entry.id in placed]
    closed = {e.event.quarter: e.time_us for e in evidence.orders if isinstance(e.event, GateClosed)}
    settled = [
        entry.time_us - closed[entry.event.quarter]
        for entry in evidence.settlements
        if isinstance(entry.event, QuarterSettled) and entry.event.quarter in closed
    ]
    seconds = max(market.elapsed, 0.001)
    appends = len(evidence.orders) + len(evidence.book) + len(evidence.settlements)
    decisions = market.posted + market.denied
    latencies = [
        Latency.of("limiter decision", _samples(market, ("meter", "trader"), "hit_us")),
        Latency.of("event append", _samples(market, ("meter", "trader"), "append_us")),
        Latency.of("lock cycle, waiting included", _samples(market, ("worker",), "cycle_us")),
        Latency.of("order placed to matched", booked),
        Latency.of("gate closed to settled", settled),
    ]
    return Report(
        server=market.server,
        seed=market.seed,
        day=f"{market.calendar[0]} to {market.moment}",
        seconds=round(market.elapsed, 1),
        processes=len(market.children),
        quarters=market.opened,
        rates={
            "orders": round(market.posted / seconds),
            "limiter decisions": round(decisions / seconds),
            "appends": round(appends / seconds),
            "deliveries": round((market.booked + market.again) / seconds),
        },
        counts={
            "orders": market.posted,
            "denied": market.denied,
            "redelivered": market.again,
            "traded_wh": market.wh,
            "traded_nano_eur": market.nano_eur,
        },
        latencies=[latency for latency in latencies if latency is not None],
        mishaps=market.mishaps.facts(),
        told=[str(mishap) for mishap in (market.mishaps.killing, market.mishaps.freezing) if mishap is not None],
        checks=checks,
    )


def _samples(market: Market, roles: tuple[str, ...], name: str) -> list[int]:
    return [sample for role in roles for child in market.of(role) for sample in (child.final or {}).get(name, ())]
