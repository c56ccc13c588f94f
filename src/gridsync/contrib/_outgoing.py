"""When a request may be sent: what the transports for threads and for tasks have in common."""

from __future__ import annotations

import logging
import threading
import time
from typing import TYPE_CHECKING, Final, Protocol

import httpx

from gridsync._io.clock import monotonic
from gridsync._units import count, seconds
from gridsync.contrib._fields import read_limits, read_retry_after
from gridsync.errors import GridsyncError, RateLimited, UsageError
from gridsync.limits._base import BaseLimiter
from gridsync.limits._rate import LIMIT_MAX

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._units import Seconds
    from gridsync.limits import Ticket

logger = logging.getLogger("gridsync")

WAIT_MAX_S = 3600.0
ORIGINS_MAX = 10_000
RETRIES_MAX = 100
TOO_MANY, AWAY = 429, 503
IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "PUT", "DELETE", "TRACE"})
UNSENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


def origin(request: httpx.Request) -> str:
    """Return scheme, host and port of a request, such as ``https://api.example:8443``."""
    return f"{request.url.scheme}://{request.url.netloc.decode()}"


class Pauses:
    """Until when each origin wants to be left alone.

    All transports of a process share one of these, so that what one task was told holds for all, unless they are given
    another.  It may be used by any number of threads and event loops, and keeps 10,000 origins: those that are paused
    the longest.
    """

    def __init__(self) -> None:
        self._until: dict[str, float] = {}
        self._lock = threading.Lock()

    def left(self, origin: str) -> float:
        """Return for how many seconds *origin* is still paused; 0.0 if it is not."""
        until = self._until.get(origin)
        return 0.0 if until is None else max(0.0, until - monotonic())

    def pause(self, origin: str, duration: Seconds) -> None:
        """Pause *origin* for at least *duration* seconds from now; a longer pause stays."""
        now = monotonic()
        until = now + seconds(duration, "the pause of an origin")
        with self._lock:
            if until > self._until.get(origin, now):
                self._until[origin] = until
            if len(self._until) > ORIGINS_MAX:
                going = sorted(self._until, key=self._until.__getitem__)[: ORIGINS_MAX // 10]
                for name in going:
                    del self._until[name]

    def resume(self, origin: str) -> None:
        """Forget the pause of *origin*.  Who sleeps because of it sleeps on."""
        with self._lock:
            self._until.pop(origin, None)


PAUSES: Final = Pauses()


def check_limiter(limiter: object, wanted: type[BaseLimiter]) -> None:
    """Refuse a limiter of the other world, or one that nobody can wait for.

    Raises:
        UsageError: It is one.
    """
    if limiter is None or (not isinstance(limiter, BaseLimiter) and hasattr(limiter, "acquire")):
        return  # nothing to wait for, or somebody's own
    if not isinstance(limiter, wanted):
        raise UsageError(f"this transport needs a limiter of the kind {wanted.__name__}, not {limiter!r:.100}")
    if not limiter._windows.can_wait:  # noqa: SLF001 - what `acquire` would say at the first request
        raise UsageError(f"nobody can wait in line for {limiter!r}: that takes sliding windows or GCRA")


class World(Protocol):
    """How a transport sleeps, asks and sends: in a thread or in a task."""

    async def sleep(self, seconds: float) -> None:
        """Let *seconds* pass."""

    async def acquire(self, key: str, cost: int, timeout: float) -> Ticket | None:
        """Wait for the limiter; nothing to wait for if there is none."""

    async def refund(self, ticket: Ticket | None) -> None:
        """Give back what `acquire` took."""

    async def send(self, request: httpx.Request) -> httpx.Response:
        """Send a request and return the beginning of its response."""

    async def close(self, response: httpx.Response) -> None:
        """Give up a response."""


class Outgoing:
    """Holds requests back until they may be sent, and learns from the responses."""

    def __init__(
        self,
        *,
        key: Callable[[httpx.Request], str],
        cost: int | Callable[[httpx.Request], int],
        max_wait: Seconds,
        max_pause: Seconds,
        retries: int,
        pauses: Pauses | None,
    ) -> None:
        """Check and keep the options.

        Raises:
            UsageError: One of them cannot be used.
        """
        if not callable(key):
            raise UsageError(f"key must be a function of the request, such as origin, not {key!r:.100}")
        if not callable(cost):
            count(cost, "cost", LIMIT_MAX)
        if pauses is not None and not isinstance(pauses, Pauses):
            raise UsageError(f"pauses must be a Pauses, not {pauses!r:.100}")
        self._key, self._cost = key, cost
        self._max_wait_s = seconds(max_wait, "max_wait", most=WAIT_MAX_S)
        self._max_pause_s = seconds(max_pause, "max_pause")
        self._retries = count(retries, "retries", RETRIES_MAX) if retries != 0 else 0
        self.pauses = PAUSES if pauses is None else pauses

    async def handle(self, request: httpx.Request, world: World) -> httpx.Response:
        """Wait, send, learn; and again if that was asked for and the server said when."""
        where, deadline = origin(request), monotonic() + self._max_wait_s
        left = (
            self._retries if isinstance(request.stream, httpx.ByteStream) else 0
        )  # another body can be read once only
        while True:
            ticket = await self._wait(where, request, world, deadline)
            try:
                response = await world.send(request)
            except UNSENT:
                await self._give_back(ticket, world)
                raise
            asked_s = self._learn(where, response)
            if left == 0 or asked_s is None or not _repeatable(request, response):
                return response
            if monotonic() + self.pauses.left(where) > deadline:
                return response
            await world.close(response)
            left -= 1

    async def _wait(self, where: str, request: httpx.Request, world: World, deadline: float) -> Ticket | None:
        """Return when the request may be sent, with what was taken for it."""
        key, cost = self._key(request), self._cost if isinstance(self._cost, int) else self._cost(request)
        while True:
            left_s = self.pauses.left(where)
            if left_s > 0:
                if monotonic() + left_s > deadline:
                    message = (
                        f"{where} asked to be left alone for another {left_s:.1f} s, longer than this request waits"
                    )
                    raise RateLimited(message, name=where, key=key, retry_after=left_s)
                await world.sleep(left_s)
                continue
            ticket = await world.acquire(key, cost, max(0.0, deadline - monotonic()))
            if not self.pauses.left(where):
                return ticket
            # Somebody else was told to pause while this one stood in line: its turn is over before it could be used.
            await self._give_back(ticket, world)

    async def _give_back(self, ticket: Ticket | None, world: World) -> None:
        try:
            await world.refund(ticket)
        except GridsyncError as error:
            logger.info("what was taken for a request that was not sent stays counted: %s", error)

    def _learn(self, where: str, response: httpx.Response) -> float | None:
        """Pause the origin if the response asks for it; returns for how long, in seconds."""
        asked_s = _asked(response)
        if asked_s is not None:
            self.pauses.pause(where, min(asked_s, self._max_pause_s))
        return asked_s


def _asked(response: httpx.Response) -> float | None:
    """Return how many seconds a response asks to be left alone, or ``None`` if it does not say."""
    headers = response.headers
    if response.status_code in {TOO_MANY, AWAY} and "retry-after" in headers:
        asked_s = read_retry_after(headers["retry-after"], headers.get("date"), time.time())
        if asked_s is not None:
            return asked_s
    if headers.get("age", "0").strip() != "0":
        return None  # from a cache: what it says of quotas is old
    services = read_limits(headers.get("ratelimit", ""))
    used_up = [service.reset_s for service in services if service.remaining == 0 and service.reset_s is not None]
    return float(max(used_up)) if used_up else None


def _repeatable(request: httpx.Request, response: httpx.Response) -> bool:
    """Tell whether a request was surely not handled, or may be handled twice."""
    return response.status_code == TOO_MANY or (response.status_code == AWAY and request.method in IDEMPOTENT)
