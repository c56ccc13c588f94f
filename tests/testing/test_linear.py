"""The checkers find what they are for, and nothing else."""

from __future__ import annotations

from itertools import chain, combinations, permutations
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gridsync.testing.history import History, Violation
from gridsync.testing.linear import Model, Undecided, counter, find_order, linearizable, register
from gridsync.testing.operations import Operation, Outcome

Line = tuple[str, int, int | None, str, tuple[Any, ...], Any]


def call(line: Line) -> Operation:
    process, called, returned, what, args, reply = line
    return Operation(
        process, what, "x", args, called, returned, Outcome.UNKNOWN if returned is None else Outcome.DONE, reply
    )


def history(*lines: Line) -> History:
    """Write the history of *lines*: process, call, return, what, arguments, reply."""
    events = []
    for name, (process, called, returned, what, args, reply) in enumerate(lines):
        events.append((called, process, "called", {"id": name, "what": what, "key": "x", "args": args}))
        if returned is not None:
            events.append((returned, process, "returned", {"id": name, "outcome": "done", "reply": reply}))
    now = 0
    made = History("by hand", lambda: now)
    for now, process, kind, facts in sorted(events, key=lambda event: event[0]):  # noqa: B007 - the clock reads it
        made.add(process, kind, facts)
    return made


# Herlihy and Wing, "Linearizability" (1990), has queues in its figures; these are the same shapes for a register, as
# in Kleppmann's "Designing Data-Intensive Applications", figures 9-2 to 9-4, and Jepsen's reports.
EXPLAINED: dict[str, tuple[Line, ...]] = {
    "nothing happened": (),
    "one after the other": (("a", 0, 1, "write", (1,), 1), ("b", 2, 3, "read", (), 1)),
    "a read beside a write sees the old value": (("a", 0, 9, "write", (1,), 1), ("b", 2, 3, "read", (), None)),
    "a read beside a write sees the new value": (("a", 0, 9, "write", (1,), 1), ("b", 2, 3, "read", (), 1)),
    "two reads beside a write, the later one sees it": (
        ("a", 0, 9, "write", (1,), 1),
        ("b", 1, 2, "read", (), None),
        ("c", 3, 4, "read", (), 1),
    ),
    "of two writes side by side either may be last": (
        ("a", 0, 5, "write", (1,), 1),
        ("b", 0, 5, "write", (2,), 2),
        ("c", 6, 7, "read", (), 1),
    ),
    "a write without an answer is seen at once": (("a", 0, None, "write", (1,), None), ("b", 1, 2, "read", (), 1)),
    "a write without an answer is seen much later": (
        ("a", 0, None, "write", (1,), None),
        ("b", 1, 2, "read", (), None),
        ("b", 8, 9, "read", (), 1),
    ),
    "a write without an answer never happened": (
        ("a", 0, None, "write", (1,), None),
        ("b", 8, 9, "read", (), None),
    ),
    "one of two compare-and-set wins": (
        ("a", 0, 1, "write", (1,), 1),
        ("b", 2, 5, "cas", (1, 2), True),
        ("c", 2, 5, "cas", (1, 3), False),
        ("a", 6, 7, "read", (), 2),
    ),
    "a compare-and-set without an answer explains a read": (
        ("a", 0, 1, "write", (1,), 1),
        ("b", 2, None, "cas", (1, 2), None),
        ("a", 6, 7, "read", (), 2),
    ),
    "an end at the moment of the next beginning counts as beside it": (
        ("a", 0, 5, "write", (1,), 1),
        ("b", 5, 6, "read", (), None),
    ),
}
UNEXPLAINED: dict[str, tuple[Line, ...]] = {
    "a stale read after a write": (("a", 0, 1, "write", (1,), 1), ("b", 2, 3, "read", (), None)),
    "a value from nowhere": (("a", 0, 1, "write", (1,), 1), ("b", 2, 3, "read", (), 7)),
    "a value from the future": (("b", 0, 1, "read", (), 1), ("a", 2, 3, "write", (1,), 1)),
    "two reads beside a write, and back again": (
        ("a", 0, 9, "write", (1,), 1),
        ("b", 1, 2, "read", (), 1),
        ("c", 3, 4, "read", (), None),
    ),
    "two readers disagree about the order of two writes": (
        ("a", 0, 20, "write", (1,), 1),
        ("b", 0, 20, "write", (2,), 2),
        ("c", 1, 2, "read", (), 1),
        ("c", 3, 4, "read", (), 2),
        ("d", 5, 6, "read", (), 1),
        ("d", 21, 22, "read", (), 2),
    ),
    "two compare-and-set of one value both win": (
        ("a", 0, 1, "write", (1,), 1),
        ("b", 2, 5, "cas", (1, 2), True),
        ("c", 2, 5, "cas", (1, 3), True),
    ),
    "a write without an answer is seen, and then not": (
        ("a", 0, None, "write", (1,), None),
        ("b", 1, 2, "read", (), 1),
        ("b", 3, 4, "read", (), None),
    ),
    "a write without an answer is seen before it was called": (
        ("b", 0, 1, "read", (), 1),
        ("a", 2, None, "write", (1,), None),
    ),
}


@pytest.mark.parametrize("lines", EXPLAINED.values(), ids=EXPLAINED)
def test_a_history_that_some_order_explains_is_accepted(lines: tuple[Line, ...]):
    assert linearizable(history(*lines)) == len(lines)


@pytest.mark.parametrize("lines", UNEXPLAINED.values(), ids=UNEXPLAINED)
def test_a_history_that_no_order_explains_is_refused(lines: tuple[Line, ...]):
    with pytest.raises(Violation, match="no order explains 'x' up to"):
        linearizable(history(*lines))


