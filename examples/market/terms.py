"""What all processes of the market agree on: names, events, and what is kept in the cache.

Energy is in Wh, a price in micro-euro per kWh, so an amount of money (Wh times price) is a whole number of nano-euro.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pydantic import BaseModel, ConfigDict

from gridsync.cache import Near, Space
from gridsync.market import EVENTS

if TYPE_CHECKING:
    from gridsync import AsyncGrid, Grid
    from gridsync.fanout import AsyncChannel, Channel
    from gridsync.market import AsyncOrderBook, OrderBook
    from gridsync.streams import AsyncEventStore, EventStore

MARKET = "neighbourhood"
EPOCH_S = 0.5
"""How long an epoch lasts: what was traded in it is settled at its end."""
EPOCHS = "epochs"
"""The stream of settlements: its version *n* is epoch *n*."""
VIEW = "wallets"


class EpochSettled(BaseModel):
    """Everything that was traded in one epoch was paid."""

    model_config = ConfigDict(frozen=True)

    fence: int
    """Of the lease under which it was settled."""
    clerk: str
    after: int
    """The last change of the book before this epoch."""
    until: int
    """The last change of the book in it."""
    nano_eur: dict[str, int]
    """Member → received if positive, paid if negative."""


class Profile(BaseModel):
    """Who somebody is."""

    model_config = ConfigDict(frozen=True)

    member: str
    kind: str
    yearly_kwh: float


PROFILES = Space("user:profile", Profile, ttl=3600)
WALLETS = Space("user:wallet", int, ttl=1800)
CURRENT_EPOCH = Space("market:current_epoch", int, ttl=300)
NEAR = Near(entries_max=10_000)
"""Profiles hardly ever change, so each gateway keeps copies of them."""


def events(grid: Grid) -> EventStore[Any]:
    """Return the store that has everything."""
    return grid.events("trading", [*EVENTS, EpochSettled])


def async_events(grid: AsyncGrid) -> AsyncEventStore[Any]:
    """Return the store that has everything."""
    return grid.events("trading", [*EVENTS, EpochSettled])


def order_book(grid: Grid, store: EventStore[Any]) -> OrderBook[EventStore[Any]]:
    """Return the book."""
    return grid.orderbook(MARKET, tick=1, store=store)


def async_order_book(grid: AsyncGrid, store: AsyncEventStore[Any]) -> AsyncOrderBook[AsyncEventStore[Any]]:
    """Return the book."""
    return grid.orderbook(MARKET, tick=1, store=store)


def prices(grid: Grid) -> Channel:
    """Return the channel on which the changes of the book are told."""
    return grid.channel("prices", history=50_000)


def async_prices(grid: AsyncGrid, secret: str) -> AsyncChannel:
    """Return the same, for gateways: they sign what their clients come back with."""
    return grid.channel("prices", history=50_000, secrets=[secret])
