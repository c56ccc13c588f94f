r"""What stands in Redis for one cached value: a line about it, and then the value.

::

    1v <id> <load ms> <stale ms>[ <tag> <version>]...\n<value>

``1`` is the format, ``v`` a value and ``n`` a ``None``, which has no bytes.  The id names the load or the set that
wrote it.  The key lives for the entry's ttl and then for *stale ms* more, so its remaining life tells whether it is
fresh.
"""

from __future__ import annotations

from typing import NamedTuple

VALUE, NONE = "1v", "1n"
_STALE = 3
"""Which word says how long it may be stale."""
_ESCAPES = str.maketrans({"%": "%25", " ": "%20", "\n": "%0A"})


class Entry(NamedTuple):
    """An entry as it was read."""

    id: str
    data: bytes | None
    """The value as its codec wrote it, ``None`` for a ``None``."""
    load_ms: int
    stale_ms: int
    tags: dict[str, bytes]
    """The tags it was stored under, and their versions at that time."""


def packed(entry_id: str, data: bytes | None, load_ms: int, stale_ms: int, tags: dict[str, bytes]) -> bytes:
    """Return what is stored."""
    about = "".join(f" {tag.translate(_ESCAPES)} {version.decode()}" for tag, version in tags.items())
    head = f"{NONE if data is None else VALUE} {entry_id} {load_ms} {stale_ms}{about}\n".encode()
    return head if data is None else head + data


def unpacked(stored: bytes) -> Entry | None:
    """Return the entry, or ``None`` if it is of another format."""
    head, _, data = stored.partition(b"\n")
    words = head.decode("utf-8", "replace").split(" ")
    kind = words[0]
    if kind not in (VALUE, NONE) or not (len(words) > _STALE and words[2].isdigit() and words[3].isdigit()):
        return None
    tags = {_unescaped(tag): version.encode() for tag, version in zip(words[4::2], words[5::2], strict=False)}
    return Entry(words[1], None if kind == NONE else data, int(words[2]), int(words[3]), tags)


def _unescaped(tag: str) -> str:
    for escape, sign in (("%0A", "\n"), ("%20", " "), ("%25", "%")):
        tag = tag.replace(escape, sign)
    return tag
