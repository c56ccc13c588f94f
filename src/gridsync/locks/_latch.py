"""`Latch` and `AsyncLatch`: wait until a number of things have happened."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.locks._countdown import Countdown

if TYPE_CHECKING:
    from gridsync._io import IO

__all__ = ["AsyncLatch", "Latch"]


class _LatchBase:
    """A latch's name and count; it holds no other state."""

    __slots__ = ("_core",)

    def __init__(self, io: IO, namespace: str, name: str, count: int, *, ttl: _units.Seconds = 3600.0) -> None:
        self._core = Countdown(io, namespace, name, count, ttl)

    @property
    def name(self) -> str:
        """The latch's name."""
        return self._core.name

    @property
    def count(self) -> int:
        """What the latch starts from."""
        return self._core.count

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} count={self.count}>"

    def _timeout(self, timeout: _units.Seconds | None) -> float | None:
        return None if timeout is None else _units.seconds(timeout, f"the timeout for latch {self.name!r}")


class Latch(_LatchBase):
    """A gate that opens when *count* things have happened, once and for all who wait: for threads and processes.

    Args:
        count: How many; the same wherever this name is used.
        ttl: How long the latch is kept after its last use, in seconds.  Take a new name for each round.

    Guarantee: an id counts down once, whatever is lost or repeated; an open latch stays open while it is kept; nothing
    polls.
    Not guaranteed: anything after a failover, flush or eviction that lost the keys: the latch is closed again.
    """

    __slots__ = ()

    def count_down(self, amount: int = 1, *, by: str | None = None) -> int:
        """Lower the latch, and open it when nothing remains.

        Args:
            amount: By how much.
            by: Who or what counts down, once: ``"worker-3"``, a task's id.  ``None`` counts each call.

        Returns:
            What remains; 0 when the latch is open.

        Raises:
            UsageError: The latch was made with another count.
            OutcomeUnknown: The server stopped answering; with *by* you may call again.
            Unavailable: The server could not be reached; nothing was counted.

        Cost: one round trip, O(1); O(waiters) when it opens.
        """
        return run_sync(self._core.down(amount, by))

    def wait(self, *, timeout: _units.Seconds | None = None) -> None:
        """Block until the latch is open.

        Args:
            timeout: Longest time to block, in seconds.  ``None`` waits for ever, ``0`` looks once.

        Raises:
            WaitTimeout: Something still remained after *timeout* seconds.
            UsageError: The latch was made with another count.
            Unavailable: The server could not be reached.

        Cost: one round trip when open; else one when it opens, and one every 3.3 s.
        """
        run_sync(self._core.wait(self._timeout(timeout)))

    def remaining(self) -> int:
        """Return how many things have still to happen; 0 when the latch is open.  Cost: one round trip, O(1)."""
        return run_sync(self._core.look())


class AsyncLatch(_LatchBase):
    """A gate that opens when *count* things have happened, once and for all who wait: for tasks and processes.

    Args:
        count: How many; the same wherever this name is used.
        ttl: How long the latch is kept after its last use, in seconds.  Take a new name for each round.

    Guarantee: an id counts down once, whatever is lost or repeated; an open latch stays open while it is kept; nothing
    polls; a cancelled `wait` leaves nothing behind.
    Not guaranteed: anything after a failover, flush or eviction that lost the keys: the latch is closed again.
    """

    __slots__ = ()

    async def count_down(self, amount: int = 1, *, by: str | None = None) -> int:
        """Lower the latch, and open it when nothing remains.

        Args:
            amount: By how much.
            by: Who or what counts down, once: ``"worker-3"``, a task's id.  ``None`` counts each call.

        Returns:
            What remains; 0 when the latch is open.

        Raises:
            UsageError: The latch was made with another count.
            OutcomeUnknown: The server stopped answering; with *by* you may call again.
            Unavailable: The server could not be reached; nothing was counted.

        Cost: one round trip, O(1); O(waiters) when it opens.
        """
        return await self._core.down(amount, by)

    async def wait(self, *, timeout: _units.Seconds | None = None) -> None:
        """Wait until the latch is open.

        Args:
            timeout: Longest time to wait, in seconds.  ``None`` waits for ever, ``0`` looks once.

        Raises:
            WaitTimeout: Something still remained after *timeout* seconds.
            UsageError: The latch was made with another count.
            Unavailable: The server could not be reached.

        Cost: one round trip when open; else one when it opens, and one every 3.3 s.
        """
        await self._core.wait(self._timeout(timeout))

    async def remaining(self) -> int:
        """Return how many things have still to happen; 0 when the latch is open.  Cost: one round trip, O(1)."""
        return await self._core.look()
