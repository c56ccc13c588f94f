"""Sorted sets."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from typing import TYPE_CHECKING

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import Reply, command, double, integer, show, syntax_error
from gridsync.testing.engine._keyspace import SortedSet

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.testing.engine import Engine

_EMPTY = SortedSet()
_FLAGS = frozenset({b"NX", b"XX", b"GT", b"LT", b"CH", b"INCR"})


def _read(engine: Engine, key: bytes) -> SortedSet:
    return engine.data.get(key, SortedSet) or _EMPTY


@command("ZADD", 3, -1)
def zadd(engine: Engine, args: list[bytes]) -> Reply:
    """Add or move members, with NX, XX, GT, LT, CH and INCR."""
    key, rest = args[0], args[1:]
    flags: set[bytes] = set()
    while rest and rest[0].upper() in _FLAGS:
        flags.add(rest.pop(0).upper())
    if not rest or len(rest) % 2:
        raise syntax_error()
    if {b"NX", b"XX"} <= flags:
        raise ReplyError("ERR XX and NX options at the same time are not compatible")
    if len(flags & {b"NX", b"GT", b"LT"}) > 1:
        raise ReplyError("ERR GT, LT, and/or NX options at the same time are not compatible")
    if b"INCR" in flags and len(rest) > 2:  # noqa: PLR2004 - one pair
        raise ReplyError("ERR INCR option supports a single increment-element pair")
    pairs = [(double(score), member) for score, member in zip(rest[::2], rest[1::2], strict=True)]
    there = engine.data.get(key, SortedSet)
    if there is None and b"XX" in flags:
        return None if b"INCR" in flags else 0
    value = engine.data.make(key, SortedSet)
    added = changed = 0
    result: bytes | None = None
    for number, member in pairs:
        old = value.scores.get(member)
        score = number + (old or 0.0) if b"INCR" in flags else number
        if old is None:
            if b"XX" in flags:
                continue
            added += 1
        else:
            refused = b"NX" in flags or (b"GT" in flags and score <= old) or (b"LT" in flags and score >= old)
            if refused:
                continue
            changed += score != old
        value.put(member, score)
        result = show(score)
    if b"INCR" in flags:
        return result
    return added + changed if b"CH" in flags else added


@command("ZINCRBY", 3)
def zincrby(engine: Engine, args: list[bytes]) -> Reply:
    """Add to a score."""
    return zadd(engine, [args[0], b"INCR", args[1], args[2]])


@command("ZREM", 2, -1)
def zrem(engine: Engine, args: list[bytes]) -> Reply:
    """Take members away; returns how many there were."""
    value = engine.data.get(args[0], SortedSet)
    if value is None:
        return 0
    gone = sum(value.drop(member) for member in args[1:])
    engine.data.tidy(args[0], value)
    return gone


@command("ZCARD", 1)
def zcard(engine: Engine, args: list[bytes]) -> Reply:
    """Count the members."""
    return len(_read(engine, args[0]))


@command("ZSCORE", 2)
def zscore(engine: Engine, args: list[bytes]) -> Reply:
    """Return a score."""
    score = _read(engine, args[0]).scores.get(args[1])
    return None if score is None else show(score)


@command("ZMSCORE", 2, -1)
def zmscore(engine: Engine, args: list[bytes]) -> Reply:
    """Return several scores."""
    return [zscore(engine, [args[0], member]) for member in args[1:]]


@command("ZRANK", 2)
def zrank(engine: Engine, args: list[bytes]) -> Reply:
    """Count who stands before a member."""
    return _read(engine, args[0]).rank(args[1])


@command("ZREVRANK", 2)
def zrevrank(engine: Engine, args: list[bytes]) -> Reply:
    """Count who stands behind a member."""
    value = _read(engine, args[0])
    rank = value.rank(args[1])
    return None if rank is None else len(value) - 1 - rank


def _bound(word: bytes) -> tuple[float, bool]:
    is_open = word[:1] == b"("
    return double(word[1:] if is_open else word, "ERR min or max is not a float"), is_open


def _by_score(value: SortedSet, low: bytes, high: bytes) -> tuple[int, int]:
    return value.between(*_bound(low), *_bound(high))


def _by_rank(value: SortedSet, first: bytes, last: bytes) -> tuple[int, int]:
    start, stop = integer(first), integer(last)
    size = len(value)
    start = max(start + size, 0) if start < 0 else start
    stop = stop + size if stop < 0 else stop
    return start, max(start, min(stop + 1, size))


@command("ZCOUNT", 3)
def zcount(engine: Engine, args: list[bytes]) -> Reply:
    """Count the members between two scores."""
    start, stop = _by_score(_read(engine, args[0]), args[1], args[2])
    return stop - start


def _flat(entries: Sequence[tuple[float, bytes]], with_scores: bool) -> list[bytes]:  # noqa: FBT001
    if not with_scores:
        return [member for _score, member in entries]
    return [word for score, member in entries for word in (member, show(score))]


def _range(engine: Engine, args: list[bytes], options: set[bytes], limit: list[int]) -> Reply:
    key, first, last = args[:3]
    if limit and limit[1] != -1 and b"BYSCORE" not in options:
        raise ReplyError("ERR syntax error, LIMIT is only supported in combination with either BYSCORE or BYLEX")
    value = _read(engine, key)
    reverse = b"REV" in options
    if b"BYSCORE" in options:
        start, stop = _by_score(value, last, first) if reverse else _by_score(value, first, last)
        entries = value.order[start:stop]
        if reverse:
            entries.reverse()
    else:
        start, stop = _by_rank(value, first, last)
        entries = value.order[::-1][start:stop] if reverse else value.order[start:stop]
    if limit and b"BYSCORE" in options:
        offset, count = limit
        end = len(entries) if count < 0 else offset + count
        entries = entries[offset:end] if offset >= 0 else []
    return _flat(entries, b"WITHSCORES" in options)


def _options(words: list[bytes], allowed: frozenset[bytes]) -> tuple[set[bytes], list[int]]:
    options: set[bytes] = set()
    limit: list[int] = []
    rest = iter(words)
    for word in rest:
        option = word.upper()
        if option == b"LIMIT" and option in allowed:
            offset, count = next(rest, None), next(rest, None)
            if offset is None or count is None:
                raise syntax_error()
            limit = [integer(offset), integer(count)]
        elif option in allowed:
            options.add(option)
        else:
            raise syntax_error()
    return options, limit


_ZRANGE = frozenset({b"BYSCORE", b"REV", b"LIMIT", b"WITHSCORES"})
_BY_SCORE = frozenset({b"LIMIT", b"WITHSCORES"})
_BY_LEX = frozenset({b"LIMIT"})
_BY_RANK = frozenset({b"WITHSCORES"})


@command("ZRANGE", 3, -1)
def zrange(engine: Engine, args: list[bytes]) -> Reply:
    """Return members by rank or, with BYSCORE, by score."""
    options, limit = _options(args[3:], _ZRANGE)
    return _range(engine, args, options, limit)


@command("ZREVRANGE", 3, 4)
def zrevrange(engine: Engine, args: list[bytes]) -> Reply:
    """Return members by rank, highest first."""
    options, _ = _options(args[3:], _BY_RANK)
    return _range(engine, args, options | {b"REV"}, [])


@command("ZRANGEBYSCORE", 3, -1)
def zrangebyscore(engine: Engine, args: list[bytes]) -> Reply:
    """Return members between two scores."""
    options, limit = _options(args[3:], _BY_SCORE)
    return _range(engine, args, options | {b"BYSCORE"}, limit)


@command("ZREVRANGEBYSCORE", 3, -1)
def zrevrangebyscore(engine: Engine, args: list[bytes]) -> Reply:
    """Return members between two scores, highest first."""
    options, limit = _options(args[3:], _BY_SCORE)
    return _range(engine, args, options | {b"BYSCORE", b"REV"}, limit)


def _lex_place(members: list[bytes], bound: bytes, *, low: bool) -> int:
    if bound == b"-":
        return 0
    if bound == b"+":
        return len(members)
    if bound[:1] not in (b"[", b"("):
        raise ReplyError("ERR min or max not valid string range item")
    before = (bound[:1] == b"[") == low
    return (bisect_left if before else bisect_right)(members, bound[1:])


@command("ZRANGEBYLEX", 3, -1)
def zrangebylex(engine: Engine, args: list[bytes]) -> Reply:
    """Return members between two members, of a set where all have one score."""
    _, limit = _options(args[3:], _BY_LEX)
    value = _read(engine, args[0])
    members = [member for _score, member in value.order]
    start, stop = _lex_place(members, args[1], low=True), _lex_place(members, args[2], low=False)
    found = members[start:stop]
    if limit:
        offset, count = limit
        found = found[offset : len(found) if count < 0 else offset + count] if offset >= 0 else []
    return list(found)


def _remove(engine: Engine, key: bytes, value: SortedSet, start: int, stop: int) -> int:
    gone = [member for _score, member in value.order[start:stop]]
    for member in gone:
        value.drop(member)
    if gone:
        engine.data.tidy(key, value)
    return len(gone)


@command("ZREMRANGEBYSCORE", 3)
def zremrangebyscore(engine: Engine, args: list[bytes]) -> Reply:
    """Take away what lies between two scores."""
    value = _read(engine, args[0])
    return _remove(engine, args[0], value, *_by_score(value, args[1], args[2]))


@command("ZREMRANGEBYRANK", 3)
def zremrangebyrank(engine: Engine, args: list[bytes]) -> Reply:
    """Take away what lies between two ranks."""
    value = _read(engine, args[0])
    return _remove(engine, args[0], value, *_by_rank(value, args[1], args[2]))


def _pop(engine: Engine, args: list[bytes], *, highest: bool) -> Reply:
    count = integer(args[1], "ERR value is out of range, must be positive") if len(args) > 1 else 1
    if count < 0:
        raise ReplyError("ERR value is out of range, must be positive")
    value = _read(engine, args[0])
    entries = value.order[::-1][:count] if highest else value.order[:count]
    for _score, member in entries:
        value.drop(member)
    if entries:
        engine.data.tidy(args[0], value)
    return _flat(entries, with_scores=True)


@command("ZPOPMIN", 1, 2)
def zpopmin(engine: Engine, args: list[bytes]) -> Reply:
    """Take the lowest members."""
    return _pop(engine, args, highest=False)


@command("ZPOPMAX", 1, 2)
def zpopmax(engine: Engine, args: list[bytes]) -> Reply:
    """Take the highest members."""
    return _pop(engine, args, highest=True)
