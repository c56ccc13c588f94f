"""A demo in a process of its own, and ways to see who is alive."""

from __future__ import annotations

import os
import pty
import re
import signal
import subprocess
import sys
import termios
import time
from contextlib import suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self, cast

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

COMMAND = [sys.executable, "-m", "gridsync.cli", "demo"]


def run(*options: str, path: Path | None = None, timeout: float = 110) -> subprocess.CompletedProcess[str]:
    """Run the demo to its end; *path* goes in front of the modules of all its processes."""
    env = {**os.environ, **({} if path is None else {"PYTHONPATH": str(path)})}
    return subprocess.run([*COMMAND, *options], capture_output=True, text=True, timeout=timeout, env=env, check=False)


def run_on_a_terminal(*options: str) -> tuple[int, str]:
    """Run the demo on a terminal of 110 columns; returns the exit code and all that was drawn, without its colours."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (50, 110))
    env = {**os.environ, "TERM": "xterm-256color"}
    process = subprocess.Popen([*COMMAND, *options], stdin=theirs, stdout=theirs, stderr=theirs, env=env)
    os.close(theirs)
    drawn = b""
    # The end of a terminal is an error on Linux and an empty read elsewhere.
    with suppress(OSError):
        while piece := os.read(ours, 65_536):
            drawn += piece
    os.close(ours)
    return process.wait(60), re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", drawn.decode(errors="replace"))


class Running:
    """A demo that is under way; whatever the test does, it does not outlive it."""

    def __init__(self, *options: str) -> None:
        self.process = subprocess.Popen(
            [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
        )
        self.output = cast("IO[str]", self.process.stdout)

    def read_until(self, words: str) -> list[str]:
        """Return the lines up to the one with these words."""
        lines = []
        for line in self.output:
            lines.append(line)
            if words in line:
                return lines
        pytest.fail(f"the demo ended without {words!r}: {lines}")

    def children(self) -> list[int]:
        """Return the ids of its processes."""
        path = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        if not path.exists():
            pytest.skip("needs /proc to see the children of a process")
        return [int(pid) for pid in path.read_text(encoding="ascii").split()]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        self.output.close()
        self.process.wait(20)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that only waits to be collected does not."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
    return state not in "ZX"


def until(condition: Callable[[], bool], what: str, timeout: float = 20) -> None:
    """Wait until *condition* holds."""
    ends = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < ends, f"not so after {timeout:g} s: {what}"
        time.sleep(0.02)
