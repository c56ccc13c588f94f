"""What every kind of lock is: a name, a ttl, and ``with`` blocks that know which lease ends where."""

# ruff: noqa: SLF001 - leases and locks are one family

from __future__ import annotations

import inspect
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridsync import _units
from gridsync.errors import UsageError
from gridsync.locks import _again, _core, _durable, _resume
from gridsync.locks._lease import INSIDE, LeaseBase

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Iterator

    from gridsync._io import IO
    from gridsync.errors import LeaseLost
    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec

TTL_LEAST_S = 0.01
AnyLease = TypeVar("AnyLease", bound=LeaseBase)


def ttl_ms(ttl: _units.Seconds, what: str) -> int:
    """Return *ttl* in milliseconds; *what* is named in errors, such as ``lock 'job'``."""
    return round(_units.seconds(ttl, f"the ttl of {what}", least=TTL_LEAST_S) * 1000)


def current() -> LeaseBase:
    """Return the lease of the innermost ``with`` block, or decorated function, that the caller is in.

    A task that was started inside the block sees it too; ask `check` whether it still holds.

    Raises:
        UsageError: The caller is in no such block.
    """
    leases = INSIDE.get()
    if not leases:
        raise UsageError("current() was called outside of every `with lock:` block and every function under @lock")
    return leases[-1]


def inside(io: IO, spec: Spec) -> Iterator[Hold]:
    """Yield what is held of *spec* by the blocks that this very thread or task is in, those of its parents excluded."""
    for lease in INSIDE.get():
        hold = lease._hold
        here = any(scope.mine() for scope in hold.scopes) and not hold.inherited
        if here and hold.spec.keys == spec.keys and lease._io is io and hold.remaining():
            yield hold


def refuse(decorator: object, function: object, *, coroutine: bool) -> None:
    """Refuse to decorate a function of the other world, or a generator, whose body runs after the call.

    Raises:
        UsageError: It is one of these.
    """
    if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
        raise UsageError(f"{function!r} is a generator: its body runs after the call; use {decorator!r} inside it")
    if inspect.iscoroutinefunction(function) != coroutine:
        wanted = "a coroutine function" if coroutine else "a plain function"
        raise UsageError(f"{decorator!r} can only decorate {wanted}, not {function!r}")


class LockBase(Generic[AnyLease]):
    """What is taken, and by whose io; its only state is who is inside a ``with`` block of this very object.

    Args:
        io: The driver.
        spec: What is taken.
        max_hold: After how many seconds the watchdog stops renewing, and a lease is lost; ``None`` for never.
        on_lost: Called once with a `LeaseLost` when a lease is lost.
        reentrant: Whether the thread or task that holds it may take it again.
    """

    def __init__(
        self,
        io: IO,
        spec: Spec,
        *,
        max_hold: _units.Seconds | None = None,
        on_lost: Callable[[LeaseLost], object] | None = None,
        reentrant: bool = False,
    ) -> None:
        self._io = io
        if inspect.iscoroutinefunction(on_lost):
            raise UsageError(f"on_lost of {spec} must be a plain function: nobody would await what it returns")
        if on_lost is not None and not callable(on_lost):
            raise UsageError(f"on_lost of {spec} must be a function of one LeaseLost, not {on_lost!r:.100}")
        if max_hold is not None:
            spec = replace(spec, max_hold_s=_units.seconds(max_hold, f"max_hold of {spec}", least=TTL_LEAST_S))
        self._spec = spec if on_lost is None else replace(spec, on_lost=on_lost)
        self._reentrant = reentrant
        self._durable = bool(spec.min_replicas or spec.fsync)
        self._entered: list[AnyLease] = []
        self._uses = 0

    @property
    def name(self) -> str:
        """The lock's name."""
        return self._spec.name

    @property
    def ttl(self) -> float:
        """How long a lease lives without renewal, in seconds."""
        return self._spec.ttl_ms / 1000

    def _take(self, timeout: _units.Seconds | None) -> Coroutine[Any, Any, Hold | None]:
        limit = None if timeout is None else _units.seconds(timeout, f"the timeout for {self._spec}")
        if self._reentrant or self._durable:
            return self._take_with_care(limit)
        if limit is None and INSIDE.get():
            self._refuse_itself()
        return self._ask(limit)

    def _refuse_itself(self) -> None:
        """Raise `UsageError` if the current thread or task is in a block that this call would wait for, for ever."""
        for hold in inside(self._io, self._spec):
            if not (hold.spec.shared and self._spec.shared):
                raise UsageError(
                    f"this block holds {hold.spec} already and would wait for itself, for ever: pass reentrant=True to "
                    f"take it again, or a timeout, or use try_acquire()"
                )

    async def _take_with_care(self, limit: float | None) -> Hold | None:
        def ask() -> Coroutine[Any, Any, Hold | None]:
            if limit is None:
                self._refuse_itself()
            return self._ask(limit)

        hold = await (_again.acquire(self._io, self._spec, ask) if self._reentrant else ask())
        if hold is not None and self._durable and not hold.handles:
            await _durable.confirm(self._io, hold)
        return hold

    def _go_on(self, text: str) -> Coroutine[Any, Any, Hold]:
        return _resume.resume(self._io, self._spec, text)

    def _ask(self, timeout: float | None) -> Coroutine[Any, Any, Hold | None]:
        self._uses += 1
        if self._uses == 2:  # noqa: PLR2004 - many locks are used once
            self._spec = self._spec.bound()
        return _core.acquire(self._io, self._spec, timeout)

    def _enter(self, lease: AnyLease) -> AnyLease:
        self._entered.append(lease)
        return lease

    def _exit(self) -> AnyLease:
        # A lost lease's block may still be running when the next one begins: each block ends its own lease.  A block
        # that ends in another context than it began in (a fixture, a framework's dependency) has only the list to go
        # by.  Other threads enter and leave meanwhile: only the stack stands still, the list is asked and copied.
        entered = self._entered
        mine = [lease for lease in INSIDE.get() if lease in entered]
        if not mine and len(others := entered.copy()) == 1:
            mine = others
        if not mine:
            raise UsageError(
                f"cannot tell which block of {self._spec} ends here: {len(entered)} blocks were entered "
                f"in other contexts; use acquire() and release()"
            )
        lease = mine[-1]
        entered.remove(lease)
        return lease

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ttl={self.ttl:g}s>"
