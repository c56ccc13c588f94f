"""OpenTelemetry: spans and metrics of every call, from one wrapper around a driver's `run` and `block`.

Nobody pays who does not listen: the wrapper is put around a driver only when a provider that does something was set
(an SDK's; the API's own do nothing), so that without one `run` is the driver's own method.  Looked for when a grid is
made and whenever one of its connections is set up; so set the provider before you open the grid, as one usually does.

The names are those of the semantic conventions 1.44 for database clients, which are stable; ``gridsync.…`` where there
are none.  Metrics only, or spans only, if only one of the two providers was set.
"""

from __future__ import annotations

import time
import weakref
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from opentelemetry import metrics, trace
from opentelemetry.metrics import Observation
from opentelemetry.trace import SpanKind, Status, StatusCode

from gridsync._io.scripts import Script
from gridsync._io.wire.faults import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterable, Sequence

    from opentelemetry.metrics import CallbackOptions, MeterProvider
    from opentelemetry.trace import Span, TracerProvider

    from gridsync._io import Arg
    from gridsync._io.aio import AsyncIO
    from gridsync._io.counts import Counts
    from gridsync._io.scripts import Operation
    from gridsync._io.sync import SyncIO
    from gridsync._io.wire.endpoint import Endpoint

    Call: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

    Driver: TypeAlias = SyncIO | AsyncIO
    Attributes: TypeAlias = dict[str, str | int]

DURATION: Final = "db.client.operation.duration"
BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Seconds, as the conventions ask."""
DEFAULT_PORT: Final = 6379
_LIMITS: Final = frozenset({"limits.hit", "limits.hit_one"})


class _Tally(NamedTuple):
    """What becomes of an `IO.tally`."""

    kind: str
    """``count``, ``seconds``, or ``age``: the value is when it began, in microseconds of the server's clock."""
    unit: str
    description: str


TALLIES: Final = {
    "breaker.open": _Tally("count", "{change}", "breakers that opened: a server counts as away"),
    "breaker.half-open": _Tally("count", "{change}", "breakers that let a probe pass"),
    "breaker.closed": _Tally("count", "{change}", "breakers that closed again"),
    "read.fallback": _Tally("count", "{call}", "reads that no replica answered, so that the primary did"),
    "limit.degraded": _Tally("count", "{decision}", "answers of limiters whose server was away"),
    "lock.wait": _Tally("seconds", "s", "from asking for a lock to holding it"),
    "lock.hold": _Tally("seconds", "s", "from holding a lock to giving it back"),
    "lock.lost": _Tally("count", "{lease}", "leases that ended before they were released"),
    "lock.timeout": _Tally("count", "{call}", "callers that gave up waiting for a lock"),
    "stream.consumed": _Tally("count", "{event}", "events handled and acknowledged"),
    "stream.failed": _Tally("count", "{event}", "events whose handler raised"),
    "stream.lag": _Tally("age", "s", "from the commit of an event to the start of its handler"),
}
"""Every `IO.tally`; the metric's name is ``gridsync.`` and the key."""

_span: ContextVar[Span | None] = ContextVar("gridsync-span", default=None)


class Listener:
    """The tracer and the instruments that belong to the providers of the moment."""

    def __init__(self, tracers: TracerProvider | None, meters: MeterProvider | None) -> None:
        """Make the instruments; ``None`` stands for a provider that does nothing."""
        self.providers = (tracers, meters)
        self.tracer = None if tracers is None else tracers.get_tracer("gridsync")
        meter = metrics.NoOpMeter("gridsync") if meters is None else meters.get_meter("gridsync")
        self.duration = meter.create_histogram(
            DURATION, "s", "Duration of database client operations.", explicit_bucket_boundaries_advisory=BUCKETS
        )
        self.attempts = meter.create_counter("gridsync.retry.attempts", "{attempt}", "attempts that failed")
        self.opened = meter.create_counter("gridsync.connection.opened", "{connection}", "connections set up")
        self.decisions = meter.create_counter("gridsync.limit.decisions", "{decision}", "answers of limiters")
        self._histograms = {
            what: meter.create_histogram(f"gridsync.{what}", each.unit, each.description)
            for what, each in TALLIES.items()
            if each.kind != "count"
        }
        self._counters = {
            what: meter.create_counter(f"gridsync.{what}", each.unit, each.description)
            for what, each in TALLIES.items()
            if each.kind == "count"
        }
        for name, unit, field in (
            ("gridsync.inflight", "{request}", "in_flight"),
            ("gridsync.connection.open", "{connection}", "connections_open"),
            ("gridsync.lease.kept", "{lease}", "leases_kept"),
        ):
            meter.create_observable_gauge(name, [_observer(field)], unit, "of all grids of this process, now")

    def tally(self, what: str, name: str, value: float) -> None:
        """Record an `IO.tally`."""
        attributes = {"gridsync.name": name} if name else None
        kind = TALLIES[what].kind
        if kind == "count":
            self._counters[what].add(1, attributes)
        elif kind == "seconds":
            self._histograms[what].record(value, attributes)
        else:
            self._histograms[what].record(max(0.0, time.time() - value / 1_000_000), attributes)


def _observer(field: str) -> Callable[[CallbackOptions], Iterable[Observation]]:
    def observe(options: CallbackOptions) -> Iterable[Observation]:  # noqa: ARG001 - there is nothing to choose
        return [Observation(sum(getattr(driver.stats(), field) for driver in list(_drivers)))]

    return observe


