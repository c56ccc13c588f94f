"""Arguments of the public API, checked and converted once: seconds in, milliseconds to the scripts."""

from __future__ import annotations

import math
from datetime import timedelta
from typing import Literal, get_args

from gridsync.errors import UsageError

Seconds = float | int | timedelta
ReadFrom = Literal["primary", "replica", "prefer_replica"]
"""Which server answers a read: the primary; a replica only; or a replica if one is fit at the moment."""


YEAR_S = 366 * 24 * 3600.0


def shown(value: object) -> str:
    """Return what an error shows of *value*: an int may have more digits than Python writes out."""
    try:
        return f"{value!r:.100}"
    except ValueError:
        return f"{type(value).__name__} that is too long to show"


def seconds(value: Seconds, what: str, *, least: float = 0.0, most: float = YEAR_S) -> float:
    """Return *value* as seconds.

    Raises:
        UsageError: It is not a number of seconds from *least* to *most*.
    """
    number = value.total_seconds() if isinstance(value, timedelta) else value
    counts = (isinstance(number, int) and not isinstance(number, bool)) or (
        isinstance(number, float) and math.isfinite(number)
    )
    if not counts:
        raise UsageError(f"{what} must be seconds (a number or a timedelta), not {shown(value)}")
    if not least <= number <= most:
        raise UsageError(f"{what} must be from {least:g} to {most:g} s, not {shown(number)} s")
    return float(number)


def count(value: int, what: str, most: int) -> int:
    """Return *value* if it is a whole number from 1 to *most*.

    Raises:
        UsageError: It is not.
    """
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise UsageError(f"{what} must be a whole number from 1 to {most}, not {shown(value)}")
    return value


def name(value: str, what: str) -> str:
    """Return *value* if it can name something.

    Raises:
        UsageError: It is empty, too long or not a string.
    """
    try:
        if isinstance(value, str) and 0 < len(value.encode()) <= _NAME_BYTES_MAX:
            return value
    except UnicodeEncodeError:
        raise UsageError(f"{what} must be valid Unicode, not {shown(value)}") from None
    raise UsageError(f"{what} must be a string of 1 to {_NAME_BYTES_MAX} bytes, not {shown(value)}")


def encoded(value: str, what: str) -> bytes:
    """Return *value* in UTF-8.

    Raises:
        UsageError: It has lone surrogates.
    """
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{what} must be valid Unicode, not {shown(value)}") from None


def read_from(value: ReadFrom) -> ReadFrom:
    """Return *value* if it says where to read from.

    Raises:
        UsageError: It does not.
    """
    if value not in get_args(ReadFrom):
        raise UsageError(f"read_from={value!r}: it must be one of {', '.join(map(repr, get_args(ReadFrom)))}")
    return value


_NAME_BYTES_MAX = 512
