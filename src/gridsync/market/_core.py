"""Why and when: the decisions of the order book, once for sync and asyncio.

Redis structures, all in the slot of the event store (`_io.keys.OrderBookKeys`): a sorted set per side, whose score is
the price (negated for buyers, so that the best comes first) and whose member begins with the sequence number with which
the order joined the queue, so that equal prices sort by time; a hash with the open orders and with what stands at each
price; and two hashes by turns with how orders ended.

One call is one script: it matches, changes the book, and appends what changed to the store, all of it or nothing.  The
version of the market's stream is the book's sequence number, so that it has no gap.  An order is::

    new ──place──▶ open ──trade, cancel, expiry, replace──▶ ended, and remembered for a time
          │                                                   ▲
          └── traded at once, or not wanted any more ─────────┘

Failure points.  *A lost reply*: the id of the order finds what the first request was answered, open or ended.  *A
request that comes late*: the same.  *A cancel that overtakes its order*: the id is remembered as cancelled, and the
order is refused when it comes.  *A client that dies*: nothing of it is half done.

Invariants: no bid is as high as an ask; of what comes in, what is traded, open and cancelled adds up; who came first at
the best price trades first.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final, Protocol

from gridsync import _units
from gridsync._io import Bound, Category, Command, load
from gridsync._io.keys import orderbook
from gridsync.errors import DuplicateOrder, NotNow, ServerError, UsageError
from gridsync.market._amounts import Unit
from gridsync.market._events import EVENTS
from gridsync.market._mirror import Mirror
from gridsync.market._restoring import Notes, writes
from gridsync.market._results import Cancelled, Depth, Fill, Level, Metadata, Order, Placed, Verified

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from gridsync._io import IO, Script
    from gridsync._io.keys import EventKeys
    from gridsync.market._amounts import Amount
    from gridsync.market._events import Side

PLACE: Final = load("gridsync.market", "place")
REPLACE: Final = load("gridsync.market", "replace")
CANCEL: Final = load("gridsync.market", "cancel")
TEND: Final = load("gridsync.market", "tend")
DEPTH: Final = load("gridsync.market", "depth")
LOOK: Final = load("gridsync.market", "look")
PAGE: Final = load("gridsync.market", "page")
RESTORE: Final = load("gridsync.market", "restore")

METADATA: Final = Command("market.metadata", Category.READ, ("GET",))

LEVELS_MAX: Final = 500
FILLS_MAX: Final = 1000
PAGE_ORDERS: Final = 500
RESTORED_AT_ONCE: Final = 300
"""How many fields and members one run of the script writes that makes a book anew."""
_AGAIN_MAX: Final = 10_000
"""How often a call may be told to come again: each time a hundred expired orders were taken out."""

_REPLAYED, _TAKEN, _TERMS, _FULL_LEVEL, _FULL_LOG, _AGAIN = 1, 2, 3, 4, 5, 6
_THERE: Final = 2
"""What `restore.lua` says of a book that is there."""
_ID: Final = re.compile(r"[A-Za-z0-9._:@/+-]{1,64}")
_RULES: Final = {"gtc": "gtc", "ioc": "ioc", "fok": "fok", "post_only": "post"}
_PROTECT: Final = {word: word for word in ("cancel_newest", "cancel_oldest", "cancel_both", "decrement")}
_SIDES: Final = {"buy": "b", "sell": "s"}


class Journal(Protocol):
    """What a book must know of the event store, or partition of one, to which it appends."""

    io: IO
    keys: EventKeys
    name: str
    mode: str
    codec: Any
    directory: Any
    home: Callable[[str], int] | None

    async def compare(self, error: ServerError) -> None:
        """Say more of *error*, if it is that the store was begun with other options."""

    async def again(
        self,
        reply: Any,  # noqa: ANN401
        script: Script | Bound,
        keys: Sequence[str],
        args: Sequence[object],
        count: int,
    ) -> Any:  # noqa: ANN401
        """Make room for so many events, and return what *script* replies then."""

    def read(self, stream: str, **options: Any) -> Any:  # noqa: ANN401 - pages of the stream
        """Return the pages of one stream."""


class BookCore:
    """One order book: its keys, what its numbers mean, and the calls."""

    def __init__(
        self, journal: Journal, market: str, *, tick: Amount, lot: Amount, fills_max: int, remember: _units.Seconds
    ) -> None:
        """Check the options; nothing is sent."""
        self.market = identifier(market, "a market")
        self.stream = stream_of(market)
        self.journal = journal
        if unknown := [event.event_type for event in EVENTS if event.event_type not in journal.codec.types]:
            raise UsageError(
                f"the store {journal.name!r} does not know {', '.join(unknown)}: give it the models of "
                "gridsync.market.EVENTS, beside its own"
            )
        self.price = Unit(tick, "price", signed=True)
        self.quantity = Unit(lot, "quantity", signed=False)
        most = _units.count(fills_max, "max_fills", FILLS_MAX)
        self._kept_ms = kept_ms = round(_units.seconds(remember, "remember", least=1.0) * 1000)
        self._io, events = journal.io, journal.keys
        self._keys = keys = orderbook(events.base, market)
        self._terms = f"{self.price.text} {self.quantity.text}"
        self._versions = events.versions
        touched = (events.meta, events.versions, events.log, events.stream(self.stream), *keys)
        common = (self.stream, journal.mode, self._terms, str(kept_ms))
        self._place = Bound(PLACE, touched, (*common, str(most), *([None] * 8)))
        self._replace = Bound(REPLACE, touched, (*common, str(most), *([None] * 6)))
        self._cancel = Bound(CANCEL, touched, (*common, None))
        self._touched, self._common = touched, common

    # -- writing ----------------------------------------------------------------------------------------------------

    async def place(
        self,
        order_id: str,
        side: Side,
        quantity: Amount,
        price: Amount | None,
        *,
        rule: str | None,
        owner: str,
        self_trade: str,
        expires_in: _units.Seconds | None,
    ) -> Placed:
        """Bring an order into the book; see `OrderBook.place`."""
        if rule is None:
            rule = "ioc" if price is None else "gtc"
        word = chosen(rule, _RULES, "rule")
        stays = rule in {"gtc", "post_only"}
        if price is None and stays:
            raise UsageError(f"an order without a price cannot stay in the book: rule={rule!r} needs one")
        if expires_in is not None and not stays:
            raise UsageError(f"rule={rule!r} with expires_in: such an order never stays in the book")
        life = 0 if expires_in is None else round(_units.seconds(expires_in, "expires_in", least=0.001) * 1000)
        args = (
            identifier(order_id, "the id of an order"),
            chosen(side, _SIDES, "side"),
            "" if price is None else str(self.price.whole(price)),
            str(self.quantity.whole(quantity)),
            word,
            chosen(self_trade, _PROTECT, "self_trade"),
            "" if owner == "" else identifier(owner, "an owner"),
            str(life),
        )
        return self._placed(order_id, await self._sent(self._place, args))

    async def replace(
        self, order_id: str, new_id: str, quantity: Amount, price: Amount, *, post_only: bool, self_trade: str
    ) -> Placed:
        """Put another order in the place of one; see `OrderBook.replace`."""
        if order_id == new_id:
            raise UsageError(f"new_id={new_id!r}: the order that replaces another one needs an id of its own")
        args = (
            identifier(new_id, "the id of an order"),
            identifier(order_id, "the id of an order"),
            str(self.price.whole(price)),
            str(self.quantity.whole(quantity)),
            "post" if post_only else "gtc",
            chosen(self_trade, _PROTECT, "self_trade"),
        )
        return self._placed(new_id, await self._sent(self._replace, args))

    async def cancel(self, order_id: str) -> Cancelled:
        """Take an order out; see `OrderBook.cancel`."""
        reply = await self._sent(self._cancel, (identifier(order_id, "the id of an order"),))
        self._agreed(reply)
        how = reply[1].decode()
        return Cancelled(
            order_id,
            how == "cancelled",
            how,
            self.quantity.value(int(reply[2])),
            reply[3],
            reply[0] == _REPLAYED,
        )

    async def tend(self) -> int:
        """Take out what has expired; see `OrderBook.tend`."""
        for _ in range(_AGAIN_MAX):
            reply = await self._run(TEND, self._touched, self._common)
            if reply[0] != _AGAIN:
                self._agreed(reply)
                sequence: int = reply[1]
                return sequence
        raise self._expiring()

    async def _sent(self, call: Bound, args: Sequence[str]) -> list[Any]:
        for _ in range(_AGAIN_MAX):
            # A lost reply may mean done: the script finds the id, and gives the first answer again.
            reply: list[Any] = await self._run(call, self._touched, args)
            if reply[0] != _AGAIN:
                return reply
        raise self._expiring()

    async def _run(self, call: Bound | Script, keys: Sequence[str], args: Sequence[str]) -> Any:  # noqa: ANN401
        journal = self.journal
        if journal.home is not None and not journal.directory.seen:
            await journal.directory.open()
        try:
            reply = await self._io.run(call, keys, args)
        except ServerError as error:
            await journal.compare(error)
            raise
        return await journal.again(reply, call, keys, args, reply[1]) if reply[0] == _FULL_LOG else reply

    def _placed(self, order_id: str, reply: list[Any]) -> Placed:
        code = reply[0]
        if code == _TAKEN:
            raise DuplicateOrder(
                f"the book {self.market!r} has had another order under the id {order_id!r}: a repeat says the same as "
                "the first request, and a new order has a new id",
                market=self.market,
                order_id=order_id,
            )
        if code == _FULL_LEVEL:
            raise UsageError(f"order {order_id!r} was refused: more than {2**53 - 1} lots would stand at its price")
        self._agreed(reply)
        status, filled, left, reason, sequence, *trades = reply[1].decode().split(",")
        lots = self.quantity.value
        return Placed(
            order_id,
            status,
            lots(int(filled)),
            lots(int(left)),
            reason or None,
            int(sequence),
            tuple(
                Fill(trades[k], self.price.value(int(trades[k + 1])), lots(int(trades[k + 2])), int(trades[k + 3]))
                for k in range(0, len(trades), 4)
            ),
            code == _REPLAYED,
        )

    def _agreed(self, reply: list[Any]) -> None:
        if reply[0] == _TERMS:
            raise UsageError(
                f"the book {self.market!r} was begun with tick and lot {reply[1].decode()!r} and was opened with "
                f"{self._terms!r}: its numbers would mean something else; open it as it is"
            )

    def _expiring(self) -> NotNow:
        return NotNow(f"orders of the book {self.market!r} expire faster than they can be taken out; try again")

    # -- reading ----------------------------------------------------------------------------------------------------

    async def depth(self, levels: int) -> Depth:
        """Read the best prices; see `OrderBook.depth`."""
        count = _units.count(levels, "levels", LEVELS_MAX)
        keys = (self._versions, self._keys.buy, self._keys.sell, self._keys.book)
        reply = await self._io.run(DEPTH, keys, (self.stream, str(count), self._terms))
        self._agreed(reply)
        bids, asks = (
            tuple(
                Level(self.price.value(int(price)), self.quantity.value(int(quantity)))
                for price, quantity in zip(side[::2], side[1::2], strict=True)
            )
            for side in reply[2:]
        )
        return Depth(bids, asks, reply[1])

    async def order(self, order_id: str) -> Order | None:
        """Look at one order; see `OrderBook.order`."""
        keys = (self._keys.book, self._keys.seen, self._keys.older)
        reply = await self._io.run(LOOK, keys, (identifier(order_id, "the id of an order"), self._terms))
        self._agreed(reply)
        if len(reply) == 1:
            return None
        words = reply[1].decode().split(" ")
        lots = self.quantity.value
        if reply[0]:
            _, side, price, quantity, left, _, owner, *_ = words
            filled = lots(int(quantity) - int(left))
            return Order(order_id, "open", filled, lots(int(left)), side_of(side), self.price.value(int(price)), owner)
        how, left = words[:2]
        return Order(order_id, how, None, lots(int(left)), None, None, None)

    async def metadata(self) -> Metadata | None:
        """Read what the last change has left; see `OrderBook.metadata`."""
        return Metadata.read(await self._io.run(METADATA, (self._keys.metadata,)), self.price)

    # -- proving ----------------------------------------------------------------------------------------------------

    async def rebuild(self) -> Mirror:
        """Make the book anew of its events; see `OrderBook.rebuild`."""
        mirror = Mirror(self.market)
        await self._follow(mirror, None)
        return mirror

    async def restore(self) -> Verified:
        """Write the keys of the book anew; see `OrderBook.restore`."""
        mirror, notes, token = Mirror(self.market), Notes(), self._io.token()
        await self._follow(mirror, None, notes)
        await self._restored(mirror, token, "begin")
        words = list(writes(mirror, notes, self._kept_ms * 1000))
        for first in range(0, len(words), RESTORED_AT_ONCE):
            some = words[first : first + RESTORED_AT_ONCE]
            await self._restored(mirror, token, "write", [word for each in some for word in each])
        await self._restored(mirror, token, "end")
        await self.tend()
        return await self.verify()

    async def _restored(self, mirror: Mirror, token: str, step: str, words: Sequence[str] = ()) -> None:
        keys = self._keys
        touched = (self._versions, keys.buy, keys.sell, keys.book, keys.expiry, keys.seen, self.journal.keys.meta)
        # A repeat writes the same again, and a late copy finds another token, or the book.
        reply = await self._run(RESTORE, touched, (self.stream, str(mirror.sequence), token, step, self._terms, *words))
        if reply[0] == _THERE:
            raise UsageError(f"the book {self.market!r} is there: only one whose keys are gone can be made anew")
        if reply[0]:
            why = "more events came" if reply[0] == 1 else "somebody else makes it, too"
            raise NotNow(f"the book {self.market!r} could not be made anew, {why} meanwhile: try again")

    async def _follow(self, mirror: Mirror, to: int | None, notes: Notes | None = None) -> None:
        if to is not None and to <= mirror.sequence:
            return
        reading = self.journal.read(
            self.stream,
            from_version=mirror.sequence + 1,
            to_version=to,
            reverse=False,
            limit=None,
            read_from="primary",
        )
        while entries := await reading.next():
            for entry in entries:
                recorded = reading.decode(entry)
                mirror.apply(recorded.event, recorded.version)
                if notes is not None:
                    notes.take(recorded.event, recorded.time_us)

    async def verify(self) -> Verified:
        """Compare the live book with its events; see `OrderBook.verify`."""
        mirror, wrong = await self.rebuild(), []
        compared = 0
        for side, key in (("buy", self._keys.buy), ("sell", self._keys.sell)):
            first = 0
            while True:
                args = (self.stream, str(first), str(PAGE_ORDERS))
                sequence, *page = await self._io.run(PAGE, (self._versions, key, self._keys.book), args)
                # Each page is compared with the book as it was then: others may trade meanwhile.
                await self._follow(mirror, sequence)
                live = [_line(page[k : k + 3]) for k in range(0, len(page), 3)]
                built = [
                    (order_id, order.side, order.price, order.place, order.left, order.owner, order.expires_ms)
                    for order_id, order in mirror.queue(side)[first : first + PAGE_ORDERS]  # type: ignore[arg-type]
                ]
                wrong += [f"{there} is in the book, {wanted} in its events" for there, wanted in _unlike(live, built)]
                compared += len(live)
                if len(live) < PAGE_ORDERS:
                    break
                first += PAGE_ORDERS
        depth = await self.depth(LEVELS_MAX)
        await self._follow(mirror, depth.sequence)
        for name, levels in (("buy", depth.bids), ("sell", depth.asks)):
            sign = -1 if name == "buy" else 1
            wanted = sorted((sign * price, lots) for (side, price), lots in mirror.levels.items() if side == name)
            found = [(sign * self.price.whole(each.price), self.quantity.whole(each.quantity)) for each in levels]
            wrong += [
                f"{name} level {there} is in the book, {due} in its events"
                for there, due in _unlike(found, wanted[:LEVELS_MAX])
            ]
        return Verified(mirror.sequence, compared, mirror.digest(), tuple(wrong))


def _unlike(found: list[Any], wanted: list[Any]) -> list[tuple[Any, Any]]:
    size = max(len(found), len(wanted))
    pairs = zip(found + [None] * (size - len(found)), wanted + [None] * (size - len(wanted)), strict=True)
    return [(one, other) for one, other in pairs if one != other]


def _line(words: Sequence[bytes]) -> tuple[Any, ...]:
    """Return what a member of a side and its record say, as a mirror says it; whatever is wrong shows."""
    place, _, order_id = words[0].decode().partition(":")
    try:
        seq, side, price, _, left, ends, owner, *_ = words[2].decode().split(" ")
        score = int(price) if side == "s" else -int(price)
    except ValueError:
        return (order_id, "no record")
    if seq != place or score != int(words[1]):
        return (order_id, "another place or price than its record")
    return (order_id, side_of(side), int(price), int(seq), int(left), owner, int(ends))


def stream_of(market: str) -> str:
    """Return the stream of a market in its store."""
    return f"orderbook-{market}"


def identifier(value: str, what: str) -> str:
    """Return *value* if it can be an id.

    Raises:
        UsageError: It is empty, too long, or has other characters: it stands in JSON and between spaces.
    """
    if not isinstance(value, str) or not _ID.fullmatch(value):
        raise UsageError(f"{what} consists of 1 to 64 of A-Z a-z 0-9 . _ : @ / + -, not {_units.shown(value)}")
    # The text of an enum's member, whatever it calls itself: its length is sent before it.
    return value if type(value) is str else str.__str__(value)


def chosen(value: str, among: Mapping[str, str], what: str) -> str:
    """Return what the scripts call a choice.

    Raises:
        UsageError: There is no such choice.
    """
    found = among.get(value) if isinstance(value, str) else None
    if found is None:
        raise UsageError(f"{what}={_units.shown(value)}: it must be one of {', '.join(among)}")
    return found


def side_of(letter: str) -> Side:
    """Return what a script's letter means."""
    return "buy" if letter == "b" else "sell"
