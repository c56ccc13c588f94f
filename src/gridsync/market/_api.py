"""The order book: `OrderBook` for threads, `AsyncOrderBook` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, Generic, Literal, TypeVar

from gridsync._io import run_sync
from gridsync.market._core import BookCore, stream_of

if TYPE_CHECKING:
    from decimal import Decimal

    from gridsync._units import Seconds
    from gridsync.market._amounts import Amount
    from gridsync.market._events import Side
    from gridsync.market._mirror import Mirror
    from gridsync.market._results import Cancelled, Depth, Metadata, Order, Placed, Verified

Rule = Literal["gtc", "ioc", "fok", "post_only"]
SelfTrade = Literal["cancel_newest", "cancel_oldest", "cancel_both", "decrement"]

MAX_FILLS: Final = 100
REMEMBER_S: Final = 900.0
S = TypeVar("S")


class _BookBase(Generic[S]):
    """What both kinds share."""

    def __init__(
        self,
        store: S,
        market: str,
        *,
        tick: Amount,
        lot: Amount = 1,
        max_fills: int = MAX_FILLS,
        remember: Seconds = REMEMBER_S,
    ) -> None:
        """Open the book *market*; nothing is sent.

        Args:
            store: The event store that gets the book's events; `gridsync.market.EVENTS` are among its models.
            market: The book; all its keys lie in the hash slot of its events.
            tick: What prices are multiples of.  Fixed with the first order.
            lot: What quantities are multiples of.  Fixed with the first order.
            max_fills: How many other orders one order may meet, 1 to 1000, for a script blocks the server while it
                runs: about 10 µs each.  What is left then is cancelled.
            remember: Seconds for which an order that has ended is remembered at least, and at most twice as long.

        Raises:
            UsageError: An argument that cannot be used, or a store that does not know the book's events.
        """
        inner: Any = store
        self._store = store
        journal = inner._core.of(stream_of(market))  # noqa: SLF001 - what a store is, for whoever writes into it
        self._core = BookCore(journal, market, tick=tick, lot=lot, fills_max=max_fills, remember=remember)

    @property
    def market(self) -> str:
        """The name of the book."""
        return self._core.market

    @property
    def stream(self) -> str:
        """The stream of the store in which the book's events are; their versions are its sequence numbers."""
        return self._core.stream

    @property
    def events(self) -> S:
        """The store that gets the book's events: to read them, subscribe to them, or consume them in groups."""
        return self._store

    def price(self, ticks: int) -> Decimal:
        """Return so many ticks, as events have them, as a price."""
        return self._core.price.value(ticks)

    def quantity(self, lots: int) -> Decimal:
        """Return so many lots, as events have them, as a quantity."""
        return self._core.quantity.value(lots)

    def __repr__(self) -> str:
        core = self._core
        return f"<{type(self).__name__} {core.market!r} tick={core.price.text} lot={core.quantity.text}>"


