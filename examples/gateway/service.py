"""A gateway in front of a market, limited by gridsync: one process of those that `run.py` starts.

Three policies: a client's address may ask so often, a member may order so often, and the market takes no more orders
than it can match, whoever places them.  A fourth one is a shadow: it counts what a tighter limit would deny.
"""

from __future__ import annotations

import argparse
import socket
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import uvicorn
from fastapi import Depends, FastAPI, Header

from gridsync import AsyncGrid
from gridsync.contrib.asgi import Policy, RateLimitMiddleware
from gridsync.contrib.fastapi import install, limited
from gridsync.contrib.keys import ClientAddress, join, subject

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

PROMISES = {"client": (20, 2.0), "orders": (8, 2.0), "market": (30, 2.0)}
"""What each policy admits: so many in any so many seconds."""


def promises(market_window_s: float) -> dict[str, tuple[int, float]]:
    """Return what is promised if the market's window is that long."""
    return {**PROMISES, "market": (PROMISES["market"][0], market_window_s)}


def rule(promise: tuple[int, float]) -> str:
    """Return a promise as gridsync reads it."""
    limit, window_s = promise
    return f"{limit} per {window_s} seconds"


def member(authorization: Annotated[str, Header()]) -> str:
    """Tell who orders.  A real gateway would check it."""
    return authorization.removeprefix("Bearer ")


def gateway(grid: AsyncGrid, market_window_s: float) -> FastAPI:
    """Return the application."""
    promised = promises(market_window_s)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async with grid:
            yield

    app = FastAPI(lifespan=lifespan)
    install(app)
    address = ClientAddress(trusted=["127.0.0.0/8"])
    shadow = Policy("tighter", "10 per 2 seconds", key=address, shadow=True)
    app.add_middleware(
        RateLimitMiddleware,
        grid=grid,
        policies=[Policy("client", rule(promised["client"]), key=address, paths=["/orders", "/book"]), shadow],
    )
    placing = limited(
        grid,
        Policy("orders", rule(promised["orders"]), key=subject),
        Policy("market", rule(promised["market"]), key=join("all")),
        subject=member,
    )

    @app.post("/orders", status_code=201, dependencies=[Depends(placing)])
    async def place() -> dict[str, str]:
        return {"order": "placed"}

    @app.get("/book")
    async def book() -> dict[str, list[int]]:
        return {"bids": [31, 30], "asks": [33]}

    @app.get("/shadow")
    async def told() -> dict[str, int]:
        return {"admitted": shadow.counts.admitted, "denied": shadow.counts.denied}

    return app


def main() -> None:
    """Serve on a socket that is listening already."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--fd", type=int, required=True)
    options.add_argument("--url", required=True)
    options.add_argument("--namespace", required=True)
    options.add_argument("--market-window", type=float, required=True)
    chosen = options.parse_args()
    app = gateway(AsyncGrid(chosen.url, namespace=chosen.namespace), chosen.market_window)
    config = uvicorn.Config(app, log_level="warning", access_log=False, proxy_headers=False)
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=chosen.fd)])


if __name__ == "__main__":
    main()
