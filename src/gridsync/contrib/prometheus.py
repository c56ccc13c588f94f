"""`Grid.stats` for Prometheus, for programs without OpenTelemetry; needs the extra ``prometheus``.

::

    from prometheus_client import REGISTRY, start_http_server
    from gridsync.contrib.prometheus import GridCollector

    REGISTRY.register(GridCollector(grid, name="orders"))
    start_http_server(9100)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from prometheus_client.core import Metric

    from gridsync.grid import AsyncGrid, Grid

__all__ = ["GridCollector"]

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
    "repeats_refused": "Failed attempts that the retry budget did not allow to be repeated.",
    "decisions_degraded": "Answers of limiters whose server was away.",
}


class GridCollector:
    """A Prometheus collector over `Grid.stats`; register it with a registry.

    Args:
        grid: What to look at; while an `AsyncGrid` is not open, there is nothing to see.
        name: The value of the label ``grid``, for programs with several.

    Cost: one `Grid.stats` for each scrape, no input or output; safe from the exporter's thread.
    """

    def __init__(self, grid: Grid | AsyncGrid, *, name: str = "") -> None:
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
