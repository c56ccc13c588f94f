"""The cap: a log never holds more than was said, and whoever is refused is told by whom."""

from __future__ import annotations

# ruff: noqa: ANN401 - the calls of either kind
import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import errors
from gridsync._io import run_sync
from gridsync.streams import ANY, SKIP, Check, Write
from gridsync.streams._core import APPEND
from gridsync.streams._portable import restored
from tests.streams.conftest import until
from tests.streams.models import LATER, Cancelled, Order, Placed
from tests.streams.test_consumer import Counted
from tests.streams.test_delivery import committing
from tests.streams.test_keeper import declared
from tests.streams.test_outbox import opened, sending
from tests.streams.test_retention import GROUP, filled, held_by, kept, positions

if TYPE_CHECKING:
    from pathlib import Path

    import redis

    from tests.streams.conftest import Store, World

pytestmark = pytest.mark.any_server


async def capped(world: World, count: int, *, held: int = 0, on_cap: str = "block", **options: Any) -> Store:
    """Return a store with a cap and so many events, of which the group has had the first and no other."""
    store = await filled(world, held, **options)
    await declared(store, cap_count=count, on_cap=on_cap, archive=options.get("archive")).run(once=True)
    if held:
        await behind(store, 1)
    return store


async def behind(store: Store, position: int) -> None:
    """Have a group that has had no more than up to *position*."""
    await store.group(GROUP).consume(
        lambda e: 1 / (e.position <= position), idle_stop=0, on_error=lambda _: None, policy=LATER
    )


