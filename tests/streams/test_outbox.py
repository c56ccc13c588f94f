"""Outboxes: what a commit sends to another store is appended there once and in order, whatever dies on the way."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams._outbox import ACCEPT
from tests.streams.conftest import Both, until
from tests.streams.models import Cancelled, Order, Placed
from tests.streams.test_consumer import GROUP, Counted, filled
from tests.streams.test_delivery import committing

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World


def sending(world: World, outbox: Any, *streams: str) -> Any:
    """Return a handler that sends an answer to each of these streams."""

    def fill(tx: Any, delivery: Any) -> None:
        for stream in streams:
            tx.send(outbox.inner, stream, [Cancelled(reason=str(delivery.position)), Cancelled(reason="and")])

    return committing(world, fill)


def opened(world: World, store: Store, target: Store) -> Any:
    return Both(store.store.outbox(target.store), is_async=world.is_async)


async def reasons(store: Store, stream: str) -> list[str]:
    return [recorded.event.reason for recorded in await store.read(stream)]


async def test_what_is_sent_is_there_once_and_in_order(world: World, raw: redis.Redis):
    store, bills = await filled(world, 3), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b", "c"), idle_stop=0)
    assert await outbox.count() == 6
    assert await bills.read_all() == []
    assert await outbox.relay(once=True) == 6
    assert await outbox.count() == 0
    for stream in ("b", "c"):
        assert await reasons(bills, stream) == ["1", "and", "2", "and", "3", "and"]
    first, order = (await bills.read("b"))[0], (await store.read("a"))[0]
    assert (first.causation_id, first.correlation_id) == (order.id, order.id)
    assert await outbox.relay(once=True) == 0
    assert repr(outbox.inner).endswith("Outbox of 'orders' for 'bills'>")
    keys, sender = bills.keys, store.keys.outbox(bills.keys.base)
    assert raw.hgetall(keys.senders) == {sender.encode(): b"6"}, "that is all that is remembered"


async def test_what_was_moved_and_not_removed_is_not_appended_again(world: World, raw: redis.Redis):
    """A relay that dies between the two leaves it to the next one."""
    store, bills = await filled(world, 3), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    left = raw.xrange(store.keys.outbox(bills.keys.base))
    await outbox.relay(once=True)
    before = await bills.read_all()
    raw.delete(store.keys.outbox(bills.keys.base), bills.keys.recent)
    for entry_id, fields in left:
        raw.xadd(store.keys.outbox(bills.keys.base), fields, id=entry_id)
    # It was acknowledged by number; that its ids are old does not matter.
    assert await outbox.relay(once=True) == 3
    assert await bills.read_all() == before


@pytest.mark.any_server
async def test_relays_at_the_same_time_do_the_same(world: World):
    store, bills = await filled(world, 60), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    others = [opened(world, world.store(Order), world.store(Order, "bills")) for _ in range(3)]
    await asyncio.gather(*(each.relay(once=True) for each in (outbox, *others)))
    assert (await reasons(bills, "b"))[::2] == [str(n + 1) for n in range(60)]


async def test_a_gap_is_told_and_nothing_behind_it_is_moved(world: World, raw: redis.Redis):
    store, bills = await filled(world, 3), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    raw.xdel(store.keys.outbox(bills.keys.base), "2-0")
    with pytest.raises(errors.Diverged, match=r"accepted number 1 .* here is 3"):
        await outbox.relay(once=True)
    assert await reasons(bills, "b") == ["1", "and"]


@pytest.mark.any_server
async def test_a_relay_goes_on_until_it_is_stopped_and_run_has_one(world: World):
    store, bills = world.store(Order), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    relaying = asyncio.create_task(outbox.relay())
    store.store.on(Placed, group=GROUP)(sending(world, outbox, "b"))
    running = asyncio.create_task(Both(store.store, is_async=world.is_async).run())
    await store.append("a", Placed(kwh=1))
    await until(lambda: raw_count(bills) == 2)
    outbox.inner.stop()
    await relaying
    await store.append("a", Placed(kwh=2))
    await until(lambda: raw_count(bills) == 4)
    store.store.stop()
    await running
    assert await reasons(bills, "b") == ["1", "and", "2", "and"]


def raw_count(store: Store) -> int:
    """Return how many events the store has, from a thread that has no loop."""
    core = store.store._core
    client = store.client  # type: ignore[attr-defined]
    return int(client.xlen(core.keys.log))


@pytest.fixture(autouse=True)
def _looked_at(monkeypatch: pytest.MonkeyPatch, raw: redis.Redis) -> None:
    monkeypatch.setattr("tests.streams.conftest.Store.client", raw, raising=False)


async def test_other_partitions_are_reached_like_another_store(world: World):
    store = world.store(Order, partitions=4)
    for n in range(6):
        await store.append(f"s{n}", Placed(kwh=1))
    outbox = opened(world, store, store)
    streams = [f"t{n}" for n in range(6)]

    def fill(tx: Any, delivery: Any) -> None:
        if isinstance(delivery.event, Placed):
            for stream in streams:
                tx.send(outbox.inner, stream, Cancelled(reason=delivery.recorded.stream))

    await store.group(GROUP).consume(committing(world, fill), idle_stop=0)
    assert await outbox.relay(once=True) == 36
    for stream in streams:
        assert sorted(await reasons(store, stream)) == [f"s{n}" for n in range(6)]


@pytest.mark.any_server
async def test_an_outbox_of_another_store_and_wrong_events_are_refused(world: World):
    store, bills = await filled(world, 1), world.store(Placed, "bills")
    outbox, other = opened(world, store, bills), opened(world, bills, store)
    seen: list[str] = []

    def fill(tx: Any, _: Any) -> None:
        for wrong in (
            lambda: tx.send(other.inner, "b", Placed(kwh=1)),
            lambda: tx.send(outbox.inner, "b", Cancelled(reason="x")),
            lambda: tx.send(outbox.inner, "", Placed(kwh=1)),
            lambda: tx.send(outbox.inner, "b", []),
        ):
            try:
                wrong()
            except errors.UsageError as error:
                seen.append(str(error))

    done = await store.group(GROUP).consume(committing(world, fill), idle_stop=0)
    assert done.handled == 1
    assert len(seen) == 4
    assert "another store" in seen[0]
    assert await outbox.count() == 0


@pytest.mark.any_server
async def test_a_relay_is_one_script_for_each_consignment(world: World):
    io = Counted(world.io(), ACCEPT)
    store, bills = await filled(world, 5), world.store(Order, "bills", io=io)
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    await outbox.relay(once=True)
    assert io.count == 5
