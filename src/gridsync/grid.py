"""`Grid` and `AsyncGrid`: settings, a connection, and one factory per primitive.

The factories are in `gridsync._factories`, a file for each wing.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Self

from gridsync._checkup import PING_SLOW, judge, questions
from gridsync._client import AsyncPlainClient, PlainClient
from gridsync._factories.cache import AsyncCacheFactories, CacheFactories
from gridsync._factories.events import AsyncEventFactories, EventFactories
from gridsync._factories.fanout import AsyncFanoutFactories, FanoutFactories
from gridsync._factories.limits import AsyncLimitFactories, LimitFactories
from gridsync._factories.locks import AsyncLockFactories, LockFactories
from gridsync._factories.market import AsyncMarketFactories, MarketFactories
from gridsync._io.aio import AsyncIO
from gridsync._io.keys import health as health_keys
from gridsync._io.stays import Stays
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import redacted
from gridsync._opened import Opened, chosen_settings, watch_over
from gridsync._units import seconds
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from types import TracebackType

    import redis
    import redis.asyncio
    from redis.credentials import CredentialProvider

    from gridsync._io.counts import Stats
    from gridsync._io.guard import Listeners
    from gridsync._units import Seconds
    from gridsync.embedded import EmbeddedServer
    from gridsync.health import Health
    from gridsync.settings import Settings

__all__ = ["AsyncGrid", "Grid"]

HEALTH_LEAST_S = 0.01
"""The shortest time that a health report is given."""


class Grid(
    LockFactories,
    LimitFactories,
    CacheFactories,
    EventFactories,
    FanoutFactories,
    MarketFactories,
    Stays,
    ForThreads,
):
    """The way in for threads: one connection manager, and a factory for each primitive.

    Args:
        url: Where the server is; default is ``REDIS_URL``, and without that ``embedded://``, a private server.
        namespace: First part of every key; default is ``GRIDSYNC_NAMESPACE``, and without that ``gridsync``.
        settings: Everything else; default is the environment.
        credentials: A redis-py credential provider, instead of the URL's user and password.
        audit: Whether the server is looked at once for what locks rely on (eviction, persistence, replicas), in the
            background, a second after the first lease: findings are logged as one warning, and are in `stats`.  Default
            is ``GRIDSYNC_AUDIT``, and without that yes; never with an embedded server.

    Raises:
        UsageError: A setting or the URL cannot be used.
        Unavailable: No server answers there.
        Misconfigured: The server refuses the credentials, or TLS does not match.

    Thread-safe and fork-safe: the child of a fork opens connections of its own and holds none of its parent's leases.
    Cost: one connection is opened at once, others when threads need them, at most ``REDIS_POOL_SIZE``.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        credentials: CredentialProvider | None = None,
        audit: bool | None = None,
    ) -> None:
        self.settings: Settings = chosen_settings(url, namespace, settings)
        self._listeners: Listeners = []
        self._opened = Opened(self.settings, credentials, self._listeners)
        self._closed = False
        self._plain: PlainClient | None = None
        self._io = SyncIO(
            self._opened.place,
            pool_size=self.settings.redis_pool_size,
            timeout=self.settings.redis_command_timeout,
        )
        if self.settings.gridsync_audit if audit is None else audit:
            watch_over(self._io, self._opened, self.namespace)
        try:
            self._io.connect()
        except BaseException:
            self.close()
            raise

    @property
    def embedded(self) -> EmbeddedServer | None:
        """The embedded server that this grid uses, if it does: its kind, version and directory."""
        return self._opened.embedded

    @property
    def client(self) -> redis.Redis:
        """A plain redis-py client on the same server, for everything that gridsync does not do.

        It repeats nothing by itself and has connections of its own.  On a cluster it is redis-py's `RedisCluster`,
        which has the same commands.  Behind sentinels it asks them for each new connection, as redis-py does.
        """
        if self._closed:
            raise UsageError(f"this grid ({self._opened.place}) was closed; make a new one")
        if self._plain is None:
            self._plain = PlainClient(self._opened.place, self.settings)
        return self._plain.client

    def health(self, *, timeout: Seconds = 1.0, max_age: Seconds = 0.0) -> Health:
        """Look whether the server is fit for what gridsync promises on it, on a connection of its own.

        Args:
            timeout: How long the whole report may take, in seconds.
            max_age: How old the report may be, in seconds, for probes that come often: then one caller at a time looks,
                and the others take what it finds.

        Returns:
            A report with an item for each thing that was looked at, what was found, and what to do about it.  A server
            that is away, or does not answer in time, is ``down``; that is no exception.

        Raises:
            UsageError: *timeout* is not positive, or *max_age* is negative.

        Cost: one connection and three round trips, and a question to each sentinel; no key is written.
        A report that is young enough costs microseconds.
        """
        limit, age = seconds(timeout, "timeout", least=HEALTH_LEAST_S), seconds(max_age, "max_age")
        facts, usage = self._io.look(questions(self.namespace), health_keys(self.namespace), limit, age)
        return judge(facts, usage, namespace=self.namespace, slow_s=PING_SLOW * self.settings.redis_command_timeout)

    def alive(self) -> bool:
        """Tell whether this grid can still do its part, without asking any server: the answer of a liveness probe.

        False once it is closed, and while the watchdog that renews leases is more than 5 s late: restarting this
        process helps then.  That the server is away is no reason to restart anything, and changes nothing here.

        Cost: no input or output; microseconds, and a look at every lease that is held.
        """
        return self._io.alive()

    def stats(self) -> Stats:
        """Return what this grid did since it was made, and what it is doing now, for people without OpenTelemetry.

        It counts connections, failed attempts, leases, events and what limiters decided, and no other command that
        succeeded at once.

        Cost: no input or output; a few microseconds.
        """
        return self._io.stats()

    def close(self) -> None:
        """Close every connection; leases still held are left to expire.  Safe to call twice."""
        self._closed = True
        self._io.close()
        if self._plain is not None:
            self._plain.close()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Grid {redacted(self.settings.redis_url)} namespace={self.namespace!r}>"


