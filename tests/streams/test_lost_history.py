"""A failover, a restore or a flush that lost events which were handled: consumers are told, and skip nothing."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
import threading
from contextlib import asynccontextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import run_sync
from gridsync.errors import DeliveryLost, Diverged
from gridsync.streams import STOP, AsyncDelivery, Delivery
from gridsync.streams._settling import ACK
from tests.streams.conftest import until
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import redis

    from tests.streams.conftest import Group, Store, World

pytestmark = pytest.mark.any_server
GROUP = "billing"


class Work:
    """A handler that notes what it gets, and is stopped in the middle of one event."""

    def __init__(self, *, is_async: bool) -> None:
        self._is_async = is_async
        self.gate = threading.Event()
        self.begun: list[float] = []
        self.handled: list[float] = []
        self.told: list[Any] = []

    @property
    def handle(self) -> Any:
        return self._wait if self._is_async else self._block

    async def _wait(self, recorded: Any) -> None:
        self.begun.append(recorded.event.kwh)
        await until(lambda: recorded.event.kwh != 33 or self.gate.is_set(), 60)
        self.handled.append(recorded.event.kwh)

    def _block(self, recorded: Any) -> None:
        self.begun.append(recorded.event.kwh)
        assert recorded.event.kwh != 33 or self.gate.wait(60)
        self.handled.append(recorded.event.kwh)


@asynccontextmanager
async def working(
    group: Group, work: Work, handle: Any = None, *, claim_idle: float = 0.6, **options: Any
) -> AsyncIterator[asyncio.Task[Any]]:
    options |= {"on_error": work.told.append, "claim_idle": claim_idle}
    task = asyncio.create_task(group.consume(handle or work.handle, **options))
    try:
        yield task
    finally:
        work.gate.set()
        group.stop()
        await asyncio.wait([task])


def copied(raw: redis.Redis) -> dict[bytes, bytes]:
    """Return everything the server knows, as a replica that falls behind from now on would know it."""
    return {key: raw.dump(key) for key in raw.scan_iter()}


def fail_over(raw: redis.Redis, kept: dict[bytes, bytes]) -> None:
    """Let the server know only that."""
    with raw.pipeline(transaction=True) as at_once:
        at_once.flushall()
        for key, value in kept.items():
            at_once.restore(key, 0, value)
        at_once.execute()


async def handled_two(world: World, raw: redis.Redis, work: Work) -> Store:
    """Wait until the first two events are settled."""
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    await store.group(GROUP).consume(work.handle, idle_stop=0)
    assert raw.xpending(store.keys.log, GROUP)["pending"] == 0
    return store


async def test_an_event_that_gets_the_position_of_one_in_work_is_handled_and_the_loss_told(
    world: World, raw: redis.Redis
):
    """Otherwise the acknowledgement of the lost one would count for the new one, and nobody would ever handle that."""
    work = Work(is_async=world.is_async)
    store = await handled_two(world, raw, work)
    kept = copied(raw)
    # The delivery to come is in the history that will be lost, the consumer's name is not: it goes on as it was.
    async with working(store.group(GROUP), work, consumer="c", concurrency=2 if world.is_async else 1):
        await store.append("a", Placed(kwh=33))
        await until(lambda: 33 in work.begun)
        fail_over(raw, kept)
        assert (await store.append("b", Placed(kwh=44))).position == 3
        if not world.is_async:
            work.gate.set()
        await until(lambda: 44 in work.begun and work.told, 30)
        work.gate.set()
        await until(lambda: 33 in work.handled and 44 in work.handled, 30)
    (failure,) = work.told
    assert isinstance(failure.error, Diverged)
    assert (failure.decided, failure.position, failure.recorded) == ("diverged", 3, None)
    assert raw.xpending(store.keys.log, GROUP)["pending"] == 0


async def test_an_acknowledgement_that_finds_nothing_lets_the_consumer_look_what_is_there(
    world: World, raw: redis.Redis
):
    """It is the first sign of a failover that lost events where nothing is appended any more."""
    work = Work(is_async=world.is_async)
    store = await handled_two(world, raw, work)
    kept = copied(raw)
    async with working(store.group(GROUP), work, consumer="c", claim_idle=3600):
        await store.append("a", Placed(kwh=33))
        await until(lambda: 33 in work.begun)
        fail_over(raw, kept)
        work.gate.set()
        await until(lambda: work.told, 60)
    assert [(failure.decided, failure.position) for failure in work.told] == [("diverged", 3)]


@pytest.mark.parametrize("world", ["sync"], indirect=True)
async def test_an_acknowledgement_repeated_after_a_failover_settles_nothing_new(world: World, raw: redis.Redis):
    """What comes late names the positions of lost events, and others that nobody has handled have them since."""
    store = world.store(Order)
    keys = store.keys
    settling = (keys.log, keys.retry(GROUP), keys.failed(GROUP), keys.waiting(GROUP))
    await store.append("a", Placed(kwh=1))
    raw.xgroup_create(keys.log, GROUP, "0")
    kept = copied(raw)
    await store.append("a", [Placed(kwh=2), Placed(kwh=3)])
    words: list[Any] = [GROUP, "c"]
    for entry_id, fields in raw.xreadgroup(GROUP, "c", {keys.log: ">"})[0][1]:
        words += [entry_id, fields[b"i"] + b" " + fields[b"w"]]

    fail_over(raw, kept)
    await store.append("b", Placed(kwh=4))
    assert len(raw.xreadgroup(GROUP, "c", {keys.log: ">"})[0][1]) == 2
    io = world.io()

    def acknowledge() -> Any:
        return run_sync(io.run(ACK, settling, words))

    # 1 is the same event, 2 another one, and nothing is at 3.
    assert [await asyncio.to_thread(acknowledge) for _ in range(2)] == [[1, -1, 0], [0, -1, 0]]
    assert [row["message_id"] for row in raw.xpending_range(keys.log, GROUP, "-", "+", 9)] == [b"2-0"]


@pytest.mark.parametrize("ordered", [False, True])
async def test_what_came_of_a_lost_event_is_not_committed_for_the_one_that_has_its_position(
    world: World, raw: redis.Redis, *, ordered: bool
):
    """Otherwise the new event would be settled with what was made of the lost one, and nobody would ever handle it."""
    work, lost = Work(is_async=world.is_async), []
    store = world.store(Order)
    group = store.group(GROUP, ordered=ordered)

    def handle(delivery: Delivery[Any]) -> None:
        work._block(delivery.recorded)
        try:
            with delivery.commit() as tx:
                tx.add(f"{delivery.event.kwh:g}", 1)
        except DeliveryLost as error:
            lost.append(error)
            raise

    async def handle_async(delivery: AsyncDelivery[Any]) -> None:
        await work._wait(delivery.recorded)
        try:
            async with delivery.commit() as tx:
                tx.add(f"{delivery.event.kwh:g}", 1)
        except DeliveryLost as error:
            lost.append(error)
            raise

    def counted() -> dict[bytes, bytes]:
        return raw.hgetall(store.keys.state(GROUP))

    async with working(group, work, handle_async if world.is_async else handle, claim_idle=5, consumer="c"):
        await store.append("a", Placed(kwh=1))
        await until(lambda: counted() == {b"1": b"1"}, 60)
        kept = copied(raw)
        await store.append("a", Placed(kwh=33))
        await until(lambda: 33 in work.begun, 60)
        consumer = raw.xpending_range(store.keys.log, GROUP, "-", "+", 1)[0]["consumer"]
        fail_over(raw, kept)
        assert (await store.append("b", Placed(kwh=44))).position == 2
        # As by a request that was still on its way.
        assert raw.xreadgroup(GROUP, consumer, {store.keys.log: ">"})
        work.gate.set()
        await until(lambda: b"44" in counted(), 60)
    assert counted() == {b"1": b"1", b"44": b"1"}
    assert [error.name for error in lost] == [f"orders/{GROUP}"]
    assert isinstance(work.told[0].error, Diverged)
    assert raw.xpending(store.keys.log, GROUP)["pending"] == 0


@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_who_is_told_that_its_event_was_lost_keeps_the_one_that_has_its_position(world: World, raw: redis.Redis):
    """Otherwise nobody would renew that one, and another consumer would begin it in the middle of its handler."""
    work, gate = Work(is_async=True), asyncio.Event()
    store = world.store(Order)

    async def handle(delivery: AsyncDelivery[Any]) -> None:
        await work._wait(delivery.recorded)
        await until(lambda: delivery.event.kwh != 44 or gate.is_set(), 120)
        async with delivery.commit() as tx:
            tx.add(f"{delivery.event.kwh:g}", 1)

    ages: list[int] = []

    def renewals() -> int:
        """Count how often the delivery was seen younger than before."""
        ages.append(raw.xpending_range(store.keys.log, GROUP, "-", "+", 1)[0]["time_since_delivered"])
        return sum(later < before for before, later in pairwise(ages))

    async with working(store.group(GROUP), work, handle, claim_idle=3, consumer="c", concurrency=3):
        await store.append("a", Placed(kwh=1))
        await until(lambda: raw.hexists(store.keys.state(GROUP), "1"), 60)
        kept = copied(raw)
        await store.append("a", Placed(kwh=33))
        await until(lambda: 33 in work.begun, 60)
        fail_over(raw, kept)
        await store.append("b", Placed(kwh=44))
        await until(lambda: 44 in work.begun and work.told, 60)
        work.gate.set()
        await until(lambda: 33 in work.handled, 60)
        await until(lambda: renewals() >= 5, 60)
        gate.set()
        await until(lambda: raw.hexists(store.keys.state(GROUP), "44"), 60)
    assert work.begun.count(44) == 1


async def test_a_consumer_that_waits_is_told_that_what_it_handled_is_gone(world: World, raw: redis.Redis):
    """Nobody appends: it looks by itself."""
    work = Work(is_async=world.is_async)
    store = await handled_two(world, raw, work)
    kept = copied(raw)
    async with working(store.group(GROUP), work):
        await store.append("a", Placed(kwh=3))
        await until(lambda: 3 in work.handled)
        fail_over(raw, kept)
        await until(lambda: work.told, 30)
    assert (work.told[0].decided, work.told[0].position) == ("diverged", 3)


async def test_a_policy_may_end_the_consumer_when_events_are_gone(world: World, raw: redis.Redis):
    work = Work(is_async=world.is_async)
    store = await handled_two(world, raw, work)
    kept = copied(raw)
    async with working(store.group(GROUP), work, policy={Diverged: STOP}) as task:
        await store.append("a", Placed(kwh=3))
        await until(lambda: 3 in work.handled)
        fail_over(raw, kept)
        await asyncio.wait([task], timeout=30)
        with pytest.raises(Diverged, match=r"event '3:\d+:.*' was read before"):
            task.result()
    assert work.told[0].decided == "stop"


async def test_a_group_that_was_only_rewound_tells_nothing(world: World, raw: redis.Redis):
    """A replica that lacks acknowledgements and no events: they are handled again, as promised."""
    work = Work(is_async=world.is_async)
    store = world.store(Order)
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    async with working(store.group(GROUP), work):
        await until(lambda: work.handled == [1, 2])
        raw.xgroup_setid(store.keys.log, GROUP, "0-0")
        await store.append("a", Placed(kwh=3))
        await until(lambda: work.handled == [1, 2, 1, 2, 3], 30)
    assert not work.told


async def test_a_member_that_lost_its_partition_in_a_failover_tells_what_is_gone_of_it(world: World, raw: redis.Redis):
    """Whoever has the partition now has never seen the event, and cannot tell."""
    work = Work(is_async=world.is_async)
    store = world.store(Order)
    await store.append("a", Placed(kwh=1))
    async with working(store.group(GROUP, ordered=True), work, consumer="a"):
        await until(lambda: work.handled == [1])
        await until(lambda: raw.xpending(store.keys.log, GROUP)["pending"] == 0)
        kept = copied(raw)
        await store.append("a", Placed(kwh=2))
        await until(lambda: work.handled == [1, 2])
        fail_over(raw, kept)
        raw.hset(store.keys.lease(GROUP), mapping={"m": "b", "g": "9", "o": "b.9", "t": "9" * 14})
        await until(lambda: work.told, 60)
    (failure,) = work.told
    assert (type(failure.error), failure.decided, failure.position) == (Diverged, "diverged", 2)
    assert work.handled == [1, 2]
