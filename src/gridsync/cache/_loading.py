"""One load of one key: ask, wait for another loader or be the loader, and store."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from gridsync._io import load
from gridsync._io.copies import MISSING
from gridsync._io.watch import watch
from gridsync.cache._codec import V
from gridsync.cache._entry import packed, unpacked
from gridsync.cache._lease import Lease
from gridsync.errors import OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gridsync._units import Seconds
    from gridsync.cache._core import CacheCore
    from gridsync.cache._flight import Flight

FETCH: Final = load("gridsync.cache", "fetch")
PUT: Final = load("gridsync.cache", "put")
YIELD: Final = load("gridsync.cache", "yield")

LEASE_S: Final = 5.0
"""How long a load is left to a process that does not renew it: one that died."""
LEAST_S: Final = 0.001
"""How soon a waiter looks again at the soonest."""
T = TypeVar("T")
_MINE, _WAIT = 1, 3
"""What `fetch.lua` says; 0 is a fresh entry, 2 an entry that may be served while another caller loads it."""


class Loading(Generic[V]):
    """What is asked for, and by whom."""

    def __init__(
        self,
        core: CacheCore[V],
        key: str,
        loader: Callable[[], Any],
        tags: Sequence[str],
        ttl: Seconds | None,
        *,
        away: bool,
    ) -> None:
        """Ask nobody yet, and not at all if the server is *away*."""
        self._core, self._io, self._away = core, core.io, away
        self.key, self._loader, self._tags, self._ttl = key, loader, tags, ttl
        name = core.key(key)
        self._keys = (name, f"{name}:load")
        self._wake = core.io.wake_prefix(name)
        self._token = core.io.token()
        self._dead = ""
        self._lease_s = LEASE_S
        """How long the lease of another loader lasts."""
        self._found: Any = MISSING

    async def run(self, flight: Flight[V]) -> None:
        """Give *flight* the value."""
        code = None if self._away else await self._core.here(self._ask())
        if code is None:
            # The server is away: what is loaded is stored nowhere, and is for all who wait for it here.
            flight.bring(value := await self._call(), self._core.stored(value))
            flight.current = True
            return
        if code == _MINE:
            await self._load(flight)
        else:
            flight.value = self._found

    async def _ask(self) -> int | None:
        """Return what the server says at last."""
        code = await self._look()
        if code is not None:
            return code
        return await watch(self._io, self._wake, self._token, self._look, None, pause=lambda: self._lease_s)

    async def _look(self) -> int | None:
        """Ask the server; ``None`` if another one loads it and nothing may be served."""
        due = str(self._core.space.due(self._token))
        while True:
            args = (self._token, str(round(LEASE_S * 1000)), due, self._dead)
            code, stored = await self._io.run(FETCH, self._keys, args, timeout=self._core.timeout_s)
            if code == _MINE:
                return _MINE
            if code == _WAIT:
                self._lease_s = max(LEAST_S, stored / 1000)
                return None
            entry = unpacked(stored)
            self._found = MISSING if entry is None else await self._core.value(entry)
            if entry is not None and self._found is not MISSING:
                self._core.saw(self.key, entry.id)
            if entry is None or self._found is not MISSING:
                return int(code)
            # Its tags have other versions now, or it is of another program: for the server it is still there.
            self._dead = entry.id

    async def _load(self, flight: Flight[V]) -> None:
        core, io, space = self._core, self._io, self._core.space
        lease = Lease(self._keys[1], self._token, LEASE_S, io.monotonic())
        io.keep(lease)
        stored = False
        try:
            # Before the load: what is invalidated from here on makes the entry one of the past.
            life_ms = space.life_ms(self._token, self._ttl) + space.stale_ms
            versions = await self._heard(core.versions(self._tags, life_ms))
            began = io.monotonic()
            value = await self._call()
            took = io.monotonic() - began
            core.loaded(took)
            data = core.stored(value)
            flight.bring(value, data)
            core.leave(self.key, flight)
            if versions is not None:
                if value is None:
                    life_ms = space.life_ms(self._token, self._ttl, none=True) + space.stale_ms
                entry = packed(self._token, data, round(took * 1000), space.stale_ms, versions)
                args = (self._token, entry, str(life_ms), self._wake)
                try:
                    put = await self._heard(io.run(PUT, self._keys, args, timeout=core.timeout_s))
                finally:
                    core.changed(self.key)
                stored = put == 1
                flight.current = put is None or (stored and await self._heard(core.known(versions)) in (versions, None))
            else:
                flight.current = True
        finally:
            io.unkeep(lease)
            # A server that is away is not waited for once more: the lease ends by itself.
            if not stored and not self._away:
                io.spawn(self._yield())

    async def _heard(self, asked: Awaitable[T]) -> T | None:
        """Return what the server answers, or ``None``, as `CacheCore.here`, and take note whether it is away."""
        try:
            answer = await self._core.here(asked)
        except (Unavailable, OutcomeUnknown):
            self._away = True
            raise
        self._away = answer is None
        return answer

    async def _yield(self) -> None:
        await self._core.here(self._io.run(YIELD, self._keys[1:], (self._token, self._wake)))

    async def _call(self) -> V:
        value = self._loader()
        if inspect.isawaitable(value):
            value = await value
        loaded: V = value
        return loaded
