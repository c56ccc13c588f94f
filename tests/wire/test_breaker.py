"""The breaker and the retry budget in virtual time: what opens it, what does not, and what a repeat costs."""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from gridsync._io.breaker import ATTEMPT_PAUSE_S, ATTEMPTS_FREE, BUCKETS, PATIENCE, Rejected, State, StateChange
from gridsync._io.budget import Budget
from gridsync._io.guard import Guard, Policy
from gridsync._io.wire.faults import Fault
from gridsync.errors import AuthenticationFailed, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable

TIMEOUT_S = 1.0
PATIENCE_S = PATIENCE * TIMEOUT_S


class Stage:
    """One node on a clock that the test moves; it is also the one that has connections to it."""

    def __init__(self, **policy: float) -> None:
        self.now = 100.0
        self.answered = 0
        self.retreats = 0
        self.endpoint = "node:1"
        self.changes: list[StateChange] = []
        self.guard = Guard(clock=lambda: self.now)
        self.guard.govern(Policy(**policy), [self.changes.append])  # type: ignore[arg-type]
        self.guard.timeout_s = TIMEOUT_S
        self.breaker = self.guard.breaker(self)

    def retreat(self) -> None:
        self.retreats += 1

    def fail(self, count: int = 1, *, silent: float = 0.0) -> None:
        """Let requests fail after *silent* seconds without any answer."""
        self.breaker.failed(self.now - silent, "it did not answer", count)

    def refuse(self, seconds: float, *, every: float = 0.1) -> None:
        """Let every attempt to connect be refused for a while."""
        end = self.now + seconds
        while self.now <= end:
            self.fail()
            self.now += every

    def open(self) -> None:
        self.fail(10, silent=TIMEOUT_S)
        assert self.breaker.state is State.OPEN

    def reconnect(self, after: float = 0.3) -> None:
        self.now += after
        self.breaker.admit()
        self.breaker.connected()

    @property
    def rejects(self) -> bool:
        try:
            self.breaker.check()
        except Rejected:
            return True
        return False


def one_slow_command(stage: Stage) -> None:
    stage.fail(silent=TIMEOUT_S)


def one_cut_connection(stage: Stage) -> None:
    stage.fail(1000, silent=0.05)
    stage.reconnect()


def a_cut_long_after_a_restart(stage: Stage) -> None:
    stage.refuse(0.5)
    stage.reconnect()
    stage.now += 3
    stage.fail()


def twenty_cuts(stage: Stage) -> None:
    for _ in range(20):
        stage.fail(200)
        stage.reconnect()
        stage.answered += 1


def a_short_restart(stage: Stage) -> None:
    stage.refuse(PATIENCE_S - 0.2)


def slow_ones_among_many(stage: Stage) -> None:
    for _ in range(30):
        stage.answered += 100
        stage.fail(3)
        stage.now += 0.1


def a_third_fails(stage: Stage) -> None:
    for _ in range(40):
        stage.answered += 2
        stage.fail()
        stage.now += 0.1


def one_failure_now_and_then(stage: Stage) -> None:
    for _ in range(10):
        stage.fail(silent=TIMEOUT_S)
        stage.now += 60


def a_frozen_server(stage: Stage) -> None:
    stage.answered += 1_000_000
    stage.fail(100, silent=TIMEOUT_S)


def a_frozen_server_and_one_caller(stage: Stage) -> None:
    for _ in range(3):
        stage.fail(silent=TIMEOUT_S)
        stage.now += TIMEOUT_S


def refused_connections(stage: Stage) -> None:
    stage.refuse(PATIENCE_S + 0.2)


def an_outage_soon_after_a_short_trouble(stage: Stage) -> None:
    stage.fail(5)
    stage.answered += 1000
    stage.now += 1.5
    stage.refuse(PATIENCE_S + 0.2)


def half_of_all_fail(stage: Stage) -> None:
    for _ in range(40):
        stage.answered += 1
        stage.fail(2)
        stage.now += 0.1


