"""gridsync coordinates processes through Redis or Valkey, for threads and for asyncio.

================================  =====================================================================
`Grid`, `AsyncGrid`               settings, a connection, one factory per primitive
`gridsync.locks`                  exclusive leases with fences, first come first served
`gridsync.limits`                 exact sliding windows
`gridsync.streams`                an event store with expected versions, and consumer groups
`gridsync.errors`                 every exception, in one tree
`gridsync.settings`               the environment variables
`gridsync.embedded`               the private server behind ``embedded://``
`gridsync.testing`                simulation, fault proxy, server fixtures
================================  =====================================================================

Below them lies `gridsync._io`, the only part that touches the network, clocks, threads and loops.
"""

from gridsync.errors import (
    AuthenticationFailed,
    GridsyncError,
    InvalidEvent,
    InvalidLimit,
    InvalidURL,
    LeaseLost,
    LockTimeout,
    Misconfigured,
    NotNow,
    OutcomeUnknown,
    PermissionDenied,
    RateLimited,
    ServerError,
    TLSFailed,
    Unavailable,
    UnknownEventType,
    UsageError,
    WrongVersion,
)
from gridsync.grid import AsyncGrid, Grid
from gridsync.limits import AsyncLimiter, Decision, Limiter, Rate
from gridsync.locks import AsyncLease, AsyncLock, Lease, Lock
from gridsync.settings import Settings

__version__ = "0.1.0"

__all__ = [
    "AsyncGrid",
    "AsyncLease",
    "AsyncLimiter",
    "AsyncLock",
    "AuthenticationFailed",
    "Decision",
    "Grid",
    "GridsyncError",
    "InvalidEvent",
    "InvalidLimit",
    "InvalidURL",
    "Lease",
    "LeaseLost",
    "Limiter",
    "Lock",
    "LockTimeout",
    "Misconfigured",
    "NotNow",
    "OutcomeUnknown",
    "PermissionDenied",
    "Rate",
    "RateLimited",
    "ServerError",
    "Settings",
    "TLSFailed",
    "Unavailable",
    "UnknownEventType",
    "UsageError",
    "WrongVersion",
]
