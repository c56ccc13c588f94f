"""The events of a book: what changed it, one event for each change of one order.

A request that changes nothing (an order that finds nobody and does not stay) makes no event; its caller is told.
Prices are whole ticks and quantities whole lots: `OrderBook.price` and `OrderBook.quantity` turn them into decimals.
"""

from __future__ import annotations

from typing import ClassVar, Final, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

Side = Literal["buy", "sell"]


class _Event(BaseModel):
    """What happened in a book; it does not change any more."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True)


class OrderRested(_Event):
    """An order, or what is left of it, has joined the end of the queue of its price."""

    event_type: ClassVar[str] = "orderbook.rested"
    order: str
    """Its id."""
    owner: str
    """Whose it is; empty if nobody said."""
    side: Side
    price: int
    """In ticks."""
    quantity: int
    """What is open, in lots."""
    filled: int
    """What was traded before, in lots: by it when it came in, and by an order that it replaced."""
    expires_ms: int
    """When it expires, on the server's clock, in milliseconds since 1970; 0 for never."""


class Traded(_Event):
    """An order that came in has traded with one that was there, at the price of that one."""

    event_type: ClassVar[str] = "orderbook.traded"
    maker: str
    """The order that was there."""
    taker: str
    """The order that came in."""
    maker_owner: str
    taker_owner: str
    side: Side
    """What the taker did."""
    price: int
    """In ticks."""
    quantity: int
    """In lots."""
    maker_left: int
    """What is still open of the maker, in lots; at 0 it has left the book."""


class OrderReduced(_Event):
    """An open order became smaller without a trade, and kept its place."""

    event_type: ClassVar[str] = "orderbook.reduced"
    order: str
    owner: str
    side: Side
    price: int
    """In ticks."""
    quantity: int
    """What is still open, in lots."""
    by: int
    """What went away, in lots."""
    reason: Literal["self_trade"]


class OrderReplaced(_Event):
    """An open order gave its place in the queue to another one of the same price, and no larger."""

    event_type: ClassVar[str] = "orderbook.replaced"
    order: str
    """The new one."""
    owner: str
    side: Side
    price: int
    """In ticks."""
    quantity: int
    """What is open, in lots."""
    replaced: str
    """The old one, which has left the book."""
    by: int
    """How much less is open now, in lots."""


class OrderRemoved(_Event):
    """An order has left the book, and not by a trade."""

    event_type: ClassVar[str] = "orderbook.removed"
    order: str
    owner: str
    side: Side
    price: int
    """In ticks."""
    quantity: int
    """What was open, in lots."""
    reason: Literal["cancelled", "expired", "replaced", "self_trade"]


BookEvent = OrderRested | Traded | OrderReduced | OrderReplaced | OrderRemoved
"""What a book appends to the store that it is given: a store of its own has these, a shared one more."""
EVENTS: Final = (OrderRested, Traded, OrderReduced, OrderReplaced, OrderRemoved)


class LevelChange(NamedTuple):
    """What an event means for the quantity that stands at one price."""

    side: Side
    price: int
    """In ticks."""
    by: int
    """In lots; less than 0 if it went away."""


def level_change(event: BookEvent) -> LevelChange:
    """Return what *event* means for a picture of the book that knows levels only."""
    if isinstance(event, Traded):
        return LevelChange("sell" if event.side == "buy" else "buy", event.price, -event.quantity)
    if isinstance(event, OrderRested):
        return LevelChange(event.side, event.price, event.quantity)
    if isinstance(event, OrderRemoved):
        return LevelChange(event.side, event.price, -event.quantity)
    return LevelChange(event.side, event.price, -event.by)
