"""The one server that everybody is measured against: a child process on a free loopback port, without persistence."""

from __future__ import annotations

import socket
import subprocess
import tempfile
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gridsync.embedded import find_server

if TYPE_CHECKING:
    from collections.abc import Iterator

START_S = 10.0


def _info(port: int) -> dict[str, str]:
    """Return ``INFO server``."""
    with socket.create_connection(("127.0.0.1", port), timeout=1) as connection, connection.makefile("rb") as replies:
        connection.sendall(b"INFO server\r\n")
        head = replies.readline()
        if not head.startswith(b"$"):
            raise ConnectionError(head.decode())
        lines = replies.read(int(head[1:])).decode().splitlines()
        return dict(line.split(":", 1) for line in lines if ":" in line)


@contextmanager
def server() -> Iterator[tuple[int, dict[str, str]]]:
    """Run a server; yields its port and what ``INFO server`` says about it."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with tempfile.TemporaryDirectory() as directory:
        command = [find_server().path, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", directory]
        child = subprocess.Popen(command, stdout=subprocess.DEVNULL)
        try:
            yield port, _wait(port, child)
        finally:
            child.terminate()
            child.wait()


def _wait(port: int, child: subprocess.Popen[bytes]) -> dict[str, str]:
    deadline = time.monotonic() + START_S
    while True:
        try:
            return _info(port)
        except OSError:
            if child.poll() is not None or time.monotonic() > deadline:
                raise
            time.sleep(0.02)
