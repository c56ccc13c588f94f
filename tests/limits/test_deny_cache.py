"""A denial that is remembered is one that the server would give."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.denials import Denials
from gridsync.errors import RateLimited, UsageError
from gridsync.limits import Concurrency
from tests.wire.fake import until
from tests.wire.world import KINDS, done, opened

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer


@pytest.fixture(params=KINDS)
async def grid(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Any]:
    async with opened(request.param, flushed.url) as made:
        yield made


def asked(server: RedisServer) -> int:
    """How many scripts the server has run."""
    calls: int = server.command("INFO", "commandstats")["cmdstat_evalsha"]["calls"]
    return calls


async def test_a_denied_key_is_denied_again_without_asking(grid: Any, flushed: RedisServer):
    """An attacker who keeps knocking must not cost a round trip for each knock."""
    limiter = grid.limiter("calls", "5/hour", deny_cache=10)
    for _ in range(5):
        assert (await done(limiter.hit("ada"))).source == "server"
    first = await done(limiter.hit("ada"))
    assert (bool(first), first.source) == (False, "server")
    before = asked(flushed)
    again = [await done(limiter.hit("ada", cost)) for cost in (1, 1, 3)]
    with pytest.raises(RateLimited, match="1 asked for, 0 left; come again in 3"):
        await done(limiter.enforce("ada"))
    assert asked(flushed) == before
    assert {(bool(each), each.source, each.degraded) for each in again} == {(False, "cache", False)}
    assert all(0 < each.retry_after <= first.retry_after for each in again)
    assert all(each.reset_after <= first.reset_after for each in again)
    assert await done(limiter.hit("bob")), "another key is another story"


async def test_a_smaller_cost_is_asked_for(grid: Any):
    limiter = grid.limiter("calls", "5/hour", deny_cache=10)
    await done(limiter.hit("ada", 3))
    assert not await done(limiter.hit("ada", 3))
    assert (await done(limiter.hit("ada", 3))).source == "cache"
    assert await done(limiter.hit("ada", 2))


async def test_it_ends_when_the_server_said(grid: Any):
    limiter = grid.limiter("calls", "1 per 100 ms", deny_cache=10)
    assert await done(limiter.hit("ada"))
    sources = set()

    async def admitted() -> bool:
        decision = await done(limiter.hit("ada"))
        sources.add(decision.source)
        return bool(decision)

    await until(admitted)
    assert "cache" in sources


@pytest.mark.parametrize("rule", ["5/hour", "5/hour burst 5"])
async def test_what_is_given_back_or_reset_here_is_free_at_once(grid: Any, rule: str):
    limiter = grid.limiter("calls", rule, deny_cache=10)
    paid = await done(limiter.hit("ada", 5))
    assert not await done(limiter.hit("ada"))
    assert await done(limiter.refund(paid.ticket))
    assert await done(limiter.hit("ada", 5))
    assert not await done(limiter.hit("ada"))
    await done(limiter.reset("ada"))
    assert await done(limiter.hit("ada", 5))


async def test_who_waits_in_line_is_never_denied_from_memory(grid: Any):
    limiter = grid.limiter("calls", "1 per 50 ms", deny_cache=10)
    await done(limiter.hit("ada"))
    assert not await done(limiter.hit("ada"))
    assert (await done(limiter.reserve("ada", max_wait=10))).source == "server"
    assert await done(limiter.acquire("ada"))


async def test_a_cost_that_never_fits_is_not_remembered(grid: Any):
    limiter = grid.limiter("calls", "5/hour", deny_cache=10)
    for _ in range(2):
        assert (await done(limiter.hit("ada", 6))).retry_after is None
    assert await done(limiter.hit("ada", 5))


async def test_by_default_nothing_is_remembered(grid: Any):
    limiter = grid.limiter("calls", "1/hour")
    await done(limiter.hit("ada"))
    assert {(await done(limiter.hit("ada"))).source for _ in range(3)} == {"server"}


async def test_many_tasks_may_ask_at_once(grid: Any):
    limiter = grid.limiter("calls", "7/hour", deny_cache=10)

    async def hit() -> bool:
        return bool(await (asyncio.to_thread(limiter.hit, "ada") if grid_is_sync(grid) else limiter.hit("ada")))

    assert sum(await asyncio.gather(*(hit() for _ in range(100)))) == 7


def grid_is_sync(grid: Any) -> bool:
    return isinstance(grid, Grid)


@pytest.mark.parametrize("size", [-1, True, 1.5, 1_000_001])
async def test_a_wrong_size_says_what_is_allowed(grid: Any, size: Any):
    with pytest.raises(UsageError, match="deny_cache of limiter 'calls' must be a whole number from 1 to 1000000"):
        grid.limiter("calls", "1/hour", deny_cache=size)


async def test_slots_come_back_any_time_so_no_denial_of_one_is_remembered(grid: Any):
    with pytest.raises(UsageError, match="slots come back any time"):
        grid.limiter("calls", Concurrency(1, ttl_s=60), deny_cache=10)


class Clock:
    """Seconds, as the test says."""

    now = 100.0

    def __call__(self) -> float:
        return self.now


def test_no_more_keys_are_remembered_than_was_said():
    denials = Denials(2, Clock())
    for subject in "abca":
        denials.put(subject, 1, [5_000_000, 0, 6_000_000, 0], denials.asking())
    assert [subject for subject in "abc" if denials.get(subject, 1)] == ["a", "c"]


def test_time_runs_down_to_the_microsecond():
    clock = Clock()
    denials = Denials(2, clock)
    denials.put("a", 2, [5_000_000, 1, 6_000_000, 0], denials.asking())
    clock.now += 4.75
    assert denials.get("a", 2) == [250_000, 1, 1_250_000, 0]
    assert denials.get("a", 1) is None
    clock.now += 0.25
    assert denials.get("a", 2) is None


def test_a_denial_that_was_under_way_when_the_key_was_reset_is_not_believed():
    """It may have been given before the reset, and come after it."""
    denials = Denials(2, Clock())
    asking = denials.asking()
    denials.forget("a")
    denials.put("a", 1, [5_000_000, 0, 6_000_000, 0], asking)
    assert denials.get("a", 1) is None


def test_a_denial_that_was_long_under_way_is_not_believed_for_longer_than_it_holds():
    """The server may have given it right after it was asked: then it would admit while this process still denied."""
    clock = Clock()
    denials = Denials(2, clock)
    asking = denials.asking()
    clock.now += 2
    denials.put("a", 1, [5_000_000, 0, 6_000_000, 0], asking)
    clock.now += 2.75
    assert denials.get("a", 1) == [2_250_000, 0, 3_250_000, 0], "as the caller was told"
    clock.now += 0.25
    assert denials.get("a", 1) is None


def test_an_admission_is_no_denial():
    denials = Denials(2, Clock())
    for retry_us in (0, -1):
        denials.put("a", 1, [retry_us, 0, 6_000_000, 0], denials.asking())
    assert denials.get("a", 1) is None
