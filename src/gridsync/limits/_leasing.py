"""What a client that leases permits decides: how many to ask for, when to give them back, and who asks.

A batch may be used until its ttl has passed since *before* the request left, by this process's clock; the server
counts it as used when its ttl has passed since the request arrived, which is later.  So no permit is used later than it
is counted, and a decision counts whatever lies in its window or in the future: no window ever holds too much.

The ids of leases are ten characters: ``L``, four that name the client, five that count.  With a small ``l`` the rest of
the lease was given back.
"""

from __future__ import annotations

from hashlib import blake2s
from math import ceil
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from gridsync._io import load
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, UsageError
from gridsync.limits._core import UNDO_S

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import Arg, Script
    from gridsync._io.permits import Permits
    from gridsync.limits._core import Verdict, Windows

_LEASE = load("gridsync.limits", "lease")
_GIVE_BACK = load("gridsync.limits", "give_back")

TTL_OF_WINDOW = 20
"""The shortest window lasts so many times as long as a lease, by default: what waits for use is missing elsewhere."""
TTL_MIN_S = 0.005
TTL_MAX_S = 10.0
DRIFT = 0.99
"""The part of a ttl that is used: this machine's clock may be slower than the server's."""
GROWTH = 4
"""How many times more than was used lately is asked for at once, so that one burst does not take everything."""
LOOKS = 2
"""How often in the life of a lease the watchdog looks whether it is idle."""
AGAIN_S = 1.0
"""When the watchdog tries again to give back, if the server was away."""
DENIED_OF_TTL = 4
"""A denial is remembered for at most this part of a ttl: others give back what they do not use."""
TURNS = 2
"""How often a caller waits for another one's request before it asks by itself."""
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"
_CLIENTS, _COUNTED = 36**4, 36**5
_NAME_LENGTH = 9
_INSTANT_S = 1e-6


class Answer(NamedTuple):
    """What a hit is told."""

    verdict: Verdict
    source: Literal["lease", "server", "cache"]
    hit: str = ""
    """Its id, if it was counted by itself."""


