"""A load of real members' orders, people who watch the prices meanwhile, and what both of them saw.

Nobody here waits long for an answer: an order that got none is sent to the next gateway under the same id, and a
watcher whose gateway is gone comes back to the next one with its last token.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections import Counter
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any

import httpx
from gateway import SEED
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from gridsync.cli.demo.profiles import days, neighbourhood, order
from gridsync.contrib.httpx import AsyncLimitTransport, Pauses

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gridsync.cli.demo.profiles import Moment, Prosumer

AT_ONCE = 40
"""How many members order at the same time."""
PATIENCE_S = 90.0
"""When an order or a watcher that gets nowhere gives up."""
READS_EVERY = 10
"""Each member looks at its profile and wallet at every so many orders."""


@dataclass
class Answered:
    """One order that was acknowledged."""

    side: str
    wh: int
    price: int
    member: str
    filled_wh: int
    """At once; more may follow."""


@dataclass
class Watched:
    """What one watcher saw."""

    subscribed: bool = False
    last: int | None = None
    """What it waits for, when that is known."""
    sequences: list[int] = field(default_factory=list)
    came_back: int = 0
    recovered: int = 0
    gaps: list[str] = field(default_factory=list)

    def hear(self, told: dict[str, Any]) -> None:
        """Take in one message of a gateway."""
        if told["type"] == "subscribed":
            self.subscribed = True
            self.recovered += told["recovered"] is True
            self.came_back += told["recovered"] is not None
        elif told["type"] == "message":
            self.sequences.append(json.loads(told["data"])["sequence"])
        elif told["type"] == "gap":
            self.gaps.append(told["why"])

    @property
    def has_all(self) -> bool:
        """Whether it has heard the last change."""
        return self.last is not None and self.last in self.sequences[-1:]


@dataclass
class Report:
    """What became of the load."""

    orders: dict[str, Answered] = field(default_factory=dict)
    latencies_s: list[float] = field(default_factory=list)
    statuses: Counter[str] = field(default_factory=Counter)
    sent_again: int = 0
    seconds: float = 0.0
    unexpected: list[str] = field(default_factory=list)

    def lines(self) -> list[str]:
        """Tell it."""
        took = sorted(self.latencies_s)
        at = {share: 1000 * took[int(share * (len(took) - 1))] for share in (0.5, 0.99)} if took else {}
        answers = ", ".join(f"{number} {name}" for name, number in sorted(self.statuses.items()))
        number, rate = len(self.orders), len(self.orders) / self.seconds
        return [
            f"{number:,} orders in {self.seconds:.1f} s, {rate:,.0f} a second: {answers}",
            f"answered after {at.get(0.5, 0):.1f} ms (p50), {at.get(0.99, 0):.1f} ms (p99), waits for limits included",
            f"{self.sent_again} sent again, to another gateway",
        ]


class Members:
    """Everybody who orders, through whichever gateway answers."""

    def __init__(self, urls: Sequence[str]) -> None:
        """Send nothing yet."""
        transports = [AsyncLimitTransport(retries=50, max_wait=PATIENCE_S, pauses=Pauses()) for _ in urls]
        self._clients = [
            httpx.AsyncClient(base_url=url, transport=transport, timeout=5)
            for url, transport in zip(urls, transports, strict=True)
        ]
        self._turn = count()
        self.report = Report()

    async def drive(self, quarters: int) -> None:
        """Let everybody order in so many quarters of an hour, one after the other as fast as they are answered."""
        began = time.monotonic()
        slots = asyncio.Semaphore(AT_ONCE)
        for moment in days(SEED, quarters)[:quarters]:
            await asyncio.gather(*(self._order(one, moment, slots) for one in neighbourhood(SEED)))
        self.report.seconds = time.monotonic() - began

    async def ask(
        self, method: str, path: str, member: str = "", body: dict[str, object] | None = None
    ) -> httpx.Response:
        """Ask one gateway after the other until one answers."""
        until = time.monotonic() + PATIENCE_S
        while True:
            client = self._clients[next(self._turn) % len(self._clients)]
            try:
                answer = await client.request(method, path, json=body, headers={"authorization": f"Bearer {member}"})
                if answer.status_code < httpx.codes.INTERNAL_SERVER_ERROR:
                    return answer
            except httpx.TransportError:
                pass
            if time.monotonic() > until:
                raise TimeoutError(f"no gateway answers {method} {path}")
            self.report.sent_again += method == "POST"
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        """Let go of all connections."""
        for client in self._clients:
            await client.aclose()

    async def _order(self, member: Prosumer, moment: Moment, slots: asyncio.Semaphore) -> None:
        wanted = order(member, moment, SEED)
        if wanted is None:
            return
        async with slots:
            body: dict[str, object] = {
                "order": str(moment.number), "side": wanted.side, "wh": wanted.wh, "price": wanted.limit
            }  # fmt: skip
            began = time.monotonic()
            answer = await self.ask("POST", "/orders", member.name, body)
            self.report.latencies_s.append(time.monotonic() - began)
            if answer.status_code != httpx.codes.CREATED:
                self.report.unexpected.append(f"{answer.status_code} {answer.text:.200}")
                return
            told = answer.json()
            self.report.statuses[told["status"]] += 1
            self.report.orders[f"{member.name}/{moment.number}"] = Answered(
                wanted.side, wanted.wh, wanted.limit, member.name, told["filled_wh"]
            )
            if len(self.report.orders) % READS_EVERY == 0:
                await self._look(member)

    async def _look(self, member: Prosumer) -> None:
        profile = await self.ask("GET", "/me", member.name)
        if profile.json()["kind"] != member.profile:
            self.report.unexpected.append(f"{member.name} is not {profile.text}")
        await self.ask("GET", "/wallet", member.name)


async def watch(urls: Sequence[str], first: int, saw: Watched) -> None:
    """Watch the prices from the present on, whatever becomes of the gateways, until all is heard."""
    token, turn = "", count(first)
    end = time.monotonic() + 2 * PATIENCE_S
    while not saw.has_all and time.monotonic() < end:
        url = urls[next(turn) % len(urls)].replace("http:", "ws:")
        try:
            async with connect(f"{url}/prices?token={token}" if token else f"{url}/prices", max_queue=None) as line:
                while not saw.has_all and time.monotonic() < end:
                    with contextlib.suppress(TimeoutError):  # nothing happened, perhaps because that was all
                        told = json.loads(await asyncio.wait_for(line.recv(), 0.5))
                        token = told["token"]
                        saw.hear(told)
        except (OSError, WebSocketException):
            await asyncio.sleep(0.05)  # that gateway is gone


async def until_true(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    """Wait until *condition* holds.

    Raises:
        TimeoutError: It does not.
    """
    end = time.monotonic() + PATIENCE_S
    while not await condition():
        if time.monotonic() > end:
            raise TimeoutError(what)
        await asyncio.sleep(0.05)
