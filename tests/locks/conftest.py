"""Both kinds of lock behind one face, and a look at the keys."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import wake_channel, wake_prefix
from tests.locks.redlocks import five, make_redlock, masters  # noqa: F401 - fixtures
from tests.wire.world import KINDS, NAMESPACE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from gridsync.testing.servers import RedisServer

KEYS = lock_keys(NAMESPACE, "job")


class Look:
    """What the server knows of the lock ``job``."""

    def __init__(self, server: RedisServer) -> None:
        self._server = server

    def owner(self) -> str | None:
        """Return who holds it."""
        found = self._server.command("HGET", KEYS.state, "o")
        return None if found is None else found.decode()

    def waiters(self) -> list[str]:
        """Return who waits, first come first."""
        return [name.decode() for name in self._server.command("ZRANGE", KEYS.queue, 0, -1)]

    def hears(self, waiter: str) -> bool:
        """Tell whether the server has a connection on which *waiter* listens."""
        return self._server.command("PUBSUB", "NUMSUB", wake_channel(wake_prefix(KEYS.state), waiter))[1] > 0

    def free(self) -> bool:
        """Tell whether nobody holds it or waits for it."""
        return not self._server.command("EXISTS", KEYS.state, KEYS.queue, KEYS.alive)

    def left_ms(self) -> int:
        """Return how much longer the server keeps it."""
        left: int = self._server.command("PTTL", KEYS.state)
        return left

    def age(self, left_ms: int) -> None:
        """Let it be as if only *left_ms* were left, however long it was taken for."""
        self._server.command("PEXPIRE", KEYS.state, left_ms)

    def take_away(self) -> None:
        """Do what an eviction or an operator does."""
        self._server.command("DEL", KEYS.state)


@pytest.fixture
def look(flushed: RedisServer) -> Look:
    return Look(flushed)


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, flushed: RedisServer) -> AsyncIterator[World]:
    made = World(request.param, flushed.url)
    yield made
    await made.close()
