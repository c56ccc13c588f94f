"""Factories of fan-out channels."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._factories import AsyncGround, Ground
from gridsync.fanout import AsyncChannel, Channel

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._units import Seconds


class FanoutFactories(Ground):
    """The factories of fan-out channels, for threads."""

    def channel(
        self, name: str, *, history: int = 1000, keep: Seconds = 300.0, secrets: Sequence[str | bytes] = ()
    ) -> Channel:
        """Return the channel *name*, which keeps *history* publications for *keep* seconds; see `Channel`."""
        return Channel(self._io, self.namespace, name, history=history, keep=keep, secrets=secrets)


class AsyncFanoutFactories(AsyncGround):
    """The factories of fan-out channels, for tasks."""

    def channel(
        self, name: str, *, history: int = 1000, keep: Seconds = 300.0, secrets: Sequence[str | bytes] = ()
    ) -> AsyncChannel:
        """Return the channel *name*, which keeps *history* publications for *keep* seconds; see `Channel`."""
        return AsyncChannel(self._io, self.namespace, name, history=history, keep=keep, secrets=secrets)
