"""`FenceGate` and `AsyncFenceGate`: writes to Redis that a stale holder of a lock cannot make."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import run_sync
from gridsync.locks import _fenced

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO
    from gridsync.locks._fenced import Word
    from gridsync.locks._stamp import Fenced

__all__ = ["AsyncFenceGate", "FenceGate"]


class _GateBase:
    """Which key is guarded."""

    __slots__ = ("_io", "_key", "_namespace")

    def __init__(self, io: IO, namespace: str, key: str) -> None:
        self._io = io
        self._namespace = namespace
        self._key = _units.name(key, "a key")

    @property
    def key(self) -> str:
        """The key that is guarded, and whose slot the others must share on a cluster."""
        return self._key

    def _set(self, value: Word, ttl: _units.Seconds | None) -> Sequence[Word]:
        if ttl is None:
            return ("SET", self._key, value)
        ms = round(_units.seconds(ttl, f"the ttl of {self._key!r}", least=0.001) * 1000)
        return ("SET", self._key, value, "PX", ms)

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self._key!r}>"


class FenceGate(_GateBase):
    """Writes to one Redis key, and to others of its slot, under the lease of a lock.

    A lock alone cannot stop a holder that stood still while its lease ended.  The gate does: it remembers who wrote
    with the largest fence, and refuses every smaller one, in the same script that writes.

    Guarantee: no write with a smaller fence is applied after one with a larger fence; of two holders with the same
    fence, which a split network may grant, one is refused once the other has written, and it is the same one at every
    gate; a write is applied once, also if its reply was lost or it arrives late.
    Not guaranteed: anything for writers that go round the gate; anything after the gate's own keys were lost (flush,
    eviction, failover) until the next holder wrote.  A gate forgets its fence after a week without a write.
    Cost: one round trip; two small keys beside the guarded one, one of them for 330 s after each write.
    Source: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
    """

    __slots__ = ()

    def set(self, lease: Fenced, value: Word, *, ttl: _units.Seconds | None = None) -> None:
        """Set the guarded key to *value*, for *ttl* seconds or for good.

        Args:
            lease: The `Lease` under which it is written, or its `Stamp`.
            value: Text, bytes or a number.
            ttl: Seconds until the value expires; ``None`` keeps it.

        Raises:
            StaleFence: A later holder wrote before; nothing was written.
            OutcomeUnknown: The server stopped answering; it may have been written.
            Unavailable: The server could not be reached; nothing was written.
        """
        self.write(lease, self._set(value, ttl))

    def write(self, lease: Fenced, *commands: Sequence[Word]) -> None:
        """Run *commands* in one script, all of them or, if the lease is stale, none.

        Args:
            lease: The `Lease` under which they are run, or its `Stamp`.
            *commands: Such as ``("HSET", key, "price", 42)``: commands that write to one key, their first argument.
                On a cluster their keys must be in the slot of the guarded one: ``"{wallet:7}:log"``.

        Raises:
            StaleFence: A later holder wrote before; nothing was written.
            UsageError: A command that is not known to write to just one key.
            ServerError: A command failed, such as one on a key of another type: those before it stay, as in MULTI.
            OutcomeUnknown: The server stopped answering; they may have been run.
            Unavailable: The server could not be reached; nothing was run.
        """
        run_sync(_fenced.write(self._io, self._namespace, self._key, lease, commands))


class AsyncFenceGate(_GateBase):
    """Writes to one Redis key, and to others of its slot, under the lease of a lock.

    A lock alone cannot stop a holder that stood still while its lease ended.  The gate does: it remembers who wrote
    with the largest fence, and refuses every smaller one, in the same script that writes.

    Guarantee: no write with a smaller fence is applied after one with a larger fence; of two holders with the same
    fence, which a split network may grant, one is refused once the other has written, and it is the same one at every
    gate; a write is applied once, also if its reply was lost or it arrives late.
    Not guaranteed: anything for writers that go round the gate; anything after the gate's own keys were lost (flush,
    eviction, failover) until the next holder wrote.  A gate forgets its fence after a week without a write.
    Cost: one round trip; two small keys beside the guarded one, one of them for 330 s after each write.
    Source: https://martin.kleppmann.com/2016/02/08/how-to-do-distributed-locking.html
    """

    __slots__ = ()

    async def set(self, lease: Fenced, value: Word, *, ttl: _units.Seconds | None = None) -> None:
        """Set the guarded key to *value*, for *ttl* seconds or for good.

        Args:
            lease: The `AsyncLease` under which it is written, or its `Stamp`.
            value: Text, bytes or a number.
            ttl: Seconds until the value expires; ``None`` keeps it.

        Raises:
            StaleFence: A later holder wrote before; nothing was written.
            OutcomeUnknown: The server stopped answering; it may have been written.
            Unavailable: The server could not be reached; nothing was written.
        """
        await self.write(lease, self._set(value, ttl))

    async def write(self, lease: Fenced, *commands: Sequence[Word]) -> None:
        """Run *commands* in one script, all of them or, if the lease is stale, none.

        Args:
            lease: The `AsyncLease` under which they are run, or its `Stamp`.
            *commands: Such as ``("HSET", key, "price", 42)``: commands that write to one key, their first argument.
                On a cluster their keys must be in the slot of the guarded one: ``"{wallet:7}:log"``.

        Raises:
            StaleFence: A later holder wrote before; nothing was written.
            UsageError: A command that is not known to write to just one key.
            ServerError: A command failed, such as one on a key of another type: those before it stay, as in MULTI.
            OutcomeUnknown: The server stopped answering; they may have been run.
            Unavailable: The server could not be reached; nothing was run.
        """
        await _fenced.write(self._io, self._namespace, self._key, lease, commands)
