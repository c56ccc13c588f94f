"""One Prometheus for all tests of a module, and servers and programs for it to look at.

What is looked at: a primary under load with its replica, the server of another data centre, and a victim on which the
tests make faults.  It is an error of the machine if the programs are not there: Debian has them as prometheus and
prometheus-redis-exporter, and `.ci/run` installs them; elsewhere the tests are skipped and say so.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import pytest

from gridsync.testing.servers import RedisServer, server_kinds
from tests.monitoring.load import Load, Shown
from tests.monitoring.observatory import Observatory, missing

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass
class World:
    """What there is to look at, and who looks."""

    primary: RedisServer
    replica: RedisServer
    elsewhere: RedisServer
    victim: RedisServer
    load: Load
    shown: Shown
    """A program of the tests."""
    brief: Shown
    """A program that may end."""
    eye: Observatory


@pytest.fixture(scope="session")
def tools() -> None:
    """Skip where Prometheus is not installed; on a machine that runs `.ci/run` it is."""
    lacking = missing()
    if lacking and os.environ.get("CI") and hasattr(os, "geteuid") and os.geteuid() == 0:
        pytest.fail(f"not installed, though .ci/run installs it: {', '.join(lacking)}")
    if lacking:
        pytest.skip(f"not installed: {', '.join(lacking)} (Debian: prometheus, prometheus-redis-exporter)")


# Not for longer than a module: what the load does in this process is seen by the tests of telemetry.
@pytest.fixture(scope="module")
def world(tools: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:  # noqa: ARG001 - looked for first
    folder = tmp_path_factory.mktemp("monitoring")
    kind = server_kinds()[0]
    # Its disk may be full: a limit to the size of files, which it is told by an error and not by a signal.
    hardened = folder / "with-a-limited-disk"
    hardened.write_text(f"#!/bin/sh\ntrap '' XFSZ\nexec {kind.path} \"$@\"\n")
    hardened.chmod(0o755)
    limited = replace(kind, path=str(hardened))
    usual = {"maxmemory": "256mb", "appendonly": "yes", "repl-diskless-sync-delay": "0"}
    with ExitStack() as stack:
        primary = stack.enter_context(RedisServer(kind, options=usual))
        follow = {**usual, "replicaof": f"127.0.0.1 {primary.port}"}
        replica = stack.enter_context(RedisServer(kind, options=follow))
        elsewhere = stack.enter_context(RedisServer(kind, options=usual))
        victim = stack.enter_context(RedisServer(limited, options={**usual, "stop-writes-on-bgsave-error": "no"}))
        load = stack.enter_context(Load(primary.url, elsewhere.url))
        shown, brief = Shown(), Shown()
        stack.callback(shown.close)
        stack.callback(brief.close)
        servers = dict.fromkeys((primary, replica, elsewhere, victim), "coordination")
        eye = stack.enter_context(Observatory(folder / "eye", servers, [load.shown.port, shown.port, brief.port]))
        yield World(primary, replica, elsewhere, victim, load, shown, brief, eye)
        assert not load.errors, load.errors
