"""A book in memory, made of its events alone."""

from __future__ import annotations

from dataclasses import dataclass
from hashlib import sha256
from typing import TYPE_CHECKING

from gridsync.errors import HistoryBroken
from gridsync.market._events import OrderReduced, OrderRemoved, OrderReplaced, OrderRested, Traded, level_change

if TYPE_CHECKING:
    from gridsync.market._events import BookEvent, Side


@dataclass(slots=True)
class Resting:
    """An order in a mirror."""

    side: Side
    price: int
    """In ticks."""
    place: int
    """The sequence number with which it joined the queue: who has a lower one is served first."""
    left: int
    """What is open, in lots."""
    owner: str
    expires_ms: int


class Mirror:
    """A book in memory that follows the events of the live one.

    Give it every event in order, with its version in the market's stream: it notices a gap.
    """

    def __init__(self, market: str) -> None:
        """Begin with the empty book, before the first event."""
        self.market = market
        self.sequence: int = 0
        """The last event that is in it."""
        self.orders: dict[str, Resting] = {}
        """The open orders, by id."""
        self.levels: dict[tuple[Side, int], int] = {}
        """How many lots stand at each price of each side."""

    def apply(self, event: BookEvent, sequence: int) -> None:
        """Take one more event in; one that it has already is passed over.

        Raises:
            HistoryBroken: There are events between the last one and this, or this one does not fit the book.
        """
        if sequence <= self.sequence:
            return
        if sequence != self.sequence + 1:
            raise self._broken(f"event {sequence} came after {self.sequence}: what is between was missed")
        change = level_change(event)
        level = (change.side, change.price)
        total = self.levels.pop(level, 0) + change.by
        if total:
            self.levels[level] = total
        try:
            self._order(event, sequence)
        except KeyError as error:
            raise self._broken(f"event {sequence} is about order {error.args[0]!r}, which is not open") from None
        self.sequence = sequence

    def _order(self, event: BookEvent, sequence: int) -> None:
        orders = self.orders
        if isinstance(event, OrderRested):
            orders[event.order] = Resting(
                event.side, event.price, sequence, event.quantity, event.owner, event.expires_ms
            )
        elif isinstance(event, Traded):
            maker = orders[event.maker]
            maker.left -= event.quantity
            if maker.left != event.maker_left:
                raise self._broken(f"event {sequence} leaves {event.maker_left} of {event.maker!r}, not {maker.left}")
            if not maker.left:
                del orders[event.maker]
        elif isinstance(event, OrderReduced):
            orders[event.order].left = event.quantity
        elif isinstance(event, OrderReplaced):
            orders[event.order] = orders.pop(event.replaced)
            orders[event.order].left = event.quantity
        elif isinstance(event, OrderRemoved):
            del orders[event.order]

    def queue(self, side: Side) -> list[tuple[str, Resting]]:
        """Return the orders of a side in the order in which they will be served."""
        sign = -1 if side == "buy" else 1
        found = [item for item in self.orders.items() if item[1].side == side]
        return sorted(found, key=lambda item: (sign * item[1].price, item[1].place))

    def digest(self) -> str:
        """Return a digest of the whole book: equal for equal books, wherever they were made."""
        digest = sha256(f"{self.sequence}\n".encode())
        for side in ("buy", "sell"):
            for order_id, order in self.queue(side):
                line = (side, order.price, order.place, order_id, order.left, order.owner, order.expires_ms)
                digest.update(f"{' '.join(map(str, line))}\n".encode())
        return digest.hexdigest()

    def _broken(self, what: str) -> HistoryBroken:
        return HistoryBroken(f"the book {self.market!r}: {what}; build it again from the beginning", name=self.market)

    def __repr__(self) -> str:
        """Name, place and size."""
        return f"<Mirror {self.market!r} at {self.sequence} orders={len(self.orders)}>"
