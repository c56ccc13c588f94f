"""The ``gridsync`` command in a process of its own, as an operator's shell would run it."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import TYPE_CHECKING, Any

from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from gridsync.testing.cluster import RedisCluster
    from gridsync.testing.servers import RedisServer


class Command:
    """One wing's part of the command, on the namespace of the tests."""

    def __init__(self, wing: str) -> None:
        self._wing = wing

    def words(self, server: RedisServer | RedisCluster | str, *arguments: str) -> list[str]:
        url = server if isinstance(server, str) else server.url
        return [sys.executable, "-m", "gridsync.cli", self._wing, *arguments, "--url", url, "--namespace", NAMESPACE]

    def run(self, server: RedisServer | RedisCluster | str, *arguments: str, says: str = "") -> tuple[int, str, str]:
        words = self.words(server, *arguments)
        done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False, input=says)
        return done.returncode, done.stdout, done.stderr

    def asked(self, server: RedisServer | RedisCluster, *arguments: str) -> tuple[int, Any]:
        code, output, _ = self.run(server, *arguments, "--json")
        return code, json.loads(output)
