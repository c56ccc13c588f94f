"""Lanes: deliveries that wait in a consumer, so that one event of a stream is in work at a time, and in order."""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import TYPE_CHECKING, Any

from gridsync.streams._settling import stream_of

if TYPE_CHECKING:
    from collections.abc import Iterator


class Line(deque[Any]):
    """For one worker: all in one line, in the order in which they came."""

    busy = False
    """Whether anything is in work: never while the only worker asks."""

    def done(self, entry: Any) -> None:  # noqa: ANN401
        """Nothing waited for it."""


class Lanes:
    """For several workers: a lane per stream, whose first delivery is ready or in work while the others wait.

    A stream has a lane as long as one of its deliveries is here.
    """

    def __init__(self) -> None:
        """Begin with nothing."""
        self._ready: deque[Any] = deque()
        self._behind: dict[bytes, deque[Any]] = {}

    @property
    def busy(self) -> bool:
        """Whether anything is here or in work."""
        return bool(self._behind)

    def __len__(self) -> int:
        """Count those that are ready."""
        return len(self._ready)

    def __iter__(self) -> Iterator[Any]:
        """Iterate over what was not begun."""
        return chain(self._ready, *self._behind.values())

    def append(self, entry: Any) -> None:  # noqa: ANN401
        """Let a delivery wait for its turn."""
        stream = stream_of(entry)
        behind = self._behind.get(stream)
        if behind is None:
            self._behind[stream] = deque()
            self._ready.append(entry)
        else:
            behind.append(entry)

    def popleft(self) -> Any:  # noqa: ANN401
        """Take one that is ready; its stream is in work until `done`."""
        return self._ready.popleft()

    def appendleft(self, entry: Any) -> None:  # noqa: ANN401
        """Put back one that was taken: after `done` it is the next of its stream."""
        self._behind[stream_of(entry)].appendleft(entry)

    def done(self, entry: Any) -> None:  # noqa: ANN401
        """Let the next one of its stream be ready."""
        stream = stream_of(entry)
        if behind := self._behind[stream]:
            self._ready.append(behind.popleft())
        else:
            del self._behind[stream]

    def clear(self) -> None:
        """Forget what was not begun; what is in work still is."""
        for entry in self._ready:
            del self._behind[stream_of(entry)]
        self._ready.clear()
        for behind in self._behind.values():
            behind.clear()
