"""What every kind of lock is: a name, a ttl, and ``with`` blocks that know which lease ends where."""

from __future__ import annotations

from contextvars import ContextVar
from typing import TYPE_CHECKING, Generic, TypeVar

from gridsync import _units
from gridsync.errors import UsageError
from gridsync.locks._lease import LeaseBase

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._spec import Spec

TTL_LEAST_S = 0.01
AnyLease = TypeVar("AnyLease", bound=LeaseBase)
_inside: ContextVar[tuple[LeaseBase, ...]] = ContextVar("gridsync_inside", default=())
"""The leases of the ``with`` blocks that the current task or thread is in, outermost first."""


def ttl_ms(ttl: _units.Seconds, what: str) -> int:
    """Return *ttl* in milliseconds; *what* is named in errors, such as ``lock 'job'``."""
    return round(_units.seconds(ttl, f"the ttl of {what}", least=TTL_LEAST_S) * 1000)


class LockBase(Generic[AnyLease]):
    """What is taken, and by whose io; its only state is who is inside a ``with`` block of this very object."""

    def __init__(self, io: IO, spec: Spec) -> None:
        self._io = io
        self._spec = spec
        self._entered: list[AnyLease] = []

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._spec.name

    @property
    def ttl(self) -> float:
        """How long a lease lives without renewal, in seconds."""
        return self._spec.ttl_ms / 1000

    def _timeout(self, timeout: _units.Seconds | None) -> float | None:
        return None if timeout is None else _units.seconds(timeout, f"the timeout for {self._spec}")

    def _enter(self, lease: AnyLease) -> AnyLease:
        self._entered.append(lease)
        _inside.set((*_inside.get(), lease))
        return lease

    def _exit(self) -> AnyLease:
        # A lost lease's block may still be running when the next one begins: each block ends its own lease.  A block
        # that ends in another context than it began in (a fixture, a framework's dependency) has only the list to go
        # by.
        stack = _inside.get()
        mine = [lease for lease in self._entered if lease in stack]
        if not mine and len(self._entered) == 1:
            mine = self._entered
        if not mine:
            raise UsageError(
                f"cannot tell which block of {self._spec} ends here: {len(self._entered)} blocks were entered "
                f"in other contexts; use acquire() and release()"
            )
        lease = mine[-1]
        self._entered.remove(lease)
        _inside.set(tuple(other for other in stack if other is not lease))
        return lease

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ttl={self.ttl:g}s>"
