"""Strings, keys, expiry, sets and the few server commands."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import (
    OK,
    Reply,
    Status,
    command,
    every_key,
    integer,
    no_key,
    syntax_error,
)
from gridsync.testing.engine._keyspace import Members

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.engine import Engine


@command("PING", 0, 1, no_key)
def ping(_engine: Engine, args: list[bytes]) -> Reply:
    """Answer."""
    return args[0] if args else Status(b"PONG")


@command("ECHO", 1, keys=no_key)
def echo(_engine: Engine, args: list[bytes]) -> Reply:
    """Say it back."""
    return args[0]


@command("TIME", 0, keys=no_key)
def time(engine: Engine, _args: list[bytes]) -> Reply:
    """Return seconds and microseconds."""
    seconds, rest = divmod(engine.data.now_us(), 1_000_000)
    return [b"%d" % seconds, b"%d" % rest]


@command("INFO", 0, -1, no_key)
def info(engine: Engine, _args: list[bytes]) -> Reply:
    """Return what the sections ``server`` and ``persistence`` say of a run."""
    # By the wall clock, as servers do: negative once that was set to before the start.
    uptime = (engine.data.now_us() - engine.began) // 1_000_000
    run = hashlib.sha1(f"{engine.name} {engine.runs}".encode(), usedforsecurity=False).hexdigest()
    lines = ("# Server", "redis_mode:standalone", f"run_id:{run}", f"uptime_in_seconds:{uptime}", "aof_enabled:0", "")
    return "\r\n".join(lines).encode()


@command("ROLE", 0, keys=no_key)
def role(_engine: Engine, _args: list[bytes]) -> Reply:
    """Return that it is a primary without replicas."""
    return [b"master", 0, []]


@command("DBSIZE", 0, keys=no_key)
def dbsize(engine: Engine, _args: list[bytes]) -> Reply:
    """Count the keys."""
    return len(list(engine.data.live_keys()))


@command("FLUSHALL", 0, 1, no_key)
def flushall(engine: Engine, _args: list[bytes]) -> Reply:
    """Forget every key."""
    engine.data.clear()
    return OK


@command("PUBLISH", 2, keys=no_key)
def publish(engine: Engine, args: list[bytes]) -> Reply:
    """Hand a message to whoever listens."""
    return engine.publish(args[0], args[1])


@command("SPUBLISH", 2, keys=no_key)
def spublish(engine: Engine, args: list[bytes]) -> Reply:
    """Hand a message to whoever listens in this slot."""
    return engine.publish(args[0], args[1])


@command("PUBSUB", 1, -1, no_key)
def pubsub(engine: Engine, args: list[bytes]) -> Reply:
    """Tell how many listen on channels."""
    if args[0].upper() not in {b"NUMSUB", b"SHARDNUMSUB"}:
        raise ReplyError(f"ERR unknown subcommand '{args[0].decode(errors='replace')}'. Try PUBSUB HELP.")
    return [word for channel in args[1:] for word in (channel, engine.listeners(channel))]


@command("GET", 1)
def get(engine: Engine, args: list[bytes]) -> Reply:
    """Return a string."""
    return engine.data.string(args[0])


@command("MGET", 1, -1, every_key)
def mget(engine: Engine, args: list[bytes]) -> Reply:
    """Return several strings; what is no string is nil."""
    values = [engine.data.find(key) for key in args]
    return [value if isinstance(value, bytes) else None for value in values]


@command("SET", 2, -1)
def set_(engine: Engine, args: list[bytes]) -> Reply:
    """Write a string, with NX, XX, GET, KEEPTTL, EX, PX, EXAT and PXAT."""
    key, value, *options = args
    flags: set[bytes] = set()
    end: int | None = None
    words = iter(options)
    for word in words:
        option = word.upper()
        if option in (b"NX", b"XX", b"GET", b"KEEPTTL"):
            flags.add(option)
        elif option in _EXPIRE_OPTIONS and end is None:
            amount = next(words, None)
            if amount is None:
                raise syntax_error()
            number = integer(amount)
            if number <= 0:
                raise ReplyError("ERR invalid expire time in 'set' command")
            end = _EXPIRE_OPTIONS[option](engine, number)
        else:
            raise syntax_error()
    if {b"NX", b"XX"} <= flags or (b"KEEPTTL" in flags and end is not None):
        raise syntax_error()
    old = engine.data.string(key) if b"GET" in flags else None
    there = engine.data.find(key) is not None
    if (b"NX" in flags and there) or (b"XX" in flags and not there):
        return old
    engine.data.store(key, value)
    if b"KEEPTTL" not in flags:
        engine.data.persist(key)
    if end is not None:
        engine.data.expire(key, end)
    return old if b"GET" in flags else OK


_EXPIRE_OPTIONS: dict[bytes, Callable[[Engine, int], int]] = {
    b"EX": lambda engine, n: engine.data.now_ms() + n * 1000,
    b"PX": lambda engine, n: engine.data.now_ms() + n,
    b"EXAT": lambda _engine, n: n * 1000,
    b"PXAT": lambda _engine, n: n,
}


@command("SETNX", 2)
def setnx(engine: Engine, args: list[bytes]) -> Reply:
    """Write a string where there is none."""
    if engine.data.find(args[0]) is not None:
        return 0
    engine.data.store(args[0], args[1])
    return 1


@command("PSETEX", 3)
def psetex(engine: Engine, args: list[bytes]) -> Reply:
    """Write a string that ends after some milliseconds."""
    return set_(engine, [args[0], args[2], b"PX", args[1]])


@command("GETDEL", 1)
def getdel(engine: Engine, args: list[bytes]) -> Reply:
    """Return a string and forget it."""
    value = engine.data.string(args[0])
    engine.data.delete(args[0])
    return value


def _add(engine: Engine, key: bytes, amount: int) -> int:
    number = integer(engine.data.string(key) or b"0") + amount
    if not -(2**63) <= number < 2**63:
        raise ReplyError("ERR increment or decrement would overflow")
    engine.data.store(key, b"%d" % number)
    return number


@command("INCR", 1)
def incr(engine: Engine, args: list[bytes]) -> Reply:
    """Add one."""
    return _add(engine, args[0], 1)


@command("INCRBY", 2)
def incrby(engine: Engine, args: list[bytes]) -> Reply:
    """Add an integer."""
    return _add(engine, args[0], integer(args[1]))


@command("DECR", 1)
def decr(engine: Engine, args: list[bytes]) -> Reply:
    """Take one away."""
    return _add(engine, args[0], -1)


@command("DECRBY", 2)
def decrby(engine: Engine, args: list[bytes]) -> Reply:
    """Take an integer away."""
    return _add(engine, args[0], -integer(args[1]))


@command("STRLEN", 1)
def strlen(engine: Engine, args: list[bytes]) -> Reply:
    """Count the bytes."""
    return len(engine.data.string(args[0]) or b"")


@command("DEL", 1, -1, every_key)
def del_(engine: Engine, args: list[bytes]) -> Reply:
    """Forget keys; returns how many there were."""
    return sum(engine.data.find(key) is not None and engine.data.delete(key) for key in args)


@command("UNLINK", 1, -1, every_key)
def unlink(engine: Engine, args: list[bytes]) -> Reply:
    """Forget keys."""
    return del_(engine, args)


@command("RENAME", 2, 2, every_key)
def rename(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key take the place of another."""
    if not engine.data.rename(*args):
        raise ReplyError("ERR no such key")
    return OK


