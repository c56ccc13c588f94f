"""`Grid.stats` and event stores for Prometheus, for programs without OpenTelemetry; needs the extra ``prometheus``.

::

    from prometheus_client import REGISTRY, start_http_server
    from gridsync.contrib.prometheus import GridCollector, StoreCollector

    REGISTRY.register(GridCollector(grid, name="orders"))
    REGISTRY.register(StoreCollector(orders, bills))
    start_http_server(9100)                     # a thread of its own
    app.mount("/metrics", metrics_app())        # or inside an ASGI application
"""

from __future__ import annotations

from itertools import accumulate
from typing import TYPE_CHECKING, Final

from gridsync._io import spread
from gridsync._io.telemetry import TALLIES
from gridsync.contrib._extra import extra
from gridsync.errors import UsageError

with extra("prometheus"):
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    from gridsync.contrib._families import GROUP, OUTBOX, gauges
    from gridsync.contrib._metrics import metrics_app
    from gridsync.contrib._stores import StoreCollector

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gridsync._io.counts import Stats
    from gridsync.grid import AsyncGrid, Grid

__all__ = ["GridCollector", "StoreCollector", "metrics_app"]

_NOW: Final = {
    "connections_open": "Connections that are set up now.",
    "connections_idle": "Connections that nobody uses now.",
    "in_flight": "Requests that wait for their reply now.",
    "line": "Callers that wait for room or for a connection now.",
    "leases_kept": "Leases and memberships that are renewed now.",
    "ears": "Waiters that listen for a wake-up now.",
    "servers_away": "Servers that count as away now, so that calls to them fail at once.",
}
_SINCE_START: Final = {
    "connections_opened": "Connections that were set up.",
    "connections_reopened": "Connections that were set up anew.",
    "leases_lost": "Leases that ended before they were released.",
    "locks_acquired": "Leases that were granted.",
    "events_consumed": "Events that were handled and acknowledged.",
    "events_failed": "Events whose handler raised.",
    "replica_reads": "Reads that a replica answered.",
    "replica_fallbacks": "Reads that no replica answered, so that the primary did.",
    "requests": "Requests that servers answered.",
    "repeats_refused": "Failed attempts that the retry budget did not allow to be repeated.",
    "decisions_degraded": "Answers of limiters whose server was away.",
}
_MIRROR: Final = {
    "lag": "Events of a store that have not crossed to its mirror yet.",
    "oldest": "Seconds since the commit of the oldest of them; 0 if all have.",
}
_NEAR: Final = {
    "hits": "Values that were served from copies of this process.",
    "misses": "Values that a near cache asked its server for.",
    "invalidations": "Copies that were dropped because their value, or a tag of it, was changed.",
    "evictions": "Copies that were dropped because there were too many.",
    "drops": "Lost connections, with which all that was read there went.",
}


class GridCollector:
    """A Prometheus collector over `Grid.stats`; register it with a registry.

    Args:
        grid: What to look at; while an `AsyncGrid` is not open, there is nothing to see.
        name: The value of the label ``grid``, for programs with several.

    How long waits, holds, loads and lags take is kept from when the first collector of the process is made: make it
    before the work begins.

    Cost: one `Grid.stats` for each scrape, no input or output; safe from the exporter's thread.  A wait, a hold, a load
    and a handled event cost a microsecond more from then on; a request, nothing.
    """

    def __init__(self, grid: Grid | AsyncGrid, *, name: str = "") -> None:
        spread.want()
        self._grid = grid
        self._name = name

    def describe(self) -> Iterator[Metric]:
        """Describe nothing, so that registering does not look at the grid."""
        return iter(())

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics, once for each scrape."""
        try:
            stats = self._grid.stats()
        except UsageError:
            return  # not open
        for field, text in _NOW.items():
            gauge = GaugeMetricFamily(f"gridsync_{field}", text, labels=["grid"])
            gauge.add_metric([self._name], getattr(stats, field))
            yield gauge
        for field, text in _SINCE_START.items():
            counter = CounterMetricFamily(f"gridsync_{field}", text, labels=["grid"])
            counter.add_metric([self._name], getattr(stats, field))
            yield counter
        failures = CounterMetricFamily("gridsync_attempts_failed", "Attempts that failed.", labels=["grid", "reason"])
        for reason, count in stats.failures.items():
            failures.add_metric([self._name, reason], count)
        yield failures
        states = GaugeMetricFamily(
            "gridsync_breaker", "The state of each server's circuit breaker.", labels=["grid", "server", "state"]
        )
        for server, state in stats.breakers.items():
            states.add_metric([self._name, server, state], 1)
        yield states
        decided = CounterMetricFamily(
            "gridsync_limit_decisions", "Answers of limiters.", labels=["grid", "limiter", "source", "outcome"]
        )
        for limiter, decisions in stats.decisions.items():
            for how, number in decisions.items():
                decided.add_metric([self._name, limiter, *how.split(".")], number)
        yield decided
        reports = (
            ("group", GROUP, stats.groups),
            ("outbox", OUTBOX, stats.outboxes),
            ("mirror", _MIRROR, stats.mirrors),
        )
        for what, texts, told in reports:
            yield from gauges(what, ("grid", "name"), texts, [((self._name, name), told[name]) for name in told])
        yield from self._tallied(stats)

    def _tallied(self, stats: Stats) -> Iterator[Metric]:
        """Yield what OpenTelemetry is told by `IO.tally` and by near caches, under the same names."""
        for what, each in TALLIES.items():
            title, text = f"gridsync_{what.replace('.', '_').replace('-', '_')}", each.description.capitalize() + "."
            if each.kind == "count":
                # The one without a name is always there: a counter that comes into being at 1 has never increased.
                counter = CounterMetricFamily(title, text, labels=["grid", "name"])
                for name, count in ({"": 0} | dict(stats.tallies.get(what, {}))).items():
                    counter.add_metric([self._name, name], count)
                yield counter
                continue
            took = HistogramMetricFamily(f"{title}_seconds", text, labels=["grid", "name"])
            for name, (*counts, total) in stats.durations.get(what, {}).items():
                sums = accumulate(int(count) for count in counts)
                bounds = [*(str(bound) for bound in spread.BOUNDS), "+Inf"]
                took.add_metric([self._name, name], list(zip(bounds, sums, strict=True)), total)
            yield took
        for figure, text in _NEAR.items():
            counter = CounterMetricFamily(f"gridsync_cache_near_{figure}", text, labels=["grid", "name"])
            for name, figures in stats.near.items():
                counter.add_metric([self._name, name], figures[figure])
            yield counter
