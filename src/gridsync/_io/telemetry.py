"""OpenTelemetry: spans and metrics of every call, from one wrapper around a driver's `run` and `block`.

Nobody pays who does not listen: the wrapper is put around a driver only when a provider that does something was set
(an SDK's; the API's own do nothing), so that without one `run` is the driver's own method.  Looked for when a grid is
made and whenever one of its connections is set up; so set the provider before you open the grid, as one usually does.

The names are those of the semantic conventions 1.44: for database clients, which are stable, for connections and for
messaging, which may still change; ``gridsync.…`` where there are none.  Metrics only, or spans only, if only one of the
two providers was set; nothing where the context says that instrumentation is suppressed.
"""

from __future__ import annotations

import logging
import time
import weakref
from contextlib import nullcontext
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeAlias

from opentelemetry import context, metrics, trace
from opentelemetry.trace import Link, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from gridsync._io import gauges, messaging
from gridsync._io.scripts import Command, Script
from gridsync._io.wire.faults import ReplyError
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from opentelemetry.metrics import MeterProvider
    from opentelemetry.trace import Span, SpanContext, Tracer, TracerProvider

    from gridsync._io.aio import AsyncIO
    from gridsync._io.counts import Counts
    from gridsync._io.messaging import Message
    from gridsync._io.scripts import Bound, Operation
    from gridsync._io.sync import SyncIO
    from gridsync._io.wire.endpoint import Endpoint

    Call: TypeAlias = Callable[..., Coroutine[Any, Any, Any]]

    Driver: TypeAlias = SyncIO | AsyncIO
    Attributes: TypeAlias = dict[str, str | int]
    Peers: TypeAlias = Mapping[str, tuple[str, int]]

DURATION: Final = "db.client.operation.duration"
BUCKETS: Final = (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)
"""Seconds, as the conventions ask."""
DEFAULT_PORT: Final = 6379
_SUPPRESSED: Final = ("suppress_instrumentation", getattr(context, "_SUPPRESS_INSTRUMENTATION_KEY", ""))
"""Where a context says so: other instrumentations use the first, the SDK's exporters the second."""


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
    "cache.hit": _Tally("count", "{value}", "values that a cache served, and that were fresh"),
    "cache.stale": _Tally("count", "{value}", "values that a cache served past their ttl"),
    "cache.miss": _Tally("count", "{value}", "values that were not in the cache"),
    "cache.load": _Tally("seconds", "s", "what a loader took"),
    "cache.degraded": _Tally("count", "{call}", "questions of caches that the server did not answer"),
    "cache.kept": _Tally("count", "{value}", "values that a cache served from memory while its server was away"),
    "channel.gap": _Tally("count", "{gap}", "gaps that subscribers of channels were given"),
    "limit.wait": _Tally("seconds", "s", "from asking a limiter for a turn to having it"),
    "limit.degraded": _Tally("count", "{decision}", "answers of limiters whose server was away"),
    "lock.wait": _Tally("seconds", "s", "from asking for a lock to holding it"),
    "lock.hold": _Tally("seconds", "s", "from holding a lock to giving it back"),
    "lock.lost": _Tally("count", "{lease}", "leases that ended before they were released"),
    "redlock.young": _Tally("count", "{vote}", "votes of masters that may have forgotten leases in a restart"),
    "lock.timeout": _Tally("count", "{call}", "callers that gave up waiting for a lock"),
    "stream.consumed": _Tally("count", "{event}", "events handled and acknowledged"),
    "stream.failed": _Tally("count", "{event}", "events whose handler raised"),
    "stream.retried": _Tally("count", "{event}", "failed events that were put aside for another attempt"),
    "stream.parked": _Tally("count", "{event}", "the same, with the later events of their stream behind them"),
    "stream.waiting": _Tally("count", "{event}", "events that were put behind an earlier one of their stream"),
    "stream.skipped": _Tally("count", "{event}", "failed events that count as done"),
    "stream.dead": _Tally("count", "{event}", "events that became dead letters"),
    "stream.replayed": _Tally("count", "{event}", "dead letters that were given back to their group"),
    "stream.taken": _Tally("count", "{partition}", "partitions that a member of an ordered group took over"),
    "stream.lost": _Tally("count", "{partition}", "partitions that a member lost before it gave them back"),
    "stream.expired": _Tally("count", "{group}", "groups that retention gave up because they were silent for too long"),
    "stream.full": _Tally("count", "{call}", "appends and commits that were refused because a log is at its cap"),
    "stream.mirrored": _Tally(
        "age", "s", "from the commit of an event to its being in a mirror; the last of each page"
    ),
    "stream.lag": _Tally("age", "s", "from the commit of an event to the start of its handler"),
}
"""Every `IO.tally`; the metric's name is ``gridsync.`` and the key."""