def test_the_reply_to_blame_is_named():
    lines = [("a", t, t + 1, "add", (1,), t // 10 + 1) for t in range(0, 100, 10)]
    lines[6] = ("b", 60, 61, "add", (1,), 6)
    with pytest.raises(Violation, match=r"b: add\('x', 1\) -> 6 in 0.000060..0.000061"):
        linearizable(history(*lines), counter)


def test_a_counter_may_have_counted_what_got_no_answer():
    lost = ("a", 0, None, "add", (1,), None)
    for value in (1, 2):
        linearizable(history(lost, ("b", 5, 6, "add", (1,), value)), counter)
    with pytest.raises(Violation):
        linearizable(history(lost, ("b", 5, 6, "add", (1,), 3)), counter)


def test_keys_have_nothing_to_do_with_each_other():
    made = History("by hand", lambda: 0)
    for name, key in enumerate("xy"):
        made.add("a", "called", {"id": name, "what": "add", "key": key, "args": (1,)})
        made.add("a", "returned", {"id": name, "outcome": "done", "reply": 1})
    assert linearizable(made, counter) == 2


def test_what_was_refused_did_not_happen():
    made = history(("b", 5, 6, "read", (), 1))
    made.add("a", "called", {"id": "r", "what": "write", "key": "x", "args": (1,)})
    made.add("a", "returned", {"id": "r", "outcome": "refused", "reply": None})
    with pytest.raises(Violation):
        linearizable(made)


def test_hundreds_of_lost_increments_do_not_tangle_it():
    lost = [("z", t, None, "add", (1,), None) for t in range(300)]
    seen = [("a", 1000 + t, 1001 + t, "add", (1,), 200 + t) for t in range(300)]
    assert linearizable(history(*lost, *seen), counter) == 600


def test_a_history_too_tangled_to_judge_is_not_called_right(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("gridsync.testing.linear.STATES_MAX", 1000)
    side_by_side = [("a", 0, 100, "write", (n,), n) for n in range(20)]
    with pytest.raises(Undecided):
        linearizable(history(*side_by_side, ("b", 200, 201, "read", (), 99)))


def brute_force(calls: list[Operation], model: Model = register) -> bool:
    """Try every order of every choice of the pending ones."""
    done = [c for c in calls if not c.pending]
    maybe = [c for c in calls if c.pending]
    chosen = chain.from_iterable(combinations(maybe, n) for n in range(len(maybe) + 1))
    return any(fits(order, model) for choice in chosen for order in permutations([*done, *choice]))


def fits(order: tuple[Operation, ...], model: Model = register) -> bool:
    latest, states = 0, {None}
    for step in order:
        if step.returned_us is not None and step.returned_us < latest:
            return False
        latest = max(latest, step.called_us)
        states = {new for state in states for new in model(state, step)}
    return bool(states)


ACTIONS = st.one_of(
    st.tuples(st.just("read"), st.just(())),
    st.tuples(st.just("write"), st.tuples(st.integers(0, 2))),
    st.tuples(st.just("cas"), st.tuples(st.integers(0, 2), st.integers(0, 2))),
)


@st.composite
def lived(draw: st.DrawFn) -> list[Operation]:
    """Let a correct register take operations at moments of its own, each within its call and return."""
    state: Any = None
    calls = []
    for moment in range(draw(st.integers(1, 6))):
        what, args = draw(ACTIONS)
        at = moment * 10
        called, returned = at - draw(st.integers(0, 35)), at + draw(st.integers(0, 35))
        lost = draw(st.sampled_from((False, False, False, True)))
        applied = not lost or draw(st.booleans())
        reply = state if what == "read" else (state == args[0] if what == "cas" else args[0])
        if applied:
            state = next(iter(register(state, call(("a", 0, None, what, args, None)))))
        calls.append(call(("p", called, None if lost else returned, what, args, reply)))
    return draw(st.permutations(calls))


@given(lived())
@settings(max_examples=300, deadline=None)
def test_what_a_correct_register_did_is_always_accepted(calls: list[Operation]):
    """A checker that cries wolf would be switched off."""
    assert find_order(calls, register) is not None


@given(lived(), st.data())
@settings(max_examples=300, deadline=None)
def test_the_search_and_brute_force_agree_on_every_small_history(calls: list[Operation], data: st.DataObject):
    """Also when one reply is false: the search neither overlooks an order nor invents one."""
    index = data.draw(st.integers(0, len(calls) - 1))
    old = calls[index]
    reply = data.draw(st.sampled_from((None, 0, 1, 2) if old.what == "read" else (True, False)))
    if not old.pending:
        calls[index] = call((old.process, old.called_us, old.returned_us, old.what, old.args, reply))
    order = find_order(calls, register)
    assert (order is not None) == brute_force(calls)
    assert order is None or fits(tuple(order))


CLAIMS = st.builds(
    lambda what, n, called, took, reply: call(
        ("p", called, None if took is None else called + took, what, (n,) if what == "add" else (), reply)
    ),
    st.sampled_from(("add", "add", "read")),
    st.integers(1, 2),
    st.integers(0, 8),
    st.none() | st.integers(0, 6),
    st.integers(0, 5),
)


@given(st.lists(CLAIMS, min_size=1, max_size=5))
@settings(max_examples=500, deadline=None)
def test_the_search_and_brute_force_agree_on_whatever_is_claimed_of_a_counter(calls: list[Operation]):
    """Nothing correct has produced these: most are impossible, and the search must say so."""
    order = find_order(calls, counter)
    assert (order is not None) == brute_force(calls, counter)
    assert order is None or fits(tuple(order), counter)
