"""Traders are killed before and after each of their calls, and at any moment: each order is matched once."""

from __future__ import annotations

import json
import subprocess
import sys
from random import Random
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.market import EVENTS, OrderBook, OrderRested, Traded
from gridsync.streams import EventStore
from tests.faults.dying import Nursery

if TYPE_CHECKING:
    from typing import Any

    from gridsync.testing.servers import RedisServer
    from tests.faults.dying import Fate


def trade(book: OrderBook[Any]) -> list[str]:
    """Do what a trader does who finds these orders in his notes, whatever came of them before."""
    answers = [
        book.place("s1", "sell", 3, "1.00", owner="anna"),
        book.place("s2", "sell", 3, "1.01", owner="anna"),
        book.place("b1", "buy", 4, "1.01", owner="bert"),
        book.replace("s2", "s3", 2, "1.02"),
        book.place("b2", "buy", 1, "0.99", owner="bert", rule="post_only"),
    ]
    cancelled = book.cancel("b2")
    return [*(f"{each.status} {each.filled} {each.left} {each.sequence}" for each in answers), cancelled.how]


def dying(fate: Fate) -> None:
    """Run it in a process that dies."""
    trade(OrderBook(EventStore(fate.sync(), "test", "orderbook:DE", EVENTS), "DE", tick="0.01"))


@pytest.mark.faults
@pytest.mark.timeout(600)
def test_a_trader_killed_at_any_step_gets_the_same_answers_when_he_comes_again(flushed: RedisServer):
    """Between any two calls, and between a call's effect and its answer."""
    step, survived = 0, False
    with Nursery(flushed.url, dying) as nursery, Grid(flushed.url, namespace="test") as grid:
        wanted: list[str] = []
        while not survived:
            step += 1
            flushed.command("FLUSHALL")
            survived = nursery.survives(step)
            book = grid.orderbook("DE", tick="0.01")
            answers = trade(book)
            wanted = wanted or answers
            assert answers == wanted, f"killed at step {step}"
            assert [each.version for each in book.events.read(book.stream)] == list(range(1, 9)), f"step {step}"
            assert book.verify().ok, f"killed at step {step}"
    assert step > 10


TRADER = """
import json, random, sys
from gridsync import Grid

url, name, first = sys.argv[1], sys.argv[2], int(sys.argv[3])
with Grid(url, namespace="test") as grid:
    book = grid.orderbook("DE", tick="0.01")
    for number in range(first, 10**9):
        dice = random.Random(f"{name} {number}")
        side, price = dice.choice(("buy", "sell")), f"1.0{dice.randrange(4)}"
        placed = book.place(f"{name}-{number}", side, dice.randint(1, 9), price)
        said = [number, placed.status, str(placed.filled), len(placed.trades)]
        print(json.dumps(said), flush=True)
"""


class Trader:
    """A process that places one order after the other, and says what came of each."""

    def __init__(self, url: str, name: str) -> None:
        self.url, self.name = url, name
        self.told: dict[int, list[Any]] = {}
        self.start()

    def start(self) -> None:
        """Go on with the order of which nobody knows what came of it."""
        words = [sys.executable, "-c", TRADER, self.url, self.name, str(len(self.told))]
        self.process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)

    def read(self, count: int) -> None:
        """Take notes of so many orders more."""
        assert self.process.stdout is not None
        for _ in range(count):
            self.note(self.process.stdout.readline())

    def kill(self) -> None:
        """End it as by ``kill -9``, wherever it is, and take notes of what it has still said."""
        assert self.process.stdout is not None
        self.process.kill()
        for line in self.process.stdout:
            if line.endswith("\n"):
                self.note(line)
        self.process.stdout.close()
        self.process.wait()

    def note(self, line: str) -> None:
        number, *rest = json.loads(line)
        self.told[number] = rest


@pytest.mark.faults
@pytest.mark.timeout(300)
def test_two_processes_on_one_market_are_killed_again_and_again_and_each_order_is_matched_once(
    flushed: RedisServer, fresh_seed: int
):
    """An order would trade twice, or a trade would be in the book and not in its history."""
    random = Random(fresh_seed)
    traders = [Trader(flushed.url, name) for name in ("anna", "bert")]
    try:
        for _ in range(3):
            for trader in traders:
                trader.read(random.randint(20, 60))
            victim = random.choice(traders)
            victim.kill()
            victim.start()
        for trader in traders:
            trader.read(20)
    finally:
        for trader in traders:
            trader.kill()
    with Grid(flushed.url, namespace="test") as grid:
        book = grid.orderbook("DE", tick="0.01")
        verified = book.verify()
        assert verified.ok, verified.differences
        taken: dict[str, int] = {}
        seen: set[str] = set()
        for recorded in book.events.read(book.stream):
            event = recorded.event
            if isinstance(event, Traded):
                taken[event.taker] = taken.get(event.taker, 0) + event.quantity
            elif isinstance(event, OrderRested):
                assert event.order not in seen, "an order came twice"
                seen.add(event.order)
        for trader in traders:
            for number, (status, filled, trades) in trader.told.items():
                order = f"{trader.name}-{number}"
                assert taken.get(order, 0) == int(filled), f"{order} was told {status}, {filled} in {trades} trades"
                assert (order in seen) == (status == "open")
        depth = book.depth(1)
        assert not (depth.bids and depth.asks) or depth.bids[0].price < depth.asks[0].price
