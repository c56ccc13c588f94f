"""Ordered groups together with the rest: logs of links, commits, dead letters that are replayed."""

from __future__ import annotations

# ruff: noqa: ANN401 - handlers and drivers of either kind
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import DEAD, AsyncDelivery, Delivery, Retry, _aside
from tests.streams.conftest import until
from tests.streams.models import LATER, Cancelled, Placed
from tests.streams.test_consumer import GROUP, running
from tests.streams.test_failures import due_now, letters, nothing_left, replay
from tests.streams.test_ordered import STREAMS, Seen, fill, keys, left, members, opened

if TYPE_CHECKING:
    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server

SOON = Retry(first_s=0.01, max_s=0.01)


def one_of(stream: str) -> str:
    """Keep a meter and its bill in one partition."""
    return stream.partition("-")[2]


@pytest.fixture(autouse=True)
def _whole_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    """No pause is cut short by chance."""
    monkeypatch.setattr(_aside.Aside, "chance", lambda _: 1.0)


async def test_a_log_of_links_is_handled_in_order_and_whole(world: World, raw: redis.Redis):
    """New ones, those that come again, and those that were pending under another owner are filled alike."""
    store = opened(world, 3, log="link")
    await fill(store, 6)
    its = keys(3)[0]
    raw.xgroup_create(its.log, GROUP, "0")
    raw.xreadgroup(GROUP, "dead.1", {its.log: ">"}, count=4)
    seen, whole = Seen(world, fails=1), list[Any]()
    inner = seen.by_member("a")

    def handle(recorded: Any) -> Any:
        whole.append(recorded)
        return inner(recorded)

    group = opened(world, 3, log="link").group(GROUP, ordered=True)
    async with running(group, handle, policy=SOON, on_error=lambda _: None):
        await until(lambda: seen.count == 6 * len(STREAMS))
        await until(lambda: left(raw, 3) == 0)
    seen.check(STREAMS, 6)
    assert all(each.event == Placed(kwh=each.version) for each in whole)


async def test_an_event_that_a_link_does_not_find_is_given_up_and_its_stream_goes_on(world: World, raw: redis.Redis):
    store = opened(world, 1, log="link")
    await fill(store, 3, STREAMS[:2])
    raw.xdel(store.keys.stream(STREAMS[0]), "2-0")
    seen, told = Seen(world), list[Any]()
    group = opened(world, 1, log="link").group(GROUP, ordered=True)
    policy = {errors.Truncated: DEAD}
    done = await group.consume(seen.by_member("a"), policy=policy, on_error=told.append, idle_stop=0)
    assert (done.handled, done.dead) == (5, 1)
    assert [(type(failure.error), failure.position) for failure in told] == [(errors.Truncated, 2)]
    assert dict(seen.versions) == {STREAMS[0]: [1, 3], STREAMS[1]: [1, 2, 3]}


class Billing:
    """A handler that bills each reading of a meter, and knows from its own state which one it billed last."""

    def __init__(self, world: World, fails: int = 0) -> None:
        self.fails = fails
        self.tries: dict[tuple[str, int], int] = {}
        self.handler = self.bill_async if world.is_async else self.bill

    def bill(self, delivery: Delivery[Any]) -> None:
        if isinstance(delivery.event, Placed):
            key = self.begin(delivery)
            last = delivery.state(key, int, 0)
            with delivery.commit() as tx:
                self.fill(tx, delivery, last)
            self.end(delivery)

    async def bill_async(self, delivery: AsyncDelivery[Any]) -> None:
        if isinstance(delivery.event, Placed):
            key = self.begin(delivery)
            last = await delivery.state(key, int, 0)
            async with delivery.commit() as tx:
                self.fill(tx, delivery, last)
            self.end(delivery)

    def begin(self, delivery: Any) -> str:
        which = delivery.recorded.stream, delivery.recorded.version
        self.tries[which] = self.tries.get(which, 0) + 1
        return f"last-{delivery.recorded.stream}"

    def fill(self, tx: Any, delivery: Any, last: int) -> None:
        stream, version = delivery.recorded.stream, delivery.recorded.version
        tx.append(stream.replace("meter", "bill"), Cancelled(reason=f"{last} to {version}"))
        tx.state(f"last-{stream}", version)
        tx.add("bills", 1)
        if version % 2 == 0 and self.tries[stream, version] <= self.fails:
            raise ValueError(version)

    def end(self, delivery: Any) -> None:
        """What is raised behind a commit makes no event come again."""
        if delivery.recorded.version == 1:
            raise KeyError(delivery.recorded.stream)


