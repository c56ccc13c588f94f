"""An OpenTelemetry SDK that keeps everything in memory, for one test."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from gridsync._io import telemetry
from gridsync.testing.proxy import FaultProxy

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer


class Sdk:
    """Both providers.  `listen` sets them as a program would, but so that it can be undone."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._monkeypatch = monkeypatch
        self._exporter = InMemorySpanExporter()
        self._reader = InMemoryMetricReader()
        self.tracers = TracerProvider()
        self.tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        self.meters = MeterProvider([self._reader])

    def listen(self, *, spans: bool = True, measures: bool = True) -> None:
        """Set the providers."""
        if spans:
            self._monkeypatch.setattr(trace, "get_tracer_provider", lambda: self.tracers)
        if measures:
            self._monkeypatch.setattr(metrics, "get_meter_provider", lambda: self.meters)

    def spans(self, name: str) -> list[ReadableSpan]:
        """Return the finished spans of that name, in order."""
        return [span for span in self._exporter.get_finished_spans() if span.name == name]

    def points(self, name: str) -> list[Any]:
        """Return the data points of a metric; empty if there is none."""
        data = self._reader.get_metrics_data()
        return [
            point
            for resource in (data.resource_metrics if data is not None else ())
            for scope in resource.scope_metrics
            for metric in scope.metrics
            if metric.name == name
            for point in metric.data.data_points
        ]

    def units(self) -> dict[str, str]:
        """Return the unit of every metric."""
        data = self._reader.get_metrics_data()
        assert data is not None
        return {
            metric.name: metric.unit
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }


@pytest.fixture
def sdk() -> Iterator[Sdk]:
    """An SDK that nobody has set yet; `Sdk.listen` sets it."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        made = Sdk(monkeypatch)
        yield made
    telemetry.look()
    made.tracers.shutdown()
    made.meters.shutdown()


@pytest.fixture
def proxy(flushed: RedisServer) -> Iterator[FaultProxy]:
    """A proxy in front of the server, which is empty."""
    with FaultProxy(flushed.url) as running:
        yield running
