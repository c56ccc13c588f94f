"""A driver of either kind whose breaker tells everything, for tests of outages."""

from __future__ import annotations

import asyncio
import contextlib
import os
import resource
from typing import TYPE_CHECKING, Any

from gridsync._io import Category, Command, run_sync
from gridsync._io.guard import Policy
from gridsync._io.wire.endpoint import parse

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync._io.breaker import Breaker, StateChange
    from gridsync._io.guard import Guard
    from tests.wire.world import World

PING = Command("test.ping", Category.READ, ("PING",))
POP = Command("test.pop", Category.NEVER, ("BLPOP",))
TIMEOUT_S = 1.0
LONG_S = 60.0
"""The timeout of a call that must not need it: it would let the test fail by its own bound."""


class Outage:
    """A driver of either kind whose breaker tells everything."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.changes: list[StateChange] = []
        self.io: Any = None
        self.guard: Guard

    def driver(self, url: str, *, timeout: float = TIMEOUT_S, **policy: float) -> Any:  # noqa: ANN401 - either kind
        endpoint = parse(url, connect_timeout=timeout)
        self.guard = endpoint.guard
        self.guard.govern(Policy(**policy), [self.changes.append])  # type: ignore[arg-type]
        self.io = self.world.driver(endpoint, timeout=timeout)
        return self.io

    async def ping(self, timeout: float | None = None) -> Any:  # noqa: ANN401
        return await self.run(PING, timeout=timeout)

    async def run(self, operation: Command, *words: str, timeout: float | None = None) -> Any:  # noqa: ANN401
        if self.world.kind == "asyncio":
            return await self.io.run(operation, words[:1], words[1:], timeout=timeout)
        return await asyncio.to_thread(lambda: run_sync(self.io.run(operation, words[:1], words[1:], timeout=timeout)))

    async def pop(self, wait: float = LONG_S, *, patience_s: float = 0.0) -> Any:  # noqa: ANN401
        """Wait for what never comes, on a connection of its own, for *wait* and an answer for *patience_s* longer."""
        signal = self.io.signal()
        block = lambda: self.io.block(POP, ["l"], [str(wait)], wait=wait + patience_s, stop=signal)  # noqa: E731
        return await (block() if self.world.kind == "asyncio" else asyncio.to_thread(lambda: run_sync(block())))

    @property
    def breaker(self) -> Breaker:
        (breaker,) = self.guard._breakers.values()
        return breaker

    @property
    def path(self) -> list[str]:
        return [change.after for change in self.changes]


async def bounded(*calls: Any) -> list[Any]:  # noqa: ANN401
    """Return what became of calls that must end long before `LONG_S`."""
    return await asyncio.wait_for(asyncio.gather(*calls, return_exceptions=True), 20)


@contextlib.contextmanager
def starved() -> Iterator[None]:
    """Let this process open no descriptor that it has not."""
    free = os.dup(0)
    os.close(free)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
