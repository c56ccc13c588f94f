"""gridsync coordinates processes through Redis or Valkey, for threads and for asyncio.

================================  =====================================================================
`Grid`, `AsyncGrid`               settings, a connection, one factory per primitive
`Redlock`, `AsyncRedlock`         locks on a majority of independent masters
`gridsync.locks`                  exclusive leases with fences, first come first served
`gridsync.limits`                 exact sliding windows, buckets, counters, slots
`gridsync.streams`                an event store with expected versions, and consumer groups
`gridsync.cache`                  typed values, loaded by one caller at a time
`gridsync.fanout`                 one publication for every client of every process
`gridsync.market`                 an order book whose every change is an event
`gridsync.health`                 is the server fit for all that?
`gridsync.errors`                 every exception, in one tree
`gridsync.settings`               the environment variables
`gridsync.contrib`                ASGI, FastAPI and httpx, Prometheus; each behind its extra
`gridsync.embedded`               the private server behind ``embedded://``
`gridsync.testing`                simulation, fault proxy, server fixtures
================================  =====================================================================

Below them lies `gridsync._io`, the only part that touches the network, clocks, threads and loops.  The primitives
do not import each other.  What `gridsync.market` appends to an event store, its scripts write by parts of the store's
scripts, and the store is handed to it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

from gridsync.errors import (
    AuthenticationFailed,
    BarrierBroken,
    DeliveryLost,
    Diverged,
    DuplicateOrder,
    GridsyncError,
    HistoryBroken,
    InvalidEvent,
    InvalidLimit,
    InvalidURL,
    InvalidValue,
    LeaseLost,
    LockTimeout,
    LogFull,
    Misconfigured,
    NotDurable,
    NotNow,
    OutcomeUnknown,
    PermissionDenied,
    Promoted,
    RateLimited,
    ReadOnlyStore,
    ServerError,
    StaleFence,
    StaleState,
    TLSFailed,
    Truncated,
    Unavailable,
    UnknownEventType,
    UsageError,
    WaitTimeout,
    WrongVersion,
)

if TYPE_CHECKING:
    from gridsync._io.breaker import StateChange
    from gridsync._io.counts import Stats
    from gridsync.grid import AsyncGrid, Grid
    from gridsync.health import Health
    from gridsync.limits import AsyncLimiter, Decision, Limiter, Rate
    from gridsync.locks import AsyncLease, AsyncLock, Lease, Lock
    from gridsync.redlock import AsyncRedlock, Redlock
    from gridsync.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AsyncGrid",
    "AsyncLease",
    "AsyncLimiter",
    "AsyncLock",
    "AsyncRedlock",
    "AuthenticationFailed",
    "BarrierBroken",
    "Decision",
    "DeliveryLost",
    "Diverged",
    "DuplicateOrder",
    "Grid",
    "GridsyncError",
    "Health",
    "HistoryBroken",
    "InvalidEvent",
    "InvalidLimit",
    "InvalidURL",
    "InvalidValue",
    "Lease",
    "LeaseLost",
    "Limiter",
    "Lock",
    "LockTimeout",
    "LogFull",
    "Misconfigured",
    "NotDurable",
    "NotNow",
    "OutcomeUnknown",
    "PermissionDenied",
    "Promoted",
    "Rate",
    "RateLimited",
    "ReadOnlyStore",
    "Redlock",
    "ServerError",
    "Settings",
    "StaleFence",
    "StaleState",
    "StateChange",
    "Stats",
    "TLSFailed",
    "Truncated",
    "Unavailable",
    "UnknownEventType",
    "UsageError",
    "WaitTimeout",
    "WrongVersion",
]

_LATER = {
    "gridsync._io.breaker": ("StateChange",),
    "gridsync._io.counts": ("Stats",),
    "gridsync.grid": ("AsyncGrid", "Grid"),
    "gridsync.health": ("Health",),
    "gridsync.limits": ("AsyncLimiter", "Decision", "Limiter", "Rate"),
    "gridsync.locks": ("AsyncLease", "AsyncLock", "Lease", "Lock"),
    "gridsync.redlock": ("AsyncRedlock", "Redlock"),
    "gridsync.settings": ("Settings",),
}
"""Imported when they are first used: redis and pydantic take a second together, and `gridsync --help` needs neither."""


if not TYPE_CHECKING:  # a type checker that sees this one takes every misspelt name for an object

    def __getattr__(name: str) -> object:
        for module, names in _LATER.items():
            if name in names:
                globals()[name] = found = getattr(import_module(module), name)
                return found
        raise AttributeError(f"module 'gridsync' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
