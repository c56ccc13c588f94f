"""What a history must satisfy.  Each checker takes the history of a simulation and raises `Violation`.

The time in a history is true time, which no process can see: a checker knows better than the program.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync.testing.history import History


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
