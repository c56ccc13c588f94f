"""Those who match and settle: workers that share the orders as a consumer group and the settling under one lock.

A delivery's effect is an entry in the book of its quarter, written under the order's own id: a delivery that comes
twice has its effect once.  When the book of the next quarter is complete, the worker that gets the lock runs the
auction and appends the settlement at exactly the version that this quarter has to have.  So a holder that was away too
long is refused: its quarter is settled already.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import suppress
from typing import TYPE_CHECKING, Final

from gridsync.cli.demo.auction import clear
from gridsync.cli.demo.events import GateClosed, OrderPlaced, QuarterSettled
from gridsync.cli.demo.posters import Posted
from gridsync.errors import LeaseLost, LockTimeout, WrongVersion
from gridsync.grid import AsyncGrid

if TYPE_CHECKING:
    from gridsync.cli.demo.link import Link
    from gridsync.locks import AsyncLease
    from gridsync.streams import AsyncConsumerGroup, AsyncEventStore, Recorded

CONCURRENCY: Final = 16
BATCH: Final = 32
LOOK_S: Final = 0.05
"""How often a worker looks at the book for what the others wrote, in seconds."""
REPORT_S: Final = 0.25
STAGE_S: Final = 10.0
"""How long a doomed worker waits for its end, in seconds."""
STUCK_MAX_S: Final = 3.0
"""How long it waits for the first delivery that it will not acknowledge, in seconds."""
STUCK_S: Final = 0.1
"""How long it goes on taking deliveries after that one, in seconds."""


class Worker:
    """One worker: a consumer and a settler."""

    def __init__(self, link: Link, grid: AsyncGrid) -> None:
        """Prepare; nothing is sent."""
        self._link = link
        self._config = link.config
        self._group: AsyncConsumerGroup[Posted] = grid.events("orders", Posted).group("workers")
        self._book: AsyncEventStore[Posted] = grid.events("book", Posted)
        self._settlements: AsyncEventStore[QuarterSettled] = grid.events("settlements", QuarterSettled)
        self._lock = grid.lock("settlement", ttl=self._config.lease_ttl)
        self._orders: dict[int, list[OrderPlaced]] = {}
        """The book as far as it was read: quarter → orders."""
        self._closed: dict[int, int] = {}
        """Quarter → how many orders it has, once its gate is closed."""
        self._seen = 0
        self._next = 0
        """The first quarter that is not settled."""
        self._booked = self._again = 0
        self._stage = ""
        """What the parent wants to go wrong: ``kill``, ``freeze`` or nothing."""
        self._cornered = False
        self._stuck = 0
        self._first_stuck = asyncio.Event()
        self._awake = asyncio.Event()
        self._cycle_us: list[int] = []
        self._ending = asyncio.Event()

    async def run(self) -> None:
        """Work until the parent says stop."""
        consuming = asyncio.create_task(
            self._group.consume(
                self._handle,
                consumer=self._config.name,
                concurrency=CONCURRENCY,
                batch=BATCH,
                claim_idle=self._config.claim_idle,
            )
        )
        settling = asyncio.create_task(self._settle_on())
        reporting = asyncio.create_task(self._report_on())
        listening = asyncio.create_task(self._listen())
        try:
            await asyncio.wait({consuming, settling, listening}, return_when=asyncio.FIRST_COMPLETED)
            self._ending.set()
            self._awake.set()
            self._group.stop()
            await settling
            consumed = await consuming
            await listening
        finally:
            # Frees the thread that listens, if this is no orderly end.
            self._link.inbox.put({"do": "stop"})
            for task in (consuming, settling, reporting, listening):
                task.cancel()
        self._report()
        self._link.send("final", handled=consumed.handled, failed=consumed.failed, cycle_us=self._cycle_us)

    async def _listen(self) -> None:
        while (message := await asyncio.to_thread(self._link.inbox.get))["do"] != "stop":
            if message["do"] == "wake":
                self._awake.set()
            else:
                self._stage = message["do"]

    async def _report_on(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            self._report()

    def _report(self) -> None:
        self._link.send("worked", booked=self._booked, again=self._again)

    async def _handle(self, recorded: Recorded[Posted]) -> None:
        event = recorded.event
        appended = await self._book.append(f"quarter-{event.quarter}", event, event_ids=recorded.id)
        if self._cornered:
            # The worst moment to die: the effect is written, the delivery is not acknowledged.
            self._stuck += 1
            self._first_stuck.set()
            await self._pause(STAGE_S)
        self._booked += 1
        self._again += appended.replayed

    async def _settle_on(self) -> None:
        while not self._ending.is_set():
            await self._read_on()
            if self._complete(self._next) or self._stage:
                await self._settle()
            else:
                await self._pause(LOOK_S)

    async def _pause(self, seconds: float) -> None:
        """Wait, but not longer than until the parent says stop."""
        with suppress(TimeoutError):
            await asyncio.wait_for(self._ending.wait(), seconds)

    async def _read_on(self) -> None:
        async for recorded in self._book.read_all(after=self._seen):
            self._seen, event = recorded.position, recorded.event
            if isinstance(event, GateClosed):
                self._closed[event.quarter] = event.orders
            else:
                self._orders.setdefault(event.quarter, []).append(event)

    def _complete(self, quarter: int) -> bool:
        return self._closed.get(quarter, -1) == len(self._orders.get(quarter, ()))

    async def _settle(self) -> None:
        """Settle the next quarter, unless another worker was first."""
        began = time.perf_counter()
        try:
            lease = await self._lock.acquire(timeout=self._config.lease_ttl * 2)
        except LockTimeout:
            return
        acquired = time.perf_counter()
        try:
            async for recorded in self._settlements.read("settlements", from_version=self._next + 1):
                self._next = recorded.version
            if self._stage:
                await self._await_a_quarter()
            if self._complete(self._next):
                await self._append(lease)
        except (LeaseLost, WrongVersion):
            # Another worker settled it; the next look at the book goes on from there.
            self._link.send("refused", quarter=self._next, fence=lease.fence)
        finally:
            releasing = time.perf_counter()
            await lease.release()
        self._cycle_us.append(round((acquired - began + time.perf_counter() - releasing) * 1_000_000))

    async def _append(self, lease: AsyncLease) -> None:
        quarter = self._next
        clearing = clear(self._orders.get(quarter, ()))
        settled = QuarterSettled(
            quarter=quarter,
            fence=lease.fence,
            worker=self._config.name,
            price=clearing.price,
            fills=clearing.fills,
        )
        lease.check()
        if self._stage == "kill":
            await self._await_the_end(lease)
        elif self._stage == "freeze":
            await self._await_the_thaw(lease)
        # The id carries the fence: the settlement of an earlier holder is a conflict, not a repeat of this one.
        event_id = f"quarter-{quarter}-fence-{lease.fence}"
        await self._settlements.append("settlements", settled, expected_version=quarter, event_ids=event_id)
        self._next = quarter + 1
        money = sum(fill.nano_eur for fill in settled.fills if fill.nano_eur > 0)
        self._link.send("settled", quarter=quarter, fence=lease.fence, wh=clearing.wh, nano_eur=money)

    async def _await_a_quarter(self) -> None:
        """Keep the lock until the next quarter is ready to be settled."""
        ends = time.monotonic() + STAGE_S
        while not (self._complete(self._next) or self._ending.is_set()) and time.monotonic() < ends:
            await self._read_on()
            await self._pause(LOOK_S)

    async def _await_the_end(self, lease: AsyncLease) -> None:
        """Keep the lock and take deliveries without acknowledging them, until the parent kills this process."""
        self._cornered = True
        # Without a delivery in time this worker lives on, and the parent will say that nobody was killed.
        with suppress(TimeoutError):
            await asyncio.wait_for(self._first_stuck.wait(), STUCK_MAX_S)
            await self._pause(STUCK_S)
            self._link.send("cornered", fence=lease.fence, pending=self._stuck)
            await self._pause(STAGE_S)
        self._cornered, self._stage = False, ""

    async def _await_the_thaw(self, lease: AsyncLease) -> None:
        """Be frozen by the parent, and go on as if nothing had been."""
        self._stage = ""
        self._link.send("dozing", quarter=self._next, fence=lease.fence)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._awake.wait(), STAGE_S)


async def worker(link: Link) -> None:
    """Match and settle until the parent says stop."""
    async with AsyncGrid(link.config.url, namespace=link.config.namespace) as grid:
        link.send("ready")
        await Worker(link, grid).run()
