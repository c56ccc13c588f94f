"""One factory per primitive, a file for each wing: what `Grid` and `AsyncGrid` inherit.

A wing that is added here takes a file of its own with a class for threads and its twin for tasks, and both are named
among the bases of the grids.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.aio import AsyncIO
    from gridsync._io.breaker import StateChange
    from gridsync._io.guard import Listeners
    from gridsync._io.sync import SyncIO
    from gridsync.settings import Settings


class _Ground:
    """What the factories of a grid find in it, whichever kind it is."""

    settings: Settings
    _listeners: Listeners

    @property
    def namespace(self) -> str:
        """The first part of every key."""
        return self.settings.gridsync_namespace

    def on_state_change(self, callback: Callable[[StateChange], None]) -> None:
        """Call *callback* whenever a server's circuit breaker opens, probes or closes.

        It is called on the thread that noticed, in the middle of somebody's call: be quick, and hand work on to
        another thread.  What it raises is logged.  It cannot be taken back.
        """
        self._listeners.append(callback)


class Ground(_Ground):
    """What the factories of a grid for threads stand on."""

    _io: SyncIO


class AsyncGround(_Ground):
    """What the factories of a grid for tasks stand on."""

    _driver: AsyncIO | None

    @property
    def _io(self) -> AsyncIO:
        if self._driver is None:
            raise UsageError("this AsyncGrid is not open; use `async with AsyncGrid(…) as grid` or `await grid.open()`")
        return self._driver
