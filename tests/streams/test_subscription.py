"""Subscriptions: from the past into the present, without a gap or a doublet, until they are stopped."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, errors
from gridsync.streams._pages import PAGE
from tests.streams.conftest import until
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from gridsync.testing.servers import RedisServer
    from tests.streams.conftest import Store, Subscribed, World


def blocked(raw: redis.Redis, count: int = 1) -> Callable[[], bool]:
    """Return what tells whether so many readers wait at the server."""
    return lambda: raw.info("clients")["blocked_clients"] >= count


async def test_it_goes_from_the_past_into_the_present(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    events = store.subscribe()
    assert [e.position for e in await events.take(3)] == [1, 2, 3]
    for position in (4, 5, 6):
        waiting = asyncio.create_task(events.next())
        await until(blocked(raw))
        await store.append("b", Placed(kwh=position))
        recorded = await waiting
        assert (recorded.position, recorded.event) == (position, Placed(kwh=position))
        assert events.checkpoint == recorded.checkpoint


async def test_nothing_is_left_out_or_given_twice_while_writers_go_on(world: World):
    store, writer = world.store(Order), world.store(Order)
    await store.append("a", [Placed(kwh=1)] * (PAGE + 100))

    async def write() -> None:
        for _ in range(60):
            await writer.append("b", [Placed(kwh=1)] * 10)

    writing = asyncio.create_task(write())
    events = store.subscribe()
    total = PAGE + 700
    assert [e.position for e in await events.take(total)] == list(range(1, total + 1))
    await writing
    events.stop()
    assert await events.next() is None


async def test_it_begins_where_it_is_told(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    two = (await store.read_all())[1].checkpoint
    for after in (2, "2", two):
        events = store.subscribe(after=after)
        assert events.checkpoint == str(after)
        assert (await events.next()).position == 3
    now, empty = store.subscribe(after="now"), world.store(Order, name="empty").subscribe(after="now")
    waiting = [asyncio.create_task(each.next()) for each in (now, empty)]
    await until(blocked(raw, 2))
    await store.append("a", Placed(kwh=1))
    assert (await waiting[0]).position == 4
    await world.store(Order, name="empty").append("a", Placed(kwh=1))
    assert (await waiting[1]).position == 1


async def test_the_checkpoint_moves_on_though_nothing_is_wanted(world: World, raw: redis.Redis):
    """Otherwise a restart would read everything again that nobody wants."""
    store = world.store(Order)
    await store.append("order-1", [Placed(kwh=1)] * 5)
    events = store.subscribe(types=[Cancelled], category="order")
    waiting = asyncio.create_task(events.next())
    await until(lambda: events.checkpoint.startswith("5:"))
    await store.append("bill-1", Cancelled(reason="x"))
    await until(lambda: events.checkpoint.startswith("6:"))
    await store.append("order-2", [Placed(kwh=1), Cancelled(reason="y"), Placed(kwh=1)])
    assert (await waiting).position == 8
    assert events.checkpoint.startswith("8:")
    del raw


async def test_stopping_ends_a_reader_that_waits(world: World, raw: redis.Redis):
    store = world.store(Order)
    events = store.subscribe()
    waiting = asyncio.create_task(events.next())
    await until(blocked(raw))
    events.stop()
    assert await asyncio.wait_for(waiting, 20) is None
    assert await events.next() is None
    assert "stopped" in repr(events.subscription)


async def test_a_block_stops_it_at_its_end(world: World):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    seen: list[int] = []
    subscription: Any = store.store.subscribe()
    if hasattr(subscription, "__aiter__"):
        async with subscription as events:
            async for recorded in events:
                seen.append(recorded.position)
                if len(seen) == 2:
                    break
    else:
        with subscription as events:
            for recorded in events:
                seen.append(recorded.position)
                if len(seen) == 2:
                    break
    assert seen == [1, 2]
    assert list([] if hasattr(subscription, "__aiter__") else subscription) == []


async def test_a_cancelled_step_loses_nothing(flushed: RedisServer, raw: redis.Redis):
    async with AsyncGrid(flushed.url) as grid:
        store = grid.events("orders", Order)
        events = store.subscribe()
        for position in (1, 2, 3):
            waiting = asyncio.ensure_future(anext(events))
            await until(blocked(raw))
            waiting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await waiting
            await store.append("a", Placed(kwh=1))
            assert (await anext(events)).position == position


async def test_an_event_that_cannot_be_read_is_named_and_not_passed_over(world: World):
    await world.store(Order).append("a", [Placed(kwh=1), Cancelled(reason="x"), Placed(kwh=1)])
    events = world.store(Placed).subscribe()
    first = await events.next()
    with pytest.raises(errors.UnknownEventType):
        await events.next()
    assert events.checkpoint == first.checkpoint, "whoever goes on elsewhere meets it again"
    assert (await events.next()).position == 3, "whoever goes on here has seen the error"


async def _lose(store: Store, raw: redis.Redis, events: Subscribed, lost: int) -> None:
    """Bring the store back to where it was before the newest events."""
    keys = [store.keys.log, store.keys.meta, store.keys.versions, store.keys.recent, store.keys.stream("a")]
    kept = {key: raw.dump(key) for key in keys}
    await store.append("a", [Placed(kwh=1)] * lost)
    await events.take(lost)
    raw.delete(*keys)
    for key, value in kept.items():
        raw.restore(key, 0, value)


async def test_events_that_a_failover_lost_end_it(world: World, raw: redis.Redis):
    """What it told others before is not true any more, and nobody else would notice."""
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 3)
    events = store.subscribe()
    await events.take(3)
    await _lose(store, raw, events, 2)
    assert events.checkpoint.startswith("5:")
    await store.append("a", [Placed(kwh=1)] * 4)
    with pytest.raises(errors.Diverged) as caught:
        await events.next()
    assert caught.value.checkpoint == events.checkpoint


async def test_removed_events_end_it(world: World, raw: redis.Redis):
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1)] * 5)
    events = store.subscribe(after=1)
    raw.xtrim(store.keys.log, minid="4-0", approximate=False)
    with pytest.raises(errors.Truncated) as caught:
        await events.next()
    assert caught.value.first == 4


@pytest.mark.parametrize("options", [{"after": -1}, {"after": "soon"}, {"types": []}, {"category": "a-b"}])
async def test_a_bad_argument_is_refused_at_once(world: World, options: dict[str, Any]):
    with pytest.raises(errors.UsageError):
        world.store(Order).subscribe(**options)
