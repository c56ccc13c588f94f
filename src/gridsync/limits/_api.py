"""Limiters: how many calls of one kind are admitted in any window of time.

`Limiter` and `AsyncLimiter` say the same things in two worlds; `Decision` is what they answer.
"""

from __future__ import annotations

from contextlib import asynccontextmanager, contextmanager
from functools import wraps
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from gridsync._io import run_sync
from gridsync._units import read_from as source
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.limits import _waiting
from gridsync.limits._base import WAIT_MAX_S, BaseLimiter
from gridsync.limits._leased import AsyncLeased, Leased

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Coroutine, Iterator

    from gridsync._io import ReadFrom
    from gridsync._units import Seconds
    from gridsync.limits._decision import Decision, Ticket

P = ParamSpec("P")
T = TypeVar("T")


class Limiter(BaseLimiter):
    """A limit that all processes share; made by `Grid.limiter`.

    It may be used by any number of threads, and holds no state but what ``on_error="local"`` counts.

    Args:
        io: The driver.
        namespace: The first part of every key.
        name: The name under which processes share it.
        *rules: One to sixteen rates, such as ``"100/second"`` or ``Rate(100, per_s=1)``, which must all admit a hit:
            exact sliding windows.  Or one rule of another kind: a bucket, such as ``"10/s burst 20"`` or a `GCRA`, a
            `FixedWindow`, an `ApproxWindow`, or `Concurrency`.
        on_error: What decisions are when the server is away, that is, instead of raising `Unavailable` or
            `OutcomeUnknown`: ``"raise"`` those; ``"allow"`` or ``"deny"`` the call; or decide ``"local"``, by windows
            of this process alone.  Nobody waits in line then: `reserve` answers as `hit` does, and `acquire` waits, if
            that is decided ``"local"``, and asks again.  `refund` and `reset` always raise, and so do refusals that no
            waiting heals, such as a wrong password.
        budget: Longest time of one decision, refund or reset, repeats included, in seconds from 0.001; default is the
            command timeout.  Once the server's breaker is open, no time is spent at all.
        share: With ``"local"``, the part of each limit that this process admits by itself, above 0 and at most 1:
            1/n keeps the limit for n processes; ``"auto"`` is 1/n for the n processes that were alive when the server
            was last heard; at least one unit is admitted.
        deny_cache: How many keys' denials are remembered here, up to 1,000,000; 0, the default, asks every time.  A
            denied `hit` is then denied again without asking, for the same cost or more, until its `retry_after` has
            passed.  Not for `Concurrency`, and never for `reserve` and `acquire`.
        resolution: By how much a hit may leave its window late, in seconds, at most the shortest window.  0 gives every
            hit an entry of its own, so that it leaves to the microsecond, and takes about a hundred bytes for each.
            By default that is so for limits up to 40; above, it is a fortieth of the window, and a key takes at most
            2 KB with one rule, and 4 KB with several.

    Raises:
        InvalidLimit: A rule cannot be read or kept, or there are several and not all are sliding windows.
        UsageError: The name is empty, or an option cannot be used.

    Not guaranteed by ``"local"``: the limit where n x share is above 1, nor in a window that holds both hits which the
    server admitted and hits which this process did: a key begins with this process's share of what the server last told
    it was left, and others may have used that.  The server never hears of local hits.  A process keeps 10,000 keys, and
    forgets the one that was hit longest ago.
    Cost of ``share="auto"``: one script of O(log n) every 10 s for each limiter name and process, by the watchdog; a
        sorted set with a member for each process.

    Guarantee of *deny_cache*: a denial that is remembered would be given by the server too, since what is used only
        grows until then; `refund` and `reset` of this object forget it (tests/limits/test_deny_cache.py).
    Not guaranteed by it: that it is known when somebody else gives back, resets the key, or leaves the line: then the
        denial lasts until its `retry_after` has passed; and for a larger cost, that `retry_after` is enough.
    """

    __slots__ = ()

    def hit(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* if every rule has room for them now; otherwise take nothing.

        Args:
            key: Whom to limit, such as a user or an address; each has windows of its own.
            cost: Units, a whole number from 1.

        Returns:
            The decision; it is true if the call is admitted.

        Raises:
            UsageError: *key* is empty or no string, or *cost* is not a whole number from 1.
            Unavailable: The server could not be reached in time; nothing was taken.  With ``on_error="raise"`` only.
            OutcomeUnknown: No answer came, after repeats; it may have been taken.  With ``on_error="raise"`` only.
            ServerError: The key holds something else, or the server refused.

        Guarantee: no window of a rule's length, half-open and on the server's clock, ever admits more than its limit
            (of sliding windows; the other rules say what they promise instead); no call is denied that would have
            fitted if all hits had come later by less than the *resolution*; a denied call writes nothing; a hit that is
            repeated after a lost reply, within the longest window, counts once, on a bucket or a counter if at most
            fifteen others came between, and where hits share entries if fewer than a hundred did, within eleven times
            the resolution (tests/limits/).
        Not guaranteed: the count across a failover, which loses what was not yet replicated, across a step of the
            server's clock, or under an eviction policy that drops keys; and a copy of a lost request that comes after
            its repeat was answered counts as well.
        Cost: one round trip and one script of O(log n) in the entries of the key, by default at most 128.  Of a bucket
            or a counter O(1) and at most 900 bytes.
        """
        self._check(key, cost)
        denials, asking = self._denials, (0.0, 0)
        if denials is not None:
            known = denials.get(key, cost)
            if known is not None:
                return self._remembered(known)
            asking = denials.asking()
        try:
            verdict, hit = run_sync(self._windows.hit(key, cost))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        if denials is not None:
            denials.put(key, cost, verdict, asking)
        return self._decision(verdict, key, cost, hit)

    def enforce(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* as `hit` does, or raise.

        Args:
            key: As `hit`.
            cost: As `hit`.

        Returns:
            The decision, which admits.

        Raises:
            RateLimited: The call is denied and nothing was taken; `RateLimited.retry_after` says when to come again.
            UsageError: As `hit`; and so are `Unavailable`, `OutcomeUnknown` and `ServerError`.

        Cost: as `hit`.
        """
        decision = self.hit(key, cost)
        if not decision.allowed:
            raise self._refusal(decision, key, cost)
        return decision

    def limited(self, key: str | Callable[..., str], *, cost: int = 1) -> Callable[[Callable[P, T]], Callable[P, T]]:
        """Return a decorator: each call of the function is enforced first, and is not made if that raises.

        ::

            @limiter.limited(key=lambda order: order.member)
            def place(order): ...

        Args:
            key: Whom to limit, or a function that tells it from the arguments of the call.
            cost: Units that each call takes.

        Raises:
            UsageError: What is decorated is a coroutine function or a generator; or *cost* is no whole number from 1.
            RateLimited: By the decorated function, and whatever else `enforce` raises.
        """
        self._check("-" if callable(key) else key, cost)

        def decorate(function: Callable[P, T]) -> Callable[P, T]:
            self._refuse(function, coroutine=False)

            @wraps(function)
            def call(*args: P.args, **kwargs: P.kwargs) -> T:
                self.enforce(key(*args, **kwargs) if callable(key) else key, cost)
                return function(*args, **kwargs)

            return call

        return decorate

    def peek(self, key: str, cost: int = 1, *, read_from: ReadFrom = "primary") -> Decision:
        """Say what `hit` would answer now, and take nothing; `Decision.remaining` is what is left without this call.

        Args:
            key: As `hit`.
            cost: As `hit`.
            read_from: Who answers: the ``primary``; a ``replica`` only, for dashboards that shall cost the primary
                nothing; or ``prefer_replica``, a replica if one is fit at the moment.  A replica may lack the newest
                hits, and looks at its own clock.

        Raises:
            UsageError: As `hit`; or *read_from* is ``replica``, and the URL names no replicas.
            Unavailable: The server could not be reached in time.
            ServerError: The key holds something else, or the server refused.

        Cost: one round trip and one script of O(log n) that writes nothing.
        """
        self._check(key, cost)
        try:
            verdict = run_sync(self._windows.peek(key, cost, source(read_from)))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=False)
        return self._decision(verdict)

    def reserve(self, key: str, cost: int = 1, *, max_wait: Seconds) -> Decision:
        """Take *cost* units for *key* at the earliest moment within *max_wait*; otherwise take nothing.

        Args:
            key: As `hit`.
            cost: As `hit`.
            max_wait: How far ahead that moment may lie, in seconds, at most 3,600.

        Returns:
            The decision.  If it admits, make the call in `Decision.delay` seconds and not before, or give the units
            back with `refund`.  If not, `Decision.retry_after` says when the earliest moment is.

        Raises:
            UsageError: As `hit`, *max_wait* is no such number, or the rule is neither sliding windows nor a bucket; the
                others as `hit`.

        Guarantee: who reserves first comes first, and a `hit` that comes later overtakes nobody: it is denied until the
            last reservation's moment has passed.  No window or bucket overflows, whatever is given back
            (tests/limits/test_reserve.py, tests/limits/test_algorithms.py).
        Not guaranteed: that what is given back makes the others' wait shorter: their moments are settled.
        Cost: as `hit`: one round trip however long the wait.
        """
        wait_us = self._wait_us(key, cost, max_wait, "max_wait")
        try:
            verdict, hit, delay_us = run_sync(self._windows.reserve(key, cost, wait_us))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        return self._decision(verdict, key, cost, hit, delay_us)

    def acquire(self, key: str, cost: int = 1, *, timeout: Seconds = WAIT_MAX_S) -> Decision:
        """Reserve *cost* units for *key*, sleep until it is time, and return; callers are served in order of arrival.

        Args:
            key: As `hit`.
            cost: As `hit`.
            timeout: Longest time to wait, in seconds, at most 3,600, which is the default; 0 does not wait.

        Returns:
            The decision, which admits; its `delay` has passed.

        Raises:
            RateLimited: There is no room within *timeout*; that is known, and said, at once, and nothing was taken.
            UsageError: As `reserve`; the others as `hit`.

        Guarantee: as `reserve`; who is interrupted while it waits gives its units back.
        Not guaranteed: that the units of a process that dies while it waits are used by anybody; and the order, while
            the server is away and windows of this process decide.
        Cost: one round trip and one sleep; nothing is asked while it waits.
        """
        wait_us = self._wait_us(key, cost, timeout, "timeout")
        return self._waited(run_sync(_waiting.acquire(self, key, cost, wait_us)), key, cost)

    def refund(self, ticket: Ticket | None) -> bool:
        """Give a hit back, as if it had never been counted: for work that was paid for and not done.

        Args:
            ticket: The `Decision.ticket` of the hit; ``None``, of a call that took nothing, gives nothing back.

        Returns:
            True if it was given back; false if it is not counted any more: it was given back before, it has left every
            window, the bucket is full, or the key was reset; or if it is not known any more, as after 1,000 other hits
            on the key, on a bucket or a counter 15, or where hits share entries after a hundred, or after eleven times
            the resolution.

        Raises:
            UsageError: *ticket* is no ticket.
            Unavailable: The server could not be reached in time; nothing was given back.
            OutcomeUnknown: No answer came, after repeats; it may have been given back.
            ServerError: The key holds something else, or the server refused.

        Guarantee: however often it is called or repeated, a hit is given back once, and no other hit is touched
            (tests/limits/test_refund.py).
        Not guaranteed: that the answer is true only once, if a reply was lost.
        Cost: one round trip and one script of O(m log n) for the m entries that came after it.
        """
        if ticket is None:
            return False
        self._check_ticket(ticket)
        given = run_sync(self._windows.refund(*ticket))
        self._forget(ticket.key)
        return given

    @contextmanager
    def slot(self, key: str, cost: int = 1) -> Iterator[Decision]:
        """Take *cost* slots for *key* for as long as the block runs, or raise; for a limiter of `Concurrency`.

        ::

            with running.slot("exchange"):
                ...

        Args:
            key: As `hit`.
            cost: How many slots.

        Raises:
            RateLimited: Not enough of them are free; `RateLimited.retry_after` says when they will be at the latest.
            UsageError: As `hit`; or the rule is another one.  The others as `hit`.

        Guarantee: who is interrupted on the way in, or while the block runs, leaves no slot taken.
        Not guaranteed: the slots of a block that runs for longer than `Concurrency.ttl_s`: they are free again then.
        Cost: two round trips.
        """
        slots = self._slots()
        decision = self.enforce(key, cost)
        try:
            yield decision
        finally:
            run_sync(slots.leave(decision.ticket))

    def leased(self, key: str, *, ttl: Seconds | None = None, batch: int | None = None) -> Leased:
        """Return permits for *key* that are taken from the server in batches, and then decided on in this process.

        ::

            with limiter.leased("exchange") as permits:
                while permits.hit():
                    ...

        For keys that one process hits far more often than it can ask: a batch lasts for about *ttl* at the pace at
        which it is used, and is never more than half of what is left, shared with the other clients that hold permits.

        Args:
            key: As `hit`.
            ttl: How long the permits of a batch may be used, in seconds, from 0.005 to half of the shortest window;
                default is a twentieth of that, at most 10.
            batch: The most permits of a batch, from 1; default is as many as are used in a ttl.

        Raises:
            UsageError: As `hit`, or an option cannot be used.

        Guarantee: as `Leased.hit`.
        Not guaranteed: that a key is used up to its limit: permits count until their lease ends, which costs up to
            ttl / (ttl + window) of the throughput, a twentieth by default.  A `reset` calls no permits back.
        Cost: nothing until its first `hit`.
        """
        return Leased(self, key, self._leasing(key, ttl, batch))

    def reset(self, key: str) -> None:
        """Forget what *key* has used.

        A reset that is repeated after a lost reply also forgets what was hit in between.

        Raises:
            UsageError: *key* is empty or no string.
            Unavailable: The server could not be reached in time; nothing was forgotten.
            OutcomeUnknown: No answer came, after repeats.

        Cost: one command of O(1); memory is freed in the background.
        """
        self._check(key)
        self._fallback.reset(key)
        run_sync(self._windows.reset(key))
        self._forget(key)


