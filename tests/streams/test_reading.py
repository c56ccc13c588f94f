"""Reading: backwards, in part, by type and category; and what a reader is told when history does not lead on."""

# ruff: noqa: ANN401 - options and checkpoints of every kind

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync.streams import RawEvent
from gridsync.streams._pages import PAGE
from tests.streams.models import Cancelled, Order, Placed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import redis

    from tests.streams.conftest import Store, World


@pytest.fixture
def rollback(raw: redis.Redis) -> Iterator[Callable[[Store], Callable[[], None]]]:
    """Return what remembers a store's keys, and returns what brings them back: a failover that lost the rest."""

    def remember(store: Store) -> Callable[[], None]:
        kept = {key: raw.dump(key) for key in raw.scan_iter(store.keys.base + "*")}

        def restore() -> None:
            for key in list(raw.scan_iter(store.keys.base + "*")):
                raw.delete(key)
            for key, value in kept.items():
                raw.restore(key, 0, value)

        return restore

    return remember


async def filled(world: World, count: int = 6) -> Store:
    store = world.store(Order)
    for start in range(0, count, 1000):
        await store.append("a", [Placed(kwh=1)] * min(1000, count - start))
    return store


async def drain(events: Any, seen: list[Any]) -> None:
    """Put what an iterator of either kind yields into *seen*."""
    if hasattr(events, "__aiter__"):
        async for event in events:
            seen.append(event)  # noqa: PERF401 - what came before an error counts
    else:
        seen.extend(events)


@pytest.mark.parametrize(
    ("options", "versions"),
    [
        ({"reverse": True}, [6, 5, 4, 3, 2, 1]),
        ({"reverse": True, "limit": 2}, [6, 5]),
        ({"reverse": True, "limit": 0}, []),
        ({"reverse": True, "from_version": 4}, [6, 5, 4]),
        ({"reverse": True, "from_version": 7}, []),
        ({"reverse": True, "to_version": 3, "limit": 2}, [3, 2]),
        ({"reverse": True, "to_version": 1}, [1]),
        ({"from_version": 2, "to_version": 4}, [2, 3, 4]),
        ({"from_version": 4, "to_version": 2}, []),
        ({"to_version": 3, "limit": 2}, [1, 2]),
        ({"to_version": 9}, [1, 2, 3, 4, 5, 6]),
    ],
)
async def test_a_stream_is_read_in_either_direction(world: World, options: dict[str, Any], versions: list[int]):
    store = await filled(world)
    assert [e.version for e in await store.read("a", **options)] == versions
    both = {{"from_version": "after", "to_version": "before"}.get(k, k): v for k, v in options.items()}
    if "after" in both:
        both["after"] -= 1
    if "before" in both:
        both["before"] += 1
    if both.get("after", 0) <= 6:
        assert [e.position for e in await store.read_all(**both)] == versions


async def test_reading_backwards_goes_page_by_page(world: World):
    total = 2 * PAGE + 7
    store = await filled(world, total)
    everything = list(range(total, 0, -1))
    assert [e.version for e in await store.read("a", reverse=True)] == everything
    assert [e.position for e in await store.read_all(reverse=True, after=3)] == everything[:-3]
    assert [e.version for e in await store.read("a", reverse=True, limit=PAGE + 2)] == everything[: PAGE + 2]


async def test_types_and_categories_are_chosen(world: World):
    store = world.store([Placed, Cancelled, RawEvent])
    for stream in ("order-1", "order-2", "orders", "order", "bill-1"):
        await store.append(stream, [Placed(kwh=1), Cancelled(reason="x")])

    async def seen(**options: Any) -> list[tuple[str, str]]:
        return [(e.stream, e.type) for e in await store.read_all(**options)]

    orders = [(s, t) for s in ("order-1", "order-2", "order") for t in ("Placed", "Cancelled")]
    assert await seen(category="order") == orders
    assert await seen(types=[Cancelled], category="order") == [one for one in orders if one[1] == "Cancelled"]
    assert await seen(types=["Cancelled", "Lost"], category="bill") == [("bill-1", "Cancelled")]
    assert await seen(types=[Placed], limit=2) == [("order-1", "Placed"), ("order-2", "Placed")]
    assert await seen(types=[Placed], limit=2, reverse=True) == [("bill-1", "Placed"), ("order", "Placed")]
    assert await seen(types=[Placed], limit=0) == await seen(category="none") == []
    assert await seen(types=["Placed"], after=8) == [("bill-1", "Placed")]


async def test_what_is_not_wanted_is_not_decoded(world: World):
    """A reader of one type needs no models of the others."""
    await world.store(Order).append("a", [Cancelled(reason="x"), Placed(kwh=1)])
    reader = world.store(Placed)
    assert [e.event for e in await reader.read_all(types=[Placed])] == [Placed(kwh=1)]


@pytest.mark.parametrize(
    "options",
    [
        {"after": -1},
        {"after": "-1"},
        {"after": True},
        {"after": 1.5},
        {"after": "now"},
        {"after": "7:x:y"},
        {"after": "7:8:"},
        {"after": "7:8:\ud800"},
        {"after": 10**18},
        {"after": "9" * 5000},
        {"after": ""},
        {"before": 0},
        {"limit": -1},
        {"types": []},
        {"types": "Placed"},
        {"types": [Cancelled.__base__]},
        {"category": ""},
        {"category": "a-b"},
        {"read_from": "anywhere"},
    ],
)
async def test_a_bad_argument_is_refused(world: World, options: dict[str, Any]):
    with pytest.raises(errors.UsageError):
        await world.store(Order).read_all(**options)


