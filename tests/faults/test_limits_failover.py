"""Limits across failovers: how many more than the limit are admitted, and why it cannot be more than that.

Replication is asynchronous.  A new primary has not heard of the last hits of the old one, and admits as many again.
"""

from __future__ import annotations

import asyncio
import time
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any, Self

import pytest

from gridsync import OutcomeUnknown, Unavailable
from gridsync.testing.servers import server_kinds
from tests.faults.partition import SplitSet
from tests.faults.test_sentinel import LONG_S, STOP_WITHIN_S, frozen, killed, moved
from tests.sentinel.conftest import caught_up
from tests.sentinel.helpers import KINDS, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.recorder import Recorder
    from gridsync.testing.sentinels import SentinelSet
    from gridsync.testing.servers import RedisServer, ServerKind

pytestmark = [pytest.mark.faults, pytest.mark.parametrize("kind", KINDS), pytest.mark.timeout(120)]
CALLERS = 4
PLENTY = 10_000_000
"""A limit that no test reaches: what is left of it says what the server counts."""


class Callers:
    """Hit one key, all the time, and count what they were told."""

    def __init__(self, grid: Any) -> None:  # noqa: ANN401 - either kind
        self._limiter = grid.limiter("calls", f"{PLENTY}/day")
        self.admitted = self.refused = 0
        self._over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._hit()) for _ in range(CALLERS)]
        await self.flow()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            assert results == [None] * CALLERS

    async def flow(self, times: int = 300) -> None:
        """Return when there have been *times* more."""
        goal = self.admitted + times
        await soon(lambda: self.admitted >= goal or any(task.done() for task in self._tasks), 60)

    async def pace(self) -> float:
        """Return how many are admitted in a second."""
        began, before = time.monotonic(), self.admitted
        await self.flow(1000)
        return (self.admitted - before) / (time.monotonic() - began)

    async def _hit(self) -> None:
        while not self._over:
            try:
                decision = await do(self._limiter.hit, "ada")
            except (Unavailable, OutcomeUnknown):
                self.refused += 1
            else:
                assert decision.allowed
                self.admitted += 1

    async def counted(self) -> int:
        """Return how many hits the server knows of."""
        return PLENTY - int((await do(self._limiter.peek, "ada")).remaining)


async def replicated(servers: SentinelSet, callers: Callers) -> int:
    """Return how many hits have surely reached every replica."""
    known, primary = callers.admitted, servers.master
    for replica in servers.replicas:
        await soon(lambda replica=replica: caught_up(primary, replica))  # type: ignore[misc]
    return known


@pytest.mark.parametrize("fault", [killed, moved, frozen], ids=lambda fault: fault.__name__)
async def test_a_failover_admits_no_more_again_than_had_not_reached_a_replica(
    kind: str,
    whole: SentinelSet,
    fault: Callable[[SentinelSet], RedisServer],
):
    """A market takes a few orders more than it promised, once, and not a window full of them."""
    async with opened(kind, whole.url, timeout=LONG_S) as grid:
        async with Callers(grid) as callers:
            pace = await callers.pace()
            known = await replicated(whole, callers)
            old = await asyncio.to_thread(fault, whole)
            await soon(lambda: whole.master is not old, 30)
            await callers.flow()
            old.resume() if old.running else await asyncio.to_thread(whole.restart, old)
            await asyncio.to_thread(whole.wait)
            # Whoever was still on the old primary has left it by now.
            by_the_old = callers.admitted
            await callers.flow()
        forgotten = callers.admitted - await callers.counted()
        print(f"{kind} {fault.__name__}: {forgotten} forgotten, at {pace:.0f} hits/s")  # noqa: T201 - for -rP
        assert not callers.refused, "a pause, and no error"
        assert forgotten <= by_the_old - known