class _Lease:
    """One batch: a `Keep`, so that the watchdog gives back what nobody uses."""

    __slots__ = ("_idle_at", "_leasing", "deadline", "due", "granted", "id", "sent", "unused")

    def __init__(self, leasing: Leasing, lease: str, granted: int, left: int, sent: float) -> None:
        self._leasing, self._idle_at = leasing, left
        self.id: str = lease
        self.granted: int = granted
        self.sent: float = sent
        self.unused: int = 0
        """What nobody can take any more, and has to be given back."""
        self.due: float = sent + leasing.ttl_s / LOOKS
        self.deadline: float = sent + leasing.ttl_s + leasing.longest_s
        """When it has left every window by itself."""

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Return the call that gives back the rest, if the time has come or nobody uses it."""
        leasing = self._leasing
        left = leasing.permits.left(self)
        if left and (now >= self.sent + leasing.ttl_s * DRIFT or left == self._idle_at):
            self.unused += leasing.permits.drain(self)
        if self.unused:
            return leasing.give_back_call(self)
        self._idle_at = left
        return None

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - as Keep
        """Go on while there are permits left, or the server has not answered."""
        if reply is None:
            self.due = max(self.due, sent) + self._leasing.ttl_s / LOOKS
            return self._idle_at > 0
        if isinstance(reply, Exception):
            self.due = sent + AGAIN_S
            return sent < self.deadline
        return False


class Leasing:
    """The leases of one client on one subject."""

    def __init__(
        self,
        windows: Windows,
        subject: str,
        rules: Sequence[tuple[int, int]],
        permits: Permits,
        *,
        ttl_s: float,
        most: int,
    ) -> None:
        """Hold nothing yet.

        *rules* are limit and window in microseconds; at most *most* permits are asked for at once, which is no more
        than the least limit.
        """
        self._windows, self._subject = windows, subject
        self.permits = permits
        self.ttl_s: float = ttl_s
        self._most = most
        call = windows.prepared(subject, 1)
        self._io, self._keys, self._timeout = call.io, (call.key,), call.timeout
        longest_us = max(window for _, window in rules)
        self.longest_s: float = longest_us / 1_000_000
        flat = tuple(str(number) for rule in rules for number in rule)
        self._args = (str(int(ttl_s * 1_000_000)), str(windows.tick_us), str(longest_us), *flat)
        self._lease: _Lease | None = None
        self._verdict: Verdict = [0, 0, 0, 0]
        self._denial: tuple[float, float, int, Verdict] = (0.0, float("-inf"), 0, self._verdict)
        """When the server denied what, and until when that is remembered."""
        self._stock = 0
        """How many permits the last lease put here."""
        self._missed = 0
        """What was asked for since then and not found here, in units."""
        self._asked_at = float("-inf")
        self._process, self._next = "", 0
        self.closed: bool = False

    async def refill(self, cost: int) -> Answer:
        """Find *cost* units that are not here: another caller has leased them meanwhile, or lease them, or just hit.

        Raises:
            UsageError: It was closed.
            GridsyncError: As `Windows.hit`.
        """
        if cost > self._most:
            return await self._hit(cost)
        self._missed += cost
        for turn in range(TURNS + 1):
            if self.closed:
                raise UsageError(f"the lease on {self._subject!r} was closed; make a new one")
            now = self._io.monotonic()
            since, until, denied, verdict = self._denial
            if now < until and cost >= denied:
                return Answer([verdict[0] - int((now - since) * 1_000_000), *verdict[1:]], "cache")
            left = self.permits.take(cost)
            if left >= 0:
                return Answer([0, left, *self._verdict[2:]], "lease")
            mine, gate = self._io.signal(), self.permits.gate
            # Whoever is first there asks, and the others wait; appending is one step for all threads.
            gate.append(mine)
            if gate[0] is mine:
                try:
                    return await self._ask(cost)
                finally:
                    self.permits.gate = []
                    mine.set()
            if turn < TURNS:
                await gate[0].wait(self.ttl_s)
        return await self._hit(cost)

    async def _ask(self, cost: int) -> Answer:
        """Take a batch with *cost* in it; if there is no room, the server shall say until when."""
        most = self._welcome(cost)
        sent, name = self._asked_at, self._name()
        granted, *verdict = await self._take(name, cost, most)
        if not granted:
            return await self._hit(cost)
        left, old = granted - cost, self._lease
        lease = _Lease(self, name, granted, left, sent)
        if self._io.monotonic() >= sent + self.ttl_s * DRIFT:
            lease.unused = granted  # it came too late to be used
            self._leave(lease)
            return await self._hit(cost)
        if old is not None and (unused := self.permits.drain(old)):
            old.unused += unused
            self._leave(old)
        self._lease, self._stock, self._verdict = lease, left, [0, *verdict]
        self.permits.fill(left, sent + self.ttl_s * DRIFT, lease)
        if self.closed:
            await self.close()
        elif left:
            self._io.keep(lease)
        return Answer([0, left, *verdict[1:]], "lease")

    async def _take(self, name: str, least: int, most: int) -> list[int]:
        """Take *least* to *most* permits, or none; what an interrupted caller may have taken is given back."""
        args = (name, "0", str(least), str(most), *self._args)
        try:
            granted: list[int] = await self._io.run(_LEASE, self._keys, args, timeout=self._timeout)
        except BaseException as error:
            if not isinstance(error, GridsyncError) or isinstance(error, OutcomeUnknown):
                self._io.spawn(self._io.run(*self._giving_back(name, 0, 0), timeout=UNDO_S))
            raise
        return granted

    async def _hit(self, cost: int) -> Answer:
        verdict, hit = await self._windows.hit(self._subject, cost)
        if verdict[0] > 0:
            now = self._io.monotonic()
            self._denial = (now, now + min(verdict[0] / 1_000_000, self.ttl_s / DENIED_OF_TTL), cost, verdict)
        return Answer(verdict, "server", hit)

    def _welcome(self, cost: int) -> int:
        """Return how many permits would last for a ttl at the pace since the last request."""
        now, old = self._io.monotonic(), self._lease
        unused = 0 if old is None else self.permits.left(old) + old.unused
        used = self._stock - unused + self._missed
        in_a_ttl = used * self.ttl_s / max(now - self._asked_at, _INSTANT_S)
        self._asked_at, self._stock, self._missed = now, unused, 0
        return min(self._most, max(cost, ceil(min(in_a_ttl, GROWTH * used))))

    def _name(self) -> str:
        # Random for each client, and counting from there.  The child of a fork is another client: by its parent's names
        # it would give back what its parent uses.
        if self._process != self._io.process_name:
            self._process = self._io.process_name
            self._next = int.from_bytes(blake2s(self._io.token().encode(), digest_size=8).digest())
        # The upper digits name the client, so they do not count.
        self._next += 1
        number, name = self._next % _COUNTED + self._next // _COUNTED % _CLIENTS * _COUNTED, ""
        for _ in range(_NAME_LENGTH):
            number, digit = divmod(number, len(_DIGITS))
            name = _DIGITS[digit] + name
        return "L" + name

    def give_back_call(self, lease: _Lease) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        """Return the call that gives back what is unused of *lease*."""
        return self._giving_back(lease.id, lease.granted - lease.unused, lease.granted)

    def _giving_back(self, lease: str, used: int, granted: int) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        return _GIVE_BACK, self._keys, (lease, str(used), str(granted), self._args[2])

    def _leave(self, lease: _Lease) -> None:
        """Let the watchdog give back what is unused of *lease*."""
        self._io.unkeep(lease)
        lease.due = self._io.monotonic()
        self._io.keep(lease)

    async def close(self) -> None:
        """Give back what is unused, and lease no more.

        If the server cannot be asked, the watchdog goes on trying; a caller that is interrupted leaves it that, too.
        """
        self.closed = True
        lease = self._lease
        if lease is None:
            return
        lease.unused += self.permits.drain(lease)
        if not lease.unused:
            return
        try:
            script, keys, args = self.give_back_call(lease)
            await self._io.run(script, keys, args, timeout=self._timeout)
        except (Unavailable, OutcomeUnknown):
            self._leave(lease)
        except BaseException:
            self._leave(lease)
            raise
        else:
            self._lease = None
            self._io.unkeep(lease)
