"""A server that keeps its data, a proxy before it, traffic, and a history that stays when a test fails."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.proxy import FaultProxy
from gridsync.testing.recorder import Recorder
from gridsync.testing.servers import server_kinds
from tests.as_app import AppServer, AppSet
from tests.wire.world import KINDS, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

    from gridsync.testing.sentinels import SentinelSet
    from gridsync.testing.servers import RedisServer

SAVED = Path(".cache/faults")
_failed = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Iterator[None]:
    """Remember whether the test failed, for `recorder`."""
    report = yield
    item.stash[_failed] = item.stash.get(_failed, False) or report.failed
    return report


@pytest.fixture
def server() -> Iterator[RedisServer]:
    """A server of its own for each test, which loses nothing when it is killed."""
    with AppServer(server_kinds()[0], {"appendonly": "yes", "appendfsync": "always"}) as running:
        yield running


@pytest.fixture
def proxy(server: RedisServer) -> Iterator[FaultProxy]:
    """A proxy before the server."""
    with FaultProxy(server.url) as running:
        yield running


@pytest.fixture
def recorder(request: pytest.FixtureRequest) -> Iterator[Recorder]:
    """What happened, in .cache/faults if the test fails."""
    seed = request.config.option.seed if "fresh_seed" in request.fixturenames else 1
    recorder = Recorder(SAVED / f"{request.node.name.replace('/', '-')}.jsonl", seed=seed)
    recorder.path.write_bytes(b"")  # an older failure's
    yield recorder
    recorder.close()
    if request.node.stash.get(_failed, False):
        print(f"the history is in {recorder.path}")  # noqa: T201 - shown with the failure
    else:
        recorder.path.unlink()


@pytest.fixture(params=KINDS)
async def world(request: pytest.FixtureRequest, server: RedisServer) -> AsyncIterator[World]:
    """Drivers of both kinds."""
    made = World(request.param, server.url)
    yield made
    await made.close()


@pytest.fixture(scope="module", params=server_kinds()[:1], ids=str)
def running(request: pytest.FixtureRequest) -> Iterator[SentinelSet]:
    """A primary, two replicas and three sentinels, for all quick tests."""
    with AppSet(request.param) as started:
        yield started


@pytest.fixture
async def whole(running: SentinelSet) -> AsyncIterator[SentinelSet]:
    """The set, complete and empty; and complete again afterwards."""
    (await asyncio.to_thread(running.wait)).command("FLUSHALL")
    yield running
    for node in (*running.servers, *running.sentinels):
        if node.running:
            node.resume()
        await asyncio.to_thread(running.restart, node)
