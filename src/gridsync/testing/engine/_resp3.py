"""What RESP 3 says differently: maps, doubles and pairs, for commands that no script wraps."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridsync.testing.engine._base import Reply


def _pairs(flat: list[Reply]) -> list[tuple[Reply, Reply]]:
    return list(zip(flat[::2], flat[1::2], strict=True))


def as_resp3(words: list[bytes], reply: Reply) -> Reply:
    """Return the reply to a command as a connection that said ``HELLO 3`` would get it."""
    if reply is None:
        return None
    name = words[0].upper()
    options = {word.upper() for word in words[1:]}
    if name == b"HGETALL":
        return dict(_pairs(reply))
    if name in (b"XREAD", b"XREADGROUP"):
        return dict(reply)
    if name in (b"ZSCORE", b"ZINCRBY") or (name == b"ZADD" and b"INCR" in options):
        return float(reply)
    if name == b"ZMSCORE":
        return [None if score is None else float(score) for score in reply]
    if b"WITHSCORES" in options or (name in (b"ZPOPMIN", b"ZPOPMAX") and len(words) > 2):  # noqa: PLR2004 - a count
        return [[member, float(score)] for member, score in _pairs(reply)]
    if name in (b"ZPOPMIN", b"ZPOPMAX"):
        return [float(word) if place else word for place, word in enumerate(reply)]
    if name == b"XINFO":
        return dict(_pairs(reply)) if words[1].upper() == b"STREAM" else [dict(_pairs(row)) for row in reply]
    return reply