@command("EXISTS", 1, -1, every_key)
def exists(engine: Engine, args: list[bytes]) -> Reply:
    """Count the keys that are there."""
    return sum(engine.data.find(key) is not None for key in args)


@command("TYPE", 1)
def type_(engine: Engine, args: list[bytes]) -> Reply:
    """Name the type."""
    return Status(engine.data.type_name(args[0]).encode())


def _expire(engine: Engine, args: list[bytes], end: int) -> int:
    key, flags = args[0], {word.upper() for word in args[2:]}
    if unknown := flags - {b"NX", b"XX", b"GT", b"LT"}:
        raise ReplyError(f"ERR Unsupported option {min(unknown).decode()}")
    if b"NX" in flags and len(flags) > 1:
        raise ReplyError("ERR NX and XX, GT or LT options at the same time are not compatible")
    if {b"GT", b"LT"} <= flags:
        raise ReplyError("ERR GT and LT options at the same time are not compatible")
    if engine.data.find(key) is None:
        return 0
    now = engine.data.expiry(key)
    refused = (
        (b"NX" in flags and now is not None)
        or (b"XX" in flags and now is None)
        or (b"GT" in flags and (now is None or end <= now))
        or (b"LT" in flags and now is not None and end >= now)
    )
    if refused:
        return 0
    engine.data.expire(key, end)
    return 1


