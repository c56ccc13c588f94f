"""Real servers of every kind found on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer, ServerKind, server_kinds

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="session", params=server_kinds(), ids=str)
def server(request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """A running server, once per kind found; not emptied between tests (see `flushed`)."""
    kind: ServerKind = request.param
    with RedisServer(kind) as running:
        yield running


@pytest.fixture
def flushed(server: RedisServer, request: pytest.FixtureRequest) -> Iterator[RedisServer]:
    """The server, empty; fails the test if it leaves a key that neither expires nor may stay for ever.

    A test that leaves such keys on purpose says so: ``@pytest.mark.leaves_keys``.
    """
    server.start()
    server.command("FLUSHALL")
    yield server
    if request.node.get_closest_marker("leaves_keys") is None and server.running:
        with server.client() as client:
            leaked = leaked_keys(client)
        assert not leaked, f"keys without a TTL that no one listed as permanent: {leaked}"
