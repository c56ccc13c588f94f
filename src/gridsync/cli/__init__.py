"""The `gridsync` command.

Nothing is imported before it is needed: `gridsync --help` starts neither redis nor pydantic.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import TextIO

__all__ = ["main"]

_MISSING = "gridsync: the command line needs {name}, which is not installed\n  pip install 'gridsync-redis[cli]'"


def main() -> None:
    """Run the command line; the entry point of the distribution.

    Raises:
        SystemExit: Always, with what each command says in its help, 2 if it could not, 130 after Ctrl-C.
    """
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            # What a terminal has no sign for, such as an arrow in ASCII, is shown as "?", and is no error.
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    try:
        from gridsync.cli._app import app  # noqa: PLC0415 - its packages are an extra

        app()
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        print(_MISSING.format(name=missing.name), file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:  # while modules are loaded; later the command itself sees to it
        sys.exit(130)
    finally:
        for stream in (sys.__stdout__, sys.__stderr__):
            if stream is not None:
                _empty(stream)


def _empty(stream: TextIO) -> None:
    """Write what a stream still holds, or let it go: if the interpreter failed to, its exit code would be 120."""
    try:
        stream.flush()
    except OSError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
