"""What a trader sees: the best price first, who came first, and the same answer to the same request."""

# ruff: noqa: ANN401 - options of any type

from __future__ import annotations

import json
from decimal import Decimal
from enum import Enum
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import DuplicateOrder, LogFull, ServerError, UsageError
from gridsync.market import EVENTS, OrderRemoved, OrderRested, Traded
from tests.market.conftest import BASE, BOOK, Either

if TYPE_CHECKING:
    from collections.abc import Callable

    import redis


def fills(placed: Any) -> list[tuple[str, str, str]]:
    return [(fill.maker, str(fill.price), str(fill.quantity)) for fill in placed.trades]


async def test_the_best_price_trades_first_and_at_one_price_who_came_first(book: Either):
    for order_id, price in (("late", "10.02"), ("first", "10.01"), ("second", "10.01"), ("far", "10.05")):
        assert (await book.place(order_id, "sell", "1.0", price)).status == "open"
    placed = await book.place("b", "buy", "2.5", "10.02")
    assert fills(placed) == [("first", "10.01", "1.0"), ("second", "10.01", "1.0"), ("late", "10.02", "0.5")]
    assert (placed.status, placed.filled, placed.left, placed.replayed) == ("filled", Decimal("2.5"), 0, False)
    depth = await book.depth()
    assert [(str(each.price), str(each.quantity)) for each in depth.asks] == [("10.02", "0.5"), ("10.05", "1.0")]
    assert depth.bids == ()
    assert depth.sequence == placed.sequence == 7


async def test_what_is_not_traded_stays_and_sells_to_who_comes(book: Either):
    await book.place("s", "sell", "0.5", "-3.00")
    placed = await book.place("b", "buy", "2", "0")
    assert (placed.status, placed.left, fills(placed)) == ("open", Decimal("1.5"), [("s", "-3.00", "0.5")])
    sold = await book.place("m", "sell", "9")
    assert (sold.status, sold.reason, sold.left) == ("cancelled", "unfilled", Decimal("7.5"))
    assert fills(sold) == [("b", "0.00", "1.5")]
    assert (await book.verify()).ok


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("rule", "quantity", "price", "status", "reason", "traded"),
    [
        ("ioc", "3", "1.00", "cancelled", "unfilled", 1),
        ("ioc", "3", "0.99", "cancelled", "unfilled", 0),
        ("fok", "3", "1.00", "rejected", "cannot_fill", 0),
        ("fok", "3", "1.01", "filled", None, 2),
        ("fok", "5", None, "rejected", "cannot_fill", 0),
        ("post_only", "1", "1.00", "rejected", "would_trade", 0),
        ("post_only", "1", "0.99", "open", None, 0),
        (None, "3", None, "filled", None, 2),
    ],
)
async def test_each_rule_does_what_it_says(  # noqa: PLR0917 - a table
    book: Either, rule: Any, quantity: str, price: Any, status: str, reason: Any, traded: int
):
    await book.place("s1", "sell", "2", "1.00")
    await book.place("s2", "sell", "2", "1.01")
    placed = await book.place("b", "buy", quantity, price, rule=rule)
    assert (placed.status, placed.reason, len(placed.trades)) == (status, reason, traded)
    assert len(await book.history()) == 2 + traded + (status == "open")
    again = await book.place("b", "buy", quantity, price, rule=rule)
    assert again.replayed
    assert (again.status, again.trades, again.sequence) == (placed.status, placed.trades, placed.sequence)
    assert (await book.verify()).ok


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("choice", "status", "left", "book_left"),
    [
        ("cancel_newest", "cancelled", "3", {"mine": "1", "other": "2"}),
        ("cancel_oldest", "open", "1", {}),
        ("cancel_both", "cancelled", "3", {"other": "2"}),
        ("decrement", "filled", "0", {}),
    ],
)
async def test_orders_of_one_owner_do_not_trade_with_each_other(
    book: Either, choice: str, status: str, left: str, book_left: dict[str, str]
):
    await book.place("mine", "sell", "1", "1.00", owner="anna")
    await book.place("other", "sell", "2", "1.00", owner="bert")
    placed = await book.place("new", "buy", "3", "1.00", owner="anna", self_trade=choice)
    assert (placed.status, placed.left) == (status, Decimal(left))
    found = {name: order for name in ("mine", "other") if (order := await book.order(name)).status == "open"}
    assert {name: order.left for name, order in found.items()} == {n: Decimal(q) for n, q in book_left.items()}
    assert all(event.maker_owner != event.taker_owner for event in await book.history() if isinstance(event, Traded))
    assert (await book.verify()).ok


