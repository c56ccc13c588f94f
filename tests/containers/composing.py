"""How the tests drive compose: whichever release is installed."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import time
from pathlib import Path
from secrets import randbelow, token_hex
from typing import TYPE_CHECKING, Self

from gridsync import Grid, Settings
from gridsync.testing.servers import free_port

if TYPE_CHECKING:
    from gridsync.ops.layout import Layout

FILE = Path(__file__).parents[2] / "docker" / "compose.yaml"
PROFILES = ("single", "sentinel", "cluster", "observability", "app")
HEALTHY_WITHIN_S = 120.0


@functools.cache
def compose_commands() -> list[list[str]]:
    """Return the releases of compose that are installed, the plugin of docker first."""
    found = []
    for command in (["docker", "compose"], ["docker-compose"]):
        try:
            asked = subprocess.run([*command, "version"], capture_output=True, check=False)
        except FileNotFoundError:
            continue
        if asked.returncode == 0:
            found.append(command)
    return found


class Stack:
    """The containers of some profiles, under a project, a network and ports of their own; gone with the block."""

    def __init__(self, layout: Layout, image: str, *profiles: str, **variables: str) -> None:
        self._project = f"gridsync-test-{token_hex(4)}"
        self._net = _unused_net()
        self.ports = {"redis": free_port(), "cache": free_port(), "prometheus": free_port()}
        self._command = [*compose_commands()[0], "--env-file", str(layout.env()), "-f", str(FILE)]
        self._command += [word for profile in profiles for word in ("--profile", profile)]
        self._environment = {
            **os.environ,
            **{f"{name.upper()}_PORT": str(port) for name, port in self.ports.items()},
            "COMPOSE_PROJECT_NAME": self._project,
            "GRIDSYNC_NET": self._net,
            "REDIS_IMAGE": image,
            "HEALTH_INTERVAL": "1s",
            **variables,
        }

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.down()
            raise
        return self

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if error is not None:
            error.add_note(self.run("logs", "--timestamps", "--tail", "200", check=False))  # before they are gone
        self.down()

    def run(self, *words: str, check: bool = True) -> str:
        """Run a command of compose; returns what it wrote."""
        done = subprocess.run(
            [*self._command, *words], env=self._environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0 or not check, f"{words} ended with {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def up(self, *services: str) -> None:
        """Start them, and wait until they are well."""
        self.run("up", "--detach", *services)
        self.wait()

    def wait(self) -> None:
        """Return when all that can be asked for their health are well."""
        deadline = time.monotonic() + HEALTHY_WITHIN_S
        while waiting := [name for name, state in self.states().items() if "starting" in state or "unhealthy" in state]:
            if time.monotonic() > deadline:
                raise TimeoutError(f"{waiting} after {HEALTHY_WITHIN_S:g} s:\n{self.run('logs', '--tail', '20')}")
            time.sleep(0.1)

    def down(self) -> None:
        """Remove containers and networks; what the servers wrote stays."""
        self.run("down", "--timeout", "0", check=False)

    def states(self) -> dict[str, str]:
        """Return the state of each container, by the name of its service, as `docker ps` words it."""
        shown = docker(
            "ps", "--all", "--filter", f"label=com.docker.compose.project={self._project}",
            "--format", '{{.Label "com.docker.compose.service"}} {{.Status}}',
        )  # fmt: skip
        return dict(line.split(" ", 1) for line in shown.stdout.splitlines())

    def container(self, service: str) -> str:
        """Return the identity of a service's container."""
        labels = (f"project={self._project}", f"service={service}")
        filters = [word for label in labels for word in ("--filter", f"label=com.docker.compose.{label}")]
        return docker("ps", "--all", "--quiet", *filters).stdout.strip()

    def execute(self, service: str, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a command in a service's container."""
        return docker("exec", self.container(service), *command)

    def inspect(self, service: str) -> str:
        """Return all that the engine tells about a service's container."""
        return docker("inspect", self.container(service)).stdout

    def addresses(self) -> dict[str, str]:
        """Return the addresses of the containers by their names: Linux reaches them from outside."""
        kinds = {"redis": ("1", 3), "sentinel": ("2", 3), "cluster": ("3", 6)}
        return {
            f"{kind}-{number}": f"{self._net}.{tens}{number}"
            for kind, (tens, most) in kinds.items()
            for number in range(1, most + 1)
        }


def connect(layout: Layout, scheme: str, servers: str, path: str = "/0", **options: str) -> Grid:
    """Return a grid that is the user app, with certificate and password from their files."""
    shown = {"ssl_ca_certs": "ca.crt", "ssl_certfile": "client.crt", "ssl_keyfile": "client.key"}
    options |= {name: str(layout.tls(file)) for name, file in shown.items()}
    query = "&".join(f"{name}={value}" for name, value in options.items())
    return Grid(
        settings=Settings(
            redis_url=f"{scheme}://app@{servers}{path}?{query}",
            redis_password_file=str(layout.password("app")),
            redis_command_timeout=60,
            redis_connection_timeout=10,
        )
    )


def docker(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command of docker."""
    return subprocess.run([str(shutil.which("docker")), *words], capture_output=True, text=True, check=False)


def _unused_net() -> str:
    """Return the first three numbers of a network to which this machine has no route."""
    routes = _routes()
    while (net := f"10.{100 + randbelow(150)}.{randbelow(256)}") in routes:
        continue
    return net


def _routes() -> set[str]:
    lines = Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]
    return {".".join(map(str, bytes.fromhex(line.split()[1])[:0:-1])) for line in lines}
