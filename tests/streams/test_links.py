"""A log of links: the same store in less memory, and never silent about what its streams have lost."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import DEAD, NO_STREAM, Check, RawEvent, Write
from tests.streams.conftest import Both, until
from tests.streams.models import Cancelled, Order, Placed
from tests.streams.test_consumer import running

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World


async def filled(world: World, count: int = 5, log: str = "link") -> Store:
    """Return a store of so many events in two streams, every third with metadata."""
    store = world.store(Order, log=log)
    for n in range(count):
        said = {"metadata": {"n": n}} if n % 3 == 0 else {}
        event = Placed(kwh=n + 1) if n % 2 else Cancelled(reason=f"no {n}")
        await store.append(f"order-{n % 2}", event, event_ids=f"event-{n}", **said)
    return store


def timeless(events: list[Any]) -> list[Any]:
    return [
        (e.event, e.id, e.stream, e.version, e.position, e.type, e.schema_version, e.envelope.metadata) for e in events
    ]


async def test_a_log_of_links_reads_as_a_log_of_copies_does(world: World, raw: redis.Redis):
    store = await filled(world, 7)
    same = world.store(Order, "copies")
    for each in await store.read_all():
        await same.append(each.stream, each.event, event_ids=each.id, metadata=each.metadata or None)
    for options in (
        {}, {"after": 3}, {"reverse": True}, {"reverse": True, "limit": 2}, {"types": [Placed]}, {"limit": 3},
        {"types": [Cancelled], "category": "order", "limit": 2}, {"before": 5, "reverse": True},
    ):  # fmt: skip
        found = await store.read_all(**options)
        assert timeless(found) == timeless(await same.read_all(**options))
        assert found
    assert timeless(await store.read("order-1")) == timeless(await same.read("order-1"))
    fields = raw.xrange(store.keys.log, "1-0", "1-0")[0][1]
    assert list(fields) == [b"i", b"s", b"v", b"t", b"w"], "the payload stands in the stream only"
    assert raw.hgetall(store.keys.meta) == {b"pos": b"7", b"log": b"link"}


async def test_a_commit_and_its_replay_are_the_same_in_a_log_of_links(world: World):
    store = world.store(Order, log="link")
    parts = [
        Write("a", [Placed(kwh=1), Placed(kwh=2)], NO_STREAM, ["x", "y"]),
        Write("b", Placed(kwh=3), event_ids="z"),
        Check("c", 0),
    ]
    first = await store.commit(parts, metadata={"by": "me"})
    again = await store.commit(parts)
    assert (first.position, first.replayed, again.position, again.replayed) == (3, False, 3, True)
    assert (await store.append("b", Placed(kwh=3), event_ids="z")).replayed
    with pytest.raises(errors.WrongVersion):
        await store.append("a", Placed(kwh=1), expected_version=1)
    assert [(e.event.kwh, e.metadata["by"]) for e in await store.read_all()] == [(1, "me"), (2, "me"), (3, "me")]


async def test_consumers_subscriptions_and_views_get_whole_events(world: World):
    store = await filled(world, 5)
    seen: list[Any] = []
    done = await store.group("billing").consume(seen.append, idle_stop=0)
    assert done.handled == 5
    assert timeless(seen) == timeless(await store.read_all())
    subscribed = store.subscribe(types=[Placed])
    assert timeless(await subscribed.take(2)) == timeless(await store.read_all(types=[Placed]))
    subscribed.stop()
    totals = store.projection("totals", types=[Placed])
    await totals.run(lambda changes, event: changes.add("kwh", int(event.event.kwh)), once=True)
    assert await totals.get("kwh") == "6"
    async with running(store.group("display"), seen.append):
        await store.append("order-9", Placed(kwh=9))
        await until(lambda: len(seen) == 11)
    assert seen[-1].event == Placed(kwh=9)


async def test_what_failed_comes_again_whole_and_is_a_whole_dead_letter(world: World):
    store = await filled(world, 3)
    group = store.group("billing")

    def fail(_: object) -> None:
        raise ValueError

    await group.consume(fail, policy=DEAD, on_error=lambda _: None, idle_stop=0)
    letters = group.group.dead_letters()
    found = [each async for each in letters] if hasattr(letters, "__aiter__") else list(letters)
    assert [(each.stream, each.raw[b"d"]) for each in found] == [
        ("order-0", b'{"reason":"no 0"}'),
        ("order-1", b'{"kwh":2.0,"buyer":"anna"}'),
        ("order-0", b'{"reason":"no 2"}'),
    ]
    await Both(letters, is_async=store.is_async).replay()
    seen: list[Any] = []
    await store.group("billing").consume(seen.append, idle_stop=0)
    assert timeless(seen) == timeless(await store.read_all())


async def test_a_link_whose_event_was_removed_is_an_error_and_never_passed_over(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    raw.xdel(store.keys.stream("order-1"), "1-0")
    seen: list[int] = []
    with pytest.raises(errors.Truncated, match=r"event 2 is event 1 of stream 'order-1'") as caught:
        await each_of(store.store.read_all(), lambda event: seen.append(event.position))
    assert (seen, caught.value.first) == ([1], 3), "what stands before it is still seen"
    assert [e.position for e in await store.read_all(after=2)] == [3, 4, 5]
    assert [e.position for e in await store.read_all(types=[Cancelled])] == [1, 3, 5], "what is not wanted may be gone"
    with pytest.raises(errors.Truncated):
        await store.read_all(reverse=True)
    failures: list[Any] = []
    done = await store.group("billing").consume(
        lambda _: None, policy={errors.Truncated: DEAD}, on_error=failures.append, idle_stop=0
    )
    assert (done.handled, done.dead) == (4, 1)
    assert isinstance(failures[0].error, errors.Truncated)
    raw.delete(store.keys.stream("order-0"))
    with pytest.raises(errors.Truncated):
        await store.read_all()


@pytest.mark.any_server
async def test_a_link_into_another_history_is_not_followed(world: World, raw: redis.Redis):
    """After a failover a stream may have another event at that version than the one that the log was read with."""
    store = await filled(world, 3)
    key = store.keys.stream("order-1")
    ((_, fields),) = raw.xrange(key)
    raw.delete(key)
    raw.xadd(key, {**fields, b"w": b"1"}, id="1-0")
    with pytest.raises(errors.Truncated):
        await store.read_all()


@pytest.mark.parametrize("begun", ["copy", "link"])
async def test_nobody_mixes_links_and_copies(world: World, raw: redis.Redis, begun: str):
    """What one wrote without payloads, the other could not read; so the first append decides for all."""
    await filled(world, 2, begun)
    before = {key: raw.dump(key) for key in raw.scan_iter()}
    wrong = "copy" if begun == "link" else "link"
    other = world.store(Order, log=wrong)
    said = rf"begun with log='{begun}' and is used with log='{wrong}'"
    for call in (
        other.append("new", Placed(kwh=1)),
        other.append("order-1", Placed(kwh=1), expected_version=1),
        other.commit([Write("order-1", Placed(kwh=1)), Check("order-0", 1)]),
        other.group("billing").consume(lambda _: None, idle_stop=0),
    ):
        with pytest.raises(errors.UsageError, match=said):
            await call
    with pytest.raises(errors.UsageError, match=said):
        await other.read_all()
    with pytest.raises(errors.UsageError, match=said):
        await other.subscribe().next()
    assert {key: raw.dump(key) for key in raw.scan_iter() if key in before} == before | {
        other.keys.log.encode(): raw.dump(other.keys.log)
    }, "nothing was written, but a group was made"
    assert (await Both(other.store, is_async=other.is_async).info()).log == begun
    with pytest.raises(errors.UsageError, match="log="):
        world.store(Order, log="none")


@pytest.mark.any_server
async def test_a_page_is_filled_in_one_round_trip(world: World, raw: redis.Redis):
    store = world.store(Order, log="link")
    for n in range(20):
        await store.append(f"order-{n}", [Placed(kwh=1)] * 60)
    await store.read_all(limit=1)
    raw.config_resetstat()
    assert len(await store.read_all()) == 1200
    calls = raw.info("commandstats")
    # Three pages, of which the last one is short.
    assert calls["cmdstat_evalsha"]["calls"] == 3


async def test_links_lead_into_the_streams_of_their_partition(world: World):
    store = world.store(Order, log="link", partitions=3)
    for n in range(9):
        await store.append(f"order-{n}", [Placed(kwh=n + 1), Placed(kwh=n + 1)])
    assert sorted(e.event.kwh for e in await store.read_all()) == sorted([*range(1, 10)] * 2)
    seen: list[Any] = []
    done = await store.group("billing").consume(seen.append, idle_stop=0)
    assert (done.handled, len({(e.stream, e.version) for e in seen})) == (18, 18)
    assert (await Both(store.store, is_async=store.is_async).info()).log == "link"
    with pytest.raises(errors.UsageError, match="log='link'"):
        await world.store(Order, partitions=3).append("order-1", Placed(kwh=1))


@pytest.mark.any_server
async def test_raw_events_are_read_through_links(world: World):
    await filled(world, 2)
    events = await world.store(RawEvent, log="link").read_all()
    assert [e.event.data for e in events] == [b'{"reason":"no 0"}', b'{"kwh":2.0,"buyer":"anna"}']


async def each_of(events: Any, look: Any) -> None:  # noqa: ANN401 - an iterator of either kind
    if hasattr(events, "__aiter__"):
        async for event in events:
            look(event)
    else:
        for event in events:
            look(event)
