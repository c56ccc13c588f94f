"""What a limiter answers while its server is away: each policy, and the windows inside a process."""

from __future__ import annotations

import asyncio
import threading
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel

from gridsync import AsyncGrid, Grid, Settings
from gridsync._io import local
from gridsync._io.local import LocalWindows
from gridsync.errors import OutcomeUnknown, RateLimited, ServerError, Unavailable, UsageError
from gridsync.limits import Decision, Rate, Ticket
from tests.limits.oracle import Oracle
from tests.wire.fake import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer

HOUR = 3_600_000_000


class Ordered(BaseModel):
    """An event."""

    amount: int


class Clock:
    """Seconds, as the test says."""

    def __init__(self) -> None:
        self.us = 7_000_000_000

    def __call__(self) -> float:
        return self.us / 1_000_000


# -- windows in a process ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "rules",
    [[(5, HOUR)], [(1, HOUR)], [(5, HOUR), (12, 10 * HOUR)], [(30, 30 * HOUR), (3, HOUR), (10, 8 * HOUR)]],
    ids=["one", "a limit of one", "two", "three in any order"],
)
@given(
    steps=st.lists(st.tuples(st.integers(0, 2 * HOUR) | st.sampled_from([0, 1, HOUR]), st.integers(1, 6)), max_size=40)
)
def test_every_answer_is_that_of_brute_force(rules: list[tuple[int, int]], steps: list[tuple[int, int]]):
    clock = Clock()
    windows, oracle = LocalWindows(rules, clock), Oracle(rules)
    for passed, cost in steps:
        clock.us += passed
        now = int(clock() * 1_000_000)
        fits, retry = oracle.fits(cost, now), oracle.retry(cost, now)
        left = oracle.remaining(now)
        peeked = windows.peek("k", cost)
        assert peeked[0] == retry
        assert peeked[1] == (min(left) if fits else left[peeked[3]])
        answer = windows.hit("k", cost)
        assert answer[0] == retry
        if fits:
            oracle.hit(cost, now)
            assert answer[1] == min(left) - cost == left[answer[3]] - cost
        else:
            assert answer == peeked
        assert answer[2] == oracle.reset(now)[answer[3]]


def test_a_full_log_is_merged_and_never_admits_more(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "ENTRIES_MAX", 10)
    clock, rules = Clock(), [(100, HOUR)]
    windows, oracle = LocalWindows(rules, clock), Oracle(rules)
    for _ in range(400):
        clock.us += HOUR // 90
        now = int(clock() * 1_000_000)
        if windows.hit("k", 1)[0] == 0:
            assert oracle.fits(1, now)
            oracle.hit(1, now)
        assert len(windows._logs["k"].entries) <= 10
    assert len(oracle.admitted) > 40, "and does not lock its caller out either"


def test_what_the_server_said_of_a_long_window_fills_no_shorter_one():
    """It said how much the minute has left, and nothing about the last second."""
    windows = LocalWindows([(5, 1_000_000), (100, 60_000_000)], lambda: 1_000.0)
    windows.learn("k", 10, 1)
    assert [windows.hit("k", 1)[0] for _ in range(5)] == [0] * 5
    assert windows.hit("k", 1)[3] == 0, "now the second is full"


def test_no_more_subjects_than_promised_are_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(local, "SUBJECTS_MAX", 3)
    windows = LocalWindows([(1, HOUR)], Clock())
    for subject in "abcd":
        windows.hit(subject, 1)
    assert list(windows._logs) == ["b", "c", "d"]
    assert windows.hit("d", 1)[0] > 0
    windows.peek("unknown", 1)
    assert len(windows._logs) == 3


