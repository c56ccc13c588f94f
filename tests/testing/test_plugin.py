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


def test_a_grid(grid):
    with grid.lock("job") as lease:
        lease.check()
    assert grid.client.dbsize() > 0


def test_the_next_test_sees_nothing_of_it(grid):
    assert grid.client.dbsize() == 0


def test_an_async_grid(async_grid):
    async def main():
        async with async_grid as grid, grid.lock("job") as lease:
            lease.check()

    asyncio.run(main())


def test_the_program_under_test_finds_the_server(gridsync_url):
    with gridsync.Grid() as grid:
        assert grid.embedded is None
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
    assert "4 passed" in ended.stdout, ended.stdout + ended.stderr