class AsyncLimiter(BaseLimiter):
    """The asyncio twin of `Limiter`: the same arguments, answers, errors and guarantees; made by `AsyncGrid.limiter`.

    It may be used by any number of tasks, and holds no state but what ``on_error="local"`` counts.  A cancelled `hit`
    may have been taken.
    """

    __slots__ = ()

    async def hit(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* if every rule has room for them now; see `Limiter.hit`."""
        self._check(key, cost)
        denials, asking = self._denials, (0.0, 0)
        if denials is not None:
            known = denials.get(key, cost)
            if known is not None:
                return self._remembered(known)
            asking = denials.asking()
        try:
            verdict, hit = await self._windows.hit(key, cost)
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        if denials is not None:
            denials.put(key, cost, verdict, asking)
        return self._decision(verdict, key, cost, hit)

    async def enforce(self, key: str, cost: int = 1) -> Decision:
        """Take *cost* units for *key* as `hit` does, or raise; see `Limiter.enforce`."""
        decision = await self.hit(key, cost)
        if not decision.allowed:
            raise self._refusal(decision, key, cost)
        return decision

    def limited(
        self, key: str | Callable[..., str], *, cost: int = 1
    ) -> Callable[[Callable[P, Coroutine[Any, Any, T]]], Callable[P, Coroutine[Any, Any, T]]]:
        """Return a decorator for a coroutine function: each call is enforced first; see `Limiter.limited`."""
        self._check("-" if callable(key) else key, cost)

        def decorate(function: Callable[P, Coroutine[Any, Any, T]]) -> Callable[P, Coroutine[Any, Any, T]]:
            self._refuse(function, coroutine=True)

            @wraps(function)
            async def call(*args: P.args, **kwargs: P.kwargs) -> T:
                await self.enforce(key(*args, **kwargs) if callable(key) else key, cost)
                return await function(*args, **kwargs)

            return call

        return decorate

    async def peek(self, key: str, cost: int = 1, *, read_from: ReadFrom = "primary") -> Decision:
        """Say what `hit` would answer now, and take nothing; see `Limiter.peek`."""
        self._check(key, cost)
        try:
            verdict = await self._windows.peek(key, cost, source(read_from))
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=False)
        return self._decision(verdict)

    async def reserve(self, key: str, cost: int = 1, *, max_wait: Seconds) -> Decision:
        """Take *cost* units for *key* at the earliest moment within *max_wait*; see `Limiter.reserve`."""
        wait_us = self._wait_us(key, cost, max_wait, "max_wait")
        try:
            verdict, hit, delay_us = await self._windows.reserve(key, cost, wait_us)
        except (Unavailable, OutcomeUnknown) as error:
            return self._degraded(error, key, cost, take=True)
        return self._decision(verdict, key, cost, hit, delay_us)

    async def acquire(self, key: str, cost: int = 1, *, timeout: Seconds = WAIT_MAX_S) -> Decision:
        """Reserve *cost* units for *key*, sleep until it is time, and return; see `Limiter.acquire`."""
        wait_us = self._wait_us(key, cost, timeout, "timeout")
        return self._waited(await _waiting.acquire(self, key, cost, wait_us), key, cost)

    async def refund(self, ticket: Ticket | None) -> bool:
        """Give a hit back, as if it had never been counted; see `Limiter.refund`."""
        if ticket is None:
            return False
        self._check_ticket(ticket)
        given = await self._windows.refund(*ticket)
        self._forget(ticket.key)
        return given

    @asynccontextmanager
    async def slot(self, key: str, cost: int = 1) -> AsyncIterator[Decision]:
        """Take *cost* slots for *key* for as long as the block runs, or raise; see `Limiter.slot`."""
        slots = self._slots()
        decision = await self.enforce(key, cost)
        try:
            yield decision
        finally:
            await slots.leave(decision.ticket)

    def leased(self, key: str, *, ttl: Seconds | None = None, batch: int | None = None) -> AsyncLeased:
        """Return permits for *key* that are taken in batches and decided on here; see `Limiter.leased`."""
        return AsyncLeased(self, key, self._leasing(key, ttl, batch))

    async def reset(self, key: str) -> None:
        """Forget what *key* has used; see `Limiter.reset`."""
        self._check(key)
        self._fallback.reset(key)
        await self._windows.reset(key)
        self._forget(key)
