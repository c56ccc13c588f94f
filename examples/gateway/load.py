"""A load that does not wait as it is told, one client that does, and the check of what was promised.

A request was counted at some moment between its sending and its answer.  So if more requests were admitted than the
limit, and all of them were sent and answered within less than the window, the promise was broken, whatever the clocks.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from itertools import cycle
from typing import TYPE_CHECKING

import httpx
from service import promises

from gridsync.contrib.httpx import AsyncLimitTransport, Pauses

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

MEMBERS, READERS = 6, 2
PATIENT_READS = 30
LEAST_REQUESTS = 10
"""How often each asks, however slow the machine is: together more often than the market allows."""
TOO_MANY = 429
QUOTA_EXCEEDED = "https://iana.org/assignments/http-problem-types#quota-exceeded"

Span = tuple[float, float]
"""When a request was sent, and when its answer came."""


@dataclass
class Book:
    """What the load saw."""

    requests: int = 0
    denied: dict[str, int] = field(default_factory=dict)
    """How often, by policy."""
    admitted: dict[tuple[str, str], list[Span]] = field(default_factory=dict)
    """Policy and whom it counts for → the requests that it let in."""
    unexpected: list[str] = field(default_factory=list)

    def note(self, answer: httpx.Response, span: Span, counted_for: dict[str, str]) -> None:
        """Keep one answer; *counted_for* names the policies that were asked, in their order."""
        self.requests += 1
        violated: list[str] = []
        if answer.status_code == TOO_MANY:
            problem = answer.json()
            violated = problem["violated-policies"]
            for name in violated:
                self.denied[name] = self.denied.get(name, 0) + 1
            if problem["type"] != QUOTA_EXCEEDED or int(answer.headers["retry-after"]) < 1:
                self.unexpected.append(f"a denial that does not say why and when: {answer.headers} {problem}")
        elif not answer.is_success:
            self.unexpected.append(f"{answer.status_code} {answer.text:.200}")
            return
        for policy, who in counted_for.items():
            if policy in violated:
                break
            # What the dependency denied was let in by the middleware before; its own policies are all or nothing.
            if policy == "client" or not violated:
                self.admitted.setdefault((policy, who), []).append(span)


def most_within(spans: Iterable[Span], window_s: float) -> int:
    """Return how many of *spans* lie in one stretch that is shorter than *window_s*, at most."""
    held = sorted(spans)
    return max((sum(sent >= begin and end < begin + window_s for sent, end in held) for begin, _ in held), default=0)


async def hammer(clients: Iterator[httpx.AsyncClient], book: Book, until: float, number: int) -> None:
    """Ask again at once, whatever the answer, through each gateway in turn."""
    address, member = f"203.0.113.{number}", f"member-{number}"
    headers = {"x-forwarded-for": f"192.0.2.99, {address}", "authorization": f"Bearer {member}"}
    orders = number < MEMBERS
    counted_for = {"client": address, **({"orders": member, "market": "all"} if orders else {})}
    asked = 0
    while (sent := time.monotonic()) < until or asked < LEAST_REQUESTS:
        asked += 1
        answer = await next(clients).request(
            "POST" if orders else "GET", "/orders" if orders else "/book", headers=headers
        )
        book.note(answer, (sent, time.monotonic()), counted_for)


async def wait_as_told(url: str) -> int:
    """Read the book more often than a client may, by a transport that waits; returns how many reads succeeded."""
    transport = AsyncLimitTransport(retries=20, max_wait=60, pauses=Pauses())
    headers = {"x-forwarded-for": "198.51.100.1"}
    async with httpx.AsyncClient(transport=transport, base_url=url, headers=headers, timeout=60) as client:
        answers = await asyncio.gather(*(client.get("/book") for _ in range(PATIENT_READS)))
    return sum(answer.is_success for answer in answers)


async def drive(urls: Sequence[str], seconds: float, market_window_s: float) -> bool:
    """Load the gateways for *seconds*, tell what came of it, and return whether every promise was kept."""
    book = Book()
    async with (
        httpx.AsyncClient(base_url=urls[0], timeout=60) as first,
        httpx.AsyncClient(base_url=urls[-1], timeout=60) as last,
    ):
        for client in (first, last):
            (await client.get("/shadow")).raise_for_status()  # they are ready
        until = time.monotonic() + seconds
        loads = [hammer(cycle([first, last]), book, until, number) for number in range(MEMBERS + READERS)]
        patient, *_ = await asyncio.gather(wait_as_told(urls[0]), *loads)
        shadow = [(await client.get("/shadow")).json() for client in (first, last)]
    denied = ", ".join(f"{count:,} by {name}" for name, count in sorted(book.denied.items()))
    print(f"{book.requests:,} requests in {seconds:g} s through {len(urls)} gateways; denied: {denied or 'none'}")
    print(f"a tighter limit would have denied {sum(one['denied'] for one in shadow):,}")
    checks = [promise(book, policy, *promised) for policy, promised in promises(market_window_s).items()]
    checks.append((not book.unexpected, f"every answer was one of those that are promised {book.unexpected[:3] or ''}"))
    checks.append((patient == PATIENT_READS, f"who waited as told got {patient} of {PATIENT_READS} answers"))
    for kept, words in checks:
        print("✓" if kept else "✗", words)
    return all(kept for kept, _ in checks)


def promise(book: Book, policy: str, limit: int, window_s: float) -> tuple[bool, str]:
    """Check one policy for each of those it counts for."""
    spans = [spans for (name, _), spans in book.admitted.items() if name == policy]
    most = max((most_within(one, window_s) for one in spans), default=0)
    return most <= limit, f"{policy}: {most} of {limit} in any {window_s:g} s, {sum(map(len, spans)):,} admitted"
