"""Everything that can be held, behind one face, so that one test makes its claim for each way of holding."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync import locks
from gridsync._io import run_sync
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import share as share_keys
from gridsync.locks import AsyncLease, Lease
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.keys import LockKeys, ShareKeys
    from gridsync.locks._lease import LeaseBase
    from tests.wire.world import World

WAYS = ["lock", "unfair lock", "write lock", "read lock", "permits", "multi-lock", "election"]
FAIR = ["lock", "write lock", "permits", "multi-lock"]
"""Those whose waiters are served in order of arrival, and one at a time."""
PERMITS = 3
"""Of a semaphore, of which one who holds *permits* has two: a second one has to wait."""


class _Candidate:
    """Leads by `acquire`, as a lock is taken; nobody gives up."""

    def __init__(self, io: Any, election: Any) -> None:
        self._io = io
        self._campaign = election._campaign


class Candidate(_Candidate):
    """As a lock of threads."""

    def acquire(self, *, timeout: float | None = None) -> Lease:  # noqa: ARG002 - as a lock's
        return Lease(self._io, run_sync(self._campaign.win()))


class AsyncCandidate(_Candidate):
    """As a lock of tasks."""

    async def acquire(self, *, timeout: float | None = None) -> AsyncLease:  # noqa: ARG002 - as a lock's
        return AsyncLease(self._io, await self._campaign.win())


def made(kind: str, io: Any, way: str, *, name: str = "job", ttl: float = 10.0, namespace: str = NAMESPACE) -> Any:
    """Return what is taken in this *way*, for threads or tasks."""

    def of(what: str, *args: Any, **options: Any) -> Any:
        return getattr(locks, what if kind == "sync" else f"Async{what}")(io, namespace, *args, ttl=ttl, **options)

    match way:
        case "lock" | "unfair lock":
            return of("Lock", name, fair=way == "lock")
        case "write lock":
            return of("RWLock", name).write
        case "read lock":
            return of("RWLock", name).read
        case "permits":
            return of("Semaphore", name, PERMITS, permits=2)
        case "multi-lock":
            return of("MultiLock", name, f"{name} too")
    return (Candidate if kind == "sync" else AsyncCandidate)(io, of("Election", name))


def taker(world: World, way: str, io: Any = None, **options: Any) -> Any:
    """Return what is taken in this *way*, by an io of its own by default."""
    return made(world.kind, world.io() if io is None else io, way, **options)


def rival(way: str) -> str:
    """Return in what way somebody has to wait for one who holds in this *way*."""
    return "write lock" if way == "read lock" else way


def keys(way: str, name: str = "job") -> LockKeys | ShareKeys:
    """Return the keys; a multi-lock's are those of the lock that it takes first."""
    match way:
        case "write lock" | "read lock":
            return share_keys(NAMESPACE, "rwlock", name)
        case "permits":
            return share_keys(NAMESPACE, "semaphore", name)
        case "election":
            return lock_keys(NAMESPACE, name, "election")
    return lock_keys(NAMESPACE, name)


def held_key(way: str, name: str = "job") -> str:
    """Return the key that exists as long as somebody holds it."""
    found = keys(way, name)
    return getattr(found, "held", found.state)


def each(lease: Any) -> list[LeaseBase]:
    """Return the leases of which *lease* is made."""
    return list(lease.leases.values()) if hasattr(lease, "leases") else [lease]


def fence(lease: Any) -> int:
    """Return the fence of *lease*; a multi-lock's first one."""
    return each(lease)[0].fence


def renew_now(lease: Any) -> Callable[[], bool]:
    """Let the watchdog renew *lease* at once, which nobody has to wait for then; returns what tells whether it has."""
    hold = lease._hold
    due = hold.due = hold.renew_at = lease._io.monotonic()
    lease._io.keep(hold)
    return lambda: hold.renew_at > due or hold.ended


def lost(lease: Any) -> bool:
    """Tell whether all of it is known to be lost."""
    return all(one.lost.is_set() for one in each(lease))
