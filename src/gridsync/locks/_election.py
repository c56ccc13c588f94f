"""`Election` and `AsyncElection`: one leader at a time, and those who watch."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Generic, Self, TypeVar

from gridsync._io import run_sync
from gridsync._worlds import ForTasks, ForThreads
from gridsync.errors import LeaseLost
from gridsync.locks import _look
from gridsync.locks._lease import AsyncLease, Lease, LeaseBase
from gridsync.locks._term import AWAY, Campaign, Leader

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from types import TracebackType

    from gridsync import _units
    from gridsync._io import IO
    from gridsync.locks._look import LockInfo

__all__ = ["AsyncElection", "AsyncTerm", "Election", "Leader", "Term"]

AnyLease = TypeVar("AnyLease", bound=LeaseBase)


class _TermBase(Generic[AnyLease]):
    """What both kinds of term show."""

    __slots__ = ("_campaign", "_lease")

    def __init__(self, campaign: Campaign, lease: AnyLease) -> None:
        self._campaign = campaign
        self._lease = lease

    @property
    def term(self) -> int:
        """The number of this term: a fence, larger than that of every earlier leader.  See `Lease.fence`."""
        return self._lease.fence

    @property
    def lease(self) -> AnyLease:
        """The lease under which this process leads."""
        return self._lease

    def check(self) -> None:
        """Raise unless this process surely leads.  Costs no round trip.

        Raises:
            LeaseLost: It was deposed, or has resigned.
        """
        self._lease.check()

    def expires_in(self) -> float:
        """Return for how many more seconds this process may count on leading; see `Lease.expires_in`."""
        return self._lease.expires_in()

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.term} of {self._campaign.spec.name!r}>"


class Term(ForThreads, _TermBase[Lease]):
    """One time of leading, from `Election.lead`: use it as ``with term:``.

    Look with `check` before each step: when this process was deposed it raises, and the block ends without an error:
    the loop goes on and campaigns again.  A block that ends by itself resigns; if the server is away, the term ends
    with its lease.
    """

    __slots__ = ()

    def resign(self) -> bool:
        """Stop leading, so that the next candidate takes over at once; safe to call again.

        Returns:
            Whether this process led until now.

        Raises:
            Unavailable: The server could not be reached; the term ends with its lease.

        Cost: two round trips.
        """
        kept = self._lease.release()
        run_sync(self._campaign.proclaim())
        return kept

    def __enter__(self) -> Self:
        self._lease.__enter__()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        deposed = isinstance(error, LeaseLost) and error.fence == self.term
        try:
            self._lease.__exit__(kind, error, traceback)
        except LeaseLost:
            deposed = True
        except AWAY:
            pass  # the term ends with its lease
        run_sync(self._campaign.proclaim())
        return deposed


class AsyncTerm(ForTasks, _TermBase[AsyncLease]):
    """One time of leading, from `AsyncElection.lead`: use it as ``async with term:``.

    The task is cancelled when this process is deposed, and the block ends without an error: the loop goes on and
    campaigns again.  A block that ends by itself resigns; if the server is away, the term ends with its lease.
    """

    __slots__ = ()

    async def resign(self) -> bool:
        """Stop leading, so that the next candidate takes over at once; safe to call again.

        Returns:
            Whether this process led until now.

        Raises:
            Unavailable: The server could not be reached; the term ends with its lease.

        Cost: two round trips.
        """
        kept = await self._lease.release()
        await self._campaign.proclaim()
        return kept

    async def __aenter__(self) -> Self:
        await self._lease.__aenter__()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        deposed = isinstance(error, LeaseLost) and error.fence == self.term
        try:
            await self._lease.__aexit__(kind, error, traceback)
        except LeaseLost:
            deposed = True
        except AWAY:
            pass  # the term ends with its lease
        await self._campaign.proclaim()
        return deposed


class _ElectionBase:
    """An election's name, and what a candidate says."""

    def __init__(self, io: IO, namespace: str, name: str, *, ttl: _units.Seconds = 10.0, value: str = "") -> None:
        self._campaign = Campaign(io, namespace, name, ttl, value)

    @property
    def name(self) -> str:
        """The election's name."""
        return self._campaign.spec.name

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} ttl={self._campaign.spec.ttl_ms / 1000:g}s>"


