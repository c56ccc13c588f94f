"""Counters of what goes wrong, through the OpenTelemetry API; nothing here runs on a call that succeeds at once.

Instruments are made on first use.  Without an SDK the API's own no-op instruments cost a fraction of a microsecond.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING

from opentelemetry import metrics

if TYPE_CHECKING:
    from opentelemetry.metrics import Counter

    from gridsync._io.scripts import Operation


@cache
def _counter(name: str, description: str) -> Counter:
    return metrics.get_meter("gridsync").create_counter(name, unit="1", description=description)


def repeated(operation: Operation, error: Exception) -> None:
    """Count a failed attempt of *operation*."""
    kind = getattr(error, "code", None) or ("ambiguous" if getattr(error, "ambiguous", False) else "not-applied")
    _counter("gridsync.retry.attempts", "attempts that failed and were judged by the retry layer").add(
        1, {"gridsync.operation": operation.name, "gridsync.category": str(operation.category), "gridsync.reason": kind}
    )


def connected(endpoint: str) -> None:
    """Count a connection that was set up."""
    _counter("gridsync.connection.opened", "connections that were set up").add(1, {"server.address": endpoint})


def lost(wing: str) -> None:
    """Count a lease that ended before it was released."""
    _counter("gridsync.lease.lost", "leases that ended before their release").add(1, {"gridsync.wing": wing})
