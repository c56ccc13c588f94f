"""The profiles that need more than a server: the market in its image, and what looks after the servers.

Their images are those that `GRIDSYNC_TEST_PYTHON` and `GRIDSYNC_TEST_MONITORING` name, or are made of Debian's own
packages in a few minutes where this is root on Debian.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.containers.composing import Stack, connect

if TYPE_CHECKING:
    from gridsync.ops.layout import Layout

pytestmark = [pytest.mark.containers, pytest.mark.faults, pytest.mark.timeout(1800)]

ROOT = Path(__file__).parents[2]


def debian_with(variable: str, *packages: str) -> str:
    """Return an image that has the packages: the one that *variable* names, or one of this machine's making."""
    if named := os.environ.get(variable):
        return named
    if os.geteuid() != 0 or shutil.which("debootstrap") is None:
        pytest.skip(f"not root on Debian; name an image with {variable}")
    tag = f"gridsync-test/{packages[0]}"
    built(str(ROOT / "docker" / "test-redis" / "build"), tag, *packages)
    return tag


def built(*command: str) -> None:
    done = subprocess.run(
        command, capture_output=True, text=True, check=False, env={**os.environ, "DOCKER_BUILDKIT": "0"}
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]


def test_the_market_is_built_and_keeps_every_promise_on_the_hardened_server(layout: Layout, image: str):
    """Its processes reach the server by TLS, as app, with a password from a file, on a disk that they cannot write."""
    market = "gridsync-test/market"
    base = debian_with("GRIDSYNC_TEST_PYTHON", "python3-venv", "ca-certificates")
    indexes = [f"--build-arg={name}" for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL") if name in os.environ]
    built(
        str(shutil.which("docker")), "build", "--network=host", f"--build-arg=PYTHON={base}", *indexes,
        f"--file={ROOT / 'docker' / 'market' / 'Dockerfile'}", f"--tag={market}", str(ROOT),
    )  # fmt: skip
    with Stack(layout, image, "single", MARKET_IMAGE=market, QUARTERS="1") as stack:
        told = stack.run("run", "--rm", "-T", "market")
        assert (told.count("✓"), told.count("✗")) == (7, 0), told
        assert "6 processes were killed" in told
        with connect(layout, "rediss", f"127.0.0.1:{stack.ports['redis']}") as grid:
            assert grid.client.info("commandstats")["cmdstat_evalsha"]["calls"] > 1000, "it was this server"


def test_prometheus_sees_the_servers_through_the_exporter_with_a_password_of_its_own(layout: Layout, image: str):
    """Grafana is on no mirror of Debian's; tests/monitoring puts its panels' queries to a Prometheus."""
    tools = debian_with("GRIDSYNC_TEST_MONITORING", "prometheus", "prometheus-redis-exporter", "wget")
    with Stack(layout, image, "single", EXPORTER_IMAGE=tools, PROMETHEUS_IMAGE=tools) as stack:
        stack.up("exporter", "prometheus")
        for server in ("redis:6379", "cache:6379"):
            wait_for(stack, f'redis_up{{instance="{server}"}} == 1')
        wait_for(stack, 'redis_memory_max_bytes{data="cache"} > 0')


def wait_for(stack: Stack, query: str) -> list[Any]:
    """Return what Prometheus answers, as soon as that is something."""
    asked = f"http://127.0.0.1:{stack.ports['prometheus']}/api/v1/query?{urllib.parse.urlencode({'query': query})}"
    deadline = time.monotonic() + 120
    while True:
        with urllib.request.urlopen(asked, timeout=30) as answer:
            found: list[Any] = json.load(answer)["data"]["result"]
        if found:
            return found
        assert time.monotonic() < deadline, (query, stack.run("logs", "exporter", "prometheus", "--tail", "20"))
        time.sleep(0.2)
