"""Why and when: the decisions of the latch, once for sync and asyncio.

States: closed, with a number that remains; open, for as long as it is kept.  Failure points.  *A lost reply to a count
down*: the repeat carries the same id, which counts once.  *A waiter dies*: it counts as alive for ten seconds and is
forgotten.  *A message is lost*: waiters look by themselves every 3.3 s.

Invariant: what remains never rises, and an open latch never closes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync import _units
from gridsync._io import load
from gridsync._io.keys import LatchKeys
from gridsync._io.keys import latch as latch_keys
from gridsync._io.watch import ALIVE_MS, watch
from gridsync.errors import UsageError, WaitTimeout

if TYPE_CHECKING:
    from gridsync._io import IO

COUNT_DOWN = load("gridsync.locks", "count_down")
LOOK = load("gridsync.locks", "look_at_latch")
COUNT_MAX = 1_000_000


class Countdown:
    """What a latch is, and what can be done with it."""

    def __init__(self, io: IO, namespace: str, name: str, count: int, ttl: _units.Seconds) -> None:
        self.name = _units.name(name, "a latch's name")
        self.count = _units.count(count, f"the count of latch {name!r}", COUNT_MAX)
        self.ttl = _units.seconds(ttl, f"the ttl of latch {name!r}", least=1.0)
        self._io = io
        self._keys: LatchKeys = latch_keys(namespace, name)
        self._wake = io.wake_prefix(self._keys.state)
        self._what = (str(count), str(round(self.ttl * 1000)))

    async def down(self, amount: int, by: str | None) -> int:
        """Lower it by *amount*, unless *by* did so before; return what remains."""
        _units.count(amount, "what is counted down", COUNT_MAX)
        once = self._io.token() if by is None else _units.name(by, "who counts down")
        args = (*self._what, once, str(amount), self._wake)
        return self._rest(await self._io.run(COUNT_DOWN, self._keys, args))

    async def look(self, waiter: str = "", alive_ms: int = 0) -> int:
        """Return what remains; *waiter* waits for the rest to come."""
        keys = (self._keys.state, self._keys.alive)
        return self._rest(await self._io.run(LOOK, keys, (*self._what, waiter, str(alive_ms))))

    async def wait(self, timeout: float | None) -> None:
        """Wait until nothing remains.

        Raises:
            WaitTimeout: Something still remained after *timeout* seconds.
        """
        waiter, started, rest = self._io.token(), self._io.monotonic(), 0

        async def opened() -> bool | None:
            nonlocal rest
            rest = await self.look(waiter, 0 if timeout == 0 else ALIVE_MS)
            return True if rest == 0 else None

        if await watch(self._io, self._wake, waiter, opened, timeout) is None:
            waited = self._io.monotonic() - started
            raise WaitTimeout(
                f"latch {self.name!r} did not open in {waited:.1f} s: {rest} of {self.count} remain; pass a longer "
                f"timeout, or look for who did not count down",
                name=self.name,
                waited_s=waited,
            )

    def _rest(self, reply: list[int]) -> int:
        rest, count = reply
        if count != self.count:
            raise UsageError(f"latch {self.name!r} starts from {count}, not from {self.count}: use one everywhere")
        return rest