_log = logging.getLogger("gridsync")
_W3C: Final = TraceContextTextMapPropagator()
_span: ContextVar[Span | None] = ContextVar("gridsync-span", default=None)
_followed: ContextVar[str] = ContextVar("gridsync-followed", default="")
_failed: ContextVar[str] = ContextVar("gridsync-failed", default="")
"""Of the event that this task handles: the trace of its last attempt, and of the present one if it failed."""


class Listener:
    """The tracer and the instruments that belong to the providers of the moment."""

    def __init__(self, tracers: TracerProvider | None, meters: MeterProvider | None) -> None:
        """Make the instruments; ``None`` stands for a provider that does nothing."""
        self.providers = (tracers, meters)
        self.tracer = None if tracers is None else tracers.get_tracer("gridsync")
        self.complained = False
        """Whether it was logged that a span could not be made or ended."""
        meter = metrics.NoOpMeter("gridsync") if meters is None else meters.get_meter("gridsync")
        self.duration = meter.create_histogram(
            DURATION, "s", "Duration of database client operations.", explicit_bucket_boundaries_advisory=BUCKETS
        )
        self.attempts = meter.create_counter("gridsync.retry.attempts", "{attempt}", "attempts that failed")
        self.opened = meter.create_counter("gridsync.connection.opened", "{connection}", "connections set up")
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
        self.created = meter.create_histogram(
            "db.client.connection.create_time",
            "s",
            "Setting up a connection.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.waited = meter.create_histogram(
            "db.client.connection.wait_time",
            "s",
            "Waiting for a connection, or for room on it; only of callers that had to.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.timeouts = meter.create_counter(
            "db.client.connection.timeouts", "{timeout}", "Callers that waited in vain for a connection or for room."
        )
        self.renewals = meter.create_counter("gridsync.lease.renewals", "{lease}", "renewals by the watchdog")
        self.messages = meter.create_histogram(
            "messaging.client.operation.duration",
            "s",
            "Sending, receiving or settling.",
            explicit_bucket_boundaries_advisory=BUCKETS,
        )
        self.process = meter.create_histogram(
            "messaging.process.duration", "s", "Handling one event.", explicit_bucket_boundaries_advisory=BUCKETS
        )
        self.sent = meter.create_counter("messaging.client.sent.messages", "{message}", "Events sent.")
        self.consumed = meter.create_counter("messaging.client.consumed.messages", "{message}", "Events received.")
        gauges.install(meter, _drivers)

    def begin(self, tracer: Tracer, title: str, **options: Any) -> Span | None:  # noqa: ANN401 - those of `start_span`
        """Begin a span; ``None`` if a sampler or a span processor raises: the call is worth more than its trace."""
        try:
            return tracer.start_span(title, **options)
        except Exception:  # noqa: BLE001 - logged
            self._complain()
            return None

    def end(self, span: Span) -> None:
        """End a span, whatever a span processor raises: what was done was done."""
        try:
            span.end()
        except Exception:  # noqa: BLE001 - logged
            self._complain()

    def _complain(self) -> None:
        if not self.complained:
            self.complained = True
            _log.exception(
                "OpenTelemetry raised when a span began or ended; calls go on without, and this is said once"
            )

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
            own[name] = _wrap(getattr(dressed, name), dressed.where, driver.counts.peers, listener, role)


def _server(endpoint: Endpoint) -> Attributes:
    about: Attributes = {"db.system.name": "redis", "db.namespace": str(endpoint.db), "server.address": str(endpoint)}
    if endpoint.path is not None:
        about["network.transport"] = "unix"
    else:
        about["server.address"] = endpoint.host
        if endpoint.port != DEFAULT_PORT:
            about["server.port"] = endpoint.port
    return about


