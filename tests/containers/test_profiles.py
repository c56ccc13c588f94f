"""The profiles of `docker/compose.yaml`, run from a locally built image with what `gridsync setup` writes."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Literal

import pytest
from pydantic import BaseModel

from tests.containers.composing import Stack, connect, docker

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync import Grid
    from gridsync.ops.layout import Layout

pytestmark = [
    pytest.mark.containers,
    pytest.mark.timeout(400),
]


class Ordered(BaseModel):
    """An event."""

    kind: Literal["ordered"] = "ordered"
    kwh: int


@pytest.fixture
def resolve(monkeypatch: pytest.MonkeyPatch) -> Callable[[Stack], None]:
    """Let this process know the containers' names, as those on their network do."""
    unchanged: Callable[..., object] = socket.getaddrinfo

    def known(stack: Stack) -> None:
        addresses = stack.addresses()
        monkeypatch.setattr(
            socket, "getaddrinfo", lambda host, *rest, **named: unchanged(addresses.get(host, host), *rest, **named)
        )

    return known


def use(grid: Grid, version: int) -> int:
    """Lock, limit and append; returns the lock's fence."""
    with grid.lock("epoch", ttl=60) as lease:
        grid.events("orders", Ordered).append("anna", [Ordered(kwh=version)], expected_version=version)
    limiter = grid.limiter(f"orders-{version}", "2/hour")
    assert [limiter.hit("anna").allowed for _ in range(3)] == [True, True, False]
    return lease.fence


def appended(grid: Grid) -> list[int]:
    return [one.event.kwh for one in grid.events("orders", Ordered).read("anna")]


def test_a_single_server_serves_as_app_over_tls_and_its_data_outlives_its_container(layout: Layout, image: str):
    with Stack(layout, image, "single") as stack:
        at = f"127.0.0.1:{stack.ports['redis']}"
        with connect(layout, "rediss", at) as grid:
            use(grid, 0)
            assert grid.client.info("memory")["maxmemory_policy"] == "noeviction"
        with connect(layout, "rediss", f"127.0.0.1:{stack.ports['cache']}") as grid:
            assert grid.client.info("memory")["maxmemory_policy"] == "allkeys-lru"
        contained(stack, layout)
        docker("stop", stack.container("redis"))
        docker("rm", stack.container("redis"))
        stack.up("redis")
        with connect(layout, "rediss", at) as grid:
            assert appended(grid) == [0]


def contained(stack: Stack, layout: Layout) -> None:
    """What the file asks for is what the engine does: whoever gets in can write nothing, and is nobody."""
    status = stack.execute("redis", "cat", "/proc/1/status").stdout
    held = dict(line.split(":\t", 1) for line in status.splitlines() if ":\t" in line)
    assert int(held["CapEff"], 16) == int(held["CapBnd"], 16) == 0
    assert held["NoNewPrivs"] == "1"
    assert "0" not in held["Uid"].split()
    assert "Read-only file system" in stack.execute("redis", "touch", "/usr/bin/mine").stderr
    told = stack.inspect("redis")
    for role in ("app", "health", "replica", "admin"):
        assert layout.password(role).read_text().strip() not in told


def wait_for_agreement(stack: Stack) -> None:
    """Return when each sentinel knows both others, told every 2 s, and both replicas, asked for every 10 s."""
    deadline = time.monotonic() + 60
    for number in (1, 2, 3):
        while True:
            heard = stack.execute(f"sentinel-{number}", "serve", "agreeing").stdout
            if heard.startswith("OK 3 usable") and heard.endswith("replicas known: 2\n"):
                break
            assert time.monotonic() < deadline, heard
            time.sleep(0.1)


def test_a_killed_primary_is_replaced_and_comes_back_as_a_replica(
    layout: Layout, image: str, resolve: Callable[[Stack], None]
):
    # A vote may be split, each sentinel's own; the next one comes after twice the timeout.
    with Stack(layout, image, "sentinel", DOWN_AFTER_MS="3000", FAILOVER_TIMEOUT_MS="5000") as stack:
        resolve(stack)
        with connect(
            layout, "rediss+sentinel", "sentinel-1,sentinel-2,sentinel-3", "/gridsync/0", sentinel_username="app"
        ) as grid:
            before = use(grid, 0)
            assert grid.client.wait(2, 30_000) == 2
            wait_for_agreement(stack)  # else there is nobody to promote: -failover-abort-no-good-slave
            docker("kill", stack.container("redis-1"))
            assert use(grid, 1) > before
            assert appended(grid) == [0, 1]
        docker("start", stack.container("redis-1"))
        stack.wait()
        follows = stack.execute("redis-1", "grep", "^replicaof redis-[23] 6379$", "/data/node.conf")
        assert follows.returncode == 0, "from its first moment, before any sentinel told it"


@pytest.mark.faults
def test_six_nodes_become_one_cluster_which_outlives_its_containers(
    layout: Layout, image: str, resolve: Callable[[Stack], None]
):
    with Stack(layout, image, "cluster") as stack:
        resolve(stack)
        wait_for_end(stack, "cluster-join")
        with connect(layout, "rediss+cluster", "cluster-1:6379,cluster-2:6379", "") as grid:
            before = use(grid, 0)
        stack.down()
        stack.up()
        wait_for_end(stack, "cluster-join")
        with connect(layout, "rediss+cluster", "cluster-1:6379,cluster-2:6379", "") as grid:
            assert use(grid, 1) > before
            assert appended(grid) == [0, 1]


def wait_for_end(stack: Stack, service: str) -> None:
    """Return when a service has done its work."""
    deadline = time.monotonic() + 120
    while not (state := stack.states().get(service, "")).startswith("Exited"):
        assert time.monotonic() < deadline, stack.run("logs", service)
        time.sleep(0.1)
    assert state.startswith("Exited (0)"), stack.run("logs", service)
