"""The other half of fencing: the resource refuses a fence that is smaller than one it saw.

States of a gate: the largest fence seen, which only rises while it is remembered.  Failure points.  *A lost reply*: the
repeat carries the same id and finds that it was done.  *The first attempt arrives after its repeat*, or after a later
write: it finds the same id.  *A stale holder*: its fence is smaller than its successor's, who wrote before.  *The mark
is lost* (eviction, flush, a failover): a stale holder gets through once, until the next write of its successor.

Invariant: between two applied writes the fence never falls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import gate as gate_keys
from gridsync.errors import StaleFence, UsageError
from gridsync.locks._spec import FENCE_TTL_MS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from gridsync._io import IO, Arg

FENCED = load("gridsync.locks", "fenced")

FENCE_MAX = 2**53 - 1
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


async def write(io: IO, namespace: str, key: str, commands: Sequence[Sequence[Word]], fence: int) -> None:
    """Run *commands* unless the gate of *key* saw a larger fence than *fence*.

    Raises:
        StaleFence: It did; nothing was written.
    """
    check_fence(fence)
    checked = [list(_words(command)) for command in commands]
    if not checked:
        raise UsageError(f"a write through the gate of {key!r} needs a command, such as ('SET', key, value)")
    if sum(map(len, checked)) > WORDS_MAX:
        raise UsageError(f"a write through the gate of {key!r} has {sum(map(len, checked))} words, not {WORDS_MAX}")
    keys = gate_keys(namespace, key)
    targets = dict.fromkeys(_text(command[1]) for command in checked)
    args: list[Arg] = [str(fence), str(FENCE_TTL_MS), str(DONE_MS)]
    for command in checked:
        args += (str(len(command)), *command)
    seen = await io.run(FENCED, (keys.mark, keys.done(io.token()), *targets), args)
    if seen:
        raise StaleFence(
            f"the write to {key!r} with fence {fence} was refused: fence {seen} wrote there already; your lease was "
            f"lost and somebody else holds the lock, so stop",
            name=key,
            fence=fence,
            seen=seen,
        )


def check_fence(fence: int) -> None:
    """Raise `UsageError` unless *fence* can be one."""
    if isinstance(fence, bool) or not isinstance(fence, int) or not 0 < fence <= FENCE_MAX:
        raise UsageError(f"a fence is a positive integer below 2^53, such as lease.fence, not {fence!r:.100}")


def _words(command: Sequence[Word]) -> Iterator[str | bytes]:
    name = str(command[0]).upper() if command and not isinstance(command, str | bytes) else ""
    if name not in COMMANDS:
        raise UsageError(
            f"a gate takes commands that write to one key, such as ('SET', key, value), not {command!r:.100}"
        )
    if len(command) < 2 or len(command) > _ONE_KEY_AT_A_TIME.get(name, len(command)):  # noqa: PLR2004 - name and key
        raise UsageError(f"{name} takes one key here, its first argument; not {command!r:.100}")
    yield name
    for word in command[1:]:
        if isinstance(word, bool) or not isinstance(word, str | bytes | int | float):
            raise UsageError(f"{name}: arguments are text, bytes and numbers, not {word!r:.100}")
        yield word if isinstance(word, str | bytes) else repr(word)


def _text(key: str | bytes) -> str:
    if isinstance(key, bytes):
        try:
            return key.decode()
        except UnicodeDecodeError:
            raise UsageError(f"a key must be text, not {key!r:.100}") from None
    return key