def _describe(operation: Operation | Bound, endpoint: Endpoint) -> tuple[str, Attributes]:
    server = _server(endpoint)
    if isinstance(operation, Command):
        return operation.head[0], {**server, "db.operation.name": operation.head[0]}
    about = {"db.operation.name": "EVALSHA", "db.stored_procedure.name": operation.name}
    return f"EVALSHA {operation.name}", {**server, **about}


def _failure(error: BaseException) -> Attributes:
    code = getattr(error, "code", None)
    if code is None and isinstance(error.__cause__, ReplyError):
        code = error.__cause__.code
    if code is not None:
        return {"db.response.status_code": code, "error.type": code}
    return {"error.type": _kind(error)}


def _kind(error: BaseException) -> str:
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _suppressed() -> bool:
    return any(context.get_value(key) for key in _SUPPRESSED)


def _wrap(inner: Call, where: Callable[[Sequence[str]], Endpoint], peers: Peers, listener: Listener, role: str) -> Call:
    tracer, record = listener.tracer, listener.duration.record
    known: dict[tuple[str, str, int], tuple[str, Attributes]] = {}

    def described(operation: Operation | Bound, endpoint: Endpoint) -> tuple[str, Attributes]:
        key = (operation.name, endpoint.path or endpoint.host, endpoint.port)
        found = known.get(key)
        if found is None:
            title, about = _describe(operation, endpoint)
            found = known[key] = (title, about | {"gridsync.role": role} if role else about)
        return found

    async def call(operation: Operation | Bound, keys: Sequence[str], args: Sequence[Any] = (), **options: Any) -> Any:  # noqa: ANN401
        if _suppressed():
            return await inner(operation, keys, args, **options)
        title, about = described(operation, where(keys))
        message = messaging.message(operation, keys, args)
        span = None
        if tracer is not None and message is None:
            span = listener.begin(tracer, title, kind=SpanKind.CLIENT, attributes=about)
        elif tracer is not None and message is not None:
            span = listener.begin(tracer, message.title, kind=message.kind, attributes={**about, **message.about})
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
            spent, failure = time.perf_counter() - started, _failure(error)
            record(spent, {**about, **failure})
            if message is not None:
                _record_message(listener, message, spent, message.messages or 0, {"error.type": failure["error.type"]})
            if span is not None:
                span.set_attributes(failure)
                span.set_status(Status(StatusCode.ERROR, str(error)))
            raise
        else:
            spent = time.perf_counter() - started
            record(spent, about)
            if message is not None:
                ids = messaging.ids(operation, reply)
                count = len(ids) if message.messages is None else message.messages
                _record_message(listener, message, spent, count)
                if span is not None:
                    span.set_attributes(messaging.of_count(ids, count))
        finally:
            _span.set(None)
            if span is not None:
                span.set_attributes(_peer(peers, where, keys))
                listener.end(span)
        return reply

    return call


def _peer(peers: Peers, where: Callable[[Sequence[str]], Endpoint], keys: Sequence[str]) -> Attributes:
    """Return the address where a call ended, which may be at another server than it was begun for."""
    try:
        found = peers.get(str(where(keys)))
    except UsageError:
        return {}  # the grid was closed meanwhile
    return {} if found is None else {"network.peer.address": found[0], "network.peer.port": found[1]}


def _record_message(
    listener: Listener, message: Message, spent: float, count: int, failure: Attributes | None = None
) -> None:
    # Without the consumer's name: there are as many as there are processes.
    about = {name: value for name, value in message.about.items() if name != "messaging.client.id"} | (failure or {})
    listener.messages.record(spent, about)
    if message.kind is SpanKind.PRODUCER:
        listener.sent.add(count, about)
    elif message.messages is None:
        listener.consumed.add(count, about)


def traced() -> tuple[str, str] | None:
    """Return the W3C ``traceparent`` and ``tracestate`` of the span around the caller; ``None`` while nobody traces."""
    if listener is None or listener.tracer is None or _suppressed():
        return None
    here = trace.get_current_span().get_span_context()
    if not here.is_valid:
        return None
    return _parent(here), here.trace_state.to_header()


def _parent(here: SpanContext) -> str:
    return f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}"


