"""The exclusive lock: `Lock` for threads, `AsyncLock` for asyncio."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync.errors import UsageError
from gridsync.locks import _spec
from gridsync.locks._base import ttl_ms
from gridsync.locks._taking import AsyncTakable, Takable

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import IO
    from gridsync.errors import LeaseLost

__all__ = ["AsyncLock", "Lock"]


def _of(io: IO, namespace: str, name: str, ttl: _units.Seconds, *, fair: bool, note: str) -> _spec.Spec:
    name = _units.name(name, "a lock's name")
    length = ttl_ms(ttl, f"lock {name!r}")
    if not isinstance(note, str):
        raise UsageError(f"the note of lock {name!r} must be text, not {note!r}")
    return _spec.lock(namespace, name, length, wake=io.wake_prefix, fair=fair, note=note)


class Lock(Takable):
    """An exclusive lock for threads and processes: first come, first served, renewed while held, with a fence.

    Use it as ``with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        fair: Whether it is first come, first served.  If not, a free lock goes to whoever asks next, so that it is
            never idle while one who waits is being woken; whoever has waited for a second comes first all the same.
        note: What others shall read about a holder beside host, process and thread or task; 256 bytes for all of it.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` when a lease is lost, by the watchdog's thread, or by the thread whose
            `check` finds out first.  What it raises is logged.
        reentrant: Whether the thread that holds it may take it again.  The same fence; the last release frees it.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter that dies
    delays the others by at most 1 s once it is its turn, until they look.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    Unless it is reentrant, a thread that asks again for what it holds waits for itself.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, fair=fair, note=note)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)


class AsyncLock(AsyncTakable):
    """An exclusive lock for tasks and processes: first come, first served, renewed while held, with a fence.

    Use it as ``async with lock as lease:``, as a decorator, or with `acquire` and `try_acquire`.

    Args:
        ttl: How long a lease lives without renewal, in seconds: what a crash of the holder costs the others.
        fair: Whether it is first come, first served.  If not, a free lock goes to whoever asks next, so that it is
            never idle while one who waits is being woken; whoever has waited for a second comes first all the same.
        note: What others shall read about a holder beside host, process and thread or task; 256 bytes for all of it.
        max_hold: After how many seconds the watchdog stops renewing, and the lease is lost.
        on_lost: Called once with a `LeaseLost` in the event loop when a lease is lost: a plain function.  What it
            raises is logged.
        reentrant: Whether the task that holds it may take it again; a task that it started may not.  The same fence;
            the last release frees it.

    Guarantee: at most one valid lease at a time on one primary; the fence rises with every holder; a waiter that dies
    delays the others by at most 1 s once it is its turn, until they look;
    a cancelled `acquire` leaves nothing behind; a block whose lease is lost is cancelled.
    Not guaranteed: exclusion across a failover that lost the write, or for a holder that goes on after its lease was
    lost; check the fence where you write.
    Unless it is reentrant, a task that asks again for what it holds waits for itself.
    """

    def __init__(
        self,
        io: IO,
        namespace: str,
        name: str,
        *,
        ttl: _units.Seconds = 10.0,
        fair: bool = True,
        note: str = "",
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        spec = _of(io, namespace, name, ttl, fair=fair, note=note)
        super().__init__(io, spec, max_hold=max_hold, on_lost=on_lost, reentrant=reentrant)
