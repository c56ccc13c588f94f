"""Callers that do everything gridsync promises something about, and the judgement on what they saw."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
import random
from dataclasses import replace
from itertools import count
from typing import TYPE_CHECKING, Any, Self

from gridsync._io import Category, Command, run_sync
from gridsync._io.guard import Guard, Policy
from gridsync._io.wire.endpoint import parse
from gridsync.errors import GridsyncError, LeaseLost, OutcomeUnknown, Unavailable
from gridsync.testing.checkers import appended, counted, mutual_exclusion, rising_fences
from gridsync.testing.linear import counter, find_order, register
from gridsync.testing.operations import operations
from tests.wire.fake import soon
from tests.wire.test_lost_reply import Placed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import Operation
    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

ECHO = Command("echo", Category.READ, ("ECHO",))
GET = Command("get", Category.READ, ("GET",))
INCR = Command("incr", Category.ACCUMULATING, ("INCR",))
SET = Command("set", Category.ACCUMULATING, ("SET",))
"""A repeat of an unanswered SET could overwrite what a rival wrote after it, so here none is sent."""
PAUSE_S = 0.003
"""Between two operations of one caller: enough of them for a history, few enough for a checker."""
HITS_MAX = 1_000_000


async def run(world: World, io: Any, operation: Operation, key: Any, *args: Any, timeout: float | None = None) -> Any:
    """Run an operation on a driver of either kind."""
    if world.kind == "asyncio":
        return await io.run(operation, [key], args, timeout=timeout)
    return await asyncio.to_thread(lambda: run_sync(io.run(operation, [key], args, timeout=timeout)))


class Traffic:
    """Callers of all kinds, as long as the block lasts; `judge` then looks at the history and at the server."""

    def __init__(self, world: World, recorder: Recorder, url: str, *, seed: int = 1, timeout: float = 1.0) -> None:
        self.world, self.recorder = world, recorder
        self.unsure = 0
        self.refused = 0
        self.done = 0
        self._url, self._seed, self._timeout = url, seed, timeout
        self._over = False
        self._tasks: list[asyncio.Task[None]] = []
        self._done_by: dict[str, int] = {}
        self._next = count(1)

    async def __aenter__(self) -> Self:
        jobs: list[Callable[[Any, str], Awaitable[None]]] = [
            self._echo, self._count, self._register, self._hit, self._append, self._section,
        ]  # fmt: skip
        for caller in "ab":
            # The breaker opens as it does for users, and probes sooner.
            endpoint = replace(parse(self._url, connect_timeout=5.0), guard=Guard(Policy(pause_s=0.1)))
            io = self.world.driver(endpoint, timeout=self._timeout)
            await self.world.do(io.connect)
            for job in jobs:
                name = f"{caller}{job.__name__}"
                self._done_by[name] = 0
                self._tasks.append(asyncio.create_task(job(io, name)))
        await self.flows()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        if kind is not None:
            for task in self._tasks:
                task.cancel()
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            for result in results:
                if isinstance(result, BaseException):
                    raise result

    async def flows(self, times: int = 1) -> None:
        """Return when each caller has had *times* more successes, whatever is broken at the moment."""
        goal = {name: done + times for name, done in self._done_by.items()}
        await soon(lambda: self._failed() or all(self._done_by[name] >= goal[name] for name in goal), 60)

    def _failed(self) -> bool:
        return any(task.done() for task in self._tasks)

    async def _do(self, who: str, what: str, *args: Any, key: str, call: Callable[[], Awaitable[Any]]) -> Any:
        """Do and record one operation; ``None`` if it failed."""
        try:
            with self.recorder.operation(who, what, *args, key=key) as done:
                reply = await call()
                done(reply)
        except Unavailable:
            self.refused += 1
            return None
        except OutcomeUnknown:
            self.unsure += 1
            return None
        finally:
            await asyncio.sleep(PAUSE_S)
        self._done_by[who] += 1
        self.done += 1
        return reply

    async def _run(self, io: Any, operation: Command, *words: Any) -> Any:
        reply = await run(self.world, io, operation, *map(str, words))
        return int(reply) if isinstance(reply, bytes) and reply.isdigit() else reply

    async def _echo(self, io: Any, who: str) -> None:
        while not self._over:
            mine = next(self._next)
            reply = await self._do(who, "echo", mine, key="", call=lambda mine=mine: self._run(io, ECHO, mine))
            assert reply in (mine, None), "somebody else's reply"

    async def _count(self, io: Any, who: str) -> None:
        while not self._over:
            await self._do(who, "add", 1, key="n", call=lambda: self._run(io, INCR, "n"))

    async def _register(self, io: Any, who: str) -> None:
        chance = random.Random(f"{self._seed} {who}")
        while not self._over:
            key = chance.choice("xy")
            if chance.random() < 0.5:
                value = next(self._next)

                async def write(key: str = key, value: int = value) -> int:
                    await self._run(io, SET, key, value)
                    return value

                await self._do(who, "write", value, key=key, call=write)
            else:

                async def read(key: str = key) -> int:
                    # JSON and a missing key both say None; here a register starts at 0.
                    return int(await self._run(io, GET, key) or 0)

                await self._do(who, "read", key=key, call=read)

    async def _hit(self, io: Any, who: str) -> None:
        limiter = self.world.limiter(io, f"{HITS_MAX}/day")

        async def hit() -> bool:
            return bool(await self.world.do(limiter.hit, "k"))

        while not self._over:
            await self._do(who, "hit", 1, key="hits", call=hit)

    async def _append(self, io: Any, who: str) -> None:
        store = self.world.store(io, Placed)
        while not self._over:
            name = f"e{next(self._next)}"

            async def append(name: str = name) -> int:
                done = await self.world.do(store.append, who, Placed(kwh=1), event_ids=name)
                return int(done.version)

            await self._do(who, "append", name, key="orders", call=append)

    async def _section(self, io: Any, who: str) -> None:
        lock = self.world.lock(io, ttl=1.0)
        note, now_us = self.recorder.note, self.recorder.now_us
        while not self._over:
            try:
                lease = await self.world.do(lock.acquire, timeout=5)
            except GridsyncError:
                await asyncio.sleep(PAUSE_S)
                continue
            facts = {"name": lease.name, "owner": lease.owner, "fence": lease.fence}
            try:
                for kind in ("acquired", "working", "working"):
                    at_us = now_us()
                    lease.check()
                    note(who, kind, at_us=at_us, **facts)
                    await asyncio.sleep(PAUSE_S)
                self._done_by[who] += 1
            except LeaseLost:
                pass
            try:
                await self.world.do(lease.release)
            except GridsyncError:
                continue

    async def judge(
        self, server: RedisServer, *, late_copies: bool = False, kept: bool = True, exclusive: bool = True
    ) -> None:
        """Check everything.

        Args:
            server: Asked directly.
            late_copies: Whether a request could arrive after its repeat was answered: then a hit may count twice, and
                a limiter is stricter than it had to be.
            kept: Whether the server kept its data: otherwise only the fences must rise.
            exclusive: Whether the server's clock went forward no faster than time: otherwise it ends leases early.
        """
        history = self.recorder.history()
        rising_fences(history)
        if not kept:
            return
        if exclusive:
            mutual_exclusion(history)
        counted(history, int(server.command("GET", "n")), key="n")
        calls = operations(history)
        for key, model, initial in (("n", counter, 0), ("x", register, 0), ("y", register, 0)):
            assert find_order([call for call in calls if call.key == key], model, initial) is not None, key
        io = self.world.io(server.url)
        hits = HITS_MAX - (await self.world.do(self.world.limiter(io, f"{HITS_MAX}/day").peek, "k")).remaining
        if late_copies:
            assert hits >= sum(call.outcome == "done" for call in calls if call.what == "hit")
        else:
            counted(history, hits, key="hits", what="hit")
        log = await self.world.all(self.world.store(io, Placed).read_all())
        appended(history, [event.id for event in log], key="orders")
        assert [event.position for event in log] == list(range(1, len(log) + 1))