async def test_a_repeat_gets_the_first_answer_though_the_order_is_open_filled_or_cancelled(book: Either):
    first = await book.place("s", "sell", "2", "1.00")
    open_again = await book.place("s", "sell", "2.0", Decimal(1))
    await book.place("b", "buy", "2", "1.00")
    filled_again = await book.place("s", "sell", 2, "1.00")
    await book.place("c", "sell", "2", "1.00")
    await book.cancel("c")
    cancelled_again = await book.place("c", "sell", "2", "1.00")
    assert (open_again.status, filled_again.status, cancelled_again.status) == ("open", "open", "open")
    assert (filled_again.sequence, filled_again.replayed, first.replayed) == (first.sequence, True, False)
    assert len(await book.history()) == 4
    with pytest.raises(DuplicateOrder) as caught:
        await book.place("s", "sell", "3", "1.00")
    assert (caught.value.order_id, caught.value.market) == ("s", "DE")
    with pytest.raises(DuplicateOrder):
        await book.place("b", "buy", "2", "1.00", owner="anna")


async def test_a_cancelled_order_is_gone_and_a_cancel_says_how_another_one_ended(book: Either):
    await book.place("s", "sell", "2", "1.00")
    await book.place("b", "buy", "0.5", "1.00")
    cancelled = await book.cancel("s")
    assert (cancelled.cancelled, cancelled.how, cancelled.left) == (True, "cancelled", Decimal("1.5"))
    again = await book.cancel("s")
    assert (again.cancelled, again.left, again.replayed) == (True, Decimal("1.5"), True)
    filled = await book.cancel("b")
    assert (filled.cancelled, filled.how) == (False, "filled")
    assert (await book.history())[-1] == OrderRemoved(
        order="s", owner="", side="sell", price=100, quantity=15, reason="cancelled"
    )
    assert (await book.depth()).asks == ()


async def test_an_order_that_was_cancelled_before_it_came_is_refused(book: Either):
    """After an unknown outcome it would come in minutes later, and nobody would know."""
    unknown = await book.cancel("late")
    assert (unknown.cancelled, unknown.how) == (False, "unknown")
    placed = await book.place("late", "sell", "2", "1.00")
    assert (placed.status, placed.reason) == ("rejected", "cancelled")
    assert await book.history() == []
    assert (await book.order("late")).status == "unknown"


async def test_a_replacement_keeps_its_turn_only_for_the_same_price_and_no_more(book: Either):
    for order_id in ("a", "b", "c"):
        await book.place(order_id, "sell", "2", "1.00", owner=order_id)
    smaller = await book.replace("a", "a2", "1", "1.00")
    assert (smaller.status, smaller.left) == ("open", 1)
    assert (await book.replace("b", "b2", "3", "1.00")).status == "open"
    assert fills(await book.place("buy", "buy", "4", "1.00")) == [
        ("a2", "1.00", "1.0"),
        ("c", "1.00", "2.0"),
        ("b2", "1.00", "1.0"),
    ]
    # What b2 has traded counts: of 2, one is left.
    moved = await book.replace("b2", "b3", "2", "1.05")
    assert (moved.status, moved.filled, moved.left) == ("open", 1, 1)
    assert (await book.replace("b3", "b4", "1", "1.05")).reason == "too_small"
    assert (await book.replace("a", "a3", "1", "1.05")).reason == "not_open"
    assert (await book.replace("b3", "b5", "2", "0.90", post_only=True)).status == "open"
    assert (await book.order("b5")).owner == "b"
    assert (await book.verify()).ok


async def test_what_would_meet_too_many_is_cut_off_and_says_so(open_book: Callable[..., Either]):
    """One order would keep the server busy for everybody."""
    book = open_book(max_fills=2)
    for number in range(4):
        await book.place(f"s{number}", "sell", "1", "1.00")
    placed = await book.place("b", "buy", "4", "1.00")
    assert (placed.status, placed.reason, placed.filled, placed.left) == ("cancelled", "max_fills", 2, 2)
    assert (await book.place("f", "buy", "2", "1.00", rule="fok")).status == "filled"


