"""What OpenTelemetry sees of events: sending, receiving, processing and settling, as messaging."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from opentelemetry import trace
from opentelemetry.trace import NonRecordingSpan, SpanContext, SpanKind, StatusCode, TraceFlags, TraceState
from pydantic import BaseModel

from gridsync import AsyncGrid, WrongVersion
from gridsync._io import telemetry
from gridsync.streams import AsyncDelivery, Check, Retry, Write
from tests.streams.conftest import until
from tests.streams.models import LATER
from tests.wire.world import done, opened

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.telemetry.conftest import Sdk

pytestmark = pytest.mark.leaves_keys  # events are the data
KINDS = pytest.mark.parametrize("kind", ["sync", "asyncio"])
BASE = {"messaging.system": "redis", "messaging.destination.name": "orders"}


class Ordered(BaseModel):
    """An event."""

    amount: int


def messaging(span: Any) -> dict[str, Any]:  # noqa: ANN401 - a finished span
    """Return what a span says about messages."""
    return {name: value for name, value in span.attributes.items() if name.startswith("messaging.")}


@KINDS
async def test_an_append_is_sent_by_a_producer(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await done(store.append("a", Ordered(amount=1)))
        await done(store.append("a", [Ordered(amount=2), Ordered(amount=3)]))
        with pytest.raises(WrongVersion):
            await done(store.append("a", Ordered(amount=4), expected_version=1))
    one, two, three = sdk.spans("send orders")
    named = {**BASE, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert one.kind is SpanKind.PRODUCER
    assert messaging(one) == {**named, "messaging.message.id": "1-0"}
    assert messaging(two) == {**named, "messaging.batch.message_count": 2}
    assert messaging(three) == named, "it was answered, and nothing was written"
    attributes = one.attributes or {}
    assert attributes["db.stored_procedure.name"] == "streams.append"
    assert attributes["server.port"] == flushed.port
    (duration,) = sdk.points("messaging.client.operation.duration")
    assert (duration.count, dict(duration.attributes)) == (3, named)
    assert [(point.value, dict(point.attributes)) for point in sdk.points("messaging.client.sent.messages")] == [
        (4, named)
    ]


@KINDS
async def test_a_commit_of_several_streams_is_sent_by_a_producer(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        parts = [Write("a", Ordered(amount=1)), Write("b", [Ordered(amount=2), Ordered(amount=3)], 0), Check("c", 0)]
        await done(store.commit(parts))
        with pytest.raises(WrongVersion):
            await done(store.commit(parts[1:]))
    one, two = sdk.spans("send orders")
    named = {**BASE, "messaging.operation.name": "send", "messaging.operation.type": "send"}
    assert one.kind is SpanKind.PRODUCER
    assert messaging(one) == {**named, "messaging.batch.message_count": 3}
    assert messaging(two) == {**named, "messaging.batch.message_count": 2}


@KINDS
async def test_the_trace_goes_from_the_writer_to_the_handler(kind: str, flushed: RedisServer, sdk: Sdk):
    """An operator sees from a failed handler which request it was for."""
    sdk.listen()
    outer = sdk.tracers.get_tracer("app")
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        with outer.start_as_current_span("request") as request:
            await done(store.append("a", Ordered(amount=1)))
        await done(store.append("a", Ordered(amount=2)))
        seen: list[Any] = []

        async def handle_async(recorded: Any) -> None:  # noqa: ANN401
            seen.append(recorded)

        await done(store.group("ledger").consume(seen.append if kind == "sync" else handle_async, idle_stop=0))
    here = request.get_span_context()
    assert [recorded.envelope.traceparent for recorded in seen] == [
        f"00-{here.trace_id:032x}-{here.span_id:016x}-{here.trace_flags:02x}",
        None,
    ]
    linked, alone = sdk.spans("process orders")
    assert [(link.context.trace_id, link.context.span_id) for link in linked.links] == [(here.trace_id, here.span_id)]
    assert not alone.links


@KINDS
async def test_each_attempt_is_linked_to_the_one_before_and_the_last_is_named_by_the_dead_letter(
    kind: str, flushed: RedisServer, sdk: Sdk
):
    """From a dead letter an operator comes to every attempt, wherever it was made."""
    sdk.listen()
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await done(store.append("a", [Ordered(amount=1), Ordered(amount=2)]))

        def handle(recorded: Any) -> None:  # noqa: ANN401
            if recorded.event.amount == 1:
                raise ValueError

        async def handle_async(recorded: Any) -> None:  # noqa: ANN401
            handle(recorded)

        group = store.group("ledger")
        policy = Retry(max_attempts=3, first_s=0.01, max_s=0.01)
        await done(
            group.consume(
                handle if kind == "sync" else handle_async, policy=policy, on_error=lambda _: None, idle_stop=0.5
            )
        )
        letters = group.dead_letters()
        (letter,) = list(letters) if kind == "sync" else [each async for each in letters]
    spans = sdk.spans("process orders")
    attempts = [span for span in spans if span.attributes["messaging.message.id"] == "1-0"]
    (other,) = [span for span in spans if span.attributes["messaging.message.id"] == "2-0"]
    assert [[link.context.span_id for link in span.links] for span in attempts] == [
        [],
        [attempts[0].context.span_id],
        [attempts[1].context.span_id],
    ]
    assert not other.links
    last = attempts[2].context
    assert letter.trace == f"00-{last.trace_id:032x}-{last.span_id:016x}-{last.trace_flags:02x}"
    counted = {name: [point.value for point in sdk.points(f"gridsync.stream.{name}")] for name in ("retried", "dead")}
    assert counted == {"retried": [2], "dead": [1]}


@KINDS
async def test_what_vendors_add_to_a_trace_is_kept(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    told = SpanContext(7, 9, is_remote=True, trace_flags=TraceFlags(0), trace_state=TraceState([("acme", "x")]))
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        with trace.use_span(NonRecordingSpan(told)):
            await done(store.append("a", Ordered(amount=1), metadata={"x": 1}))
        seen: list[Any] = []

        async def handle_async(recorded: Any) -> None:  # noqa: ANN401
            seen.append(recorded)

        await done(store.group("ledger").consume(seen.append if kind == "sync" else handle_async, idle_stop=0))
    (recorded,) = seen
    assert recorded.envelope.traceparent == f"00-{7:032x}-{9:016x}-00"
    assert recorded.envelope.tracestate == "acme=x"
    assert dict(recorded.metadata) == {"x": 1}
    (span,) = sdk.spans("process orders")
    assert [link.context.trace_state.to_header() for link in span.links] == ["acme=x"]


@KINDS
async def test_without_an_sdk_no_trace_is_stored(kind: str, flushed: RedisServer, sdk: Sdk):
    """The context of a span is there, but nobody listens."""
    async with opened(kind, flushed.url) as grid:
        with sdk.tracers.get_tracer("app").start_as_current_span("request"):
            await done(grid.events("orders", Ordered).append("a", Ordered(amount=1)))
    with flushed.client() as client:
        ((_, fields),) = client.xrange("{gridsync:events:orders}:log")
    assert b"m" not in fields


@KINDS
async def test_a_consumer_receives_processes_and_settles(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    inner = sdk.tracers.get_tracer("handler")
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await done(store.append("a", [Ordered(amount=1), Ordered(amount=2), Ordered(amount=3)]))

        def handle(recorded: Any) -> None:  # noqa: ANN401 - an event of either kind of grid
            with inner.start_as_current_span("book"):
                if recorded.event.amount == 2:
                    raise ValueError("not this one")

        async def handle_async(recorded: Any) -> None:  # noqa: ANN401
            handle(recorded)

        chosen = handle if kind == "sync" else handle_async
        await done(store.group("ledger").consume(chosen, consumer="c1", idle_stop=0, policy=LATER))
    group = {**BASE, "messaging.consumer.group.name": "ledger"}
    mine = {**group, "messaging.client.id": "c1"}

    received = [messaging(span) for span in sdk.spans("receive orders")]
    assert all(span.kind is SpanKind.CLIENT for span in sdk.spans("receive orders"))
    kinds = {"messaging.operation.name": "receive", "messaging.operation.type": "receive"}
    assert all(about.items() >= {**mine, **kinds}.items() for about in received)
    assert sum(about.get("messaging.batch.message_count", 1) for about in received) == 3

    handled = sdk.spans("process orders")
    kinds = {"messaging.operation.name": "process", "messaging.operation.type": "process"}
    assert [span.kind for span in handled] == [SpanKind.CONSUMER] * 3
    assert [messaging(span) for span in handled] == [
        {**mine, **kinds, "messaging.message.id": f"{position}-0"} for position in (1, 2, 3)
    ]
    assert [span.status.status_code for span in handled] == [StatusCode.UNSET, StatusCode.ERROR, StatusCode.UNSET]
    assert (handled[1].attributes or {})["error.type"] == "ValueError"
    parents = [span.parent.span_id for span in sdk.spans("book") if span.parent is not None]
    assert parents == [span.get_span_context().span_id for span in handled], "the handler's own spans lie within"

    settled = [messaging(span) for span in sdk.spans("ack orders")]
    kinds = {"messaging.operation.name": "ack", "messaging.operation.type": "settle"}
    assert all(about.items() >= {**mine, **kinds}.items() for about in settled)
    assert sum(about.get("messaging.batch.message_count", 1) for about in settled) == 2

    points = {point.attributes.get("error.type"): point.count for point in sdk.points("messaging.process.duration")}
    assert points == {None: 2, "ValueError": 1}
    (consumed,) = sdk.points("messaging.client.consumed.messages")
    about = {**group, "messaging.operation.name": "receive", "messaging.operation.type": "receive"}
    assert (consumed.value, dict(consumed.attributes)) == (3, about)


async def test_a_cancelled_handler_ends_its_span(flushed: RedisServer, sdk: Sdk):
    sdk.listen()
    begun = asyncio.Event()

    async def handle(_: object) -> None:
        begun.set()
        await asyncio.Event().wait()

    async with AsyncGrid(flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await store.append("a", Ordered(amount=1))
        consuming = asyncio.create_task(store.group("ledger").consume(handle))
        await begun.wait()
        consuming.cancel()
        await asyncio.wait([consuming])
    (span,) = sdk.spans("process orders")
    assert (span.attributes or {})["error.type"] == "asyncio.exceptions.CancelledError"
    assert not trace.get_current_span().get_span_context().is_valid


@KINDS
async def test_without_a_tracer_events_are_measured_all_the_same(kind: str, flushed: RedisServer, sdk: Sdk):
    sdk.listen(spans=False)
    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        with sdk.tracers.get_tracer("caller").start_as_current_span("outer") as outer:
            await done(store.append("a", Ordered(amount=1)))
            seen: list[Any] = []
            await done(store.group("ledger").consume(lambda _: seen.append(trace.get_current_span()), idle_stop=0))
        assert seen == [outer], "the caller's span stays the current one"
    assert [point.count for point in sdk.points("messaging.process.duration")] == [1]


@KINDS
async def test_how_far_a_group_has_got_is_seen_while_somebody_consumes(kind: str, flushed: RedisServer, sdk: Sdk):
    """An alarm on the oldest event hears of a stuck one, and exporting asks the server nothing."""
    sdk.listen(spans=False)
    names = ("lag", "pending", "oldest", "parked", "waiting", "dead")
    told: list[dict[str, int]] = []

    def seen() -> dict[str, int]:
        points = {name: sdk.points(f"gridsync.group.{name}") for name in names}
        for (point,) in (each for each in points.values() if each):
            assert dict(point.attributes) == {"gridsync.name": "orders/ledger"}
        return {name: point.value for name, found in points.items() for point in found}

    def fail(_: object) -> None:
        raise ValueError

    async with opened(kind, flushed.url) as grid:
        store = grid.events("orders", Ordered)
        await done(store.append("a", Ordered(amount=1)))
        await done(store.group("ledger").consume(fail, policy=LATER, on_error=lambda _: None, idle_stop=0))
        assert seen() == {}, "who has left says nothing more"
        await done(store.append("a", [Ordered(amount=2), Ordered(amount=3)]))
        group = store.group("ledger")

        def handle(_: object) -> None:
            with flushed.client() as client:
                client.config_resetstat()
                told.append(seen())
                assert not {"cmdstat_evalsha", "cmdstat_xinfo|groups"} & set(client.info("commandstats"))
            group.stop()

        await done(group.consume(handle, claim_idle=600))
        assert seen() == {}
    (first,) = told
    assert first.pop("oldest") >= 0
    assert first == {"lag": 2, "pending": 1, "parked": 1, "waiting": 0, "dead": 0}


@pytest.mark.any_server
async def test_how_much_is_on_its_way_to_another_store_is_seen_while_a_relay_runs(
    flushed: RedisServer, sdk: Sdk, monkeypatch: pytest.MonkeyPatch
):
    """An alarm hears of a target that is away: the relay looks before it moves, and keeps what it saw."""
    monkeypatch.setattr("gridsync.streams._outbox.LOOK_S", 600.0)
    sdk.listen(spans=False)

    def seen() -> dict[str, int]:
        found = {name: sdk.points(f"gridsync.outbox.{name}") for name in ("waiting", "events", "oldest")}
        for (point,) in (each for each in found.values() if each):
            assert dict(point.attributes) == {"gridsync.name": "orders/bills"}
        return {name: points[0].value for name, points in found.items() if points}

    async with AsyncGrid(flushed.url) as grid:
        store, bills = grid.events("orders", Ordered), grid.events("bills", Ordered)
        outbox = store.outbox(bills)

        async def bill(delivery: AsyncDelivery[Ordered]) -> None:
            async with delivery.commit() as tx:
                tx.send(outbox, "b", [delivery.event, delivery.event])

        await store.append("a", [Ordered(amount=1), Ordered(amount=2)])
        await store.group("ledger").consume(bill, idle_stop=0)
        assert seen() == {}
        relaying = asyncio.create_task(outbox.relay())
        await until(lambda: bool(seen()))
        told = seen()
        assert told.pop("oldest") >= 0
        assert told == {"waiting": 2, "events": 4}
        assert {**grid.stats().outboxes["orders/bills"], "oldest": 0} == {**told, "oldest": 0}
        assert grid.stats().to_dict()["outboxes"].keys() == {"orders/bills"}
        outbox.stop()
        await relaying
        assert seen() == {}
        assert not grid.stats().outboxes


@pytest.mark.any_server
async def test_how_far_a_mirror_is_behind_is_seen_while_a_replicator_runs(flushed: RedisServer, sdk: Sdk):
    sdk.listen(spans=False)

    def seen() -> dict[str, int]:
        found = {name: sdk.points(f"gridsync.mirror.{name}") for name in ("lag", "oldest")}
        return {name: points[0].value for name, points in found.items() if points}

    async with AsyncGrid(flushed.url) as grid:
        store, copy = grid.events("orders", Ordered), grid.events("copy", Ordered)
        await store.append("a", [Ordered(amount=1), Ordered(amount=2)])
        moving = store.replication(copy)
        running = asyncio.create_task(moving.run())
        await until(lambda: seen() == {"lag": 0, "oldest": 0})
        assert sdk.points("gridsync.stream.mirrored")
        moving.stop()
        await running
        assert seen() == {}


async def test_while_nobody_listens_a_handler_is_called_itself():
    async def handle(_: object) -> None:
        raise AssertionError

    assert telemetry.listener is None
    assert telemetry.processing(handle, "orders", "ledger", "c1") is handle
