"""Locks: leases with a fence, and what else processes need to wait for each other.

================================  ================================================================
`Lock`                            one holder at a time
`MultiLock`                       several locks at once, all or none
`RWLock`                          any number of readers, or one writer
`Semaphore`                       a number of permits
`Election`                        one leader at a time, and those who watch
`OncePer`                         at most one run per period
`Latch`, `Barrier`                wait until things have happened, or for each other
`FenceGate`, `gridsync.locks.sql`  the other half of fencing: what a lock protects checks the fence
================================  ================================================================

Each has a twin for asyncio, `AsyncLock` and so on.  A lock hands out leases: one acquisition, one handle, one fence.
See `gridsync.locks._core` for the states and failure points, and ``lua/`` for what is atomic.
"""

from gridsync.locks._api import AsyncLock, Lock
from gridsync.locks._barrier import AsyncBarrier, Barrier, Passage
from gridsync.locks._base import current
from gridsync.locks._election import AsyncElection, AsyncTerm, Election, Leader, Term
from gridsync.locks._gate import AsyncFenceGate, FenceGate
from gridsync.locks._latch import AsyncLatch, Latch
from gridsync.locks._lease import AsyncLease, AsyncLoss, Lease, Loss
from gridsync.locks._look import Holder, LockInfo, RWLockInfo, SemaphoreInfo, Waiter
from gridsync.locks._look_at_masters import MasterInfo, QuorumInfo
from gridsync.locks._multi import AsyncMultiLease, AsyncMultiLock, MultiLease, MultiLock
from gridsync.locks._once import AsyncOncePer, OncePer, Turn
from gridsync.locks._quorum import AsyncQuorumLock, QuorumLock
from gridsync.locks._rwlock import AsyncRWLock, AsyncSide, RWLock, Side
from gridsync.locks._semaphore import AsyncSemaphore, Semaphore
from gridsync.locks._stamp import Fenced, Stamp

__all__ = [
    "AsyncBarrier",
    "AsyncElection",
    "AsyncFenceGate",
    "AsyncLatch",
    "AsyncLease",
    "AsyncLock",
    "AsyncLoss",
    "AsyncMultiLease",
    "AsyncMultiLock",
    "AsyncOncePer",
    "AsyncQuorumLock",
    "AsyncRWLock",
    "AsyncSemaphore",
    "AsyncSide",
    "AsyncTerm",
    "Barrier",
    "Election",
    "FenceGate",
    "Fenced",
    "Holder",
    "Latch",
    "Leader",
    "Lease",
    "Lock",
    "LockInfo",
    "Loss",
    "MasterInfo",
    "MultiLease",
    "MultiLock",
    "OncePer",
    "Passage",
    "QuorumInfo",
    "QuorumLock",
    "RWLock",
    "RWLockInfo",
    "Semaphore",
    "SemaphoreInfo",
    "Side",
    "Stamp",
    "Term",
    "Turn",
    "Waiter",
    "current",
]
