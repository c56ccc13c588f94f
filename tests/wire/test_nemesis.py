"""Long runs with a network and a server that break at random; the seed is in the test's name (`make faults`)."""

from __future__ import annotations

import asyncio
import contextlib
import random
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync.errors import GridsyncError, LeaseLost, OutcomeUnknown, Unavailable
from gridsync.testing.proxy import Break, FaultProxy
from gridsync.testing.servers import RedisServer
from tests.wire.conftest import open_sockets
from tests.wire.fake import soon
from tests.wire.test_lost_reply import Placed
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.faults
ECHO = Command("echo", Category.READ, ("ECHO",))
INCR = Command("incr", Category.ACCUMULATING, ("INCR",))


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """A server that loses nothing when it is killed."""
    with RedisServer(options={"appendonly": "yes", "appendfsync": "always"}) as running:
        yield running


class Nemesis(threading.Thread):
    """Breaks one thing after the other, and heals each before the next."""

    def __init__(self, proxy: FaultProxy, server: RedisServer, seed: int, *, kills: bool) -> None:
        super().__init__(name="nemesis", daemon=True)
        self._proxy, self._server, self._random = proxy, server, random.Random(seed)
        self._over = threading.Event()
        self._acts: list[Callable[[], object]] = [
            proxy.cut,
            lambda: proxy.cut(reset=True),
            lambda: proxy.blackhole(requests=False),
            lambda: proxy.blackhole(replies=False),
            lambda: (proxy.refuse(), proxy.cut()),
            lambda: setattr(proxy, "delay_s", 0.01),
            lambda: setattr(proxy, "slice_bytes", 3),
            lambda: proxy.on(self._random.choice(list(Break)), "EVALSHA", nth=self._random.randint(1, 20)),
            lambda: proxy.on(self._random.choice(list(Break)), "INCR", nth=self._random.randint(1, 20)),
            lambda: server.command("SCRIPT", "FLUSH"),
            server.pause,
        ]
        if kills:
            self._acts.append(lambda: (server.kill(), server.start()))

    def run(self) -> None:
        while not self._over.wait(self._random.uniform(0.02, 0.3)):
            self._random.choice(self._acts)()
            self._over.wait(self._random.uniform(0.02, 0.4))
            self._heal()

    def _heal(self) -> None:
        self._server.resume()
        self._proxy.heal()

    def stop(self) -> None:
        """Heal for good."""
        self._over.set()
        self.join(60)
        self._heal()


class Work:
    """What many callers do at once, and what must hold afterwards."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.over = False
        self.counted = self.unknown = self.echoes = self.sections = self.appended = 0
        self._fence = 0
        self._inside: dict[int, Any] = {}

    async def run(self, io: Any, operation: Command, key: str) -> Any:  # noqa: ANN401 - any reply
        if self._world.kind == "asyncio":
            return await io.run(operation, [key])
        return await asyncio.to_thread(lambda: run_sync(io.run(operation, [key])))

    async def echo(self, io: Any, who: int) -> None:  # noqa: ANN401 - either kind
        while not self.over:
            try:
                reply = await self.run(io, ECHO, f"{who}.{self.echoes}")
            except (Unavailable, OutcomeUnknown):
                continue
            assert reply.startswith(f"{who}.".encode()), "somebody else's reply"
            self.echoes += 1

    async def count(self, io: Any, _: int) -> None:  # noqa: ANN401 - either kind
        while not self.over:
            try:
                await self.run(io, INCR, "n")
                self.counted += 1
            except OutcomeUnknown:
                self.unknown += 1
            except Unavailable:
                continue

    async def section(self, io: Any, who: int) -> None:  # noqa: ANN401 - either kind
        lock = self._world.lock(io, ttl=1.0)
        while not self.over:
            try:
                lease = await self._world.do(lock.acquire, timeout=5)
            except GridsyncError:
                continue
            try:
                lease.check()
                assert lease.fence > self._fence, "a lock that was granted later has the larger fence"
                self._fence = lease.fence
                others = [other for other in self._inside.values() if other.expires_in() > 0]
                assert not others or not lease.expires_in(), "two valid leases at one time"
                self._inside[who] = lease
                await asyncio.sleep(0.005)
                self.sections += 1
            except LeaseLost:
                pass
            finally:
                self._inside.pop(who, None)
            try:
                await self._world.do(lease.release)
            except GridsyncError:
                continue

    async def append(self, io: Any, who: int) -> None:  # noqa: ANN401 - either kind
        store = self._world.store(io, Placed)
        version = 0
        while not self.over:
            try:
                await self._world.do(store.append, f"s{who}", Placed(kwh=version + 1), expected_version=version)
                version += 1
                self.appended += 1
            except GridsyncError:
                # Perhaps written: the store knows, when it answers.
                with contextlib.suppress(GridsyncError):
                    version = len(await self._world.all(store.read(f"s{who}")))


@pytest.mark.leaves_keys
@pytest.mark.parametrize("kills", [False, True], ids=["lives", "killed"])
@pytest.mark.parametrize("kind", KINDS)
async def test_promises_hold_while_everything_breaks(
    flushed: RedisServer, kind: str, fresh_seed: int, soak_s: float, *, kills: bool
):
    """Every caller gets its own replies, counts are bounded, leases exclude each other, events have no gaps."""
    world = World(kind, flushed.url)
    sockets = open_sockets()
    with FaultProxy(flushed.url) as proxy:
        ios = [world.io(proxy.url, timeout=1.0) for _ in range(2)]
        for io in ios:
            await world.do(io.connect)
        work = Work(world)
        nemesis = Nemesis(proxy, flushed, fresh_seed, kills=kills)
        jobs = [job for io in ios for job in (work.echo, work.count, work.section, work.append) for _ in range(2)]
        tasks = [asyncio.create_task(job(ios[n % 2], n)) for n, job in enumerate(jobs)]
        nemesis.start()
        until = time.monotonic() + soak_s
        await soon(lambda: time.monotonic() > until or any(task.done() for task in tasks), soak_s + 60)
        await asyncio.to_thread(nemesis.stop)
        work.over = True
        await asyncio.wait_for(asyncio.gather(*tasks), 120)
        assert work.counted <= int(flushed.command("GET", "n")) <= work.counted + work.unknown
        store = world.store(world.io(), Placed)
        log = await world.all(store.read_all())
        assert [event.position for event in log] == list(range(1, len(log) + 1))
        assert len(log) >= work.appended
        for stream in {event.stream for event in log}:
            versions = [event.version for event in log if event.stream == stream]
            assert versions == list(range(1, len(versions) + 1))
            assert [event.event.kwh for event in log if event.stream == stream] == versions
        assert min(work.echoes, work.counted, work.sections, work.appended) > 0
        await world.close()
    await soon(lambda: open_sockets() <= sockets + 2)
