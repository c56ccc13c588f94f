"""Those who post orders: meters (threads over a `Grid`) for homes, traders (tasks over an `AsyncGrid`) for businesses.

Each order passes a sliding-window limit first.  A denied poster waits as long as it is told and comes again.  Then the
order is appended to its prosumer's stream, at the version that its only writer knows it to have.
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from gridsync.cli.demo.events import GateClosed, OrderPlaced
from gridsync.cli.demo.profiles import HOMES, Moment, Prosumer, days, neighbourhood, order
from gridsync.grid import AsyncGrid, Grid

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.cli.demo.link import Config, Link
    from gridsync.limits import AsyncLimiter, Limiter
    from gridsync.streams import Appended, AsyncEventStore, EventStore

THREADS: Final = 4
Posted = OrderPlaced | GateClosed


@dataclass(slots=True)
class Tally:
    """What a poster did, for the parent."""

    versions: dict[str, int] = field(default_factory=dict)
    positions: dict[str, int] = field(default_factory=dict)
    """Order → the position that the store acknowledged."""
    denied: int = 0
    hit_us: list[int] = field(default_factory=list)
    append_us: list[int] = field(default_factory=list)

    def wrote(self, placed: OrderPlaced, appended: Appended, began: float) -> None:
        """Note an acknowledged order."""
        self.append_us.append(_us_since(began))
        self.versions[placed.prosumer] = appended.version
        self.positions[placed.order] = appended.position

    def report(self, link: Link, quarter: int, orders: int) -> None:
        """Say that a quarter is done."""
        link.send("posted", quarter=quarter, orders=orders, total=len(self.positions), denied=self.denied)

    def conclude(self, link: Link) -> None:
        """Say everything, at the end."""
        link.send("final", positions=self.positions, denied=self.denied, hit_us=self.hit_us, append_us=self.append_us)


def _us_since(began: float) -> int:
    return round((time.perf_counter() - began) * 1_000_000)


def _share(config: Config, *, homes: bool) -> list[Prosumer]:
    index, count = config.share
    kind = [prosumer for prosumer in neighbourhood(config.seed) if (prosumer.profile in HOMES) is homes]
    return kind[index::count]


def _orders(prosumers: list[Prosumer], moment: Moment, seed: int) -> list[OrderPlaced]:
    return [placed for prosumer in prosumers if (placed := order(prosumer, moment, seed)) is not None]


def meter(link: Link) -> None:
    """Post the orders of homes, from several threads over one `Grid`."""
    config, tally = link.config, Tally()
    prosumers, moments = _share(config, homes=True), days(config.seed, config.quarters)
    with Grid(config.url, namespace=config.namespace) as grid, ThreadPoolExecutor(THREADS) as pool:
        limiter = grid.limiter("orders", *config.limits, resolution=0)  # the audit counts every entry
        store: EventStore[Posted] = grid.events("orders", Posted)
        link.send("ready")
        for quarter in _opened(link):
            placed = _orders(prosumers, moments[quarter], config.seed)
            for _ in pool.map(lambda each: _post(link, tally, limiter, store, each), placed):
                pass
            tally.report(link, quarter, len(placed))
    tally.conclude(link)


def _opened(link: Link) -> Iterator[int]:
    while (message := link.inbox.get())["do"] == "open":
        yield message["quarter"]


def _post(link: Link, tally: Tally, limiter: Limiter, store: EventStore[Posted], placed: OrderPlaced) -> None:
    while True:
        began = time.perf_counter()
        decision = limiter.hit(link.config.name)
        tally.hit_us.append(_us_since(began))
        if decision.allowed:
            break
        tally.denied += 1
        if link.orphaned.wait(decision.retry_after):
            return
    began = time.perf_counter()
    version = tally.versions.get(placed.prosumer, 0)
    tally.wrote(placed, store.append(placed.prosumer, placed, expected_version=version, event_ids=placed.order), began)


async def trader(link: Link) -> None:
    """Post the orders of businesses, each as a task of its own over one `AsyncGrid`."""
    config, tally = link.config, Tally()
    prosumers, moments = _share(config, homes=False), days(config.seed, config.quarters)
    async with AsyncGrid(config.url, namespace=config.namespace) as grid:
        limiter = grid.limiter("orders", *config.limits, resolution=0)  # the audit counts every entry
        store: AsyncEventStore[Posted] = grid.events("orders", Posted)
        link.send("ready")
        while (message := await asyncio.to_thread(link.inbox.get))["do"] == "open":
            placed = _orders(prosumers, moments[message["quarter"]], config.seed)
            async with asyncio.TaskGroup() as tasks:
                for each in placed:
                    tasks.create_task(_post_async(link, tally, limiter, store, each))
            tally.report(link, message["quarter"], len(placed))
    tally.conclude(link)


async def _post_async(
    link: Link, tally: Tally, limiter: AsyncLimiter, store: AsyncEventStore[Posted], placed: OrderPlaced
) -> None:
    while True:
        began = time.perf_counter()
        decision = await limiter.hit(link.config.name)
        tally.hit_us.append(_us_since(began))
        if decision.allowed:
            break
        tally.denied += 1
        await asyncio.sleep(decision.retry_after or 0)
        if link.orphaned.is_set():
            return
    began = time.perf_counter()
    version = tally.versions.get(placed.prosumer, 0)
    appended = await store.append(placed.prosumer, placed, expected_version=version, event_ids=placed.order)
    tally.wrote(placed, appended, began)
