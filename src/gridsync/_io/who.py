"""Who asks: the machine, the process and the task or thread, as others read it next to what is held."""

from __future__ import annotations

import asyncio
import os
import socket
import threading

_current_task = asyncio.current_task
_current_thread = threading.current_thread
_here = ""


def _reset() -> None:
    global _here  # noqa: PLW0603 - one process, one name
    _here = f"{socket.gethostname()}\t{os.getpid()}\t"


_reset()
os.register_at_fork(after_in_child=_reset)


def _line(name: str) -> str:
    # A tab ends a field.
    return _here + (name.replace("\t", " ") if "\t" in name else name)


def task() -> str:
    """Return host, pid and the current task's name, separated by tabs."""
    found = _current_task()
    return _line("" if found is None else found.get_name())


def thread() -> str:
    """Return host, pid and the current thread's name, separated by tabs."""
    return _line(_current_thread().name)