class OrderBook(_BookBase[S]):
    """Orders of one market with price-time priority, matched inside the server; for threads.

    Guarantee: who offers the best price trades first, and of those who came first; an order is placed, matched and
    recorded once however often its request is sent, or not at all; every change is an event, without a gap, and the
    book that the events make is the live one (tests/market, tests/sim/test_book.py).
    Not guaranteed: that a failover keeps the last orders; replication is asynchronous.
    """

    def place(
        self,
        order_id: str,
        side: Side,
        quantity: Amount,
        price: Amount | None = None,
        *,
        rule: Rule | None = None,
        owner: str = "",
        self_trade: SelfTrade = "cancel_newest",
        expires_in: Seconds | None = None,
    ) -> Placed:
        """Bring an order in: it trades with what it crosses, and the rest stays in the book, or does not.

        Args:
            order_id: The client's own id for it, up to 64 characters, unique in this book: a repeat of the same request
                gets the first answer.
            side: ``buy`` or ``sell``.
            quantity: How much, a multiple of the lot.
            price: The limit, a multiple of the tick; may be negative.  ``None`` takes any price.
            rule: ``gtc`` stays until it is cancelled, the default with a price; ``ioc`` takes what there is, the
                default without one; ``fok`` takes all or nothing; ``post_only`` stays, and is rejected if it would
                trade at once.
            owner: Whose it is.  Orders of one owner do not trade with each other.
            self_trade: What happens where they would: the newer order is cancelled, the older, both, or the smaller
                quantity is taken off both.
            expires_in: Seconds after which it is taken out if it is still open.

        Returns:
            What became of it, with its trades.

        Raises:
            DuplicateOrder: Another order has this id, or had it and is remembered.
            UsageError: An argument that cannot be used, a float among them, or a book with another tick or lot.
            OutcomeUnknown: No answer in time; repeat it as it was, or cancel it.

        Guarantee: an open order is known by its id, and one that has ended for `remember` seconds at least.
        Not guaranteed: more than *max_fills* meetings: then what is left is cancelled, and `Placed.reason` says so.
        Cost: one round trip; one script of O(log orders), and about 10 µs for each order that it meets.
        """
        return run_sync(
            self._core.place(
                order_id, side, quantity, price, rule=rule, owner=owner, self_trade=self_trade, expires_in=expires_in
            )
        )

    def cancel(self, order_id: str) -> Cancelled:
        """Take an open order out.

        An order that never came is refused if it comes later: after `OutcomeUnknown` this settles it.

        Returns:
            Whether it was cancelled, or else how it had ended; the same again for a repeat.

        Raises:
            UsageError: An id that cannot be one.
            OutcomeUnknown: No answer in time; repeat it.

        Cost: one round trip, one script of O(log orders).
        """
        return run_sync(self._core.cancel(order_id))

    def replace(
        self,
        order_id: str,
        new_id: str,
        quantity: Amount,
        price: Amount,
        *,
        post_only: bool = False,
        self_trade: SelfTrade = "cancel_newest",
    ) -> Placed:
        """Put another order in the place of an open one: same side, owner and expiry.

        With the same price and no larger quantity it keeps its place in the queue; else it goes to the end, and may
        trade.

        Args:
            order_id: The open order.
            new_id: The id of the new one: a repeat of the same request gets the first answer.
            quantity: Of both together: what the old one has traded counts, so that nothing is traded twice in a race.
            price: The new limit.
            post_only: Reject it if it would trade at once.
            self_trade: As in `place`.

        Returns:
            What became of the new order.  If it is rejected, the old one is as it was.

        Raises:
            DuplicateOrder: Another order has *new_id*.
            UsageError: An argument that cannot be used.
            OutcomeUnknown: No answer in time; repeat it as it was.

        Cost: as `place`.
        """
        return run_sync(
            self._core.replace(order_id, new_id, quantity, price, post_only=post_only, self_trade=self_trade)
        )

    def order(self, order_id: str) -> Order | None:
        """Look at one order: open, or ended and remembered; ``None`` if it is not known.

        Cost: one round trip, O(1).
        """
        return run_sync(self._core.order(order_id))

    def depth(self, levels: int = 10) -> Depth:
        """Read what stands at the best prices of both sides, at one moment.

        What has expired is in it until the next change of the book, or `tend`, takes it out; nobody trades with it.

        Args:
            levels: How many prices of each side, 1 to 500.

        Cost: one round trip; O(log orders) per level, about 2 µs.
        """
        return run_sync(self._core.depth(levels))

    def metadata(self) -> Metadata | None:
        """Read the best prices as the last change has left them.

        They live for five minutes after the last change or `tend`: ``None`` means that nothing has happened for so long
        and that nobody tends the book, not that it is empty.

        Cost: one round trip, O(1).
        """
        return run_sync(self._core.metadata())

    def tend(self) -> int:
        """Take out what has expired, and renew the metadata; call it now and then where little is traded.

        Nothing depends on it: every order that comes in takes out what has expired first.

        Returns:
            The book's last event.

        Cost: one round trip for each 100 orders that have expired, and one.
        """
        return run_sync(self._core.tend())

    def rebuild(self) -> Mirror:
        """Make the book anew in memory, of its events alone.

        Give it the later events of a subscription, and it goes on as the live one does.

        Raises:
            Truncated: Events were removed, and the store has no archive of them.
            HistoryBroken: The events do not fit together.

        Cost: reads every event of the book, 500 a round trip.
        """
        return run_sync(self._core.rebuild())

    def restore(self) -> Verified:
        """Write the keys of the book anew, of its events, if they are gone.

        For a second site that was given the events and is promoted now, or a server that has lost a part of its keys.
        Until it is done the book takes no orders.

        Returns:
            The comparison of the new book with its events.

        Raises:
            UsageError: The book is there.
            ReadOnlyStore: The store is a mirror: promote it first.
            NotNow: More events came meanwhile, or somebody else restores it: try again.
            Truncated: Events were removed, and the store has no archive of them.
            OutcomeUnknown: No answer in time; call it again.

        Guarantee: the same orders in the same turn.  The answers to earlier requests are not in the events: a repeat of
        an order that has an event younger than `remember` seconds is refused with `DuplicateOrder`.
        Not guaranteed: that the repeat of an order that left no event is known.
        Cost: that of `verify`, and one round trip for each hundred open orders.
        """
        return run_sync(self._core.restore())

    def verify(self) -> Verified:
        """Compare the live book with its events, while others go on trading.

        Returns:
            What was compared, and what differs: orders, their places, and the 500 best levels of each side.

        Raises:
            Truncated: Events were removed, and the store has no archive of them.
            HistoryBroken: The events do not fit together.

        Cost: that of `rebuild`, and one round trip for each 500 open orders.
        """
        return run_sync(self._core.verify())


