"""`gridsync top` on a terminal: the real command, in a pseudo-terminal, with keys, another size, and every way to end.

What a person would notice if it broke: a terminal that echoes nothing any more, or a screen that stays behind.
"""

from __future__ import annotations

import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

PATIENCE = 60.0
"""Seconds; a new interpreter takes ten of them on a busy machine."""
ENTERED, LEFT, SHOWN = b"\x1b[?1049h", b"\x1b[?1049l", b"\x1b[?25h"
BROKEN = """
import gridsync.cli.top.view as view
def screen(*_):
    raise RuntimeError("a bug of ours")
view.screen = screen
from gridsync.cli import main
main()
"""


@dataclass
class Tty:
    """A pseudo-terminal, and the command on it."""

    process: subprocess.Popen[bytes]
    master: int
    slave: int
    before: list[object]
    seen: bytes = b""

    def press(self, keys: bytes) -> None:
        """Type *keys*; what `shows` finds afterwards was drawn since."""
        self.read()
        self.seen = b""
        os.write(self.master, keys)

    def read(self) -> None:
        while select.select([self.master], [], [], 0)[0]:
            self.seen += os.read(self.master, 65_536)

    def until(self, condition: Callable[[], bool]) -> None:
        limit = time.monotonic() + PATIENCE
        while not condition():
            assert time.monotonic() < limit, self.seen[-3000:].decode(errors="replace")
            if select.select([self.master], [], [], 0.1)[0]:
                self.seen += os.read(self.master, 65_536)

    def pictures(self) -> list[bytes]:
        """Return what was drawn from the upper left corner on, each time, but for what is perhaps not whole yet."""
        return self.seen.split(b"\x1b[H")[1:-1]

    def shows(self, text: str) -> None:
        self.until(lambda: text.encode() in self.seen)

    def ended(self) -> int:
        """Return the exit code, after what it wrote was read: a full terminal would hold it up."""
        self.until(lambda: self.process.poll() is not None)
        self.read()
        return self.process.wait()

    def is_as_before(self) -> bool:
        return termios.tcgetattr(self.slave) == self.before


def resize(descriptor: int, columns: int, lines: int) -> None:
    fcntl.ioctl(descriptor, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))


@contextmanager
def terminal(server: RedisServer, *python: str, first: str = "") -> Iterator[Tty]:
    """Start the command on a terminal of 100 columns and 24 lines, after what a shell does *first*."""
    master, slave = pty.openpty()
    resize(slave, 100, 24)
    words = [sys.executable, *(python or ("-m", "gridsync.cli")), "top", "--url", server.url, "--namespace", NAMESPACE]
    # The leader of a session that opens a terminal has it as its own from then on: Ctrl-C reaches it.
    whole = ["/bin/sh", "-c", first + 'exec "$@" <"$0" >"$0" 2>&1', os.ttyname(slave), *words]
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "", "LINES": ""}
    before = termios.tcgetattr(slave)
    process = subprocess.Popen(whole, start_new_session=True, env=environment)
    try:
        yield Tty(process, master, slave, before)
    finally:
        process.kill()
        process.wait()
        os.close(master)
        os.close(slave)


@pytest.mark.leaves_keys
def test_keys_a_new_size_and_leaving(flushed: RedisServer):
    with Grid(flushed.url, namespace=NAMESPACE) as grid, ExitStack() as held:
        for name in ("first", "second"):
            held.enter_context(grid.lock(name, ttl=600, note=f"note of {name}"))
        grid.limiter("api", "100/minute").hit("anna")
        with terminal(flushed) as tty:
            tty.shows("second")
            assert ENTERED in tty.seen
            assert not tty.is_as_before()
            assert termios.tcgetattr(tty.slave)[6][termios.VSUSP] == b"\0", "Ctrl-Z would leave the screen to the shell"
            tty.press(b"\x1b[B\r")
            tty.shows("lock second")
            tty.shows("note of second")
            tty.press(b"\r")
            tty.shows("inspect")
            tty.press(b"p")
            tty.shows("paused")
            tty.press(b"p\t")
            tty.shows("anna")
            tty.press(b"")
            resize(tty.slave, 60, 12)
            tty.until(lambda: any(b"anna" in each and each.count(b"\n") < 12 for each in tty.pictures()))
            tty.press(b"q")
            assert tty.ended() == 0
            assert tty.is_as_before()
            assert LEFT in tty.seen
            assert SHOWN in tty.seen


def test_ctrl_c_leaves_the_terminal_as_it_was(flushed: RedisServer):
    with terminal(flushed) as tty:
        tty.shows("gridsync top")
        tty.press(b"\x03")
        assert tty.ended() == 130
        assert tty.is_as_before()
        assert LEFT in tty.seen
        assert b"Traceback" not in tty.seen


def test_sigterm_leaves_the_terminal_as_it_was(flushed: RedisServer):
    with terminal(flushed) as tty:
        tty.shows("gridsync top")
        tty.process.send_signal(signal.SIGTERM)
        assert tty.ended() == 128 + signal.SIGTERM
        assert tty.is_as_before()
        assert LEFT in tty.seen


def test_a_terminal_that_is_gone_ends_it(flushed: RedisServer):
    """A connection to a machine that is lost, under nohup or tmux: 2, and no traceback into a log."""
    with terminal(flushed, first="trap '' HUP; ") as tty:
        tty.shows("gridsync top")
        nowhere = os.open(os.devnull, os.O_RDWR)
        os.dup2(nowhere, tty.master)
        os.close(nowhere)
        assert tty.process.wait(PATIENCE) == 2


def test_an_error_of_ours_leaves_the_terminal_as_it_was(flushed: RedisServer):
    with terminal(flushed, "-c", BROKEN) as tty:
        assert tty.ended() == 1
        assert tty.is_as_before()
        assert LEFT in tty.seen
        assert b"a bug of ours" in tty.seen[tty.seen.index(LEFT) :], "what went wrong is told where it can be read"


def test_a_server_that_goes_away_is_told_of_and_its_return_is_seen(flushed: RedisServer):
    with terminal(flushed) as tty:
        tty.shows("ops/s")
        flushed.stop()
        tty.shows("no answer for")
        flushed.start()
        tty.press(b"\t")
        tty.shows("ops/s")
        flushed.stop()
        tty.shows("no answer for")
        tty.press(b"q")
        assert tty.ended() == 0
        flushed.start()