def _link(parent: str, state: str | None = None) -> list[Link]:
    """Return a link to the span that a ``traceparent`` names; none if it is nonsense."""
    headers = {"traceparent": parent, "tracestate": state or ""}
    there = trace.get_current_span(_W3C.extract(headers, context.Context())).get_span_context()
    return [Link(there)] if there.is_valid else []


def processing(
    handle: Callable[[Any], Awaitable[None]], store: str, group: str, consumer: str
) -> Callable[[Any], Awaitable[None]]:
    """Return *handle* with a span and a measurement around each event, or itself while nobody listens."""
    if listener is None:
        return handle
    chosen, title = listener, f"process {store}"
    tracer = chosen.tracer
    about = messaging.named("process", "process", store, group)

    async def handle_one(recorded: Any) -> None:  # noqa: ANN401 - an event of the store
        if _suppressed():
            return await handle(recorded)
        started = time.perf_counter()
        failure: Attributes = {}
        one = {**about, "messaging.client.id": consumer, "messaging.message.id": f"{recorded.position}-0"}
        # Not the API's tracer that does nothing: its span would hide the caller's from the handler.
        span = None
        if tracer is not None:
            envelope = recorded.envelope
            links = _link(envelope.traceparent, envelope.tracestate) if envelope.traceparent else []
            if attempt := _followed.get():
                links += _link(attempt)
                _followed.set("")
            span = chosen.begin(tracer, title, kind=SpanKind.CONSUMER, attributes=one, links=links)
        try:
            with nullcontext() if span is None else trace.use_span(span):
                await handle(recorded)
        except BaseException as error:
            failure = {"error.type": _kind(error)}
            if span is not None:
                span.set_attributes(failure)
                _failed.set(_parent(span.get_span_context()))
            raise
        finally:
            if span is not None:
                chosen.end(span)
            chosen.process.record(time.perf_counter() - started, {**about, **failure})
        return None

    return handle_one


def follow(parent: str) -> None:
    """Let the next span of `processing` in this task or thread be linked to *parent*, its event's last attempt."""
    _followed.set(parent)


def failed_trace() -> str:
    """Return the trace of the attempt that has just failed in this task or thread, as `follow` takes it, and forget it.

    Empty if there is none.
    """
    parent = _failed.get()
    _failed.set("")
    _followed.set("")  # if it failed before there was a span to link
    return parent


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


def connected(endpoint: Endpoint, *, again: bool, spent: float, peer: object) -> None:
    """Count a connection that was set up in *spent* seconds; *again* if the server had been met before."""
    counts = endpoint.counts
    counts.add("connection.opened")
    if again:
        counts.add("connection.reopened")
    if isinstance(peer, tuple):  # not that of a unix socket
        counts.peers[str(endpoint)] = (str(peer[0]), int(peer[1]))
    look()
    if listener is not None:
        listener.opened.add(1, {"server.address": str(endpoint), "gridsync.reopened": again})
        listener.created.record(spent, _pool(endpoint))


def waited(endpoint: Endpoint, spent: float, *, in_vain: int = 0) -> None:
    """Tell that a caller waited for a connection or for room on it, or that some waited *in_vain*."""
    if listener is None:
        return
    if in_vain:
        listener.timeouts.add(in_vain, _pool(endpoint))
    else:
        listener.waited.record(spent, _pool(endpoint))


def renewed(endpoint: Endpoint, operations: Sequence[Operation], spent: float, error: Exception | None) -> None:
    """Tell of a batch of renewals by the watchdog, which has no spans; what is no script renews nothing."""
    if listener is None:
        return
    scripts = [operation for operation in operations if isinstance(operation, Script)]
    if not scripts:
        return
    names = {script.name for script in scripts}
    about = _server(endpoint) | {"db.operation.name": "EVALSHA" if len(scripts) == 1 else "PIPELINE EVALSHA"}
    if len(names) == 1:
        about["db.stored_procedure.name"] = names.pop()
    failure = {} if error is None else _failure(error)
    listener.duration.record(spent, {**about, **failure})
    listener.renewals.add(len(scripts), {"gridsync.outcome": "answered" if error is None else "failed"})


def _pool(endpoint: Endpoint) -> dict[str, str]:
    return {"db.client.connection.pool.name": gauges.pool_name(endpoint)}
