"""What a history must satisfy.  Each checker takes a history and raises `Violation`.

The time in a history is true time: that of a simulation, which no process can see, or the clock that all processes of
a machine share (`gridsync.testing.recorder`).  Whether replies fit a register or a counter, `gridsync.testing.linear`
knows.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import defaultdict
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING

from gridsync.testing.operations import Outcome, operations

if TYPE_CHECKING:
    from collections.abc import Hashable, Iterable, Sequence

    from gridsync.testing.history import History
    from gridsync.testing.operations import Operation


@dataclass(slots=True)
class _Held:
    """One interval in which a process was sure to hold a lease."""

    name: str
    owner: str
    process: str
    fence: int
    start_us: int
    end_us: int


def mutual_exclusion(history: History) -> int:
    """Check that no two processes ever act on one lease at the same moment, and that fences rise; count the leases.

    Expects the events ``acquired`` and ``released`` with the facts *name*, *owner* and *fence*; a ``working`` event
    with the same facts says that the holder believed in its lease at that moment.  A lease counts as held from
    ``acquired`` to its last ``working`` or ``released``: what a holder does not do, it can't do wrongly.
    """
    held: dict[str, _Held] = {}
    for event in history.of("acquired", "working", "released"):
        lease = held.get(event.owner)
        if event.kind == "acquired" and lease is None:
            held[event.owner] = _Held(event.name, event.owner, event.process, event.fence, event.at_us, event.at_us)
        elif lease is not None:
            lease.end_us = event.at_us
    last: dict[str, _Held] = {}
    for lease in sorted(held.values(), key=lambda lease: lease.start_us):
        before = last.get(lease.name)
        if before is not None and lease.start_us < before.end_us:
            at = lease.start_us / 1e6
            raise history.fail(f"{lease.process} and {before.process} both held {lease.name!r} at {at:.6f} s")
        last[lease.name] = lease
    rising_fences(history)
    return len(held)


def rising_fences(history: History) -> None:
    """Check that every ``acquired`` event of a name has a larger fence than all before it."""
    highest: dict[str, int] = {}
    for event in history.of("acquired"):
        if event.fence <= highest.get(event.name, 0):
            raise history.fail(f"the fence of {event.name!r} went from {highest[event.name]} to {event.fence}")
        highest[event.name] = event.fence


def permits_held(history: History, limit: int) -> int:
    """Check that those who surely hold permits of one name never hold more than *limit* together; count the leases.

    Expects the events of `mutual_exclusion` with one more fact, *permits*: how many from that event on.  Readers of a
    reader-writer lock hold one each, its writer holds all, which is *limit*.  A holder surely holds from each of its
    events to the next one: it may have lost the lease right after the last.

    Args:
        history: Of a simulation or a recorder.
        limit: How many there are, of each name.
    """
    leases: dict[tuple[str, str], list[tuple[int, int]]] = defaultdict(list)
    for event in history.of("acquired", "working", "released"):
        leases[event.name, event.owner].append((event.at_us, event.permits))
    # An interval that ends where another begins does not overlap it, so ends come first.
    steps = [
        step
        for lease, events in leases.items()
        for (begin_us, permits), (end_us, _) in pairwise(events)
        for step in ((begin_us, 1, permits, *lease), (end_us, 0, -permits, *lease))
        if end_us > begin_us
    ]
    held: dict[str, int] = defaultdict(int)
    for at_us, _, change, name, owner in sorted(steps):
        held[name] += change
        if held[name] > limit:
            raise history.fail(
                f"{held[name]} of {name!r} were held at {at_us / 1e6:.6f} s, by {owner} too, not {limit}"
            )
    return len(leases)


def fences_in_order(history: History, *, what: str = "acquire") -> int:
    """Check that whoever asked after another one was served got a larger fence, and nobody the same; count them.

    For what several hold at a time, where `rising_fences` does not apply: of two who ask together either may be first.

    Args:
        history: With operations *what* whose reply is the fence.
        what: What acquiring is called.
    """
    served = [call for call in operations(history, what) if call.outcome is Outcome.DONE]
    ended = sorted(served, key=lambda call: call.returned_us or 0)
    highest: dict[str, int] = defaultdict(int)
    given: set[tuple[str, int]] = set()
    first = 0
    for call in served:  # in order of their calls
        while (ended[first].returned_us or 0) < call.called_us:
            highest[ended[first].key] = max(highest[ended[first].key], ended[first].reply)
            first += 1
        if call.reply <= highest[call.key]:
            raise history.fail(f"{call} came after fence {highest[call.key]} had been given out")
        if (call.key, call.reply) in given:
            raise history.fail(f"{call}: this fence was given out twice")
        given.add((call.key, call.reply))
    return len(served)


def never_more_than(history: History, limit: int, window_us: int, admitted: Iterable[tuple[int, int]]) -> int:
    """Check that no window holds more than *limit*; returns the fullest window.

    Args:
        history: Where to tell of a violation.
        limit: How much one window may hold.
        window_us: The length of the half-open window, in microseconds.
        admitted: Pairs of the moment of admission on the server's clock, in microseconds, and the cost.
    """
    entries = sorted(admitted)
    total = fullest = first = 0
    for at_us, cost in entries:
        total += cost
        while entries[first][0] <= at_us - window_us:
            total -= entries[first][1]
            first += 1
        fullest = max(fullest, total)
        if total > limit:
            raise history.fail(f"{total} admitted within {window_us} us up to {at_us}, the limit is {limit}")
    return fullest


def exactly_once(history: History, acknowledged: Iterable[str], unsure: Iterable[str], stored: Iterable[str]) -> None:
    """Check that what was acknowledged is stored once, and that nothing else is but what may be."""
    counts: dict[str, int] = defaultdict(int)
    for item in stored:
        counts[item] += 1
    allowed = set(acknowledged)
    if lost := sorted(item for item in allowed if counts[item] == 0):
        raise history.fail(f"acknowledged and not stored: {lost}")
    if doubled := sorted(item for item, count in counts.items() if count > 1):
        raise history.fail(f"stored more than once: {doubled}")
    if strange := sorted(set(counts) - allowed - set(unsure)):
        raise history.fail(f"stored though refused: {strange}")


def gapless(history: History, what: str, numbers: Iterable[int], start: int = 1) -> None:
    """Check that *numbers* count up by one from *start*."""
    for expected, number in enumerate(numbers, start):
        if number != expected:
            raise history.fail(f"{what}: {number} where {expected} was due")


def handled_at_least_once(history: History, stored: Iterable[object], fact: str) -> None:
    """Check that everything stored was handled, and nothing else; call it when there was time to finish.

    Expects ``handled`` events whose fact *fact* says what was handled.
    """
    handled = {event.facts[fact]: None for event in history.of("handled")}
    there = dict.fromkeys(stored)
    if missing := [item for item in there if item not in handled]:
        raise history.fail(f"stored and never handled: {missing}")
    if strange := [item for item in handled if item not in there]:
        raise history.fail(f"handled and never stored: {strange}")


def counted(history: History, value: int, *, key: str = "", what: str = "add") -> tuple[int, int]:
    """Check that a counter holds what was acknowledged, and at most what may have been added unseen besides.

    Args:
        history: With operations *what* whose first argument is how much was added.
        value: What the counter holds, read when everything has come to rest.
        key: Which counter.
        what: What adding is called.

    Returns:
        How much was acknowledged, and how much is not known: ``acknowledged <= value <= acknowledged + unknown``.
    """
    sums = dict.fromkeys(Outcome, 0)
    for call in operations(history, what):
        if call.key == key:
            sums[call.outcome] += call.args[0]
    surely, perhaps = sums[Outcome.DONE], sums[Outcome.UNKNOWN]
    if not surely <= value <= surely + perhaps:
        raise history.fail(f"{key!r} holds {value}: {surely} were acknowledged and {perhaps} are not known")
    return surely, perhaps


def appended(history: History, stored: Sequence[Hashable], *, key: str = "", what: str = "append") -> int:
    """Check that a log lost nothing, doubled nothing and kept the order of time; count what it holds.

    What was acknowledged stands in it once, what has an unknown outcome at most once, nothing else at all; and what
    was acknowledged before another append began stands before that one, whoever appended.

    Args:
        history: With operations *what* whose arguments are the items, in their order.
        stored: The log's items, oldest first.
        key: Which log.
        what: What appending is called.
    """
    calls = {item: call for call in operations(history, what) if call.key == key for item in call.args}
    by_outcome: dict[Outcome, list[str]] = defaultdict(list)
    for item, call in calls.items():
        by_outcome[call.outcome].append(str(item))
    exactly_once(history, by_outcome[Outcome.DONE], by_outcome[Outcome.UNKNOWN], map(str, stored))
    latest: Operation | None = None
    for item in stored:
        call = calls[item]
        if latest is not None and call.returned_us is not None and call.returned_us < latest.called_us:
            raise history.fail(f"{key!r} has {latest} before {call}, which had ended when it began")
        if latest is None or call.called_us > latest.called_us:
            latest = call
    return len(stored)


def window_bounds(history: History, limit: int, window_us: int, *, key: str = "", what: str = "hit") -> int:
    """Check a limiter from outside: no window surely overflowed, and no hit was denied that surely had room.

    When a hit was decided is not known, only between which moments.  So this sees less than `never_more_than`, but
    needs nothing from the server.

    Args:
        history: With operations *what* whose first argument is the cost and whose reply says whether it was admitted.
        limit: How much one window may hold.
        window_us: The length of the window, in microseconds.
        key: Which subject.
        what: What hitting is called.

    Returns:
        How much was surely admitted in all.

    Not guaranteed: a verdict across a step of the server's clock.  A drift of a thousandth is allowed for.
    """
    calls = [call for call in operations(history, what) if call.key == key]
    perhaps = [call for call in calls if call.pending or (call.outcome is Outcome.DONE and call.reply)]
    surely = [call for call in perhaps if not call.pending]
    starts = [call.called_us for call in surely]
    shorter, longer = window_us - window_us // 1000, window_us + window_us // 1000
    for index, first in enumerate(starts):
        inside = surely[index : bisect_left(starts, first + shorter)]
        total = sum(call.args[0] for call in inside if (call.returned_us or 0) < first + shorter)
        if total > limit:
            raise history.fail(f"{key!r} admitted {total} within {window_us} us from {first}, the limit is {limit}")
    for denied in (call for call in calls if call.outcome is Outcome.DONE and not call.reply):
        end_us = denied.returned_us or 0
        most = sum(
            call.args[0]
            for call in perhaps
            if call.called_us <= end_us and (call.returned_us is None or call.returned_us > denied.called_us - longer)
        )
        if most + denied.args[0] <= limit:
            raise history.fail(f"{denied} was denied though its window held {most} of {limit} at most")
    return sum(call.args[0] for call in surely)