class AsyncGrid(
    AsyncLockFactories,
    AsyncLimitFactories,
    AsyncCacheFactories,
    AsyncEventFactories,
    AsyncFanoutFactories,
    AsyncMarketFactories,
    Stays,
    ForTasks,
):
    """The way in for asyncio: a multiplexed connection for all tasks, and a factory for each primitive.

    Use it as ``async with AsyncGrid(url) as grid``, or `open` and `close` it.

    Args:
        url: Where the server is; default is ``REDIS_URL``, and without that ``embedded://``, a private server.
        namespace: First part of every key; default is ``GRIDSYNC_NAMESPACE``, and without that ``gridsync``.
        settings: Everything else; default is the environment.
        credentials: A redis-py credential provider, instead of the URL's user and password.
        audit: Whether the server is looked at once for what locks rely on (eviction, persistence, replicas), in the
            background, a second after the first lease: findings are logged as one warning, and are in `stats`.  Default
            is ``GRIDSYNC_AUDIT``, and without that yes; never with an embedded server.

    Raises:
        UsageError: A setting or the URL cannot be used.

    Belongs to the event loop in which it was opened.
    Cost: one connection for all commands (``GRIDSYNC_CONNECTIONS_PER_NODE``); one more for each blocking read, for
    wake-ups and for renewals.
    """

    def __init__(
        self,
        url: str | None = None,
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        credentials: CredentialProvider | None = None,
        audit: bool | None = None,
    ) -> None:
        self.settings: Settings = chosen_settings(url, namespace, settings)
        self._audited = self.settings.gridsync_audit if audit is None else bool(audit)
        self._credentials = credentials
        self._listeners: Listeners = []
        self._opened: Opened | None = None
        self._driver: AsyncIO | None = None
        self._plain: AsyncPlainClient | None = None

    async def open(self) -> Self:
        """Connect; done by ``async with``.  Safe to call twice.

        Raises:
            UsageError: The URL cannot be used.
            Unavailable: No server answers there.
            Misconfigured: The server refuses the credentials, or TLS does not match.
        """
        if self._driver is None:
            self._opened = await asyncio.to_thread(Opened, self.settings, self._credentials, self._listeners)
            self._driver = AsyncIO(
                self._opened.place,
                inflight_max=self.settings.gridsync_inflight_max,
                timeout=self.settings.redis_command_timeout,
                connections_per_node=self.settings.gridsync_connections_per_node,
            )
            if self._audited:
                watch_over(self._driver, self._opened, self.namespace)
            try:
                await self._driver.connect()
            except BaseException:
                await self.close()
                raise
        return self

    @property
    def embedded(self) -> EmbeddedServer | None:
        """The embedded server that this grid uses, if it does: its kind, version and directory."""
        return None if self._opened is None else self._opened.embedded

    @property
    def client(self) -> redis.asyncio.Redis:
        """A plain redis-py client on the same server, for everything that gridsync does not do.

        It repeats nothing by itself and has connections of its own.  On a cluster it is redis-py's `RedisCluster`,
        which has the same commands.  Behind sentinels it asks them for each new connection, as redis-py does.
        """
        if self._plain is None:
            if self._opened is None:
                raise UsageError("this AsyncGrid is not open; use `async with AsyncGrid(…) as grid`")
            self._plain = AsyncPlainClient(self._opened.place, self.settings)
        return self._plain.client

    async def health(self, *, timeout: Seconds = 1.0, max_age: Seconds = 0.0) -> Health:
        """Look whether the server is fit for what gridsync promises on it; see `Grid.health`."""
        limit, age = seconds(timeout, "timeout", least=HEALTH_LEAST_S), seconds(max_age, "max_age")
        facts, usage = await self._io.look(questions(self.namespace), health_keys(self.namespace), limit, age)
        return judge(facts, usage, namespace=self.namespace, slow_s=PING_SLOW * self.settings.redis_command_timeout)

    def alive(self) -> bool:
        """Tell whether this grid can still do its part, without asking any server; see `Grid.alive`.

        Ask it in the event loop: that it is answered at all shows that the loop runs.
        """
        return self._driver is not None and self._driver.alive()

    def stats(self) -> Stats:
        """Return what this grid did since it was opened, and what it is doing now; see `Grid.stats`."""
        return self._io.stats()

    async def close(self) -> None:
        """Finish what is under way, then close every connection; leases still held are left to expire.

        Safe to call twice.

        Raises:
            UsageError: It belongs to another event loop, and stays open there; or that loop has ended, then everything
                that outlived it is closed.
        """
        driver = self._driver
        try:
            if driver is not None:
                await driver.close()
                if self._plain is not None:
                    await self._plain.close()
        finally:
            if driver is None or driver.closed:
                self._driver = self._plain = None
                opened, self._opened = self._opened, None
                if opened is not None:
                    await asyncio.to_thread(opened.close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self._driver is not None else "closed"
        return f"<AsyncGrid {redacted(self.settings.redis_url)} namespace={self.namespace!r} {state}>"
