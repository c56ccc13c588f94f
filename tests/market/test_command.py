"""``gridsync orderbook``: what an operator sees of a book."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.market import EVENTS
from tests.command import Command
from tests.market.conftest import BOOK, NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("orderbook")
run, asked = command.run, command.asked


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def test_a_book_is_shown_with_its_prices_in_the_ticks_that_it_was_begun_with(grid: Grid, flushed: RedisServer):
    """An operator who does not know the tick reads the prices that the program traded at, exactly."""
    book = grid.orderbook("DE", tick="0.05", lot="0.1")
    book.place("s1", "sell", "2.0", "61.50")
    book.place("s2", "sell", "1.5", "61.20")
    book.place("b1", "buy", "0.3", "-1.05")
    code, said = asked(flushed, "show", "DE")
    assert code == 0
    assert (said["found"], said["store"]) == (True, "orderbook:DE")
    assert (said["tick"], said["lot"], said["sequence"]) == ("0.05", "0.1", 3)
    assert said["asks"] == [{"price": "61.20", "quantity": "1.5"}, {"price": "61.50", "quantity": "2.0"}]
    assert said["bids"] == [{"price": "-1.05", "quantity": "0.3"}]
    best = said["metadata"]
    assert (best["bid"], best["ask"], best["spread"], best["sequence"]) == ("-1.05", "61.20", "62.25", 3)
    assert asked(flushed, "show", "DE", "--levels", "1")[1]["asks"] == said["asks"][:1]

    code, output, _ = run(flushed, "show", "DE")
    assert code == 0
    lines = [line.split() for line in output.splitlines()]
    assert lines[0] == ["DE", "in", "orderbook:DE:", "tick", "0.05,", "lot", "0.1,", "3", "events"]
    assert lines[1:4] == [["ask", "61.50", "2.0"], ["ask", "61.20", "1.5"], ["bid", "-1.05", "0.3"]]


def test_a_book_in_a_store_with_partitions_is_found_there(grid: Grid, flushed: RedisServer):
    store = grid.events("trading", EVENTS, partitions=4)
    grid.orderbook("AT", tick=1, store=store).place("s1", "sell", 5, 7)
    code, said = asked(flushed, "show", "AT", "--store", "trading")
    assert (code, said["asks"]) == (0, [{"price": "7", "quantity": "5"}])


def test_a_book_without_metadata_is_shown_all_the_same(grid: Grid, flushed: RedisServer):
    """The metadata end five minutes after the last change; the orders do not."""
    grid.orderbook("DE", tick=1).place("s1", "sell", 5, 7)
    grid.client.delete(f"{BOOK}:metadata")
    code, output, _ = run(flushed, "show", "DE")
    assert code == 0
    assert "no metadata" in output
    assert asked(flushed, "show", "DE")[1]["metadata"] is None


def test_a_book_that_is_not_there_is_told_from_one_whose_keys_are_gone(grid: Grid, flushed: RedisServer):
    """Somebody who mistypes a market looks elsewhere; somebody whose server lost keys restores."""
    code, output, error = run(flushed, "show", "FR")
    assert (code, output) == (1, "")
    assert "no order has come" in error
    assert asked(flushed, "show", "FR")[1]["found"] is False

    grid.orderbook("DE", tick=1).place("s1", "sell", 5, 7)
    grid.client.delete(*(f"{BOOK}:{name}" for name in ("sell", "book", "metadata")))
    code, _, error = run(flushed, "show", "DE")
    assert code == 1
    assert "restore" in error


def test_a_name_that_no_market_can_have_is_refused(flushed: RedisServer):
    code, output, error = run(flushed, "show", "a market")
    assert (code, output) == (2, "")
    assert "a market consists of" in error
