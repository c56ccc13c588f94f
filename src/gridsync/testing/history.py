"""What happened in a simulation, in order of true time."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

TRACE_LINES = 80
"""How many lines of the trace are kept to be shown."""


@dataclass(frozen=True, slots=True)
class Event:
    """One line of history."""

    at_us: int
    """True time since the start, in microseconds; no process can see it."""
    process: str
    kind: str
    facts: dict[str, Any] = field(default_factory=dict)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - facts are whatever was noted
        """Return a fact by its name."""
        try:
            return self.facts[name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        """One readable line."""
        facts = " ".join(f"{name}={value!r}" for name, value in self.facts.items())
        return f"{self.at_us / 1e6:12.6f}  {self.process:<8} {self.kind} {facts}"


class Violation(AssertionError):
    """A simulation found that a promise was broken."""


class History:
    """The events that a scenario noted, and the last lines of everything else."""

    def __init__(self, seed: object, clock: Callable[[], int]) -> None:
        """Start empty."""
        self.seed = seed
        self.events: list[Event] = []
        self._clock = clock
        self._trace: deque[tuple[int, str, str]] = deque(maxlen=TRACE_LINES)

    def __iter__(self) -> Iterator[Event]:
        """Iterate over the events in order."""
        return iter(self.events)

    def __len__(self) -> int:
        """Count the events."""
        return len(self.events)

    def add(self, process: str, kind: str, facts: dict[str, Any]) -> None:
        """Write an event."""
        event = Event(self._clock(), process, kind, facts)
        self.events.append(event)
        self._trace.append((event.at_us, process, f"* {kind} {facts}"))

    def log(self, process: str, what: str) -> None:
        """Write a line of the trace, which only a failure shows."""
        self._trace.append((self._clock(), process, what))

    def of(self, *kinds: str) -> list[Event]:
        """Return the events of some kinds."""
        return [event for event in self.events if event.kind in kinds]

    def story(self) -> str:
        """Return the seed and the last lines, for the message of a failure."""
        lines = "\n".join(f"{at / 1e6:12.6f}  {process:<8} {what}" for at, process, what in self._trace)
        return f"seed {self.seed!r}; the last {len(self._trace)} lines:\n{lines}"

    def fail(self, message: str) -> Violation:
        """Return the exception that tells *message*, the seed and what happened last."""
        violation = Violation(f"{message} (seed {self.seed!r})")
        violation.add_note(self.story())
        return violation
