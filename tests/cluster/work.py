"""All three wings at work, while a test does things to the cluster under them."""

# ruff: noqa: ANN401 - either kind of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Self

from redis.crc import key_slot

from gridsync._io.clock import monotonic
from gridsync._io.keys import events, limit, lock
from gridsync.errors import GridsyncError
from tests.streams.models import Placed
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

LIMIT = 1_000_000


class Work:
    """One lock, one limiter and one store with a consumer, each used without a break from `__aenter__` on."""

    def __init__(self, world: World, *, timeout: float) -> None:
        self._world = world
        io = world.io(timeout=timeout)
        self._lock = world.lock(io, ttl=10.0)
        self._other = world.lock(world.io(timeout=timeout), ttl=10.0)
        self._limiter = world.limiter(io, f"{LIMIT}/hour")
        self._store = world.store(io, Placed)
        self._group = self._store.group("workers")
        self._over = False
        self._number = 0
        self._tasks: list[asyncio.Task[None]] = []
        self.errors: list[tuple[float, GridsyncError]] = []
        self.fences: list[int] = []
        self.hits = 0
        self.appended: dict[float, float] = {}
        """What was acknowledged, and when."""
        self.handled: list[float] = []
        self._consumer: asyncio.Task[Any] | None = None

    @property
    def slots(self) -> list[int]:
        """The slots of the lock, the limiter and the store."""
        keys = (lock(NAMESPACE, "job").state, limit(NAMESPACE, "calls", "ada"), events(NAMESPACE, "orders").log)
        return [key_slot(key.encode()) for key in keys]

    async def __aenter__(self) -> Self:
        turns = (lambda: self._hold(self._lock), lambda: self._hold(self._other), self._hit, self._append)
        self._tasks = [asyncio.create_task(self._repeat(turn)) for turn in turns]
        self._consumer = self._world.start(self._group.consume, lambda event: self.handled.append(event.event.kwh))
        try:
            await self.progress(20)
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def _repeat(self, turn: Callable[[], Awaitable[None]]) -> None:
        while not self._over:
            try:
                await turn()
            except GridsyncError as error:
                self.errors.append((monotonic(), error))

    async def _hold(self, lock: Any) -> None:
        lease = await self._world.do(lock.acquire, timeout=60)
        self.fences.append(lease.fence)
        await self._world.do(lease.release)

    async def _hit(self) -> None:
        decision = await self._world.do(self._limiter.hit, "ada")
        assert decision.allowed
        self.hits += 1

    async def _append(self) -> None:
        self._number += 1
        number = self._number
        await self._world.do(self._store.append, "a", Placed(kwh=number))
        self.appended[number] = monotonic()

    def done(self) -> tuple[int, int, int, int]:
        """Return how much each wing has done so far."""
        return len(self.fences), self.hits, len(self.appended), len(self.handled)

    async def progress(self, limit_s: float = 60.0) -> None:
        """Return when each wing has done something more since the call."""
        before = self.done()
        await soon(lambda: all(now > then + 1 for now, then in zip(self.done(), before, strict=True)), limit_s)

    async def __aexit__(self, *_: object) -> None:
        self._over = True
        for task in self._tasks:
            await self._world.ended(task, 90)
        if self._consumer is not None:
            await soon(lambda: set(self.appended) <= set(self.handled) or self._consumer.done(), 60)
            self._group.stop()
            await self._world.ended(self._consumer, 60)

    async def stored(self) -> list[float]:
        """Return what the store holds, in its order."""
        return [event.event.kwh for event in await self._world.all(self._store.read_all())]

    async def counted(self) -> int:
        """Return how many hits the limiter holds."""
        decision = await self._world.do(self._limiter.peek, "ada")
        return LIMIT - int(decision.remaining)

    async def nothing_lost_or_doubled(self) -> None:
        """Fail unless every wing did exactly what its callers were told."""
        assert not self.errors, self.errors
        assert self.fences == sorted(set(self.fences))
        assert await self.counted() == self.hits
        assert await self.stored() == list(self.appended)
        assert self.handled == list(self.appended)
