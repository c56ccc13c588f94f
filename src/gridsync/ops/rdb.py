"""What is in a snapshot, while it passes by: the keys of each wing, without keeping any.

Reads the format that Redis 7 to 8 and Valkey 7 to 8 write (RDB 9 to 12).  Values are skipped, except the fences.

Source: https://rdb.fnordig.de/file_format.html and ``rdb.h`` of both servers.
"""

# ruff: noqa: PLR2004 - the codes of the format are best read in place

from __future__ import annotations

import re
from dataclasses import dataclass, field
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Final

from gridsync.errors import Damaged

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MARK", "Contents", "Wing", "inspect"]

MARK: Final = "{gridsync-restore}:from"
"""The key of a restore that is not done (`gridsync.ops.restoring`): a string, the backup's id and who writes it."""

WINGS: Final = frozenset(
    [
        "lock",
        "redlock",
        "semaphore",
        "rwlock",
        "election",
        "latch",
        "barrier",
        "once",
        "limit",
        "events",
        "cache",
        "cachetag",
        "channel",
        "health",
    ]
)
"""What the second part of a key may say; everything else that a server holds is ``other``."""
_OURS: Final = re.compile(rb"\{[^{}:]*:([a-z]+)(?:/[0-9]+)?:[^{}]*\}(.*)", re.DOTALL)
_MARK: Final = MARK.encode()
_MODULE_EOF: Final = 0
_BOOK: Final = b":orderbook:"
_FENCES: Final = re.compile(rb"\{[^{}:]*:[a-z]+:[^{}]*\}:fence")
_CLASSES: Final = {
    **dict.fromkeys((0,), "string"),
    **dict.fromkeys((1, 10, 14, 18), "list"),
    **dict.fromkeys((2, 11, 20), "set"),
    **dict.fromkeys((3, 5, 12, 17), "zset"),
    **dict.fromkeys((4, 9, 13, 16, 22, 23, 24, 25), "hash"),
    **dict.fromkeys((15, 19, 21), "stream"),
    7: "module",
}
"""What a type of the file is to a client."""
_ONE_STRING: Final = frozenset((0, 9, 10, 11, 12, 13, 16, 17, 20, 23))
_STRINGS: Final = {1: 1, 2: 1, 14: 1, 4: 2}
"""Type → strings of each element."""
_MASK: Final = (1 << 128) - 1


class Unreadable(Exception):
    """The file has something that this reader does not know; it may be good, only its content stays unknown."""


