"""The fixtures that a user's tests get."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

USERS_TESTS = """
import asyncio

import gridsync
import pytest


def test_a_grid(grid):
    with grid.lock("job") as lease:
        lease.check()
    assert grid.client.dbsize() > 0


def test_the_next_test_sees_nothing_of_it(grid):
    assert grid.client.dbsize() == 0


def test_an_async_grid(agrid):
    async def main():
        async with agrid as grid, grid.lock("job") as lease:
            lease.check()

    asyncio.run(main())


def test_the_program_under_test_finds_the_server(gridsync_url):
    with gridsync.Grid() as grid:
        assert grid.embedded is None


def test_that_ends_with_a_frozen_server(gridsync_server, grid):
    gridsync_server.pause()


def test_after_it(grid):
    assert grid.client.dbsize() == 0


def test_a_server_for_this_test_alone(embedded_redis):
    with gridsync.Grid(embedded_redis.url) as grid:
        assert grid.client.dbsize() == 0


def test_a_simulation(simulation):
    async def worker(io):
        io.note("was here")

    sim = simulation(7)
    sim.start("a", worker)
    sim.run(until=1)
    assert len(sim.history) == 1


@pytest.fixture
def gridsync_permanent_keys():
    return "mine:.*"


@pytest.mark.usefixtures("no_leaked_keys")
class TestKeys:
    def test_that_may_stay(self, grid):
        with grid.lock("job"):
            grid.client.set("mine:1", "v")

    def test_that_may_not(self, grid):
        grid.client.set("leak", "v")
"""


def test_a_users_tests_get_an_empty_server_each(tmp_path: Path):
    """A fixture that leaked state from test to test would make a user's tests depend on their order."""
    (tmp_path / "conftest.py").write_text('pytest_plugins = ["gridsync.testing.plugin"]\n', encoding="utf-8")
    (tmp_path / "test_users.py").write_text(USERS_TESTS, encoding="utf-8")
    options = ["-q", "-W", "error", "-p", "no:cacheprovider", "-p", "no:asyncio", "--rootdir", str(tmp_path)]
    ended = subprocess.run(
        [sys.executable, "-m", "pytest", *options, str(tmp_path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert "10 passed, 1 error" in ended.stdout, ended.stdout + ended.stderr
    assert "keys without a TTL: ['leak']" in ended.stdout
