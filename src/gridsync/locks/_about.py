"""What a holder and its waiters tell about themselves: text that travels with each acquisition, for others to read.

Four fields, separated by tabs: host, process id, task or thread, and whatever the user wrote.  At most `BYTES_MAX`
bytes, because every waiter stores it, and every hand-over copies it.  If it is more, the first three get half of them,
for tasks have names of any length, and a candidate's address must not go with it.
"""

from __future__ import annotations

from typing import NamedTuple

BYTES_MAX = 256
WHO_BYTES_MAX = 127


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
    if len(text) <= BYTES_MAX and text.isascii():
        return text
    ours, theirs = who.encode(errors="replace"), note.encode(errors="replace")
    room = max(WHO_BYTES_MAX, BYTES_MAX - 1 - len(theirs))
    told = _cut(ours, room).encode() + b"\t" + theirs
    return _cut(told, BYTES_MAX)


def _cut(text: bytes, most: int) -> str:
    return text[:most].decode(errors="ignore")


def read(stored: bytes | str) -> About:
    """Return what `tell` told; anything else is read as far as it goes."""
    text = stored.decode(errors="replace") if isinstance(stored, bytes) else stored
    host, pid, task, note = (*text.split("\t", 3), "", "", "")[:4]
    return About(host, int(pid) if pid.isdecimal() else 0, task, note)
