"""Hashes."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import OK, Reply, command, integer
from gridsync.testing.engine._keyspace import Hash

if TYPE_CHECKING:
    from gridsync.testing.engine import Engine

_EMPTY = Hash()


def _read(engine: Engine, key: bytes) -> Hash:
    return engine.data.get(key, Hash) or _EMPTY


@command("HGET", 2)
def hget(engine: Engine, args: list[bytes]) -> Reply:
    """Return a field."""
    return _read(engine, args[0]).get(args[1])


@command("HMGET", 2, -1)
def hmget(engine: Engine, args: list[bytes]) -> Reply:
    """Return several fields."""
    value = _read(engine, args[0])
    return [value.get(field) for field in args[1:]]


@command("HGETALL", 1)
def hgetall(engine: Engine, args: list[bytes]) -> Reply:
    """Return fields and values, in turn."""
    return list(chain.from_iterable(_read(engine, args[0]).items()))


@command("HKEYS", 1)
def hkeys(engine: Engine, args: list[bytes]) -> Reply:
    """Return the fields."""
    return list(_read(engine, args[0]))


@command("HVALS", 1)
def hvals(engine: Engine, args: list[bytes]) -> Reply:
    """Return the values."""
    return list(_read(engine, args[0]).values())


@command("HLEN", 1)
def hlen(engine: Engine, args: list[bytes]) -> Reply:
    """Count the fields."""
    return len(_read(engine, args[0]))


@command("HEXISTS", 2)
def hexists(engine: Engine, args: list[bytes]) -> Reply:
    """Tell whether there is such a field."""
    return int(args[1] in _read(engine, args[0]))


@command("HSTRLEN", 2)
def hstrlen(engine: Engine, args: list[bytes]) -> Reply:
    """Count the bytes of a field."""
    return len(_read(engine, args[0]).get(args[1], b""))


def _write(engine: Engine, args: list[bytes], name: str) -> int:
    if len(args) % 2 == 0:
        raise ReplyError(f"ERR wrong number of arguments for '{name}' command")
    value = engine.data.make(args[0], Hash)
    before = len(value)
    value.update(zip(args[1::2], args[2::2], strict=True))
    return len(value) - before


@command("HSET", 3, -1)
def hset(engine: Engine, args: list[bytes]) -> Reply:
    """Write fields; returns how many were new."""
    return _write(engine, args, "hset")


@command("HMSET", 3, -1)
def hmset(engine: Engine, args: list[bytes]) -> Reply:
    """Write fields."""
    _write(engine, args, "hmset")
    return OK


@command("HSETNX", 3)
def hsetnx(engine: Engine, args: list[bytes]) -> Reply:
    """Write a field where there is none."""
    if args[1] in _read(engine, args[0]):
        return 0
    return _write(engine, args, "hsetnx")


@command("HDEL", 2, -1)
def hdel(engine: Engine, args: list[bytes]) -> Reply:
    """Take fields away; returns how many there were."""
    value = engine.data.get(args[0], Hash)
    if value is None:
        return 0
    gone = sum(value.pop(field, None) is not None for field in args[1:])
    engine.data.tidy(args[0], value)
    return gone


@command("HINCRBY", 3)
def hincrby(engine: Engine, args: list[bytes]) -> Reply:
    """Add an integer to a field."""
    amount = integer(args[2])
    old = integer(_read(engine, args[0]).get(args[1], b"0"), "ERR hash value is not an integer")
    number = old + amount
    if not -(2**63) <= number < 2**63:
        raise ReplyError("ERR increment or decrement would overflow")
    engine.data.make(args[0], Hash)[args[1]] = b"%d" % number
    return number