async def test_a_primary_whose_writes_are_paused_before_it_is_moved_forgets_nothing(kind: str, whole: SentinelSet):
    """Who moves a primary by hand can do so without one hit too many."""
    async with opened(kind, whole.url, timeout=LONG_S) as grid:
        async with Callers(grid) as callers:
            old = whole.master
            old.command("CLIENT", "PAUSE", "5000", "WRITE")
            await replicated(whole, callers)
            await asyncio.to_thread(whole.failover)
            await callers.flow()
        assert whole.master is not old
        assert not callers.refused, "a pause, and no error"
        assert callers.admitted <= await callers.counted()


async def test_a_replica_that_has_heard_nothing_admits_the_limit_once_more_and_no_more(kind: str, whole: SentinelSet):
    """The worst of all: every hit is forgotten, and the window holds twice its limit, not more."""
    primary, replicas = whole.master, whole.replicas
    async with opened(kind, whole.url, timeout=LONG_S) as grid:
        limiter = grid.limiter("calls", "50/day", "500/day")
        for replica in replicas:
            # They cannot log in any more, and then they lose their connections.
            replica.command("CONFIG", "SET", "masteruser", "nobody", "masterauth", "x")
        primary.command("CLIENT", "KILL", "TYPE", "replica")
        assert [bool(await do(limiter.hit, "ada")) for _ in range(60)] == [True] * 50 + [False] * 10
        primary.kill()
        await soon(lambda: whole.master is not primary, 30)
        for replica in replicas:
            replica.command("CONFIG", "SET", "masteruser", "", "masterauth", "")
        assert [bool(await do(limiter.hit, "ada")) for _ in range(60)] == [True] * 50 + [False] * 10
        await asyncio.to_thread(whole.restart, primary)
        await asyncio.to_thread(whole.wait)
        assert not await do(limiter.hit, "ada"), "nor when the old primary is back"


@pytest.mark.parametrize("program", server_kinds()[:1], ids=str)
@pytest.mark.parametrize("careful", [False, True], ids=["", "min-replicas"])
async def test_in_a_split_network_the_old_primary_admits_what_the_new_one_admits_again(
    kind: str,
    program: ServerKind,
    recorder: Recorder,
    *,
    careful: bool,
):
    """As long as anybody can ask it; with ``min-replicas-to-write 1`` it stops soon."""
    options = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"} if careful else {}
    async with AsyncExitStack() as stack:
        servers = await asyncio.to_thread(stack.enter_context, SplitSet(program, **options))
        primary, stale, *others = servers.master, *servers.sentinels
        grids = [
            await stack.enter_async_context(opened(kind, servers.url_of(*sentinels), timeout=1.5))
            for sentinels in ((stale,), others)
        ]
        async with Callers(grids[0]) as few, Callers(grids[1]) as many:
            pace = await few.pace() + await many.pace()
            known = await replicated(servers, few) + await replicated(servers, many)
            servers.network.cut([primary, stale], [*servers.replicas, *others])
            port = servers.network.port(primary)
            await soon(lambda: grids[1]._io.where(("k",)).port != port, 30)
            await many.flow(1)
            before_the_switch = many.admitted
            await many.flow()
            if careful:
                refused = few.refused
                await soon(lambda: few.refused > refused + 2 * CALLERS, STOP_WITHIN_S)
                stopped = few.admitted
                await soon(lambda: few.refused > refused + 4 * CALLERS)
                assert few.admitted == stopped
            else:
                await few.flow()
            servers.network.heal()
            await asyncio.to_thread(servers.wait)
            by_the_old = few.admitted + before_the_switch
            await few.flow()
            await many.flow()
        forgotten = few.admitted + many.admitted - await many.counted()
        recorder.note("test", "forgotten", hits=forgotten, known=known, by_the_old=by_the_old)
        print(f"{kind} split, {careful=}: {forgotten} forgotten, at {pace:.0f} hits/s")  # noqa: T201 - for -rP
        assert forgotten <= by_the_old - known
        if not careful:
            assert forgotten > 0, "the minority's primary admitted, and nobody else heard of it"
