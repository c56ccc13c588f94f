"""Histories of real runs, and the checkers that read them."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.testing.checkers import (
    appended,
    counted,
    fences_in_order,
    mutual_exclusion,
    permits_held,
    window_bounds,
)
from gridsync.testing.history import History, Violation
from gridsync.testing.linear import counter, linearizable
from gridsync.testing.operations import Outcome, operations
from gridsync.testing.recorder import Recorder

if TYPE_CHECKING:
    from pathlib import Path

CHILD = """
import os, signal, sys
from gridsync.testing.recorder import Recorder

recorder = Recorder(sys.argv[1])
with recorder.operation("child", "add", 1, key="n") as done:
    done(1)
with recorder.operation("child", "add", 1, key="n"):
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_an_outcome_is_what_the_caller_knows(tmp_path: Path):
    with Recorder(tmp_path / "h.jsonl") as recorder:
        with recorder.operation("a", "add", 1) as done:
            done(5)
        for error in (Unavailable("away"), OutcomeUnknown("no answer"), KeyboardInterrupt()):
            with pytest.raises(type(error)), recorder.operation("a", "add", 1):
                raise error
        with recorder.operation("a", "add", 1):
            pass
        found = operations(recorder.history())
    assert [call.outcome for call in found] == ["done", "refused", "unknown", "unknown", "unknown"]
    assert found[0].reply == 5
    assert [call.returned_us is None for call in found] == [False, False, True, True, True]


def test_what_a_killed_process_had_begun_may_have_happened(tmp_path: Path):
    """Its second operation has no end in the file: the checkers must allow for both."""
    path = tmp_path / "h.jsonl"
    with Recorder(path) as recorder:
        child = subprocess.run([sys.executable, "-c", CHILD, str(path)], check=False, timeout=60)
        assert child.returncode < 0
        os.write(recorder._file, b'[123, "child", "cal')  # a line that a kill cut short
        made = recorder.history()
    assert [call.outcome for call in operations(made, "add")] == [Outcome.DONE, Outcome.UNKNOWN]
    assert counted(made, 1, key="n") == counted(made, 2, key="n") == (1, 1)
    with pytest.raises(Violation, match="holds 3: 1 were acknowledged and 1 are not known"):
        counted(made, 3, key="n")


async def test_threads_and_tasks_write_one_history(tmp_path: Path):
    value, guard = 0, threading.Lock()

    def add(who: str) -> None:
        nonlocal value
        for _ in range(20):
            with recorder.operation(who, "add", 1) as done, guard:
                value += 1
                done(value)

    async def task(who: str) -> None:
        for _ in range(20):
            with guard:
                pass
            await asyncio.to_thread(add_once, who)

    def add_once(who: str) -> None:
        nonlocal value
        with recorder.operation(who, "add", 1) as done, guard:
            value += 1
            done(value)

    with Recorder(tmp_path / "h.jsonl") as recorder:
        threads = [threading.Thread(target=add, args=(f"t{n}",)) for n in range(3)]
        for thread in threads:
            thread.start()
        await asyncio.gather(task("x"), task("y"))
        for thread in threads:
            thread.join()
        assert linearizable(recorder.history(), counter) == 100
        assert counted(recorder.history(), value) == (100, 0)


def test_a_history_stays_when_the_run_failed_and_goes_when_it_did_not(tmp_path: Path):
    path = tmp_path / "deep" / "h.jsonl"
    with Recorder(path, seed=7) as recorder:
        recorder.note("a", "acquired", name="job", owner="o", fence=1)
        assert mutual_exclusion(recorder.history()) == 1
    assert not path.exists()
    failed = Recorder(path, seed=7)
    with pytest.raises(ZeroDivisionError) as caught, failed:
        raise ZeroDivisionError
    assert path.exists()
    assert caught.value.__notes__ == [f"seed 7; the history is in {path}"]


def made_of(*lines: tuple[int, int | None, tuple[Any, ...], Any], what: str = "append") -> History:
    """Write a history: call, return (``None`` for never), arguments, reply."""
    now = 0
    made = History("by hand", lambda: now)
    events = []
    for name, (called, returned, args, reply) in enumerate(lines):
        events.append((called, "called", {"id": name, "what": what, "key": "", "args": args}))
        if returned is not None:
            events.append((returned, "returned", {"id": name, "outcome": "done", "reply": reply}))
    for now, kind, facts in sorted(events, key=lambda event: event[0]):  # noqa: B007 - the clock reads it
        made.add("a", kind, facts)
    return made


