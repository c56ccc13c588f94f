"""What OpenTelemetry sees of a grid, and that nobody pays who does not listen."""

from __future__ import annotations

import gc
import logging
import re
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import context
from opentelemetry.sdk.trace import SpanProcessor
from opentelemetry.trace import SpanKind, StatusCode
from pydantic import BaseModel

from gridsync import Grid, LockTimeout, ServerError
from gridsync._io import telemetry
from gridsync._io.aio import AsyncIO
from gridsync._io.sync import SyncIO
from gridsync.cache import Near, Space
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.servers import RedisServer, server_kinds
from tests.sentinel.conftest import follow
from tests.sentinel.helpers import FakeSentinel
from tests.streams.models import LATER
from tests.wire.fake import until
from tests.wire.world import done, opened

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.trace import ReadableSpan, Span

    from tests.telemetry.conftest import Sdk

pytestmark = pytest.mark.any_server

KINDS = pytest.mark.parametrize("kind", ["sync", "asyncio"])
LOCK = "EVALSHA locks.acquire"
PEEK = "EVALSHA limits.peek"


class Ordered(BaseModel):
    """An event."""

    amount: int


class Broken(SpanProcessor):
    """A span processor that raises, as a plug-in of somebody else may."""

    def on_start(self, span: Span, parent_context: Context | None = None) -> None:  # noqa: ARG002 - the SDK's
        if span.name == LOCK:
            raise ZeroDivisionError

    def on_end(self, span: ReadableSpan) -> None:  # noqa: ARG002 - the SDK's
        raise ZeroDivisionError


@KINDS
async def test_a_span_processor_that_raises_costs_its_spans_and_no_call(
    kind: str, flushed: RedisServer, sdk: Sdk, caplog: pytest.LogCaptureFixture
):
    """The lock was granted, its caller got the exception, and nobody could give it back."""
    sdk.tracers.add_span_processor(Broken())
    sdk.listen()
    handled: list[int] = []

    async def handle(recorded: Any) -> None:  # noqa: ANN401 - an event of the store
        handled.append(recorded.position)

    recorded = SimpleNamespace(position=1, envelope=SimpleNamespace(traceparent=None))
    with caplog.at_level(logging.ERROR, "gridsync"):
        async with opened(kind, flushed.url) as grid:
            for _ in range(3):
                lease = await done(grid.lock("job").acquire())
                assert await done(lease.release())
            await telemetry.processing(handle, "store", "group", "consumer")(recorded)
    assert handled == [1]
    assert [record.message.partition(" raised")[0] for record in caplog.records] == ["OpenTelemetry"], "said once"


