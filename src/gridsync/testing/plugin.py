"""Fixtures for the tests of programs that use gridsync.

In the ``conftest.py`` beside your tests::

    pytest_plugins = ["gridsync.testing.plugin"]

Not loaded by itself: every pytest run on the machine would pay for the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.embedded import EmbeddedServer, open_embedded
from gridsync.grid import AsyncGrid, Grid
from gridsync.testing.leaks import leaked_keys
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync.testing.sim import Simulation

__all__ = [
    "agrid",
    "embedded_redis",
    "grid",
    "gridsync_permanent_keys",
    "gridsync_server",
    "gridsync_url",
    "no_leaked_keys",
    "simulation",
]


@pytest.fixture(scope="session")
def gridsync_server() -> Iterator[RedisServer]:
    """Run one private server for the whole test session; override it to choose another kind or options."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def gridsync_url(gridsync_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of the server, emptied for this test, and put it into ``REDIS_URL`` for the program under test."""
    gridsync_server.start()
    gridsync_server.resume()  # a test that failed with the server frozen must not take those after it along
    gridsync_server.command("FLUSHALL")
    monkeypatch.setenv("REDIS_URL", gridsync_server.url)
    return gridsync_server.url


@pytest.fixture
def grid(gridsync_url: str) -> Iterator[Grid]:
    """Open a `Grid` on the emptied server, for this test."""
    with Grid(gridsync_url) as opened:
        yield opened


@pytest.fixture
def agrid(gridsync_url: str) -> AsyncGrid:
    """Return an `AsyncGrid` on the emptied server for ``async with agrid as grid``: the test's own loop opens it."""
    return AsyncGrid(gridsync_url)


@pytest.fixture
def embedded_redis() -> Iterator[EmbeddedServer]:
    """Start a private server for this test alone, as ``embedded://`` does; ``embedded_redis.url`` reaches it."""
    with open_embedded("embedded://") as server:
        yield server


@pytest.fixture
def simulation() -> Callable[..., Simulation]:
    """Return `gridsync.testing.sim.Simulation`: ``simulation(seed, faults=…)`` sets the stage for one run.

    Skips the test where the extra ``testing`` is not installed.
    """
    pytest.importorskip("lupa", reason="a simulation needs lupa: pip install 'gridsync-redis[testing]'")
    from gridsync.testing.sim import Simulation  # noqa: PLC0415 - needs lupa

    return Simulation


@pytest.fixture
def gridsync_permanent_keys() -> str | None:
    """Return a regular expression of keys that may stay for ever, for `no_leaked_keys`; override it to name yours."""
    return None


@pytest.fixture
def no_leaked_keys(
    gridsync_server: RedisServer,
    gridsync_url: str,  # noqa: ARG001 - empties the server first
    gridsync_permanent_keys: str | None,
) -> Iterator[None]:
    """Fail the test if it leaves keys that neither expire nor belong to an event store.

    Opt in with ``pytest.mark.usefixtures("no_leaked_keys")``, on a test, a class or as ``pytestmark`` of a module.
    """
    yield
    if gridsync_server.running:
        with gridsync_server.client() as client:
            leaked = leaked_keys(client, permanent=gridsync_permanent_keys)
        assert not leaked, f"keys without a TTL: {leaked}"
