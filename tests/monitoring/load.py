"""A program that uses every wing all the time and shows its metrics: what dashboards have something to draw of."""

from __future__ import annotations

import threading
from contextlib import ExitStack
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from prometheus_client import CollectorRegistry, start_http_server

from gridsync import Grid, LockTimeout
from gridsync.cache import Near, Space
from gridsync.contrib.prometheus import GridCollector, StoreCollector
from gridsync.streams import DEAD
from tests.streams.models import Placed

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.streams import Delivery, EventStore


class Shown:
    """A process as Prometheus sees it: grids and stores, and a port that shows their metrics."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._http, self._thread = start_http_server(0, "127.0.0.1", self.registry)
        self.port: int = self._http.server_port

    def show(self, name: str, grid: Grid, *stores: EventStore[Any]) -> None:
        self.registry.register(GridCollector(grid, name=name))
        if stores:
            self.registry.register(StoreCollector(*stores))

    def close(self) -> None:
        """Listen no more, as a program that has ended; safe to call twice."""
        self._http.shutdown()
        self._http.server_close()
        self._thread.join()


class Load:
    """Threads that lock, limit, append, consume, send, mirror, cache, trade and publish until they are stopped."""

    def __init__(self, url: str, mirror: str) -> None:
        self.shown = Shown()
        self.errors: list[BaseException] = []
        self._stop = threading.Event()
        self._grids = ExitStack()
        self.grid = self._grids.enter_context(Grid(url))
        self.orders = self.grid.events("orders", Placed)
        self.bills = self.grid.events("bills", Placed)
        self.book = self.grid.orderbook("DE", tick="0.01", lot="0.1")
        self._outbox = self.orders.outbox(self.bills)
        there = self._grids.enter_context(Grid(mirror))
        self._replication = self.orders.replication(there.events("orders", Placed))
        self._consumer = self.orders.group("billing")
        self._keeping = self.orders.retention(max_count=2_000, cap_count=100_000, period=5)
        self.shown.show("load", self.grid, self.orders, self.bills, self.book.events)
        self.shown.show("elsewhere", there)
        turns = [self._lock, self._lock, self._limit, self._append, self._cache, self._trade, self._publish]
        runs: list[Callable[[], object]] = [
            *(lambda turn=turn: self._repeat(turn) for turn in turns),
            lambda: self._consumer.consume(self._bill, policy={ValueError: DEAD}, on_error=lambda _: None),
            self._outbox.relay,
            self._replication.run,
            self._keeping.run,
        ]
        self._threads = [threading.Thread(target=self._guarded, args=(run,)) for run in runs]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        for each in (self._consumer, self._outbox, self._replication, self._keeping):
            each.stop()
        for thread in self._threads:
            thread.join()
        self.shown.close()
        self._grids.close()

    def _guarded(self, run: Callable[[], object]) -> None:
        try:
            run()
        except Exception as error:  # noqa: BLE001 - the test tells of it
            self.errors.append(error)

    def _repeat(self, turn: Callable[[int], object]) -> None:
        for n in count():
            turn(n)
            if self._stop.wait(0.05):
                return

    def _lock(self, _: int) -> None:
        try:
            with self.grid.lock("settlement").acquire(timeout=1):
                self._stop.wait(0.02)
        except LockTimeout:
            pass

    def _limit(self, n: int) -> None:
        self.grid.limiter("gateway", "5/second").hit("ann")
        self.grid.limiter("reports", "100/second").acquire(f"user-{n % 3}", timeout=5)

    def _append(self, n: int) -> None:
        self.orders.append(f"order-{n}", [Placed(kwh=n % 10 + 1), Placed(kwh=1)])

    def _bill(self, delivery: Delivery[Any]) -> None:
        if delivery.event.kwh == 7:
            raise ValueError("nobody buys seven")
        with delivery.commit() as tx:
            tx.send(self._outbox, f"bill-{delivery.position % 7}", [Placed(kwh=1)])

    def _cache(self, n: int) -> None:
        prices = self.grid.cache(Space("prices", int, ttl=1), near=Near())
        for key in ("spot", f"hour-{n % 24}"):
            prices.get_or_load(key, lambda: n)

    def _trade(self, n: int) -> None:
        self.book.place(f"s{n}", "sell", "1.0", "60.00", owner="sun")
        self.book.place(f"b{n}", "buy", "1.0", "60.00", owner="city")

    def _publish(self, n: int) -> None:
        channel = self.grid.channel("prices")
        with channel.subscribe(queue=1) as slow:
            for k in range(3):
                channel.publish(f"{n}.{k}")
            slow.next(timeout=10)
