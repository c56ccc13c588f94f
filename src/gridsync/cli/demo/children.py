"""The parent's end of the pipes: a child process, what it said last, and how it ends."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, cast

from gridsync.cli.demo.link import LINGER_S

if TYPE_CHECKING:
    import queue
    from collections.abc import Sequence

    from gridsync.cli.demo.link import Config

Message = dict[str, Any]
WORDS_MAX: Final = 2000
"""How much of what a failed child wrote to its standard error is told, in characters."""

KILLED: Final = "killed"
FROZEN: Final = "frozen"


class DemoFailed(Exception):
    """A process of the demo ended on its own or did not get ready; the audit has nothing to say then."""


@dataclass(slots=True)
class Child:
    """A process and what it said last."""

    role: str
    name: str
    process: subprocess.Popen[str]
    stdin: IO[str]
    errors: IO[bytes]
    state: str = "starting"
    ready: bool = False
    ended: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    """Its running counts."""
    final: Message | None = None
    """Its last message, with everything that it measured."""

    def tell(self, **message: object) -> None:
        """Send it a message; one that is gone will be noticed elsewhere."""
        with suppress(BrokenPipeError, ValueError):
            self.stdin.write(json.dumps(message) + "\n")
            self.stdin.flush()

    def works(self, state: str) -> None:
        """Note what it said it is doing; what it said before a signal may arrive after it."""
        if self.state not in (KILLED, FROZEN):
            self.state = state

    def signal(self, number: signal.Signals, state: str) -> None:
        """Send it a signal, and note what it is then."""
        self.process.send_signal(number)
        self.state = state


def spawn(config: Config, inbox: queue.Queue[tuple[Child, Message | None]]) -> Child:
    """Start a process; what it says goes to *inbox*, and ``None`` when it has ended."""
    errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
    process = subprocess.Popen(
        [sys.executable, "-m", "gridsync.cli.demo.child"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=errors,
        text=True,
        # Ctrl-C is for the parent alone; it ends the others in good order.
        process_group=0,
    )
    child = Child(config.role, config.name, process, cast("IO[str]", process.stdin), errors)
    child.tell(**asdict(config))

    def read() -> None:
        for line in cast("IO[str]", process.stdout):
            inbox.put((child, json.loads(line)))
        process.wait()
        inbox.put((child, None))

    threading.Thread(target=read, daemon=True, name=config.name).start()
    return child


def last_words(children: Sequence[Child]) -> str:
    """Return what the children wrote to their standard errors."""
    told = ""
    for child in children:
        child.errors.seek(0)
        if text := child.errors.read().decode(errors="replace").strip():
            told += f"\n--- {child.name}:\n{text[-WORDS_MAX:]}"
    return told


def end(children: Sequence[Child]) -> None:
    """End every process: the pipes close, and what does not go by itself is killed."""
    for child in children:
        with suppress(BrokenPipeError):
            child.stdin.close()
        # One that is frozen would not see it.
        child.process.send_signal(signal.SIGCONT)
    ends = time.monotonic() + LINGER_S + 1
    for child in children:
        try:
            child.process.wait(max(0.0, ends - time.monotonic()))
        except subprocess.TimeoutExpired:
            child.process.kill()
            child.process.wait()
        child.errors.close()
