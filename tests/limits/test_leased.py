"""Leased permits: batches that are used in this process and counted where everybody sees them."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
import gc
import os
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.keys import limit
from gridsync.errors import OutcomeUnknown, RateLimited, Unavailable, UsageError
from gridsync.limits import Rate
from tests.wire.fake import eventually, soon, until
from tests.wire.world import KINDS, done, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer

KEY = limit("gridsync", "calls", "k")


@pytest.fixture(params=KINDS)
async def grid(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Any]:
    async with opened(request.param, flushed.url) as made:
        yield made


async def hits(permits: Any, times: int, cost: int = 1) -> list[Any]:
    return [await done(permits.hit(cost)) for _ in range(times)]


async def used(limiter: Any, most: int) -> int:
    """What the server counts."""
    return most - (await done(limiter.peek("k"))).remaining


async def comes_to(limiter: Any, most: int, wanted: int) -> None:
    """Wait until the server counts what was used, and no more."""

    async def counted() -> bool:
        return await used(limiter, most) == wanted

    await until(counted)


async def test_a_busy_key_asks_seldom_and_never_admits_too_many(grid: Any):
    limiter = grid.limiter("calls", "1000/hour")
    permits = limiter.leased("k")
    decisions = await hits(permits, 1100)
    assert sum(map(bool, decisions)) == 1000
    assert {decision.source for decision in decisions[:900]} == {"lease"}
    assert not any(decisions[1000:]), "denied once, and then for a while without asking"
    assert decisions[-1].source == "cache"
    assert 3000 < decisions[-1].retry_after <= 3610
    assert not decisions[-1].degraded
    with_server = {decision.limit for decision in decisions}
    assert with_server == {1000}
    assert decisions[10].rule == Rate(1000, 3600)
    assert decisions[10].ticket is None
    assert len(await done(grid.client.zrange(KEY, 0, -1))) < 30, "entries are batches"
    await done(permits.close())


async def test_what_is_unused_goes_back_when_it_is_closed(grid: Any):
    limiter = grid.limiter("calls", "1000/hour")
    permits = limiter.leased("k")
    await hits(permits, 40)
    assert await used(limiter, 1000) > 40, "a batch was taken"
    await done(permits.close())
    assert await used(limiter, 1000) == 40
    await done(permits.close())
    assert await used(limiter, 1000) == 40
    with pytest.raises(UsageError, match="was closed"):
        await done(permits.hit())


async def test_with_closes_it(grid: Any):
    limiter = grid.limiter("calls", "1000/hour")
    if hasattr(limiter.leased("k"), "__aenter__"):
        async with limiter.leased("k") as permits:
            await hits(permits, 40)
    else:
        with limiter.leased("k") as permits:
            await hits(permits, 40)
    assert await used(limiter, 1000) == 40


async def test_an_idle_batch_goes_back_by_itself(grid: Any):
    """A process that stopped hitting must not keep what others could use, nor until it is closed."""
    limiter = grid.limiter("calls", "1000/hour")
    permits = limiter.leased("k", ttl=0.2)
    await hits(permits, 40)
    await comes_to(limiter, 1000, 40)
    await soon(lambda: grid.stats().leases_kept == 0)  # nothing is left to watch, once the answer has come
    assert (await hits(permits, 1))[0].source == "lease", "and it goes on"
    await done(permits.close())


async def test_nobody_takes_everything(grid: Any):
    """The first client must leave something to the second, and the second to the third."""
    limiter = grid.limiter("calls", "1000/hour")
    clients = [limiter.leased("k") for _ in range(3)]
    for client in clients:
        for _ in range(30):
            assert (await done(client.hit())).source == "lease"
    entries = await done(grid.client.zrange(KEY, 0, -1))
    totals = [int(entry.split(b":")[0]) for entry in entries]
    granted = [total - before for before, total in zip([0, *totals], totals, strict=False)]
    assert all(batch <= max(1, (1000 - before) // 2) for before, batch in zip([0, *totals], granted, strict=False))
    for client in clients:
        await done(client.close())
    assert await used(limiter, 1000) == 90


async def test_a_batch_is_no_larger_than_was_said(grid: Any):
    limiter = grid.limiter("calls", "1000/hour")
    permits = limiter.leased("k", batch=5)
    await hits(permits, 50)
    assert await used(limiter, 1000) <= 55
    assert (await hits(permits, 1, cost=8))[0].source == "server", "what is larger than a batch is a hit of its own"
    await done(permits.close())
    assert await used(limiter, 1000) == 58


async def test_costs_are_counted(grid: Any):
    limiter = grid.limiter("calls", "1000/hour")
    permits = limiter.leased("k")
    for cost in (1, 7, 1, 30, 2, 100):
        assert (await hits(permits, 1, cost))[0]
    await done(permits.close())
    await comes_to(limiter, 1000, 141)  # what a larger cost left over is given back by the watchdog


async def test_several_rules_hold_at_once(grid: Any):
    limiter = grid.limiter("calls", "1000/hour", "10/minute")
    permits = limiter.leased("k")
    decisions = await hits(permits, 30)
    assert sum(map(bool, decisions)) == 10
    assert decisions[-1].rule == Rate(10, 60)
    await done(permits.close())


async def test_a_denial_is_raised_if_asked_for(grid: Any):
    permits = grid.limiter("calls", "1/hour").leased("k")
    assert await done(permits.enforce())
    with pytest.raises(RateLimited, match=r"denies 'k' by its rule 1/hour: 1 asked for, 0 left") as denied:
        await done(permits.enforce())
    assert denied.value.retry_after > 3000
    never = await done(permits.hit(2))
    assert never.retry_after is None
    await done(permits.close())


async def test_a_denial_is_forgotten_before_others_have_given_back(grid: Any):
    limiter = grid.limiter("calls", "100/hour")
    greedy, patient = limiter.leased("k", ttl=60), limiter.leased("k", ttl=0.04)
    await hits(greedy, 8)
    unused = greedy._leasing.permits._left
    assert unused
    while await done(patient.hit()):
        pass
    await done(greedy.close())

    async def admitted() -> bool:
        return bool(await done(patient.hit()))

    await until(admitted)
    await done(patient.close())


async def test_threads_and_tasks_ask_once_for_all_of_them(grid: Any):
    limiter = grid.limiter("calls", "100000/hour")
    permits = limiter.leased("k")
    if isinstance(grid, Grid):
        with ThreadPoolExecutor(8) as pool:
            admitted = sum(pool.map(lambda _: sum(bool(permits.hit()) for _ in range(500)), range(8)))
    else:
        admitted = sum(map(bool, await asyncio.gather(*(permits.hit() for _ in range(4000)))))
    assert admitted == 4000
    await done(permits.close())
    await comes_to(limiter, 100_000, 4000)


def test_a_child_of_a_fork_has_no_permits_of_its_parents(flushed: RedisServer):
    """Both would use the same ones."""
    with Grid(flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k")
        for _ in range(40):
            permits.hit()
        assert permits._leasing.permits._left
        reader, writer = os.pipe()
        child = os.fork()
        if child == 0:
            os.write(writer, b"1" if permits._leasing.permits.take(1) == -1 and permits.hit() else b"0")
            permits.close()
            os._exit(0)
        assert os.read(reader, 1) == b"1"
        os.waitpid(child, 0)
        os.close(reader)
        os.close(writer)
        permits.close()
        assert limiter.peek("k").remaining == 1000 - 41


def test_a_lease_that_nobody_closed_goes_back_too(flushed: RedisServer):
    with Grid(flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k", ttl=0.1)
        for _ in range(40):
            permits.hit()
        del permits
        gc.collect()
        eventually(lambda: limiter.peek("k").remaining == 960)


@pytest.mark.parametrize("kind", KINDS)
async def test_permits_go_on_for_a_while_without_a_server(flushed: RedisServer, kind: str):
    async with opened(kind, flushed.url) as grid:
        permits = grid.limiter("calls", "1000/hour", budget=0.2).leased("k")
        local = grid.limiter("calls", "1000/hour", budget=0.2, on_error="deny").leased("k")
        await hits(permits, 40)
        flushed.pause()
        assert (await hits(permits, 1))[0].source == "lease"
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await hits(permits, 2000)
        assert (await hits(local, 1))[0].degraded
        flushed.resume()


async def test_a_cancelled_request_leaves_no_batch_behind(flushed: RedisServer):
    async with opened("asyncio", flushed.url) as grid:
        limiter = grid.limiter("calls", "1000/hour")
        permits = limiter.leased("k")
        await hits(permits, 20)
        await permits.close()
        permits = limiter.leased("k")
        before = await used(limiter, 1000)
        flushed.pause()
        asking = asyncio.create_task(permits.hit())
        await asyncio.sleep(0)
        waiting = asyncio.create_task(permits.hit())
        await asyncio.sleep(0)
        asking.cancel()
        await asyncio.wait([asking])
        flushed.resume()
        assert await asyncio.wait_for(waiting, 20), "the others are not stuck"
        await permits.close()
        await comes_to(limiter, 1000, before + 1)


@pytest.mark.parametrize(
    ("rule", "options", "message"),
    [
        ("10/minute", {"ttl": 31}, r"must be from 0\.005 to 30 s, not 31 s"),
        ("10/minute", {"ttl": 0}, r"must be from 0\.005 to 30 s, not 0 s"),
        ("10/minute", {"ttl": "soon"}, "must be seconds"),
        ("10/minute", {"batch": 0}, "must be a whole number from 1"),
        ("10/ms", {}, r"has a window of 0\.001 s: too short for leases"),
    ],
)
async def test_a_wrong_option_says_what_is_allowed(grid: Any, rule: str, options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        grid.limiter("calls", rule).leased("k", **options)


async def test_a_wrong_call_says_what_is_wrong(grid: Any):
    limiter = grid.limiter("calls", "10/minute")
    with pytest.raises(UsageError, match="needs the key of whom it limits"):
        limiter.leased("")
    permits = limiter.leased("k")
    for cost in (0, -1, 1.0, True):
        with pytest.raises(UsageError, match="must be a whole number from 1"):
            await done(permits.hit(cost))
    assert permits.key == "k"
    assert repr(permits).endswith("Leased 'k' of <" + repr(limiter)[1:] + ">")
    await done(permits.close())
    assert repr(permits).endswith(" closed>")
