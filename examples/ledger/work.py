"""One process of the market: `ledger.py` starts it, kills it and starts it again.

Nothing in it remembers what was done.  A trader that comes back places its orders again, and the book knows them; a
settler that comes back gets what it had not finished, and its commit knows what was booked; a viewer goes on where its
view is.
"""

from __future__ import annotations

import signal
import sys
from functools import partial
from random import Random
from typing import TYPE_CHECKING

from book import FEE, STORE, Book, Booked, Event, Metered, Placed, Traded, evolve, place

from gridsync import Grid
from gridsync.streams import DEAD, Changes, Delivery, Retry

if TYPE_CHECKING:
    from gridsync.streams import Policy, Recorded

HOURS = 3
POLICY: Policy = {ValueError: DEAD, Exception: Retry(first_s=0.05, max_s=0.5)}
BROKEN_EVERY = 10
"""Each meter's every tenth reading is broken: less than nothing."""


def trade(grid: Grid, member: str, orders: int) -> None:
    """Place orders and read the meter; the member's name decides what and when."""
    store, random = grid.events(STORE, Event), Random(member)
    books = store.aggregate(Book(), evolve, snapshot_every=20)
    for number in range(orders):
        side = random.choice(("buy", "sell"))
        order = Placed(
            member=member, number=number, side=side, wh=random.randint(1, 20) * 100, price=random.randint(90, 110)
        )
        books.execute(f"book-{number % HOURS}", partial(place, order=order), attempts=1000)
        wh = -1 if number % BROKEN_EVERY == BROKEN_EVERY - 1 else random.randint(0, 500)
        # The same id each time: an earlier life may have appended it.
        store.append(
            f"meter-{member}", Metered(member=member, wh=wh), expected_version=number, event_ids=f"{member}-r{number}"
        )


def settle(delivery: Delivery[Event]) -> None:
    """Book what an event costs, on both sides at once; a broken reading is nothing that can be booked."""
    event = delivery.event
    if isinstance(event, Traded) and event.buyer != event.seller:
        amounts = {event.seller: event.wh * event.price, event.buyer: -event.wh * event.price}
    elif isinstance(event, Metered):
        if event.wh < 0:
            raise ValueError(f"meter of {event.member} was read as {event.wh} Wh")
        amounts = {"grid": event.wh * FEE, event.member: -event.wh * FEE}
    else:
        return
    with delivery.commit() as tx:
        for member, amount in amounts.items():
            tx.append(f"account-{member}", Booked(member=member, amount=amount))


def add_up(changes: Changes, recorded: Recorded[Event]) -> None:
    """Keep the balance of each member."""
    if isinstance(recorded.event, Booked):
        changes.add(recorded.event.member, recorded.event.amount)


def main() -> None:
    """Do one kind of work until it is done or until SIGTERM."""
    url, namespace, kind, *arguments = sys.argv[1:]
    with Grid(url, namespace=namespace, audit=False) as grid:
        if kind == "trade":
            trade(grid, arguments[0], int(arguments[1]))
            return
        store = grid.events(STORE, Event)
        group, balances = store.group("settlement"), store.projection("balances", types=[Booked])

        def end(*_: object) -> None:
            group.stop()
            balances.stop()

        signal.signal(signal.SIGTERM, end)
        if kind == "settle":
            group.consume(settle, policy=POLICY, claim_idle=0.5, on_error=lambda _: None)
        else:
            balances.run(add_up)


if __name__ == "__main__":
    main()
