"""What follows from a book's events: consumers, projections, mirrors, and markets that share a store."""

# ruff: noqa: ANN401 - stores of either kind

from __future__ import annotations

import asyncio
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync.errors import DuplicateOrder, HistoryBroken, ReadOnlyStore, ServerError, UsageError
from gridsync.market import EVENTS, Mirror, OrderRested, Traded, level_change
from gridsync.market._core import identifier
from tests.market.conftest import BASE, BOOK, NAMESPACE, Either

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    import redis

    from gridsync.testing.servers import RedisServer


@pytest.fixture
def plain(flushed: RedisServer) -> Iterator[Grid]:
    """A grid for threads: what is claimed here is about the server's keys."""
    with Grid(flushed.url, namespace=NAMESPACE, audit=False) as opened:
        yield opened


async def test_trades_are_consumed_by_a_group_and_counted_by_a_projection(book: Either):
    store: Any = book.events
    await book.place("s1", "sell", "2", "1.00", owner="anna")
    await book.place("b1", "buy", "0.5", "1.00", owner="bert")
    await book.place("b2", "buy", "0.7", "1.00", owner="bert")
    settled: list[tuple[str, Decimal]] = []

    def settle(recorded: Any) -> None:
        if isinstance(recorded.event, Traded):
            settled.append((recorded.event.taker, book.inner.quantity(recorded.event.quantity)))

    async def settle_soon(recorded: Any) -> None:
        settle(recorded)

    handler = settle_soon if type(store).__name__.startswith("Async") else settle
    await Either(store.group("settlement")).consume(handler, idle_stop=0)
    assert settled == [("b1", Decimal("0.5")), ("b2", Decimal("0.7"))]
    volume = Either(store.projection("volume", types=[Traded]))

    def count(changes: Any, recorded: Any) -> None:
        changes.add(recorded.event.taker_owner, recorded.event.quantity)

    await volume.run(count, once=True)
    assert await volume.get("bert") == "12"


@pytest.mark.any_server
def test_a_mirror_follows_the_live_book_and_notices_a_gap(plain: Grid):
    book = plain.orderbook("DE", tick="0.01")
    mirror = book.rebuild()
    for number in range(6):
        book.place(f"s{number}", "sell", number + 1, f"1.0{number}", owner=f"o{number}")
    book.replace("s5", "r5", 2, "1.05")
    book.place("b", "buy", 4, "1.02")
    book.cancel("s4")
    recorded = list(book.events.read(book.stream))
    for each in recorded[:4]:
        mirror.apply(each.event, each.version)
    with pytest.raises(HistoryBroken, match="event 6 came after 4"):
        mirror.apply(recorded[5].event, recorded[5].version)
    for each in recorded:
        mirror.apply(each.event, each.version)
    assert mirror.sequence == len(recorded)
    assert mirror.digest() == book.rebuild().digest() == book.verify().digest
    assert {order for order, _ in mirror.queue("sell")} == {"s2", "s3", "r5"}
    assert {price: lots for (_, price), lots in mirror.levels.items()} == {102: 2, 103: 4, 105: 2}


@pytest.mark.any_server
def test_a_snapshot_and_what_came_after_it_are_the_book(plain: Grid):
    book = plain.orderbook("DE", tick=1)
    book.place("s", "sell", 5, 10)
    book.place("t", "sell", 5, 11)
    depth = book.depth()
    levels = {("sell", int(level.price)): int(level.quantity) for level in depth.asks}
    book.place("b", "buy", 7, 11, owner="anna")
    book.place("c", "buy", 7, 9, owner="anna")
    book.place("d", "sell", 3, 9, owner="anna", self_trade="decrement")
    book.replace("c", "c2", 3, 9)
    for recorded in book.events.read(book.stream, from_version=depth.sequence + 1):
        side, price, by = level_change(recorded.event)
        levels[side, price] = levels.get((side, price), 0) + by
    assert {level: lots for level, lots in levels.items() if lots} == {("sell", 11): 3, ("buy", 9): 3}
    now = book.depth()
    assert [(each.price, each.quantity) for each in (*now.bids, *now.asks)] == [(9, 3), (11, 3)]


@pytest.mark.any_server
def test_markets_that_share_a_store_of_several_partitions_do_not_meet(plain: Grid):
    store = plain.events("trading", [*EVENTS], partitions=4)
    books = [plain.orderbook(f"m{number}", tick="0.01", store=store) for number in range(5)]
    for book in books:
        book.place("s", "sell", 1, "1.00")
        assert book.place("b", "buy", 1, "1.00").status == "filled"
    assert len({store.partition_of(book.stream) for book in books}) > 1
    assert all(book.verify().ok and book.verify().sequence == 2 for book in books)
    assert len(list(store.read_all(types=[Traded]))) == 5


@pytest.mark.any_server
def test_a_log_of_links_has_the_events_of_a_book_too(plain: Grid):
    store = plain.events("trading", EVENTS, log="link")
    book = plain.orderbook("DE", tick="0.01", store=store)
    book.place("s", "sell", 1, "1.00")
    assert book.verify().ok
    assert [type(recorded.event) for recorded in store.read_all()] == [OrderRested]
    copied = plain.orderbook("DE", tick="0.01", store=plain.events("trading", EVENTS))
    with pytest.raises(UsageError, match="log="):
        copied.place("t", "sell", 1, "1.00")


@pytest.mark.any_server
def test_a_book_whose_events_were_archived_is_rebuilt_of_the_archive(plain: Grid, tmp_path: Path):
    store = plain.events("trading", EVENTS, archive=tmp_path)
    book = plain.orderbook("DE", tick="0.01", store=store)
    for number in range(20):
        book.place(f"s{number}", "sell", 1, "1.00")
    store.archive(tmp_path)
    assert book.verify().ok
    assert book.rebuild().sequence == 20


