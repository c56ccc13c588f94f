"""One load at a time per key in this process: who comes while it is under way takes what it brings."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Generic

from gridsync.cache._codec import V

if TYPE_CHECKING:
    from gridsync._io import Signal


class Flight(Generic[V]):
    """A load under way.

    Whoever joins it does so before what was loaded is stored.  What is stored then was not deleted or invalidated since
    its load began, so it is good for all of them; what is not is good for the one who began, and nobody else.
    """

    __slots__ = ("current", "done", "error", "pilot", "value")

    def __init__(self, done: Signal) -> None:
        """Begin; *done* is thrown at its end."""
        self.done = done
        self.error: BaseException | None = None
        self.value: Any = None
        self.current = False
        """Whether it is good for those who joined."""
        self.pilot: object = None
        """The task or thread that loads."""

    def result(self) -> V:
        """Return what was loaded, or raise what the loader raised."""
        if self.error is not None:
            raise self.error
        value: V = self.value
        return value