async def test_what_has_expired_never_trades_and_goes_when_the_book_is_used(book: Either, raw: redis.Redis):
    await book.place("short", "sell", "1", "1.00", expires_in=0.001)
    await book.place("long", "sell", "1", "1.00", expires_in=3600)
    moved = raw.zscore(f"{BOOK}:expiry", "short")
    while moved is not None and int(raw.time()[0] * 1000 + raw.time()[1] // 1000) <= moved:
        pass
    placed = await book.place("b", "buy", "2", "1.00")
    assert fills(placed) == [("long", "1.00", "1.0")]
    kinds = [event.event_type for event in await book.history()]
    assert sorted(kinds[1:]) == sorted(
        ["orderbook.removed", "orderbook.rested", "orderbook.traded", "orderbook.rested"]
    )
    assert raw.zcard(f"{BOOK}:expiry") == 0
    assert (await book.order("short")).status == "expired"
    assert (await book.verify()).ok


@pytest.mark.any_server
async def test_thousands_that_expire_at_once_are_taken_out_in_steps(book: Either, raw: redis.Redis):
    for number in range(250):
        await book.place(f"s{number}", "sell", "1", "1.00", expires_in=3600)
    raw.zadd(f"{BOOK}:expiry", {f"s{number}": 1 for number in range(250)})
    raw.hdel(f"{BOOK}:book", "best")
    placed = await book.place("b", "buy", "1", "1.00")
    assert (placed.status, placed.trades) == ("open", ())
    assert raw.zcard(f"{BOOK}:sell") == 0
    assert (await book.verify()).ok


async def test_the_metadata_tells_best_prices_and_lives_for_five_minutes(book: Either, raw: redis.Redis):
    assert await book.metadata() is None
    await book.place("s", "sell", "1", "1.05")
    await book.place("b", "buy", "1", "-0.10")
    found = await book.metadata()
    assert (found.bid, found.ask, found.spread, found.sequence) == (
        Decimal("-0.10"),
        Decimal("1.05"),
        Decimal("1.15"),
        2,
    )
    assert 0 < raw.pttl(f"{BOOK}:metadata") <= 300_000
    raw.delete(f"{BOOK}:metadata")
    assert await book.metadata() is None
    assert len((await book.depth()).asks) == 1, "that it has expired says nothing about the book"
    assert await book.tend() == 2
    assert (await book.metadata()).ask == Decimal("1.05")


@pytest.mark.any_server
@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"price": 1.5}, "float"),
        ({"quantity": 0.5}, "float"),
        ({"price": "1.005"}, "no multiple of 0.01"),
        ({"quantity": "0.15"}, "no multiple of 0.1"),
        ({"quantity": "0"}, "out of range"),
        ({"quantity": "-1"}, "out of range"),
        ({"price": "NaN"}, "finite"),
        ({"price": "1e30"}, "out of range"),
        ({"price": 10**5000}, "out of range"),
        ({"price": "90071992547409.92"}, "out of range"),
        ({"quantity": True}, "float"),
        ({"price": "x"}, "number"),
        ({"side": "bid"}, "one of buy, sell"),
        ({"order_id": "a b"}, "consists of"),
        ({"order_id": ""}, "consists of"),
        ({"owner": 'a"'}, "consists of"),
        ({"owner": None}, "consists of"),
        ({"rule": "day"}, "one of"),
        ({"rule": "gtc", "price": None}, "without a price"),
        ({"rule": "ioc", "expires_in": 5}, "never stays"),
        ({"self_trade": "no"}, "one of"),
        ({"side": []}, "one of"),
        ({"rule": {}}, "one of"),
        ({"self_trade": Decimal("sNaN")}, "one of"),
        ({"order_id": 10**5000}, "consists of"),
        ({"expires_in": 10**5000}, "must be from"),
    ],
)
async def test_what_cannot_be_meant_is_refused_before_anything_is_sent(
    book: Either, raw: redis.Redis, change: dict[str, Any], words: str
):
    order = {"order_id": "a", "side": "buy", "quantity": "1", "price": "1.00", **change}
    with pytest.raises(UsageError, match=words):
        await book.place(**order)
    assert raw.dbsize() == 0


class Desk(str, Enum):  # noqa: UP042 - what many have
    """A choice of a web framework: a string that calls itself otherwise."""

    NORTH = "north"
    BUY = "buy"


