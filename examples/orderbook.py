"""A market of an hour of electricity, matched in the server: `python examples/orderbook.py [url]`.

Prosumers sell what their panels make beyond their own use at noon, and the city buys; quantities come from the load
profiles and the sunshine in `data/quarter_hours.csv`.  Prices and quantities are exact.
"""

from __future__ import annotations

import asyncio
import csv
import sys
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from secrets import token_hex

from gridsync import AsyncGrid, Grid
from gridsync.market import Traded

QUARTER_HOURS = Path(__file__).parent / "data" / "quarter_hours.csv"
KWH = Decimal("0.01")
M2 = 25
"""Panels on each roof."""


def surplus(month: int, quarter: int, yearly_kwh: int) -> Decimal:
    """Return what a household has left in a quarter of an hour of a Saturday, in kWh; less than 0 is what it lacks."""
    with QUARTER_HOURS.open(encoding="utf-8") as lines:
        for row in csv.DictReader(lines):
            if (row["month"], row["day"], row["quarter"]) == (str(month), "saturday", str(quarter)):
                used = Decimal(row["h25"]) * yearly_kwh / 1_000_000
                made = Decimal(row["solar_w_m2"]) * M2 / 5 / 1000 / 4
                return (made - used).quantize(KWH, ROUND_DOWN)
    raise LookupError((month, quarter))


def with_threads(url: str) -> None:
    """Let three roofs sell at noon in June, and the city buy."""
    with Grid(url, namespace=f"example-book-{token_hex(4)}") as grid:
        book = grid.orderbook("june-48", tick="0.001", lot=KWH)
        for roof, (yearly_kwh, price) in enumerate([(3_500, "0.081"), (5_000, "0.074"), (2_000, "0.074")]):
            offered = book.place(f"roof-{roof}", "sell", surplus(6, 48, yearly_kwh), price, owner=f"prosumer-{roof}")
            print(f"roof {roof} offers {offered.left} kWh at {price}: {offered.status}")
        bought = book.place("city-1", "buy", "1.50", "0.080", owner="city")
        for fill in bought.trades:
            print(f"the city buys {fill.quantity} kWh of {fill.maker} at {fill.price}")
        again = book.place("city-1", "buy", "1.50", "0.080", owner="city")
        print(f"the same request again trades nothing: {again.replayed}")
        depth = book.depth()
        print(f"left at the best price: {depth.asks[0].quantity} kWh at {depth.asks[0].price}")
        print(f"the book is what its events say: {book.verify().ok}")
        # A book is data, and stays; its owner decides when it goes.
        for key in grid.client.scan_iter(f"{{{grid.namespace}:*"):
            grid.client.unlink(key)


async def with_asyncio(url: str) -> None:
    """Let a hundred buyers come at once; nothing is sold twice."""
    async with AsyncGrid(url, namespace=f"example-book-{token_hex(4)}") as grid:
        book = grid.orderbook("crowd", tick="0.001", lot=KWH)
        await book.place("roof", "sell", "7.50", "0.080", owner="prosumer")
        orders = (book.place(f"buyer-{n}", "buy", "0.10", "0.090", rule="ioc") for n in range(100))
        placed = await asyncio.gather(*orders)
        served = sum(order.status == "filled" for order in placed)
        sold = [recorded.event.quantity async for recorded in book.events.read_all(types=[Traded])]
        print(f"{served} of 100 were served, {book.quantity(sum(sold))} kWh were sold in {len(sold)} trades")
        async for key in grid.client.scan_iter(f"{{{grid.namespace}:*"):
            await grid.client.unlink(key)


if __name__ == "__main__":
    where = sys.argv[1] if len(sys.argv) > 1 else "embedded://"
    with_threads(where)
    asyncio.run(with_asyncio(where))
