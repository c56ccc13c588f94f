"""What the server knows of one subject of a limiter, for people: `gridsync limits`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import LIMIT_KINDS, limit

if TYPE_CHECKING:
    from gridsync._io import IO

_LOOK = load("gridsync.limits", "look")
_LOOK_KIND = load("gridsync.limits", "look_kind")
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a log holds; the limits themselves are not stored, so nothing is said about them."""

    limiter: str
    """The limiter's name."""
    key: str
    """Whom it limits."""
    used: int
    """Units admitted within the window that was asked for, those of the future among them."""
    ahead: int
    """Units that count as admitted in the future: reservations, and permits that are leased."""
    entries: int
    """How many entries the log has."""
    first: datetime
    """The oldest entry, by the server's clock."""
    last: datetime
    """The newest entry; in the future if there are reservations or leases."""
    expires_in: float
    """Seconds until the server forgets the key, unless it is hit."""


@dataclass(frozen=True, slots=True)
class Kept:
    """What a key has used of a rule that is no sliding window."""

    limiter: str
    """The limiter's name."""
    key: str
    """Whom it limits."""
    kind: str
    """One of `LIMIT_KINDS`."""
    used: int
    """Units: what the newest hits of a bucket took within the window that was asked for; what counters hold; or how
    many slots are taken."""
    more: bool
    """Whether it may be more: a bucket knows its sixteen newest hits."""
    over_in: float
    """Seconds until the bucket is full, the counters count for nothing, or the last slot is free."""
    expires_in: float
    """Seconds until the server forgets the key, unless it is hit."""


async def look(io: IO, namespace: str, limiter: str, subject: str, window_us: int) -> Usage | None:
    """Tell what *subject* has used within the last *window_us*; ``None`` if there is no log of it."""
    found = await io.run(_LOOK, (limit(namespace, limiter, subject),), (str(window_us),))
    if not found:
        return None
    entries, used, ahead, first_us, last_us, _, ttl_ms = found
    first, last = (_EPOCH + timedelta(microseconds=us) for us in (first_us, last_us))
    return Usage(limiter, subject, used, ahead, entries, first, last, ttl_ms / 1000)


async def look_kind(io: IO, namespace: str, limiter: str, subject: str, window_us: int, *, kind: str) -> Kept | None:
    """Tell what *subject* has used of a rule of another *kind*; ``None`` if there is nothing of it."""
    key = f"{limit(namespace, limiter, subject)}:{kind}"
    found = await io.run(_LOOK_KIND, (key,), (kind, str(window_us)))
    if not found:
        return None
    used, more, over_us, ttl_ms = found
    return Kept(limiter, subject, kind, used, more == 1, over_us / 1_000_000, ttl_ms / 1000)


async def look_at_all(io: IO, namespace: str, limiter: str, subject: str, window_us: int) -> list[Usage | Kept]:
    """Tell what *subject* has used, of whatever rules; the log comes first."""
    log = await look(io, namespace, limiter, subject, window_us)
    others = [await look_kind(io, namespace, limiter, subject, window_us, kind=kind) for kind in LIMIT_KINDS]
    return [found for found in (log, *others) if found is not None]
