"""The rows about the order book: orders that meet, and what one costs the server when a hundred thousand are open."""
# ruff: noqa: PLC0415 - as the other modules: what is not measured is not imported

from __future__ import annotations

import asyncio
from itertools import count
from random import Random
from typing import TYPE_CHECKING, Any

from benchmarks import pipelined
from benchmarks.harness import Bench, Limit, Peer, Row, aio, expect, pace_tasks
from benchmarks.pipelined import RANDOM

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.market import AsyncOrderBook

TASKS = 100
SMALL, DEEP = 1_000, 100_000
"""Open orders beside those that meet: in a book that has just begun, and in a deep one."""
AT_ONCE = 500
ORDERS_PER_S = 24_000
"""About as many as a server runs: a run of redis-benchmark sends so many for each second that it may take."""


async def _fill(book: AsyncOrderBook[Any], orders: int) -> None:
    """Put *orders* into both sides, at a thousand prices each, none of which meet."""
    random = Random(1)

    async def place(number: int) -> None:
        side, sign = ("buy", -1) if number % 2 else ("sell", 1)
        price = 10_000 + sign * random.randint(1, 1_000)
        placed = await book.place(f"rest-{number}", side, 5, book.price(price))  # type: ignore[arg-type]
        expect(placed.status, "open")

    for first in range(0, orders, AT_ONCE):
        await asyncio.gather(*map(place, range(first, first + AT_ONCE)))


async def _meet(bench: Bench, open_orders: int, after: Callable[[], None] = lambda: None) -> float:
    """Place an order and the one that trades with it, from each task in turn; return orders a second."""
    from gridsync import AsyncGrid

    async with AsyncGrid(bench.url) as grid:
        book = grid.orderbook("DE", tick="0.01")
        await _fill(book, open_orders)
        after()

        def operation(task: int) -> Callable[[], Awaitable[None]]:
            numbers = count()

            async def trade() -> None:
                number = next(numbers)
                sold = await book.place(f"s{task}-{number}", "sell", 1, "100.00", owner="anna")
                bought = await book.place(f"b{task}-{number}", "buy", 1, "100.00", owner="bert")
                # Whom it meets is a matter of turns; here there are always as many sellers as buyers.
                expect((sold.left + sold.filled, bought.left + bought.filled), (1, 1))

            return trade

        rate = 2 * await pace_tasks(bench, [operation(task) for task in range(TASKS)])
        expect((await book.depth(1)).asks[0].price > book.price(10_000), wanted=True)
        return rate


async def _ours(bench: Bench) -> float:
    return await _meet(bench, SMALL)


def _script(bench: Bench) -> float:
    # redis-benchmark cannot take turns: all sell, so that each order stays, which writes about as much as a trade.
    from redis import Redis

    from gridsync.market import EVENTS
    from gridsync.market._core import BookCore
    from gridsync.streams._partitions import open_store

    def ask(io: Any) -> Any:  # noqa: ANN401 - what keeps the words
        store = open_store(io, "gridsync", "bench", EVENTS, None, 1, "stream", "copy")
        book = BookCore(store.of("orderbook-DE"), "DE", tick="0.01", lot=1, fills_max=100, remember=900)
        return book.place(RANDOM, "sell", 1, "100.00", rule=None, owner="anna", self_trade="decrement", expires_in=None)

    script, keys, args = pipelined.told(ask, [0, b"open,0,1,,1"])
    with Redis(host=bench.host, port=bench.port) as client:
        client.script_load(script.source)
        found = pipelined.per_s(bench, script.words(keys, args), ORDERS_PER_S)
        expect(client.zcard(keys[5]) >= bench.seconds * ORDERS_PER_S, wanted=True)
    return found


async def _server_p99_us(bench: Bench) -> float:
    """Microseconds that the server takes for one of a hundred orders at most, by ``INFO latencystats``."""
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as client:
        client.config_set("latency-tracking", "yes")
        await _meet(bench, DEEP, lambda: expect(client.config_resetstat(), wanted=True))
        return float(client.info("latencystats")["latency_percentiles_usec_evalsha"]["p99"])


ROWS = (
    Row("orderbook", "orders/s", aio(_ours), (Peer("redis-benchmark", _script, target=0.7),), limits=(Limit(20_000),)),
    Row("orderbook-p99-us", "µs", aio(_server_p99_us), better="lower", limits=(Limit(1000.0),)),
)
