"""Copies of a cache's values in this process: which are kept, and what is handed out."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, Final

from gridsync import _units
from gridsync._io import keys as key_names
from gridsync._io.copies import APART, Copies
from gridsync._io.frozen import is_frozen
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.cache._space import Space

ENTRIES_MAX: Final = 10_000_000
BYTES_MAX: Final = 1 << 40
STALENESS_LEAST_S: Final = 0.1


@dataclass(frozen=True)
class Near:
    """How a process keeps copies of what it reads from a cache.

    ::

        profiles = grid.cache(PROFILES, near=Near(entries_max=50_000))

    Raises:
        UsageError: An option cannot be used.
    """

    entries_max: int = 10_000
    """How many values are kept; beyond that, what was not used lately goes."""
    bytes_max: int = 64 << 20
    """How many bytes they may take together, as they are stored in Redis, and 400 more for each."""
    ttl: _units.Seconds | None = None
    """The longest time that a copy is served, in seconds; as long as the value is fresh by default."""
    staleness: _units.Seconds = 5.0
    """How long ago, at most, what is served may have been replaced without this process knowing, in seconds; from 0.1.
    Usually it knows within a round trip; this is for connections that broke in silence."""
    away_for: _units.Seconds = 300.0
    """In a cache with ``on_error="stale"``: how long a copy is served that nothing vouches for any more, in seconds."""
    share: bool | None = None
    """Whether all readers get the same object.  By default those do that nobody can change (numbers, strings, dates,
    frozen models of such), and of others each reader gets one of its own, decoded anew.  ``True``: all values are
    shared, and nobody changes one.  ``False``: none is."""

    def __post_init__(self) -> None:
        """Check everything."""
        _units.count(self.entries_max, "entries_max of a near cache", ENTRIES_MAX)
        _units.count(self.bytes_max, "bytes_max of a near cache", BYTES_MAX)
        if self.ttl is not None:
            _units.seconds(self.ttl, "the ttl of a near cache", least=0.001)
        _units.seconds(self.staleness, "staleness of a near cache", least=STALENESS_LEAST_S)
        _units.seconds(self.away_for, "away_for of a near cache")
        if self.share not in (None, True, False):
            raise UsageError(f"share of a near cache must be None, True or False, not {self.share!r:.100}")

    def fresh_s(self, left_s: float) -> float:
        """Return how long a copy is served of a value that is fresh for *left_s* seconds."""
        return left_s if self.ttl is None else min(left_s, _units.seconds(self.ttl, "ttl"))

    def kept(self, value: Any, data: bytes | None) -> tuple[Any, bytes]:  # noqa: ANN401
        """Return what is kept of *value*, whose bytes are *data*."""
        shared = is_frozen(value) if self.share is None else self.share or value is None
        return (value if shared else APART), data or b""


@dataclass(frozen=True, slots=True)
class NearStats:
    """What the near cache of one name did in a grid since it was opened; all caches of that name share it."""

    hits: int
    """Values that were served without asking the server."""
    misses: int
    """Values that the server was asked for."""
    invalidations: int
    """Copies that were dropped because their value, or a tag of it, was changed or deleted."""
    evictions: int
    """Copies that were dropped because there were too many."""
    drops: int
    """How often a connection was lost, so that nothing that was read there is served any more."""
    entries: int
    """How many copies there are, with those that are not served any more."""
    size: int
    """How many bytes they take, as `Near.bytes_max` counts."""
    refused: str
    """Why the server does not tell of changes, so that nothing is kept; empty if it does."""


def copies_of(io: IO, prefix: str) -> Copies | None:
    """Return the copies of the cache whose values' keys begin with *prefix* in this process, if any are kept."""
    return io.tracking.copies.get(prefix)


def stats_of(io: IO, copies: Copies) -> NearStats:
    """Return what *copies* did."""
    hits, misses, invalidations, evictions, drops = copies.figures
    return NearStats(
        hits, misses, invalidations, evictions, drops, len(copies), copies.size, refused=io.tracking.refused
    )


def open_copies(io: IO, namespace: str, space: Space[Any], near: Near) -> Copies:
    """Return the copies of *space* in this process, kept as *near* says.

    Raises:
        UsageError: They are kept otherwise already.
    """
    prefixes = key_names.cache_prefixes(namespace, space.stored_name)
    found = io.tracking.copies.get(prefixes[0])
    if found is None:
        raw = tuple(prefix.encode() for prefix in prefixes)
        made = Copies(
            io.tracking,
            io.monotonic,
            partial(key_names.cache_key_in, raw[0]),
            space.coder.loads,
            name=space.name,
            prefixes=raw,
            staleness=_units.seconds(near.staleness, "staleness"),
            entries_max=near.entries_max,
            bytes_max=near.bytes_max,
            declared=(space, near),
        )
        found = io.tracking.copies.setdefault(prefixes[0], made)
    if found.declared != (space, near):
        raise UsageError(
            f"this grid has a near cache for {space.name!r} already, of another declaration: {found.declared!r:.300}; "
            f"declare Space and Near once and use them everywhere"
        )
    return found