def counted(store: Store, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    told: list[tuple[str, str]] = []
    io = store.store._core.partitions[0].io
    monkeypatch.setattr(io, "tally", lambda what, name="", _=1.0: told.append((what, name)))
    return told


@pytest.mark.parametrize("log", ["copy", "link"])
async def test_an_append_at_the_cap_is_refused_and_told_who_is_in_the_way(
    world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch, log: Any
):
    store = await capped(world, 6, held=5, log=log)
    told = counted(store, monkeypatch)
    await store.append("a", [Placed(kwh=6), Placed(kwh=7)])
    assert positions(raw, store) == [2, 3, 4, 5, 6, 7], "the one that nobody needs went for it"
    with pytest.raises(errors.LogFull, match=r"holds 6 events and may hold 6.*group 'billing'.*position 1") as caught:
        await store.append("b", Placed(kwh=8))
    refused = caught.value
    assert isinstance(refused, errors.NotNow)
    assert (refused.name, refused.partition, refused.count) == ("orders", 0, 1)
    assert (refused.held, refused.cap, refused.holder) == (6, 6, ("group", GROUP))
    assert told == [("stream.full", "orders")]
    assert (await kept(store).floor()).cap == 6
    assert await store.read("b") == []
    await store.group(GROUP).consume(lambda _: None, idle_stop=0, policy=SKIP)
    assert await held_by(store) == [("group", GROUP, 1)], "what was put aside is in the way until it is done"
    assert await kept(store).release("group", GROUP)
    assert (await store.append("b", Placed(kwh=8))).position == 8
    assert [e.version for e in await store.read("a")] == [1, 2, 3, 4, 5, 6, 7]


async def test_what_nobody_needs_makes_room_whatever_the_limits_would_keep(world: World, raw: redis.Redis):
    """Nobody runs a retention, and nobody has to; and one append in so many has to see to it."""
    store = world.store(Order)
    await declared(store, max_age=3600, cap_count=50).run(once=True)
    for n in range(200):
        await store.append("a", Placed(kwh=n + 1))
        assert raw.xlen(store.keys.log) <= 50
    assert raw.xlen(store.keys.log) >= 45
    assert int(raw.hget(store.keys.meta, "full")) == int(raw.hget(store.keys.meta, "trimmed")) + 50


async def test_below_the_cap_an_append_is_one_round_trip(world: World):
    io = Counted(world.io(), APPEND)
    store = world.store(Order, io=io)
    await declared(store, cap_count=5).run(once=True)
    for n in range(5):
        await store.append("a", Placed(kwh=n + 1))
    assert io.count == 5


async def test_what_was_written_before_is_found_again_at_the_cap(world: World):
    store = await capped(world, 4, held=3)
    done = await store.append("b", Placed(kwh=1), expected_version=0, event_ids="x")
    anyhow = await store.append("b", Placed(kwh=2), event_ids="y")
    both = [Write("c", Placed(kwh=3), ANY, "z"), Check("b", 2)]
    with pytest.raises(errors.LogFull):
        await store.commit(both)
    again = await store.append("b", Placed(kwh=1), expected_version=0, event_ids="x")
    assert (again.position, again.replayed) == (done.position, True)
    again = await store.append("b", Placed(kwh=2), event_ids="y")
    assert (again.position, again.replayed) == (anyhow.position, True)
    with pytest.raises(errors.WrongVersion):
        await store.append("b", Placed(kwh=4), expected_version=0)
    assert await kept(store).release("group", GROUP)
    assert (await store.commit(both)).position == 6
    assert (await store.commit(both)).replayed


async def test_a_commit_that_never_fits_says_so(world: World):
    store = await capped(world, 4, held=3)
    await kept(store).release("group", GROUP)
    with pytest.raises(errors.LogFull, match="4 more never fit"):
        await store.append("b", [Placed(kwh=1)] * 4)
    assert (await store.append("b", [Placed(kwh=1)] * 3)).version == 3


async def test_a_group_in_the_way_is_given_up_and_told_so(
    world: World, raw: redis.Redis, monkeypatch: pytest.MonkeyPatch
):
    store = await capped(world, 6, held=6, on_cap="expire_group")
    told = counted(store, monkeypatch)
    consuming = asyncio.create_task(store.group(GROUP).consume(lambda _: None, policy=LATER))
    await until(lambda: raw.info("clients")["blocked_clients"] > 0)
    assert (await store.append("a", [Placed(kwh=7)] * 2)).position == 8
    with pytest.raises(errors.Truncated):
        await asyncio.wait_for(consuming, 30)
    assert told == [("stream.expired", f"orders/{GROUP}")]
    assert raw.hget(store.keys.floors, GROUP).endswith(b" expired")
    with pytest.raises(errors.Truncated):
        await store.group(GROUP).consume(lambda _: None, idle_stop=0)


async def test_no_group_is_given_up_in_vain(world: World, raw: redis.Redis):
    """Somebody else is further behind, and would still be there."""
    store = await capped(world, 6, held=6, on_cap="expire_group")
    await kept(store).note_reader("elsewhere", 1, kind="replicator")
    await store.append("a", Placed(kwh=7))
    with pytest.raises(errors.LogFull) as caught:
        await store.append("a", Placed(kwh=8))
    assert caught.value.holder[1] in {GROUP, "elsewhere"}
    assert len(raw.xinfo_groups(store.keys.log)) == 1


async def test_readers_that_are_passed_over_read_on_in_the_archive(world: World, raw: redis.Redis, tmp_path: Path):
    store = await filled(world, 4, archive=tmp_path)
    view = store.projection("totals")
    assert (await view.run(lambda changes, e: changes.add("kwh", int(e.event.kwh)), once=True)).events == 4
    retention = declared(store, cap_count=6, on_cap="spill", archive=tmp_path)
    await retention.run(once=True)
    await store.append("a", [Placed(kwh=1)] * 5)
    with pytest.raises(errors.LogFull) as caught:
        await store.append("a", [Placed(kwh=1)] * 4)
    assert caught.value.holder == ("archive", ""), "nothing goes that is in no file"
    await retention.run(once=True)
    await store.append("a", [Placed(kwh=1)] * 4)
    assert positions(raw, store)[0] > 5, "the view has had four"
    assert (await view.run(lambda changes, e: changes.add("kwh", int(e.event.kwh)), once=True)).events == 9
    assert await view.get("kwh") == str(1 + 2 + 3 + 4 + 9)


async def test_spilling_passes_no_group_over(world: World, tmp_path: Path):
    """It would read at the server what is only in files."""
    store = await capped(world, 6, held=6, on_cap="spill", archive=tmp_path)
    with pytest.raises(errors.LogFull) as caught:
        await store.append("a", [Placed(kwh=1)] * 2)
    assert caught.value.holder == ("group", GROUP)


async def test_handlers_that_append_go_on_while_others_wait(world: World, raw: redis.Redis):
    """They could never make it smaller if they had to wait for that."""
    store = await filled(world, 20)
    await declared(store, cap_count=22).run(once=True)
    await store.append("a", [Placed(kwh=1)] * 2)
    most = 0

    def fill(tx: Any, delivery: Any) -> None:
        nonlocal most
        most = max(most, raw.xlen(store.keys.log))
        if isinstance(delivery.event, Placed):
            tx.append(f"answers-{delivery.position}", Cancelled(reason="seen"))

    await store.group(GROUP).consume(committing(world, fill), idle_stop=0)
    assert len([e for e in await store.read_all(after=positions(raw, store)[0] - 1) if e.type == "Cancelled"]) >= 20
    assert most <= 22 + 3


async def test_a_commit_that_appends_nothing_needs_no_room(world: World):
    store = await filled(world, 5)
    seen = []

    def fill(tx: Any, delivery: Any) -> None:
        tx.add("kwh", int(delivery.event.kwh))
        seen.append(delivery.position)

    await behind(store, 0)
    await declared(store, cap_count=2).run(once=True)
    await kept(store).release("group", GROUP)
    await store.group(GROUP).consume(committing(world, fill), idle_stop=0)
    assert seen == [1, 2, 3, 4, 5]


async def test_a_relay_waits_until_the_other_store_has_room(world: World, raw: redis.Redis):
    store, bills = await filled(world, 3), world.store(Order, "bills")
    await bills.append("b", [Placed(kwh=1)] * 2)
    await kept(bills).note_reader("slow", 1)
    await declared(bills, cap_count=3).run(once=True)
    outbox = opened(world, store, bills)
    await store.group(GROUP).consume(sending(world, outbox, "b"), idle_stop=0)
    with pytest.raises(errors.LogFull, match="reader 'slow'"):
        await outbox.relay(once=True)
    relaying = asyncio.create_task(outbox.relay())
    await kept(bills).note_reader("slow", 99)
    await until(lambda: raw.xlen(store.keys.outbox(bills.keys.base)) == 0)
    outbox.inner.stop()
    await relaying
    assert [e.event.reason for e in (await bills.read("b", from_version=3))] == ["1", "and", "2", "and", "3", "and"]


async def test_an_import_stops_at_the_cap_and_goes_on_when_there_is_room(world: World, raw: redis.Redis):
    store = await filled(world, 6)
    lines = raw.xrange(store.keys.log)
    entries = [[entry_id, [word for pair in fields.items() for word in pair]] for entry_id, fields in lines]
    raw.flushall()
    await kept(store).note_reader("slow", 2)
    await declared(store, cap_count=3).run(once=True)

    async def move(some: list[Any], *, dry_run: bool = False) -> Any:
        moving = restored(store.store._core, some, "file", dry_run=dry_run)
        return await (moving if world.is_async else asyncio.to_thread(run_sync, moving))

    assert await move(entries[:3]) == (3, 0)
    with pytest.raises(errors.LogFull):
        await move(entries[3:])
    assert await move(entries[3:], dry_run=True) == (3, 0)
    assert positions(raw, store) == [3]
    await kept(store).note_reader("slow", 5)
    assert await move(entries[3:5]) == (2, 0)


async def test_each_partition_has_its_share(world: World):
    store = world.store(Order, partitions=2)
    await declared(store, cap_count=7).run(once=True)
    full, other = (next(f"s{n}" for n in range(99) if store.store.partition_of(f"s{n}") == k) for k in (0, 1))
    await kept(store).note_reader("slow", 0)
    await store.append(full, [Placed(kwh=1)] * 4)
    with pytest.raises(errors.LogFull, match="partition 0 of 'orders' holds 4 events and may hold 4") as caught:
        await store.append(full, Placed(kwh=1))
    assert (caught.value.partition, caught.value.holder) == (0, ("reader", "slow"))
    await store.append(other, Placed(kwh=1))
    assert (await kept(store).floor()).cap == 8


async def test_a_cap_in_bytes_is_one_in_events(world: World, raw: redis.Redis):
    store = await filled(world, 2000)
    size = raw.memory_usage(store.keys.log)
    await declared(store, cap_bytes=size // 2).run(once=True)
    assert 700 < (await kept(store).floor()).cap < 1300
    assert raw.memory_usage(store.keys.log) < 0.7 * size
    await declared(store, cap_bytes=size, cap_count=100).run(once=True)
    assert (await kept(store).floor()).cap == 100


async def test_a_retention_without_a_cap_takes_it_away(world: World):
    store = await capped(world, 2, held=2)
    await store.append("a", Placed(kwh=1))
    with pytest.raises(errors.LogFull):
        await store.append("a", Placed(kwh=1))
    await declared(store, max_count=1).run(once=True)
    await store.append("a", [Placed(kwh=1)] * 5)
    assert (await kept(store).floor()).cap is None


async def test_a_cap_comes_before_the_first_event_and_before_the_partitions(world: World):
    """What was noted of an empty store does not say in how many partitions it is."""
    await declared(world.store(Order), cap_count=2).run(once=True)
    store = world.store(Order, partitions=2)
    await store.append("a", Placed(kwh=1))
    with pytest.raises(errors.UsageError, match="2 partition"):
        await world.store(Order).append("a", Placed(kwh=1))