@KINDS
async def test_a_call_is_one_client_span_and_one_measurement(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        lease = await done(grid.lock("job").acquire())
        await done(lease.release())
    (span,) = sdk.spans(LOCK)
    about = {
        "db.system.name": "redis",
        "db.namespace": "0",
        "db.operation.name": "EVALSHA",
        "db.stored_procedure.name": "locks.acquire",
        "server.address": flushed.host,
        "server.port": flushed.port,
    }
    assert span.kind is SpanKind.CLIENT
    assert span.status.status_code is StatusCode.UNSET
    peer = {"network.peer.address": "127.0.0.1", "network.peer.port": flushed.port}
    assert dict(span.attributes or {}) == about | peer
    (point,) = (
        point
        for point in sdk.points("db.client.operation.duration")
        if point.attributes["db.stored_procedure.name"] == "locks.acquire"
    )
    assert dict(point.attributes) == about
    assert point.count == 1
    assert 0 < point.sum < 10
    assert point.explicit_bounds == (0.001, 0.005, 0.01, 0.05, 0.1, 0.5, 1, 5, 10)


@KINDS
async def test_a_call_belongs_to_the_span_of_its_caller(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        with sdk.tracers.get_tracer("caller").start_as_current_span("order") as outer:
            await done(grid.limiter("orders", "5/second").hit("me"))
    (span,) = sdk.spans("EVALSHA limits.hit_one")
    assert span.parent is not None
    assert span.parent.span_id == outer.get_span_context().span_id


@KINDS
async def test_a_repeat_is_an_event_of_the_one_span(kind: str, flushed: RedisServer, proxy: FaultProxy, sdk: Sdk):
    """Two attempts of one call must not look like two calls."""
    sdk.listen()
    flushed.command("SCRIPT", "FLUSH")
    async with opened(kind, proxy.url) as grid:
        await done(grid.lock("warm").try_acquire())
        proxy.on(Break.REPLY, "EVALSHA")
        await done(grid.lock("job").acquire())
        assert grid.stats().ambiguous == 1
        assert grid.stats().connections_reopened >= 1
    first, second = sdk.spans(LOCK)
    assert [event.name for event in first.events] == ["gridsync.attempt.failed"]
    (event,) = second.events
    assert dict(event.attributes or {})["gridsync.reason"] == "ambiguous"
    assert second.status.status_code is StatusCode.UNSET
    reasons = {
        point.attributes["gridsync.reason"]: point.value
        for point in sdk.points("gridsync.retry.attempts")
        if point.attributes["gridsync.operation"] == "locks.acquire"
    }
    assert reasons == {"NOSCRIPT": 1, "ambiguous": 1}
    assert sum(p.value for p in sdk.points("gridsync.connection.opened") if p.attributes["gridsync.reopened"]) >= 1


@KINDS
async def test_a_name_is_shown_with_the_address_behind_it(kind: str, flushed: RedisServer, sdk: Sdk):
    """Which of the machines behind a name it was, is what one asks when only some calls are slow."""
    sdk.listen()
    async with opened(kind, flushed.url.replace("127.0.0.1", "localhost")) as grid:
        await done(grid.limiter("orders", "5/second").peek("me"))
    attributes = sdk.spans("EVALSHA limits.peek")[0].attributes or {}
    assert attributes["server.address"] == "localhost"
    assert attributes["network.peer.address"] in {"127.0.0.1", "::1"}
    assert attributes["network.peer.port"] == flushed.port


@KINDS
@pytest.mark.parametrize("key", telemetry._SUPPRESSED, ids=["old", "new"])
async def test_nothing_is_recorded_where_instrumentation_is_suppressed(
    kind: str, key: str, flushed: RedisServer, sdk: Sdk
):
    """As exporters do around their own requests, and other instrumentations around what they have recorded already."""
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        token = context.attach(context.set_value(key, True))  # noqa: FBT003
        await done(grid.limiter("orders", "5/second").hit("me"))
        context.detach(token)
        assert sdk.spans("EVALSHA limits.hit_one") == []
        assert sdk.points("db.client.operation.duration") == []
        await done(grid.limiter("orders", "5/second").hit("me"))
        assert len(sdk.spans("EVALSHA limits.hit_one")) == 1


@KINDS
async def test_an_error_reply_names_its_code(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    flushed.command("SET", "{gridsync:lock:job}", "no hash", "PX", 5000)
    async with opened(kind, flushed.url) as grid:
        with pytest.raises(ServerError):
            await done(grid.lock("job").acquire())
    (span,) = sdk.spans(LOCK)
    assert span.status.status_code is StatusCode.ERROR
    attributes = span.attributes or {}
    assert attributes["db.response.status_code"] == attributes["error.type"] == "WRONGTYPE"
    failed = [p for p in sdk.points("db.client.operation.duration") if "error.type" in p.attributes]
    assert [p.attributes["error.type"] for p in failed] == ["WRONGTYPE"]


@KINDS
async def test_a_server_that_is_away_is_an_error_with_the_name_of_the_exception(kind: str, sdk: Sdk):
    sdk.listen()
    with RedisServer() as server:
        async with opened(kind, server.url) as grid:
            server.stop()
            with pytest.raises(Exception, match="no success"):
                await done(grid.limiter("orders", "5/second").peek("me"))
    (span,) = sdk.spans(PEEK)
    assert (span.attributes or {})["error.type"] == "gridsync.errors.Unavailable"
    assert "db.response.status_code" not in (span.attributes or {})


@KINDS
async def test_who_answered_a_read_is_told(kind: str, sdk: Sdk):
    sdk.listen()
    with RedisServer() as primary, RedisServer() as replica, FakeSentinel(primary) as sentinel:
        follow(replica, primary)
        sentinel.replicas[replica] = {}
        async with opened(kind, sentinel.url) as grid:
            limiter = grid.limiter("orders", "5/second")
            await done(limiter.peek("me", read_from="replica"))
            sentinel.replicas.clear()
            replica.stop()
            await done(limiter.peek("me", read_from="prefer_replica"))
    roles = [(dict(span.attributes or {}).get("gridsync.role"), span.status.status_code) for span in sdk.spans(PEEK)]
    assert roles == [("replica", StatusCode.UNSET), ("replica", StatusCode.ERROR), (None, StatusCode.UNSET)]
    ports = [(span.attributes or {})["server.port"] for span in sdk.spans(PEEK)]
    assert (ports[0], ports[2]) == (replica.port, primary.port)
    assert [point.value for point in sdk.points("gridsync.read.fallback")] == [1]
    measured = {point.attributes.get("gridsync.role") for point in sdk.points("db.client.operation.duration")}
    assert measured == {"replica", None}


@KINDS
async def test_locks_and_limits_are_measured(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        lease = await done(grid.lock("job").acquire())
        with pytest.raises(LockTimeout):
            await done(grid.lock("job").acquire(timeout=0.01))
        await done(lease.release())
        gone = await done(grid.lock("gone").acquire())
        flushed.command("DEL", "{gridsync:lock:gone}")
        assert not await done(gone.release())
        odd = f"orders:{kind}"  # all grids of a process count together
        limiter = grid.limiter(odd, "2/minute")
        for cost in (1, 1, 1, 3):
            await done(limiter.hit("a:b", cost=cost))
        await done(grid.limiter("queue", "1 per 20 ms").acquire("a"))
        assert sum(point.value for point in sdk.points("gridsync.connection.open")) >= 1
        assert len(sdk.points("gridsync.inflight")) == 1
        stats = grid.stats()
    assert (stats.locks_acquired, stats.leases_lost) == (2, 1)
    assert [point.count for point in sdk.points("gridsync.lock.wait")] == [2]
    assert [point.count for point in sdk.points("gridsync.lock.hold")] == [1]
    assert [point.count for point in sdk.points("gridsync.limit.wait")] == [1]
    assert [point.value for point in sdk.points("gridsync.lock.lost")] == [1]
    assert [point.value for point in sdk.points("gridsync.lock.timeout")] == [1]
    decided = {
        point.attributes["gridsync.outcome"]: point.value
        for point in sdk.points("gridsync.limit.decisions")
        if (point.attributes["gridsync.name"], point.attributes["gridsync.source"]) == (odd, "server")
    }
    assert decided == {"admitted": 2, "denied": 1, "never": 1}
    units = sdk.units()
    assert units["db.client.operation.duration"] == units["gridsync.lock.wait"] == "s"
    assert units["gridsync.limit.decisions"] == "{decision}"
    assert units["gridsync.inflight"] == "{request}"


@KINDS
async def test_caches_are_measured_also_those_that_are_gone(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    name = f"user:{kind}:{time.monotonic_ns()}"  # all grids that the process ever had count together

    def hits() -> int:
        points = sdk.points("gridsync.cache.near.hits")
        return sum(point.value for point in points if point.attributes["gridsync.name"] == name)

    async with opened(kind, flushed.url) as grid:
        cache = grid.cache(Space(name, int), near=Near())
        await done(cache.set("k", 1))

        async def served(cache: Any = cache) -> bool:  # noqa: ANN401 - either kind
            await done(cache.get("k"))
            return bool(cache.stats().near.hits)

        await until(served)
        assert hits() == cache.stats().near.hits
    del grid, cache, served
    gc.collect()
    assert hits() >= 1, "numbers only grow"
    assert [point.attributes["gridsync.name"] for point in sdk.points("gridsync.cache.hit")] == [name]
    assert sdk.units()["gridsync.cache.near.drops"] == "{connection}"


@KINDS
@pytest.mark.leaves_keys  # events are the data
async def test_consumers_are_measured(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await done(store.append("a", [Ordered(amount=1), Ordered(amount=2), Ordered(amount=3)]))

        def handle(recorded: Any) -> None:  # noqa: ANN401 - an event of either kind of grid
            if recorded.event.amount == 2:
                raise ValueError("not this one")

        async def handle_async(recorded: Any) -> None:  # noqa: ANN401
            handle(recorded)

        chosen = handle if kind == "sync" else handle_async
        await done(store.group("book").consume(chosen, idle_stop=0, policy=LATER))
        stats = grid.stats()
    assert (stats.events_consumed, stats.events_failed) == (2, 1)
    for name, value in (("consumed", 2), ("failed", 1)):
        (point,) = sdk.points(f"gridsync.stream.{name}")
        assert (point.value, dict(point.attributes)) == (value, {"gridsync.name": "orders/book"})
    (lag,) = sdk.points("gridsync.stream.lag")
    assert lag.count == 3
    assert 0 <= lag.sum < 60


@KINDS
async def test_without_a_provider_a_driver_runs_its_own_methods(kind: str, flushed: RedisServer):
    """The plain path must be exactly what it is without OpenTelemetry."""
    driver = SyncIO if kind == "sync" else AsyncIO
    async with opened(kind, flushed.url) as grid:
        assert telemetry.listener is None
        assert not {"run", "block"} & vars(grid._io).keys()
        assert grid._io.run.__func__ is driver.run
        assert grid._io.block.__func__ is driver.block


@KINDS
async def test_a_provider_that_comes_late_is_noticed_with_the_next_connection(
    kind: str, flushed: RedisServer, sdk: Sdk
):
    async with opened(kind, flushed.url) as grid:
        sdk.listen()
        await done(grid.lock("before").try_acquire())
        seen = len(sdk.spans(LOCK))
        with Grid(flushed.url):
            pass
        await done(grid.lock("after").try_acquire())
        assert len(sdk.spans(LOCK)) == seen + 1


@pytest.mark.parametrize(("spans", "measures"), [(True, False), (False, True)])
def test_one_provider_is_enough(flushed: RedisServer, sdk: Sdk, *, spans: bool, measures: bool):
    sdk.listen(spans=spans, measures=measures)
    with Grid(flushed.url) as grid, grid.lock("job"):
        pass
    assert bool(sdk.spans(LOCK)) == spans
    assert bool(sdk.points("db.client.operation.duration")) == measures


def test_a_unix_socket_is_named_by_its_path(sdk: Sdk):
    sdk.listen()
    with RedisServer(server_kinds()[0], unix=True) as server, Grid(server.url) as grid:
        grid.limiter("orders", "5/second").peek("me")
        (span,) = sdk.spans(PEEK)
    attributes = span.attributes or {}
    assert attributes["server.address"] == str(server.socket_path)
    assert attributes["network.transport"] == "unix"
    assert not {"server.port", "network.peer.address", "network.peer.port"} & set(attributes)


def test_the_first_example_of_the_page_does_what_it_says():
    """It sets the real global provider, which a process can do only once, so it runs in a process of its own."""
    page = (Path(__file__).parents[2] / "docs" / "telemetry.md").read_text(encoding="utf-8")
    program, output = re.findall(r"^```(?:{.python}|text)\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)[:2]
    assert "set_tracer_provider" in program
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert ended.stdout == output, ended.stderr
