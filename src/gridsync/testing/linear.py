"""Linearizability: is there an order of the operations that explains every reply and contradicts no clock?

Each operation must seem to take effect at one moment between its call and its return.  The search is that of Wing and
Gong with the memory of Lowe, as in Porcupine: it tries every operation that may come next, and visits no pair of
*what is done* and *state* twice.

Sources: J. Wing, C. Gong, "Testing and Verifying Concurrent Objects" (1993); G. Lowe, "Testing for linearizability"
(2017); https://github.com/anishathalye/porcupine
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Hashable, Iterable, Sequence
from typing import TYPE_CHECKING, Any

from gridsync.testing.operations import Operation, Outcome, operations

if TYPE_CHECKING:
    from gridsync.testing.history import History

__all__ = ["Model", "Undecided", "counter", "find_order", "linearizable", "register"]

Model = Callable[[Any, Operation], Iterable[Hashable]]
"""Given a state and an operation, the states in which it may end: none if its reply does not fit.

The reply of a `Operation.pending` one is not known and fits always."""

STATES_MAX = 1_000_000
"""How many states are visited before the search gives up."""


class Undecided(Exception):
    """The history is too tangled to be judged: fewer callers, fewer lost replies or more keys make it easier."""


def register(state: Any, operation: Operation) -> Iterable[Hashable]:  # noqa: ANN401 - values are whatever is stored
    """A register: ``read() -> value``, ``write(value)``, ``cas(old, new) -> whether it was old``."""
    if operation.what == "read":
        return (state,) if operation.pending or operation.reply == state else ()
    if operation.what == "write":
        return operation.args
    old, new = operation.args
    fits = operation.pending or bool(operation.reply) == (state == old)
    return (new if state == old else state,) if fits else ()


def counter(state: Any, operation: Operation) -> Iterable[Hashable]:  # noqa: ANN401 - as `register`
    """A counter: ``add(n) -> new value`` and ``read() -> value``, both of which take ``None`` for 0."""
    value = state or 0
    new = value + operation.args[0] if operation.what == "add" else value
    return (new,) if operation.pending or (operation.reply or 0) == new else ()


def find_order(calls: Sequence[Operation], model: Model, initial: Hashable = None) -> list[Operation] | None:
    """Return an order of *calls* that explains them, or ``None`` if there is none.

    Refused operations are left out, and so are pending ones that need not have happened.

    Raises:
        Undecided: More than `STATES_MAX` states would have to be visited.

    Cost: about 10 µs a state; as many states as operations if few overlap, exponentially many in those that do.
    """
    done = sorted((c for c in calls if c.outcome is Outcome.DONE), key=lambda c: c.called_us)
    maybe = sorted((c for c in calls if c.pending), key=lambda c: c.called_us)
    # A place is: all of `done` before `low`, those beyond it in the bits of `more`, those of `maybe` in `used`.
    start = (0, 0, 0, initial)
    came: dict[Any, tuple[Any, Operation] | None] = {start: None}
    stack: list[Any] = [start]
    while stack:
        place = stack.pop()
        low, more, used, state = place
        if low == len(done):
            return _way(came, place)
        if len(came) > STATES_MAX:
            raise Undecided(f"{len(calls)} operations: no verdict after {len(came)} states")
        steps: list[tuple[int, int, int, Operation]] = []
        end_us = float("inf")
        for index in range(low, len(done)):
            call = done[index]
            if call.called_us > end_us:
                break  # something has ended before this and all later ones began
            if not more >> (index - low) & 1:
                end_us = min(end_us, call.returned_us or 0)
                steps.append((*_without_ones(low, more | 1 << (index - low)), used, call))
        alike: set[Any] = set()
        for index, call in enumerate(maybe):
            # Of operations that say the same, the one that was called first can stand for each of the others.
            if call.called_us <= end_us and not used >> index & 1 and (call.what, call.args) not in alike:
                alike.add((call.what, call.args))
                steps.append((low, more, used | 1 << index, call))
        # What was called first is tried first, and what need not have happened at all comes last.
        for next_low, next_more, next_used, call in reversed(steps):
            for new in model(state, call):
                after = (next_low, next_more, next_used, new)
                if after not in came and not (call.pending and new == state):
                    came[after] = (place, call)
                    stack.append(after)
    return None


def _without_ones(low: int, more: int) -> tuple[int, int]:
    while more & 1:
        low, more = low + 1, more >> 1
    return low, more


def _way(came: dict[Any, tuple[Any, Operation] | None], place: Any) -> list[Operation]:  # noqa: ANN401 - a tuple
    order: list[Operation] = []
    while (step := came[place]) is not None:
        place, call = step
        order.append(call)
    return order[::-1]


def linearizable(history: History, model: Model = register, initial: Hashable = None) -> int:
    """Check that the operations of *history* can be explained, key by key, and count them.

    Args:
        history: With the events ``called`` and ``returned``; see `gridsync.testing.operations`.
        model: What the object is: `register`, `counter` or a function of your own.
        initial: The state of every key at the start.

    Raises:
        Violation: Some key's replies fit no order.
        Undecided: As `find_order`.
    """
    by_key: dict[str, list[Operation]] = defaultdict(list)
    for call in operations(history):
        by_key[call.key].append(call)
    for key, calls in by_key.items():
        if find_order(calls, model, initial) is None:
            # The shortest beginning that cannot be explained ends with the reply that is to blame.
            ended = sorted((c for c in calls if c.returned_us is not None), key=lambda c: c.returned_us or 0)
            low, high = 0, len(ended)
            while high - low > 1:
                middle = (low + high) // 2
                if find_order(_until(calls, ended[middle - 1]), model, initial) is None:
                    high = middle
                else:
                    low = middle
            raise history.fail(f"no order explains {key!r} up to {ended[high - 1]}")
    return sum(map(len, by_key.values()))


def _until(calls: Sequence[Operation], last: Operation) -> list[Operation]:
    """Return the history as it was when *last* returned: what runs on beyond that is pending."""
    end_us = last.returned_us or 0
    return [
        call
        if call.returned_us is None or call.returned_us <= end_us
        else Operation(call.process, call.what, call.key, call.args, call.called_us, None, Outcome.UNKNOWN)
        for call in calls
        if call.called_us <= end_us
    ]
