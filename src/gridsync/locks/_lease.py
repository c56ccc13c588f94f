"""The leases that an acquisition hands out: `Lease` for threads, `AsyncLease` for asyncio."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, NoReturn, Self

from gridsync._io import run_sync
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import UsageError
from gridsync.locks import _block, _core, _resume

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from gridsync._io import IO, Scope
    from gridsync.locks._hold import Hold

__all__ = ["AsyncLease", "AsyncLoss", "Lease", "Loss"]


INSIDE: ContextVar[tuple[LeaseBase, ...]] = ContextVar("gridsync_inside", default=())
"""The leases of the ``with`` blocks that the current task or thread is in, outermost first."""


class LossBase:
    """What both kinds of loss show."""

    __slots__ = ("_hold",)

    def __init__(self, hold: Hold) -> None:
        self._hold = hold

    def is_set(self) -> bool:
        """Tell whether the lease was lost."""
        return self._hold.signal.is_set()

    def on_set(self, callback: Callable[[], None]) -> Callable[[], None]:
        """Call *callback* once, when the lease is lost, at once if it was; returns a function that takes it back.

        It is called by the watchdog's thread: be quick.  What it raises is logged.  `on_lost` is easier to use.

        Raises:
            UsageError: It is nothing that can be called.
        """
        if not callable(callback):
            raise UsageError(
                f"what is called when the lease of {self._hold.spec} is lost must be a function, not {callback!r:.100}"
            )
        return self._hold.signal.on_set(callback)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} of {self._hold.spec} {self._hold.why_lost or 'unset'}>"


class Loss(LossBase):
    """A switch that is thrown when a lease is lost; a thread may wait for it."""

    __slots__ = ()

    def wait(self, timeout: float | None = None) -> bool:
        """Block until the lease is lost, at most *timeout* seconds; returns `is_set`."""
        return run_sync(self._hold.signal.wait(timeout))


class AsyncLoss(LossBase):
    """A switch that is thrown when a lease is lost; a task may wait for it."""

    __slots__ = ()

    async def wait(self, timeout: float | None = None) -> bool:
        """Wait until the lease is lost, at most *timeout* seconds; returns `is_set`."""
        return await self._hold.signal.wait(timeout)


class LeaseBase:
    """What both kinds of lease show."""

    __slots__ = ("_hold", "_io", "_scope")

    def __init__(self, io: IO, hold: Hold) -> None:
        self._io = io
        self._hold = hold
        self._scope: Scope | None = None
        hold.handles.add(id(self))
        hold.forsaken = False

    def __del__(self) -> None:
        # Only marks: this may run anywhere, between any two instructions.  The watchdog sees it when it looks.
        hold = self._hold
        hold.handles.discard(id(self))
        if not hold.handles:
            hold.forsaken = True

    def __reduce_ex__(self, protocol: object) -> NoReturn:
        # A copy would be given back when the lease that it was taken from goes away.
        raise UsageError(
            f"a lease cannot be copied or pickled (this one is of {self._hold.spec}): share it among threads and "
            "tasks; to go on in another process, pass on what detach() returns, for resume()"
        )

    def _enter(self) -> None:
        if self._scope is not None:
            raise UsageError(f"a block of this lease of {self._hold.spec} was entered already; acquire another lease")
        self._scope = _block.enter(self._io, self._hold)
        INSIDE.set((*INSIDE.get(), self))

    def _leave(self) -> Scope:
        if self._scope is None:
            raise UsageError(f"no block of this lease of {self._hold.spec} was entered")
        INSIDE.set(tuple(other for other in INSIDE.get() if other is not self))
        return self._scope

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._hold.spec.name

    @property
    def fence(self) -> int:
        """A number that is larger than that of every earlier holder of this name.

        Send it along with every write that the lock protects, and the `owner` with it, and let the resource refuse a
        smaller pair than it saw: `FenceGate` and `gridsync.locks.sql` do so, and take the lease itself.  It is the
        larger of the server's clock in microseconds and the last fence plus one, so it rises across a lost key, an
        eviction and a failover as long as no new primary's clock is behind the old one's by more than passed.

        Not guaranteed: that it differs from that of a holder on the other side of a split network, whom the old primary
        granted the lock in the same microsecond.  Their owners differ, so the pairs do.
        """
        return self._hold.fence

    @property
    def owner(self) -> str:
        """This acquisition's identifier, unique among all processes."""
        return self._hold.owner

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

    def serialize(self) -> str:
        """Return this lease as text, for `resume` on a lock of the same name in another process; it is no secret.

        It tells kind, name, key (which has the namespace), owner, fence and ttl.  This process goes on renewing; it is
        for a process that may crash and wants its lease back.  To hand a lease on, `detach` it.

        Raises:
            LeaseLost: It has ended.
        """
        return _resume.write(self._hold)

    def detach(self) -> str:
        """Stop renewing without releasing, and return this lease as text, for `resume` in another process.

        From now on this lease counts as ended here: `check` raises, and the end of a block releases nothing.  Nobody
        renews until it is resumed, for which `expires_in` tells how much time is left: `extend` it first.

        Raises:
            LeaseLost: It has ended.
        """
        text = _resume.write(self._hold)
        self._hold.parted = "was detached, for another process to resume it"
        self._hold.end()
        return text

    def __repr__(self) -> str:
        hold = self._hold
        state = f"lost: {hold.why_lost}" if hold.why_lost else "released" if hold.ended else "held"
        return f"<{type(self).__name__} {hold.spec.name!r} fence={hold.fence} {state}>"


