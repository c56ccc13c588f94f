"""What all commands of the engine share: replies, errors, number formats, and the table of commands."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync.testing.engine import Engine

Reply = Any
"""``bytes``, ``int``, ``None``, `Status`, `ReplyError` or a list of these: what RESP 2 can say."""


class Status(bytes):
    """A simple string such as ``OK``; scripts see it as a table with the field ``ok``."""

    __slots__ = ()


OK = Status(b"OK")
WRONG_TYPE = "WRONGTYPE Operation against a key holding the wrong kind of value"
NOT_AN_INTEGER = "ERR value is not an integer or out of range"
NOT_A_FLOAT = "ERR value is not a valid float"
SYNTAX = "ERR syntax error"
_INT64 = range(-(2**63), 2**63)


@dataclass(frozen=True, slots=True)
class Spec:
    """One command: who answers it, how many words it takes, and which of them are keys."""

    name: str
    run: Callable[[Engine, list[bytes]], Reply]
    words_min: int
    words_max: int | None
    keys: Callable[[list[bytes]], Sequence[bytes]]


COMMANDS: dict[bytes, Spec] = {}


def no_key(_args: list[bytes]) -> Sequence[bytes]:
    """Say that the command takes no key."""
    return ()


def first_key(args: list[bytes]) -> Sequence[bytes]:
    """Say that the first word is the key."""
    return args[:1]


def second_key(args: list[bytes]) -> Sequence[bytes]:
    """Say that the word after the subcommand is the key."""
    return args[1:2]


def every_key(args: list[bytes]) -> Sequence[bytes]:
    """Say that all words are keys."""
    return args


def command(
    name: str,
    words_min: int,
    words_max: int | None = None,
    keys: Callable[[list[bytes]], Sequence[bytes]] = first_key,
) -> Callable[[Callable[[Engine, list[bytes]], Reply]], Callable[[Engine, list[bytes]], Reply]]:
    """Enter a function into the table; the counts are words after the name, -1 for "any" as the upper bound."""

    def enter(run: Callable[[Engine, list[bytes]], Reply]) -> Callable[[Engine, list[bytes]], Reply]:
        upper = words_min if words_max is None else words_max
        COMMANDS[name.encode()] = Spec(name.lower(), run, words_min, None if upper < 0 else upper, keys)
        return run

    return enter


def integer(word: bytes, message: str = NOT_AN_INTEGER) -> int:
    """Read a signed 64-bit integer as strictly as Redis does: no blanks, no plus sign, no leading zeros."""
    if not word.isdigit() and not (word[:1] == b"-" and word[1:].isdigit()):
        raise ReplyError(message)
    number = int(word)
    if number not in _INT64 or b"%d" % number != word:
        raise ReplyError(message)
    return number


def double(word: bytes, message: str = NOT_A_FLOAT) -> float:
    """Read a score."""
    try:
        number = float(word)
    except ValueError:
        raise ReplyError(message) from None
    if number != number or word != word.strip() or b"_" in word:  # noqa: PLR0124 - only NaN differs from itself
        raise ReplyError(message)
    return number


def show(number: float) -> bytes:
    """Write a score as Redis 7.2 and later do: integers as such, else the shortest decimal that reads back the same."""
    if number.is_integer() and abs(number) < 1e17:  # noqa: PLR2004 - where %.17g starts to use an exponent
        return b"%d" % int(number)
    return repr(number).replace("e-0", "e-").encode()


def syntax_error() -> ReplyError:
    """Return the error for words that no option claims."""
    return ReplyError(SYNTAX)
