"""What a holder and its waiters tell about themselves: text that travels with each acquisition, for others to read.

Four fields, separated by tabs: host, process id, task or thread, and whatever the user wrote.  At most `BYTES_MAX`
bytes, because every waiter stores it, and every hand-over copies it.
"""

from __future__ import annotations

from typing import NamedTuple

BYTES_MAX = 256


class About(NamedTuple):
    """Who holds a lock, or waits for it."""

    host: str
    """The machine's name."""
    pid: int
    """The process id; 0 if it could not be read."""
    task: str
    """The task's name, or the thread's."""
    note: str
    """What the lock was given as ``note=``."""


def tell(who: str, note: str) -> str:
    """Return what is stored: *who* is what `IO.who` said; what does not fit is cut off, no Unicode is a ``?``."""
    text = f"{who}\t{note}"
    if text.isascii():
        return text[:BYTES_MAX]
    return text.encode(errors="replace")[:BYTES_MAX].decode(errors="ignore")


def read(stored: bytes | str) -> About:
    """Return what `tell` told; anything else is read as far as it goes."""
    text = stored.decode(errors="replace") if isinstance(stored, bytes) else stored
    host, pid, task, note = (*text.split("\t", 3), "", "", "")[:4]
    return About(host, int(pid) if pid.isdecimal() else 0, task, note)
