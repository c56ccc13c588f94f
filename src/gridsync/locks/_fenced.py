"""The other half of fencing: the resource refuses whoever was overtaken by a later holder.

A holder's *stamp* is its fence and its owner id.  Stamps are compared as pairs, so that all of them have one order:
fences rise from holder to holder, and where two have the same one, their owners differ.  Two may have: in a split
network both primaries grant, and each draws max(its clock in microseconds, last + 1).  (Other numbers would not help:
53 bits hold microseconds for 285 years and leave none for who drew, and a new primary has no number of its own that
the old one could not have.)  Which of the two counts as the later does not matter, only that all resources agree.  They
do: were it the first to write, one resource might let only the one in and another only the other, and the work of both
would be left half done.

States of a gate: the largest stamp seen, which only rises while it is remembered.  Failure points.  *A lost reply*: the
repeat carries the same id and finds that it was done.  *The first attempt arrives after its repeat*, or after a later
write: it finds the same id.  *A stale holder*: its stamp is smaller than its successor's, who wrote before.  *Two sides
of a split*: the one with the smaller stamp writes until the other has.  *A resumed lease* has the stamp that it had; so
have a reentrant one and a downgraded one.  *The lock is taken away*: the raised fence is larger than the holder's.
*The mark is from before owners were remembered*: it lets everybody with its fence in, and learns the owner of the first
one.  *The mark is lost* (eviction, flush, a failover): a stale holder gets through once, until the next write of its
successor.

Invariant: between two applied writes the stamp never falls; so what two holders wrote never alternates.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import gate as gate_keys
from gridsync.errors import StaleFence, UsageError
from gridsync.locks._spec import FENCE_TTL_MS
from gridsync.locks._stamp import stamp_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gridsync._io import IO, Arg
    from gridsync.locks._stamp import Fenced

FENCED = load("gridsync.locks", "fenced")

DONE_MS = 330_000
"""How long a write's id is remembered: longer than the longest command timeout there is, 300 s."""
WORDS_MAX = 4_000
"""Most words of one write: Lua's ``unpack`` takes about twice as many."""

# fmt: off
COMMANDS = frozenset({
    "APPEND", "BITFIELD", "DECR", "DECRBY", "DEL", "EXPIRE", "EXPIREAT", "GEOADD", "GETSET", "HDEL", "HINCRBY",
    "HINCRBYFLOAT", "HSET", "HSETNX", "INCR", "INCRBY", "INCRBYFLOAT", "LINSERT", "LPOP", "LPUSH", "LPUSHX", "LREM",
    "LSET", "LTRIM", "PERSIST", "PEXPIRE", "PEXPIREAT", "PFADD", "PSETEX", "RPOP", "RPUSH", "RPUSHX", "SADD", "SET",
    "SETBIT", "SETEX", "SETNX", "SETRANGE", "SREM", "UNLINK", "XADD", "XDEL", "XTRIM", "ZADD", "ZINCRBY", "ZREM",
    "ZREMRANGEBYLEX", "ZREMRANGEBYRANK", "ZREMRANGEBYSCORE",
})
# fmt: on
"""What a gate lets through: commands that write to one key, their first argument."""
_ONE_KEY_AT_A_TIME = {"DEL": 2, "UNLINK": 2}

Word = str | bytes | int | float


async def write(io: IO, namespace: str, key: str, lease: Fenced, commands: Sequence[Sequence[Word]]) -> None:
    """Run *commands* unless the gate of *key* saw a later holder than that of *lease*.

    Raises:
        StaleFence: It did; nothing was written.
    """
    fence, owner = stamp_of(lease)
    checked = [list(_words(command)) for command in commands]
    if not checked:
        raise UsageError(f"a write through the gate of {key!r} needs a command, such as ('SET', key, value)")
    if sum(map(len, checked)) > WORDS_MAX:
        raise UsageError(f"a write through the gate of {key!r} has {sum(map(len, checked))} words, not {WORDS_MAX}")
    keys = gate_keys(namespace, key)
    targets = dict.fromkeys(_text(command[1]) for command in checked)
    args: list[Arg] = [str(fence), owner, str(FENCE_TTL_MS), str(DONE_MS)]
    for command in checked:
        args += (str(len(command)), *command)
    seen = await io.run(FENCED, (keys.mark, keys.done(io.token()), *targets), args)
    if seen:
        who = f"fence {seen}" if seen > fence else "another holder with the same fence, of a split network,"
        raise StaleFence(
            f"the write to {key!r} with fence {fence} was refused: {who} wrote there already; your lease was "
            f"lost and somebody else holds the lock, so stop",
            name=key,
            fence=fence,
            seen=seen,
        )


def _words(command: Sequence[Word]) -> Iterator[bytes]:
    name = str(command[0]).upper() if command and not isinstance(command, str | bytes) else ""
    if name not in COMMANDS:
        raise UsageError(
            f"a gate takes commands that write to one key, such as ('SET', key, value), not {command!r:.100}"
        )
    if len(command) < 2 or len(command) > _ONE_KEY_AT_A_TIME.get(name, len(command)):  # noqa: PLR2004 - name and key
        raise UsageError(f"{name} takes one key here, its first argument; not {command!r:.100}")
    yield name.encode()
    for word in command[1:]:
        if isinstance(word, bool) or not isinstance(word, str | bytes | int | float):
            raise UsageError(f"{name}: arguments are text, bytes and numbers, not {word!r:.100}")
        if isinstance(word, bytes):
            yield word
            continue
        try:
            yield (word if isinstance(word, str) else repr(word)).encode()
        except UnicodeEncodeError:
            raise UsageError(f"{name}: {word!r:.100} is not valid Unicode; bytes may be anything") from None


def _text(key: bytes) -> str:
    try:
        return key.decode()
    except UnicodeDecodeError:
        raise UsageError(f"a key must be text, not {key!r:.100}") from None