STAYS_CLOSED = [
    one_slow_command,
    one_cut_connection,
    a_cut_long_after_a_restart,
    twenty_cuts,
    a_short_restart,
    slow_ones_among_many,
    a_third_fails,
    one_failure_now_and_then,
]
OPENS = [
    a_frozen_server,
    a_frozen_server_and_one_caller,
    refused_connections,
    an_outage_soon_after_a_short_trouble,
    half_of_all_fail,
]


@pytest.mark.parametrize("story", STAYS_CLOSED, ids=lambda story: story.__name__)
def test_it_stays_closed_for(story: Callable[[Stage], None]):
    stage = Stage()
    story(stage)
    assert not stage.changes
    assert not stage.rejects


@pytest.mark.parametrize("story", OPENS, ids=lambda story: story.__name__)
def test_it_opens_for(story: Callable[[Stage], None]):
    stage = Stage()
    story(stage)
    assert [change.after for change in stage.changes] == ["open"]
    assert stage.retreats == 1, "the connections are given up, so that nobody goes on using them"


@pytest.mark.parametrize("story", OPENS, ids=lambda story: story.__name__)
def test_switched_off_it_never_opens(story: Callable[[Stage], None]):
    stage = Stage(enabled=False)
    story(stage)
    assert not stage.changes


def test_more_calls_can_be_asked_for():
    stage = Stage(min_calls=50)
    stage.fail(49, silent=TIMEOUT_S)
    assert not stage.changes
    stage.fail(1, silent=TIMEOUT_S)
    assert stage.breaker.state is State.OPEN


def test_a_rejection_says_since_when_why_and_until_when():
    stage = Stage(pause_s=2.0)
    stage.open()
    stage.now += 0.5
    with pytest.raises(
        Rejected, match=r"node:1 has been away for 1\.5 s \(it did not answer\); calls fail at once, the"
    ):
        stage.breaker.check()
    with pytest.raises(Rejected, match=r"the next probe may leave in 1\.5 s") as caught:
        stage.breaker.admit()
    assert not caught.value.ambiguous, "nothing was sent"


def test_after_the_pause_one_probe_closes_it():
    stage = Stage(pause_s=2.0)
    stage.open()
    stage.now += 2.0
    stage.breaker.admit()
    with pytest.raises(Rejected, match="a probe is under way"):
        stage.breaker.admit()
    stage.now += 0.1
    stage.breaker.connected()
    assert not stage.rejects
    assert [change.after for change in stage.changes] == ["open", "half-open", "closed"]
    assert stage.changes[-1].reason == "it answers again after 3.1 s"


def test_a_failed_probe_opens_it_for_another_pause():
    stage = Stage(pause_s=2.0)
    stage.open()
    stage.now += 2.0
    began = stage.breaker.admit()
    stage.now += 0.5
    assert isinstance(stage.breaker.judged(Fault("refused", applied=False), began), Rejected)
    assert stage.breaker.state is State.OPEN
    stage.now += 1.9
    assert stage.rejects
    stage.now += 0.2
    assert not stage.rejects


def test_a_probe_that_is_interrupted_leaves_its_place_to_the_next():
    stage = Stage()
    stage.open()
    stage.now += 1.0
    began = stage.breaker.admit()
    assert stage.rejects
    stage.breaker.judged(KeyboardInterrupt(), began)
    stage.breaker.admit()


def test_a_refusal_of_the_greeting_is_an_answer():
    stage = Stage()
    stage.open()
    stage.now += 1.0
    error = AuthenticationFailed("wrong password")
    assert stage.breaker.judged(error, stage.breaker.admit()) is error
    assert stage.breaker.state is State.CLOSED


def test_attempts_that_fail_are_no_storm_whoever_makes_them():
    """Until a node counts as away many callers find no connection; few of them may try to set up one."""
    stage, attempts = Stage(), 0
    for _ in range(1000):
        try:
            began = stage.breaker.admit()
        except Fault:
            pass  # with the words of an attempt that failed
        else:
            attempts += 1
            stage.breaker.judged(Fault("nobody there", applied=False), began)
        stage.now += 0.001
    assert attempts <= ATTEMPTS_FREE + 1 / ATTEMPT_PAUSE_S + 1
    stage.breaker.connected()
    for _ in range(10):
        stage.breaker.admit()


