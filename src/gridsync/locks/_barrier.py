"""`Barrier` and `AsyncBarrier`: a fixed number of parties wait for each other."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from gridsync import _units
from gridsync._io import run_sync
from gridsync.locks._rendezvous import Rendezvous

if TYPE_CHECKING:
    from gridsync._io import IO

__all__ = ["AsyncBarrier", "Barrier", "Passage"]


class Passage(NamedTuple):
    """One party's way through a barrier."""

    generation: int
    """How many times the barrier had opened or was reset before, from 0."""
    place: int
    """This party's own number in the generation, from 0; it does not tell who came first."""


class _BarrierBase:
    """A barrier's name and parties; it holds no other state."""

    __slots__ = ("_core",)

    def __init__(self, io: IO, namespace: str, name: str, parties: int, *, ttl: _units.Seconds = 3600.0) -> None:
        self._core = Rendezvous(io, namespace, name, parties, ttl)

    @property
    def name(self) -> str:
        """The barrier's name."""
        return self._core.name

    @property
    def parties(self) -> int:
        """How many must come."""
        return self._core.parties

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} parties={self.parties}>"

    def _timeout(self, timeout: _units.Seconds | None) -> float | None:
        return None if timeout is None else _units.seconds(timeout, f"the timeout for barrier {self.name!r}")


class Barrier(_BarrierBase):
    """A place where a fixed number of threads and processes wait for each other, again and again.

    Args:
        parties: How many must come; the same wherever this name is used.
        ttl: How long the barrier is kept after its last use, in seconds, from 20.

    Guarantee: a generation is passed by exactly as many parties as the barrier has, or by none; a party that dies
    while it waits breaks the barrier for the others within 14 s; nothing polls.
    Not guaranteed: who passes, if more parties come than it has; anything after a failover, flush or eviction that
    lost the keys (who waits is told that it was reset, or waits on); a server's clock that is set forward by ten
    seconds breaks it.
    Source: https://docs.python.org/3/library/threading.html#barrier-objects
    """

    __slots__ = ()

    def wait(self, *, timeout: _units.Seconds | None = None) -> Passage:
        """Block until all parties are here.

        A timeout steps back: the others go on waiting for one more party.

        Args:
            timeout: Longest time to block, in seconds.  ``None`` waits for ever.

        Returns:
            The generation that was passed, and this party's place in it: place 0 is one party's, such as for clean-up.

        Raises:
            WaitTimeout: They did not all come in *timeout* seconds.
            BarrierBroken: A party died, or somebody broke or reset the barrier.
            UsageError: The barrier was made with another number of parties.
            Unavailable: The server could not be reached; if we waited already and could not step back, the barrier
                breaks 10 s later.

        Cost: one round trip to come, one when it opens, and one every 3.3 s; O(parties) when it opens.
        """
        return Passage(*run_sync(self._core.wait(self._timeout(timeout))))

    def abort(self, why: str = "it was aborted") -> int:
        """Break the barrier for all who wait and all who come, until somebody calls `reset`.

        Returns:
            How many parties waited.

        Cost: one round trip, O(parties).
        """
        return run_sync(self._core.order(_units.name(why, "the reason")))

    def reset(self) -> int:
        """Mend the barrier and begin the next generation; whoever waits gets `BarrierBroken`.

        Returns:
            How many parties waited.

        Cost: one round trip, O(parties).
        """
        return run_sync(self._core.order(""))

    def waiting(self) -> int:
        """Return how many parties wait now, those included that died in the last 10 s.  Cost: one round trip, O(1)."""
        return run_sync(self._core.waiting())

    def broken(self) -> str:
        """Return why the barrier is broken; empty if it is not.  Cost: one round trip, O(1)."""
        return run_sync(self._core.broken())


class AsyncBarrier(_BarrierBase):
    """A place where a fixed number of tasks and processes wait for each other, again and again.

    Args:
        parties: How many must come; the same wherever this name is used.
        ttl: How long the barrier is kept after its last use, in seconds, from 20.

    Guarantee: a generation is passed by exactly as many parties as the barrier has, or by none; a party that dies
    while it waits breaks the barrier for the others within 14 s; nothing polls;
    a cancelled `wait` leaves nothing behind.
    Not guaranteed: who passes, if more parties come than it has; anything after a failover, flush or eviction that
    lost the keys (who waits is told that it was reset, or waits on); a server's clock that is set forward by ten
    seconds breaks it.
    Source: https://docs.python.org/3/library/threading.html#barrier-objects
    """

    __slots__ = ()

    async def wait(self, *, timeout: _units.Seconds | None = None) -> Passage:
        """Wait until all parties are here.

        A cancelled call or a timeout steps back: the others go on waiting for one more party.

        Args:
            timeout: Longest time to wait, in seconds.  ``None`` waits for ever.

        Returns:
            The generation that was passed, and this party's place in it: place 0 is one party's, such as for clean-up.

        Raises:
            WaitTimeout: They did not all come in *timeout* seconds.
            BarrierBroken: A party died, or somebody broke or reset the barrier.
            UsageError: The barrier was made with another number of parties.
            Unavailable: The server could not be reached; if we waited already and could not step back, the barrier
                breaks 10 s later.

        Cost: one round trip to come, one when it opens, and one every 3.3 s; O(parties) when it opens.
        """
        return Passage(*await self._core.wait(self._timeout(timeout)))

    async def abort(self, why: str = "it was aborted") -> int:
        """Break the barrier for all who wait and all who come, until somebody calls `reset`.

        Returns:
            How many parties waited.

        Cost: one round trip, O(parties).
        """
        return await self._core.order(_units.name(why, "the reason"))

    async def reset(self) -> int:
        """Mend the barrier and begin the next generation; whoever waits gets `BarrierBroken`.

        Returns:
            How many parties waited.

        Cost: one round trip, O(parties).
        """
        return await self._core.order("")

    async def waiting(self) -> int:
        """Return how many parties wait now, those included that died in the last 10 s.  Cost: one round trip, O(1)."""
        return await self._core.waiting()

    async def broken(self) -> str:
        """Return why the barrier is broken; empty if it is not.  Cost: one round trip, O(1)."""
        return await self._core.broken()
