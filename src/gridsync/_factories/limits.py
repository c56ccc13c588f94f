"""Factories of limiters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._factories import AsyncGround, Ground
from gridsync.limits import AsyncLimiter, AsyncLimits, Limiter, Limits

if TYPE_CHECKING:
    from gridsync._units import Seconds
    from gridsync.limits import OnError, Rule, Share


class LimitFactories(Ground):
    """The factories of limiters, for threads."""

    @property
    def limits(self) -> Limits:
        """What is asked of several limiters at once: `Limits.check`."""
        return Limits(self._io)

    def limiter(
        self,
        name: str,
        *limits: str | Rule,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        resolution: Seconds | None = None,
    ) -> Limiter:
        """Return the limiter *name* with one or more *limits* such as ``"100/second"``, all of which must admit.

        Args:
            name: The name under which processes share it.
            *limits: What is admitted, as text or as an object such as `GCRA` or `FixedWindow`; text that names no burst
                means exact sliding windows, of which there may be several.
            on_error: What `hit` answers when the server is away: ``"raise"``, ``"allow"``, ``"deny"`` or ``"local"``.
            budget: Longest time of one decision, in seconds; default is the command timeout.
            share: With ``"local"``, the part of each limit that this process admits by itself; ``"auto"`` is one over
                the processes that use it.
            deny_cache: How many keys' denials are remembered, so that they need not be asked for again.
            resolution: By how much a hit may leave its window late, in seconds; 0 is exact, and takes memory for every
                hit.  Default: exact up to 40 hits a window, else a fortieth of the window, and 2 KB a key.
        """
        return Limiter(
            self._io,
            self.namespace,
            name,
            *limits,
            on_error=on_error,
            budget=budget,
            share=share,
            deny_cache=deny_cache,
            resolution=resolution,
        )


class AsyncLimitFactories(AsyncGround):
    """The factories of limiters, for tasks."""

    @property
    def limits(self) -> AsyncLimits:
        """What is asked of several limiters at once: `AsyncLimits.check`."""
        return AsyncLimits(self._io)

    def limiter(
        self,
        name: str,
        *limits: str | Rule,
        on_error: OnError = "raise",
        budget: Seconds | None = None,
        share: Share = 1.0,
        deny_cache: int = 0,
        resolution: Seconds | None = None,
    ) -> AsyncLimiter:
        """Return the limiter *name* with one or more *limits* such as ``"100/second"``, all of which must admit.

        Args:
            name: The name under which processes share it.
            *limits: What is admitted, as text or as an object such as `GCRA` or `FixedWindow`; text that names no burst
                means exact sliding windows, of which there may be several.
            on_error: What `hit` answers when the server is away: ``"raise"``, ``"allow"``, ``"deny"`` or ``"local"``.
            budget: Longest time of one decision, in seconds; default is the command timeout.
            share: With ``"local"``, the part of each limit that this process admits by itself; ``"auto"`` is one over
                the processes that use it.
            deny_cache: How many keys' denials are remembered, so that they need not be asked for again.
            resolution: By how much a hit may leave its window late, in seconds; 0 is exact, and takes memory for every
                hit.  Default: exact up to 40 hits a window, else a fortieth of the window, and 2 KB a key.
        """
        return AsyncLimiter(
            self._io,
            self.namespace,
            name,
            *limits,
            on_error=on_error,
            budget=budget,
            share=share,
            deny_cache=deny_cache,
            resolution=resolution,
        )
