"""``exclusive``: try and skip, or wait.  ``once_per``: at most one run per period."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncGrid, Grid
from gridsync._io import load
from gridsync._io.keys import once as once_key
from gridsync.errors import UsageError
from gridsync.locks import AsyncOncePer, OncePer, current
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, NOWHERE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.wire.world import World

KEY = once_key(NAMESPACE, "close")
HOUR_US = 3_600_000_000


def once(world: World, period: Any = 3600.0) -> Any:  # noqa: ANN401 - either kind
    kind: Callable[..., Any] = OncePer if world.kind == "sync" else AsyncOncePer
    return kind(world.io(), NAMESPACE, "close", period)


def function_of(world: World, runs: list[object]) -> Any:  # noqa: ANN401 - either kind
    def plain(what: str) -> str:
        runs.append(what)
        return what

    async def coroutine(what: str) -> str:
        return plain(what)

    return plain if world.kind == "sync" else coroutine


async def test_one_of_many_processes_runs_in_a_period(world: World):
    runs: list[object] = []
    functions = [once(world)(function_of(world, runs)) for _ in range(8)]
    answers = await asyncio.gather(*(world.do(function, f"r{n}") for n, function in enumerate(functions)))
    assert len(runs) == 1
    assert [answer for answer in answers if answer is not None] == runs


async def test_a_turn_tells_its_period_on_the_servers_clock(world: World, flushed: RedisServer):
    turn = await world.do(once(world, timedelta(hours=1)).claim)
    seconds, us = flushed.command("TIME")
    now = datetime.fromtimestamp(int(seconds) + int(us) / 1e6, UTC)
    assert turn.ends - turn.begins == timedelta(hours=1)
    assert turn.begins <= now < turn.ends + timedelta(minutes=1)
    assert (turn.begins.minute, turn.begins.second, turn.begins.microsecond) == (0, 0, 0), "it begins with the hour"
    assert await world.do(once(world).claim) is None
    assert 3_600_000 < flushed.command("PTTL", KEY) <= 7_200_000


async def test_the_next_period_has_a_turn_with_a_larger_fence(world: World, flushed: RedisServer):
    first = await world.do(once(world).claim)
    flushed.command("HINCRBY", KEY, "p", -1)  # an hour passes
    second = await world.do(once(world).claim)
    assert second.fence > first.fence
    assert await world.do(once(world).claim) is None


async def test_a_runner_that_fails_has_used_its_period(world: World):
    """Else a job that fails after it sent its mails would send them again and again."""

    def fail() -> None:
        raise ZeroDivisionError

    async def fail_async() -> None:
        raise ZeroDivisionError

    function = once(world)(fail if world.kind == "sync" else fail_async)
    with pytest.raises(ZeroDivisionError):
        await world.do(function)
    assert await world.do(function) is None


async def test_a_clock_that_is_set_back_starts_no_period_again(world: World, flushed: RedisServer):
    assert await world.do(once(world).claim)
    flushed.command("HINCRBY", KEY, "p", 1)  # as if it had been taken an hour later
    assert await world.do(once(world).claim) is None
    us = flushed.client().evalsha(load("gridsync.locks", "once").sha, 1, KEY, "me", str(HOUR_US))[2]
    assert HOUR_US < us <= 2 * HOUR_US


async def test_periods_of_short_length_follow_each_other(world: World):
    turns = []

    async def claimed() -> None:
        for _ in range(200):
            turn = await world.do(short.claim)
            if turn is not None:
                turns.append(turn)
            if len(turns) == 3:
                return
            await asyncio.sleep(0.01)

    short = once(world, 0.1)
    await claimed()
    begins = [turn.begins for turn in turns]
    assert begins == sorted(set(begins))
    assert len(begins) == 3


@pytest.mark.parametrize("wrong", [0, 0.01, -1, "day", None])
def test_a_bad_period_is_refused(wrong: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="the period of 'close' must be"):
        OncePer(NOWHERE, NAMESPACE, "close", wrong)


async def test_what_cannot_run_once_is_refused(flushed: RedisServer):
    async def coroutine() -> None:
        """Never run."""

    def generator() -> Iterator[int]:
        yield 1

    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        with pytest.raises(UsageError, match="can only decorate a plain function"):
            grid.once_per(60, "close")(coroutine)
        with pytest.raises(UsageError, match="is a generator"):
            grid.once_per(60, "close")(generator)
    async with AsyncGrid(flushed.url, namespace=NAMESPACE) as agrid:
        with pytest.raises(UsageError, match="can only decorate a coroutine function"):
            agrid.once_per(60, "close")(generator.__class__)  # type: ignore[arg-type]


async def test_exclusive_skips_while_another_runs(world: World, look: Look):
    runs: list[object] = []
    function = world.lock(world.io()).exclusive()(function_of(world, runs))
    held = await world.do(world.lock(world.io()).acquire)
    assert await world.do(function, "skipped") is None
    await world.do(held.release)
    assert await world.do(function, "run") == "run"
    assert runs == ["run"]
    assert look.free()


async def test_exclusive_waits_if_asked_to(world: World, look: Look):
    runs: list[object] = []
    lock = world.lock(world.io())
    held = await world.do(world.lock(world.io()).acquire)
    assert await world.do(lock.exclusive(timeout=0.05)(function_of(world, runs)), "skipped") is None
    waiting = world.start(lock.exclusive(timeout=60)(function_of(world, runs)), "run")
    await soon(look.waiters)
    await world.do(held.release)
    assert await world.ended(waiting) == "run"
    assert runs == ["run"]
    assert look.free()


async def test_the_fence_is_reachable_inside_exclusive(world: World, look: Look):
    def plain() -> int:
        return current().fence

    async def coroutine() -> int:
        return current().fence

    function = world.lock(world.io()).exclusive()(plain if world.kind == "sync" else coroutine)
    assert await world.do(function) > 0
    with pytest.raises(UsageError):
        current()
    assert look.free()
