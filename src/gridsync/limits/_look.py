"""What the server knows of one subject of a limiter, for people: `gridsync limits`."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from gridsync._io import load
from gridsync._io.keys import limit

if TYPE_CHECKING:
    from gridsync._io import IO

_LOOK = load("gridsync.limits", "look")
_EPOCH = datetime(2025, 1, 1, tzinfo=UTC)


@dataclass(frozen=True, slots=True)
class Usage:
    """What a key has used; the limits themselves are not stored, so nothing is said about them."""

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


async def look(io: IO, namespace: str, limiter: str, subject: str, window_us: int) -> Usage | None:
    """Tell what *subject* has used within the last *window_us*; ``None`` if there is no log of it."""
    found = await io.run(_LOOK, (limit(namespace, limiter, subject),), (str(window_us),))
    if not found:
        return None
    entries, used, ahead, first_us, last_us, _, ttl_ms = found
    first, last = (_EPOCH + timedelta(microseconds=us) for us in (first_us, last_us))
    return Usage(limiter, subject, used, ahead, entries, first, last, ttl_ms / 1000)
