"""Latches and barriers, sync and asyncio, on real servers."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.keys import latch as latch_keys
from gridsync.errors import BarrierBroken, NotNow, UsageError, WaitTimeout
from gridsync.locks import _rendezvous
from tests.wire.fake import soon
from tests.wire.world import NAMESPACE, NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO
    from gridsync.testing.servers import RedisServer

READY = latch_keys(NAMESPACE, "ready")
ROUND = barrier_keys(NAMESPACE, "round")


def latch(world: World, count: int = 3, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("Latch", world.io(), "ready", count, **options)


def barrier(world: World, parties: int = 3, **options: Any) -> Any:  # noqa: ANN401 - either kind
    return world.locks("Barrier", world.io(), "round", parties, **options)


async def test_everybody_passes_an_open_latch_and_nobody_a_closed_one(world: World, flushed: RedisServer):
    waiting = [world.start(latch(world).wait, timeout=60) for _ in range(4)]
    await soon(lambda: flushed.command("ZCARD", READY.alive) == 4)
    worker = latch(world)
    assert await world.do(worker.count_down) == 2
    assert await world.do(worker.count_down) == 1
    assert not any(task.done() for task in waiting)
    assert await world.do(worker.count_down) == 0
    await world.ended(asyncio.gather(*waiting))
    await world.do(worker.wait, timeout=0)
    assert await world.do(worker.remaining) == 0


async def test_an_id_counts_down_once_whoever_says_it(world: World):
    first, again = latch(world), latch(world)
    assert await world.do(first.count_down, by="meter-1") == 2
    assert await world.do(again.count_down, by="meter-1") == 2
    assert await world.do(again.count_down, 2, by="meter-2") == 0


async def test_an_open_latch_stays_open(world: World):
    opened = latch(world, 1)
    for _ in range(3):
        assert await world.do(opened.count_down, 5) == 0
    assert await world.do(opened.remaining) == 0


async def test_a_latch_nobody_used_has_everything_before_it_and_leaves_no_key(world: World, flushed: RedisServer):
    assert await world.do(latch(world, 7).remaining) == 7
    assert flushed.command("DBSIZE") == 0


async def test_a_wait_for_a_latch_ends_with_numbers(world: World):
    closed = latch(world)
    await world.do(closed.count_down)
    for timeout in (0, 0.05):
        with pytest.raises(WaitTimeout, match=r"latch 'ready' did not open in 0\.. s: 2 of 3 remain") as caught:
            await world.do(closed.wait, timeout=timeout)
        assert caught.value.name == "ready"
    assert isinstance(caught.value, NotNow)
    assert isinstance(caught.value, TimeoutError)


async def test_a_latch_has_one_count_everywhere(world: World):
    await world.do(latch(world, 3).count_down)
    other = latch(world, 4)
    for call in (other.count_down, other.remaining, other.wait):
        with pytest.raises(UsageError, match="starts from 3, not from 4"):
            await world.do(call)
    assert await world.do(latch(world, 3).remaining) == 2


async def test_a_latch_is_kept_for_its_ttl(world: World, flushed: RedisServer):
    await world.do(latch(world, ttl=100).count_down)
    for key in (READY.state, READY.by):
        assert 90 < flushed.command("TTL", key) <= 100


async def test_parties_pass_the_barrier_together_and_again(world: World, flushed: RedisServer):
    for generation in range(3):
        early = [world.start(barrier(world).wait, timeout=60) for _ in range(2)]
        await soon(lambda: flushed.command("ZCARD", ROUND.here) == 2)
        assert not any(task.done() for task in early)
        last = await world.do(barrier(world).wait)
        passed = [*await world.ended(asyncio.gather(*early)), last]
        assert {way.generation for way in passed} == {generation}
        assert sorted(way.place for way in passed) == [0, 1, 2]
        assert last.place == 2


async def test_who_has_no_time_steps_back_and_the_others_wait_on(world: World, flushed: RedisServer):
    patient = world.start(barrier(world, 2).wait, timeout=60)
    await soon(lambda: flushed.command("ZCARD", ROUND.here) == 1)
    hasty = barrier(world, 3)
    with pytest.raises(UsageError, match="has 2 parties, not 3"):
        await world.do(hasty.wait)
    flushed.command("ZADD", ROUND.here, 1e15, "another")
    await world.do(barrier(world, 2).reset)
    with pytest.raises(BarrierBroken, match="it was reset"):
        await world.ended(patient)
    for timeout in (0, 0.05):
        with pytest.raises(WaitTimeout, match=r"did not open in \d\.. s: 1 of 2 parties were here"):
            await world.do(barrier(world, 2).wait, timeout=timeout)
    assert flushed.command("ZCARD", ROUND.here) == 0


async def test_a_cancelled_party_steps_back(flushed: RedisServer):
    tasks = World("asyncio", flushed.url)
    waiting = tasks.start(barrier(tasks, 2).wait)
    await soon(lambda: flushed.command("ZCARD", ROUND.here) == 1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    await soon(lambda: flushed.command("ZCARD", ROUND.here) == 0)
    await tasks.close()


async def test_a_dead_party_breaks_the_barrier_for_the_living(world: World, flushed: RedisServer):
    """Nobody knows whether the work of the dead is done, so nobody goes on as if it were."""
    flushed.command("ZADD", ROUND.here, 1, "ghost")
    with pytest.raises(
        BarrierBroken, match=r"barrier 'round' is broken: a party died: ghost; .* reset\(\) it"
    ) as caught:
        await world.do(barrier(world).wait)
    assert caught.value.why == "a party died: ghost"
    again = barrier(world)
    with pytest.raises(BarrierBroken):
        await world.do(again.wait)
    assert await world.do(again.broken) == "a party died: ghost"
    await world.do(again.reset)
    assert await world.do(again.broken) == ""
    with pytest.raises(WaitTimeout):
        await world.do(again.wait, timeout=0)


async def test_an_abort_wakes_all_who_wait(world: World, flushed: RedisServer):
    waiting = [world.start(barrier(world).wait, timeout=60) for _ in range(2)]
    await soon(lambda: flushed.command("ZCARD", ROUND.here) == 2)
    boss = barrier(world)
    assert await world.do(boss.waiting) == 2
    assert await world.do(boss.abort, "the market closed") == 2
    for task in waiting:
        with pytest.raises(BarrierBroken, match="the market closed"):
            await world.ended(task)


@pytest.mark.parametrize("number", [0, -1, 1.5, True, "3", None, 10**9])
async def test_what_cannot_be_a_number_is_refused(world: World, number: Any):  # noqa: ANN401
    for what in (latch, barrier):
        with pytest.raises(UsageError, match="must be a whole number from 1 to"):
            what(world, number)
    with pytest.raises(UsageError, match="what is counted down must be"):
        await world.do(latch(world).count_down, number)


def test_they_say_what_they_are():
    from gridsync.locks import Barrier, Latch  # noqa: PLC0415 - only here

    assert repr(Latch(NOWHERE, "n", "ready", 3)) == "<Latch 'ready' count=3>"
    assert repr(Barrier(NOWHERE, "n", "round", 3)) == "<Barrier 'round' parties=3>"


async def test_a_party_whose_time_is_over_in_the_moment_of_the_opening_has_passed(
    world: World, monkeypatch: pytest.MonkeyPatch
):
    """Else the other one would have passed alone."""
    first, last = barrier(world, 2), barrier(world, 2)
    watch = _rendezvous.watch

    async def late(
        io: IO, wake: str, token: str, look: Callable[[], Awaitable[Any]], timeout: float | None
    ) -> tuple[int, int] | None:
        if timeout != 1.0:
            passed: tuple[int, int] | None = await watch(io, wake, token, look, timeout)
            return passed
        assert await look() is None
        await last._core.wait(30.0)
        return None

    monkeypatch.setattr(_rendezvous, "watch", late)
    assert (await world.do(first.wait, timeout=1.0)).generation == 0


async def test_who_died_while_it_waited_for_a_latch_is_forgotten(world: World, flushed: RedisServer):
    """Of a latch that is waited for all the time they would become more and more, each to be told when it opens."""
    flushed.command("ZADD", READY.alive, 1, "dead")
    with pytest.raises(WaitTimeout):
        await world.do(latch(world).wait, timeout=0.05)
    assert b"dead" not in flushed.command("ZRANGE", READY.alive, 0, -1)


async def test_what_a_party_passed_long_ago_is_forgotten(world: World, flushed: RedisServer):
    """A barrier that is always in use would remember every party that ever came."""
    flushed.command("HSET", ROUND.passed, "long ago", "0 1")
    flushed.command("ZADD", ROUND.when, 1, "long ago")
    await world.do(barrier(world, 1).wait)
    assert flushed.command("HLEN", ROUND.passed) == flushed.command("ZCARD", ROUND.when) == 1
    assert not flushed.command("HEXISTS", ROUND.passed, "long ago")


async def test_an_order_whose_repeat_comes_after_anothers_is_carried_out_once(world: World, flushed: RedisServer):
    """Else a reset whose reply was lost would mend what somebody broke meanwhile, and nobody would hear of it."""
    core = barrier(world, 2)._core
    token = core._io.token
    reset, abort = (
        ("EVAL", _rendezvous.BREAK.source, 2, ROUND.state, ROUND.here, token(), why, 2, core._ttl, core._wake)
        for why in ("", "no wind")
    )
    for order in (reset, abort, reset, abort):
        flushed.command(*order)
    assert await world.do(barrier(world, 2).broken) == "no wind"
    assert flushed.command("HGET", ROUND.state, "g") == b"1"
    one = barrier(world, 2)
    for _ in range(50):
        await world.do(one.reset)
    assert flushed.command("HGET", ROUND.state, "g") == b"51", "each is another order, however alike their ids are"
    assert flushed.command("HSTRLEN", ROUND.state, "x") <= 200