async def test_a_member_of_an_enum_is_its_text(book: Either):
    """What calls itself longer than it is shifts the words of a request, and those of everybody behind it."""
    assert (await book.place(Desk.NORTH, Desk.BUY, "1", "1.00", owner=Desk.NORTH)).order_id == "north"
    assert (await book.order("north")).owner == "north"
    assert (await book.replace(Desk.NORTH, Desk.BUY, "1", "1.00")).status == "open"
    assert (await book.cancel(Desk.BUY)).cancelled


async def test_the_largest_numbers_are_exact(open_book: Callable[..., Either]):
    book, most = open_book(tick=1, lot=1), 2**53 - 1
    await book.place("s", "sell", most, most)
    await book.place("z", "buy", most, -most)
    await book.place("y", "buy", 1, 1 - most)
    found = await book.metadata()
    assert (found.bid, found.ask, found.spread) == (1 - most, most, 2 * most - 1)
    with pytest.raises(UsageError, match="would stand at its price"):
        await book.place("more", "sell", 1, most)
    placed = await book.place("b", "buy", most - 1, most)
    assert [(fill.price, fill.quantity) for fill in placed.trades] == [(most, most - 1)]
    assert (await book.depth()).asks[0].quantity == 1
    assert [level.price for level in (await book.depth()).bids] == [1 - most, -most]
    assert (await book.verify()).ok


async def test_a_book_opened_with_another_tick_is_refused(book: Either, open_book: Callable[..., Either]):
    await book.place("s", "sell", "1", "1.00")
    other = open_book(tick="0.1")
    for call, args in (
        ("place", ("b", "buy", "1", "1.0")),
        ("cancel", ("s",)),
        ("replace", ("s", "t", "1", "1.0")),
        ("depth", ()),
        ("order", ("s",)),
        ("tend", ()),
    ):
        with pytest.raises(UsageError, match=r"0\.01 0\.1"):
            await getattr(other, call)(*args)
    await open_book(tick="0.010").cancel("s")


@pytest.mark.any_server
def test_a_store_that_does_not_know_the_events_is_refused(grid: Any):
    store = grid.events("other", [OrderRested])
    with pytest.raises(UsageError, match=r"orderbook\.traded"):
        grid.orderbook("DE", tick=1, store=store)
    with pytest.raises(UsageError, match="must be an"):
        grid.orderbook("DE", tick=1, store="orders")
    with pytest.raises(UsageError, match="60 digits"):
        grid.orderbook("DE", tick="1e-400")
    assert "tick=1" in repr(grid.orderbook("DE", tick=1, store=grid.events("all", EVENTS)))


@pytest.mark.any_server
async def test_a_log_at_its_cap_makes_room_or_refuses_the_order(book: Either, raw: redis.Redis):
    """A trade would be in the book, and not in its history."""
    retention = Either(book.events.retention(cap_count=4))
    await retention.run(once=True)
    for number in range(8):
        assert (await book.place(f"s{number}", "sell", "1", "1.00")).sequence == number + 1
    assert raw.xlen(f"{BASE}:log") <= 4
    await Either(book.events).note_reader("slow", 7)
    for number in range(8, 11):
        await book.place(f"s{number}", "sell", "1", "1.00")
    with pytest.raises(LogFull):
        await book.place("b", "buy", "1", "1.00")
    assert raw.zcard(f"{BOOK}:sell") == 11
    assert await book.order("b") is None


KEYS = [f"{BASE}:{name}" for name in ("meta", "versions", "log", "s:orderbook-DE")] + [
    f"{BOOK}:{name}" for name in ("buy", "sell", "book", "expiry", "seen:1", "seen:2")
]


@pytest.mark.any_server
@pytest.mark.leaves_keys
@pytest.mark.parametrize("key", KEYS)
async def test_a_key_of_a_wrong_type_is_noticed_before_the_first_write(book: Either, raw: redis.Redis, key: str):
    await book.place("s", "sell", "1", "1.00", expires_in=100)
    await book.place("t", "sell", "1", "1.00")
    await book.place("b", "buy", "1", "0.90")
    await book.place("i", "buy", "1", "0.95", rule="ioc")
    raw.delete(key)
    raw.set(key, "x")
    before = {name: raw.dump(name) for name in raw.scan_iter() if not name.endswith(b":metadata")}
    for call, args in (
        ("place", ("n", "buy", "2.5", "1.00")),
        ("cancel", ("s",)),
        ("replace", ("b", "b2", "0.5", "0.90")),
    ):
        with pytest.raises(ServerError):
            await getattr(book, call)(*args)
        assert {name: raw.dump(name) for name in raw.scan_iter() if not name.endswith(b":metadata")} == before


