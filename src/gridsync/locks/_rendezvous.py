"""Why and when: the decisions of the barrier, once for sync and asyncio.

States of a generation::

    filling ──the last party comes──▶ passed      (the next generation fills)
       └──a party dies, somebody breaks it──▶ broken ──reset──▶ the next generation fills

One arrival has one id, chosen before the first request leaves.  Failure points.  *A lost reply to an arrival*: asking
again finds the id here, or among those who passed.  *A party is cancelled, times out or cannot reach the server*: it
steps back, and learns if the barrier opened in that moment.  *An arrival comes after that*: it would be a party that is
nobody, so a step back leaves a mark that refuses it wherever a request was not answered.  *A party dies*: ten seconds
later whoever looks first breaks the barrier for all, since nobody knows whether its work is done.  *A message is lost*:
parties look by themselves every 3.3 s.

Invariant: a generation is passed by exactly as many parties as the barrier has, or by none.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import Category, Command, load
from gridsync._io.keys import barrier as barrier_keys
from gridsync._io.watch import ALIVE_MS, watch
from gridsync.errors import BarrierBroken, UsageError, WaitTimeout
from gridsync.locks._spec import GONE_MS

if TYPE_CHECKING:
    from gridsync._io import IO

ARRIVE = load("gridsync.locks", "arrive")
STEP_BACK = load("gridsync.locks", "step_back")
BREAK = load("gridsync.locks", "break_barrier")
WAITING = Command("locks.waiting", Category.READ, ("ZCARD",))
WHY = Command("locks.why_broken", Category.READ, ("HGET",))
PARTIES_MAX = 1_000
STEP_BACK_S = 1.0
"""How long a step back may take; without it the barrier breaks when the party counts as dead."""
_WAIT, _PASSED, _BROKEN, _OTHER = range(4)


class Rendezvous:
    """What a barrier is, and what can be done with it."""

    def __init__(self, io: IO, namespace: str, name: str, parties: int, ttl: _units.Seconds) -> None:
        self.name = _units.name(name, "a barrier's name")
        self.parties = _units.count(parties, f"the parties of barrier {name!r}", PARTIES_MAX)
        self.ttl = _units.seconds(ttl, f"the ttl of barrier {name!r}", least=2 * ALIVE_MS / 1000)
        self._io = io
        self._keys = barrier_keys(namespace, name)
        self._wake = io.wake_prefix(self._keys.state)
        self._ttl = str(round(self.ttl * 1000))

    async def wait(self, timeout: float | None) -> tuple[int, int]:
        """Come, and wait until all parties are here; returns the generation and the place, both from 0.

        Raises:
            WaitTimeout: They did not all come in *timeout* seconds; this party stepped back.
            BarrierBroken: It will not open.
        """
        io, party, joined = self._io, self._io.token(), -1
        started, here, ghost, under_way = io.monotonic(), 0, False, False

        async def passed() -> tuple[int, int] | None:
            nonlocal joined, here, ghost, under_way
            args = (party, str(self.parties), str(joined), str(ALIVE_MS), self._ttl, self._wake, "0")
            under_way = True
            state, generation, place, again = await io.run(ARRIVE, self._keys, args)
            under_way, ghost = False, ghost or bool(again)
            if state == _BROKEN:
                raise self._broken(place.decode())
            if state == _OTHER:
                raise UsageError(f"barrier {self.name!r} has {place} parties, not {self.parties}: use one everywhere")
            joined, here = generation, place
            return (generation, place - 1) if state == _PASSED else None

        try:
            found = await watch(io, self._wake, party, passed, timeout)
        except BaseException as error:
            # Where it is broken nobody waits any more, but a request that comes late would, once it is mended.
            if ghost or under_way or not isinstance(error, BarrierBroken | UsageError):
                io.spawn(self._step_back(party, ghost=ghost or under_way))
            raise
        if found is None:
            opened, generation, place = await self._step_back(party, ghost=ghost)
            if not opened:
                waited = io.monotonic() - started
                raise WaitTimeout(
                    f"barrier {self.name!r} did not open in {waited:.1f} s: {here} of {self.parties} parties were "
                    f"here; this one has stepped back",
                    name=self.name,
                    waited_s=waited,
                )
            found = (generation, place - 1)
        return found

    async def _step_back(self, party: str, *, ghost: bool) -> tuple[int, int, int]:
        keys, gone = self._keys[1:], str(GONE_MS if ghost else 0)
        reply = await self._io.run(STEP_BACK, keys, (party, gone), timeout=STEP_BACK_S)
        opened, generation, place = reply
        return opened, generation, place

    async def order(self, why: str) -> int:
        """Break the barrier because of *why*, or mend it if that is empty; returns how many waited."""
        args = (self._io.token(), why, str(self.parties), self._ttl, self._wake)
        waiting: int = await self._io.run(BREAK, (self._keys.state, self._keys.here), args)
        return waiting

    async def waiting(self) -> int:
        """Return how many parties wait now, dead ones of the last ten seconds included."""
        waiting: int = await self._io.run(WAITING, (self._keys.here,))
        return waiting

    async def broken(self) -> str:
        """Return why it is broken; empty if it is not."""
        why: bytes | None = await self._io.run(WHY, (self._keys.state,), ("b",))
        return "" if why is None else why.decode()

    def _broken(self, why: str) -> BarrierBroken:
        return BarrierBroken(
            f"barrier {self.name!r} is broken: {why}; find out what the other parties did, then reset() it",
            name=self.name,
            why=why,
        )
