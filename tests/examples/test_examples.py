"""Every example runs, and says what its text promises."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from gridsync.testing.servers import RedisServer, server_kinds

EXAMPLES = Path(__file__).parents[2] / "examples"
SAYS = {
    "lock.py": ["lock 'report' still held", "fence is larger: True", "ten tasks counted to 10"],
    "limiter.py": ["mail 3: sent, 0 left", "mail 4: not now", "at least 0.2 s: True, some were denied: True"],
    "events.py": ["at version 2, expected 0", "it holds 650 Wh", "positions 1 to 100, 100 in all"],
}


def run(name: str, *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_no_example_is_forgotten():
    assert {path.name for path in EXAMPLES.glob("*.py")} == set(SAYS)


@pytest.mark.parametrize("name", SAYS)
def test_an_example_runs_on_a_private_server(name: str):
    told = run(name)
    assert [words for words in SAYS[name] if words not in told] == []


def test_the_examples_leave_nothing_that_does_not_expire():
    with RedisServer(server_kinds()[0]) as server:
        for name in SAYS:
            run(name, server.url)
        assert [key for key in server.command("KEYS", "*") if server.command("TTL", key) < 0] == []
