"""A Redis in a container, from the image that GRIDSYNC_TEST_IMAGE names."""

from __future__ import annotations

import gc
import os
import subprocess
import sys
import time
import warnings
from contextlib import ExitStack, closing, suppress
from typing import TYPE_CHECKING

import docker
import pytest
import redis
from docker.errors import DockerException, ImageNotFound
from redis.backoff import NoBackoff
from redis.retry import Retry
from testcontainers.core.config import testcontainers_config
from testcontainers.core.container import DockerContainer

from gridsync.ops.layout import Layout
from gridsync.testing._certificates import write_certificates
from gridsync.testing.servers import free_port
from tests.containers.composing import compose_commands

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

# The reaper is an image of its own, which a machine without a registry cannot have; fixtures remove what they start.
testcontainers_config.ryuk_disabled = True
testcontainers_config.tc_host_override = "127.0.0.1"

IMAGE = os.environ.get("GRIDSYNC_TEST_IMAGE") or "redis:7-alpine"
CERTIFICATES = "/tmp"  # noqa: S108 - inside the container, where every image has it
READY_WITHIN_S = 30.0


@pytest.fixture(scope="session")
def image() -> str:
    """The image's name; skips where no engine answers, or where an image that nobody named cannot be had."""
    if why := missing():
        pytest.skip(why)
    return IMAGE


def missing() -> str | None:
    """Say what keeps containers from running here."""
    with warnings.catch_warnings():
        # docker-py leaves the socket of a connection that failed to the garbage collector.
        warnings.simplefilter("ignore", ResourceWarning)
        try:
            engine = docker.from_env(timeout=60)
        except DockerException as error:
            why = f"no container engine answers: {error}"
        else:
            why = None
        gc.collect()
    if why is not None:
        return why
    with closing(engine):
        try:
            engine.images.get(IMAGE)
        except ImageNotFound:
            if "GRIDSYNC_TEST_IMAGE" in os.environ:
                raise
            try:
                engine.images.pull(IMAGE)
            except DockerException as error:
                return f"the image {IMAGE} is not here and cannot be pulled; name one with GRIDSYNC_TEST_IMAGE: {error}"
    return None


class RedisInContainer:
    """One container with a Redis on a fixed port of the loopback address, so that it keeps its port when restarted."""

    def __init__(
        self, image: str, *arguments: str, password: str | None = None, certificates: Path | None = None
    ) -> None:
        # Every address of the container, of which the engine hands on the one port below.
        command = ["redis-server", "--bind", "0.0.0.0", "--protected-mode", "no", "--save", "", *arguments]  # noqa: S104
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        if password is not None:
            command += ["--requirepass", password]
            self.url = f"redis://:{password}@127.0.0.1:{self.port}/0"
        if certificates is not None:
            command += ["--port", "0", "--tls-port", "6379", "--tls-auth-clients", "no"]
            for option, file in (("ca-cert", "ca.pem"), ("cert", "server.pem"), ("key", "server.key")):
                command += [f"--tls-{option}-file", f"{CERTIFICATES}/{file}"]
            self.url = f"rediss://127.0.0.1:{self.port}/0?ssl_ca_certs={certificates / 'ca.pem'}"
        self.container = DockerContainer(image).with_command(command)
        self.container.ports["6379/tcp"] = ("127.0.0.1", self.port)
        if certificates is not None:
            for file in ("ca.pem", "server.pem", "server.key"):
                self.container.with_copy_into_container(
                    (certificates / file).read_bytes(), f"{CERTIFICATES}/{file}", 0o644
                )

    def wait(self) -> None:
        """Return when it answers PING."""
        deadline = time.monotonic() + READY_WITHIN_S
        with redis.Redis.from_url(self.url, socket_timeout=1, retry=Retry(NoBackoff(), 0)) as client:
            while time.monotonic() < deadline:
                with suppress(redis.ConnectionError, redis.TimeoutError):
                    client.ping()
                    return
                time.sleep(0.02)
        pytest.fail(f"no PONG within {READY_WITHIN_S:g} s; the container says:\n{self.container.get_logs()}")

    def restart(self) -> None:
        """Stop and start the container; its clients see their connections end and refused for a while."""
        self.container.get_wrapped_container().restart(timeout=5)
        self.wait()


@pytest.fixture
def start_redis(image: str) -> Iterator[Callable[..., RedisInContainer]]:
    """Start containers that end with the test."""
    with ExitStack() as stack:

        def start(*arguments: str, password: str | None = None, certificates: Path | None = None) -> RedisInContainer:
            running = RedisInContainer(image, *arguments, password=password, certificates=certificates)
            stack.enter_context(running.container)
            running.wait()
            return running

        yield start


@pytest.fixture
def certificates(tmp_path: Path) -> Path:
    """A directory with an authority and a server certificate for 127.0.0.1."""
    write_certificates(tmp_path)
    return tmp_path


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """What `gridsync setup` writes, for the oldest server, so for any."""
    if not compose_commands():
        pytest.skip("no compose is installed")
    folder = tmp_path / "gridsync"
    command = ["setup", str(folder), "--server", "redis-7.0", "--maxmemory", "256mb", "--cache-maxmemory", "64mb"]
    if os.geteuid() == 0:
        command += ["--owner", "999:1000"]
    subprocess.run([sys.executable, "-m", "gridsync.cli", *command], check=True, capture_output=True)
    return Layout(folder)
