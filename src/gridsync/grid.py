"""`Grid` and `AsyncGrid`: settings, a connection, and one factory per primitive."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast, overload

import redis
import redis.asyncio
import redis.asyncio.cluster
import redis.asyncio.sentinel
import redis.cluster
import redis.sentinel
from pydantic import BaseModel
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry

from gridsync._audit import Audit
from gridsync._checkup import PING_SLOW, judge, questions
from gridsync._io.aio import AsyncIO
from gridsync._io.guard import Policy
from gridsync._io.keys import health as health_keys
from gridsync._io.route.open import open_place
from gridsync._io.route.primary import Primary
from gridsync._io.stays import Stays
from gridsync._io.sync import SyncIO
from gridsync._io.wire.endpoint import Endpoint, redacted
from gridsync._units import seconds
from gridsync._worlds import ForTasks, ForThreads
from gridsync.cache import AsyncCache, Cache
from gridsync.embedded import EmbeddedServer, open_embedded
from gridsync.errors import UsageError
from gridsync.limits import AsyncLimiter, AsyncLimits, Limiter, Limits
from gridsync.locks import (
    AsyncBarrier,
    AsyncElection,
    AsyncFenceGate,
    AsyncLatch,
    AsyncLock,
    AsyncMultiLock,
    AsyncOncePer,
    AsyncRWLock,
    AsyncSemaphore,
    Barrier,
    Election,
    FenceGate,
    Latch,
    Lock,
    MultiLock,
    OncePer,
    RWLock,
    Semaphore,
)
from gridsync.settings import Settings
from gridsync.streams import AsyncEventStore, EventStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from types import TracebackType

    from redis.credentials import CredentialProvider
    from typing_extensions import TypeForm

    from gridsync._io.breaker import StateChange
    from gridsync._io.counts import Stats
    from gridsync._io.guard import Listeners
    from gridsync._io.wire.place import Place
    from gridsync._units import Seconds
    from gridsync.cache import Space
    from gridsync.errors import LeaseLost
    from gridsync.health import Health
    from gridsync.limits import OnError, Rule, Share
    from gridsync.streams import PartitionBy, Upcasters
    from gridsync.streams._links import Log

__all__ = ["AsyncGrid", "Grid"]

E = TypeVar("E", bound=BaseModel)
V = TypeVar("V")
HEALTH_LEAST_S = 0.01
"""The shortest time that a health report is given."""


class _Opened:
    """A server that was found: the embedded one, if it is ours, and where it is."""

    def __init__(self, settings: Settings, credentials: CredentialProvider | None, listeners: Listeners) -> None:
        self.embedded: EmbeddedServer | None = None
        url = settings.redis_url
        if url.startswith("embedded:"):
            self.embedded = open_embedded(url, timeout=settings.redis_connection_timeout)
            url = self.embedded.url
        try:
            self.place: Place = open_place(
                url, connect_timeout=settings.redis_connection_timeout, credentials=credentials
            )
            self.place.server.guard.govern(_policy(settings), listeners)
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        if self.embedded is not None:
            self.embedded.close()


def _audit(io: SyncIO | AsyncIO, opened: _Opened, namespace: str) -> None:
    if opened.embedded is None:
        io.audit(Audit(opened.place, namespace, opened.place.server.counts))


def _settings(url: str | None, namespace: str | None, settings: Settings | None) -> Settings:
    given = {"redis_url": url, "gridsync_namespace": namespace}
    chosen = {name: value for name, value in given.items() if value is not None}
    if settings is None:
        return Settings(**chosen)
    # Validated again: a copy with changes would take anything.
    return Settings(**{**settings.model_dump(), **chosen}) if chosen else settings


def _policy(settings: Settings) -> Policy:
    return Policy(
        enabled=settings.gridsync_breaker,
        failure_rate=settings.gridsync_breaker_failure_rate,
        min_calls=settings.gridsync_breaker_min_calls,
        pause_s=settings.gridsync_breaker_pause,
        retry_ratio=settings.gridsync_retry_ratio,
        retry_burst=settings.gridsync_retry_burst,
    )


def _client_options(endpoint: Endpoint, settings: Settings) -> dict[str, Any]:
    """Return the options of a plain redis-py client that repeats nothing and hides nothing.

    redis-py 8.1 by itself repeats any command up to ten times, and skips its check for unread replies while
    maintenance notifications are on.
    """
    options: dict[str, Any] = {
        "protocol": 3,
        "db": endpoint.db,
        "credential_provider": endpoint.credentials,
        "socket_timeout": settings.redis_command_timeout,
        "socket_connect_timeout": settings.redis_connection_timeout,
    }
    if endpoint.topology == "cluster":
        del options["db"]
    elif endpoint.path is not None:
        options["unix_socket_path"] = endpoint.path
    else:
        options |= {"host": endpoint.host, "port": endpoint.port}
    if endpoint.path is None:
        options["maint_notifications_config"] = MaintNotificationsConfig(enabled=False)
    if endpoint.tls is not None:
        options |= {"ssl": True, **endpoint.tls_options}
    return options


def _sentinel_options(primary: Primary, settings: Settings, retry: object) -> dict[str, Any]:
    """Return the options of redis-py's Sentinel."""
    options = _client_options(primary.sentinels[0], settings)
    del options["host"], options["port"]
    sentinels = [(sentinel.host, sentinel.port) for sentinel in primary.sentinels]
    return {"sentinels": sentinels, "sentinel_kwargs": {**options, "retry": retry}}


