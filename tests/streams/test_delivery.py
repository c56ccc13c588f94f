"""Deliveries: what a handler commits comes true at once, and once, whoever runs it and however often."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import STOP, AsyncDelivery, Delivery, Park, Recorded, Retry, _aside
from gridsync.streams._delivery import COMPLETE
from gridsync.streams._settling import ACK
from tests.streams.models import Cancelled, Order, Placed
from tests.streams.test_consumer import GROUP, Counted, age, filled, pending
from tests.streams.test_failures import nothing_left

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis

    from tests.streams.conftest import Store, World

SOON = Retry(first_s=0.01, max_s=0.01)


@pytest.fixture(autouse=True)
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut short by chance."""
    monkeypatch.setattr(_aside.Aside, "chance", lambda _: 1.0)


def committing(
    world: World,
    fill: Callable[[Any, Any], object],
    *,
    before: Callable[[Any], object] = lambda _: None,
    after: Callable[[Any], object] = lambda _: None,
    **options: Any,
) -> Callable[..., Any]:
    """Return a handler that commits what *fill* puts into the transaction; *after* gets that when it has ended."""

    def work(delivery: Delivery[Any]) -> None:
        before(delivery)
        with delivery.commit(**options) as tx:
            fill(tx, delivery)
        after(tx)

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        before(delivery)
        async with delivery.commit(**options) as tx:
            fill(tx, delivery)
        after(tx)

    return work_async if world.is_async else work


def counting(tx: Any, delivery: Any) -> None:
    """Answer an order with a cancellation, count it, and remember it."""
    if isinstance(delivery.event, Placed):
        tx.append("answers", Cancelled(reason=str(delivery.position)))
        tx.add("orders", 1)
        tx.state("last", {"position": delivery.position})


async def reasons(store: Store) -> list[str]:
    return [recorded.event.reason for recorded in await store.read("answers")]


def kept(raw: redis.Redis, store: Store) -> dict[bytes, bytes]:
    return raw.hgetall(store.keys.state(GROUP))


def made_again(raw: redis.Redis, store: Store) -> None:
    """Let the group be as after a failover that knew no more of it than its first position."""
    raw.xgroup_destroy(store.keys.log, GROUP)
    raw.xgroup_create(store.keys.log, GROUP, "0")


async def test_a_commit_acknowledges_appends_and_keeps_state_at_once(world: World, raw: redis.Redis):
    io = Counted(world.io(), ACK)
    store = world.store(Order, io=io)
    await store.append("a", [Placed(kwh=1), Placed(kwh=2)])
    told: list[Any] = []
    done = await store.group(GROUP).consume(committing(world, counting, after=told.append), idle_stop=0)
    # The answers are events of the store, too.
    assert (done.handled, done.failed, done.stolen) == (4, 0, 0)
    assert io.count == 0, "what was committed is not acknowledged once more"
    assert await reasons(store) == ["1", "2"]
    assert kept(raw, store) == {b"orders": b"2", b"last": b'{"position":2}'}
    assert nothing_left(raw, store)
    assert [tx.already for tx in told] == [False] * 4
    assert [tx.committed and tx.committed.position for tx in told] == [3, 4, None, None]


