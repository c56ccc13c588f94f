"""`Redlock` and `AsyncRedlock`: locks on a majority of independent masters.

Several servers that know nothing of each other, and a lock that is held where a majority of them says so: it outlives
the loss of a minority, data and all.  See `gridsync.locks.QuorumLock` for what it guarantees, and think twice: three
servers cost three times as much, and one with a replica and a check of the fence does for most.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, NoReturn, Self

from gridsync._io import run_sync
from gridsync._io.aio import AsyncIO
from gridsync._io.route.primary import Primary
from gridsync._io.stays import Stays
from gridsync._io.sync import SyncIO
from gridsync._opened import Opened, chosen_settings
from gridsync._units import seconds
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import UsageError
from gridsync.grid import HEALTH_LEAST_S
from gridsync.health import Health, Item
from gridsync.locks import AsyncQuorumLock, QuorumLock
from gridsync.locks._masters import Master, Masters

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import TracebackType

    from redis.credentials import CredentialProvider

    from gridsync._io import IO
    from gridsync._io.counts import Stats
    from gridsync._units import Seconds
    from gridsync.errors import LeaseLost
    from gridsync.settings import Settings

__all__ = ["AsyncRedlock", "Redlock"]

MAX_TTL_S = 60.0


def _refuse(what: str) -> NoReturn:
    raise UsageError(
        f"there is no {what} on a Redlock: it would not hold.  A majority keeps one holder apart from the next, but of "
        f"three holders that have two of three masters each, all see room on a majority; use grid.{what}()"
    )


async def _look(masters: Masters, timeout: Seconds) -> Health:
    limit, began = seconds(timeout, "timeout", least=HEALTH_LEAST_S), masters.io.monotonic()
    errors = await masters.each(*(master.look(limit) for master in masters.all))
    items = [_judge(masters, master, error) for master, error in zip(masters.all, errors, strict=True)]
    voters, needed = sum(item.status == "ok" for item in items), masters.quorum
    text = f"{voters} of {len(items)} vote, {needed} are needed"
    if voters < needed:
        items.append(Item("quorum", "down", text, "", "nothing can be locked until more of them vote"))
    elif voters < len(items):
        items.append(Item("quorum", "degraded", text, "", f"{voters - needed} more may fail; see to the others"))
    else:
        items.append(Item("quorum", "ok", text))
    server = " ".join(master.name for master in masters.all)
    status = items[-1].status
    assert status != "unknown"  # noqa: S101 - it is one of the three above
    return Health(status, server, masters.io.monotonic() - began, tuple(items))


def _judge(masters: Masters, master: Master, error: object) -> Item:
    if error is not None:
        return Item(master.name, "down", str(error), "", "it has no vote until it answers, as an independent master")
    wait_s = masters.wait_s(master, master.seen)
    if wait_s <= 0 or master.durable:
        return Item(master.name, "ok", f"up for {master.uptime_s} s")
    advice = "it may have forgotten leases: wait, or let it forget none (appendonly yes, appendfsync always)"
    return Item(master.name, "degraded", f"up for {master.uptime_s} s, votes in {wait_s:.0f} s", "", advice)


class _Members:
    """The masters of a Redlock as they were named, before anything is connected."""

    def __init__(
        self,
        urls: Sequence[str],
        *,
        namespace: str | None,
        settings: Settings | None,
        credentials: CredentialProvider | None,
        max_ttl: Seconds,
        master_timeout: Seconds | None,
    ) -> None:
        if isinstance(urls, str):
            raise UsageError(f"a Redlock takes a list of URLs, one of each master, not the text {urls!r:.100}")
        self.settings = [chosen_settings(url, namespace, settings) for url in urls]
        self.credentials = credentials
        self.ttl_max_s = seconds(max_ttl, "max_ttl", least=0.01)
        self.timeout_s = None if master_timeout is None else seconds(master_timeout, "master_timeout", least=0.001)
        self.opened: list[Opened] = []

    def open(self) -> None:
        """Look at the addresses; starts embedded servers.

        Raises:
            UsageError: One cannot be used, or two are the same.
        """
        try:
            for settings in self.settings:
                self.opened.append(Opened(settings, self.credentials, []))
            self._check()
        except BaseException:
            self.close()
            raise

    def _check(self) -> None:
        met: set[str] = set()
        for name, opened in zip(self.names, self.opened, strict=True):
            if opened.place.server.topology == "cluster":
                raise UsageError(
                    f"{name} is a cluster: the masters of a Redlock must be independent, and a failover inside a "
                    f"cluster may forget a vote; use grid.lock() on it, or name three servers of their own"
                )
            if isinstance(opened.place, Primary):
                raise UsageError(
                    f"{name} is asked for at sentinels, whose failover may forget a vote: name the masters of a "
                    f"Redlock by their addresses, or use grid.lock() on it"
                )
            if name in met:
                raise UsageError(f"{name} was named twice, and would vote twice; a Redlock needs independent masters")
            met.add(name)

    @property
    def names(self) -> list[str]:
        """What to call them in messages."""
        return [str(opened.place) for opened in self.opened]

    def masters(self, ios: Sequence[SyncIO] | Sequence[AsyncIO]) -> Masters:
        """Return what the core asks, over their drivers."""
        drivers: Sequence[IO] = ios
        each = [Master(io, name) for io, name in zip(drivers, self.names, strict=True)]
        return Masters(each, ttl_max_s=self.ttl_max_s, timeout_s=self.timeout_s)

    def close(self) -> None:
        """Stop embedded servers."""
        for opened in self.opened:
            opened.close()
        self.opened = []


class Redlock(Stays, ForThreads):
    """Locks on a majority of independent masters, for threads.

    ::

        with Redlock(["redis://a", "redis://b", "redis://c"]) as redlock:
            with redlock.lock("settle:42", ttl=10) as lease:
                ...

    Args:
        urls: The masters: an odd number of servers, at least three, each with its own data and no failover to another.
        namespace: First part of every key; default is ``GRIDSYNC_NAMESPACE``, and without that ``gridsync``.
        settings: Everything else; default is the environment.  Its ``redis_url`` is not used.
        credentials: A redis-py credential provider for all of them, instead of the URLs' users and passwords.
        max_ttl: The longest lease, in seconds, that anybody takes on these masters; the same for all who use them.  For
            so long after its start, the votes of a master do not count: it may have forgotten leases.  One with
            ``appendfsync always`` votes at once.
        master_timeout: How long one master may take for one answer, in seconds; default is a hundredth of a lease's
            ttl, and at least 5 ms.

    Raises:
        UsageError: They are fewer than three, one is named twice, is a replica, or belongs to a cluster.
        Unavailable: Less than a majority answers.
        Misconfigured: As before, and it will not heal: credentials are refused, or TLS does not match.

    Thread-safe and fork-safe, as a `Grid`.
    Cost: for each master the connections of a `Grid`, and a kept thread for each caller at the same time but the first.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        credentials: CredentialProvider | None = None,
        max_ttl: Seconds = MAX_TTL_S,
        master_timeout: Seconds | None = None,
    ) -> None:
        self._members = _Members(
            urls,
            namespace=namespace,
            settings=settings,
            credentials=credentials,
            max_ttl=max_ttl,
            master_timeout=master_timeout,
        )
        self._ios: list[SyncIO] = []
        self._members.open()
        try:
            for opened, options in zip(self._members.opened, self._members.settings, strict=True):
                pool_size, timeout = options.redis_pool_size, options.redis_command_timeout
                self._ios.append(SyncIO(opened.place, pool_size=pool_size, timeout=timeout))
            self._masters = self._members.masters(self._ios)
            run_sync(self._masters.meet())
        except BaseException:
            self.close()
            raise

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self._members.settings[0].gridsync_namespace

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> QuorumLock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `QuorumLock`."""
        return QuorumLock(
            self._masters,
            self.namespace,
            name,
            ttl=ttl,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def semaphore(self, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ANN401 - whatever it is
        """Refuse: three holders that each have two of three masters would all see room.

        Raises:
            UsageError: Always.
        """
        _refuse("semaphore")

    def rwlock(self, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ANN401 - as above
        """Refuse, for the reason that `semaphore` gives.

        Raises:
            UsageError: Always.
        """
        _refuse("rwlock")

    def health(self, *, timeout: Seconds = 1.0) -> Health:
        """Look which masters vote: an item for each, and one for the quorum, whose status is that of the report.

        Args:
            timeout: How long each master may take for each answer, in seconds.

        Raises:
            UsageError: *timeout* is less than 10 ms.

        Cost: two or three requests to each master, to all of them at the same time; changes nothing.
        """
        return run_sync(_look(self._masters, timeout))

    def stats(self) -> dict[str, Stats]:
        """Return what was done since the start at each master, by its address; `Stats.votes_young` among it.

        Cost: no input or output; a few microseconds.
        """
        return {name: io.stats() for name, io in zip(self._members.names, self._ios, strict=True)}

    def close(self) -> None:
        """Close every connection; leases still held are left to expire.  Safe to call twice."""
        for io in self._ios:
            io.close()
        self._members.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<Redlock {' '.join(self._members.names)} namespace={self.namespace!r}>"


class AsyncRedlock(Stays, ForTasks):
    """Locks on a majority of independent masters, for asyncio.

    ::

        async with AsyncRedlock(["redis://a", "redis://b", "redis://c"]) as redlock:
            async with redlock.lock("settle:42", ttl=10) as lease:
                ...

    Args:
        urls: The masters: an odd number of servers, at least three, each with its own data and no failover to another.
        namespace: First part of every key; default is ``GRIDSYNC_NAMESPACE``, and without that ``gridsync``.
        settings: Everything else; default is the environment.  Its ``redis_url`` is not used.
        credentials: A redis-py credential provider for all of them, instead of the URLs' users and passwords.
        max_ttl: The longest lease, in seconds, that anybody takes on these masters; the same for all who use them.  For
            so long after its start, the votes of a master do not count: it may have forgotten leases.  One with
            ``appendfsync always`` votes at once.
        master_timeout: How long one master may take for one answer, in seconds; default is a hundredth of a lease's
            ttl, and at least 5 ms.

    Raises:
        UsageError: An option cannot be used.

    Belongs to the event loop in which it was opened.
    Cost: for each master the connections of an `AsyncGrid`.
    """

    def __init__(
        self,
        urls: Sequence[str],
        *,
        namespace: str | None = None,
        settings: Settings | None = None,
        credentials: CredentialProvider | None = None,
        max_ttl: Seconds = MAX_TTL_S,
        master_timeout: Seconds | None = None,
    ) -> None:
        self._members = _Members(
            urls,
            namespace=namespace,
            settings=settings,
            credentials=credentials,
            max_ttl=max_ttl,
            master_timeout=master_timeout,
        )
        self._ios: list[AsyncIO] = []
        self._joined: Masters | None = None

    async def open(self) -> Self:
        """Connect; done by ``async with``.  Safe to call twice.

        Raises:
            UsageError: They are fewer than three, one is named twice, is a replica, or belongs to a cluster.
            Unavailable: Less than a majority answers.
            Misconfigured: As before, and it will not heal: credentials are refused, or TLS does not match.
        """
        if self._joined is None:
            await asyncio.to_thread(self._members.open)
            try:
                for opened, options in zip(self._members.opened, self._members.settings, strict=True):
                    io = AsyncIO(
                        opened.place,
                        inflight_max=options.gridsync_inflight_max,
                        timeout=options.redis_command_timeout,
                        connections_per_node=options.gridsync_connections_per_node,
                    )
                    self._ios.append(io)
                masters = self._members.masters(self._ios)
                await masters.meet()
            except BaseException:
                await self.close()
                raise
            self._joined = masters
        return self

    @property
    def _masters(self) -> Masters:
        if self._joined is None:
            raise UsageError(
                "this AsyncRedlock is not open; use `async with AsyncRedlock(…)` or `await redlock.open()`"
            )
        return self._joined

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self._members.settings[0].gridsync_namespace

    def lock(
        self,
        name: str,
        *,
        ttl: Seconds = 10.0,
        note: str = "",
        max_hold: Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> AsyncQuorumLock:
        """Return the lock *name*, whose leases live *ttl* seconds without renewal; the rest as in `AsyncQuorumLock`."""
        return AsyncQuorumLock(
            self._masters,
            self.namespace,
            name,
            ttl=ttl,
            note=note,
            max_hold=max_hold,
            on_lost=on_lost,
            reentrant=reentrant,
        )

    def semaphore(self, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ANN401 - whatever it is
        """Refuse: three holders that each have two of three masters would all see room.

        Raises:
            UsageError: Always.
        """
        _refuse("semaphore")

    def rwlock(self, *_args: Any, **_options: Any) -> NoReturn:  # noqa: ANN401 - as above
        """Refuse, for the reason that `semaphore` gives.

        Raises:
            UsageError: Always.
        """
        _refuse("rwlock")

    async def health(self, *, timeout: Seconds = 1.0) -> Health:
        """Look which masters vote: an item for each, and one for the quorum, whose status is that of the report.

        Args:
            timeout: How long each master may take for each answer, in seconds.

        Raises:
            UsageError: *timeout* is less than 10 ms.

        Cost: two or three requests to each master, to all of them at the same time; changes nothing.
        """
        return await _look(self._masters, timeout)

    def stats(self) -> dict[str, Stats]:
        """Return what was done since the start at each master, by its address; `Stats.votes_young` among it.

        Cost: no input or output; a few microseconds.
        """
        return {name: io.stats() for name, io in zip(self._members.names, self._ios, strict=True)}

    async def close(self) -> None:
        """Finish what is under way, then close every connection; leases still held are left to expire.

        Safe to call twice.

        Raises:
            UsageError: It belongs to another event loop.
        """
        ios, self._ios, self._joined = self._ios, [], None
        try:
            for io in ios:
                await io.close()
        finally:
            await asyncio.to_thread(self._members.close)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    def __repr__(self) -> str:
        state = "open" if self._joined is not None else "closed"
        return f"<AsyncRedlock of {len(self._members.settings)} masters namespace={self.namespace!r} {state}>"