def test_threads_together_are_admitted_what_the_limit_says():
    windows = LocalWindows([(500, HOUR)], Clock())
    admitted: list[bool] = []

    def knock() -> None:
        admitted.extend(windows.hit("k", 1)[0] == 0 for _ in range(200))

    threads = [threading.Thread(target=knock) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(admitted) == 500


# -- policies ---------------------------------------------------------------------------------------------------------


class Away:
    """Grids of both kinds whose server can be stopped; either kind is asked in the same way."""

    def __init__(self, kind: str, server: RedisServer, grid: Grid, agrid: AsyncGrid) -> None:
        self.server = server
        self._grid: Any = grid if kind == "sync" else agrid
        self._sync = kind == "sync"
        self._patience = self._grid._io._timeout

    def stop(self) -> None:
        """Stop the server; nobody waits for it long, but as long as it is there a busy machine may take its time."""
        self.server.stop()
        self._grid._io._timeout = 0.2

    def start(self) -> None:
        self._grid._io._timeout = self._patience
        self.server.start()

    def limiter(self, *rules: str, **options: Any) -> Any:  # noqa: ANN401
        return self._grid.limiter("calls", *rules, **options)

    async def ask(self, call: Any, *args: Any, **options: Any) -> Decision:  # noqa: ANN401
        coroutine = asyncio.to_thread(call, *args, **options) if self._sync else call(*args, **options)
        decision: Decision = await asyncio.wait_for(coroutine, 20)
        return decision


def patient(server: RedisServer, *, command_s: float = 30.0, pause_s: float = 0.01) -> Settings:
    return Settings(
        redis_url=server.url,
        redis_command_timeout=command_s,
        redis_connection_timeout=30.0,
        gridsync_breaker_pause=pause_s,
    )


@pytest.fixture(params=["sync", "asyncio"])
async def away(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[Away]:
    with Grid(settings=patient(flushed)) as grid:
        async with AsyncGrid(settings=patient(flushed)) as agrid:
            yield Away(request.param, flushed, grid, agrid)
    flushed.start()


async def test_by_default_a_hit_raises(away: Away):
    limiter = away.limiter("5/minute")
    assert not (await away.ask(limiter.hit, "k")).degraded
    away.stop()
    with pytest.raises((Unavailable, OutcomeUnknown)):
        await away.ask(limiter.hit, "k")
    with pytest.raises(Unavailable):
        await away.ask(limiter.peek, "k")


async def test_allow_admits(away: Away):
    limiter = away.limiter("5/minute", "100/hour", on_error="allow")
    away.stop()
    for _ in range(10):
        decision = await away.ask(limiter.hit, "k")
        assert decision
        assert decision.degraded
        assert decision.source == "policy"
    assert decision == Decision(True, 5, 0, 0.0, 0.0, Rate(5, 60), "policy")  # noqa: FBT003
    assert await away.ask(limiter.peek, "k")
    never = await away.ask(limiter.hit, "k", 6)
    assert never.retry_after is None
    assert not never, "that needs no server"


async def test_deny_denies(away: Away):
    limiter = away.limiter("5/minute", on_error="deny")
    away.stop()
    decision = await away.ask(limiter.hit, "k")
    assert not decision
    assert decision.degraded
    assert decision.retry_after == 1.0
    assert not await away.ask(limiter.peek, "k")
    with pytest.raises(RateLimited, match="the server is away, and on_error='deny'; ask again in 1 s"):
        await away.ask(limiter.enforce, "k")
    away.start()
    assert await away.ask(limiter.hit, "k") or await back(away, limiter)


async def back(away: Away, limiter: Any) -> bool:  # noqa: ANN401
    """Knock until the server decides again."""

    async def decides() -> bool:
        return not (await away.ask(limiter.peek, "k")).degraded

    await until(decides)
    return True


async def test_local_counts_this_processs_share(away: Away):
    limiter = away.limiter("9/minute", "1/minute", on_error="local", share=0.5)
    assert [rate.limit for rate in limiter.rules] == [9, 1]
    limiter = away.limiter("9/minute", on_error="local", share=0.5)
    assert (await away.ask(limiter.hit, "k")).source == "server"
    away.stop()
    decisions = [await away.ask(limiter.hit, "k") for _ in range(5)]
    assert [bool(decision) for decision in decisions] == [True] * 3 + [False] * 2
    assert {decision.source for decision in decisions} == {"local"}
    assert [decision.remaining for decision in decisions] == [2, 1, 0, 0, 0], "a half of the 8 that the server had left"
    assert {decision.limit for decision in decisions} == {4}
    assert 0 < (decisions[-1].retry_after or 0) <= 60
    assert await away.ask(limiter.hit, "other"), "each key has windows of its own"
    assert not await away.ask(limiter.peek, "k")
    away.start()
    await back(away, limiter)
    assert (await away.ask(limiter.peek, "k")).remaining == 9, "it restarted empty, and never heard of these"
    away.stop()
    assert not await away.ask(limiter.hit, "k"), "this process has not forgotten"
    with pytest.raises((Unavailable, OutcomeUnknown)):
        await away.ask(limiter.reset, "k")
    assert await away.ask(limiter.hit, "k"), "but a reset forgets here, too"


async def test_who_may_wait_waits_for_the_windows_of_this_process(away: Away):
    """A client that paces its calls goes on at its share of the pace, and does not fail for as long as the outage."""
    limiter = away.limiter("2 per 1 s", on_error="local")
    away.stop()
    decisions = await asyncio.gather(*(away.ask(limiter.acquire, "k", timeout=10) for _ in range(6)))
    assert {(decision.allowed, decision.source) for decision in decisions} == {(True, "local")}
    delays = sorted(decision.delay for decision in decisions)
    assert delays[0] == 0
    assert delays[-1] > 0
    slow = away.limiter("1/hour", on_error="local")
    assert (await away.ask(slow.acquire, "k", timeout=600)).delay == 0
    with pytest.raises(RateLimited, match="come again in") as caught:
        await away.ask(slow.acquire, "k", timeout=600)
    assert caught.value.retry_after is not None
    assert caught.value.retry_after > 3000, "that is known at once"
    assert not await away.ask(slow.reserve, "k", max_wait=3600)
    with pytest.raises(RateLimited, match="never fits"):
        await away.ask(slow.acquire, "k", 2)


@pytest.mark.parametrize("policy", ["allow", "deny"])
async def test_nobody_waits_for_a_policy(away: Away, policy: str):
    limiter = away.limiter("5/minute", on_error=policy)
    away.stop()
    for call in (limiter.acquire, limiter.enforce):
        if policy == "allow":
            assert (await away.ask(call, "k")).source == "policy"
        else:
            with pytest.raises(RateLimited, match="ask again in 1 s"):
                await away.ask(call, "k")
    assert bool(await away.ask(limiter.reserve, "k", max_wait=60)) is (policy == "allow")
    for undo in (lambda: limiter.refund(Ticket("k", "aaaaaaaaaa", 1)), lambda: limiter.reset("k")):
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await away.ask(undo)


async def test_what_no_waiting_heals_is_never_covered_up(away: Away):
    limiter = away.limiter("5/minute", on_error="allow")
    with away.server.client() as client:
        client.set("{gridsync:limit:calls:k}", "text", ex=100)
        with pytest.raises(ServerError, match="WRONGTYPE"):
            await away.ask(limiter.hit, "k")
        client.flushall()


@pytest.mark.parametrize("policy", ["raise", "allow", "deny", "local"])
@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_once_the_breaker_is_open_no_decision_waits(flushed: RedisServer, kind: str, policy: str):
    """An outage costs one timeout: two hundred decisions that may wait ten minutes each end long before the first."""
    settings = patient(flushed, command_s=0.2, pause_s=300)
    with Grid(settings=settings) as grid:
        async with AsyncGrid(settings=settings) as agrid:
            away = Away(kind, flushed, grid, agrid)
            used: Any = grid if kind == "sync" else agrid
            may_wait = away.limiter("5/hour", on_error=policy, budget=600)
            flushed.pause()
            for _ in range(20):
                if used.stats().servers_away:
                    break
                with pytest.raises((Unavailable, OutcomeUnknown)):
                    await away.ask(away.limiter("5/minute").hit, "k")
            assert used.stats().servers_away == 1
            degraded = used.stats().decisions_degraded

            async def all_of_them() -> list[Any]:
                return [await outcome(away.ask(may_wait.hit, "k")) for _ in range(200)]

            answers = await asyncio.wait_for(all_of_them(), 60)
            if policy == "raise":
                assert all("calls fail at once" in str(answer) for answer in answers)
            else:
                assert {answer.source for answer in answers} == {"local" if policy == "local" else "policy"}
                admitted = sum(map(bool, answers))
                assert admitted == {"allow": 200, "deny": 0, "local": 5}[policy]
                assert used.stats().decisions_degraded == degraded + 200
            flushed.resume()


async def outcome(call: Any) -> Any:  # noqa: ANN401
    try:
        return await call
    except Unavailable as error:
        return error


@pytest.mark.parametrize("kind", ["sync", "asyncio"])
async def test_locks_and_events_never_pretend(flushed: RedisServer, kind: str):
    """They have no policy: with the breaker open they raise at once, and nothing was done."""
    settings = patient(flushed, command_s=0.2, pause_s=300)
    with Grid(settings=settings) as grid:
        async with AsyncGrid(settings=settings) as agrid:
            away = Away(kind, flushed, grid, agrid)
            used: Any = grid if kind == "sync" else agrid
            store, lock = used.events("orders", Ordered), used.lock("job")
            flushed.pause()
            while not used.stats().servers_away:
                with pytest.raises((Unavailable, OutcomeUnknown)):
                    await away.ask(away.limiter("5/minute").hit, "k")
            for call in (lock.try_acquire, lock.acquire, lambda: store.append("a", Ordered(amount=1))):
                with pytest.raises(Unavailable, match=r"calls fail at once.*; nothing was applied"):
                    await away.ask(call)
            flushed.resume()


async def test_a_budget_bounds_one_decision(away: Away):
    """The command timeout is for commands; a decision may be given less."""
    patient = away.limiter("5/minute")
    limiter = away.limiter("5/minute", on_error="deny", budget=0.02)
    strict = away.limiter("5/minute", budget=0.02)
    assert await away.ask(patient.hit, "k")
    away.server.pause()
    try:
        assert (await away.ask(limiter.hit, "k")).degraded
        with pytest.raises((Unavailable, OutcomeUnknown)):
            await away.ask(strict.hit, "k")
    finally:
        away.server.resume()
    await until(lambda: answered(away, patient))


async def test_a_budget_bounds_a_refund_and_a_reset(away: Away):
    """Whoever has 20 ms for a decision has no command timeout, here of half a minute, for taking it back."""
    patient = away.limiter("5/minute")
    limiter = away.limiter("5/minute", budget=0.02)
    paid = await away.ask(patient.hit, "k")
    away.server.pause()
    try:
        for call in (lambda: limiter.refund(paid.ticket), lambda: limiter.reset("k")):
            with pytest.raises((Unavailable, OutcomeUnknown)):
                await away.ask(call)
    finally:
        away.server.resume()
    await until(lambda: answered(away, patient))


async def answered(away: Away, limiter: Any) -> bool:  # noqa: ANN401
    """Tell whether the server answers; the breaker may be open for a moment yet."""
    try:
        await away.ask(limiter.peek, "k")
    except Unavailable:
        return False
    return True


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"on_error": "shrug"}, "must be one of raise, allow, deny, local, not 'shrug'"),
        ({"on_error": "local", "share": 0}, "or above 0 and at most 1, not 0"),
        ({"on_error": "local", "share": 1.5}, "above 0 and at most 1, not 1.5"),
        ({"on_error": "local", "share": "all"}, "must be 'auto', or above 0 and at most 1, not 'all'"),
        ({"share": "auto"}, "means something with on_error='local' only"),
        ({"share": 0.5}, "means something with on_error='local' only"),
        ({"budget": 0}, r"must be from 0\.001 to .* s, not 0 s"),
        ({"budget": "soon"}, "must be seconds"),
    ],
)
async def test_a_wrong_option_says_what_is_allowed(away: Away, options: dict[str, Any], message: str):
    with pytest.raises(UsageError, match=message):
        away.limiter("5/minute", **options)
