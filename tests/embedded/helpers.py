"""Users of embedded servers in processes of their own, and ways to see who is alive."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

USER = """
import json, sys
from gridsync.embedded import open_embedded
server = open_embedded(sys.argv[1], timeout=60)
print(json.dumps({"url": server.url, "pid": server.pid, "supervisor": server.supervisor_pid,
                  "directory": str(server.directory)}), flush=True)
sys.stdin.read()
"""


class User:
    """A process that opens a URL, says what it got and stays until its standard input ends."""

    def __init__(self, url: str, program: str = USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", program, url], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._got: dict[str, Any] = {}

    @property
    def got(self) -> dict[str, Any]:
        """What it opened."""
        if not self._got:
            assert self.process.stdout is not None
            line = self.process.stdout.readline()
            assert line, "the user ended without a server"
            self._got = json.loads(line)
        return self._got

    def kill(self) -> None:
        """SIGKILL it."""
        self.process.kill()
        self.process.wait()

    def leave(self) -> None:
        """Let it end in good order."""
        assert self.process.stdin is not None
        self.process.stdin.close()
        self.process.wait()


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that is dead and not yet reaped does not."""
    ps = ["ps", "-o", "stat=", "-p", str(pid)]
    if sys.platform == "linux":
        # A slim image has no ps.  The state follows the name, which is in parentheses.
        ps = ["sed", "s/.*) //", f"/proc/{pid}/stat"]
    state = subprocess.run(ps, capture_output=True, text=True, check=False).stdout
    return bool(state.strip()) and not state.startswith("Z")


def eventually(condition: Callable[[], bool], limit_s: float = 60.0) -> None:
    """Return when *condition* holds; fail after a time that only a bug can take."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "this never happened"
        time.sleep(0.002)


def ask(url: str, *words: str) -> bytes:
    """Send one command to a ``unix://`` server and return the first bytes of its reply."""
    with socket.socket(socket.AF_UNIX) as link:
        link.connect(unquote(url.removeprefix("unix://")))
        link.sendall(b"".join((f"*{len(words)}\r\n".encode(), *(f"${len(w)}\r\n{w}\r\n".encode() for w in words))))
        return link.recv(65536)


def can_lock(fd: int) -> bool:
    """Take the lock of a directory if nobody of that directory is left."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def kill(pid: int) -> None:
    """SIGKILL a process."""
    os.kill(pid, signal.SIGKILL)


def executable(path: Path, text: str) -> Path:
    """Write an executable shell script."""
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(0o755)
    return path