@pytest.mark.any_server
def test_a_book_whose_keys_are_gone_is_made_anew_of_its_events(plain: Grid, raw: redis.Redis):
    """After the second site is promoted, the book would take no orders there."""
    book = plain.orderbook("DE", tick="0.01")
    for number in range(150):
        book.place(
            f"s{number}", "sell", 3, f"1.{number % 7:02}", owner=f"o{number % 5}", expires_in=number % 2 * 3600 or None
        )
    book.place("b", "buy", 10, "1.00")
    book.replace("s4", "r4", 2, "1.04")
    book.replace("s5", "r5", 4, "1.06")
    book.cancel("s6")
    kept = {name: raw.zrange(f"{BOOK}:{name}", 0, -1, withscores=True) for name in ("buy", "sell", "expiry")}
    levels = {field: lots for field, lots in raw.hgetall(f"{BOOK}:book").items() if field[:2] in (b"b:", b"s:")}
    with pytest.raises(UsageError, match="is there"):
        book.restore()
    raw.delete(*raw.keys(f"{BOOK}:*"))
    with pytest.raises(ServerError, match="INCONSISTENT"):
        book.place("x", "buy", 1, "1.00")
    restored = book.restore()
    assert (restored.ok, restored.digest) == (True, book.rebuild().digest())
    assert {name: raw.zrange(f"{BOOK}:{name}", 0, -1, withscores=True) for name in kept} == kept
    there = raw.hgetall(f"{BOOK}:book")
    assert {field: lots for field, lots in there.items() if field[:2] in (b"b:", b"s:")} == levels
    metadata = book.metadata()
    assert metadata is not None
    assert metadata.ask == Decimal("1.00")
    for order in ("s1", "b", "s0", "s6"):
        with pytest.raises(DuplicateOrder):
            book.place(order, "sell", 3, "9.00")
    assert book.cancel("s1").cancelled
    # Of the three lots of s21 one was traded: that counts.
    left = next(order for order in (book.order(f"s{n}") for n in range(0, 150, 7)) if order and order.status == "open")
    assert left.filled == 3 - left.left
    assert book.place("y", "buy", 1, "1.00").status == "filled"


@pytest.mark.any_server
def test_a_book_goes_on_at_the_second_site_after_the_promotion(flushed: RedisServer):
    """Before it the events still come, and would not come into the book."""
    with Grid(flushed.url, namespace="there", audit=False) as there, Grid(flushed.url, namespace="here") as here:
        old, new = there.events("trading", EVENTS), here.events("trading", EVENTS)
        was, book = (grid.orderbook("DE", tick="0.01", store=s) for grid, s in ((there, old), (here, new)))
        was.place("s", "sell", 5, "1.00")
        was.place("b", "buy", 2, "1.00")
        old.replication(new).run(once=True)
        with pytest.raises(ReadOnlyStore):
            book.restore()
        with pytest.raises(ReadOnlyStore, match="it mirrors another one"):
            book.place("c", "buy", 1, "1.00")
        new.promote()
        with pytest.raises(ServerError, match="INCONSISTENT"):
            book.place("c", "buy", 1, "1.00")
        assert book.restore().ok
        assert [fill.maker for fill in book.place("c", "buy", 1, "1.00").trades] == ["s"]


@pytest.mark.any_server
@pytest.mark.leaves_keys
def test_a_full_server_refuses_an_order_whole(plain: Grid, raw: redis.Redis):
    """Half of it would be a trade that is in the book and not in its history."""
    book = plain.orderbook("DE", tick="0.01")
    book.place("s", "sell", 5, "1.00")
    before = {key: raw.dump(key) for key in raw.scan_iter()}
    raw.config_set("maxmemory", 1)
    try:
        for call in (lambda: book.place("b", "buy", 2, "1.00"), lambda: book.cancel("s"), book.tend):
            with pytest.raises(ServerError, match="OOM"):
                call()  # type: ignore[no-untyped-call]
        assert book.depth().asks[0].quantity == 5, "looking goes on"
    finally:
        raw.config_set("maxmemory", 0)
    assert {key: raw.dump(key) for key in raw.scan_iter()} == before
    assert book.place("b", "buy", 2, "1.00").status == "filled"


async def test_many_callers_at_once_neither_lose_nor_double_anything(book: Either, raw: redis.Redis):
    async def trade(number: int) -> Any:
        side = "sell" if number % 2 else "buy"
        return await book.place(f"o{number}", side, "1.0", f"1.0{number % 3}", owner=f"w{number % 7}")

    placed = await asyncio.gather(*map(trade, range(200)))
    traded = sum(each.quantity for each in await book.history() if isinstance(each, Traded))
    filled = sum(each.filled for each in placed)
    assert filled * 10 == traded, "what came in has traded what the events say"
    sequences = [each.sequence for each in placed]
    assert max(sequences) == len(await book.history()) == raw.xlen(f"{BASE}:s:orderbook-DE")
    verified = await book.verify()
    assert (verified.ok, verified.orders) == (True, raw.zcard(f"{BOOK}:buy") + raw.zcard(f"{BOOK}:sell"))


@pytest.mark.any_server
def test_a_mirror_refuses_what_does_not_fit():
    mirror = Mirror("DE")
    rested = OrderRested(order="a", owner="", side="sell", price=1, quantity=2, filled=0, expires_ms=0)
    mirror.apply(rested, 1)
    trade = Traded(maker="b", taker="t", maker_owner="", taker_owner="", side="buy", price=1, quantity=1, maker_left=0)
    with pytest.raises(HistoryBroken, match="'b', which is not open"):
        mirror.apply(trade, 2)
    with pytest.raises(UsageError):
        identifier("x" * 65, "an id")
