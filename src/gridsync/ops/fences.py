"""What a restore changes in the data, so that nothing that was handed out before the loss is handed out again.

The claim
    Every fence that is given after a restore is larger than every fence that was ever given for the same name.

Why it does not hold by itself
    A fence is ``max(last + 1, the server's clock in us)``.  A backup remembers the last one of its time; later ones are
    forgotten.  With a right clock the clock alone is beyond them.  With one that was set back, or of another machine
    that is behind, it is not: ``last + 1`` would be given a second time.

States and failure points
    1. The backup was taken: it remembers ``last`` of each name, the manifest the largest one and the server's clock.
    2. Fences are given after that.  Each is at most ``max(the server's clock then, last + as many as were given)``.
    3. Everything is lost.
    4. A server of our own has loaded the backup; nobody else reaches it.  Here ``last`` of every name is set to
       `floor_us`: beyond the clock of this machine, that of the server as far as it was ahead, and every ``last`` that
       is known, by `MARGIN_US`.  What ends now leaves the target as it was.
    5. The files (or keys) reach the target, and only they do.

    So for names that the backup knows the claim holds if this machine's clock is less than a day behind the clock by
    which the lost ones were given.  A name that the backup does not know has no ``last``: for it the clock of the
    target decides, and therefore `restore` refuses a target whose clock is behind.

The same for the generations of ordered groups, which count up from the clock in milliseconds: the holder is dropped,
and whoever held the partition is told so with its next request.

A store with a second site may have been promoted there after the backup was taken.  It comes back fenced: it takes no
events until somebody who knows promotes it.

Not guaranteed: that a clock which is wrong by more than a day is noticed, when the backup's is wrong as well.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync.errors import UsageError
from gridsync.locks._spec import FENCE_TTL_MS
from gridsync.locks._stamp import FENCE_MAX
from gridsync.ops.throwaway import databases

if TYPE_CHECKING:
    import redis

    from gridsync.ops.archive import Manifest

__all__ = ["MARGIN_US", "Raised", "behind_us", "floor_us", "raise_fences"]

MARGIN_US: Final = 24 * 3600 * 1_000_000
"""How far beyond every clock and fence that is known, in microseconds: clocks that are further apart are refused."""
_FENCE: Final = re.compile(rb"\{[^{}:]*:[a-z]+:[^{}]*\}:fence")
_LEASE: Final = re.compile(rb"\{[^{}:]*:events(?:/[0-9]+)?:[^{}]*\}:lease:.*", re.DOTALL)
_META: Final = re.compile(rb"\{[^{}:]*:(events(?:/[0-9]+)?):([^{}]*)\}:meta", re.DOTALL)
_HOLDER: Final = ("m", "t", "s", "o", "p", "a")
"""What of a lease says who has it."""


@dataclass(frozen=True, slots=True)
class Raised:
    """What was changed."""

    floor: int
    """Below this no fence is given any more for a name that the backup knows."""
    fences: int
    """Names whose last fence was raised."""
    generations: int
    """Partitions of ordered groups whose generation was."""
    closed: tuple[str, ...]
    """Stores that have a second site, and take no events until they are promoted."""


def floor_us(manifest: Manifest, now_us: int) -> int:
    """Return what every fence after a restore is above.

    Raises:
        UsageError: This machine's clock is earlier than the backup.
    """
    ahead = max(0, manifest.clock_us or 0)
    if now_us < manifest.taken_us:
        raise UsageError(
            f"this machine's clock is {(manifest.taken_us - now_us) / 1e6:.0f} s behind the time of the backup, and "
            "fences come of clocks; set it right"
        )
    return max(now_us + ahead, manifest.fence) + MARGIN_US


def behind_us(manifest: Manifest, now_us: int, theirs_us: int) -> int:
    """Return how far a server's clock is behind what fences of before may have come from."""
    return max(now_us, manifest.taken_us) + max(0, manifest.clock_us or 0) - theirs_us


def raise_fences(client: redis.Redis, floor: int) -> Raised:
    """Change the data of a server that nobody else reaches, in all its databases; see above.  It may be run again.

    Raises:
        UsageError: A fence is so large that none can be given above it.
    """
    fences, generations, closed = 0, 0, list[str]()
    now_us = _clock(client)
    for one in databases(client):
        for name in one.scan_iter(count=1000):
            if _FENCE.fullmatch(name):
                fences += _raise_one(one, name, floor, now_us)
            elif _LEASE.fullmatch(name):
                generations += _free(one, name, floor // 1000)
            elif found := _META.fullmatch(name):
                closed += _close(one, name, found)
    return Raised(floor, fences, generations, tuple(closed))


def _clock(client: redis.Redis) -> int:
    seconds, rest = client.time()
    return int(seconds) * 1_000_000 + int(rest)


def _raise_one(client: redis.Redis, name: bytes, floor: int, now_us: int) -> bool:
    value: Any = client.get(name) if client.type(name) == b"string" else None
    if value is None or not value.isdigit():
        return False
    beyond = max(int(value) + 1, floor)
    if beyond >= FENCE_MAX:
        raise UsageError(f"{name.decode()!r} has the fence {int(value)}, and none is larger; delete that key")
    # Remembered until the clock is past it, and as long as any fence.
    client.set(name, str(beyond), px=FENCE_TTL_MS + max(0, beyond - now_us) // 1000)
    return True


def _free(client: redis.Redis, name: bytes, floor_ms: int) -> bool:
    held: Any = client.hget(name, "g")
    if held is None:
        return False
    client.hset(name, "g", str(max(int(held) + 1, floor_ms)))
    client.hdel(name, *_HOLDER)
    return True


def _close(client: redis.Redis, name: bytes, found: re.Match[bytes]) -> list[str]:
    site, closed = client.hmget(name, "site", "ro")
    if site is None or closed is not None:
        return []
    client.hset(name, "ro", "fenced")
    return [found[2].decode(errors="replace")]
