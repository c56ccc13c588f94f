"""Stream commands without groups, and the ids and options that all stream commands share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import Reply, command, integer, second_key, syntax_error
from gridsync.testing.engine._streams import LAST, ZERO, Entry, Id, Stream, after, before, show_id

if TYPE_CHECKING:
    from gridsync.testing.engine import Engine

BAD_ID = "ERR Invalid stream ID specified as stream command argument"
_NODE_ENTRIES = 100
"""How many entries a node of the real stream holds: ``~`` trims whole nodes only."""


def read_id(word: bytes, seq: int = 0) -> Id:
    """Read ``ms`` or ``ms-seq``; *seq* is what a missing one stands for."""
    ms, dash, rest = word.partition(b"-")
    if not ms.isdigit() or (dash and not rest.isdigit()):
        raise ReplyError(BAD_ID)
    found = (int(ms), int(rest) if dash else seq)
    if max(found) > LAST[0]:
        raise ReplyError(BAD_ID)
    return found


def low_id(word: bytes) -> Id:
    """Read the lower end of a range."""
    if word == b"-":
        return ZERO
    if word[:1] == b"(":
        start = read_id(word[1:])
        if start == LAST:
            raise ReplyError("ERR invalid start ID for the interval")
        return after(start)
    return LAST if word == b"+" else read_id(word)


def high_id(word: bytes) -> Id:
    """Read the upper end of a range."""
    if word == b"+":
        return LAST
    if word[:1] == b"(":
        end = read_id(word[1:], LAST[1])
        if end == ZERO:
            raise ReplyError("ERR invalid end ID for the interval")
        return before(end)
    return ZERO if word == b"-" else read_id(word, LAST[1])


def show_entry(entry: Entry) -> Reply:
    """Write an entry as id and words."""
    return [show_id(entry[0]), list(entry[1])]


def _trim(stream: Stream, words: list[bytes]) -> tuple[int, list[bytes]]:
    """Trim as the leading words say; returns how many went and the words left."""
    strategy, rest = words[0].upper(), words[1:]
    about = bool(rest) and rest[0] == b"~"
    if rest and rest[0] in (b"=", b"~"):
        rest = rest[1:]
    if not rest:
        raise syntax_error()
    threshold, rest = rest[0], rest[1:]
    limit = 100 * _NODE_ENTRIES if about else 0
    if rest and rest[0].upper() == b"LIMIT":
        if not about:
            raise ReplyError("ERR syntax error, LIMIT cannot be used without the special ~ option")
        limit, rest = integer(rest[1]), rest[2:]
    if strategy == b"MAXLEN":
        kept = integer(threshold)
        if kept < 0:
            raise ReplyError("ERR The MAXLEN argument must be >= 0.")
        count = len(stream) - kept
    else:
        floor = read_id(threshold)
        count = stream.between(ZERO, before(floor))[1] if floor != ZERO else 0
    if about and count < len(stream):
        count = min(count, limit or count) // _NODE_ENTRIES * _NODE_ENTRIES
    return stream.cut(count), rest


@command("XADD", 4, -1)
def xadd(engine: Engine, args: list[bytes]) -> Reply:
    """Add an entry, with NOMKSTREAM, MAXLEN and MINID; returns its id."""
    key, words = args[0], args[1:]
    make = True
    trim: list[bytes] = []
    while words and words[0].upper() in (b"NOMKSTREAM", b"MAXLEN", b"MINID"):
        if words[0].upper() == b"NOMKSTREAM":
            make, words = False, words[1:]
        else:
            # A scratch stream finds where the trim options end; the trim itself comes after the entry.
            before_trim = words
            _gone, words = _trim(Stream(), words)
            trim = before_trim[: len(before_trim) - len(words)]
    if len(words) < 3 or len(words) % 2 == 0:  # noqa: PLR2004 - an id and at least one pair
        raise ReplyError("ERR wrong number of arguments for 'xadd' command")
    stream = engine.data.get(key, Stream)
    if stream is None and not make:
        return None
    last = stream.last_id if stream is not None else ZERO
    entry_id = _new_id(words[0], last, engine.data.now_ms())
    if entry_id == ZERO:
        raise ReplyError("ERR The ID specified in XADD must be greater than 0-0")
    if entry_id <= last:
        raise ReplyError("ERR The ID specified in XADD is equal or smaller than the target stream top item")
    stream = engine.data.make(key, Stream)
    stream.append(entry_id, words[1:])
    if trim:
        _trim(stream, trim)
    return show_id(entry_id)


def _new_id(word: bytes, last: Id, now_ms: int) -> Id:
    if word == b"*":
        return (now_ms, 0) if now_ms > last[0] else after(last)
    if word.endswith(b"-*"):
        ms = read_id(word[:-2])[0]
        if ms == last[0]:
            return after(last)
        return (ms, 1 if ms == 0 else 0)
    return read_id(word)


@command("XLEN", 1)
def xlen(engine: Engine, args: list[bytes]) -> Reply:
    """Count the entries."""
    return len(engine.data.get(args[0], Stream) or ())


def _count(words: list[bytes]) -> int | None:
    if not words:
        return None
    if len(words) != 2 or words[0].upper() != b"COUNT":  # noqa: PLR2004 - COUNT and a number
        raise syntax_error()
    return max(integer(words[1]), 0)


@command("XRANGE", 3, -1)
def xrange(engine: Engine, args: list[bytes]) -> Reply:
    """Return the entries between two ids."""
    low, high, count = low_id(args[1]), high_id(args[2]), _count(args[3:])
    stream = engine.data.get(args[0], Stream)
    if stream is None:
        return []
    if count == 0:
        return None
    start, stop = stream.between(low, high)
    stop = stop if count is None else min(stop, start + count)
    return [show_entry(entry) for entry in stream.entries[start:stop]]


@command("XREVRANGE", 3, -1)
def xrevrange(engine: Engine, args: list[bytes]) -> Reply:
    """Return the entries between two ids, newest first."""
    high, low, count = high_id(args[1]), low_id(args[2]), _count(args[3:])
    stream = engine.data.get(args[0], Stream)
    if stream is None:
        return []
    if count == 0:
        return None
    start, stop = stream.between(low, high)
    start = start if count is None else max(start, stop - count)
    return [show_entry(entry) for entry in reversed(stream.entries[start:stop])]


@command("XDEL", 2, -1)
def xdel(engine: Engine, args: list[bytes]) -> Reply:
    """Remove entries; returns how many there were."""
    ids = [read_id(word) for word in args[1:]]
    stream = engine.data.get(args[0], Stream)
    return 0 if stream is None else sum(stream.delete(entry_id) for entry_id in ids)


@command("XTRIM", 3, -1)
def xtrim(engine: Engine, args: list[bytes]) -> Reply:
    """Remove the oldest entries, by MAXLEN or MINID."""
    if args[1].upper() not in (b"MAXLEN", b"MINID"):
        raise syntax_error()
    gone, rest = _trim(engine.data.get(args[0], Stream) or Stream(), args[1:])
    if rest:
        raise syntax_error()
    return gone


@command("XSETID", 2, -1)
def xsetid(engine: Engine, args: list[bytes]) -> Reply:
    """Set the last id."""
    stream = engine.data.get(args[0], Stream)
    if stream is None:
        raise ReplyError("ERR no such key")
    entry_id = read_id(args[1])
    if stream.entries and entry_id < stream.entries[-1][0]:
        raise ReplyError("ERR The ID specified in XSETID is smaller than the target stream top item")
    stream.last_id = entry_id
    return b"OK"


@command("XINFO", 2, -1, second_key)
def xinfo(engine: Engine, args: list[bytes]) -> Reply:
    """Describe a stream, its groups or its consumers."""
    subcommand, key = args[0].upper(), args[1]
    stream = engine.data.get(key, Stream)
    if stream is None:
        raise ReplyError("ERR no such key")
    if subcommand == b"STREAM":
        return _info_stream(stream)
    if subcommand == b"GROUPS":
        return [_info_group(stream, name) for name in sorted(stream.groups)]
    if subcommand == b"CONSUMERS":
        group = stream.groups.get(args[2])
        if group is None:
            raise ReplyError(f"NOGROUP No such consumer group '{args[2].decode()}' for key name '{key.decode()}'")
        now = engine.data.now_ms()
        return [
            [
                *(b"name", name, b"pending", len(group.pending_ids(name)), b"idle", max(now - consumer.seen_ms, 0)),
                *(b"inactive", -1 if consumer.active_ms < 0 else max(now - consumer.active_ms, 0)),
            ]
            for name, consumer in sorted(group.consumers.items())
        ]
    raise ReplyError(f"ERR unknown subcommand '{args[0].decode()}'. Try XINFO HELP.")


def _info_stream(stream: Stream) -> Reply:
    # The numbers of radix-tree keys and nodes are the server's own affair and left out.
    first, last = (stream.entries[0], stream.entries[-1]) if stream.entries else (None, None)
    return [
        *(b"length", len(stream), b"last-generated-id", show_id(stream.last_id)),
        *(b"max-deleted-entry-id", show_id(stream.deleted_max), b"entries-added", stream.added),
        *(b"recorded-first-entry-id", show_id(first[0] if first else ZERO), b"groups", len(stream.groups)),
        *(b"first-entry", show_entry(first) if first else None, b"last-entry", show_entry(last) if last else None),
    ]


def _info_group(stream: Stream, name: bytes) -> Reply:
    group = stream.groups[name]
    return [
        *(b"name", name, b"consumers", len(group.consumers), b"pending", len(group.pending)),
        *(b"last-delivered-id", show_id(group.last_id), b"entries-read", group.entries_read),
        *(b"lag", stream.lag(group)),
    ]
