"""Rows about servers and connections that fail: how long nobody is served, and what becomes of calls under way."""
# ruff: noqa: PLC0415 - a peer is imported only where it is measured, so that it cannot slow down the others

from __future__ import annotations

import asyncio
import threading
import time
from functools import cache
from typing import TYPE_CHECKING

from benchmarks.harness import Bench, Limit, Peer, Row, Together, aio, expect
from gridsync.settings import Settings
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.sentinels import SentinelSet

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.testing.sentinels import Sentinel

# -- a primary that dies ----------------------------------------------------------------------------------------------

PAUSE_S = 0.002
"""Between two calls of one caller: the precision of the figures."""
SILENCE_S = 0.5
"""No replica can have been promoted so soon: what is answered earlier came from the dead."""
WITHIN_S = 30.0
"""How long a call of ours may take, and how long anything here is waited for."""
RATE = "100000/second"


class _Failover:
    """Everybody who calls while the primary is killed, and the sentinels' own moment."""

    def __init__(self, servers: SentinelSet) -> None:
        self._servers = servers
        self._over = threading.Event()
        self._listening = 0
        self._served: dict[str, list[float]] = {"sync": [], "aio": [], "redis sync": [], "redis aio": []}
        self._announced: list[float] = []

    async def run(self) -> dict[str, float]:
        """Return for each caller how long after the announcement of the new primary it was served again, in seconds."""
        listeners = [self._listen(sentinel) for sentinel in self._servers.sentinels]
        async with asyncio.TaskGroup() as group:
            for caller in (self._ours_sync, self._redis_sync):
                group.create_task(asyncio.to_thread(caller))
            for task in (self._ours_aio(), self._redis_aio(), *listeners):
                group.create_task(task)
            try:
                await self._until(lambda: self._listening == len(listeners) and all(map(len, self._served.values())))
                dead = await asyncio.to_thread(self._servers.kill_master)
                silent = time.monotonic() + SILENCE_S
                await self._until(lambda: self._announced and all(m[-1] > silent for m in self._served.values()))
            finally:
                self._over.set()
        self._servers.restart(dead)
        self._servers.wait()
        return {
            name: next(m for m in served if m > silent) - self._announced[0] for name, served in self._served.items()
        }

    @staticmethod
    async def _until(condition: Callable[[], object]) -> None:
        async with asyncio.timeout(WITHIN_S):
            while not condition():  # noqa: ASYNC110 - several threads change it
                await asyncio.sleep(PAUSE_S)

    async def _listen(self, sentinel: Sentinel) -> None:
        from redis.asyncio import Redis

        async with Redis(host=sentinel.host, port=sentinel.port) as client, client.pubsub() as subscription:
            await subscription.subscribe("+switch-master")
            while not self._over.is_set():
                message = await subscription.get_message(timeout=0.1)
                if message is None:
                    continue
                self._announced += [time.monotonic()] * (message["type"] == "message")
                self._listening += message["type"] == "subscribe"

    def _repeat(self, name: str, call: Callable[[], object], *failures: type[Exception]) -> None:
        while not self._over.is_set():
            try:
                call()
            except failures:
                pass
            else:
                self._served[name].append(time.monotonic())
            time.sleep(PAUSE_S)

    async def _arepeat(self, name: str, call: Callable[[], Awaitable[object]], *failures: type[Exception]) -> None:
        while not self._over.is_set():
            try:
                await call()
            except failures:
                pass
            else:
                self._served[name].append(time.monotonic())
            await asyncio.sleep(PAUSE_S)

    # -- ours: no exception is expected --

    @property
    def _settings(self) -> Settings:
        return Settings(redis_url=self._servers.url, redis_command_timeout=WITHIN_S)

    def _ours_sync(self) -> None:
        from gridsync import Grid

        with Grid(settings=self._settings) as grid:
            limiter = grid.limiter("bench", RATE)
            self._repeat("sync", lambda: expect(limiter.hit("sync").allowed, wanted=True))

    async def _ours_aio(self) -> None:
        from gridsync import AsyncGrid

        async with AsyncGrid(settings=self._settings) as grid:
            limiter = grid.limiter("bench", RATE)
            await self._arepeat("aio", lambda: limiter.hit("aio"))

    # -- redis-py: its documentation's socket_timeout; what fails is called again --

    def _redis_sync(self) -> None:
        from redis import RedisError
        from redis.sentinel import Sentinel

        watched = Sentinel([(s.host, s.port) for s in self._servers.sentinels], socket_timeout=0.1)
        with watched.master_for(self._servers.service, socket_timeout=0.1) as client:
            self._repeat("redis sync", lambda: client.incr("redis sync"), RedisError)

    async def _redis_aio(self) -> None:
        from redis import RedisError
        from redis.asyncio.sentinel import Sentinel

        watched = Sentinel([(s.host, s.port) for s in self._servers.sentinels], socket_timeout=0.1)
        async with watched.master_for(self._servers.service, socket_timeout=0.1) as client:
            await self._arepeat("redis aio", lambda: client.incr("redis aio"), RedisError)


