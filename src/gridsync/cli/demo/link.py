"""Parent and child: JSON lines on the child's standard input and output.

The parent opens quarters, asks for a stop and dooms a worker; the child reports.  The pipe is also how a child notices
that its parent is gone, however it went: the kernel closes the other end.  A child that reads the end of its input
stops, removes the run's keys if nobody else will, and is gone at the latest `LINGER_S` later.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import threading
from dataclasses import dataclass
from typing import Any, Final

LINGER_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class Config:
    """All that a child has to know; its first line of input."""

    role: str
    name: str
    url: str
    namespace: str
    seed: int
    quarters: int
    share: tuple[int, int]
    """A poster's part of the prosumers of its kind: which one, of how many."""
    limits: tuple[str, ...]
    lease_ttl: float
    claim_idle: float
    sweep: bool
    """Whether the keys stay on the server when nobody deletes them."""


class Link:
    """The child's end of the pipes."""

    def __init__(self) -> None:
        """Read the configuration and begin to listen."""
        given = json.loads(sys.stdin.readline())
        self.config: Config = Config(**{**given, "share": tuple(given["share"]), "limits": tuple(given["limits"])})
        self.inbox: queue.SimpleQueue[dict[str, Any]] = queue.SimpleQueue()
        """What the parent says; the last message is always ``stop``."""
        self.orphaned: threading.Event = threading.Event()
        """The parent is gone without having said stop."""
        self._sending = threading.Lock()
        threading.Thread(target=self._listen, daemon=True, name="link").start()

    def _listen(self) -> None:
        stopped = False
        for line in sys.stdin:
            message = json.loads(line)
            self.inbox.put(message)
            stopped = stopped or message["do"] == "stop"
        if not stopped:
            self.orphaned.set()
            self.inbox.put({"do": "stop"})
        # Whatever it is busy with, and be it a server that does not answer: it does not outlive its parent for long.
        end = threading.Timer(LINGER_S, os._exit, (1,))
        end.daemon = True
        end.start()

    def send(self, kind: str, **facts: object) -> None:
        """Report something to the parent."""
        line = json.dumps({"kind": kind, **facts}, separators=(",", ":")) + "\n"
        try:
            with self._sending:
                sys.stdout.write(line)
                sys.stdout.flush()
        except (BrokenPipeError, ValueError):
            # Nobody listens any more; the end of the input says so too, and that is where it is handled.
            pass
