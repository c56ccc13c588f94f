"""Reading streams, alone and in consumer groups.

A ``BLOCK`` option is read and dropped: these functions answer nil where Redis would wait, and whoever drives the
engine asks again when a key was written.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import OK, Reply, command, integer, second_key, syntax_error
from gridsync.testing.engine._stream_commands import BAD_ID, high_id, low_id, read_id, show_entry
from gridsync.testing.engine._streams import LAST, ZERO, Group, Id, Pending, Stream, after, show_id

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.testing.engine import Engine

_NO_KEY = (
    "ERR The XGROUP subcommand requires the key to exist. Note that for CREATE you may want to use the MKSTREAM "
    "option to create an empty stream automatically."
)


def _after_streams(args: list[bytes]) -> Sequence[bytes]:
    for place, word in enumerate(args):
        if word.upper() == b"STREAMS":
            rest = args[place + 1 :]
            return rest[: len(rest) // 2]
    return ()


def _group(engine: Engine, key: bytes, name: bytes) -> tuple[Stream, Group]:
    stream = engine.data.get(key, Stream)
    group = stream.groups.get(name) if stream is not None else None
    if stream is None or group is None:
        raise ReplyError(f"NOGROUP No such key '{key.decode()}' or consumer group '{name.decode()}'")
    return stream, group


@command("XGROUP", 2, -1, second_key)
def xgroup(engine: Engine, args: list[bytes]) -> Reply:
    """Create, move and destroy groups and consumers."""
    subcommand, key, name = args[0].upper(), args[1], args[2]
    stream = engine.data.get(key, Stream)
    if subcommand == b"CREATE":
        return _create(engine, stream, key, name, args[3:])
    if stream is None:
        raise ReplyError(_NO_KEY)
    if subcommand == b"DESTROY":
        engine.data.touched.add(key)
        return int(stream.groups.pop(name, None) is not None)
    group = stream.groups.get(name)
    if group is None:
        raise ReplyError(f"NOGROUP No such consumer group '{name.decode()}' for key name '{key.decode()}'")
    if subcommand == b"SETID":
        group.last_id = stream.last_id if args[3] == b"$" else read_id(args[3])
        entries_read = _entries_read(args[4:])
        group.entries_read = None if entries_read is None else min(entries_read, stream.added)
        return OK
    if subcommand == b"CREATECONSUMER":
        new = args[3] not in group.consumers
        group.consumer(args[3], engine.data.now_ms())
        return int(new)
    if subcommand == b"DELCONSUMER":
        lost = group.pending_ids(args[3])
        for entry_id in lost:
            del group.pending[entry_id]
        group.consumers.pop(args[3], None)
        return len(lost)
    raise ReplyError(f"ERR unknown subcommand '{args[0].decode()}'. Try XGROUP HELP.")


def _create(engine: Engine, stream: Stream | None, key: bytes, name: bytes, words: list[bytes]) -> Reply:
    start, options = words[0], words[1:]
    make = any(word.upper() == b"MKSTREAM" for word in options)
    entries_read = _entries_read([word for word in options if word.upper() != b"MKSTREAM"])
    if stream is None and not make:
        raise ReplyError(_NO_KEY)
    last = stream.last_id if stream is not None else ZERO
    last_id = last if start == b"$" else read_id(start)
    stream = engine.data.make(key, Stream)
    if name in stream.groups:
        raise ReplyError("BUSYGROUP Consumer Group name already exists")
    stream.groups[name] = Group(last_id, None if entries_read is None else min(entries_read, stream.added))
    return OK


def _entries_read(words: list[bytes]) -> int | None:
    if not words:
        return None
    if len(words) != 2 or words[0].upper() != b"ENTRIESREAD":  # noqa: PLR2004 - ENTRIESREAD and a number
        raise syntax_error()
    number = integer(words[1])
    if number < -1:
        raise ReplyError("ERR value for ENTRIESREAD must be positive or -1")
    return None if number < 0 else number


@dataclass(slots=True)
class _Read:
    """The options of XREAD and XREADGROUP."""

    group: bytes = b""
    consumer: bytes = b""
    count: int | None = None
    noack: bool = False
    streams: list[tuple[bytes, bytes]] = field(default_factory=list)


def _read_options(args: list[bytes]) -> _Read:
    read = _Read()
    words = list(args)
    while words:
        option = words.pop(0).upper()
        if option == b"STREAMS":
            half, odd = divmod(len(words), 2)
            if odd or not half:
                raise ReplyError(
                    "ERR Unbalanced 'xread' list of streams: for each stream key an ID, '+', or '$' must be specified."
                )
            read.streams = list(zip(words[:half], words[half:], strict=True))
            return read
        if option == b"NOACK":
            read.noack = True
        elif option == b"GROUP":
            read.group, read.consumer, words = words[0], words[1], words[2:]
        elif option == b"COUNT":
            read.count = max(integer(words.pop(0)), 0) or None
        elif option == b"BLOCK":
            if integer(words.pop(0), "ERR timeout is not an integer or out of range") < 0:
                raise ReplyError("ERR timeout is negative")
        else:
            raise syntax_error()
    raise syntax_error()


@command("XREAD", 3, -1, _after_streams)
def xread(engine: Engine, args: list[bytes]) -> Reply:
    """Return what follows the given ids, or nil."""
    read = _read_options(args)
    wanted = [
        (key, word, engine.data.get(key, Stream), None if word in (b"$", b"+") else read_id(word))
        for key, word in read.streams
    ]
    out: list[Reply] = []
    for key, word, stream, start in wanted:
        if stream is None or word == b"$":
            continue
        if start is None:
            found = stream.entries[-1:]
        else:
            place = stream.between(after(start), LAST)[0]
            found = stream.entries[place : None if read.count is None else place + read.count]
        if found:
            out.append([key, [show_entry(entry) for entry in found]])
    return out or None


@command("XREADGROUP", 6, -1, _after_streams)
def xreadgroup(engine: Engine, args: list[bytes]) -> Reply:
    """Return new entries to one consumer and note them as pending, or what it has pending; nil if nothing is new."""
    read = _read_options(args)
    now = engine.data.now_ms()
    groups = []
    for key, word in read.streams:
        stream = engine.data.get(key, Stream)
        group = stream.groups.get(read.group) if stream is not None else None
        if stream is None or group is None:
            raise ReplyError(
                f"NOGROUP No such key '{key.decode()}' or consumer group '{read.group.decode()}' "
                "in XREADGROUP with GROUP option"
            )
        groups.append((key, stream, group, None if word == b">" else read_id(word)))
    out: list[Reply] = []
    for key, stream, group, start in groups:
        consumer = group.consumer(read.consumer, now)
        if start is not None:
            ids = [i for i in group.pending_ids(read.consumer) if i > start][: read.count]
            out.append([key, [[show_id(i), _deliver_again(stream, group, i, now)] for i in ids]])
            continue
        found = _new(stream, group, read.count)
        if not found:
            continue
        consumer.active_ms = now
        for entry_id in found:
            stream.advance(group, entry_id)
            if not read.noack:
                group.pending[entry_id] = Pending(read.consumer, now, 1)
        out.append([key, [[show_id(i), list(stream.find(i) or [])] for i in found]])
    return out or None


def _new(stream: Stream, group: Group, count: int | None) -> list[Id]:
    start = stream.between(after(group.last_id), LAST)[0]
    return [entry[0] for entry in stream.entries[start : None if count is None else start + count]]


def _deliver_again(stream: Stream, group: Group, entry_id: Id, now_ms: int) -> Reply:
    words = stream.find(entry_id)
    if words is None:
        return None
    pending = group.pending[entry_id]
    pending.delivered_ms = now_ms
    pending.deliveries += 1
    return list(words)


@command("XACK", 3, -1)
def xack(engine: Engine, args: list[bytes]) -> Reply:
    """Acknowledge entries; returns how many were pending."""
    ids = [read_id(word) for word in args[2:]]
    stream = engine.data.get(args[0], Stream)
    group = stream.groups.get(args[1]) if stream is not None else None
    return 0 if group is None else sum(group.pending.pop(entry_id, None) is not None for entry_id in ids)


@command("XPENDING", 2, -1)
def xpending(engine: Engine, args: list[bytes]) -> Reply:
    """Sum up what is pending, or list it."""
    _stream, group = _group(engine, args[0], args[1])
    words = args[2:]
    if not words:
        return _pending_summary(group)
    idle = 0
    if words[0].upper() == b"IDLE":
        idle, words = integer(words[1]), words[2:]
    if len(words) not in (3, 4):
        raise syntax_error()
    low, high, count = low_id(words[0]), high_id(words[1]), integer(words[2])
    consumer = words[3] if len(words) == 4 else None  # noqa: PLR2004 - the fourth word
    now = engine.data.now_ms()
    out: list[Reply] = []
    for entry_id in group.pending_ids(consumer):
        pending = group.pending[entry_id]
        age = max(now - pending.delivered_ms, 0)
        if low <= entry_id <= high and age >= idle and len(out) < count:
            out.append([show_id(entry_id), pending.consumer, age, pending.deliveries])
    return out


def _pending_summary(group: Group) -> Reply:
    ids = group.pending_ids()
    if not ids:
        return [0, None, None, None]
    counts = [[name, b"%d" % n] for name in sorted(group.consumers) if (n := len(group.pending_ids(name)))]
    return [len(ids), show_id(ids[0]), show_id(ids[-1]), counts]


@dataclass(slots=True)
class _Claim:
    """The options of XCLAIM."""

    delivered_ms: int
    deliveries: int | None = None
    force: bool = False
    justid: bool = False
    last_id: Id = ZERO


def _claim_options(words: list[bytes], now_ms: int) -> _Claim:
    claim = _Claim(now_ms)
    rest = list(words)
    while rest:
        option = rest.pop(0).upper()
        if option == b"FORCE":
            claim.force = True
        elif option == b"JUSTID":
            claim.justid = True
        elif option in (b"IDLE", b"TIME", b"RETRYCOUNT", b"LASTID") and rest:
            word = rest.pop(0)
            if option == b"LASTID":
                claim.last_id = read_id(word)
            elif option == b"RETRYCOUNT":
                claim.deliveries = integer(word)
            else:
                number = integer(word)
                claim.delivered_ms = min(now_ms, now_ms - number if option == b"IDLE" else number)
        else:
            raise ReplyError(f"ERR Unrecognized XCLAIM option '{option.decode()}'")
    return claim


@command("XCLAIM", 5, -1)
def xclaim(engine: Engine, args: list[bytes]) -> Reply:
    """Take over pending entries that have been idle for long enough."""
    stream, group = _group(engine, args[0], args[1])
    name = args[2]
    idle = max(integer(args[3], "ERR Invalid min-idle-time argument for XCLAIM"), 0)
    words = args[4:]
    ids: list[Id] = []
    while words and words[0][:1].isdigit():
        ids.append(read_id(words.pop(0)))
    if not ids:
        raise ReplyError(BAD_ID)
    now = engine.data.now_ms()
    claim = _claim_options(words, now)
    group.last_id = max(group.last_id, claim.last_id)
    consumer = group.consumer(name, now)
    out: list[Reply] = []
    for entry_id in ids:
        entry, pending = stream.find(entry_id), group.pending.get(entry_id)
        if entry is None:
            group.pending.pop(entry_id, None)  # since 7.0 a claim clears what was deleted
            continue
        if pending is None:
            if not claim.force:
                continue
            pending = group.pending[entry_id] = Pending(name, now, 0)
        elif idle and now - pending.delivered_ms < idle:
            continue
        _take(pending, name, claim)
        consumer.active_ms = now
        out.append(show_id(entry_id) if claim.justid else show_entry((entry_id, entry)))
    return out


def _take(pending: Pending, name: bytes, claim: _Claim) -> None:
    pending.consumer = name
    pending.delivered_ms = claim.delivered_ms
    if claim.deliveries is not None:
        pending.deliveries = claim.deliveries
    elif not claim.justid:
        pending.deliveries += 1


@command("XAUTOCLAIM", 5, -1)
def xautoclaim(engine: Engine, args: list[bytes]) -> Reply:
    """Take over what has been idle for long enough, from a cursor on; returns cursor, entries and deleted ids."""
    idle = max(integer(args[3], "ERR Invalid min-idle-time argument for XAUTOCLAIM"), 0)
    start = low_id(args[4])
    count, justid, words = 100, False, list(args[5:])
    while words:
        option = words.pop(0).upper()
        if option == b"COUNT" and words:
            count = integer(words.pop(0))
        elif option == b"JUSTID":
            justid = True
        else:
            raise syntax_error()
    if count < 1:
        raise ReplyError("ERR COUNT must be > 0")
    stream, group = _group(engine, args[0], args[1])
    now = engine.data.now_ms()
    consumer = group.consumer(args[2], now)
    claim = _Claim(now, justid=justid)
    out: list[Reply] = []
    deleted: list[Reply] = []
    ids = [entry_id for entry_id in group.pending_ids() if entry_id >= start]
    attempts = 0
    for entry_id in ids:
        if attempts == count * 10 or len(out) + len(deleted) == count:
            return [show_id(entry_id), out, deleted]
        attempts += 1
        entry, pending = stream.find(entry_id), group.pending[entry_id]
        if entry is None:
            del group.pending[entry_id]
            deleted.append(show_id(entry_id))
            continue
        if idle and now - pending.delivered_ms < idle:
            continue
        _take(pending, args[2], claim)
        consumer.active_ms = now
        out.append(show_id(entry_id) if justid else show_entry((entry_id, entry)))
    return [b"0-0", out, deleted]
