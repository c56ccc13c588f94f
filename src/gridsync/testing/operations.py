"""Operations: what somebody asked for, from when to when, and what came of it.

An operation takes effect at one moment between its call and its return; nobody outside knows which.  One without a
known outcome (a lost reply, a killed process, a cancelled task) may take effect at any later moment, or never.

Both kinds of history have them: `Recorder.operation` writes them in a real run, and a simulated program may note the
same two events, ``called`` (facts *id*, *what*, *key*, *args*) and ``returned`` (facts *id*, *outcome*, *reply*).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gridsync.testing.history import History

__all__ = ["Operation", "Outcome", "operations"]


class Outcome(StrEnum):
    """What the caller knows."""

    DONE = "done"
    """It took effect, and this is the reply."""
    REFUSED = "refused"
    """It did not take effect and never will."""
    UNKNOWN = "unknown"
    """It may have taken effect, or may yet."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a history."""

    process: str
    """Who called."""
    what: str
    """What was called, such as ``write``."""
    key: str
    """On what; operations on different keys have nothing to do with each other."""
    args: tuple[Any, ...]
    called_us: int
    """True time of the call, in microseconds."""
    returned_us: int | None
    """True time of the return; ``None`` if it is not known to have ended."""
    outcome: Outcome
    reply: Any = None
    """What came back; ``None`` if nothing did."""

    @property
    def pending(self) -> bool:
        """Whether it may have taken effect unseen, or may yet."""
        return self.outcome is Outcome.UNKNOWN

    def __str__(self) -> str:
        """One readable line."""
        until = "?" if self.returned_us is None else f"{self.returned_us / 1e6:.6f}"
        what = f"{self.what}({', '.join(map(repr, (self.key, *self.args)))})"
        reply = repr(self.reply) if self.outcome is Outcome.DONE else self.outcome
        return f"{self.process}: {what} -> {reply} in {self.called_us / 1e6:.6f}..{until}"


def operations(history: History, *what: str) -> list[Operation]:
    """Return the operations of a history in order of their calls; only those called one of *what*, if given."""
    ends = {event.id: event for event in history.of("returned")}
    found: list[Operation] = []
    for event in history.of("called"):
        if what and event.what not in what:
            continue
        end = ends.get(event.id)
        outcome = Outcome.UNKNOWN if end is None else Outcome(end.outcome)
        found.append(
            Operation(
                event.process,
                event.what,
                event.key,
                tuple(event.args),
                event.at_us,
                # An unknown outcome may come about after the caller gave up.
                None if end is None or outcome is Outcome.UNKNOWN else end.at_us,
                outcome,
                end.reply if end is not None and outcome is Outcome.DONE else None,
            )
        )
    return found
