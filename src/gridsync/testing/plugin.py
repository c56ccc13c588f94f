"""Fixtures for the tests of programs that use gridsync.

In the ``conftest.py`` beside your tests::

    pytest_plugins = ["gridsync.testing.plugin"]

Not loaded by itself: every pytest run on the machine would pay for the import.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.grid import AsyncGrid, Grid
from gridsync.testing.servers import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["async_grid", "grid", "gridsync_server", "gridsync_url"]


@pytest.fixture(scope="session")
def gridsync_server() -> Iterator[RedisServer]:
    """Run one private server for the whole test session; override it to choose another kind or options."""
    with RedisServer() as server:
        yield server


@pytest.fixture
def gridsync_url(gridsync_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the URL of the server, emptied for this test, and put it into ``REDIS_URL`` for the program under test."""
    gridsync_server.start()
    gridsync_server.command("FLUSHALL")
    monkeypatch.setenv("REDIS_URL", gridsync_server.url)
    return gridsync_server.url


@pytest.fixture
def grid(gridsync_url: str) -> Iterator[Grid]:
    """Open a `Grid` on the emptied server, for this test."""
    with Grid(gridsync_url) as opened:
        yield opened


@pytest.fixture
def async_grid(gridsync_url: str) -> AsyncGrid:
    """Return an `AsyncGrid` on the emptied server, for ``async with async_grid``: the test's own loop must open it."""
    return AsyncGrid(gridsync_url)