@cache
def _servers() -> SentinelSet:
    """Start a primary, two replicas and three sentinels for this process; they end with it."""
    return SentinelSet().start()


_failovers = Together(lambda _bench: asyncio.run(_Failover(_servers()).run()))

# -- a connection that breaks under 1,000 calls -----------------------------------------------------------------------

CALLS = 1000
WORST_S = 15.0
"""How long a call may take, its repeats included: all of them connect anew at once."""


async def _cut(bench: Bench, call: Callable[[str], Awaitable[object]], proxy: FaultProxy) -> list[str]:
    """Cut all connections while `CALLS` calls are under way; return the keys of those whose caller was satisfied.

    Replies are held back from the start, so nobody was answered, and at least half of the calls have run by then.
    """
    from redis import Redis

    with Redis(host=bench.host, port=bench.port) as observer:
        before = observer.dbsize()
        proxy.blackhole(requests=False)
        names = [f"call-{number}" for number in range(CALLS)]
        calls = [asyncio.ensure_future(call(name)) for name in names]
        async with asyncio.timeout(WITHIN_S):
            while observer.dbsize() - before < CALLS / 2:  # noqa: ASYNC110 - the server does not tell
                await asyncio.sleep(0)
        expect(any(each.done() for each in calls), wanted=False)
        proxy.cut()
        proxy.heal()
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
    return [name for name, outcome in zip(names, outcomes, strict=True) if not isinstance(outcome, BaseException)]


async def _ours_cut(bench: Bench) -> float:
    from gridsync import AsyncGrid

    with FaultProxy(bench.url) as proxy:
        async with AsyncGrid(settings=Settings(redis_url=proxy.url, redis_command_timeout=WORST_S)) as grid:
            limiter = grid.limiter("bench", f"{CALLS}/hour")
            await limiter.hit("warm")
            answered = await _cut(bench, limiter.hit, proxy)
            return sum([(await limiter.peek(name)).remaining == CALLS - 1 for name in answered])


async def _redis_cut(bench: Bench) -> float:
    # As many connections as calls, all open before: it cannot have more calls than connections under way.
    from redis.asyncio import Redis

    with FaultProxy(bench.url) as proxy:
        async with Redis(host=proxy.host, port=proxy.port, max_connections=CALLS, socket_timeout=WORST_S) as client:
            proxy.delay_s = 0.2
            await asyncio.gather(*(client.ping() for _ in range(CALLS)))
            proxy.delay_s = 0.0
            answered = await _cut(bench, client.incr, proxy)
            return [int(await client.get(name)) for name in answered].count(1)


async def _glide_cut(bench: Bench) -> float:
    from glide import GlideClient, GlideClientConfiguration, Logger, LogLevel, NodeAddress

    Logger.set_logger_config(LogLevel.OFF)  # it logs to where the figures are printed
    with FaultProxy(bench.url) as proxy:
        configuration = GlideClientConfiguration(
            [NodeAddress(proxy.host, proxy.port)], request_timeout=round(WORST_S * 1000)
        )
        client = await GlideClient.create(configuration)
        try:
            await client.set("warm", "0")
            answered = await _cut(bench, client.incr, proxy)
            return [int(await client.get(name) or 0) for name in answered].count(1)
        finally:
            await client.close()


ROWS = (
    *(
        Row(
            f"{kind}-sentinel-failover-s",
            "s",
            _failovers.side(kind),
            (Peer("redis", _failovers.side(f"redis {kind}")),),
            better="lower",
            limits=(Limit(0.5), Limit(0.5, worst=True)),
        )
        for kind in ("sync", "aio")
    ),
    Row(
        "reconnect-1000",
        "calls once",
        aio(_ours_cut),
        (Peer("redis", aio(_redis_cut)), Peer("valkey-glide", aio(_glide_cut))),
        limits=(Limit(CALLS, worst=True),),
    ),
)
