"""Looking in: what a store, its groups and what they have put aside say of themselves; looking changes nothing."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import DEAD, Park, RawEvent
from tests.streams.conftest import Both
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World

LATER = Park(first_s=1000, max_s=1000)
DAY = timedelta(days=1)


def looked(store: Store, group: str = "") -> Any:  # noqa: ANN401 - a store or group of either kind
    return Both(store.store.group(group) if group else store.store, is_async=store.is_async)


async def failed(world: World) -> Store:
    """Return a store of which "billing" has handled 1, parked 2 with 3 behind it, and given up 4; 5 came later."""
    store = world.store(Order)
    await store.append("anna", [Placed(kwh=1), Placed(kwh=2), Placed(kwh=3)])
    await store.append("bert", Placed(kwh=4))

    def handle(recorded: Any) -> None:  # noqa: ANN401 - a Recorded
        if recorded.position == 2:
            raise ValueError("not now")
        if recorded.position == 4:
            raise KeyError("never")

    policy = {ValueError: LATER, KeyError: DEAD}
    await store.group("billing").consume(handle, policy=policy, on_error=lambda _: None, idle_stop=0)
    await store.append("bert", Placed(kwh=5))
    return store


async def test_a_store_says_what_it_holds(world: World, raw: redis.Redis):
    store = await failed(world)
    await store.group("display").consume(lambda _: None, idle_stop=0)
    before = {key: raw.dump(key) for key in raw.scan_iter()}
    info = await looked(store).info()
    assert (info.name, info.events, info.first, info.last, info.streams) == ("orders", 5, 1, 5, 2)
    assert info.groups == ("billing", "display")
    keys = store.keys
    whole = [keys.meta, keys.versions, keys.log, keys.recent, keys.stream("anna"), keys.stream("bert")]
    assert info.bytes == sum(raw.memory_usage(key) or 0 for key in whole), "with few streams all of them are asked"
    await looked(store, "billing").info()
    await looked(store, "billing").parked()
    assert {key: raw.dump(key) for key in raw.scan_iter()} == before, "who looks changes nothing"


@pytest.mark.any_server
async def test_memory_is_estimated_from_some_streams(world: World, raw: redis.Redis):
    store = world.store(Order)
    for n in range(60):
        await store.append(f"order-{n}", Placed(kwh=1, buyer="x" * 100))
    info = await looked(store).info()
    exact = sum(raw.memory_usage(key) or 0 for key in raw.scan_iter())
    assert exact * 0.9 < info.bytes < exact * 1.1


@pytest.mark.any_server
async def test_what_was_removed_is_seen(world: World, raw: redis.Redis):
    store = world.store(Order)
    for n in range(5):
        await store.append("anna", Placed(kwh=n + 1))
    await store.group("billing").consume(lambda _: None, idle_stop=0)
    await store.append("anna", [Placed(kwh=6), Placed(kwh=7), Placed(kwh=8)])
    raw.xtrim(store.keys.log, maxlen=2, approximate=False)
    info = await looked(store).info()
    assert (info.events, info.first, info.last, info.removed) == (2, 7, 8, 6)
    assert (await looked(store, "billing").info()).lag == 2, "the sixth is gone: nobody will deliver it"


async def test_an_empty_store_and_a_group_that_never_was_say_so(world: World, raw: redis.Redis):
    store = world.store(Order)
    info = await looked(store).info()
    assert (info.events, info.first, info.last, info.streams, info.bytes, info.groups) == (0, 0, 0, 0, 0, ())
    group = await looked(store, "billing").info()
    assert (group.exists, group.lag, group.pending, group.oldest_age, group.consumers) == (False, 0, 0, None, ())
    assert await looked(store, "billing").parked() == ()
    await store.append("anna", Placed(kwh=1))
    assert not (await looked(store, "billing").info()).exists
    assert raw.xinfo_groups(store.keys.log) == []


async def test_a_group_says_how_far_it_has_got(world: World, raw: redis.Redis):
    store = await failed(world)
    info = await looked(store, "billing").info()
    assert (info.store, info.name, info.exists) == ("orders", "billing", True)
    assert (info.lag, info.pending, info.parked, info.waiting, info.returned, info.dead) == (1, 2, 1, 1, 0, 1)
    assert (info.consumer_count, info.consumers) == (0, ()), "the consumer has left; ~parked is none"
    assert info.oldest_age is not None
    raw.xreadgroup("billing", "ghost", {store.keys.log: ">"})
    info = await looked(store, "billing").info()
    assert (info.lag, info.pending, info.consumer_count) == (0, 3, 1)
    (ghost,) = info.consumers
    assert (ghost.name, ghost.pending) == ("ghost", 1)
    assert ghost.idle >= 0
    for n in range(5):
        raw.xgroup_createconsumer(store.keys.log, "billing", f"idle-{n}")
    info = await looked(store, "billing").info(consumers_max=2)
    assert (info.consumer_count, len(info.consumers)) == (6, 2)


async def test_the_age_is_that_of_the_oldest_event_that_is_not_settled(world: World, raw: redis.Redis):
    """An alarm on it must hear of one stuck event, however much is handled beside it."""
    store = await failed(world)
    committed = int(raw.xrange(store.keys.log, "2-0", "2-0")[0][1][b"w"])
    seconds, micros = raw.time()
    age = (await looked(store, "billing").info()).oldest_age
    later, rest = raw.time()
    assert seconds * 10**6 + micros - committed <= age * 10**6 + 1
    assert age * 10**6 - 1 <= later * 10**6 + rest - committed
    group = store.group("display")
    await group.consume(lambda _: None, idle_stop=0)
    assert (await looked(store, "display").info()).oldest_age is None


async def test_what_is_parked_says_why_and_until_when(world: World, raw: redis.Redis):
    store = await failed(world)
    (event,) = await looked(store, "billing").parked()
    assert (event.position, event.stream, event.type, event.attempts) == (2, "anna", "Placed", 1)
    assert (event.error, event.text) == ("ValueError", "not now")
    assert event.first == event.last
    now = datetime.fromtimestamp(raw.time()[0], UTC)
    assert now - DAY < event.first <= event.due < now + DAY
    assert raw.zscore(store.keys.retry("billing"), "2-0") == event.due.timestamp() * 1000
    letters = store.store.group("billing").dead_letters()
    await Both(letters, is_async=store.is_async).replay()
    replayed, parked = await looked(store, "billing").parked()
    assert parked == event
    assert (replayed.position, replayed.error, replayed.consumer, replayed.attempts) == (4, "KeyError", "", 0)
    assert replayed.due.year == 1970
    assert len(await looked(store, "billing").parked(limit=1)) == 1


@pytest.mark.any_server
async def test_what_waited_behind_another_has_no_error_of_its_own(world: World, raw: redis.Redis):
    store = await failed(world)
    # The parked one is given up, so the one behind it is its stream's next; nobody has asked for it yet.
    raw.zadd(store.keys.retry("billing"), {"2-0": 0})

    def handle(recorded: Any) -> None:  # noqa: ANN401 - a Recorded
        group.stop()
        raise KeyError(recorded.position)

    group = store.group("billing")
    await group.consume(handle, policy=DEAD, on_error=lambda _: None)
    (event,) = await looked(store, "billing").parked()
    assert (event.position, event.error, event.first, event.attempts) == (3, "", None, 0)


@pytest.mark.any_server
async def test_numbers_that_cannot_be_used_are_refused(world: World):
    group = looked(world.store(Order), "billing")
    for call, what in ((group.info, "consumers_max"), (group.parked, "limit")):
        for value in (0, 1001, True, 1.5):
            with pytest.raises(errors.UsageError):
                await call(**{what: value})


@pytest.mark.any_server
async def test_a_store_of_raw_events_reads_what_any_program_wrote(world: World):
    await failed(world)
    raw_store = world.store(RawEvent)
    assert [each.event.data for each in await raw_store.read("bert")] == [
        b'{"kwh":4.0,"buyer":"anna"}', b'{"kwh":5.0,"buyer":"anna"}',
    ]  # fmt: skip
    assert [each.position for each in await raw_store.read_all(types=["Placed"], category="anna")] == [1, 2, 3]
    with pytest.raises(errors.UnknownEventType):
        await raw_store.append("anna", RawEvent(type="Placed", schema_version=1, data=b"{}"))
