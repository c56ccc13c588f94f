"""What the keys of a book must hold, made of its events: after a failover to a site that has the events only."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from gridsync.market._events import OrderReplaced, OrderRested, Traded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.market._events import BookEvent
    from gridsync.market._mirror import Mirror

BUY, SELL, BOOK, EXPIRY, SEEN = "2", "3", "4", "5", "6"
"""The numbers of the keys in `restore.lua`."""
UNKNOWN: Final = "? ?"
"""Instead of what was asked for and what that was answered: the events do not say."""


class Notes:
    """What a book needs to know of its orders besides what a mirror has."""

    def __init__(self) -> None:
        """Begin before the first event."""
        self.traded: dict[str, int] = {}
        """Open order → how many lots it has traded, those of an order that it replaced included."""
        self.last_us: dict[str, int] = {}
        """Order → when the last event about it was, in microseconds."""

    def take(self, event: BookEvent, time_us: int) -> None:
        """Take one more event in."""
        orders = [event.maker, event.taker] if isinstance(event, Traded) else [event.order]
        if isinstance(event, Traded):
            self.traded[event.maker] = self.traded.get(event.maker, 0) + event.quantity
        elif isinstance(event, OrderRested):
            self.traded[event.order] = event.filled
        elif isinstance(event, OrderReplaced):
            orders.append(event.replaced)
            self.traded[event.order] = self.traded.get(event.replaced, 0)
        for order in orders:
            self.last_us[order] = time_us

    def ended(self, mirror: Mirror, remember_us: int) -> Iterator[str]:
        """Yield the orders that have ended, and lately."""
        since = max(self.last_us.values(), default=0) - remember_us
        return (order for order, at in self.last_us.items() if at >= since and order not in mirror.orders)


def writes(mirror: Mirror, notes: Notes, remember_us: int) -> Iterator[tuple[str, str, str]]:
    """Yield what `restore.lua` writes: the number of a key, and two words."""
    for order_id, order in mirror.orders.items():
        side, sign, key = ("b", -1, BUY) if order.side == "buy" else ("s", 1, SELL)
        place, quantity = f"{order.place:016d}", order.left + notes.traded.get(order_id, 0)
        record = (place, side, order.price, quantity, order.left, order.expires_ms, order.owner, UNKNOWN)
        yield key, str(sign * order.price), f"{place}:{order_id}"
        yield BOOK, f"o:{order_id}", " ".join(map(str, record))
        if order.expires_ms:
            yield EXPIRY, str(order.expires_ms), order_id
    for (name, price), lots in mirror.levels.items():
        yield BOOK, f"{name[0]}:{price}", str(lots)
    for order_id in notes.ended(mirror, remember_us):
        yield SEEN, order_id, f"ended 0 {UNKNOWN}"