class Election(_ElectionBase):
    """The election of one leader among threads and processes, again and again.

    Args:
        ttl: How long a term lives without renewal, in seconds: what a crash of the leader costs the others.
        value: What a leader tells about itself, such as its address; at most 128 bytes.

    Guarantee: at most one leader at a time on one primary; the term rises with every leader; a leader learns of its
    deposition before the server lets another one lead; who watches is told of a change by message.
    Not guaranteed: one leader across a failover that lost the write, or while a deposed one goes on: check the term, as
    a fence, where you write.  The order of candidates: whoever asks first when the place is free.
    """

    def lead(self) -> Iterator[Term]:
        """Campaign, and yield a term each time this process leads; for ever.

        A server that is away is no end: a leader is deposed or has resigned, a candidate asks again.

        Yields:
            Terms; enter each with ``with``.  Break out of the loop to stop.

        Raises:
            Misconfigured: The server refuses in a way that no repeat will heal.

        Cost: as a lock's; one round trip more to tell those who watch.
        """
        while True:
            term = Term(self._campaign, Lease(self._campaign.io, run_sync(self._campaign.win())))
            try:
                yield term
            finally:
                with suppress(*AWAY):
                    term.resign()

    def leader(self) -> Leader | None:
        """Return who leads now, as far as the server knows; ``None`` if nobody does.  Cost: one round trip, O(1).

        Raises:
            Unavailable: The server could not be reached.
        """
        return run_sync(self._campaign.leader())

    def watch(self) -> Iterator[Leader | None]:
        """Yield who leads now, and then each change; ``None`` while nobody does.

        Leaders that follow each other faster than the caller takes them are passed over: the last one is what counts.

        Raises:
            Unavailable: The server could not be reached.

        Cost: one round trip for each change, and one every 3.3 s; a leader that died without a successor is noticed
        with the next of these.
        """
        leader = run_sync(self._campaign.leader())
        while True:
            yield leader
            changed = run_sync(self._campaign.change(leader.term if leader else 0, None))
            assert changed is not None  # noqa: S101 - it waits for ever
            (leader,) = changed

    def info(self, *, waiters_max: int = 100) -> LockInfo:
        """Return who leads and which candidates wait, as the server knows it at this moment; a value is a ``note``.

        Args:
            waiters_max: How many candidates to tell at most, those who came first; their number is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log candidates + candidates told); changes nothing.
        """
        return run_sync(_look.look(self._campaign.io, self._campaign.spec, waiters_max))

    def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Depose the leader, and let a candidate take over: for operators, not for programs.

        The leader is told: its term is lost with *reason* within a round trip if it has led for a quarter of a second,
        else with its first renewal.  It may still be at work, or not listen, so the term is raised as well.  If it is
        alive it campaigns again.

        Args:
            reason: What the leader is told; the first 200 characters.
            owner: Only this leader, as `info` told it; default is whoever leads now.

        Returns:
            A number above the old leader's term and below every later one: a resource that is told it refuses the old
            leader at once.  ``None`` if nobody, or another, led.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been deposed; call again, with *owner*.

        Cost: three round trips, and one more without *owner*.
        """
        return run_sync(self._campaign.depose(owner, reason))


class AsyncElection(_ElectionBase):
    """The election of one leader among tasks and processes, again and again.

    Args:
        ttl: How long a term lives without renewal, in seconds: what a crash of the leader costs the others.
        value: What a leader tells about itself, such as its address; at most 128 bytes.

    Guarantee: at most one leader at a time on one primary; the term rises with every leader; a leader learns of its
    deposition before the server lets another one lead; who watches is told of a change by message.
    Not guaranteed: one leader across a failover that lost the write, or while a deposed one goes on: check the term, as
    a fence, where you write.  The order of candidates: whoever asks first when the place is free.
    """

    async def lead(self) -> AsyncIterator[AsyncTerm]:
        """Campaign, and yield a term each time this process leads; for ever.

        A server that is away is no end: a leader is deposed or has resigned, a candidate asks again.

        Yields:
            Terms; enter each with ``async with``.  Break out of the loop to stop.

        Raises:
            Misconfigured: The server refuses in a way that no repeat will heal.

        Cost: as a lock's; one round trip more to tell those who watch.
        """
        while True:
            term = AsyncTerm(self._campaign, AsyncLease(self._campaign.io, await self._campaign.win()))
            try:
                yield term
            finally:
                with suppress(*AWAY):
                    await term.resign()

    async def leader(self) -> Leader | None:
        """Return who leads now, as far as the server knows; ``None`` if nobody does.  Cost: one round trip, O(1).

        Raises:
            Unavailable: The server could not be reached.
        """
        return await self._campaign.leader()

    async def watch(self) -> AsyncIterator[Leader | None]:
        """Yield who leads now, and then each change; ``None`` while nobody does.

        Leaders that follow each other faster than the caller takes them are passed over: the last one is what counts.

        Raises:
            Unavailable: The server could not be reached.

        Cost: one round trip for each change, and one every 3.3 s; a leader that died without a successor is noticed
        with the next of these.
        """
        leader = await self._campaign.leader()
        while True:
            yield leader
            changed = await self._campaign.change(leader.term if leader else 0, None)
            assert changed is not None  # noqa: S101 - it waits for ever
            (leader,) = changed

    async def info(self, *, waiters_max: int = 100) -> LockInfo:
        """Return who leads and which candidates wait, as the server knows it at this moment; a value is a ``note``.

        Args:
            waiters_max: How many candidates to tell at most, those who came first; their number is told anyway.

        Raises:
            UsageError: *waiters_max* is not from 0 to 1000.
            Unavailable: The server could not be reached.

        Cost: one round trip, O(log candidates + candidates told); changes nothing.
        """
        return await _look.look(self._campaign.io, self._campaign.spec, waiters_max)

    async def force_release(self, reason: str, *, owner: str | None = None) -> int | None:
        """Depose the leader, and let a candidate take over: for operators, not for programs.

        The leader is told: its term is lost with *reason* within a round trip if it has led for a quarter of a second,
        else with its first renewal.  It may still be at work, or not listen, so the term is raised as well.  If it is
        alive it campaigns again.

        Args:
            reason: What the leader is told; the first 200 characters.
            owner: Only this leader, as `info` told it; default is whoever leads now.

        Returns:
            A number above the old leader's term and below every later one: a resource that is told it refuses the old
            leader at once.  ``None`` if nobody, or another, led.

        Raises:
            Unavailable: The server could not be reached; call again.
            OutcomeUnknown: It may have been deposed; call again, with *owner*.

        Cost: three round trips, and one more without *owner*.
        """
        return await self._campaign.depose(owner, reason)