async def test_nothing_is_written_if_the_block_raises(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    tries: list[int] = []

    def fill(tx: Any, delivery: Any) -> None:
        counting(tx, delivery)
        tries.append(delivery.attempts)
        if delivery.position == 1 and len(tries) < 3:
            assert not raw.exists(store.keys.state(GROUP))
            raise ValueError

    done = await store.group(GROUP).consume(
        committing(world, fill), policy=SOON, on_error=lambda _: None, idle_stop=0.2
    )
    assert tries[:3] == [1, 2, 3]
    assert (done.handled, done.failed) == (2, 2)
    assert await reasons(store) == ["1"]
    assert kept(raw, store)[b"orders"] == b"1"


async def test_who_was_ousted_writes_nothing_and_is_told(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    seen: list[errors.DeliveryLost] = []

    def oust(delivery: Any) -> None:
        if delivery.attempts == 1 and delivery.position == 1:
            age(raw, store)
            raw.xclaim(store.keys.log, GROUP, "another", 0, ["1-0"], justid=True)

    inner = committing(world, counting, before=oust)

    def note(delivery: Delivery[Any]) -> None:
        try:
            inner(delivery)
        except errors.DeliveryLost as error:
            seen.append(error)
            raise

    async def note_async(delivery: AsyncDelivery[Any]) -> None:
        try:
            await inner(delivery)
        except errors.DeliveryLost as error:
            seen.append(error)
            raise

    complaints: list[Any] = []
    done = await store.group(GROUP).consume(
        note_async if world.is_async else note, policy=STOP, on_error=complaints.append, idle_stop=0
    )
    assert (done.handled, done.failed, done.stolen) == (0, 0, 1)
    assert complaints == [], "nobody has to do anything about it"
    assert (seen[0].name, seen[0].fence) == (f"orders/{GROUP}", 1)
    assert pending(raw, store) == {1: "another"}
    assert not raw.exists(store.keys.state(GROUP), store.keys.stream("answers"), store.keys.done(GROUP))


@pytest.mark.any_server
async def test_an_earlier_life_of_the_same_name_is_fenced(world: World, raw: redis.Redis):
    """A frozen process that wakes up beside its successor would commit what that is about to commit."""
    store = await filled(world, 1)

    def succeed(delivery: Any) -> None:
        if delivery.position == 1:
            raw.xclaim(store.keys.log, GROUP, "billing-1", 0, ["1-0"], retrycount=2, justid=True)

    handler = committing(world, counting, before=succeed)
    done = await store.group(GROUP).consume(handler, consumer="billing-1", idle_stop=0)
    assert (done.handled, done.stolen) == (0, 1)
    assert not raw.exists(store.keys.state(GROUP))


async def test_a_handler_that_runs_again_changes_nothing(world: World, raw: redis.Redis):
    """The group is made again where it had got to: every event after that is handled once more."""
    store = await filled(world, 3)
    await store.group(GROUP).consume(committing(world, counting), idle_stop=0)
    before = kept(raw, store)
    made_again(raw, store)
    told: list[Any] = []
    done = await store.group(GROUP).consume(committing(world, counting, after=told.append), idle_stop=0)
    assert done.handled == 6
    assert all(tx.already and tx.committed is None for tx in told)
    assert kept(raw, store) == before
    assert await reasons(store) == ["1", "2", "3"]
    assert nothing_left(raw, store)


@pytest.mark.any_server
async def test_events_of_an_earlier_commit_are_found_even_if_nobody_remembers_it(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    await store.group(GROUP).consume(committing(world, counting), idle_stop=0)
    made_again(raw, store)
    raw.delete(store.keys.done(GROUP))
    told: list[Any] = []
    await store.group(GROUP).consume(committing(world, counting, after=told.append), idle_stop=0)
    assert (told[0].already, told[0].committed.position) == (True, 2)
    assert await reasons(store) == ["1"]
    assert kept(raw, store)[b"orders"] == b"1"


async def test_what_is_made_of_an_event_names_it_and_has_the_same_ids_whoever_makes_it(world: World):
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="order-1", correlation_id="request-9", metadata={"x": 1})
    await store.append("a", Placed(kwh=1), event_ids="order-2")
    ids: list[Any] = []

    def fill(tx: Any, delivery: Any) -> None:
        if isinstance(delivery.event, Placed):
            ids.append(tx.append("answers", [Cancelled(reason="1"), Cancelled(reason="2")]))
            ids.append(tx.append("more", Cancelled(reason="3")))

    handler = committing(world, fill, metadata={"by": "billing"})
    await store.group(GROUP).consume(handler, idle_stop=0)
    found = await store.read("answers") + await store.read("more")
    assert [e.causation_id for e in found] == ["order-1"] * 2 + ["order-2"] * 2 + ["order-1", "order-2"]
    assert [e.correlation_id for e in found[1:3]] == ["request-9", "order-2"]
    assert [dict(e.metadata) for e in found] == [{"by": "billing"}] * 6
    assert [e.id for e in found] == [*ids[0], *ids[2], *ids[1], *ids[3]]
    assert len({e.id for e in found}) == 6
    # Another group makes others of the same event, and the same group the same.
    first, ids[:] = list(ids), []
    await store.group("other").consume(handler, idle_stop=0)
    assert not {each for some in first for each in some} & {each for some in ids for each in some}


async def test_a_stream_that_has_moved_on_refuses_the_whole(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    await store.append("answers", Cancelled(reason="first"))
    seen: list[Any] = []

    def fill(tx: Any, delivery: Any) -> None:
        if isinstance(delivery.event, Placed):
            tx.add("orders", 1)
            tx.append("others", Cancelled(reason="x"))
            tx.check("answers", 0)

    done = await store.group(GROUP).consume(committing(world, fill), policy=SOON, on_error=seen.append, idle_stop=0)
    assert done.failed >= 1
    assert all(isinstance(failure.error, errors.WrongVersion) for failure in seen)
    assert (seen[0].error.stream, seen[0].error.actual) == ("answers", 1)
    assert not raw.exists(store.keys.state(GROUP), store.keys.stream("others"))
    assert 1 in pending(raw, store)


async def test_state_that_changed_since_it_was_read_refuses_the_whole(world: World, raw: redis.Redis):
    """Two members that read the same total would each add to it, and one order would not count."""
    store = await filled(world, 1)
    seen: list[Any] = []
    meddled: list[bool] = []

    def meddle() -> None:
        if not meddled:
            meddled.append(True)
            raw.hset(store.keys.state(GROUP), "total", "40")

    def work(delivery: Delivery[Any]) -> None:
        total = delivery.state("total", int, 0)
        meddle()
        with delivery.commit() as tx:
            tx.append("answers", Cancelled(reason="x")) if delivery.position == 1 else None
            tx.state("total", total + 1)

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        total = await delivery.state("total", int, 0)
        meddle()
        async with delivery.commit() as tx:
            tx.append("answers", Cancelled(reason="x")) if delivery.position == 1 else None
            tx.state("total", total + 1)

    handler = work_async if world.is_async else work
    done = await store.group(GROUP).consume(handler, policy=SOON, on_error=seen.append, idle_stop=0.2)
    assert [(failure.error.name, failure.error.key) for failure in seen] == [(f"orders/{GROUP}", "total")]
    assert isinstance(seen[0].error, errors.StaleState)
    assert done.handled == 2
    assert kept(raw, store) == {b"total": b"42"}
    assert await reasons(store) == ["x"]


@pytest.mark.any_server
async def test_a_handler_may_read_anew_and_commit_after_all(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    told: list[Any] = []

    def work(delivery: Delivery[Any]) -> None:
        while not told:
            total = delivery.state("total", int, 0)
            if not raw.hexists(store.keys.state(GROUP), "total"):
                raw.hset(store.keys.state(GROUP), "total", "40")
            try:
                with delivery.commit() as tx:
                    tx.state("total", total + 1)
            except errors.StaleState:
                continue
            told.append(tx)
        with pytest.raises(errors.UsageError, match="once"):
            delivery.commit()

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        while not told:
            total = await delivery.state("total", int, 0)
            if not raw.hexists(store.keys.state(GROUP), "total"):
                raw.hset(store.keys.state(GROUP), "total", "40")
            try:
                async with delivery.commit() as tx:
                    tx.state("total", total + 1)
            except errors.StaleState:
                continue
            told.append(tx)
        with pytest.raises(errors.UsageError, match="once"):
            delivery.commit()

    done = await store.group(GROUP).consume(work_async if world.is_async else work, idle_stop=0)
    assert (done.handled, done.failed) == (1, 0)
    assert kept(raw, store) == {b"total": b"41"}


@pytest.mark.any_server
async def test_state_is_typed(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    read: list[Any] = []

    async def look(delivery: Any, key: str, *args: Any) -> Any:
        value = delivery.state(key, *args)
        return await value if asyncio.iscoroutine(value) else value

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        read.append(await delivery.state("order", Placed))
        read.append(await delivery.state("numbers", list[int], [7]))
        read.append(await delivery.state("gone", int))
        with pytest.raises(errors.UsageError, match="does not fit"):
            await delivery.state("order", int)
        async with delivery.commit() as tx:
            fill(tx)

    def work(delivery: Delivery[Any]) -> None:
        read.append(delivery.state("order", Placed))
        read.append(delivery.state("numbers", list[int], [7]))
        read.append(delivery.state("gone", int))
        with pytest.raises(errors.UsageError, match="does not fit"):
            delivery.state("order", int)
        with delivery.commit() as tx:
            fill(tx)

    def fill(tx: Any) -> None:
        tx.state("order", read[0].model_copy(update={"buyer": "bert"}))
        tx.forget("numbers")
        with pytest.raises(errors.UsageError, match="cannot be"):
            tx.state("numbers", object())

    raw.hset(store.keys.state(GROUP), mapping={"order": '{"kwh":3,"buyer":"anna"}', "numbers": "[1,2]"})
    done = await store.group(GROUP).consume(work_async if world.is_async else work, idle_stop=0)
    assert done.handled == 1
    assert read == [Placed(kwh=3), [1, 2], None]
    assert kept(raw, store) == {b"order": b'{"kwh":3.0,"buyer":"bert"}'}


async def test_a_handler_that_raises_after_its_commit_has_handled_its_event(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    seen: list[Any] = []

    def after(tx: Any) -> None:
        if tx.committed:
            raise ValueError("too late")

    done = await store.group(GROUP).consume(
        committing(world, counting, after=after), policy=STOP, on_error=seen.append, idle_stop=0
    )
    assert (done.handled, done.failed) == (2, 0)
    assert [(failure.decided, str(failure.error), failure.position) for failure in seen] == [
        ("committed", "too late", 1)
    ]
    assert nothing_left(raw, store)


async def test_a_commit_lets_the_events_behind_a_parked_one_go_on(world: World, raw: redis.Redis):
    store = await filled(world, 3)
    seen: list[int] = []

    def before(delivery: Any) -> None:
        seen.append(delivery.position)
        if delivery.position == 1 and delivery.attempts < 2:
            raise ValueError

    done = await store.group(GROUP).consume(
        committing(world, lambda tx, _: tx.add("seen", 1), before=before),
        policy=Park(first_s=0.01, max_s=0.01),
        on_error=lambda _: None,
        idle_stop=0.3,
    )
    assert seen == [1, 1, 2, 3]
    assert done.handled == 3
    assert kept(raw, store) == {b"seen": b"3"}
    assert nothing_left(raw, store)


@pytest.mark.any_server
@pytest.mark.parametrize("key", ["done", "state", "floors", "recent", "answers", "failed", "retry", "waiting"])
async def test_a_key_of_a_wrong_type_stops_a_commit_before_its_first_write(world: World, raw: redis.Redis, key: str):
    store = await filled(world, 1)
    keys = store.keys
    name = {
        "done": keys.done(GROUP),
        "state": keys.state(GROUP),
        "floors": keys.floors,
        "recent": keys.recent,
        "answers": keys.stream("answers"),
        "failed": keys.failed(GROUP),
        "retry": keys.retry(GROUP),
        "waiting": keys.waiting(GROUP),
    }[key]
    before: dict[str, Any] = {}

    def spoil(_: Any) -> None:
        if key in {"retry", "waiting"}:
            raw.hset(keys.failed(GROUP), "1-0", "0 0 0 1 x y\n\nz")
        raw.delete(name)
        raw.set(name, "not ours")
        before.update({each.decode(): raw.dump(each) for each in raw.keys("*")})

    def after() -> None:
        now = {each.decode(): raw.dump(each) for each in raw.keys("*")}
        assert {each for each in now if now[each] != before.get(each)} == set()

    def work(delivery: Delivery[Any]) -> None:
        spoil(delivery)
        with pytest.raises(errors.ServerError, match="WRONGTYPE"), delivery.commit() as tx:
            counting(tx, delivery)
        after()
        raise KeyboardInterrupt

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        spoil(delivery)
        with pytest.raises(errors.ServerError, match="WRONGTYPE"):
            async with delivery.commit() as tx:
                counting(tx, delivery)
        after()
        asyncio.current_task().cancel()  # type: ignore[union-attr]
        await asyncio.sleep(10)

    with pytest.raises((KeyboardInterrupt, asyncio.CancelledError)):
        await store.group(GROUP).consume(work_async if world.is_async else work, idle_stop=0)


async def test_a_commit_into_a_group_that_is_gone_is_made_again_with_it(world: World, raw: redis.Redis):
    store = await filled(world, 1)
    lost: list[int] = []

    def lose(delivery: Any) -> None:
        if not lost and delivery.position == 1:
            lost.append(1)
            raw.xgroup_destroy(store.keys.log, GROUP)

    done = await store.group(GROUP).consume(committing(world, counting, before=lose), policy=STOP, idle_stop=0.2)
    assert (done.handled, done.failed) == (2, 0)
    assert await reasons(store) == ["1"]
    assert kept(raw, store)[b"orders"] == b"1"


@pytest.mark.any_server
async def test_what_is_remembered_of_commits_does_not_grow(world: World, raw: redis.Redis):
    store = await filled(world, 200)

    def far_ahead(delivery: Any) -> None:
        if delivery.position > 100:
            raw.hset(store.keys.floors, GROUP, "1050 0")

    await store.group(GROUP).consume(committing(world, lambda tx, _: tx.add("n", 1), before=far_ahead), idle_stop=0)
    marks = [int(mark.split(b"-")[0]) for mark in raw.zrange(store.keys.done(GROUP), 0, -1)]
    assert kept(raw, store) == {b"n": b"200"}
    assert marks == list(range(51, 201)), "a repeat of the newest may still be on its way"


async def test_handlers_ask_for_what_they_want(world: World):
    """By annotation, found out once; what is not annotated is the Recorded, and a second one the Delivery."""
    store = await filled(world, 1)
    got: list[list[Any]] = []

    def nothing_said(recorded, delivery):  # type: ignore[no-untyped-def]  # noqa: ANN001, ANN202
        got.append([recorded, delivery])

    def event(event: Placed) -> None:
        got.append([event])

    def one_of(event: Placed | Cancelled, delivery: Any) -> None:
        got.append([event, delivery])

    def known(recorded: Recorded[Placed], *, verbose: bool = False) -> None:
        got.append([recorded, verbose])

    def alone(delivery: Delivery[Placed]) -> None:
        got.append([delivery])

    def alone_async(delivery: AsyncDelivery[Placed], more: int = 1) -> None:
        got.append([delivery, more])

    class Plain:
        def __call__(self, recorded: object) -> None:
            got.append([recorded])

    handlers = [nothing_said, event, one_of, known, alone, alone_async, Plain(), lambda *args: got.append([*args])]
    for n, handler in enumerate(handlers):
        await store.group(f"g{n}").consume(handler, idle_stop=0)
    kind = AsyncDelivery if world.is_async else Delivery
    types = [[type(each) for each in some] for some in got]
    assert types == [
        [Recorded, kind], [Placed], [Placed, kind], [Recorded, bool], [kind], [kind, int], [Recorded], [Recorded]
    ]  # fmt: skip
    assert repr(got[4][0]) == f"<{kind.__name__} of position 1 to 'orders/g4', attempt 1>"
    for wrong in (lambda: None, lambda a, b, c: None, lambda a, b, /, c=1, *, d: None):  # noqa: ARG005
        if wrong.__code__.co_argcount != 3 or wrong.__kwdefaults__ is not None or not wrong.__code__.co_kwonlyargcount:
            with pytest.raises(errors.UsageError, match="cannot be a handler"):
                await store.group("x").consume(wrong, idle_stop=0)


@pytest.mark.any_server
@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_a_consumer_cancelled_at_any_of_its_awaits_leaves_every_effect_once(world: World, raw: redis.Redis):
    step, finished = 0, False
    while not finished:
        step += 1
        raw.flushall()
        store = world.store(Order, io=Cancels(world.io(), step))
        await store.append("a", [Placed(kwh=1), Placed(kwh=2)])

        async def work(delivery: AsyncDelivery[Any]) -> None:
            seen = await delivery.state("seen", int, 0)
            async with delivery.commit() as tx:
                counting(tx, delivery)
                tx.state("seen", seen + 1)

        store.store._core.io.armed = True
        try:
            await store.group(GROUP).consume(work, idle_stop=0)
            finished = True
        except asyncio.CancelledError:
            asyncio.current_task().uncancel()  # type: ignore[union-attr]
        store.store._core.io.armed = False
        if raw.xinfo_groups(store.keys.log):
            age(raw, store)
        await store.group(GROUP).consume(work, idle_stop=0, claim_idle=0.1)
        assert await reasons(store) == ["1", "2"], f"cancelled at {step}"
        assert {kept(raw, store)[key] for key in (b"orders", b"seen")} == {b"2", b"4"}, f"cancelled at {step}"
        assert nothing_left(raw, store), f"cancelled at {step}"
    assert step > 8


class Cancels:
    """A driver under which the task is cancelled before or after the request number *step*."""

    def __init__(self, io: Any, step: int) -> None:
        self._io = io
        self._left = step
        self.armed = False

    def __getattr__(self, name: str) -> Any:
        return getattr(self._io, name)

    async def _tick(self) -> None:
        if self.armed:
            self._left -= 1
            if self._left == 0:
                asyncio.current_task().cancel()  # type: ignore[union-attr]
                await asyncio.sleep(0)

    async def run(self, *args: Any, **options: Any) -> Any:
        await self._tick()
        reply = await self._io.run(*args, **options)
        await self._tick()
        return reply

    async def block(self, *args: Any, **options: Any) -> Any:
        await self._tick()
        reply = await self._io.block(*args, **options)
        await self._tick()
        return reply


@pytest.mark.any_server
async def test_a_commit_is_one_round_trip(world: World):
    io = Counted(world.io(), COMPLETE)
    store = world.store(Order, io=io)
    await store.append("a", Placed(kwh=1))
    await store.group(GROUP).consume(committing(world, lambda tx, _: tx.add("n", 1)), idle_stop=0)
    assert io.count == 1


@pytest.mark.any_server
@pytest.mark.parametrize("world", ["asyncio"], indirect=True)
async def test_of_two_commits_at_the_same_moment_the_second_is_refused(world: World, raw: redis.Redis):
    """It would be answered as a repeat of the first, and what it holds would be nowhere."""
    store, outcomes = await filled(world, 1), list[Any]()

    async def commit(delivery: AsyncDelivery[Any], key: str) -> None:
        async with delivery.commit() as tx:
            tx.add(key, 1)

    async def work(delivery: AsyncDelivery[Any]) -> None:
        outcomes.extend(await asyncio.gather(commit(delivery, "b"), commit(delivery, "c"), return_exceptions=True))

    assert (await store.group(GROUP).consume(work, idle_stop=0)).handled == 1
    assert outcomes[0] is None
    assert isinstance(outcomes[1], errors.UsageError)
    assert raw.hgetall(store.keys.state(GROUP)) == {b"b": b"1"}