class AsyncOrderBook(_BookBase[S]):
    """The asyncio twin of `OrderBook`.

    Guarantee: who offers the best price trades first, and of those who came first; an order is placed, matched and
    recorded once however often its request is sent, or not at all; every change is an event, without a gap, and the
    book that the events make is the live one (tests/market, tests/sim/test_book.py).
    Not guaranteed: that a failover keeps the last orders; replication is asynchronous.
    """

    async def place(
        self,
        order_id: str,
        side: Side,
        quantity: Amount,
        price: Amount | None = None,
        *,
        rule: Rule | None = None,
        owner: str = "",
        self_trade: SelfTrade = "cancel_newest",
        expires_in: Seconds | None = None,
    ) -> Placed:
        """Bring an order in: it trades with what it crosses, and the rest stays, or does not; see `OrderBook.place`.

        A cancelled call may have been carried out: repeat it as it was, or cancel the order.
        """
        return await self._core.place(
            order_id, side, quantity, price, rule=rule, owner=owner, self_trade=self_trade, expires_in=expires_in
        )

    async def cancel(self, order_id: str) -> Cancelled:
        """Take an open order out; see `OrderBook.cancel`."""
        return await self._core.cancel(order_id)

    async def replace(
        self,
        order_id: str,
        new_id: str,
        quantity: Amount,
        price: Amount,
        *,
        post_only: bool = False,
        self_trade: SelfTrade = "cancel_newest",
    ) -> Placed:
        """Put another order in the place of an open one; see `OrderBook.replace`."""
        return await self._core.replace(order_id, new_id, quantity, price, post_only=post_only, self_trade=self_trade)

    async def order(self, order_id: str) -> Order | None:
        """Look at one order; see `OrderBook.order`."""
        return await self._core.order(order_id)

    async def depth(self, levels: int = 10) -> Depth:
        """Read what stands at the best prices of both sides, at one moment; see `OrderBook.depth`."""
        return await self._core.depth(levels)

    async def metadata(self) -> Metadata | None:
        """Read the best prices as the last change has left them; see `OrderBook.metadata`."""
        return await self._core.metadata()

    async def tend(self) -> int:
        """Take out what has expired, and renew the metadata; see `OrderBook.tend`."""
        return await self._core.tend()

    async def rebuild(self) -> Mirror:
        """Make the book anew in memory, of its events alone; see `OrderBook.rebuild`."""
        return await self._core.rebuild()

    async def restore(self) -> Verified:
        """Write the keys of the book anew, of its events, if they are gone; see `OrderBook.restore`."""
        return await self._core.restore()

    async def verify(self) -> Verified:
        """Compare the live book with its events, while others go on trading; see `OrderBook.verify`."""
        return await self._core.verify()
