"""Outboxes: what a commit sends to another store is appended there once and in order, whatever dies on the way."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams._outbox import ACCEPT, MOVED
from tests.streams.conftest import NAMESPACE, Both, until
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
    known = raw.hgetall(keys.senders)
    assert known.pop(sender.encode()) == b"6"
    marks = {
        f"{sender} {n}".encode(): f"{n} {bill.id}".encode()
        for n, bill in zip((1, 3, 5), (await bills.read("b"))[::2], strict=True)
    }
    assert {key: known[key] for key in marks} == marks
    assert len(known) == 6, "and of each of the newest its first event's id"


async def test_what_was_moved_and_not_removed_is_not_appended_again(world: World, raw: redis.Redis):
    """A relay that dies between the two leaves it to the next one."""
    store, bills = await filled(world, 3), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    left = raw.dump(store.keys.outbox(bills.keys.base))
    await outbox.relay(once=True)
    before = await bills.read_all()
    raw.delete(bills.keys.recent)
    raw.restore(store.keys.outbox(bills.keys.base), 0, left, replace=True)
    # It was acknowledged by number; that its ids are old does not matter.
    assert await outbox.relay(once=True) == 3
    assert await bills.read_all() == before


@pytest.mark.any_server
async def test_what_a_sender_sends_after_a_failover_under_numbers_that_were_accepted_is_moved(
    world: World, raw: redis.Redis
):
    """Its last commits are lost and their events are handled again, behind a new one, or are lost, too."""
    store, bills = await filled(world, 2), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    await outbox.relay(once=True)
    kept = {key: raw.dump(key) for key in raw.scan_iter(f"{store.keys.base}*")}
    await store.append("a", [Placed(kwh=3), Placed(kwh=4)])
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    await outbox.relay(once=True)
    # The primary of the sender is gone with its last two events, and its replica had not heard of them.
    for key in raw.scan_iter(f"{store.keys.base}*"):
        raw.delete(key)
    for key, value in kept.items():
        raw.restore(key, 0, value)
    await store.append("c", Placed(kwh=5))
    await store.group(GROUP).consume(sending(world, outbox, "b2"), idle_stop=0)
    # The relay had not heard yet that what it moved under this number was removed, and asks for it once more.
    lost = (await bills.read("b"))[4]
    raw.script_load(MOVED.source)
    assert raw.execute_command(*MOVED.words((store.keys.outbox(bills.keys.base),), ("3-0", lost.id))) == 0
    assert await outbox.relay(once=True) == 1
    assert await reasons(bills, "b2") == ["3", "and"]
    await store.append("c", Placed(kwh=6), event_ids="six")
    await store.group(GROUP).consume(sending(world, outbox, "b2"), idle_stop=0)
    left = raw.dump(store.keys.outbox(bills.keys.base))
    assert await outbox.relay(once=True) == 1
    # And what is moved again because a relay died before it removed it, is not appended again.
    raw.delete(bills.keys.recent)
    raw.restore(store.keys.outbox(bills.keys.base), 0, left, replace=True)
    assert await outbox.relay(once=True) == 1
    assert await reasons(bills, "b2") == ["3", "and", "4", "and"]
    assert await reasons(bills, "b") == ["1", "and", "2", "and", "3", "and", "4", "and"]


async def test_what_a_sender_sends_under_a_number_too_old_to_be_compared_is_told(world: World, raw: redis.Redis):
    """Nobody knows any more what was accepted under it: it may be lost, or be there already."""
    store, bills = await filled(world, 1), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    sender = store.keys.outbox(bills.keys.base)
    raw.hset(bills.keys.senders, mapping={sender: 130, f"{sender} 1": "129 other"})
    with pytest.raises(errors.Diverged, match=r"accepted number 130 .* is 1"):
        await outbox.relay(once=True)
    assert await outbox.count() == 1
    assert await bills.read_all() == []


@pytest.mark.any_server
@pytest.mark.parametrize("facts", [{}, {"w": "1", "n": "0", "z": "of a later version"}])
async def test_a_consignment_may_have_other_facts_than_this_version_writes(
    world: World, raw: redis.Redis, facts: dict[str, str]
):
    """While processes are replaced, relays of one version meet what the other one has sent."""
    store, bills = world.store(Order), world.store(Order, "bills")
    outbox, box = opened(world, store, bills), store.keys.outbox(bills.keys.base)
    event = {"i": "event-1", "t": "Cancelled", "d": '{"reason":"x"}'}
    raw.xadd(box, {"s": "b", "m": "", **facts, **event}, id="1-0")
    raw.hset(store.keys.sent, mapping={box: 1, **({f"#{box}": 1} if facts else {})})
    (info,) = await outbox.info()
    assert (info.consignments, info.events) == (1, 1 if facts else 0)
    assert await outbox.relay(once=True) == 1
    assert await reasons(bills, "b") == ["x"]


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
async def test_an_outbox_that_is_asked_for_again_and_again_is_one_for_run(world: World):
    """A handler that asks for it with each event would give `run` as many relays."""
    store, bills, others = world.store(Order), world.store(Order, "bills"), world.store(Order, "others")
    for _ in range(3):
        last = store.store.outbox(bills.store)
        store.store.outbox(others.store)
    assert len(store.store._routes.outboxes) == 2
    assert last in store.store._routes.outboxes


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


async def test_how_much_is_on_its_way_is_seen_in_consignments_events_and_seconds(world: World, raw: redis.Redis):
    """An alarm on the age hears of a relay that hangs, whoever is asked: the store, or the outbox."""
    store, bills = await filled(world, 3), world.store(Order, "bills")
    outbox = opened(world, store, bills)
    (nothing,) = await outbox.info()
    assert (nothing.consignments, nothing.events, nothing.oldest_age, nothing.sent) == (0, 0, None, 0)
    look = Both(store.store, is_async=world.is_async)
    assert (await look.info()).outboxes == ()
    await store.group(GROUP).consume(sending(world, outbox, "b", "c"), idle_stop=0)
    box = store.keys.outbox(bills.keys.base)
    sent = {name.decode(): int(value) for name, value in raw.hgetall(store.keys.sent).items()}
    assert sent == {box: 6, f"#{box}": 12}
    (info,) = await outbox.info()
    assert (info.store, info.target, info.namespace) == ("orders", "bills", NAMESPACE)
    assert (info.consignments, info.events, info.sent) == (6, 12, 6)
    before = {key: raw.dump(key) for key in raw.scan_iter()}
    (told,) = (await look.info()).outboxes
    assert told.oldest_age is not None
    assert info.oldest_age is not None
    assert replace(told, oldest_age=info.oldest_age) == info
    assert {key: raw.dump(key) for key in raw.scan_iter()} == before, "who looks changes nothing"
    ((_, first),) = raw.xrange(box, "-", "+", count=1)
    seconds, micros = raw.time()
    since = seconds + micros / 1_000_000 - int(first[b"w"]) / 1_000_000
    assert info.oldest_age <= told.oldest_age <= since
    # As if a relay had moved the first two and died.
    raw.xtrim(box, minid="3-0", approximate=False)
    (rest,) = await outbox.info()
    assert (rest.consignments, rest.events, rest.sent) == (4, 8, 6)
    raw.xtrim(box, maxlen=0, approximate=False)
    (done,) = await outbox.info()
    assert (done.consignments, done.events, done.oldest_age, done.sent) == (0, 0, None, 6)


async def test_each_partition_that_sends_and_each_that_gets_is_told(world: World):
    store, bills = world.store(Order, partitions=2), world.store(Order, "bills {all}: 100%", partitions=3)
    for n in range(6):
        await store.append(f"s{n}", Placed(kwh=1))
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, *(f"t{n}" for n in range(9))), idle_stop=0)
    infos = await outbox.info()
    pairs = [(info.partition, info.target_partition) for info in infos]
    assert pairs == [(here, there) for here in range(2) for there in range(3)]
    assert {(info.target, info.namespace) for info in infos} == {("bills {all}: 100%", NAMESPACE)}
    for info in infos:
        here = sum(store.store.partition_of(f"s{n}") == info.partition for n in range(6))
        there = sum(bills.store.partition_of(f"t{n}") == info.target_partition for n in range(9))
        assert (info.consignments, info.events) == (here * there, 2 * here * there)
    told = (await Both(store.store, is_async=world.is_async).info()).outboxes
    used = {(info.partition, info.target_partition) for info in infos if info.sent}
    assert {(info.partition, info.target_partition) for info in told} == used
    assert sum(info.consignments for info in told) == 54