@command("EXPIRE", 2, -1)
def expire(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key end after some seconds."""
    return _expire(engine, args, engine.data.now_ms() + integer(args[1]) * 1000)


@command("PEXPIRE", 2, -1)
def pexpire(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key end after some milliseconds."""
    return _expire(engine, args, engine.data.now_ms() + integer(args[1]))


@command("EXPIREAT", 2, -1)
def expireat(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key end at a second of the server's clock."""
    return _expire(engine, args, integer(args[1]) * 1000)


@command("PEXPIREAT", 2, -1)
def pexpireat(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key end at a millisecond of the server's clock."""
    return _expire(engine, args, integer(args[1]))


@command("PTTL", 1)
def pttl(engine: Engine, args: list[bytes]) -> Reply:
    """Return the milliseconds left, -1 for ever, -2 if there is no such key."""
    if engine.data.find(args[0]) is None:
        return -2
    end = engine.data.expiry(args[0])
    return -1 if end is None else end - engine.data.now_ms()


@command("TTL", 1)
def ttl(engine: Engine, args: list[bytes]) -> Reply:
    """Return the seconds left, rounded."""
    left = int(pttl(engine, args))
    return left if left < 0 else (left + 500) // 1000


@command("PEXPIRETIME", 1)
def pexpiretime(engine: Engine, args: list[bytes]) -> Reply:
    """Return when a key ends, in milliseconds of the server's clock."""
    if engine.data.find(args[0]) is None:
        return -2
    end = engine.data.expiry(args[0])
    return -1 if end is None else end


@command("PERSIST", 1)
def persist(engine: Engine, args: list[bytes]) -> Reply:
    """Let a key live for ever."""
    return int(engine.data.find(args[0]) is not None and engine.data.persist(args[0]))


@command("SADD", 2, -1)
def sadd(engine: Engine, args: list[bytes]) -> Reply:
    """Add members to a set; returns how many were new."""
    members = engine.data.make(args[0], Members)
    before = len(members)
    members.update(dict.fromkeys(args[1:]))
    return len(members) - before


@command("SREM", 2, -1)
def srem(engine: Engine, args: list[bytes]) -> Reply:
    """Take members out of a set."""
    members = engine.data.get(args[0], Members)
    if members is None:
        return 0
    gone = sum(member in members and members.pop(member) is None for member in args[1:])
    engine.data.tidy(args[0], members)
    return gone


@command("SISMEMBER", 2)
def sismember(engine: Engine, args: list[bytes]) -> Reply:
    """Tell whether a set has a member."""
    return int(args[1] in (engine.data.get(args[0], Members) or ()))


@command("SMEMBERS", 1)
def smembers(engine: Engine, args: list[bytes]) -> Reply:
    """Return all members."""
    return list(engine.data.get(args[0], Members) or ())


@command("SCARD", 1)
def scard(engine: Engine, args: list[bytes]) -> Reply:
    """Count the members."""
    return len(engine.data.get(args[0], Members) or ())
