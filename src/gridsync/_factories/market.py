"""Factories of order books."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._factories import AsyncGround, Ground
from gridsync._units import shown
from gridsync.errors import UsageError
from gridsync.market import EVENTS, AsyncOrderBook, OrderBook
from gridsync.market._core import identifier
from gridsync.streams import AsyncEventStore, EventStore

if TYPE_CHECKING:
    from gridsync._units import Seconds
    from gridsync.market import Amount

S = TypeVar("S")


class MarketFactories(Ground):
    """The factories of order books, for threads."""

    def orderbook(
        self,
        market: str,
        *,
        tick: Amount,
        lot: Amount = 1,
        store: EventStore[Any] | None = None,
        max_fills: int = 100,
        remember: Seconds = 900.0,
    ) -> OrderBook[EventStore[Any]]:
        """Return the order book *market*, whose prices are multiples of *tick* and quantities of *lot*.

        Its events go to *store*, which knows the models of `gridsync.market.EVENTS`; without one, to a store of its
        own, ``orderbook:<market>``.  The rest as in `OrderBook`.
        """
        known = identifier(market, "a market")
        if store is None:
            store = EventStore(self._io, self.namespace, f"orderbook:{known}", EVENTS)
        return OrderBook(of_kind(store, EventStore), known, tick=tick, lot=lot, max_fills=max_fills, remember=remember)


class AsyncMarketFactories(AsyncGround):
    """The factories of order books, for tasks."""

    def orderbook(
        self,
        market: str,
        *,
        tick: Amount,
        lot: Amount = 1,
        store: AsyncEventStore[Any] | None = None,
        max_fills: int = 100,
        remember: Seconds = 900.0,
    ) -> AsyncOrderBook[AsyncEventStore[Any]]:
        """Return the order book *market*, whose prices are multiples of *tick* and quantities of *lot*.

        Its events go to *store*, which knows the models of `gridsync.market.EVENTS`; without one, to a store of its
        own, ``orderbook:<market>``.  The rest as in `AsyncOrderBook`.
        """
        known = identifier(market, "a market")
        if store is None:
            store = AsyncEventStore(self._io, self.namespace, f"orderbook:{known}", EVENTS)
        return AsyncOrderBook(
            of_kind(store, AsyncEventStore), known, tick=tick, lot=lot, max_fills=max_fills, remember=remember
        )


def of_kind(store: S, kind: type[S]) -> S:
    """Return *store* if it is one.

    Raises:
        UsageError: It is not; the stores of threads and of tasks do not stand in for each other.
    """
    if not isinstance(store, kind):
        raise UsageError(f"store= must be an {kind.__name__}, not {shown(store)}")
    return store
