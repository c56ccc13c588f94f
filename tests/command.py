"""The ``gridsync`` command, as an operator's shell would run it.

Run in this process: a new interpreter would take a second for each of hundreds of calls, ten on a busy machine.  What
a process of its own does differently, signals and exit codes, tests/demo and tests/health show.
"""

from __future__ import annotations

import json
import os
import sys
from typing import TYPE_CHECKING, Any

from typer.testing import CliRunner

from gridsync.cli._app import app
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    import pytest

    from gridsync.testing.cluster import RedisCluster
    from gridsync.testing.servers import RedisServer


def called(*words: str, says: str = "") -> tuple[int, str, str]:
    """Return exit code, standard output and standard error of ``gridsync`` with these words."""
    done = CliRunner().invoke(app, words, input=says)
    if done.exception is not None and not isinstance(done.exception, SystemExit):
        raise done.exception
    return done.exit_code, done.stdout, done.stderr


def forget_test_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the variables away that say which servers and browser the tests have: `gridsync doctor` warns of them."""
    for name in [name for name in os.environ if name.startswith("GRIDSYNC_")]:
        monkeypatch.delenv(name)


class Command:
    """One wing's part of the command, on the namespace of the tests."""

    def __init__(self, wing: str) -> None:
        self._wing = wing

    def words(self, server: RedisServer | RedisCluster | str, *arguments: str) -> list[str]:
        url = server if isinstance(server, str) else server.url
        return [sys.executable, "-m", "gridsync.cli", self._wing, *arguments, "--url", url, "--namespace", NAMESPACE]

    def run(self, server: RedisServer | RedisCluster | str, *arguments: str, says: str = "") -> tuple[int, str, str]:
        return called(*self.words(server, *arguments)[3:], says=says)

    def asked(self, server: RedisServer | RedisCluster, *arguments: str) -> tuple[int, Any]:
        code, output, _ = self.run(server, *arguments, "--json")
        return code, json.loads(output)