def test_a_server_that_was_never_met_is_unavailable_also_to_those_who_may_not_try():
    stage = Stage()
    for _ in range(ATTEMPTS_FREE):
        stage.breaker.judged(Unavailable("is a server running there?"), stage.breaker.admit())
    stage.breaker.admit()
    with pytest.raises(Unavailable, match="running there"):
        stage.breaker.admit()


def test_a_server_that_was_met_is_no_wrong_address_to_those_who_may_not_try():
    """What connects for the first time while a server restarts must not keep the others from bridging that."""
    stage = Stage()
    stage.reconnect()
    for _ in range(ATTEMPTS_FREE):
        stage.breaker.judged(Unavailable("is a server running there?"), stage.breaker.admit())
    stage.breaker.admit()
    with pytest.raises(Fault, match="running there"):
        stage.breaker.admit()


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_no_more_probes_than_allowed_are_under_way(probes: int):
    stage = Stage(probes=probes)
    stage.open()
    stage.now += 1.0
    for _ in range(probes):
        stage.breaker.admit()
    with pytest.raises(Rejected):
        stage.breaker.admit()


def test_stragglers_say_nothing():
    """A request that began before the state changed fails late: that was known already."""
    stage = Stage()
    stage.open()
    before = stage.now - 0.01
    stage.now += 1.0
    stage.breaker.admit()
    stage.breaker.failed(before, "late")
    assert stage.breaker.state is State.HALF_OPEN, "the probe decides"
    stage.breaker.connected()
    stage.breaker.failed(before, "later", 1000)
    assert stage.breaker.state is State.CLOSED


def test_whoever_insists_and_gets_through_closes_it():
    """The watchdog of leases does not ask the breaker; when it finds the server, so has everybody."""
    stage = Stage(pause_s=60.0)
    stage.open()
    stage.breaker.failed(stage.now, "refused")
    assert stage.breaker.state is State.OPEN
    stage.breaker.connected()
    assert stage.breaker.state is State.CLOSED


def test_a_node_that_moved_is_probed_at_once():
    stage = Stage(pause_s=60.0)
    stage.open()
    assert stage.rejects
    stage.breaker.hurry()
    stage.breaker.admit()
    stage.breaker.connected()
    assert not stage.rejects


def test_each_change_is_told_once_also_to_those_who_come_after_a_broken_listener(caplog: pytest.LogCaptureFixture):
    def broken(_: StateChange) -> None:
        raise ZeroDivisionError

    stage = Stage()
    stage.guard.listeners.insert(0, broken)
    with caplog.at_level(logging.WARNING, "gridsync"):
        stage.open()
        stage.now += 1.0
        stage.breaker.admit()
        stage.breaker.connected()
        stage.breaker.connected()
    assert len(stage.changes) == 3
    told = [record.getMessage() for record in caplog.records if record.exc_info is None]
    assert told == [
        "node:1 is away: it did not answer; calls fail at once",
        "node:1 is back: it answers again after 2.0 s; calls are sent again",
    ]


def test_the_clock_on_the_wall_decides_nothing(monkeypatch: pytest.MonkeyPatch):
    """A clock that is set back by an hour must not keep a server away for that hour."""
    guard = Guard()
    member = Stage()
    breaker = guard.breaker(member)
    before = guard.clock()
    monkeypatch.setattr(time, "time", lambda: 0.0)
    breaker.failed(before - 60, "silence", 10)
    assert breaker.state is State.OPEN
    assert before <= breaker._changed_at <= guard.clock()
    assert guard.clock is time.monotonic


def test_nodes_are_judged_one_by_one():
    stage = Stage()

    class Other:
        endpoint, answered = "node:2", 0

        def retreat(self) -> None:
            raise AssertionError

    other = Other()
    stage.open()
    assert stage.guard.breaker(other).state is State.CLOSED
    assert stage.guard.states()["node:1"] is State.OPEN


