"""A whole energy market, small: `python examples/market/market.py [url] [--quarters 4] [--calm]`.

Two gateways (HTTP and WebSockets, with limits and a cache), an order book, two clerks who settle what was traded
under a lock with a fence, two tellers who keep the wallets, two tickers who tell the prices.  The members are real load
profiles under real sunshine.  On the way one process of each kind is killed and started again; without that it is
`--calm`.  In the end everything is checked.  Ends with 1 if anything is wrong.

It runs on a private server that it starts, or on any, by an argument or REDIS_URL: `redis://`, `redis+sentinel://`,
`redis+cluster://`.
Needs gridsync with the extras embedded, cli, fastapi, httpx and starlette, and uvicorn and websockets.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import socket
import subprocess
import sys
import threading
from collections import Counter
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Any, TypeVar

from crowd import Answered, Members, Watched, until_true, watch
from terms import EPOCHS, EpochSettled, events, order_book

from gridsync import Grid, Settings
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.market import Traded

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync.streams import Recorded

GATEWAYS, WATCHERS = 2, 3
KINDS = ("clerk", "teller", "ticker")
MISHAPS = {0.2: "ticker 0", 0.3: "clerk 0", 0.4: "gateway 0", 0.5: "teller 0", 0.6: "clerk 1", 0.7: "ticker 1"}
"""How much of the orders was answered when somebody is killed."""
PER_QUARTER = 100
"""A quarter of an hour has more orders than that."""
END_S = 10.0
LOOK_S = 0.5
"""How often it is looked whether a process ended."""
Check = tuple[bool, str]
T = TypeVar("T")


class Processes:
    """All processes of the market."""

    def __init__(self, url: str, namespace: str) -> None:
        """Start all of them."""
        self._url, self._namespace, self._secret = url, namespace, token_hex(16)
        # The parent listens and the gateways accept: one that is started again has the same address.
        self._listening = [socket.create_server(("127.0.0.1", 0)) for _ in range(GATEWAYS)]
        self.urls = [f"http://127.0.0.1:{one.getsockname()[1]}" for one in self._listening]
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._one_at_a_time = threading.Lock()
        self._ended = threading.Event()
        self.killed = 0
        for number in range(GATEWAYS):
            self._start(f"gateway {number}")
        for kind in KINDS:
            for number in range(2):
                self._start(f"{kind} {number}")
        self._nurse = threading.Thread(target=self._look_after, daemon=True)
        self._nurse.start()

    def kill(self, name: str) -> None:
        """Let one vanish in the middle of whatever it does, and start it again."""
        with self._one_at_a_time:
            self._running[name].kill()
            self._running[name].wait()
            self.killed += 1
            self._start(name)

    def _look_after(self) -> None:
        """Start again whoever ended, such as one that found no server: that is all that an outage needs."""
        while not self._ended.wait(LOOK_S):
            with self._one_at_a_time:
                for name, process in self._running.items():
                    if process.poll() is not None:
                        self._start(name)

    def end(self) -> None:
        """Ask all of them to end."""
        self._ended.set()
        self._nurse.join()
        for process in self._running.values():
            process.terminate()
        for process in self._running.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(END_S)
            process.kill()
            process.wait()
        for one in self._listening:
            one.close()

    def _start(self, name: str) -> None:
        kind, number = name.split()
        passed = []
        if kind == "gateway":
            passed = [self._listening[int(number)].fileno()]
            options = [
                "--fd",
                str(passed[0]),
                "--url",
                self._url,
                "--namespace",
                self._namespace,
                "--secret",
                self._secret,
            ]
            command = [str(Path(__file__).with_name("gateway.py")), *options]
        else:
            command = [str(Path(__file__).with_name("workers.py")), kind, self._url, self._namespace]
        self._running[name] = subprocess.Popen([sys.executable, *command], pass_fds=passed)  # noqa: S603 - itself


async def trade(processes: Processes, grid: Grid, quarters: int, *, calm: bool) -> list[str]:
    """Let everybody order and watch, kill some on the way, and return what is wrong in the end."""
    store, members = events(grid), Members(processes.urls)
    stream, report = order_book(grid, store).stream, members.report
    saw = [Watched() for _ in range(WATCHERS)]

    async def all_watch() -> bool:
        return all(one.subscribed for one in saw)

    async def answered(share: float) -> bool:
        return len(report.orders) >= share * quarters * PER_QUARTER

    async def mishaps() -> None:
        for share, name in MISHAPS.items():
            await until_true(partial(answered, share), f"{share:.0%} of the orders are not answered")
            await asyncio.to_thread(processes.kill, name)

    try:
        async with asyncio.TaskGroup() as group:
            for number, one in enumerate(saw):
                group.create_task(watch(processes.urls, number, one))
            await until_true(all_watch, "nobody can watch")  # before there is anything to see
            await asyncio.gather(members.drive(quarters), *([] if calm else [mishaps()]))
            last = await look(lambda: next(iter(store.read(stream, reverse=True, limit=1))).version)
            for one in saw:
                one.last = last
        checks = await audit(grid, members, saw)
    finally:
        await members.close()
    for line in report.lines():
        print(line)
    resumed = f"{sum(one.recovered for one in saw)} of {sum(one.came_back for one in saw)}"
    print(f"{processes.killed} processes were killed; watchers came back, and missed nothing, {resumed} times")
    for right, words in checks:
        print("✓" if right else "✗", words)
    return [words for right, words in checks if not right]


async def audit(grid: Grid, members: Members, saw: Sequence[Watched]) -> list[Check]:
    """Check what was promised, from the events and from what was seen outside."""
    store, report = events(grid), members.report
    book = order_book(grid, store)
    history = await look(lambda: list(store.read(book.stream)))
    last = history[-1].version
    owed = balances(history)

    async def settled() -> bool:
        newest = await look(lambda: [one.event.until for one in store.read(EPOCHS, reverse=True, limit=1)])
        return newest == [last]

    async def paid() -> bool:
        answers = await asyncio.gather(*(members.ask("GET", "/wallet", member) for member in owed))
        return [answer.json() for answer in answers] == list(owed.values())

    await until_true(settled, "the last epoch is not settled")
    with contextlib.suppress(TimeoutError):
        await until_true(paid, "the wallets do not say what was paid")
    epochs = await look(lambda: list(store.read(EPOCHS)))
    wallets = await paid()
    same = await look(book.verify)
    trades = [one.event for one in history if isinstance(one.event, Traded)]
    return [
        (not report.unexpected, f"{len(report.orders):,} orders acknowledged {report.unexpected[:3] or ''}"),
        (
            kept_within(report.orders, trades),
            f"{len(trades):,} trades, within the orders, their prices and their answers",
        ),
        (same.ok, f"the book is what its {last:,} events make of it"),
        (settled_once(epochs, last), f"{len(epochs)} epochs settled, each change in one of them, fences rising"),
        (added(epochs) == owed, "everything that was traded was paid once"),
        (wallets, f"{len(owed)} wallets say so, through the cache"),
        (
            all(one.sequences == list(range(1, last + 1)) for one in saw) and not any(one.gaps for one in saw),
            f"{len(saw)} watchers saw each of {last:,} changes once and in order",
        ),
    ]


async def look(call: Callable[[], T]) -> T:
    """Return what *call* reads, in a thread, however long the server is away."""
    while True:
        with contextlib.suppress(Unavailable, OutcomeUnknown):
            return await asyncio.to_thread(call)
        await asyncio.sleep(0.1)


def balances(history: Sequence[Recorded[Any]]) -> dict[str, int]:
    """Return what each member got or paid, from the trades alone."""
    amounts = Counter[str]()
    for recorded in history:
        if isinstance(trade := recorded.event, Traded):
            sign = 1 if trade.side == "buy" else -1
            amounts[trade.maker_owner] += sign * trade.price * trade.quantity
            amounts[trade.taker_owner] -= sign * trade.price * trade.quantity
    return dict(amounts)


def added(epochs: Sequence[Recorded[Any]]) -> dict[str, int]:
    """Return what each member got or paid, from the settlements."""
    amounts = Counter[str]()
    for recorded in epochs:
        if isinstance(recorded.event, EpochSettled):
            for member, amount in recorded.event.nano_eur.items():
                amounts[member] += amount
    return dict(amounts)


def settled_once(epochs: Sequence[Recorded[Any]], last: int) -> bool:
    """Tell whether each change lies in one epoch, and no fence is smaller than an earlier one."""
    settled = [one.event for one in epochs if isinstance(one.event, EpochSettled)]
    ends, fences = [one.until for one in settled], [one.fence for one in settled]
    return [one.after for one in settled] == [0, *ends[:-1]] and ends[-1] == last and fences == sorted(fences)


def kept_within(orders: dict[str, Answered], trades: Sequence[Traded]) -> bool:
    """Tell whether no order traded more than it wanted, at a worse price, or less than was answered."""
    filled = Counter[str]()
    for trade in trades:
        for name, side in ((trade.taker, trade.side), (trade.maker, "sell" if trade.side == "buy" else "buy")):
            mine = orders[name]
            filled[name] += trade.quantity
            if side != mine.side or (trade.price > mine.price if side == "buy" else trade.price < mine.price):
                return False
    return all(one.filled_wh <= filled[name] <= one.wh for name, one in orders.items())


def main() -> int:
    """Run it; returns the exit code."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("url", nargs="?", default=Settings().redis_url)
    options.add_argument("--quarters", type=int, default=4, help="how many quarters of an hour are ordered for")
    options.add_argument("--calm", action="store_true", help="kill nobody")
    chosen = options.parse_args()
    namespace = f"example-market-{token_hex(4)}"
    with Grid(chosen.url, namespace=namespace) as grid:
        processes = Processes(chosen.url if grid.embedded is None else grid.embedded.url, namespace)
        try:
            wrong = asyncio.run(trade(processes, grid, chosen.quarters, calm=chosen.calm))
        finally:
            processes.end()
            # A store is permanent; its owner decides when it goes.
            for key in grid.client.scan_iter(f"{{{namespace}:*"):
                grid.client.unlink(key)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
