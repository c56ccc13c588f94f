"""Several masters, and Redlocks of both kinds over them."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import AsyncRedlock, Redlock
from gridsync._io.keys import lock as lock_keys
from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer
from tests.wire.world import KINDS, done

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator, Sequence

KEYS = lock_keys("gridsync", "job", "redlock")
SURE = {"appendonly": "yes", "appendfsync": "always"}
PATIENT: dict[str, Any] = {"master_timeout": 2.0}
"""A busy machine may let a server wait for longer than a hundredth of a lease."""


@pytest.fixture(scope="module")
def five() -> Iterator[list[RedisServer]]:
    """Five masters that forget nothing, and so may vote at once."""
    servers = [RedisServer(options=SURE) for _ in range(5)]
    try:
        yield servers
    finally:
        for server in servers:
            server.close()


@pytest.fixture
def masters(five: list[RedisServer]) -> Iterator[list[RedisServer]]:
    """Five masters, running and empty; nothing may be left on them that does not expire."""
    for server in five:
        server.start()
        server.resume()
        server.command("FLUSHALL")
    yield five
    for server in five:
        if server.running:
            server.resume()
            with server.client() as client:
                assert not leaked_keys(client)


class Side:
    """A Redlock of either kind, and calls of its kind."""

    def __init__(self, kind: str, urls: Sequence[str], options: dict[str, Any]) -> None:
        self.kind = kind
        self.redlock: Any = (Redlock if kind == "sync" else AsyncRedlock)(urls, **{**PATIENT, **options})

    async def do(self, call: Callable[..., Any], /, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        """Call a method of either kind."""
        if self.kind == "sync":
            return await asyncio.to_thread(call, *args, **options)
        return await done(call(*args, **options))

    def lock(self, **options: Any) -> Any:  # noqa: ANN401 - either kind
        """Return the lock ``job``."""
        return self.redlock.lock("job", **options)


class Maker:
    """Makes Redlocks of one kind, and closes them."""

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.made: list[Side] = []

    async def __call__(self, servers: Sequence[RedisServer | str], **options: Any) -> Side:  # noqa: ANN401
        """Return a Redlock over *servers*, as another process would have."""
        urls = [server if isinstance(server, str) else server.url for server in servers]
        side = (
            await asyncio.to_thread(Side, "sync", urls, options)
            if self.kind == "sync"
            else Side("asyncio", urls, options)
        )
        if self.kind != "sync":
            await side.redlock.open()
        self.made.append(side)
        return side


@pytest.fixture(params=KINDS)
async def make_redlock(request: pytest.FixtureRequest) -> AsyncIterator[Maker]:
    maker = Maker(request.param)
    yield maker
    for side in maker.made:
        await side.do(side.redlock.close)


def owners(servers: Sequence[RedisServer]) -> list[bytes | None]:
    """Return who holds the lock at each master."""
    return [server.command("HGET", KEYS.state, "o") for server in servers]