@pytest.mark.any_server
@pytest.mark.leaves_keys
@pytest.mark.parametrize("lost", [f"{BASE}:versions", f"{BOOK}:book"])
async def test_a_book_without_its_events_or_the_reverse_is_not_written_to(book: Either, raw: redis.Redis, lost: str):
    await book.place("s", "sell", "1", "1.00")
    raw.delete(lost)
    with pytest.raises(ServerError, match="INCONSISTENT"):
        await book.place("b", "buy", "1", "1.00")
    assert raw.zcard(f"{BOOK}:sell") == 1


async def test_a_book_that_was_changed_by_hand_is_told_from_its_events(book: Either, raw: redis.Redis):
    for number in range(3):
        await book.place(f"s{number}", "sell", "1", "1.00")
    assert (await book.verify()).ok
    raw.hincrby(f"{BOOK}:book", "s:100", 7)
    raw.zrem(f"{BOOK}:sell", *raw.zrange(f"{BOOK}:sell", 1, 1))
    verified = await book.verify()
    assert not verified.ok
    assert len(verified.differences) == 3
    assert "s1" in verified.differences[0]


@pytest.mark.any_server
async def test_how_orders_ended_is_forgotten_by_turns(open_book: Callable[..., Either], raw: redis.Redis):
    """The memory of a book would grow for ever, or a repeat would trade again too soon."""
    book = open_book(remember=3600)
    await book.place("one", "sell", "1", rule="ioc")
    assert (raw.hlen(f"{BOOK}:seen:1"), raw.hlen(f"{BOOK}:seen:2")) == (0, 1)

    def let_an_hour_pass() -> None:
        turn, since = raw.hget(f"{BOOK}:book", "turn").split()
        raw.hset(f"{BOOK}:book", "turn", f"{int(turn)} {int(since) - 3_600_000}")

    let_an_hour_pass()
    await book.place("two", "sell", "1", rule="ioc")
    assert (await book.place("one", "sell", "1", rule="ioc")).replayed
    let_an_hour_pass()
    await book.place("three", "sell", "1", rule="ioc")
    assert (await book.place("two", "sell", "1", rule="ioc")).replayed
    assert await book.order("one") is None
    metadata = json.loads(raw.get(f"{BOOK}:metadata"))
    assert metadata["bid"] is None


@pytest.mark.any_server
@pytest.mark.leaves_keys
@pytest.mark.parametrize("lost", ["sell", "order"])
async def test_a_book_that_lost_a_side_or_an_order_refuses_who_would_trade_with_it(
    book: Either, raw: redis.Redis, lost: str
):
    """He would rest at a price at which somebody sells, or trade with nobody."""
    await book.place("s", "sell", "1", "1.00")
    if lost == "sell":
        raw.delete(f"{BOOK}:sell")
    else:
        raw.hdel(f"{BOOK}:book", "o:s")
    with pytest.raises(ServerError, match="INCONSISTENT"):
        await book.place("b", "buy", "1", "1.00")
    assert raw.zcard(f"{BOOK}:buy") == 0
    assert (await book.place("low", "buy", "1", "0.90")).status == "open"


@pytest.mark.any_server
async def test_a_book_of_an_older_version_without_a_note_of_its_best_prices_goes_on(book: Either, raw: redis.Redis):
    """An update would leave every order of before unmatched."""
    await book.place("s", "sell", "1", "1.00", expires_in=3600)
    await book.place("b", "buy", "1", "0.90")
    raw.hdel(f"{BOOK}:book", "best")
    assert fills(await book.place("n", "buy", "0.4", "1.00")) == [("s", "1.00", "0.4")]
    assert raw.hget(f"{BOOK}:book", "best").split()[:3] == [b"3", b"90", b"100"]
    raw.hset(f"{BOOK}:book", "best", "2 null null null")
    assert fills(await book.place("m", "sell", "1", "0.90")) == [("b", "0.90", "1.0")]
    assert raw.hget(f"{BOOK}:book", "best").split()[:3] == [b"4", b"null", b"100"]
    assert (await book.verify()).ok
