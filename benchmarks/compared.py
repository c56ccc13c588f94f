"""What happens elsewhere, and here, where a reply is lost or a caller is cancelled: ``python -m benchmarks.compared``.

The same fault for a peer and for gridsync, through a proxy in front of a server of its own.  Each line says what was
seen, with the peer's version; the page *Compared* quotes them.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
import time
from importlib import metadata
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import aiocache
import cashews
import limits
import redis
import redis_lock
from redis.asyncio import Redis as AsyncRedis

from gridsync import AsyncGrid, Grid
from gridsync.cache import Space
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

TTL_S = 30
LEASE_S, AWAY_S = 6, 4.5
"""How long a lease is, and how long the server is away meanwhile: both libraries would renew within that time."""


class Stage:
    """A server, and a proxy in front of it that breaks things."""

    def __init__(self, server: RedisServer, proxy: FaultProxy) -> None:
        self.proxy = proxy
        self.port = urlsplit(proxy.url).port or 0
        self.direct = redis.Redis.from_url(server.url)

    def held(self, name: str) -> str:
        """Say whether the key is there."""
        left_ms = self.direct.pttl(name)
        return f"its key stays for {left_ms / 1000:.0f} s" if left_ms > 0 else "no key is left"


def say(package: str, text: str) -> None:
    """Print a line."""
    print(f"{package} {metadata.version(package)}: {text}", flush=True)


def lost_acquisition(stage: Stage) -> None:
    """The reply of an acquisition is lost."""
    peer = redis.Redis(port=stage.port)
    peer.ping()
    stage.proxy.on(Break.REPLY, "SET")
    got = peer.lock("theirs", timeout=TTL_S).acquire(blocking=False)
    say("redis", f"Lock.acquire(), reply lost: returned {got}, and {stage.held('theirs')}")
    with Grid(stage.proxy.url) as grid:
        grid.lock("warm").acquire().release()
        stage.proxy.on(Break.REPLY, "EVALSHA")
        lease = grid.lock("ours", ttl=TTL_S).try_acquire()
        say("gridsync-redis", f"the same: {'acquired' if lease else 'not acquired'}")


def cancelled_acquisition(stage: Stage) -> None:
    """A task is cancelled while the reply of its acquisition is on the way."""

    async def cancelled(acquire: Callable[[], Coroutine[Any, Any, object]], sent: Callable[[], bool]) -> None:
        stage.proxy.blackhole(requests=False, replies=True)
        task = asyncio.create_task(acquire())  # type: ignore[arg-type]
        while not sent():  # noqa: ASYNC110 - the server is who knows
            await asyncio.sleep(0.01)
        task.cancel()
        await asyncio.sleep(0.1)
        stage.proxy.heal()
        with contextlib.suppress(asyncio.CancelledError):
            await task

    async def run() -> None:
        async with AsyncRedis(port=stage.port) as peer:
            await peer.ping()
            lock = peer.lock("theirs", timeout=TTL_S)
            await cancelled(lock.acquire, lambda: bool(stage.direct.exists("theirs")))
            say("redis", f"asyncio Lock.acquire(), cancelled: {stage.held('theirs')}")
        async with AsyncGrid(stage.proxy.url) as grid:
            await (await grid.lock("warm").acquire()).release()
            await cancelled(grid.lock("ours", ttl=TTL_S).acquire, lambda: any(stage.direct.scan_iter("*ours*")))
            await (await grid.lock("ours", ttl=TTL_S).acquire(timeout=5)).release()
            say("gridsync-redis", "the same: the next caller had it at once")

    asyncio.run(run())


def renewal_through_an_outage(stage: Stage) -> None:
    """The server is away for less than the lease."""
    logging.getLogger("redis_lock").setLevel(logging.CRITICAL)
    ended: list[str] = []
    before, threading.excepthook = threading.excepthook, lambda args: ended.append(args.exc_type.__name__)
    lock = redis_lock.Lock(redis.Redis.from_url(stage.proxy.url), "theirs", expire=LEASE_S, auto_renewal=True)
    lock.acquire()
    _outage(stage)
    thread = f"its thread ended with {ended[0]}" if ended else "its thread goes on"
    kept = "still held" if stage.direct.exists("lock:theirs") else "lost, and the caller is not told"
    say("python-redis-lock", f"lease of {LEASE_S} s, server away for {AWAY_S:g} s of it: {thread}; {kept}")
    threading.excepthook = before
    with Grid(stage.proxy.url) as grid:
        lease = grid.lock("ours", ttl=LEASE_S).acquire()
        _outage(stage)
        say("gridsync-redis", f"the same: {'lost, and the caller is told' if lease.lost.is_set() else 'still held'}")


def _outage(stage: Stage) -> None:
    stage.proxy.refuse()
    stage.proxy.cut()
    time.sleep(AWAY_S)
    stage.proxy.heal()
    time.sleep(LEASE_S)


def lost_hit(stage: Stage) -> None:
    """The reply of a hit is lost, and the caller tries again."""
    limiter = limits.strategies.MovingWindowRateLimiter(limits.storage.RedisStorage(stage.proxy.url))
    item = limits.parse("10/hour")
    limiter.hit(item, "warm")
    stage.proxy.on(Break.REPLY, "EVALSHA")
    try:
        limiter.hit(item, "theirs")
        said = "answered"
    except redis.ConnectionError as error:
        said = f"{type(error).__name__}, and tried again"
        limiter.hit(item, "theirs")
    left = limiter.get_window_stats(item, "theirs").remaining
    say("limits", f"one hit of ten, reply lost: {said}; {left} are left")
    with Grid(stage.proxy.url) as grid:
        grid.limiter("api", "10/hour").hit("warm")
        stage.proxy.on(Break.REPLY, "EVALSHA")
        decision = grid.limiter("api", "10/hour").hit("ours")
        say("gridsync-redis", f"the same: answered; {decision.remaining} are left")


def delete_during_a_load(stage: Stage) -> None:
    """A value is deleted while somebody loads it: the loader has read what is old."""
    value = ["old"]

    async def seen(load: Callable[[], Coroutine[Any, Any, str]], delete: Callable[[], Any]) -> str:
        value[0] = "old"
        loading.clear()
        task = asyncio.create_task(load())
        await loading.wait()
        value[0] = "new"
        done = delete()
        if asyncio.iscoroutine(done):
            await done
        go_on.set()
        await task
        return await load()

    async def read() -> str:
        found = value[0]
        loading.set()
        await go_on.wait()
        return found

    loading, go_on = asyncio.Event(), asyncio.Event()

    async def run() -> None:
        theirs = cashews.Cache()
        theirs.setup(stage.proxy.url)
        load = theirs(ttl="1m", key="theirs", lock=True)(read)
        say(
            "cashews",
            f"deleted during a load: the next read gets the {await seen(load, lambda: theirs.delete('theirs'))} value",
        )
        await theirs.close()
        go_on.clear()
        options = {"endpoint": "127.0.0.1", "port": stage.port, "namespace": "b"}
        load = aiocache.cached(ttl=60, cache=aiocache.Cache.REDIS, key="theirs", **options)(read)
        say("aiocache", f"the same: the {await seen(load, lambda: load.cache.delete('theirs'))} value")
        await load.cache.close()
        go_on.clear()
        async with AsyncGrid(stage.proxy.url) as grid:
            ours = grid.cache(Space("ours", str, ttl=60))
            fresh = await seen(lambda: ours.get_or_load("ours", read), lambda: ours.delete("ours"))
            say("gridsync-redis", f"the same: the {fresh} value")

    asyncio.run(run())


def main() -> None:
    """Run all of them, each on a server of its own."""
    for scene in (lost_acquisition, cancelled_acquisition, renewal_through_an_outage, lost_hit, delete_during_a_load):
        with RedisServer() as server, FaultProxy(server.url) as proxy:
            scene(Stage(server, proxy))


if __name__ == "__main__":
    main()
