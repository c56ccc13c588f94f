"""What happens behind the gateways: `market.py` starts two processes of each kind, and kills one of each.

``clerk``
    At the end of each epoch everything that was traded in it is paid: by one clerk at a time, who holds the lock.  One
    who comes late, because it stood still, finds the epoch settled: the stream has another version.
``teller``
    Brings the view of all wallets up to date, and takes old ones out of the cache.
``ticker``
    Tells each change of the book to whoever watches.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

from terms import CURRENT_EPOCH, EPOCH_S, EPOCHS, VIEW, WALLETS, EpochSettled, events, order_book, prices

from gridsync import Grid, LeaseLost, WrongVersion
from gridsync.market import Traded, level_change

if TYPE_CHECKING:
    from gridsync.locks import Lease
    from gridsync.market import OrderBook
    from gridsync.streams import Changes, EventStore, Recorded

PER_EPOCH = 20_000
"""How many changes of the book one settlement takes in at most."""
CLAIM_IDLE_S = 2.0
"""After so long another process goes on with what one that was killed had begun."""


def clerk(grid: Grid) -> None:
    """Settle one epoch after the other, as long as the lease lasts, and wait for it again."""
    store = events(grid)
    book, epoch = order_book(grid, store), grid.cache(CURRENT_EPOCH)
    while True:
        try:
            with grid.lock("settlement", ttl=2) as lease:
                while True:
                    time.sleep(EPOCH_S)
                    if settle(store, book, lease):
                        epoch.delete("now")
        except (LeaseLost, WrongVersion):
            continue  # somebody else settles now


def settle(store: EventStore[Any], book: OrderBook[EventStore[Any]], lease: Lease) -> bool:
    """Settle what was traded since the last epoch; false if that is nothing."""
    last = next(iter(store.read(EPOCHS, reverse=True, limit=1)), None)
    number, after = (0, 0) if last is None else (last.version, last.event.until)
    until, paid = after, Counter[str]()
    for recorded in store.read(book.stream, from_version=after + 1, limit=PER_EPOCH):
        until = recorded.version
        if isinstance(trade := recorded.event, Traded):
            buys, sells = trade.taker_owner, trade.maker_owner
            if trade.side == "sell":
                buys, sells = sells, buys
            paid[sells] += trade.price * trade.quantity
            paid[buys] -= trade.price * trade.quantity
    if until == after:
        return False
    lease.check()
    settled = EpochSettled(fence=lease.fence, clerk=str(os.getpid()), after=after, until=until, nano_eur=dict(paid))
    store.append(EPOCHS, settled, expected_version=number)
    return True


def teller(grid: Grid) -> None:
    """Keep the wallets."""
    store, cache = events(grid), grid.cache(WALLETS)
    view = store.projection(VIEW, types=[EpochSettled])

    def add_up(changes: Changes, recorded: Recorded[Any]) -> None:
        for member, amount in recorded.event.nano_eur.items():
            changes.add(member, amount)

    def tell(settled: EpochSettled) -> None:
        view.run(add_up, once=True)  # exactly once, however often this event comes
        if settled.nano_eur:
            cache.delete(*settled.nano_eur)

    store.on(EpochSettled, group="tellers")(tell)
    store.run(claim_idle=CLAIM_IDLE_S)


def ticker(grid: Grid) -> None:
    """Tell what changes: in order, and under the event's own id, so that a change told twice is one."""
    store, channel = events(grid), prices(grid)
    stream = order_book(grid, store).stream

    def tell(recorded: Recorded[Any]) -> None:
        if recorded.stream == stream:
            side, price, by = level_change(recorded.event)
            change = {"sequence": recorded.version, "side": side, "price": price, "by": by}
            channel.publish(json.dumps(change), id=recorded.id, key=f"{side} {price}")

    store.group("tickers", ordered=True).consume(tell, claim_idle=CLAIM_IDLE_S)


def main() -> None:
    """Work until SIGTERM."""
    kind, url, namespace = sys.argv[1:]
    signal.signal(signal.SIGTERM, lambda *_: sys.exit())
    with Grid(url, namespace=namespace, audit=False) as grid:
        {"clerk": clerk, "teller": teller, "ticker": ticker}[kind](grid)


if __name__ == "__main__":
    main()
