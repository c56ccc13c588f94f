"""A market that is nothing but events: `python examples/ledger/ledger.py [url] [--orders 40]`.

Traders, settlers and a viewer are processes of their own, and each kind is killed while it works, and started again.
In the end everything is checked from the events alone: every order once, every trade within its orders, every trade and
every reading booked once and on both sides, and a view that says the same.  Ends with 1 if anything is wrong.
"""

from __future__ import annotations

import argparse
import contextlib
import subprocess
import sys
import time
from collections import Counter
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING

from book import FEE, STORE, Booked, Event, Metered, Placed, Traded
from work import BROKEN_EVERY

from gridsync import Grid

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams import EventStore, Recorded

MEMBERS = ("anna", "bert", "carl")
PATIENCE_S = 120.0


class Crew:
    """The processes, and what becomes of them."""

    def __init__(self, url: str, namespace: str) -> None:
        """Start nobody yet."""
        self._head = [sys.executable, str(Path(__file__).with_name("work.py")), url, namespace]
        self.running: dict[str, subprocess.Popen[bytes]] = {}
        self._work: dict[str, tuple[str, ...]] = {}
        self.killed = 0

    def start(self, name: str, *work: str) -> None:
        """Start a process."""
        self._work[name] = work
        self.running[name] = subprocess.Popen([*self._head, *work])  # noqa: S603 - itself

    def kill(self, name: str) -> None:
        """Let a process vanish in the middle of whatever it does, and start it again."""
        self.running[name].kill()
        self.running[name].wait()
        self.killed += 1
        self.start(name, *self._work[name])

    def end(self) -> None:
        """Ask everybody to end."""
        for process in self.running.values():
            process.terminate()
        for process in self.running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(10)
            process.kill()


def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > end:
            raise TimeoutError("the market stands still")
        time.sleep(0.02)


def length(store: EventStore[Event]) -> int:
    """Return the position of the newest event."""
    return next((recorded.position for recorded in store.read_all(reverse=True, limit=1)), 0)


def reached(store: EventStore[Event], position: float) -> bool:
    """Tell whether there are so many events."""
    return length(store) >= position


def wanted(log: list[Recorded[Event]]) -> int:
    """Return how many events are to be settled with money, without the broken readings."""
    return sum(_costs(recorded.event) for recorded in log)


def _costs(event: Event) -> bool:
    return (isinstance(event, Traded) and event.buyer != event.seller) or (isinstance(event, Metered) and event.wh >= 0)


def trading(store: EventStore[Event], crew: Crew, orders: int) -> None:
    """Let everybody work, and kill one of each kind on the way."""
    for member in MEMBERS:
        crew.start(member, "trade", member, str(orders))
    for name in ("settler 1", "settler 2"):
        crew.start(name, "settle")
    for name in ("viewer 1", "viewer 2"):
        crew.start(name, "view")
    least = 2 * orders * len(MEMBERS)
    for share, name in ((0.2, "anna"), (0.3, "settler 1"), (0.4, "viewer 1"), (0.5, "bert"), (0.6, "settler 2")):
        until(partial(reached, store, least * share))
        crew.kill(name)
    until(lambda: all(crew.running[member].poll() is not None for member in MEMBERS))
    letters = store.group("settlement").dead_letters()
    broken = len(MEMBERS) * (orders // BROKEN_EVERY)

    def settled() -> bool:
        log = list(store.read_all())
        return letters.count() == broken and 2 * wanted(log) == sum(isinstance(e.event, Booked) for e in log)

    until(settled)


def audit(store: EventStore[Event], orders: int, view: Callable[[str], str | None]) -> list[tuple[bool, str]]:
    """Check everything from the events."""
    log = list(store.read_all())
    placed = {e.event.order: e.event for e in log if isinstance(e.event, Placed)}
    trades = [e.event for e in log if isinstance(e.event, Traded)]
    booked = [(e.event, e.causation_id) for e in log if isinstance(e.event, Booked)]
    sold: Counter[str] = Counter()
    for one in trades:
        sold[one.bid] += one.wh
        sold[one.ask] += one.wh
    causes = Counter(cause for _, cause in booked)
    balances: Counter[str] = Counter()
    for half, _ in booked:
        balances[half.member] += half.amount
    from_the_trades: Counter[str] = Counter()
    for recorded in log:
        event = recorded.event
        if isinstance(event, Traded):
            from_the_trades[event.seller] += event.wh * event.price
            from_the_trades[event.buyer] -= event.wh * event.price
        elif isinstance(event, Metered) and event.wh >= 0:
            from_the_trades["grid"] += event.wh * FEE
            from_the_trades[event.member] -= event.wh * FEE
    names = {f"{member}/{number}" for member in MEMBERS for number in range(orders)}
    once = sum(isinstance(e.event, Placed) for e in log) == len(names) and set(placed) == names
    within = all(sold[order] <= placed[order].wh for order in sold)
    fair = all(placed[one.ask].price <= one.price <= placed[one.bid].price for one in trades)
    return [
        ([e.position for e in log] == list(range(1, len(log) + 1)), f"{len(log)} events without a gap"),
        (once, f"{len(names)} orders, each placed once"),
        (within and fair, f"{len(trades)} trades, within their orders and prices"),
        (
            set(causes.values()) == {2} and len(causes) == wanted(log),
            f"{len(causes)} settlements, each once and double",
        ),
        (not sum(balances.values()), "the books balance"),
        (
            all(balances[name] == from_the_trades[name] for name in balances | from_the_trades),
            "and say what was traded",
        ),
        (all(int(view(name) or 0) == amount for name, amount in balances.items()), "the view says the same"),
    ]


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url", nargs="?", default="embedded://")
    options.add_argument("--orders", type=int, default=40, help="of each member")
    chosen = options.parse_args()
    namespace = f"example-market-{token_hex(4)}"
    with Grid(chosen.url, namespace=namespace) as grid:
        store = grid.events(STORE, Event)
        crew = Crew(chosen.url if grid.embedded is None else grid.embedded.url, namespace)
        balances = store.projection("balances", types=[Booked])
        try:
            trading(store, crew, chosen.orders)
            until(lambda: balances.checkpoint().split(":")[0] == str(length(store)))
            checks = audit(store, chosen.orders, balances.get)
        finally:
            crew.end()
            # A store is permanent; its owner decides when it goes.
            letters = [letter.text for letter in store.group("settlement").dead_letters()]
            for key in grid.client.scan_iter(f"{{{namespace}:*"):
                grid.client.unlink(key)
    print(f"{crew.killed} processes were killed on the way; {len(letters)} dead letters, such as: {letters[0]}")
    for right, words in checks:
        print("✓" if right else "✗", words)
    return 0 if all(right for right, _ in checks) else 1


if __name__ == "__main__":
    sys.exit(main())
