"""One load at a time per key in this process: who comes while it is under way takes what it brings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final, Generic

from gridsync._io.copies import APART
from gridsync.cache._codec import V

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync._io import Signal
    from gridsync._io.copies import Found

CHAIN_MAX: Final = 100
"""How many loaders that wait for each other are followed."""
_awaited: Final[dict[object, Flight[Any]]] = {}
"""The load that each task or thread waits for, in this process."""


class Flight(Generic[V]):
    """A load under way.

    Whoever joins it does so before what was loaded is stored.  What is stored then was not deleted or invalidated since
    its load began, so it is good for all of them; what is not is good for the one who began, and nobody else.  A value
    that could be changed is given to that one only: all others get one of their own.
    """

    __slots__ = ("_found", "_kept", "_loads", "current", "done", "error", "pilot", "value")

    def __init__(self, done: Signal, kept: Callable[[Any, bytes | None], Found], loads: Callable[[bytes], V]) -> None:
        """Begin; *done* is thrown at its end, *kept* says what may be shared, *loads* makes a value of its bytes."""
        self.done = done
        self._kept, self._loads = kept, loads
        self.error: BaseException | None = None
        self.value: Any = None
        self._found: Found = (None, b"")
        self.current = False
        """Whether it is good for those who joined."""
        self.pilot: object = None
        """The task or thread that loads."""

    def bring(self, value: V, data: bytes | None) -> None:
        """Have *value*, before anybody could change it; *data* is what is stored of it."""
        self.value, self._found = value, self._kept(value, data)

    def result(self) -> V:
        """Return what was loaded, or raise what the loader raised: for the one who began."""
        if self.error is not None:
            raise self.error
        value: V = self.value
        return value

    def share(self) -> V:
        """Return what was loaded, or raise what the loader raised: for those who joined."""
        if self.error is not None:
            raise self.error
        value: Any
        value, data = self._found
        return value if value is not APART else self._loads(data)

    @contextmanager
    def awaited_by(self, who: object) -> Iterator[bool]:
        """Take note that the task or thread *who* waits for it; true if it waits for *who*, at last."""
        before = _awaited.get(who)
        _awaited[who] = self
        try:
            yield self._waits_for(who)
        finally:
            if before is None:
                _awaited.pop(who, None)
            else:
                _awaited[who] = before

    def _waits_for(self, who: object) -> bool:
        flight: Flight[Any] | None = self
        for _ in range(CHAIN_MAX):
            if flight is None or flight.pilot is None:
                return False
            if flight.pilot is who:
                return True
            flight = _awaited.get(flight.pilot)
        return False