async def billed(store: Store, stream: str) -> list[str]:
    return [each.event.reason for each in await store.read(stream.replace("meter", "bill"))]


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_commits_of_an_ordered_group_follow_each_other_in_each_stream(world: World, raw: redis.Redis, log: str):
    """Each reads what the one before it wrote: with two of a stream at work, one of them would be refused."""
    options: dict[str, Any] = {"log": log, "partition_by": one_of}
    store, each = opened(world, 3, **options), 6
    await fill(store, each)
    billing, told = Billing(world, fails=1), list[Any]()

    def group() -> Any:
        return opened(world, 3, **options).group(GROUP, ordered=True)

    more = {"policy": SOON, "on_error": told.append, **({"concurrency": 5} if world.is_async else {})}
    async with running(group(), billing.handler, consumer="a", **more):
        async with running(group(), billing.handler, consumer="b", **more):
            await until(lambda: set(members(raw, 3)) == {"a", "b"})
            await fill(store, each)
        await until(lambda: set(members(raw, 3)) == {"a"})
        await until(lambda: left(raw, 3) == 0)
    links = [f"{n} to {n + 1}" for n in range(2 * each)]
    assert {stream: await billed(store, stream) for stream in STREAMS} == dict.fromkeys(STREAMS, links)
    assert sum(int(raw.hget(k.state(GROUP), "bills") or 0) for k in keys(3)) == 2 * each * len(STREAMS)
    assert all(failure.partition == failure.recorded.partition for failure in told)
    assert {(type(failure.error), failure.decided) for failure in told} == {
        (KeyError, "committed"),
        (ValueError, "park"),
    }


async def test_a_commit_of_a_former_owner_writes_nothing_and_that_of_the_new_one_does(world: World, raw: redis.Redis):
    """The lease was lost while the handler ran, and another member has begun the same event."""
    store = opened(world, 1)
    await fill(store, 2, STREAMS[:1])
    lease, seen, lost = store.keys.lease(GROUP), list[Any](), list[Exception]()

    def oust(delivery: Any) -> None:
        if not seen:
            raw.hset(lease, mapping={"m": "b", "g": "9", "o": "b.9", "t": "1"})
            raw.xclaim(store.keys.log, GROUP, "b.9", 0, ["1-0"], justid=True)
        seen.append((delivery.recorded.version, delivery.attempts))

    def work(delivery: Delivery[Any]) -> None:
        oust(delivery)
        try:
            with delivery.commit() as tx:
                tx.add("orders", 1)
        except errors.DeliveryLost as error:
            lost.append(error)
            raise

    async def work_async(delivery: AsyncDelivery[Any]) -> None:
        oust(delivery)
        try:
            async with delivery.commit() as tx:
                tx.add("orders", 1)
        except errors.DeliveryLost as error:
            lost.append(error)
            raise

    handler = work_async if world.is_async else work
    async with running(opened(world, 1).group(GROUP, ordered=True), handler, consumer="a", claim_idle=1.0) as task:
        await until(lambda: raw.hget(store.keys.state(GROUP), "orders") == b"2")
    assert [error.name for error in lost] == [f"orders/{GROUP}"]  # type: ignore[attr-defined]
    assert [version for version, _ in seen] == [1, 1, 2]
    assert (task.result().handled, task.result().failed) == (2, 0)


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_dead_letters_of_an_ordered_group_come_again_one_by_one_in_the_order_of_their_stream(
    world: World, raw: redis.Redis, log: str
):
    """Enough of them that the order of texts is another one."""
    store = opened(world, 1, log=log)
    await fill(store, 12, STREAMS[:2])
    broken, seen, busy = True, list[tuple[str, int]](), list[Any]()

    def handle(recorded: Any) -> None:
        assert recorded.stream not in busy
        if broken and recorded.stream == STREAMS[0]:
            raise ValueError(recorded.version)
        assert recorded.event == Placed(kwh=recorded.version)
        seen.append((recorded.stream, recorded.version))

    group = opened(world, 1, log=log).group(GROUP, ordered=True)
    done = await group.consume(handle, policy=DEAD, on_error=lambda _: None, idle_stop=0)
    assert (done.handled, done.dead) == (12, 12)
    assert [each.position for each in await letters(group)] == list(range(1, 13))
    assert seen == [(STREAMS[1], n + 1) for n in range(12)], "what is given up holds nothing back"
    broken = False
    seen.clear()
    assert (await replay(group)).replayed == 12
    again = opened(world, 1, log=log).group(GROUP, ordered=True)
    assert (await again.consume(handle, idle_stop=0)).handled == 12
    assert seen == [(STREAMS[0], n + 1) for n in range(12)]
    assert nothing_left(raw, store)
    assert await letters(group) == []


