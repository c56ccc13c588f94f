"""Market: an order book whose every change is an event.

`OrderBook` and `AsyncOrderBook` are made by `Grid.orderbook` and `AsyncGrid.orderbook`.
"""

from gridsync.market._amounts import Amount
from gridsync.market._api import AsyncOrderBook, OrderBook
from gridsync.market._events import (
    EVENTS,
    BookEvent,
    LevelChange,
    OrderReduced,
    OrderRemoved,
    OrderReplaced,
    OrderRested,
    Side,
    Traded,
    level_change,
)
from gridsync.market._mirror import Mirror, Resting
from gridsync.market._results import Cancelled, Depth, Fill, Level, Metadata, Order, Placed, Verified

__all__ = [
    "EVENTS",
    "Amount",
    "AsyncOrderBook",
    "BookEvent",
    "Cancelled",
    "Depth",
    "Fill",
    "Level",
    "LevelChange",
    "Metadata",
    "Mirror",
    "Order",
    "OrderBook",
    "OrderReduced",
    "OrderRemoved",
    "OrderReplaced",
    "OrderRested",
    "Placed",
    "Resting",
    "Side",
    "Traded",
    "Verified",
    "level_change",
]
