"""The `gridsync` command.

Nothing is imported before it is needed: `gridsync --help` starts neither redis nor pydantic.
"""

from __future__ import annotations

import sys

__all__ = ["main"]

_MISSING = "gridsync: the command line needs {name}, which is not installed: pip install 'gridsync-redis[cli]'"


def main() -> None:
    """Run the command line; the entry point of the distribution.

    Raises:
        SystemExit: Always: 0, 1 if the demo found a broken promise, 2 for a wrong argument, 130 after Ctrl-C.
    """
    try:
        from gridsync.cli._app import app  # noqa: PLC0415 - its packages are an extra

        app()
    except ModuleNotFoundError as missing:
        if (missing.name or "").partition(".")[0] not in {"typer", "rich"}:
            raise
        print(_MISSING.format(name=missing.name), file=sys.stderr)
        sys.exit(1)
