"""Transports for httpx that wait before they send, instead of being denied; needs the extra ``httpx``.

::

    async with AsyncGrid("redis://…") as grid:
        limiter = grid.limiter("exchange", "50/second")          # what the other side admits, for all your processes
        async with httpx.AsyncClient(transport=AsyncLimitTransport(limiter)) as client:
            await client.get("https://api.exchange.example/book")

A request reserves its place with the limiter and sleeps until it is time.  And it learns: after a 429 or 503 with
``Retry-After``, or a ``RateLimit`` that says that nothing is left, nobody in this process sends to that origin before
that time has passed.
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING

from gridsync._io import run_sync
from gridsync.contrib._extra import extra
from gridsync.limits import AsyncLimiter, Limiter

with extra("httpx"):
    import httpx

    from gridsync.contrib._outgoing import PAUSES, Outgoing, Pauses, check_limiter, origin

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._units import Seconds
    from gridsync.limits import Ticket

__all__ = ["PAUSES", "AsyncLimitTransport", "LimitTransport", "Pauses", "origin"]


class LimitTransport(httpx.BaseTransport):
    """A transport for `httpx.Client` that sends when it may.

    Args:
        limiter: What the other side admits, shared by all processes that use it; ``None`` only learns.
        transport: What sends; default is `httpx.HTTPTransport`.
        key: What a request is counted for; default is its `origin`.
        cost: Units that a request takes, or a function that tells.
        max_wait: Longest time that a request waits before it is sent, repeats included, in seconds, at most 3,600.
        max_pause: Longest pause that a server may ask for, in seconds; more counts as this.
        retries: How often a request is sent again, at most 100, after a response that says when.  With 0, the default,
            never.  A 429 is sent again; a 503 only with an idempotent method; and neither if the body was a stream.
        pauses: Who is paused; default is `PAUSES`, which all transports of the process share.

    Raises:
        UsageError: An option cannot be used.

    A request raises `RateLimited`, at once, if it would have to wait for longer than *max_wait*, and what the limiter
    raises when its server is away; its ``on_error`` may rather go on without.  httpx's own timeouts begin when the
    waiting is over.

    Guarantee: requests begin in the order in which they came to the limiter, no more in any window than it admits.
        What was taken for a request that could not be connected, or whose caller was interrupted while it waited, is
        given back.
    Not guaranteed: that they arrive so: a network may hold them and let them go together.  Leave some distance to the
        limit of the other side.
    Cost: one round trip of the limiter for each request.
    """

    def __init__(
        self,
        limiter: Limiter | None = None,
        *,
        transport: httpx.BaseTransport | None = None,
        key: Callable[[httpx.Request], str] = origin,
        cost: int | Callable[[httpx.Request], int] = 1,
        max_wait: Seconds = 60.0,
        max_pause: Seconds = 300.0,
        retries: int = 0,
        pauses: Pauses | None = None,
    ) -> None:
        self._outgoing = Outgoing(
            key=key, cost=cost, max_wait=max_wait, max_pause=max_pause, retries=retries, pauses=pauses
        )
        check_limiter(limiter, Limiter)
        self._transport = transport or httpx.HTTPTransport()
        self._world = _Threads(limiter, self._transport)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request when it may be sent; httpx calls this."""
        return run_sync(self._outgoing.handle(request, self._world))

    def close(self) -> None:
        """Close what sends."""
        self._transport.close()


class AsyncLimitTransport(httpx.AsyncBaseTransport):
    """The asyncio twin of `LimitTransport`, for `httpx.AsyncClient`: the same arguments, errors and guarantees."""

    def __init__(
        self,
        limiter: AsyncLimiter | None = None,
        *,
        transport: httpx.AsyncBaseTransport | None = None,
        key: Callable[[httpx.Request], str] = origin,
        cost: int | Callable[[httpx.Request], int] = 1,
        max_wait: Seconds = 60.0,
        max_pause: Seconds = 300.0,
        retries: int = 0,
        pauses: Pauses | None = None,
    ) -> None:
        self._outgoing = Outgoing(
            key=key, cost=cost, max_wait=max_wait, max_pause=max_pause, retries=retries, pauses=pauses
        )
        check_limiter(limiter, AsyncLimiter)
        self._transport = transport or httpx.AsyncHTTPTransport()
        self._world = _Tasks(limiter, self._transport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request when it may be sent; httpx calls this."""
        return await self._outgoing.handle(request, self._world)

    async def aclose(self) -> None:
        """Close what sends."""
        await self._transport.aclose()


class _Threads:
    """Awaitables that never suspend, for `run_sync`."""

    def __init__(self, limiter: Limiter | None, transport: httpx.BaseTransport) -> None:
        self._limiter, self._transport = limiter, transport

    async def sleep(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - it is a thread that sleeps

    async def acquire(self, key: str, cost: int, timeout: float) -> Ticket | None:
        return None if self._limiter is None else self._limiter.acquire(key, cost, timeout=timeout).ticket

    async def refund(self, ticket: Ticket | None) -> None:
        if self._limiter is not None:
            self._limiter.refund(ticket)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return self._transport.handle_request(request)

    async def close(self, response: httpx.Response) -> None:
        response.close()


class _Tasks:
    """Plain asyncio."""

    def __init__(self, limiter: AsyncLimiter | None, transport: httpx.AsyncBaseTransport) -> None:
        self._limiter, self._transport = limiter, transport

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)

    async def acquire(self, key: str, cost: int, timeout: float) -> Ticket | None:
        return None if self._limiter is None else (await self._limiter.acquire(key, cost, timeout=timeout)).ticket

    async def refund(self, ticket: Ticket | None) -> None:
        if self._limiter is not None:
            await self._limiter.refund(ticket)

    async def send(self, request: httpx.Request) -> httpx.Response:
        return await self._transport.handle_async_request(request)

    async def close(self, response: httpx.Response) -> None:
        await response.aclose()