async def test_a_checkpoint_goes_on_where_it_was_taken(world: World):
    store = await filled(world)
    for recorded in await store.read_all():
        rest = list(range(recorded.position + 1, 7))
        assert [e.position for e in await store.read_all(after=recorded.checkpoint)] == rest
        assert [e.position for e in await store.read_all(after=str(recorded.position))] == rest
    odd = await store.append("a", Placed(kwh=1), event_ids="an:id with :colons: and ümläuts")
    (last,) = await store.read_all(after=6)
    await store.append("a", Placed(kwh=1))
    assert [e.position for e in await store.read_all(after=last.checkpoint)] == [odd.position + 1]


async def test_events_that_a_failover_lost_are_reported(world: World, rollback: Callable[[Store], Callable[[], None]]):
    store = await filled(world, 3)
    restore = rollback(store)
    await store.append("a", [Placed(kwh=1)] * 3)
    seen = await store.read_all()
    restore()
    for lost in seen[3:]:
        with pytest.raises(errors.Diverged) as caught:
            await store.read_all(after=lost.checkpoint)
        assert caught.value.checkpoint == lost.checkpoint
        with pytest.raises(errors.Diverged):
            await store.read_all(after=lost.position)
    assert await store.read_all(after=seen[2].checkpoint) == []
    await store.append("a", [Cancelled(reason="other")] * 5)
    for lost in seen[3:]:
        with pytest.raises(errors.Diverged, match="another one stands there"):
            await store.read_all(after=lost.checkpoint)
    assert [e.position for e in await store.read_all(after=seen[2].checkpoint)] == [4, 5, 6, 7, 8]


async def test_a_store_that_was_begun_anew_is_not_taken_for_the_old_one(world: World, raw: redis.Redis):
    """Not even with the same event ids at the same positions."""
    store = world.store(Order)
    await store.append("a", Placed(kwh=1), event_ids="x")
    (seen,) = await store.read_all()
    raw.flushall()
    with pytest.raises(errors.Diverged):
        await store.read_all(after=seen.checkpoint)
    await store.append("a", Placed(kwh=1), event_ids="x")
    with pytest.raises(errors.Diverged):
        await store.read_all(after=seen.checkpoint)


async def test_a_failover_between_two_pages_is_reported(world: World, rollback: Callable[[Store], Callable[[], None]]):
    store = await filled(world, PAGE - 1)
    restore = rollback(store)
    await store.append("b", Placed(kwh=1))
    events = store.store.read_all()
    first = await anext(events) if hasattr(events, "__anext__") else next(events)
    assert first.position == 1
    restore()
    await store.append("b", [Cancelled(reason="other")] * 5)
    with pytest.raises(errors.Diverged):
        await drain(events, [])


async def test_removed_events_are_reported_not_passed_over(world: World, raw: redis.Redis):
    store = await filled(world)
    checkpoints = [e.checkpoint for e in await store.read_all()]
    for key in (store.keys.log, store.keys.stream("a")):
        raw.xtrim(key, minid="4-0", approximate=False)
    for read in (
        store.read_all(),
        store.read_all(after=checkpoints[1]),
        store.read("a"),
        store.read("a", from_version=3),
    ):
        with pytest.raises(errors.Truncated) as caught:
            await read
        assert caught.value.first == 4
    for after in (3, checkpoints[2]):
        assert [e.position for e in await store.read_all(after=after)] == [4, 5, 6]
    assert [e.version for e in await store.read("a", from_version=4)] == [4, 5, 6]


@pytest.mark.parametrize("limit", [None, 100])
async def test_backwards_the_end_of_what_is_left_is_not_taken_for_the_beginning(
    world: World, raw: redis.Redis, limit: int | None
):
    store = await filled(world)
    raw.xtrim(store.keys.stream("a"), minid="4-0", approximate=False)
    seen: list[Any] = []
    with pytest.raises(errors.Truncated) as caught:
        await drain(store.store.read("a", reverse=True, limit=limit), seen)
    assert ([e.version for e in seen], caught.value.first) == ([6, 5, 4], 4)
    assert [e.version for e in await store.read("a", reverse=True, from_version=4)] == [6, 5, 4]
    assert [e.version for e in await store.read("a", reverse=True, limit=3)] == [6, 5, 4]


@pytest.mark.any_server
async def test_a_short_answer_is_the_end_and_nobody_asks_again(world: World, raw: redis.Redis):
    """A stream of a few events is loaded in one round trip, not in two."""
    store = world.store(Order)
    await store.append("a", [Placed(kwh=n + 1) for n in range(PAGE + 3)])
    await store.append("b", Placed(kwh=1))
    totals = store.aggregate(0.0, lambda total, event: total + event.kwh)
    for read, pages in (
        (lambda: store.read("b"), 1),
        (lambda: store.read("a"), 2),
        (lambda: store.read("a", from_version=4), 2),
        (lambda: store.read_all(after=PAGE), 1),
        (lambda: totals.load("b"), 1),
    ):
        before = raw.info("commandstats").get("cmdstat_xrange", {"calls": 0})["calls"]
        assert await read()
        assert raw.info("commandstats")["cmdstat_xrange"]["calls"] - before == pages
