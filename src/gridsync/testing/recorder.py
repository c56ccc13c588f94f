"""Record what happens in a real run, from threads, tasks and processes, so that the checkers can judge it.

::

    with Recorder(Path(".cache/faults/counter-7.jsonl"), seed=7) as recorder:
        with recorder.operation("a", "add", 1, key="n") as done:
            done(client.incr("n"))
        counted(recorder.history(), int(client.get("n")), key="n")

The file has one JSON object a line.  It is removed when the block ends well and kept when it does not; the exception
then says where it is.
"""

from __future__ import annotations

import json
import os
import secrets
import time
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from gridsync.errors import Misconfigured, NotNow, Unavailable, UsageError
from gridsync.testing.history import History
from gridsync.testing.operations import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import TracebackType

__all__ = ["Recorder"]

_DID_NOTHING = (UsageError, NotNow, Unavailable, Misconfigured)


class Recorder:
    """Writes what happens into one file, in whatever thread, task or process it happens.

    Each line is one write at the file's end, so any number of processes may have a recorder on the same file, and what
    a killed one had begun is found there.  Times are those of the machine's monotonic clock, which its processes share.

    Args:
        path: The file; its directory is made.  What is there already stays: another process wrote it.
        seed: What a failure shows, so that the run can be repeated.
    """

    def __init__(self, path: Path | str, *, seed: object = None) -> None:
        self.path: Path = Path(path)
        self.seed = seed
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = os.open(self.path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o644)

    @staticmethod
    def now_us() -> int:
        """Return the moment on the recorder's clock, for a `note` to come."""
        return time.monotonic_ns() // 1000

    def note(self, process: str, kind: str, *, at_us: int | None = None, **facts: Any) -> None:  # noqa: ANN401 - any
        """Write an event of *process* that happens now, or that happened at *at_us*.

        What is true only until something ends, such as a lease, is noted with a moment from before it was checked.

        Raises:
            TypeError: A fact that JSON does not know.
        """
        line = json.dumps([self.now_us() if at_us is None else at_us, process, kind, facts])
        os.write(self._file, f"{line}\n".encode())

    @contextmanager
    def operation(self, process: str, what: str, *args: Any, key: str = "") -> Iterator[Callable[[Any], None]]:  # noqa: ANN401
        """Write that *process* calls *what* on *key*, and at the end of the block what came of it.

        Hand the reply to what the block gets.  A block that does not, or that raises, has an unknown outcome, except
        for the exceptions that say that nothing happened: `Unavailable`, `NotNow`, `UsageError` and `Misconfigured`.
        The exception goes on.
        """
        name = secrets.token_hex(8)
        self.note(process, "called", id=name, what=what, key=key, args=args)
        replies: list[Any] = []
        outcome = Outcome.UNKNOWN
        try:
            yield replies.append
            outcome = Outcome.DONE if replies else Outcome.UNKNOWN
        except _DID_NOTHING:
            outcome = Outcome.REFUSED
            raise
        finally:
            reply = replies[-1] if outcome is Outcome.DONE else None
            self.note(process, "returned", id=name, outcome=outcome, reply=reply)

    def history(self) -> History:
        """Return what all processes wrote so far, in order of time; a line that a killed process left half is not."""
        lines = []
        for line in self.path.read_bytes().splitlines():
            try:
                at_us, process, kind, facts = json.loads(line)
            except ValueError:
                continue
            lines.append((at_us, process, kind, facts))
        lines.sort(key=lambda line: line[0])
        now_us = 0
        history = History(self.seed, lambda: now_us)
        start_us = lines[0][0] if lines else 0
        for at_us, process, kind, facts in lines:
            now_us = at_us - start_us
            history.add(process, kind, facts)
        return history

    def close(self) -> None:
        """Close the file and keep it; safe to call twice."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; keep it if the block raised, remove it otherwise."""
        self.close()
        if error is None:
            self.path.unlink(missing_ok=True)
        else:
            error.add_note(f"seed {self.seed!r}; the history is in {self.path}")

    def __repr__(self) -> str:
        return f"<Recorder {self.path} seed={self.seed!r}>"