class BreakerMachine(RuleBasedStateMachine):
    """Any mix of failures, answers and time, beside a model that remembers everything since the last connection."""

    def __init__(self) -> None:
        super().__init__()
        self.stage = Stage()
        self.failures: list[tuple[float, float, int]] = []
        """When, since when silent, and how much was answered then."""

    @initialize()
    def begin(self) -> None:
        self.answered_at = self.stage.now

    @rule(seconds=st.sampled_from([0.0, 0.01, 0.2, 0.5, 1.0, 3.0, 11.0]))
    def time_passes(self, seconds: float) -> None:
        self.stage.now += seconds

    @rule(count=st.integers(1, 20))
    @precondition(lambda self: self.stage.breaker.state is State.CLOSED)
    def answers_come(self, count: int) -> None:
        self.stage.answered += count
        self.answered_at = self.stage.now

    @rule(count=st.integers(1, 5))
    @precondition(lambda self: self.stage.breaker.state is State.CLOSED)
    def requests_fail(self, count: int) -> None:
        stage = self.stage
        since = max(self.answered_at, stage.now - TIMEOUT_S)
        self.failures += [(stage.now, since, stage.answered)] * count
        stage.breaker.failed(since, "silence", count)
        recent = [f for f in self.failures if f[0] >= stage.now - 10.0]
        silent = [f for f in recent if f[2] == stage.answered]
        slack = 10.0 / BUCKETS
        if stage.breaker.state is State.OPEN:
            assert min(f[1] for f in recent) <= stage.now - PATIENCE_S
            assert any(
                len(recent[n:]) >= 0.5 * (len(recent[n:]) + stage.answered - recent[n][2]) for n in range(len(recent))
            )
        elif len([f for f in silent if f[0] >= silent[0][0] + slack]) >= 3:
            late = [f for f in silent if f[0] >= silent[0][0] + slack]
            assert late[0][1] > stage.now - PATIENCE_S, "silent for a whole timeout, and still closed"

    @rule()
    @precondition(lambda self: self.stage.breaker.state is State.CLOSED)
    def a_connection_is_set_up(self) -> None:
        self.stage.breaker.admit()
        self.stage.breaker.connected()
        self.failures.clear()
        self.answered_at = self.stage.now

    @rule(works=st.booleans())
    @precondition(lambda self: self.stage.breaker.state is State.OPEN)
    def somebody_calls(self, *, works: bool) -> None:
        stage = self.stage
        changed = stage.breaker._changed_at
        try:
            began = stage.breaker.admit()
        except Rejected:
            assert stage.now < changed + 1.0
            return
        assert stage.now >= changed + 1.0
        if works:
            stage.breaker.connected()
            assert stage.breaker.state is State.CLOSED
            self.failures.clear()
            self.answered_at = stage.now
        else:
            stage.breaker.failed(began, "refused")
            assert stage.breaker.state is State.OPEN

    @invariant()
    def changes_are_a_path(self) -> None:
        """Each change begins where the last one ended."""
        states = ["closed", *(change.after for change in self.stage.changes)]
        assert [change.before for change in self.stage.changes] == states[:-1]


TestBreakerMachine = BreakerMachine.TestCase


@given(st.lists(st.one_of(st.integers(0, 50), st.sampled_from(["take", "give back"])), max_size=200))
def test_the_budget_is_a_bucket_that_answers_fill(steps: list[int | str]):
    answered, left, taken, back = 0, 20.0, 0, 0
    budget = Budget(ratio=0.1, burst=20, answered=lambda: answered)
    earned = 0
    for step in steps:
        if isinstance(step, int):
            answered += step
        elif step == "take":
            left = min(20.0, left + 0.1 * (answered - earned))
            earned = answered
            got = budget.take()
            assert got == (left >= 1) or abs(left - 1) < 1e-9
            left -= got
            taken += got
        elif back < taken:
            budget.give_back()
            left = min(20.0, left + 1)
            back += 1
    assert taken - back <= 20 + 0.1 * answered + 1e-9


def test_a_node_that_goes_away_takes_no_repeats_with_it():
    answered = 1000
    budget = Budget(ratio=0.1, burst=10, answered=lambda: answered)
    assert all(budget.take() for _ in range(10))
    answered = 0
    assert not budget.take()
    answered = 20
    assert budget.take()
    assert budget.take()
    assert not budget.take()
    assert budget.refused == 2