def test_a_log_keeps_what_was_acknowledged_in_the_order_of_time():
    made = made_of((0, 1, ("a", "b"), 1), (2, 5, ("c",), 2), (3, 6, ("d",), 3), (4, None, ("e",), None))
    for stored in ("abcd", "abdc", "abcde", "abecd"):
        assert appended(made, stored) == len(stored)


@pytest.mark.parametrize(
    ("stored", "why"),
    [
        ("abd", "acknowledged and not stored"),
        ("abccd", "stored more than once"),
        ("abcdx", "stored though refused"),
        ("cabd", "which had ended when it began"),
        ("eabcd", "which had ended when it began"),
    ],
)
def test_a_log_that_lost_doubled_invented_or_mixed_up_is_found(stored: str, why: str):
    made = made_of((0, 1, ("a", "b"), 1), (2, 5, ("c",), 2), (3, 6, ("d",), 3), (4, None, ("e",), None))
    with pytest.raises(Violation, match=why):
        appended(made, stored)


def test_windows_are_judged_by_what_is_sure():
    """Hits that may have been decided outside of the window overflow nothing, those without an answer may fill it."""
    hit = {"what": "hit"}
    full = [(0, 10, (1,), True), (20, 30, (1,), True)]
    assert window_bounds(made_of(*full, (40, 50, (1,), False), **hit), 2, 1000) == 2
    assert window_bounds(made_of(*full, (900, 1200, (1,), True), **hit), 2, 1000) == 3
    assert window_bounds(made_of((0, 10, (1,), True), (5, None, (1,), None), (40, 50, (1,), False), **hit), 2, 1000)
    with pytest.raises(Violation, match="admitted 3 within 1000 us"):
        window_bounds(made_of(*full, (900, 950, (1,), True), **hit), 2, 1000)
    with pytest.raises(Violation, match="was denied though its window held 1 of 2 at most"):
        window_bounds(made_of((0, 10, (1,), True), (40, 50, (1,), False), **hit), 2, 1000)
    with pytest.raises(Violation, match="was denied though its window held 0 of 2 at most"):
        window_bounds(made_of(*full, (3000, 3010, (1,), False), **hit), 2, 1000)


def held_by(*leases: tuple[str, int, list[int]]) -> History:
    """Write a history of leases: owner, permits, and the moments at which it surely held them."""
    now = 0
    made = History("by hand", lambda: now)
    events = [(at, owner, permits, at == moments[0]) for owner, permits, moments in leases for at in moments]
    for now, owner, permits, first in sorted(events):  # noqa: B007 - the clock reads it
        kind = "acquired" if first else "working"
        made.add(owner, kind, {"name": "slots", "owner": owner, "fence": 1, "permits": permits})
    return made


def test_permits_that_surely_overlap_are_no_more_than_there_are():
    """What a holder does not do it can't do wrongly: it counts from one event to the next."""
    assert permits_held(held_by(("a", 2, [0, 10, 20]), ("b", 1, [5, 15]), ("c", 2, [20, 30])), limit=3) == 3
    assert permits_held(held_by(("a", 3, [0, 10]), ("b", 3, [10, 20])), limit=3) == 2
    with pytest.raises(Violation, match=r"4 of 'slots' were held at 0\.000009 s, by c too, not 3"):
        permits_held(held_by(("a", 2, [0, 10]), ("b", 1, [5, 15]), ("c", 1, [9, 11])), limit=3)


@pytest.mark.parametrize(
    ("fences", "complaint"), [((1, 2, 3), ""), ((2, 1, 3), ""), ((1, 3, 2), "came after fence 3"), ((1, 2, 2), "came")]
)
def test_who_asks_after_another_was_served_has_the_larger_fence(fences: tuple[int, ...], complaint: str):
    """The first two ask side by side, the third after both."""
    made = made_of((0, 5, (), fences[0]), (1, 4, (), fences[1]), (6, 7, (), fences[2]), what="acquire")
    if not complaint:
        assert fences_in_order(made) == 3
        return
    with pytest.raises(Violation, match=complaint):
        fences_in_order(made)


def test_a_fence_that_two_got_is_a_violation():
    with pytest.raises(Violation, match="given out twice"):
        fences_in_order(made_of((0, 5, (), 1), (1, 4, (), 1), what="acquire"))
