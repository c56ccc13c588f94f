"""What happens in the market, as events, and the order book that is made of them.

Energy is in Wh, money in micro-euro.  One store holds three kinds of streams: ``book-<hour>`` with the orders and
trades of one hour, ``meter-<member>`` with readings, and ``account-<member>`` with what was booked.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel

STORE = "market"
FEE = 3
"""What the grid operator gets for each Wh that a meter counts, in micro-euro."""


class Placed(BaseModel):
    """Somebody wants to buy or sell."""

    member: str
    number: int
    side: Literal["buy", "sell"]
    wh: int
    price: int
    """Micro-euro for each Wh, at most or at least."""

    @property
    def order(self) -> str:
        """The order's name, the same however often it is placed."""
        return f"{self.member}/{self.number}"


class Traded(BaseModel):
    """Two orders met."""

    buyer: str
    seller: str
    bid: str
    ask: str
    wh: int
    price: int


class Metered(BaseModel):
    """A meter was read."""

    member: str
    wh: int


class Booked(BaseModel):
    """Money came or went; the other half of it stands in another account."""

    member: str
    amount: int


Event = Placed | Traded | Metered | Booked


class Open(BaseModel):
    """What is left of an order."""

    order: str
    member: str
    wh: int
    price: int


class Book(BaseModel):
    """The state of one hour: who still waits, and which orders there were."""

    buy: list[Open] = []
    sell: list[Open] = []
    orders: set[str] = set()


def evolve(book: Book, event: BaseModel) -> Book:
    """Return the book after an event."""
    if isinstance(event, Placed):
        rest = Open(order=event.order, member=event.member, wh=event.wh, price=event.price)
        sides = {"buy": book.buy, "sell": book.sell}
        return Book(
            **{**sides, event.side: _sorted(event.side, [*sides[event.side], rest])}, orders={*book.orders, rest.order}
        )
    if isinstance(event, Traded):
        return Book(
            buy=_less(book.buy, event.bid, event.wh), sell=_less(book.sell, event.ask, event.wh), orders=book.orders
        )
    return book


def place(book: Book, order: Placed) -> list[Event]:
    """Decide what comes of an order: it is placed once, and it meets whom it can, best price first."""
    if order.order in book.orders:
        return []  # placed by an earlier life of this process
    happened: list[Event] = [order]
    left = order.wh
    for other in book.sell if order.side == "buy" else book.buy:
        fits = other.price <= order.price if order.side == "buy" else other.price >= order.price
        if not left or not fits:
            break
        mine = Open(order=order.order, member=order.member, wh=left, price=order.price)
        bid, ask = (mine, other) if order.side == "buy" else (other, mine)
        wh = min(left, other.wh)
        happened.append(
            Traded(buyer=bid.member, seller=ask.member, bid=bid.order, ask=ask.order, wh=wh, price=other.price)
        )
        left -= wh
    return happened


def _sorted(side: str, orders: list[Open]) -> list[Open]:
    return sorted(orders, key=lambda one: -one.price if side == "buy" else one.price)


def _less(orders: list[Open], order: str, wh: int) -> list[Open]:
    rest = [one.model_copy(update={"wh": one.wh - wh}) if one.order == order else one for one in orders]
    return [one for one in rest if one.wh]
