"""A page with a live order book: `python examples/live_book/live_book.py`, then open the address that it says.

Households trade what they lack or have left in a quarter of an hour, by the profiles in `examples/data`, through
`grid.orderbook`.  A teller publishes each event of the book on `grid.channel`, as the change of one price level with
its number; `page.html` adds the changes to a snapshot.  Let the server go away and come back: the page goes on, with
nothing lost and nothing twice.

Needs gridsync with the extras embedded and fastapi, uvicorn and websockets.
"""

from __future__ import annotations

import argparse
import asyncio
import csv
import itertools
import json
import socket
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import uvicorn
from fastapi import FastAPI, WebSocket
from fastapi.responses import FileResponse

from gridsync import AsyncGrid
from gridsync.contrib.starlette import Live
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.market import level_change

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator

    from gridsync.market import Side

HERE = Path(__file__).parent
PROFILES = HERE.parent / "data" / "quarter_hours.csv"
MARKET = "home"
SECRETS = ["a real one comes from the environment"]
HOUSEHOLDS = 12
TICK = "0.01"
"""Prices are cents for a kWh; a lot is 10 Wh."""
LEVELS = 100


def orders() -> Iterator[tuple[str, Side, int, str]]:
    """Yield id, side, lots and price of the orders of a day in June, quarter by quarter, again and again."""
    with PROFILES.open() as file:
        day = [row for row in csv.DictReader(file) if row["month"] == "6" and row["day"] == "workday"]
    for number, row in enumerate(itertools.cycle(day[28:])):
        for house in range(HOUSEHOLDS):
            needs_wh = float(row["h25"]) * (2.5 + house / 4)
            makes_wh = float(row["solar_w_m2"]) * (house % 4) * 0.5
            lots = round(abs(needs_wh - makes_wh) / 10)
            cents = 28 + (house * 7 + int(row["quarter"])) % 9 + (3 if makes_wh > needs_wh else -3)
            if lots:
                side: Side = "sell" if makes_wh > needs_wh else "buy"
                yield f"{number}-{house}", side, lots, f"0.{cents:02}"


async def insist(call: Callable[[], Awaitable[Any]]) -> Any:  # noqa: ANN401 - whatever it returns
    """Return what *call* returns, however long the server is away; it may be repeated."""
    while True:
        with suppress(Unavailable, OutcomeUnknown):
            return await call()
        await asyncio.sleep(0.1)


async def trade(grid: AsyncGrid, pause: float, closed: asyncio.Event) -> None:
    """Place orders, and cancel what nobody took within two rounds, until the market is closed."""
    book = grid.orderbook(MARKET, tick=TICK)
    placed: list[str] = []
    for order, side, lots, price in orders():
        if closed.is_set():
            break
        await insist(partial(book.place, order, side, lots, price))
        placed.append(order)
        if len(placed) > 2 * HOUSEHOLDS:
            await insist(partial(book.cancel, placed.pop(0)))
        await asyncio.sleep(pause)


async def tell(grid: AsyncGrid) -> None:
    """Publish each event of the book once, in order, from where it is now."""
    book = grid.orderbook(MARKET, tick=TICK)
    channel = grid.channel(f"book:{MARKET}", history=10_000, secrets=SECRETS)
    told = (await insist(book.depth)).sequence
    while True:
        with suppress(Unavailable, OutcomeUnknown):
            async for recorded in book.events.subscribe(after=told):
                side, ticks, by = level_change(recorded.event)
                change = json.dumps({"n": recorded.version, "side": side, "price": ticks, "by": by})
                # With its number as id it is published once, however often that is tried.
                await insist(partial(channel.publish, change, id=f"{recorded.version}"))
                told = recorded.position
        await asyncio.sleep(0.1)


def service(grid: AsyncGrid, pause: float) -> FastAPI:
    """Return the application."""
    closed = asyncio.Event()
    tasks: dict[str, asyncio.Task[None]] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with grid, asyncio.TaskGroup() as group:
            teller = group.create_task(tell(grid))
            tasks["traders"] = group.create_task(trade(grid, pause, closed))
            try:
                yield
            finally:
                closed.set()
                teller.cancel()

    app = FastAPI(lifespan=lifespan)
    live = Live(lambda _: grid.channel(f"book:{MARKET}", history=10_000, secrets=SECRETS))

    @app.get("/")
    async def page() -> FileResponse:
        return FileResponse(HERE / "page.html")

    @app.get("/depth")
    async def depth() -> dict[str, Any]:
        """Return a snapshot, and the number of the last event that is in it."""
        book = grid.orderbook(MARKET, tick=TICK)
        now = await insist(partial(book.depth, LEVELS))
        sides = {"buy": now.bids, "sell": now.asks}
        return {
            "n": now.sequence,
            **{side: {int(level.price * 100): int(level.quantity) for level in sides[side]} for side in sides},
        }

    @app.post("/close")
    async def close() -> None:
        """Close the market: return when nothing changes any more."""
        closed.set()
        await asyncio.wait([tasks["traders"]])

    @app.websocket("/live")
    async def changes(websocket: WebSocket) -> None:
        await live.websocket(websocket)

    return app


def main() -> None:
    """Serve until somebody ends it."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("url", nargs="?", default="embedded://", help="where the server is")
    options.add_argument("--port", type=int, default=0, help="where to serve; by default the system chooses")
    options.add_argument("--pause", type=float, default=0.1, help="how long to wait between them, in seconds")
    chosen = options.parse_args()
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", chosen.port))
        print(f"http://127.0.0.1:{listening.getsockname()[1]}/", flush=True)
        app = service(AsyncGrid(chosen.url, namespace="live"), chosen.pause)
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listening])


if __name__ == "__main__":
    main()
