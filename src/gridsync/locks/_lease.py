"""The leases that an acquisition hands out: `Lease` for threads, `AsyncLease` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from gridsync._io import run_sync
from gridsync.locks import _core

if TYPE_CHECKING:
    from types import TracebackType

    from gridsync._io import IO, Signal
    from gridsync.locks._hold import Hold

__all__ = ["AsyncLease", "Lease"]


class LeaseBase:
    """What both kinds of lease show."""

    __slots__ = ("_hold", "_io")

    def __init__(self, io: IO, hold: Hold) -> None:
        self._io = io
        self._hold = hold

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._hold.spec.name

    @property
    def fence(self) -> int:
        """A number that is larger than that of every earlier holder of this name.

        Send it along with every write that the lock protects, and let the resource refuse a smaller one than it saw.
        It is the larger of the server's clock in microseconds and the last fence plus one, so it rises across a lost
        key, an eviction and a failover as long as no new primary's clock is behind the old one's by more than passed.
        """
        return self._hold.fence

    @property
    def owner(self) -> str:
        """This acquisition's identifier, unique among all processes."""
        return self._hold.owner

    @property
    def lost(self) -> Signal:
        """A switch that is thrown when the lease is lost: ``is_set()``, ``on_set(callback)``, ``wait(timeout)``.

        It is thrown by the watchdog's thread a little before the server lets the lease go, also when Redis cannot be
        reached.  It is not thrown by a release.
        """
        return self._hold.signal

    def expires_in(self) -> float:
        """Return for how many more seconds this process may count on the lease; 0 when it has ended.

        Counted from before the request left, and a hundredth less than the server allows.  Renewal moves it.
        """
        return self._hold.remaining()

    def check(self) -> None:
        """Raise unless the lease is surely still ours.  Costs no round trip.

        Raises:
            LeaseLost: It was lost, its time is over, or it was released.
        """
        self._hold.check()

    def __repr__(self) -> str:
        hold = self._hold
        state = f"lost: {hold.why_lost}" if hold.why_lost else "released" if hold.ended else "held"
        return f"<{type(self).__name__} {hold.spec.name!r} fence={hold.fence} {state}>"


class Lease(LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another thread, which may release it.  A ``with`` block over it ends with its release, and raises
    `LeaseLost` if it was lost on the way, unless the block itself raised.
    """

    __slots__ = ()

    def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        run_sync(_core.extend(self._io, self._hold))

    def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return run_sync(_core.release(self._io, self._hold))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_sync(_core.leave(self._io, self._hold, error))


class AsyncLease(LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another task, which may release it.  A ``with`` block over it ends with its release, and raises
    `LeaseLost` if it was lost on the way, unless the block itself raised.
    """

    __slots__ = ()

    async def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        await _core.extend(self._io, self._hold)

    async def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return await _core.release(self._io, self._hold)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _core.leave(self._io, self._hold, error)
