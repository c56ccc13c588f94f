"""Locks: exclusive leases with a fence.

`Lock` and `AsyncLock` hand out leases: one acquisition, one handle, one fence.  `FenceGate` and
`gridsync.locks.sql` are for the resources that a lock protects.  See `gridsync.locks._core` for the
states and failure points, and ``lua/`` for what is atomic.
"""

from gridsync.locks._api import AsyncLock, Lock
from gridsync.locks._barrier import AsyncBarrier, Barrier, Passage
from gridsync.locks._base import current
from gridsync.locks._gate import AsyncFenceGate, FenceGate
from gridsync.locks._latch import AsyncLatch, Latch
from gridsync.locks._lease import AsyncLease, AsyncLoss, Lease, Loss

__all__ = [
    "AsyncBarrier",
    "AsyncFenceGate",
    "AsyncLatch",
    "AsyncLease",
    "AsyncLock",
    "AsyncLoss",
    "Barrier",
    "FenceGate",
    "Latch",
    "Lease",
    "Lock",
    "Loss",
    "Passage",
    "current",
]
