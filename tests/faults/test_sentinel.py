"""Sentinel: the primary is killed, moved, frozen or cut off, and sentinels go away, in full traffic."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from contextlib import AsyncExitStack
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Self

import pytest

from gridsync import LeaseLost, LockTimeout, OutcomeUnknown, Unavailable
from gridsync.locks import Stamp
from gridsync.testing.servers import server_kinds
from tests.faults.partition import SplitSet
from tests.sentinel.conftest import caught_up
from tests.sentinel.helpers import KINDS, Traded, do, opened
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.recorder import Recorder
    from gridsync.testing.sentinels import SentinelSet
    from gridsync.testing.servers import RedisServer, ServerKind

pytestmark = [pytest.mark.parametrize("kind", KINDS), pytest.mark.timeout(120)]
PAUSE_S = 0.003
LONG_S = 30.0
"""A deadline that no failover reaches: whatever surfaces before it is a bug."""
STOP_WITHIN_S = 10.0
"""How long a primary that is alone may go on taking writes with ``min-replicas-to-write 1``."""


class Callers:
    """Appends and takes a lock, again and again, and remembers what it was told; another process would be the same."""

    def __init__(self, name: str, grid: Any, recorder: Recorder) -> None:  # noqa: ANN401 - either kind
        self.name, self._grid, self._recorder = name, grid, recorder
        self.appended: set[str] = set()
        """What was acknowledged."""
        self.fences: list[tuple[float, float, Stamp]] = []
        """When each lease was asked for and granted, and its fence and owner."""
        self.failed: Counter[str] = Counter()
        self._over = False

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._append()), asyncio.create_task(self._hold())]
        await self.flow()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._over = True
        results = await asyncio.gather(*self._tasks, return_exceptions=True)
        if kind is None:
            for result in results:
                assert result is None, result

    async def flow(self, times: int = 10) -> None:
        """Return when there have been *times* more of both."""
        appended, fences = len(self.appended), len(self.fences)
        await soon(
            lambda: (
                any(task.done() for task in self._tasks)
                or (len(self.appended) >= appended + times and len(self.fences) >= fences + times)
            ),
            60,
        )

    async def _append(self) -> None:
        store, number = self._grid.events("orders", Traded), 0
        while not self._over:
            number += 1
            name = f"{self.name}-{number}"
            with self._recorder.operation(self.name, "append", name, key="orders") as done:
                try:
                    reply = await do(store.append, self.name, Traded(kwh=1), event_ids=name)
                except (Unavailable, OutcomeUnknown) as error:
                    self.failed[type(error).__name__] += 1
                else:
                    done(reply.version)
                    self.appended.add(name)
            await asyncio.sleep(PAUSE_S)

    async def _hold(self) -> None:
        lock = self._grid.lock("job", ttl=0.5)
        while not self._over:
            began = time.monotonic()
            try:
                lease = await do(lock.acquire, timeout=LONG_S)
            except (Unavailable, OutcomeUnknown, LockTimeout) as error:
                self.failed[type(error).__name__] += 1
                continue
            self.fences.append((began, time.monotonic(), Stamp(lease.fence, lease.owner)))
            self._recorder.note(self.name, "acquired", name="job", fence=lease.fence, owner=lease.owner)
            await asyncio.sleep(PAUSE_S)
            try:
                await do(lease.release)
            except (Unavailable, OutcomeUnknown, LeaseLost) as error:
                self.failed[type(error).__name__] += 1


def fences_rise(*callers: Callers) -> None:
    """Check that who asked after another was granted got a larger fence, and that no two holders look the same.

    On two sides of a split, two may be granted the lock in the same microsecond: only then have they the same fence.
    """
    for each in callers:
        own = [stamp.fence for _, _, stamp in each.fences]
        assert all(earlier < later for earlier, later in pairwise(own))
    every = sorted((lease for each in callers for lease in each.fences), key=lambda lease: lease[1])
    assert len({stamp for _, _, stamp in every}) == len(every)
    by_start = sorted(every)
    highest = granted = 0
    for began, _, stamp in by_start:
        while every[granted][1] < began:
            highest = max(highest, every[granted][2].fence)
            granted += 1
        assert stamp.fence > highest, f"fence {stamp.fence} was given after {highest}"


async def left(kind: str, servers: SentinelSet) -> set[str]:
    """Return the events that are there in the end."""
    async with opened(kind, servers.url, timeout=LONG_S) as grid:
        found = grid.events("orders", Traded).read_all()
        log = [event async for event in found] if kind == "asyncio" else await asyncio.to_thread(list, found)
    assert [event.position for event in log] == list(range(1, len(log) + 1))
    return {event.id for event in log}


async def kept_so_far(servers: SentinelSet, *callers: Callers) -> set[str]:
    """Return what was acknowledged and has reached the replicas, so that no failover may lose it."""
    known = set().union(*(each.appended for each in callers))
    primary = servers.master
    for replica in servers.replicas:
        await soon(lambda replica=replica: caught_up(primary, replica))  # type: ignore[misc]
    return known


def killed(servers: SentinelSet) -> RedisServer:
    return servers.kill_master()


def moved(servers: SentinelSet) -> RedisServer:
    old = servers.master
    servers.failover()
    return old


def frozen(servers: SentinelSet) -> RedisServer:
    old = servers.master
    old.pause()
    return old


@pytest.mark.parametrize(
    "fault",
    [
        pytest.param(killed, id="killed", marks=pytest.mark.faults),
        pytest.param(moved, id="moved", marks=pytest.mark.faults),
        pytest.param(frozen, id="frozen"),
    ],
)
async def test_a_failover_costs_callers_a_pause_and_at_most_what_was_not_replicated(
    kind: str, whole: SentinelSet, recorder: Recorder, fault: Callable[[SentinelSet], RedisServer]
):
    """No READONLY, no error within the deadline, fences that rise; and what had reached the replicas is there."""
    async with opened(kind, whole.url, timeout=LONG_S) as grid, Callers("a", grid, recorder) as callers:
        kept = await kept_so_far(whole, callers)
        old = await asyncio.to_thread(fault, whole)
        await soon(lambda: whole.master is not old, 30)
        await callers.flow()
        if old.running:
            old.resume()
            # It takes itself for the primary until it is told; nobody may believe that.
            await callers.flow()
        else:
            await asyncio.to_thread(whole.restart, old)
        await asyncio.to_thread(whole.wait)
        await callers.flow()
    assert not callers.failed
    fences_rise(callers)
    found = await left(kind, whole)
    assert kept <= found
    recorder.note("test", "lost", names=sorted(callers.appended - found))


@pytest.mark.faults
async def test_a_sentinel_that_goes_away_is_not_missed(kind: str, whole: SentinelSet, recorder: Recorder):
    """Also not the one that is listened to, and that was asked last; two are enough for a failover."""
    async with opened(kind, whole.url, timeout=LONG_S) as grid, Callers("a", grid, recorder) as callers:
        whole.sentinels[0].kill()
        await callers.flow()
        old = whole.kill_master()
        await soon(lambda: whole.master is not old, 30)
        await callers.flow()
        await asyncio.to_thread(whole.restart, whole.sentinels[0])
        await asyncio.to_thread(whole.restart, old)
        await asyncio.to_thread(whole.wait)
    assert not callers.failed
    fences_rise(callers)


async def test_without_any_sentinel_what_is_connected_goes_on_and_what_is_not_waits(
    kind: str, whole: SentinelSet, recorder: Recorder
):
    async with opened(kind, whole.url, timeout=LONG_S) as grid, Callers("a", grid, recorder) as callers:
        primary = whole.master
        for sentinel in whole.sentinels:
            sentinel.kill()
        await callers.flow()
        primary.command("CLIENT", "KILL", "TYPE", "normal")
        await soon(lambda: grid.stats().failures.get("not-applied", 0) >= 2)
        for sentinel in whole.sentinels:
            await asyncio.to_thread(whole.restart, sentinel)
        await callers.flow()
    assert not callers.failed
    fences_rise(callers)
    assert callers.appended <= await left(kind, whole)


# -- partitions ------------------------------------------------------------------------------------------------------


@pytest.mark.faults
@pytest.mark.parametrize("program", server_kinds(), ids=str)
@pytest.mark.parametrize("careful", [False, True], ids=["", "min-replicas"])
async def test_in_a_split_network_fences_rise_and_nothing_is_lost_but_what_the_old_primary_confirmed(
    kind: str, program: ServerKind, recorder: Recorder, *, careful: bool
):
    """The old primary and one sentinel are cut off; who asks that sentinel goes on with them, until they are told.

    The others ask it, too, until the switch is announced.  What it confirmed is lost when the network heals; with
    ``min-replicas-to-write 1`` it stops to confirm anything soon.
    """
    options = {"min-replicas-to-write": "1", "min-replicas-max-lag": "2"} if careful else {}
    async with AsyncExitStack() as stack:
        servers = await asyncio.to_thread(stack.enter_context, SplitSet(program, **options))
        primary, stale, *others = servers.master, *servers.sentinels
        grids = [
            await stack.enter_async_context(opened(kind, servers.url_of(*sentinels), timeout=1.5))
            for sentinels in ((stale,), others)
        ]
        async with Callers("minority", grids[0], recorder) as few, Callers("majority", grids[1], recorder) as many:
            kept = await kept_so_far(servers, few, many)
            servers.network.cut([primary, stale], [*servers.replicas, *others])
            port = servers.network.port(primary)
            await soon(lambda: grids[1]._io.where(("k",)).port != port, 30)
            await many.flow(1)
            # One call may have been under way; whatever comes now goes to the new primary.
            before_the_switch = set(many.appended)
            await many.flow()
            if careful:
                # Nothing is confirmed any more: a write that began after this one does not come back.
                refused = few.failed["Unavailable"]
                await soon(lambda: few.failed["Unavailable"] > refused + 2, STOP_WITHIN_S)
                stopped = len(few.appended)
                await soon(lambda: few.failed["Unavailable"] > refused + 4)
                assert len(few.appended) == stopped
            else:
                await few.flow()
                assert servers.named_by(stale) is primary
            await many.flow()
            servers.network.heal()
            await asyncio.to_thread(servers.wait)
            await few.flow()
            await many.flow()
        fences_rise(few, many)
        found = await left(kind, servers)
        confirmed = few.appended | many.appended
        lost = confirmed - found
        recorder.note("test", "lost", names=sorted(lost), of=len(confirmed - kept))
        assert kept <= found, "what had reached the replicas before the split is there"
        assert lost <= few.appended | before_the_switch
        if not careful:
            assert lost, "the minority's primary took writes, and they are gone"