@dataclass(slots=True)
class Wing:
    """The keys of one wing."""

    permanent: int = 0
    """Keys without a time to live: the data."""
    expiring: int = 0
    """Keys that end by themselves, so that fewer may be there later."""
    digest: int = 0
    """Over database, name and type of the permanent ones, whatever their order."""

    def plain(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {"permanent": self.permanent, "expiring": self.expiring, "digest": f"{self.digest:032x}"}


@dataclass(slots=True)
class Contents:
    """What a snapshot holds."""

    wings: dict[str, Wing] = field(default_factory=dict)
    fence: int = 0
    """The largest fence that is remembered."""
    facts: dict[str, str] = field(default_factory=dict)
    """What the server wrote about itself: ``redis-ver``, ``ctime``, ``used-mem``…"""
    unknown: str = ""
    """Why it is not known, where the reader met something that it does not know."""
    marked: bool = False
    """Whether the server was being restored: then it held a part only."""

    @property
    def keys(self) -> int:
        """How many keys there are."""
        return sum(wing.permanent + wing.expiring for wing in self.wings.values())

    def count(self, db: int, name: bytes, kind: str, *, expires: bool) -> None:
        """Take note of a key."""
        found = _OURS.fullmatch(name)
        self.marked |= name == _MARK
        wing = found[1].decode() if found else "other"
        if wing not in WINGS:
            wing = "other"
        elif wing == "events" and found is not None and found[2].startswith(_BOOK):
            wing = "market"
        entry = self.wings.setdefault(wing, Wing())
        if expires:
            entry.expiring += 1
        else:
            entry.permanent += 1
            hashed = blake2b(b"%d %s %s" % (db, kind.encode(), name), digest_size=16).digest()
            entry.digest = (entry.digest + int.from_bytes(hashed, "big")) & _MASK


class _Reader:
    """Bytes of a stream, by number; *more* returns the next piece, or nothing at the end."""

    def __init__(self, more: Callable[[], bytes]) -> None:
        self._more = more
        self._piece = b""
        self._at = 0

    def take(self, count: int) -> bytes:
        at = self._at
        piece = self._piece
        if at + count <= len(piece):
            self._at = at + count
            return piece[at : at + count]
        parts, missing = [piece[at:]], count - (len(piece) - at)
        while missing > 0:
            piece = self._more()
            if not piece:
                raise EOFError
            parts.append(piece[:missing])
            self._at = min(missing, len(piece))
            missing -= len(piece)
        self._piece = piece
        return b"".join(parts)

    def skip(self, count: int) -> None:
        left = len(self._piece) - self._at
        while count > left:
            count -= left
            self._piece, self._at = self._more(), 0
            left = len(self._piece)
            if not left:
                raise EOFError
        self._at += count

    def length(self) -> tuple[int, bool]:
        """Return a length, or a special encoding and true."""
        (first,) = self.take(1)
        kind = first >> 6
        if kind == 0:
            return first & 0x3F, False
        if kind == 1:
            return (first & 0x3F) << 8 | self.take(1)[0], False
        if kind == 2:
            return int.from_bytes(self.take(8 if first & 1 else 4), "big"), False
        return first & 0x3F, True

    def number(self) -> int:
        value, special = self.length()
        if special:
            raise Unreadable("a number is written in a way that is not known")
        return value

    def skip_string(self) -> None:
        value, special = self.length()
        if not special:
            self.skip(value)
        elif value < 3:
            self.skip(1 << value)
        else:
            packed = self.number()
            self.number()
            self.skip(packed)

    def string(self) -> bytes:
        value, special = self.length()
        if not special:
            return self.take(value)
        if value < 3:
            return b"%d" % int.from_bytes(self.take(1 << value), "little", signed=True)
        packed, whole = self.number(), self.number()
        return unpacked(self.take(packed), whole)


def unpacked(packed: bytes, whole: int) -> bytes:
    """Return what LZF had packed; names of more than 20 bytes may be."""
    out, at = bytearray(), 0
    while at < len(packed):
        control = packed[at]
        at += 1
        if control < 32:
            out += packed[at : at + control + 1]
            at += control + 1
        else:
            count = control >> 5
            if count == 7:
                count += packed[at]
                at += 1
            start = len(out) - ((control & 0x1F) << 8) - packed[at] - 1
            at += 1
            for place in range(start, start + count + 2):
                out.append(out[place])
    if len(out) != whole:
        raise Unreadable("a packed string does not have the length that it should have")
    return bytes(out)


def inspect(more: Callable[[], bytes]) -> Contents:
    """Read a snapshot to its end and return what is in it.

    Args:
        more: Returns the next piece, of any size; nothing at the end.  It is called until then in any case.

    Raises:
        Damaged: It is no snapshot, or ends in the middle.

    Cost: memory for one key's name at a time; about a microsecond for each key and each element of a large one.
    """
    contents, reader = Contents(), _Reader(more)
    try:
        magic = reader.take(9)
        if not re.fullmatch(rb"REDIS[0-9]{4}|VALKEY[0-9]{3}", magic):
            raise Damaged(f"it begins with {magic!r}, and no snapshot does; take another backup", name="snapshot")
        _read(reader, contents)
    except Unreadable as error:
        contents.unknown = str(error)
    except EOFError:
        raise Damaged("it ends in the middle; take another backup", name="snapshot") from None
    while more():
        pass
    return contents


def _read(reader: _Reader, contents: Contents) -> None:
    db, expires = 0, False
    while True:
        (code,) = reader.take(1)
        if code in _CLASSES:
            name = reader.string()
            if code == 0 and _FENCES.fullmatch(name):
                value = reader.string()
                contents.fence = max(contents.fence, int(value) if value.isdigit() else 0)
            else:
                _skip_value(reader, code)
            contents.count(db, name, _CLASSES[code], expires=expires)
            expires = False
        elif code == 0xFF:
            return
        elif code == 0xFE:
            db = reader.number()
        elif code in (0xFC, 0xFD):
            reader.skip(8 if code == 0xFC else 4)
            expires = True
        elif code == 0xFA:
            name = reader.string()
            contents.facts[name.decode(errors="replace")] = reader.string().decode(errors="replace")
        elif code == 0xFB:
            reader.number(), reader.number()
        elif code == 0xF9:
            reader.skip(1)
        elif code == 0xF8:
            reader.number()
        elif code == 0xF7:
            reader.number()
            _skip_module(reader)
        elif code == 0xF5:
            reader.skip_string()
        elif code == 0xF4:
            reader.number(), reader.number(), reader.number()
        else:
            raise Unreadable(f"it has the code {code}, which is newer than this version of gridsync")


def _skip_value(reader: _Reader, code: int) -> None:
    if code in _ONE_STRING:
        reader.skip_string()
    elif code in _STRINGS:
        for _ in range(reader.number() * _STRINGS[code]):
            reader.skip_string()
    elif code in (15, 19, 21):
        _skip_stream(reader, code)
    elif code == 5:
        for _ in range(reader.number()):
            reader.skip_string()
            reader.skip(8)
    elif code == 18:
        for _ in range(reader.number()):
            reader.number()
            reader.skip_string()
    elif code == 24:
        reader.skip(8)
        for _ in range(reader.number()):
            reader.number()
            reader.skip_string()
            reader.skip_string()
    elif code == 25:
        reader.skip(8)
        reader.skip_string()
    elif code == 7:
        reader.number()
        _skip_module(reader)
    else:
        raise Unreadable(f"a value of type {code} is written in a way that is not known")


def _skip_stream(reader: _Reader, code: int) -> None:
    newer, newest = code >= 19, code >= 21
    for _ in range(reader.number() * 2):
        reader.skip_string()
    for _ in range(8 if newer else 3):
        reader.number()
    for _ in range(reader.number()):
        reader.skip_string()
        for _ in range(3 if newer else 2):
            reader.number()
        for _ in range(reader.number()):
            reader.skip(24)
            reader.number()
        for _ in range(reader.number()):
            reader.skip_string()
            reader.skip(16 if newest else 8)
            reader.skip(16 * reader.number())


def _skip_module(reader: _Reader) -> None:
    while (code := reader.number()) != _MODULE_EOF:
        if code in (1, 2):
            reader.number()
        elif code == 5:
            reader.skip_string()
        elif code in (3, 4):
            reader.skip(4 if code == 3 else 8)
        else:
            raise Unreadable(f"a module has written the code {code}")