async def test_a_letter_that_fails_again_holds_back_its_stream_until_it_is_done(world: World, raw: redis.Redis):
    store = opened(world, 2)
    await fill(store, 2, STREAMS[:1])
    fails, seen = [1, 1, 2], list[tuple[int, int]]()

    def handle(delivery: Any, _: Delivery[Any] | None = None) -> None:
        version = delivery.recorded.version
        if version in fails:
            fails.remove(version)
            raise ValueError(version)
        seen.append((version, delivery.attempts))

    def group() -> Any:
        return opened(world, 2).group(GROUP, ordered=True)

    def deliver(delivery: Delivery[Any]) -> None:
        handle(delivery)

    async def deliver_async(delivery: AsyncDelivery[Any]) -> None:
        handle(delivery)

    handler, quiet = deliver_async if world.is_async else deliver, {"on_error": lambda _: None}
    await group().consume(handler, policy=DEAD, idle_stop=0, **quiet)
    assert seen == []
    assert (await replay(group(), lambda letter: letter.position == 1)).replayed == 1
    await group().consume(handler, policy=LATER, idle_stop=0, **quiet)
    # It stands in the way of what comes, and of what is given back.
    await store.append(STREAMS[0], [Placed(kwh=3), Placed(kwh=4)])
    assert (await replay(group())).replayed == 1
    await group().consume(handler, idle_stop=0)
    assert seen == []
    (its,) = [each for each in keys(2) if raw.exists(each.retry(GROUP))]
    assert raw.zrange(its.retry(GROUP), 0, -1) == [b"1-0"]
    raw.zadd(its.retry(GROUP), {"1-0": 0})
    async with running(group(), handler, policy=SOON):
        await until(lambda: len(seen) == 4)
        await until(lambda: left(raw, 2) == 0)
    assert seen == [(1, 2), (2, 1), (3, 1), (4, 1)]
    assert not raw.exists(its.failed(GROUP), its.waiting(GROUP), its.retry(GROUP))


async def test_what_failed_before_an_earlier_one_did_is_not_overtaken(world: World, raw: redis.Redis):
    """A dead letter is given back while a later event of its stream is parked: what waits comes behind both."""
    store = opened(world, 1)
    await fill(store, 4, STREAMS[:1])
    raises: dict[int, list[type[Exception]]] = {1: [ValueError, KeyError], 2: [KeyError]}
    seen = list[int]()

    def handle(recorded: Any) -> None:
        if raises.get(recorded.position):
            raise raises[recorded.position].pop(0)
        seen.append(recorded.position)

    async def consume() -> None:
        policy = {ValueError: DEAD, KeyError: LATER}
        group = opened(world, 1).group(GROUP, ordered=True)
        await group.consume(handle, policy=policy, on_error=lambda _: None, idle_stop=0)

    def parked() -> dict[bytes, float]:
        return dict(raw.zrange(store.keys.retry(GROUP), 0, -1, withscores=True))

    await consume()
    pause = parked()
    assert list(pause) == [b"2-0"]
    assert (await replay(opened(world, 1).group(GROUP))).replayed == 1
    await consume()
    assert set(parked()) == {b"1-0"}
    due_now(raw, store)
    await consume()
    assert seen == [1]
    assert parked() == pause, "and the one that is next keeps its pause"
    due_now(raw, store)
    await consume()
    assert seen == [1, 2, 3, 4]
    assert nothing_left(raw, store)
