"""A scripted sentinel, both kinds of grid behind one face, and traffic that never rests."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
import inspect
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Self

from pydantic import BaseModel

from gridsync import AsyncGrid, Grid, Settings
from tests.wire.fake import HELLO, FakeServer, Peer, Words

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync.testing.servers import RedisServer

KINDS = ["sync", "asyncio"]
SERVICE = "market"


class FakeSentinel(FakeServer):
    """Names whatever it is told to, and announces what it is told to."""

    def __init__(self, names: RedisServer | None = None, *, greeting: bytes | None = HELLO) -> None:
        self.names = names
        self.replicas: dict[RedisServer | int, dict[str, str]] = {}
        """Servers or bare ports, and what is said of them beside the usual."""
        self.listeners: list[Peer] = []
        super().__init__(self._serve_request, greeting=greeting)

    @property
    def url(self) -> str:
        """A URL with no other sentinel, which may take its time: it stands still whenever the test's process does."""
        return url_of(self, options="?sentinel_timeout=10")

    def asked(self) -> int:
        """Count the questions for the primary."""
        return sum(words[:2] == (b"SENTINEL", b"GET-MASTER-ADDR-BY-NAME") for words in self.requests)

    def announce(self, server: RedisServer, *, promoted: bool = False) -> None:
        """Name *server* from now on, and tell the listeners of the switch, or of the promotion before it."""
        old, self.names = self.names, server
        assert old is not None
        channel, text = b"+switch-master", f"{SERVICE} {old.host} {old.port} {server.host} {server.port}"
        if promoted:
            address = f"{server.host} {server.port}"
            text = f"slave {server.host}:{server.port} {address} @ {SERVICE} {old.host} {old.port}"
            channel = b"+promoted-slave"
        for peer in self.listeners:
            peer.send(b">3\r\n" + _bulks(b"message", channel, text.encode()))

    def _serve_request(self, peer: Peer, words: Words) -> None:
        if words[0] == b"SUBSCRIBE":
            for channel in words[1:]:
                peer.send(b">3\r\n" + _bulks(b"subscribe", channel) + b":1\r\n")
            self.listeners.append(peer)
        elif words[1] == b"REPLICAS":
            peer.send(b"*%d\r\n" % len(self.replicas))
            for server, facts in self.replicas.items():
                port = server if isinstance(server, int) else server.port
                usual = {"ip": "127.0.0.1", "port": str(port), "flags": "slave", "master-link-status": "ok"}
                said = [word.encode() for pair in (usual | facts).items() for word in pair]
                peer.send(b"%%%d\r\n" % (len(said) // 2) + _bulks(*said))
        elif words[1] == b"MASTERS":
            peer.send(b"*1\r\n%1\r\n" + _bulks(b"name", SERVICE.encode()))
        elif self.names is None or words[2] != SERVICE.encode():
            peer.send(b"_\r\n")
        else:
            peer.send(b"*2\r\n" + _bulks(self.names.host.encode(), str(self.names.port).encode()))


def _bulks(*words: bytes) -> bytes:
    return b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


def url_of(*sentinels: FakeServer | int, service: str = SERVICE, options: str = "") -> str:
    """Return the URL of *sentinels*, servers or bare ports."""
    ports = [entry if isinstance(entry, int) else entry.port for entry in sentinels]
    return f"redis+sentinel://{','.join(f'127.0.0.1:{port}' for port in ports)}/{service}{options}"


@asynccontextmanager
async def opened(kind: str, url: str, *, timeout: float = 15.0, connect_timeout: float = 15.0) -> AsyncIterator[Any]:
    """Open a grid of either kind, whose calls `do` makes."""
    settings = Settings(redis_url=url, redis_command_timeout=timeout, redis_connection_timeout=connect_timeout)
    if kind == "sync":
        grid = await asyncio.to_thread(Grid, settings=settings)
        try:
            yield grid
        finally:
            await asyncio.to_thread(grid.close)
    else:
        async with AsyncGrid(settings=settings) as agrid:
            yield agrid


async def do(call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:
    """Call a method of either kind."""
    if inspect.iscoroutinefunction(call):
        return await call(*args, **options)
    return await asyncio.to_thread(call, *args, **options)


class Traded(BaseModel):
    """An event."""

    kwh: int


class Traffic:
    """Locks, limits and events of one grid, two tasks each, until it is stopped."""

    def __init__(self, grid: Any) -> None:
        self._grid = grid
        self._stopping = False
        self.errors: list[BaseException] = []
        self.successes: list[tuple[float, float]] = []
        """When each call began and ended, on the monotonic clock."""
        self.fences: list[list[int]] = []
        """Per task, in the order of its acquisitions."""

    async def __aenter__(self) -> Self:
        workers = [self._lock, self._lock, self._limit, self._limit, self._append, self._append]
        self._tasks = [asyncio.create_task(self._repeat(worker)) for worker in workers]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._stopping = True
        await asyncio.gather(*self._tasks)

    def since(self, moment: float) -> list[tuple[float, float]]:
        """Return the calls that began after *moment*, in the order of their ends."""
        return sorted((call for call in self.successes if call[0] > moment), key=lambda call: call[1])

    async def _repeat(self, worker: Callable[[list[int]], Any]) -> None:
        fences: list[int] = []
        self.fences.append(fences)
        while not self._stopping:
            began = time.monotonic()
            try:
                await worker(fences)
            except Exception as error:  # noqa: BLE001 - judged by the test
                self.errors.append(error)
            else:
                self.successes.append((began, time.monotonic()))
            await asyncio.sleep(0.002)

    async def _lock(self, fences: list[int]) -> None:
        # A release that was lost with the old primary leaves the lock to its ttl.
        lease = await do(self._grid.lock("job", ttl=2).acquire, timeout=30)
        fences.append(lease.fence)
        # False if the failover took it: Redis replicates asynchronously, and the fence is what protects.
        await do(lease.release)

    async def _limit(self, _: list[int]) -> None:
        await do(self._grid.limiter("calls", "1000000/minute").hit, "someone")

    async def _append(self, _: list[int]) -> None:
        await do(self._grid.events("orders", Traded).append, "day", [Traded(kwh=1)])