class Lease(ForThreads, LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another thread, which may release it.  A ``with`` block over it ends with its release, and raises
    `LeaseLost` if it was lost on the way; another exception of the block goes on, with a note.

    Keep it: a lease that nothing refers to any more is given back by the watchdog, and so is one whose block was
    entered by a thread that has ended.
    """

    __slots__ = ()

    @property
    def lost(self) -> Loss:
        """A switch that is thrown when the lease is lost: ``is_set()``, ``on_set(callback)``, ``wait(timeout)``.

        It is thrown by the watchdog's thread a little before the server lets the lease go, also when Redis cannot be
        reached.  It is not thrown by a release.
        """
        return Loss(self._hold)

    def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        run_sync(_core.extend(self._hold))

    def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return run_sync(_block.give_back(self._io, self._hold, id(self)))

    def __enter__(self) -> Self:
        self._enter()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        run_sync(_block.leave(self._io, self._hold, id(self), self._leave(), error))


class AsyncLease(ForTasks, LeaseBase):
    """One acquisition of a lock, renewed by the watchdog until it is released or lost.

    May be passed to another task, which may release it.  An ``async with`` block over it ends with its release, and
    behaves like ``asyncio.timeout()``: when the lease is lost, the task that entered the block is cancelled, and the
    block raises `LeaseLost`.  A cancellation from outside wins; another exception of the block goes on, with a note.
    A block that ends in another task than it began in is only told of the loss at its end.

    Keep it: a lease that nothing refers to any more is given back by the watchdog, and so is one whose block was
    entered by a task that has ended.
    """

    __slots__ = ()

    @property
    def lost(self) -> AsyncLoss:
        """A switch that is thrown when the lease is lost: ``is_set()``, ``on_set(callback)``, ``wait(timeout)``.

        It is thrown by the watchdog's thread a little before the server lets the lease go, also when Redis cannot be
        reached.  It is not thrown by a release.
        """
        return AsyncLoss(self._hold)

    async def extend(self) -> None:
        """Renew now, for the lock's whole ttl.

        The watchdog does so by itself; call it before work during which nothing may interfere.

        Raises:
            LeaseLost: It is not ours any more.
            Unavailable: The server could not be reached; the lease runs on for `expires_in`.

        Cost: one round trip, O(1).
        """
        await _core.extend(self._hold)

    async def release(self) -> bool:
        """Give the lock back and wake the next waiter; safe to call again.

        Returns:
            Whether it was ours until now; false if it had been lost before.

        Raises:
            Unavailable: The server could not be reached; it frees the lock when the lease ends.  You may call again.

        Cost: one round trip, O(log waiters).
        """
        return await _block.give_back(self._io, self._hold, id(self))

    async def __aenter__(self) -> Self:
        self._enter()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await _block.leave(self._io, self._hold, id(self), self._leave(), error)
