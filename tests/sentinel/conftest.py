"""Two servers that a scripted sentinel may name, and a real set of servers and sentinels."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.servers import RedisServer, ServerKind, server_kinds
from tests.as_app import AppSet
from tests.wire.conftest import open_sockets
from tests.wire.fake import eventually

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.sentinels import SentinelSet

Pair = tuple[RedisServer, RedisServer]


@pytest.fixture(scope="module")
def servers() -> Iterator[Pair]:
    """Two servers, for the whole module."""
    options = {"repl-diskless-sync-delay": "0"}
    with RedisServer(options=options) as one, RedisServer(options=options) as two:
        yield one, two


@pytest.fixture
def pair(servers: Pair) -> Pair:
    """Two empty primaries."""
    for server in servers:
        server.command("REPLICAOF", "NO", "ONE")
        server.command("FLUSHALL")
    return servers


def follow(replica: RedisServer, primary: RedisServer) -> None:
    """Make *replica* one of *primary*, and return when it has everything."""
    replica.command("REPLICAOF", primary.host, str(primary.port))
    eventually(lambda: replica.command("ROLE")[3:4] == [b"connected"])


def hand_over(old: RedisServer, new: RedisServer) -> None:
    """Make *new*, a replica of *old* so far, the primary of both; nothing is lost if nobody writes meanwhile."""
    eventually(lambda: caught_up(old, new))
    new.command("REPLICAOF", "NO", "ONE")
    old.command("REPLICAOF", new.host, str(new.port))


def caught_up(old: RedisServer, new: RedisServer) -> bool:
    """Tell whether *new*, a replica of *old*, has everything."""
    with old.client() as one, new.client() as two:
        offset = one.info("replication")["master_repl_offset"]
        return bool(two.info("replication")["slave_repl_offset"] >= offset)


@pytest.fixture(scope="session", params=server_kinds()[:1], ids=str)
def sentinel_set(request: pytest.FixtureRequest) -> Iterator[SentinelSet]:
    """A primary, two replicas and three sentinels of the first kind found."""
    kind: ServerKind = request.param
    with AppSet(kind) as running:
        yield running


@pytest.fixture
def healthy(sentinel_set: SentinelSet) -> SentinelSet:
    """The set, with everything running and empty."""
    for server in (*sentinel_set.servers, *sentinel_set.sentinels):
        sentinel_set.restart(server)
    sentinel_set.wait().command("FLUSHALL")
    return sentinel_set


@pytest.fixture(autouse=True)
def nothing_left() -> Iterator[None]:
    """Fails a test that leaves threads or sockets of gridsync."""

    def threads() -> set[str]:
        return {thread.name for thread in threading.enumerate() if thread.name.startswith("gridsync")}

    before, sockets = threads(), open_sockets()
    yield
    gc.collect()
    eventually(lambda: threads() <= before)
    eventually(lambda: open_sockets() <= sockets)
