"""Retention: events leave the log when everybody has had them, and not before."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import ANY, EXISTS, Park, Retry, Trimmed
from gridsync.streams._retention import STEP
from tests.streams.conftest import Both, until
from tests.streams.models import Order, Placed
from tests.streams.test_outbox import opened, reasons, sending

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World

GROUP = "billing"
LATER = Retry(first_s=3600, max_s=3600)


def kept(store: Store) -> Any:  # noqa: ANN401 - the calls of either kind, awaited for both
    return Both(store.store, is_async=store.is_async)


async def filled(world: World, count: int, **options: Any) -> Store:  # noqa: ANN401
    store = world.store(Order, **options)
    for first in range(0, count, 1000):
        await store.append("a", [Placed(kwh=n + 1) for n in range(first, min(count, first + 1000))])
    return store


def positions(raw: redis.Redis, store: Store) -> list[int]:
    return [int(entry_id[:-2]) for entry_id, _ in raw.xrange(store.keys.log)]


async def held_by(store: Store) -> list[tuple[str, str, int]]:
    return [(each.kind, each.name, each.position) for each in (await kept(store).floor()).holders]


async def test_what_nobody_needs_goes_and_the_streams_stay(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    assert await kept(store).trim(max_count=2) == Trimmed(4, 2, 0, None)
    assert positions(raw, store) == [5, 6]
    assert [e.version for e in await store.read("a")] == [1, 2, 3, 4, 5, 6]
    assert (await store.append("a", Placed(kwh=7), expected_version=6)).position == 7
    with pytest.raises(errors.Truncated) as caught:
        await store.read_all()
    assert caught.value.first == 5
    assert [e.position for e in await store.read_all(after=4)] == [5, 6, 7]


async def test_the_newest_event_stays_so_that_readers_can_prove_their_place(world: World):
    store = await filled(world, 3)
    checkpoint = (await store.read_all())[-1].checkpoint
    assert (await kept(store).trim(max_age=0)).left == 1
    assert await store.read_all(after=checkpoint) == []
    await store.append("a", Placed(kwh=4))
    assert [e.position for e in await store.read_all(after=checkpoint)] == [4]


async def test_more_events_than_one_step_removes_go_in_several(world: World, raw: redis.Redis):
    store = await filled(world, 2 * STEP + 500)
    assert (await kept(store).trim(max_count=100)).removed == 2 * STEP + 400
    assert raw.xlen(store.keys.log) == 100


@pytest.mark.parametrize("policy", [LATER, Park(first_s=3600, max_s=3600)], ids=["parked", "waiting"])
async def test_what_a_group_has_put_aside_stays(world: World, raw: redis.Redis, policy: Any):  # noqa: ANN401
    store = await filled(world, 6)
    await store.group(GROUP).consume(
        lambda e: 1 / (e.position - 3), idle_stop=0, on_error=lambda _: None, policy=policy
    )
    done = await kept(store).trim(max_count=1)
    assert (done.removed, done.kept, done.held_by) == (2, 3, ("group", GROUP))
    assert positions(raw, store) == [3, 4, 5, 6]
    (holder,) = (await kept(store).floor()).holders
    assert (holder.kind, holder.name, holder.position, holder.held) == ("group", GROUP, 2, 4)
    assert holder.held_bytes > 0
    assert holder.since == (await store.read_all(after=2, limit=1)).pop().time
    assert holder.seen is not None


async def test_what_a_consumer_gave_back_or_has_not_read_stays(world: World, raw: redis.Redis):
    store = await filled(world, 4)
    raw.xgroup_create(store.keys.log, GROUP, "0")
    raw.xgroup_create(store.keys.log, "slow", "1-0")
    raw.xreadgroup(GROUP, "~free", {store.keys.log: ">"}, count=3)
    raw.xack(store.keys.log, GROUP, "1-0", "3-0")
    assert (await kept(store).trim(max_count=1)).removed == 1
    assert await held_by(store) == [("group", GROUP, 1), ("group", "slow", 1)]
    raw.xack(store.keys.log, GROUP, "2-0")
    assert await held_by(store) == [("group", "slow", 1), ("group", GROUP, 3)]


async def test_a_group_that_was_lost_keeps_what_it_has_not_had(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    failing = lambda e: 1 / (e.position - 3)  # noqa: E731
    await store.group(GROUP).consume(failing, idle_stop=0, on_error=lambda _: None, policy=LATER)
    raw.xgroup_destroy(store.keys.log, GROUP)
    assert (await kept(store).trim(max_count=1)).removed == 2
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert seen == [3, 4, 5, 6]


async def test_projections_and_registered_readers_keep_what_they_have_not_had(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    await store.projection("totals").run(lambda changes, e: changes.add("kwh", int(e.event.kwh)), once=True)
    await store.append("a", [Placed(kwh=1)] * 5)
    await kept(store).note_reader("view", 5)
    await kept(store).note_reader(
        "elsewhere", (await store.read_all(after=5, limit=1)).pop().checkpoint, kind="replicator"
    )
    assert await held_by(store) == [
        ("projection", "totals", 3),
        ("reader", "view", 5),
        ("replicator", "elsewhere", 6),
    ]
    done = await kept(store).trim(max_count=1)
    assert (done.removed, done.held_by) == (3, ("projection", "totals"))
    assert await kept(store).release("projection", "totals")
    assert not await kept(store).release("projection", "totals")
    assert raw.exists(store.keys.view("totals")) == 0
    assert (await kept(store).trim(max_count=1)).removed == 2
    assert await kept(store).release("reader", "view")
    assert (await kept(store).trim(max_count=1)).held_by == ("replicator", "elsewhere")


async def test_a_reader_that_was_silent_for_its_ttl_holds_nothing(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    await kept(store).note_reader("gone", 1, ttl=3600)
    await kept(store).note_reader("for ever", 2, ttl=None)
    noted = raw.hget(store.keys.readers, "gone").split(b" ")
    noted[1] = str(int(noted[1]) - 3_600_001).encode()
    raw.hset(store.keys.readers, "gone", b" ".join(noted))
    assert await held_by(store) == [("reader", "for ever", 2)]
    assert (await kept(store).trim(max_count=1)).removed == 2
    assert raw.hkeys(store.keys.readers) == [b"for ever"], "who is forgotten leaves nothing"


async def test_a_subscription_with_a_name_is_remembered_and_goes_on(world: World):
    store = await filled(world, 6)
    events = store.subscribe(reader="dashboard")
    assert [e.position for e in await events.take(4)] == [1, 2, 3, 4]
    # The fourth is only dealt with when the next one is asked for.
    events.stop()
    assert await events.next() is None
    assert await held_by(store) == [("reader", "dashboard", 4)]
    assert (await kept(store).trim(max_count=1)).removed == 4
    again = store.subscribe(reader="dashboard", after="now")
    assert [e.position for e in await again.take(2)] == [5, 6]
    again.stop()


async def test_a_reader_that_broke_off_at_an_event_gets_it_again(world: World):
    store = await filled(world, 3)
    await store.subscribe(reader="dashboard").take(2)
    assert (await held_by(store)).pop()[2] < 2
    seen = await store.subscribe(reader="dashboard").next()
    assert seen.position <= 2


async def test_a_reader_is_known_before_its_first_page(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    events = store.subscribe(reader="dashboard", after="now")
    waiting = asyncio.create_task(events.next())
    await until(lambda: raw.hexists(store.keys.readers, "dashboard"))
    await store.append("a", Placed(kwh=4))
    assert (await waiting).position == 4
    events.stop()


async def test_a_group_that_is_made_after_a_trim_begins_with_what_is_there(world: World, raw: redis.Redis):
    store = await filled(world, 5)
    await kept(store).trim(max_count=2)
    seen: list[int] = []
    await store.group(GROUP).consume(lambda e: seen.append(e.position), idle_stop=0)
    assert seen == [4, 5]
    assert raw.xinfo_groups(store.keys.log)[0]["lag"] == 0


async def test_trims_at_once_remove_what_one_would(world: World, raw: redis.Redis):
    store = await filled(world, 3 * STEP)
    await kept(store).note_reader("view", 2 * STEP + 7)
    await asyncio.gather(*(kept(store).trim(max_count=1) for _ in range(4)))
    assert positions(raw, store)[0] == 2 * STEP + 8


async def test_by_memory_about_as_much_goes_as_is_too_much(world: World):
    store = await filled(world, 5000)
    before = (await kept(store).floor()).log_bytes
    done = await kept(store).trim(max_bytes=before // 2)
    assert 1500 < done.left < 3500
    assert (await kept(store).floor()).log_bytes < 0.7 * before


@pytest.mark.parametrize("expected", [ANY, EXISTS, 0], ids=str)
async def test_an_append_sent_again_is_recognised_when_the_log_has_forgotten_it(world: World, expected: Any):  # noqa: ANN401
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="first")
    at = 0 if expected == 0 else expected
    stream = "b" if expected == 0 else "a"
    for n in range(5):
        await store.append("b" if stream == "a" else "a", Placed(kwh=1))
        if n == 2:
            done = await store.append(stream, [Placed(kwh=2), Placed(kwh=3)], event_ids=["x", "y"], expected_version=at)
    await store.append(stream, [Placed(kwh=9)] * 3)
    await kept(store).trim(max_count=1)
    again = await store.append(stream, [Placed(kwh=2), Placed(kwh=3)], event_ids=["x", "y"], expected_version=at)
    assert again == type(again)(done.version, done.position, done.event_ids, replayed=True)
    with pytest.raises(errors.WrongVersion):
        await store.append(stream, [Placed(kwh=3), Placed(kwh=2)], event_ids=["y", "x"], expected_version=at)


async def test_a_part_of_the_past_that_was_removed_is_told_and_not_empty(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    await kept(store).trim(max_count=2)
    raw.xtrim(store.keys.stream("a"), minid="5-0", approximate=False)
    for reverse in (False, True):
        with pytest.raises(errors.Truncated) as caught:
            await store.read_all(before=3, reverse=reverse)
        assert caught.value.first >= 5 or reverse
        with pytest.raises(errors.Truncated):
            await store.read("a", from_version=1, to_version=2, reverse=reverse)
        assert await store.read_all(after=6, before=9, reverse=reverse) == []


async def test_a_key_of_a_wrong_type_is_told_and_nothing_goes(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    raw.set(store.keys.readers, "x")
    with pytest.raises(errors.ServerError) as caught:
        await kept(store).trim(max_count=1)
    assert caught.value.code == "WRONGTYPE"
    assert raw.xlen(store.keys.log) == 3


async def test_an_empty_store_has_nothing_to_remove(world: World, raw: redis.Redis):
    store = world.store(Order)
    assert await kept(store).trim(max_count=1) == Trimmed(0, 0, 0, None)
    floor = await kept(store).floor()
    assert (floor.events, floor.free, floor.log_bytes, floor.holders) == (0, 0, 0, ())
    # Fewer events than may stay, and an age to look for among none.
    assert await kept(store).trim(max_count=5, max_age=1) == Trimmed(0, 0, 0, None)
    assert raw.dbsize() == 0


@pytest.mark.parametrize(
    "options", [{}, {"max_count": 0}, {"max_count": True}, {"max_age": -1}, {"max_bytes": 1.5}], ids=str
)
async def test_a_limit_that_cannot_be_used_is_refused(world: World, options: Any):  # noqa: ANN401
    with pytest.raises(errors.UsageError):
        await kept(world.store(Order)).trim(**options)


async def test_a_group_that_is_released_holds_nothing_and_keeps_its_dead_letters(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: None, policy=LATER)
    assert await kept(store).release("group", GROUP)
    assert await held_by(store) == []
    assert not raw.exists(store.keys.retry(GROUP), store.keys.failed(GROUP), store.keys.waiting(GROUP))
    with pytest.raises(errors.UsageError):
        await kept(store).release("nonsense", GROUP)
    await until(lambda: raw.xinfo_groups(store.keys.log) == [])


async def test_a_group_that_nobody_consumes_any_more_can_be_given_up(world: World, raw: redis.Redis):
    store = await filled(world, 4)
    await store.group(GROUP).consume(lambda _: 1 / 0, idle_stop=0, on_error=lambda _: None, policy=LATER)
    assert (await kept(store).trim(max_count=1, expire_after=60)).expired == ()
    floor, seen = raw.hget(store.keys.floors, GROUP).split()
    raw.hset(store.keys.floors, GROUP, b"%b %d" % (floor, int(seen) - 61_000))
    done = await kept(store).trim(max_count=1, expire_after=60)
    assert (done.removed, done.expired) == (3, (GROUP,))
    with pytest.raises(errors.Truncated):
        await store.group(GROUP).consume(lambda _: None, idle_stop=0)


@pytest.mark.any_server
@pytest.mark.parametrize("log", ["copy", "link"])
async def test_what_an_outbox_has_not_moved_survives_every_trim(world: World, raw: redis.Redis, log: Any):  # noqa: ANN401
    """It holds no floor, for it holds the events themselves: the one that was handled may go, here and there."""
    store, bills = await filled(world, 3, log=log), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    assert (await kept(store).trim(max_count=1)).left == 1
    assert await kept(store).release("group", GROUP)
    raw.xtrim(store.keys.stream("a"), maxlen=0, approximate=False)
    assert await held_by(store) == []
    assert await outbox.count() == 3
    assert await outbox.relay(once=True) == 3
    assert (await kept(bills).trim(max_count=1)).left == 1
    # A relay that was slower brings what was accepted and has left that log since: its number tells.
    raw.xadd(store.keys.outbox(bills.keys.base), {"s": "b", "m": "", "i": "x", "t": "Placed", "d": "{}"}, id="4-0")
    raw.hset(bills.keys.senders, store.keys.outbox(bills.keys.base), 4)
    assert await outbox.relay(once=True) == 1
    assert await reasons(bills, "b") == ["1", "and", "2", "and", "3", "and"]