listener: Listener | None = None
"""``None`` while nobody listens."""
_drivers: weakref.WeakSet[Driver] = weakref.WeakSet()


def watch(driver: Driver) -> None:
    """Put the wrapper around *driver* if somebody listens, and whenever somebody begins to."""
    _drivers.add(driver)
    look()
    _dress(driver)


def look() -> None:
    """See which providers are set now; if they changed, dress every driver anew."""
    global listener  # noqa: PLW0603 - there is one pair of providers in a process
    found = (_active(trace.get_tracer_provider()), _active(metrics.get_meter_provider()))
    if found == (None, None) if listener is None else found == listener.providers:
        return
    listener = None if found == (None, None) else Listener(*found)
    for driver in list(_drivers):
        _dress(driver)


def _active(provider: Any) -> Any:  # noqa: ANN401 - either kind
    # The API's own providers, its proxies among them, do nothing.
    return None if type(provider).__module__.startswith(("opentelemetry.trace", "opentelemetry.metrics")) else provider


def _dress(driver: Driver) -> None:
    for dressed, name in ((driver, "run"), (driver, "block"), (driver.reads, "run")):
        own = dressed.__dict__
        own.pop(name, None)  # an attribute of the instance hides the method of its class
        if listener is not None:
            role = "replica" if dressed is driver.reads else ""
            own[name] = _wrap(getattr(dressed, name), dressed.where, listener, role)


def _server(endpoint: Endpoint) -> Attributes:
    about: Attributes = {"db.system.name": "redis", "db.namespace": str(endpoint.db), "server.address": str(endpoint)}
    if endpoint.path is not None:
        about["network.transport"] = "unix"
    else:
        about["server.address"] = endpoint.host
        if endpoint.port != DEFAULT_PORT:
            about["server.port"] = endpoint.port
    return about


def _describe(operation: Operation, endpoint: Endpoint) -> tuple[str, Attributes]:
    server = _server(endpoint)
    if isinstance(operation, Script):
        about = {"db.operation.name": "EVALSHA", "db.stored_procedure.name": operation.name}
        return f"EVALSHA {operation.name}", {**server, **about}
    return operation.head[0], {**server, "db.operation.name": operation.head[0]}


def _failure(error: BaseException) -> Attributes:
    code = getattr(error, "code", None)
    if code is None and isinstance(error.__cause__, ReplyError):
        code = error.__cause__.code
    if code is not None:
        return {"db.response.status_code": code, "error.type": code}
    kind = type(error)
    return {
        "error.type": kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
    }


def _wrap(inner: Call, where: Callable[[Sequence[str]], Endpoint], listener: Listener, role: str) -> Call:
    tracer, record = listener.tracer, listener.duration.record
    known: dict[tuple[str, str, int], tuple[str, Attributes]] = {}

    def described(operation: Operation, endpoint: Endpoint) -> tuple[str, Attributes]:
        key = (operation.name, endpoint.path or endpoint.host, endpoint.port)
        found = known.get(key)
        if found is None:
            title, about = _describe(operation, endpoint)
            found = known[key] = (title, about | {"gridsync.role": role} if role else about)
        return found

    async def call(operation: Operation, keys: Sequence[str], args: Sequence[Arg] = (), **options: Any) -> Any:  # noqa: ANN401
        title, about = described(operation, where(keys))
        span = None if tracer is None else tracer.start_span(title, kind=SpanKind.CLIENT, attributes=about)
        _span.set(span)
        started = time.perf_counter()
        try:
            reply = await inner(operation, keys, args, **options)
            if role:
                # Which replica it is was perhaps not known before.
                _, about = described(operation, where(keys))
                if span is not None:
                    span.set_attributes(about)
        except BaseException as error:
            failure = _failure(error)
            record(time.perf_counter() - started, {**about, **failure})
            if span is not None:
                span.set_attributes(failure)
                span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        finally:
            _span.set(None)
            if span is not None:
                span.end()
        record(time.perf_counter() - started, about)
        if operation.name in _LIMITS:
            listener.decisions.add(1, _decision(keys[0], reply))
        return reply

    return call


def _decision(key: str, verdict: Sequence[int]) -> Attributes:
    # The key is {namespace:limit:limiter:subject}, colons in the first three escaped: `keys.limit`.
    outcome = "admitted" if verdict[0] == 0 else "never" if verdict[0] < 0 else "denied"
    return {"gridsync.name": key.split(":", 3)[2], "gridsync.outcome": outcome}


def failed(counts: Counts, operation: Operation, error: Exception) -> None:
    """Count a failed attempt of *operation*, and note it in the span of the call."""
    reason = getattr(error, "code", None) or ("ambiguous" if getattr(error, "ambiguous", False) else "not-applied")
    counts.add("attempt.failed", reason)
    if listener is not None:
        about = {"gridsync.category": str(operation.category), "gridsync.reason": reason}
        listener.attempts.add(1, {"gridsync.operation": operation.name, **about})
        span = _span.get()
        if span is not None:
            span.add_event("gridsync.attempt.failed", {**about, "exception.message": str(error)})


def connected(endpoint: Endpoint, *, again: bool) -> None:
    """Count a connection that was set up; *again* if the server had been met before."""
    endpoint.counts.add("connection.opened")
    if again:
        endpoint.counts.add("connection.reopened")
    look()
    if listener is not None:
        listener.opened.add(1, {"server.address": str(endpoint), "gridsync.reopened": again})
