"""The way in: HTTP for orders, books and wallets, WebSockets for prices.  `market.py` starts several of them.

Nothing is kept in a gateway but copies: one that is killed loses nothing, and an order that was sent to it and not
answered is sent to another one under the same id, which trades it once.
"""

from __future__ import annotations

import argparse
import asyncio
import socket
from typing import Annotated, Literal

import uvicorn
from fastapi import Depends, FastAPI, Header, HTTPException, Request, WebSocket
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ConfigDict, Field
from terms import (
    CURRENT_EPOCH,
    EPOCHS,
    NEAR,
    PROFILES,
    VIEW,
    WALLETS,
    EpochSettled,
    Profile,
    async_events,
    async_order_book,
    async_prices,
)

from gridsync import AsyncGrid
from gridsync.cli.demo.profiles import neighbourhood
from gridsync.contrib.fastapi import Policy, install, limited
from gridsync.contrib.keys import join, subject
from gridsync.contrib.starlette import Live
from gridsync.errors import DuplicateOrder, OutcomeUnknown, Unavailable

SEED = 7
ORDERS = "40/second"
"""Of one member."""
MARKET_ORDERS = "400/second"
"""Of all, through all gateways together."""


WH_MAX = 1_000_000_000
PRICE_MAX = 10_000_000
"""Ten euro for a kWh; it may be negative: then who takes the energy is paid."""
MEMBERS = {one.name: one for one in neighbourhood(SEED)}


class Order(BaseModel):
    """What a member wants: whole numbers as such, nothing that only looks like one."""

    model_config = ConfigDict(strict=True)

    order: Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]{1,64}$")]
    side: Literal["buy", "sell"]
    wh: Annotated[int, Field(gt=0, le=WH_MAX)]
    price: Annotated[int, Field(ge=-PRICE_MAX, le=PRICE_MAX)]


class Answer(BaseModel):
    """What became of it."""

    status: str
    filled_wh: int
    sequence: int
    replayed: bool


def member(authorization: Annotated[str, Header()] = "") -> str:
    """Tell who asks.  A real gateway would check more than that there is such a member."""
    scheme, _, name = authorization.partition(" ")
    if scheme != "Bearer" or name not in MEMBERS:
        raise HTTPException(401, "who are you?", {"www-authenticate": "Bearer"})
    return name


Member = Annotated[str, Depends(member)]


async def refused(_: Request, error: RequestValidationError) -> JSONResponse:
    """Say what is wrong with a request, without repeating what it sent."""
    return JSONResponse({"detail": [{"loc": one["loc"], "msg": one["msg"]} for one in error.errors()]}, 422)


async def away(_: Request, error: Unavailable | OutcomeUnknown) -> JSONResponse:
    """Ask for the same once more: an order has its id, so it is traded once."""
    return JSONResponse({"detail": f"not now: {error}"}, 503, {"retry-after": "1"})


def gateway(grid: AsyncGrid, secret: str) -> FastAPI:
    """Return the application."""
    app = FastAPI()
    install(app)
    app.exception_handler(RequestValidationError)(refused)
    app.exception_handler(Unavailable)(away)
    app.exception_handler(OutcomeUnknown)(away)
    store = async_events(grid)
    book, wallets = async_order_book(grid, store), store.projection(VIEW, types=[EpochSettled])
    cached = grid.cache(WALLETS)
    live = Live(async_prices(grid, secret))
    placing = limited(
        grid,
        Policy("member", ORDERS, key=subject),
        Policy("market", MARKET_ORDERS, key=join("all")),
        subject=member,
    )

    @app.post("/orders", status_code=201, dependencies=[Depends(placing)])
    async def place(order: Order, who: Member) -> Answer:
        try:
            placed = await book.place(f"{who}/{order.order}", order.side, order.wh, order.price, owner=who)
        except DuplicateOrder as error:
            raise HTTPException(409, str(error)) from error
        return Answer(
            status=placed.status, filled_wh=int(placed.filled), sequence=placed.sequence, replayed=placed.replayed
        )

    @app.get("/book")
    async def depth() -> dict[str, object]:
        now = await book.depth()
        return {
            "bids": [[int(level.price), int(level.quantity)] for level in now.bids],
            "asks": [[int(level.price), int(level.quantity)] for level in now.asks],
            "sequence": now.sequence,
        }

    @grid.cache(PROFILES, near=NEAR).cached("{who}")
    async def profile_of(who: str) -> Profile:
        one = MEMBERS[who]  # a database, in a real one
        return Profile(member=one.name, kind=one.profile, yearly_kwh=round(one.yearly_kwh, 1))

    @app.get("/me")
    async def me(who: Member) -> Profile:
        return await profile_of(who)

    @app.get("/wallet")
    async def wallet(who: Member) -> int:
        async def load() -> int:
            return int(await wallets.get(who) or 0)

        return await cached.get_or_load(who, load)

    @grid.cache(CURRENT_EPOCH).cached("now")
    async def current_epoch() -> int:
        newest = [recorded.version async for recorded in store.read(EPOCHS, reverse=True, limit=1)]
        return sum(newest) + 1

    @app.get("/epoch")
    async def epoch() -> int:
        return await current_epoch()

    @app.websocket("/prices")
    async def prices(websocket: WebSocket) -> None:
        await live.websocket(websocket)

    return app


async def serve(url: str, namespace: str, secret: str, listening: socket.socket) -> None:
    """Serve until SIGTERM."""
    async with AsyncGrid(url, namespace=namespace, audit=False) as grid:
        config = uvicorn.Config(
            gateway(grid, secret), log_level="warning", access_log=False, timeout_graceful_shutdown=5
        )
        await uvicorn.Server(config).serve(sockets=[listening])


def main() -> None:
    """Serve on a socket that is listening already."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--fd", type=int, required=True)
    options.add_argument("--url", required=True)
    options.add_argument("--namespace", required=True)
    options.add_argument("--secret", required=True)
    chosen = options.parse_args()
    asyncio.run(serve(chosen.url, chosen.namespace, chosen.secret, socket.socket(fileno=chosen.fd)))


if __name__ == "__main__":
    main()