class Grid(Stays, ForThreads):
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
        self.settings = _settings(url, namespace, settings)
        self._listeners: Listeners = []
        self._opened = _Opened(self.settings, credentials, self._listeners)
        self._closed = False
        self._client: redis.Redis | None = None
        self._sentinel: redis.sentinel.Sentinel | None = None
        self._io = SyncIO(
            self._opened.place,
            pool_size=self.settings.redis_pool_size,
            timeout=self.settings.redis_command_timeout,
        )
        if self.settings.gridsync_audit if audit is None else audit:
            _audit(self._io, self._opened, self.namespace)
        try:
            self._io.connect()
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self.settings.gridsync_namespace

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
        if self._client is None:
            place, retry = self._opened.place, Retry(NoBackoff(), 0)
            options = _client_options(place.server, self.settings)
            if isinstance(place, Primary):
                theirs = _sentinel_options(place, self.settings, retry)
                watched = self._sentinel = redis.sentinel.Sentinel(**theirs)  # type: ignore[no-untyped-call]
                self._client = watched.master_for(place.service, retry=retry, **options)  # type: ignore[no-untyped-call]
            elif place.server.topology == "cluster":
                nodes = [redis.cluster.ClusterNode(*seed) for seed in place.server.seeds]  # type: ignore[no-untyped-call]
                self._client = cast("redis.Redis", redis.RedisCluster(startup_nodes=nodes, retry=retry, **options))
            else:
                self._client = redis.Redis(retry=retry, **options)
        return self._client

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

        Cost: one connection and three round trips, and a question to each sentinel; writes one key, which expires.
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

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> Lock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `Lock`."""
        return Lock(
            self._io,
            self.namespace,
            name,
            ttl=ttl,
            fair=fair,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
            min_replicas=min_replicas,
            fsync=fsync,
        )

    def multilock(
        self,
        *names: str,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> MultiLock:
        """Return the locks *names*, to be taken all at once or not at all; the rest as in `Lock`."""
        return MultiLock(self._io, self.namespace, *names, ttl=ttl, max_hold=max_hold, on_lost=on_lost)

    def once_per(self, period: Seconds, name: str) -> OncePer:
        """Return what lets one run happen per *period* among all processes, as a decorator too; see `OncePer`."""
        return OncePer(self._io, self.namespace, name, period)

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> Semaphore:
        """Return the semaphore *name*, *permits* of whose *limit* one acquisition takes; the rest as in `Lock`."""
        return Semaphore(
            self._io,
            self.namespace,
            name,
            limit,
            permits=permits,
            ttl=ttl,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def rwlock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> RWLock:
        """Return the reader-writer lock *name*: its sides ``read`` and ``write`` are used as a `Lock`."""
        return RWLock(self._io, self.namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)

    def election(self, name: str, *, ttl: Seconds = 10.0, value: str = "") -> Election:
        """Return the election *name*: one leader at a time; *value* is what this candidate tells about itself."""
        return Election(self._io, self.namespace, name, ttl=ttl, value=value)

    def fence_gate(self, key: str) -> FenceGate:
        """Return the gate through which holders of a lock write to the Redis key *key*."""
        return FenceGate(self._io, self.namespace, key)

    def latch(self, name: str, count: int, *, ttl: Seconds = 3600.0) -> Latch:
        """Return the latch *name*, which opens when *count* things have happened; kept *ttl* s after its last use."""
        return Latch(self._io, self.namespace, name, count, ttl=ttl)

    def barrier(self, name: str, parties: int, *, ttl: Seconds = 3600.0) -> Barrier:
        """Return the barrier *name*, at which *parties* wait for each other; kept *ttl* seconds after its last use."""
        return Barrier(self._io, self.namespace, name, parties, ttl=ttl)

    def cache(self, space: Space[V]) -> Cache[V]:
        """Return the cache that *space* declares."""
        return Cache(self._io, self.namespace, space)

    @property
    def limits(self) -> Limits:
        """What is asked of several limiters at once: `Limits.check`."""
        return Limits(self._io)

    def limiter(
        self,
        name: str,
        *limits: str | Rule,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        resolution: Seconds | None = None,
    ) -> Limiter:
        """Return the limiter *name* with one or more *limits* such as ``"100/second"``, all of which must admit.

        Args:
            name: The name under which processes share it.
            *limits: What is admitted, as text or as an object such as `GCRA` or `FixedWindow`; text that names no burst
                means exact sliding windows, of which there may be several.
            on_error: What `hit` answers when the server is away: ``"raise"``, ``"allow"``, ``"deny"`` or ``"local"``.
            budget: Longest time of one decision, in seconds; default is the command timeout.
            share: With ``"local"``, the part of each limit that this process admits by itself; ``"auto"`` is one over
                the processes that use it.
            deny_cache: How many keys' denials are remembered, so that they need not be asked for again.
            resolution: By how much a hit may leave its window late, in seconds; 0 is exact, and takes memory for every
                hit.  Default: exact up to 40 hits a window, else a fortieth of the window, and 2 KB a key.
        """
        return Limiter(
            self._io,
            self.namespace,
            name,
            *limits,
            on_error=on_error,
            budget=budget,
            share=share,
            deny_cache=deny_cache,
            resolution=resolution,
        )

    @overload
    def events(
        self,
        name: str,
        model: type[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: TypeForm[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: Sequence[Any],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[Any]: ...
    def events(
        self,
        name: str,
        model: Any,
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> EventStore[Any]:
        """Return the event store *name*, whose events are *model*: a pydantic model or a union of them.

        *upcasters* lift what was stored with older schemas.  With several *partitions* it is spread over so many hash
        slots, and a stream is where *partition_by* says; *log* says whether payloads are repeated in the log.  What was
        removed is read in *archive*; see `EventStore`.
        """
        return EventStore(
            self._io,
            self.namespace,
            name,
            model,
            upcasters,
            partitions=partitions,
            partition_by=partition_by,
            log=log,
            archive=archive,
        )

    def on_state_change(self, callback: Callable[[StateChange], None]) -> None:
        """Call *callback* whenever a server's circuit breaker opens, probes or closes.

        It is called on the thread that noticed, in the middle of somebody's call: be quick, and hand work on to
        another thread.  What it raises is logged.  It cannot be taken back.
        """
        self._listeners.append(callback)

    def close(self) -> None:
        """Close every connection; leases still held are left to expire.  Safe to call twice."""
        self._closed = True
        self._io.close()
        if self._client is not None:
            self._client.close()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                sentinel.close()
        self._opened.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Grid {redacted(self.settings.redis_url)} namespace={self.namespace!r}>"


class AsyncGrid(Stays, ForTasks):
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
        self.settings = _settings(url, namespace, settings)
        self._audited = self.settings.gridsync_audit if audit is None else bool(audit)
        self._credentials = credentials
        self._listeners: Listeners = []
        self._opened: _Opened | None = None
        self._driver: AsyncIO | None = None
        self._client: redis.asyncio.Redis | None = None
        self._sentinel: redis.asyncio.sentinel.Sentinel | None = None

    async def open(self) -> Self:
        """Connect; done by ``async with``.  Safe to call twice.

        Raises:
            UsageError: The URL cannot be used.
            Unavailable: No server answers there.
            Misconfigured: The server refuses the credentials, or TLS does not match.
        """
        if self._driver is None:
            self._opened = await asyncio.to_thread(_Opened, self.settings, self._credentials, self._listeners)
            self._driver = AsyncIO(
                self._opened.place,
                inflight_max=self.settings.gridsync_inflight_max,
                timeout=self.settings.redis_command_timeout,
                connections_per_node=self.settings.gridsync_connections_per_node,
            )
            if self._audited:
                _audit(self._driver, self._opened, self.namespace)
            try:
                await self._driver.connect()
            except BaseException:
                await self.close()
                raise
        return self

    @property
    def _io(self) -> AsyncIO:
        if self._driver is None:
            raise UsageError("this AsyncGrid is not open; use `async with AsyncGrid(…) as grid` or `await grid.open()`")
        return self._driver

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self.settings.gridsync_namespace

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
        if self._client is None:
            if self._opened is None:
                raise UsageError("this AsyncGrid is not open; use `async with AsyncGrid(…) as grid`")
            place, retry = self._opened.place, redis.asyncio.retry.Retry(NoBackoff(), 0)
            options = _client_options(place.server, self.settings)
            if isinstance(place, Primary):
                theirs = _sentinel_options(place, self.settings, retry)
                watched = self._sentinel = redis.asyncio.sentinel.Sentinel(**theirs)  # type: ignore[no-untyped-call]
                self._client = watched.master_for(place.service, retry=retry, **options)
            elif place.server.topology == "cluster":
                nodes = [redis.asyncio.cluster.ClusterNode(*seed) for seed in place.server.seeds]
                cluster = redis.asyncio.RedisCluster(startup_nodes=nodes, retry=retry, **options)
                self._client = cast("redis.asyncio.Redis", cluster)
            else:
                self._client = redis.asyncio.Redis(retry=retry, **options)
        return self._client

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

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
        min_replicas: int = 0,
        fsync: bool = False,
    ) -> AsyncLock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `AsyncLock`."""
        return AsyncLock(
            self._io,
            self.namespace,
            name,
            ttl=ttl,
            fair=fair,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
            min_replicas=min_replicas,
            fsync=fsync,
        )

    def multilock(
        self,
        *names: str,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
    ) -> AsyncMultiLock:
        """Return the locks *names*, to be taken all at once or not at all; the rest as in `AsyncLock`."""
        return AsyncMultiLock(self._io, self.namespace, *names, ttl=ttl, max_hold=max_hold, on_lost=on_lost)

    def once_per(self, period: Seconds, name: str) -> AsyncOncePer:
        """Return what lets one run happen per *period* among all processes, as a decorator too; see `AsyncOncePer`."""
        return AsyncOncePer(self._io, self.namespace, name, period)

    def semaphore(
        self,
        name: str,
        limit: int,
        *,
        permits: int = 1,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> AsyncSemaphore:
        """Return the semaphore *name*, *permits* of whose *limit* one acquisition takes; the rest as in `AsyncLock`."""
        return AsyncSemaphore(
            self._io,
            self.namespace,
            name,
            limit,
            permits=permits,
            ttl=ttl,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def rwlock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> AsyncRWLock:
        """Return the reader-writer lock *name*: its sides ``read`` and ``write`` are used as an `AsyncLock`."""
        return AsyncRWLock(
            self._io, self.namespace, name, ttl=ttl, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant
        )

    def election(self, name: str, *, ttl: Seconds = 10.0, value: str = "") -> AsyncElection:
        """Return the election *name*: one leader at a time; *value* is what this candidate tells about itself."""
        return AsyncElection(self._io, self.namespace, name, ttl=ttl, value=value)

    def fence_gate(self, key: str) -> AsyncFenceGate:
        """Return the gate through which holders of a lock write to the Redis key *key*."""
        return AsyncFenceGate(self._io, self.namespace, key)

    def latch(self, name: str, count: int, *, ttl: Seconds = 3600.0) -> AsyncLatch:
        """Return the latch *name*, which opens when *count* things have happened; kept *ttl* s after its last use."""
        return AsyncLatch(self._io, self.namespace, name, count, ttl=ttl)

    def barrier(self, name: str, parties: int, *, ttl: Seconds = 3600.0) -> AsyncBarrier:
        """Return the barrier *name*, at which *parties* wait for each other; kept *ttl* seconds after its last use."""
        return AsyncBarrier(self._io, self.namespace, name, parties, ttl=ttl)

    def cache(self, space: Space[V]) -> AsyncCache[V]:
        """Return the cache that *space* declares."""
        return AsyncCache(self._io, self.namespace, space)

    @property
    def limits(self) -> AsyncLimits:
        """What is asked of several limiters at once: `AsyncLimits.check`."""
        return AsyncLimits(self._io)

    def limiter(
        self,
        name: str,
        *limits: str | Rule,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        resolution: Seconds | None = None,
    ) -> AsyncLimiter:
        """Return the limiter *name* with one or more *limits* such as ``"100/second"``, all of which must admit.

        Args:
            name: The name under which processes share it.
            *limits: What is admitted, as text or as an object such as `GCRA` or `FixedWindow`; text that names no burst
                means exact sliding windows, of which there may be several.
            on_error: What `hit` answers when the server is away: ``"raise"``, ``"allow"``, ``"deny"`` or ``"local"``.
            budget: Longest time of one decision, in seconds; default is the command timeout.
            share: With ``"local"``, the part of each limit that this process admits by itself; ``"auto"`` is one over
                the processes that use it.
            deny_cache: How many keys' denials are remembered, so that they need not be asked for again.
            resolution: By how much a hit may leave its window late, in seconds; 0 is exact, and takes memory for every
                hit.  Default: exact up to 40 hits a window, else a fortieth of the window, and 2 KB a key.
        """
        return AsyncLimiter(
            self._io,
            self.namespace,
            name,
            *limits,
            on_error=on_error,
            budget=budget,
            share=share,
            deny_cache=deny_cache,
            resolution=resolution,
        )

    @overload
    def events(
        self,
        name: str,
        model: type[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: TypeForm[E],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[E]: ...
    @overload
    def events(
        self,
        name: str,
        model: Sequence[Any],
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[Any]: ...
    def events(
        self,
        name: str,
        model: Any,
        *,
        upcasters: Upcasters | None = None,
        partitions: int = 1,
        partition_by: PartitionBy = "stream",
        log: Log = "copy",
        archive: str | PathLike[str] | None = None,
    ) -> AsyncEventStore[Any]:
        """Return the event store *name*, whose events are *model*: a pydantic model or a union of them.

        *upcasters* lift what was stored with older schemas.  With several *partitions* it is spread over so many hash
        slots, and a stream is where *partition_by* says; *log* says whether payloads are repeated in the log.  What was
        removed is read in *archive*; see `EventStore`.
        """
        return AsyncEventStore(
            self._io,
            self.namespace,
            name,
            model,
            upcasters,
            partitions=partitions,
            partition_by=partition_by,
            log=log,
            archive=archive,
        )

    def on_state_change(self, callback: Callable[[StateChange], None]) -> None:
        """Call *callback* whenever a server's circuit breaker opens, probes or closes.

        It is called on the thread that noticed, in the middle of somebody's call: be quick, and hand work on to
        another thread.  What it raises is logged.  It cannot be taken back.
        """
        self._listeners.append(callback)

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
                await self._close_client()
        finally:
            if driver is None or driver.closed:
                self._driver = self._client = self._sentinel = None
                opened, self._opened = self._opened, None
                if opened is not None:
                    await asyncio.to_thread(opened.close)

    async def _close_client(self) -> None:
        if self._client is not None:
            await self._client.aclose()
        if self._sentinel is not None:
            for sentinel in self._sentinel.sentinels:
                await sentinel.aclose()

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self._driver is not None else "closed"
        return f"<AsyncGrid {redacted(self.settings.redis_url)} namespace={self.namespace!r} {state}>"
