"""What a book answers; prices and quantities are exact decimals."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from decimal import Decimal

    from gridsync.market._amounts import Unit
    from gridsync.market._events import Side


@dataclass(frozen=True, slots=True)
class Fill:
    """One trade of an order that came in."""

    maker: str
    """The order that was there."""
    price: Decimal
    """That of the maker."""
    quantity: Decimal
    sequence: int
    """The number of its `Traded` event."""


@dataclass(frozen=True, slots=True)
class Placed:
    """What became of an order when it came in."""

    order_id: str
    status: str
    """``open``: it is in the book; ``filled``; ``cancelled``: what was not traded is gone; ``rejected``: nothing was
    done."""
    filled: Decimal
    """What was traded; of an order that replaced another one, by both."""
    left: Decimal
    """What was not traded: open if the status is ``open``."""
    reason: str | None
    """Why it was cancelled (``unfilled``, ``max_fills``, ``self_trade``) or rejected (``would_trade``, ``cannot_fill``,
    ``not_open``, ``too_small``, ``cancelled``)."""
    sequence: int
    """The book's last event after it."""
    trades: tuple[Fill, ...]
    """In the order in which they happened."""
    replayed: bool
    """Whether this is the answer to an earlier request with this id: then nothing was done now."""


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of a cancellation."""

    order_id: str
    cancelled: bool
    """Whether the order was cancelled, now or before."""
    how: str
    """How it ended: ``cancelled``, ``filled``, ``expired``, ``replaced``, ``self_trade``, a reason of `Placed`, or
    ``unknown``: there was no such order, and there will be none for a time."""
    left: Decimal
    """What was open of it then."""
    sequence: int
    """The book's last event after it."""
    replayed: bool
    """Whether it had ended before."""


@dataclass(frozen=True, slots=True)
class Level:
    """What stands at one price."""

    price: Decimal
    quantity: Decimal


@dataclass(frozen=True, slots=True)
class Depth:
    """The best prices of both sides, at one moment."""

    bids: tuple[Level, ...]
    """What is wanted, the highest price first."""
    asks: tuple[Level, ...]
    """What is offered, the lowest price first."""
    sequence: int
    """The last event that is in it: what is to be added to it are the events after that."""


@dataclass(frozen=True, slots=True)
class Order:
    """What is known of one order."""

    order_id: str
    status: str
    """``open``, or how it ended; see `Cancelled`."""
    filled: Decimal | None
    """What was traded, of an open order."""
    left: Decimal
    """What is open, or was when it ended."""
    side: Side | None
    price: Decimal | None
    owner: str | None


@dataclass(frozen=True, slots=True)
class Metadata:
    """What the last change of a book has left for whoever looks at prices only; it lives for five minutes."""

    bid: Decimal | None
    """The highest price that somebody pays."""
    ask: Decimal | None
    """The lowest price that somebody takes."""
    spread: Decimal | None
    """What lies between them."""
    sequence: int
    """The book's last event."""
    time_us: int
    """When that was, on the server's clock, in microseconds since 1970."""

    @classmethod
    def read(cls, stored: bytes | None, price: Unit) -> Metadata | None:
        """Return what is stored, with prices instead of ticks."""
        if stored is None:
            return None
        said = json.loads(stored)
        bid, ask = (None if (ticks := said[side]) is None else price.value(ticks) for side in ("bid", "ask"))
        # Not the one that is stored: Lua's numbers are exact up to the largest price, and it may be twice that.
        spread = None if bid is None or ask is None else ask - bid
        return cls(bid, ask, spread, said["sequence"], said["time_us"])


@dataclass(frozen=True, slots=True)
class Verified:
    """What a comparison of a live book with its events has found."""

    sequence: int
    """The last event that was looked at."""
    orders: int
    """How many open orders were compared."""
    digest: str
    """The digest of the book that the events make; `Mirror.digest` of another process at this event is the same."""
    differences: tuple[str, ...]
    """What is not as its events say, in words; empty if nothing."""

    @property
    def ok(self) -> bool:
        """Whether the book is what its events say."""
        return not self.differences
