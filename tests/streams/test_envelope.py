"""What is stored besides events: metadata, correlation, causation, the trace; and nothing where nothing is said."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import Envelope, Write
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import World


@pytest.mark.parametrize("through", ["append", "commit"])
async def test_what_is_said_of_a_commit_stands_with_each_of_its_events(world: World, through: str):
    store = world.store(Order)
    said: dict[str, Any] = {
        "metadata": {"user": "änna", "tags": ["x", 1, None]},
        "correlation_id": "request-7",
        "causation_id": "command-9",
    }
    events = [Placed(kwh=1), Cancelled(reason="rain")]
    if through == "append":
        await store.append("a", events, **said)
    else:
        await store.commit([Write("a", events[0]), Write("b", events[1])], **said)
    log = await store.read_all()
    assert log == [*await store.read("a"), *await store.read("b")]
    for recorded in log:
        assert recorded.metadata == said["metadata"]
        assert (recorded.correlation_id, recorded.causation_id) == ("request-7", "command-9")
        assert recorded.envelope == Envelope("request-7", "command-9", said["metadata"])


@pytest.mark.parametrize("said", [{}, {"metadata": {}}, {"metadata": None, "correlation_id": None}])
async def test_nothing_is_stored_where_nothing_is_said(world: World, raw: redis.Redis, said: dict[str, Any]):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), **said)
    for key in (store.keys.log, store.keys.stream("a")):
        ((_, fields),) = raw.xrange(key)
        assert b"m" not in fields
    (recorded,) = await store.read("a")
    assert (dict(recorded.metadata), recorded.correlation_id, recorded.causation_id) == ({}, None, None)
    assert recorded.envelope == Envelope()


async def test_a_consumer_is_told_it_too(world: World):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), metadata={"by": "anna"}, correlation_id="request-7")
    seen: list[Any] = []
    await store.group("billing").consume(seen.append, idle_stop=0)
    assert [(dict(e.metadata), e.correlation_id) for e in seen] == [({"by": "anna"}, "request-7")]


async def test_a_replay_keeps_what_was_said_the_first_time(world: World):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="x", metadata={"try": 1})
    assert (await store.append("a", Placed(kwh=1), event_ids="x", metadata={"try": 2})).replayed
    assert [dict(e.metadata) for e in await store.read("a")] == [{"try": 1}]


@pytest.mark.parametrize(
    "said",
    [
        {"metadata": "text"},
        {"metadata": {1: "x"}},
        {"metadata": {"x": object()}},
        {"metadata": {"x": math.nan}},
        {"metadata": {"x": "y" * 4096}},
        {"metadata": {"x": "\ud800"}},
        {"correlation_id": ""},
        {"causation_id": 7},
    ],
)
async def test_what_cannot_be_stored_is_refused_before_anything_is_sent(
    world: World, raw: redis.Redis, said: dict[str, Any]
):
    with pytest.raises(errors.UsageError):
        await world.store(Order).append("a", Placed(kwh=1), **said)
    assert raw.keys() == []


async def test_an_envelope_that_is_none_is_named(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    fields = {b"i": b"x", b"s": b"a", b"v": b"2", b"t": b"Placed", b"d": b"{}", b"w": b"1", b"m": b"[]"}
    raw.xadd(store.keys.log, fields, id="2-0")
    with pytest.raises(errors.InvalidEvent, match="not written by gridsync"):
        await store.read_all()
