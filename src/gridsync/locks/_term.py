"""Why and when: the decisions of an election, once for sync and asyncio.

To lead is to hold a lock on which nobody queues fairly, so that whoever runs takes over first; the term is its fence.
States: follower, asking for the lock; leader, renewed by the watchdog; deposed, when the lease is lost; resigned.

Failure points.  *The server is away*: a candidate asks again after `AGAIN_S`, for ever; a leader is deposed before its
lease ends on the server; one whose block has ended lets the lease end.  *A leader dies*: candidates come when its lease
ends.  *A message to those who watch is lost*: they look by themselves every 3.3 s.

Invariant: at most one leader at a time on one primary, and the term rises with every leader.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, NamedTuple

from gridsync import _units
from gridsync._io import load
from gridsync._io.keys import watchers
from gridsync._io.watch import ALIVE_MS, watch
from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, UsageError
from gridsync.locks import _about, _core, _look, _spec
from gridsync.locks._base import ttl_ms

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._hold import Hold

PROCLAIM = load("gridsync.locks", "proclaim")
LOOK = load("gridsync.locks", "look_at_leader")
VALUE_BYTES_MAX = 128
AWAY = (Unavailable, OutcomeUnknown)
"""What ends neither a campaign nor a leader's loop."""
AGAIN_S = 0.5
"""How long a candidate waits before it asks a server again that was away."""


class Leader(NamedTuple):
    """Who leads."""

    term: int
    """The leader's fence: larger than that of every earlier leader."""
    value: str
    """What it told about itself."""
    host: str
    """Its machine."""
    pid: int
    """Its process."""
    since_ms: int
    """Since when it leads, in milliseconds of the server's clock (Unix time)."""


class Campaign:
    """What an election is, and what can be done with it."""

    def __init__(self, io: IO, namespace: str, name: str, ttl: _units.Seconds, value: str) -> None:
        ms = ttl_ms(ttl, f"election {name!r}")
        if not isinstance(value, str) or len(value.encode(errors="replace")) > VALUE_BYTES_MAX:
            raise UsageError(f"the value of a candidate must be text of at most {VALUE_BYTES_MAX} bytes")
        _units.name(name, "an election's name")
        self.io = io
        self.spec: _spec.Spec = _spec.lock(
            namespace, name, ms, wake=io.wake_prefix, fair=False, note=value, kind="election"
        )
        self._watchers = watchers(namespace, name)

    async def win(self) -> Hold:
        """Wait until we lead, whatever happens to the server meanwhile, and tell those who watch."""
        while True:
            try:
                hold = await _core.acquire(self.io, self.spec, None)
            except AWAY:
                await self.io.sleep(AGAIN_S)
                continue
            assert hold is not None  # noqa: S101 - it waits for ever
            try:
                await self.proclaim()
            except BaseException:
                self.io.spawn(_core.release(self.io, hold))
                raise
            return hold

    async def proclaim(self) -> None:
        """Tell those who watch to look."""
        # If it fails they look by themselves, a little later.
        with suppress(GridsyncError):
            await self.io.run(PROCLAIM, (self._watchers,), (self.spec.wake,))

    async def depose(self, owner: str | None, reason: str) -> int | None:
        """Take the lead away from *owner*, or from whoever leads now, and tell those who watch."""
        raised = await _look.force_release(self.io, self.spec, owner, reason)
        if raised is not None:
            await self.proclaim()
        return raised

    async def leader(self, watcher: str = "", alive_ms: int = 0) -> Leader | None:
        """Return who leads; *watcher* is told of the next change."""
        keys = (self.spec.keys[0], self._watchers)
        term, _, since_ms, about = await self.io.run(LOOK, keys, (watcher, str(alive_ms)))
        if not term:
            return None
        said = _about.read(about)
        return Leader(term, said.note, said.host, said.pid, since_ms)

    async def change(self, seen: int, timeout: float | None) -> tuple[Leader | None] | None:
        """Wait until another term begins than *seen* (0: nobody led), or it ends; ``None`` after *timeout* seconds."""
        watcher = self.io.token()

        async def differs() -> tuple[Leader | None] | None:
            leader = await self.leader(watcher, 0 if timeout == 0 else ALIVE_MS)
            return None if (leader.term if leader else 0) == seen else (leader,)

        return await watch(self.io, self.spec.wake, watcher, differs, timeout)
