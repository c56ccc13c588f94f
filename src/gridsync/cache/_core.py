"""Why and when: the decisions of the cache, once for sync and asyncio.

An entry is one key, so that a cluster spreads them, with the lease of its load beside it in the same slot.  States::

    missing ──fetch──▶ being loaded ──put──▶ fresh ──its ttl──▶ stale ──its stale time──▶ missing
                          │   ▲                                   │
       yield, lease over  ▼   └───────────────fetch───────────────┘
                       missing

A delete, a set and the end of the lease take the load away from its loader: what it brings then is not stored.  A tag
is a key with a version; an entry carries the versions that its tags had *before* its load began, and counts as missing
when one of them is another now, or gone.

Failure points.  *A loader's process dies*: its lease ends within seconds, and a waiter loads.  *It is slow*: the
watchdog renews the lease.  *A lost reply*: every script finds its own token.  *A lost wake-up*: waiters look by
themselves.  *An invalidation while a load is under way*: the load is not stored, or stored under old versions.

Invariants: of all who fetch, one at a time loads a key; and nothing that was read before a delete, a set or an
invalidation is served to a call that begins after it has returned.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from gridsync import _units
from gridsync._io import Category, Command, load
from gridsync._io import keys as key_names
from gridsync._io.copies import MISSING
from gridsync.cache._codec import V
from gridsync.cache._entry import Entry, packed, unpacked
from gridsync.cache._flight import Flight
from gridsync.cache._loading import Loading
from gridsync.cache._near import Near, copies_of, open_copies, stats_of
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Coroutine, Mapping, Sequence

    from gridsync._io import IO, Script
    from gridsync._io.copies import Reading
    from gridsync.cache._near import NearStats
    from gridsync.cache._space import Space

GET: Final = Command("cache.get", Category.READ, ("GET",))
GET_MANY: Final = Command("cache.get_many", Category.READ, ("MGET",))
READ: Final = load("gridsync.cache", "read")
INVALIDATE: Final = load("gridsync.cache", "invalidate")
SET: Final = load("gridsync.cache", "set")
DROP: Final = load("gridsync.cache", "drop")
VERSIONS: Final = load("gridsync.cache", "versions")

AT_ONCE: Final = 500
"""How many keys one request names, and how many requests are under way at once."""
T = TypeVar("T")
_log = logging.getLogger("gridsync")


class CacheCore(Generic[V]):
    """One cache: its keys, its loads under way, and what it counts."""

    def __init__(self, io: IO, namespace: str, space: Space[V], near: Near | None = None) -> None:
        """Hold nothing.

        Raises:
            UsageError: *near* is needed, or is another one than before.
        """
        if space.on_error == "stale" and near is None:
            raise UsageError(f"{space.name!r} has on_error='stale': pass near=Near(…), which keeps what is served then")
        self.io = io
        self.space = space
        self._namespace = namespace
        self.timeout_s = space.timeout_s
        self._flights: dict[str, Flight[V]] = {}
        self._prefix = key_names.cache_prefixes(namespace, space.stored_name)[0]
        self._near = near
        self._kept = (near or Near()).kept
        self.copies = None if near is None else open_copies(io, namespace, space, near)
        # How old an entry is is asked only where it makes a difference.
        self._ages = bool(space.stale_for or space.early or near is not None)
        self._warned = False
        self.counts = dict.fromkeys(("hit", "stale", "miss", "load", "degraded", "kept"), 0)

    def key(self, key: str) -> str:
        """Return the Redis key of an entry."""
        return key_names.cache(self._namespace, self.space.stored_name, _units.name(key, "the key of a cached value"))

    def _tag_keys(self, tags: Collection[str]) -> list[str]:
        if isinstance(tags, str):
            raise UsageError(f"tags={tags!r:.100}: give a sequence of tags")
        name = self.space.stored_name
        return [key_names.cache_tag(self._namespace, name, _units.name(tag, "a tag")) for tag in tags]

    # -- reading ----------------------------------------------------------------------------------------------------

    async def get(self, key: str, default: Any) -> Any:  # noqa: ANN401 - a value, or what the caller gave
        """Return the value of *key*, or *default*."""
        found, _, _ = await self._seen(key)
        if found is not MISSING:
            return found
        self.count("miss")
        return default

    async def _seen(self, key: str) -> tuple[Any, bool, bool]:
        """Return the value of *key*, or `MISSING`, whether it is served as it is, and whether the server is away."""
        name = self.key(key)
        read = None if self.copies is None else self.copies.begin(key, name)
        try:
            if self._ages:
                stored, life_ms = await self.io.run(READ, (name,), timeout=self.timeout_s)
            else:
                stored, life_ms = await self.io.run(GET, (name,), timeout=self.timeout_s), 0
            entry = unpacked(stored) if stored else None
            found = MISSING if entry is None else await self.value(entry, read)
        except (Unavailable, OutcomeUnknown) as error:
            self._unread(read, key)
            found = self._last(key, error)
            return found, found is not MISSING, True
        except BaseException:
            self._unread(read, key)
            raise
        return found, self._judged(key, read, entry, found, life_ms), False

    def _judged(self, key: str, read: Reading | None, entry: Entry | None, found: Any, life_ms: int) -> bool:  # noqa: ANN401
        """Count what was read, keep it if it may be, and tell whether it is fresh."""
        if not self._ages:
            if found is not MISSING:
                self.count("hit")
            return found is not MISSING
        fresh_ms = 0.0
        if entry is not None:
            token = self.io.token() if self.space.early else ""
            fresh_ms = self.space.fresh_ms(token, life_ms, entry.load_ms, entry.stale_ms)
        if self.copies is not None and self._near is not None:
            if entry is None or found is MISSING:
                self.copies.finish(read, key, "")
            else:
                keep = self._kept(found, entry.data)
                self.copies.finish(read, key, entry.id, self._near.fresh_s(fresh_ms / 1000), keep)
        if found is MISSING:
            return False
        self.count("hit" if fresh_ms > 0 else "stale")
        return fresh_ms > 0

    def _unread(self, read: Reading | None, key: str) -> None:
        if read is not None and self.copies is not None:
            self.copies.finish(read, key, None)

    def _last(self, key: str, error: Unavailable | OutcomeUnknown) -> Any:  # noqa: ANN401
        """Return what is served of *key* without the server, `MISSING` if nothing is; or raise *error*."""
        if self.copies is not None and self._near is not None and self.space.on_error == "stale":
            found = self.copies.last(key, _units.seconds(self._near.away_for, "away_for"))
            if found is not MISSING:
                self.count("kept")
                return found
        self._away(error)
        return MISSING

    async def get_many(self, keys: Sequence[str]) -> dict[str, V]:
        """Return the values of those *keys* that are there."""
        if isinstance(keys, str):
            raise UsageError(f"keys={keys!r:.100}: give a sequence of keys")
        names = {key: self.key(key) for key in keys}
        found: dict[str, Any] = {key: MISSING if self.copies is None else self.copies.get(key) for key in names}
        found.update(await self._read_all({key: names[key] for key in names if found[key] is MISSING}))
        return {key: value for key, value in found.items() if value is not MISSING}

    async def _read_all(self, names: dict[str, str]) -> dict[str, Any]:
        """Return the values of the keys that *names* has the Redis keys of, or `MISSING`."""
        reads = {key: None if self.copies is None else self.copies.begin(key, name) for key, name in names.items()}
        try:
            stored = await self._get_all(list(names.values()), ages=self._ages)
            entries = {key: unpacked(each) if each else None for key, (each, _) in zip(names, stored, strict=True)}
            for key, entry in entries.items():
                if entry is not None and entry.tags:
                    self._mark_tags(reads[key], entry)
            versions = await self.known({tag for entry in entries.values() if entry for tag in entry.tags})
        except (Unavailable, OutcomeUnknown) as error:
            for key, read in reads.items():
                self._unread(read, key)
            return {key: self._last(key, error) for key in names}
        except BaseException:
            for key, read in reads.items():
                self._unread(read, key)
            raise
        found: dict[str, Any] = {}
        for (key, entry), (_, life_ms) in zip(entries.items(), stored, strict=True):
            value: Any = MISSING
            if entry is not None and all(versions[tag] == version for tag, version in entry.tags.items()):
                value = self._read(entry)
            found[key] = value
            self._judged(key, reads[key], entry, value, life_ms)
            if value is MISSING:
                self.count("miss")
        return found

    async def _get_all(self, names: list[str], *, ages: bool = False) -> list[tuple[bytes | None, int]]:
        """Return what is stored under *names*, and if *ages* for how many milliseconds more."""
        run, together = partial(self.io.run, timeout=self.timeout_s), self.io.together(names)
        found: list[tuple[bytes | None, int]] = []
        for at in range(0, len(names), AT_ONCE):
            some = names[at : at + AT_ONCE]
            if not ages and together:
                found += [(each, 0) for each in await run(GET_MANY, some)]
            elif not ages:
                found += [(each, 0) for each in await self.io.gather(*(run(GET, (name,)) for name in some))]
            elif together:
                flat = await run(READ, some)
                found += zip(flat[::2], flat[1::2], strict=True)
            else:
                found += map(tuple, await self.io.gather(*(run(READ, (name,)) for name in some)))
        return found

    async def value(self, entry: Entry, read: Reading | None = None) -> Any:  # noqa: ANN401 - V, or MISSING
        """Return the value of *entry*, or `MISSING` if a tag of it was invalidated."""
        if entry.tags:
            self._mark_tags(read, entry)
            if await self.known(entry.tags) != entry.tags:
                return MISSING
        return self._read(entry)

    def _mark_tags(self, read: Reading | None, entry: Entry) -> None:
        if read is not None and self.copies is not None:
            self.copies.mark_tags(read, self._tag_keys(entry.tags))

    async def known(self, tags: Collection[str]) -> dict[str, bytes | None]:
        """Return the versions of *tags*."""
        names = list(tags)
        if not names:
            return {}
        return {
            tag: version for tag, (version, _) in zip(names, await self._get_all(self._tag_keys(names)), strict=True)
        }

    def stored(self, value: V) -> bytes | None:
        """Return what is stored of *value*."""
        return None if value is None else self.space.coder.dumps(value)

    def _read(self, entry: Entry) -> Any:  # noqa: ANN401
        if entry.data is None:
            return None
        try:
            return self.space.coder.loads(entry.data)
        except Exception as error:  # noqa: BLE001 - a codec's, of whatever library
            # Another version of the program wrote it: for this one it is not there.
            if not isinstance(error, ValueError) and not self._warned:
                self._warned = True
                _log.warning("cache %r: what cannot be read counts as missing: %r", self.space.name, error)
            return MISSING

    # -- loading ----------------------------------------------------------------------------------------------------

    async def load(self, key: str, loader: Callable[[], Any], tags: Sequence[str], ttl: _units.Seconds | None) -> V:
        """Return the value of *key*, loaded if it is missing; see `Cache.get_or_load`."""
        if tags:
            self._tag_keys(tags)
        if ttl is not None:
            self.space.life_ms("", ttl)
        first = True
        while True:
            found, fresh, away = await self._seen(key)
            value: V = found
            if fresh:
                return value
            if first and found is MISSING:
                self.count("miss")
            first = False
            flight, mine = self._flights.get(key), False
            if flight is None:
                new = Flight(self.io.signal(), self._kept, self.space.coder.loads)
                flight = self._flights.setdefault(key, new)
                mine = flight is new
                if mine:
                    # A task of its own, so that it goes on for all others if this caller is cancelled.
                    loading = Loading(self, key, loader, tags, ttl, away=away)
                    self.io.spawn(self._fly(flight, loading, alone=found is not MISSING))
            if found is not MISSING:
                # It may be served while it is loaded again; where loads run on the spot, that is done already.
                if not flight.current:
                    return value
                return flight.result() if mine else flight.share()
            with flight.awaited_by(self.io.here()) as found_out:
                if found_out and not flight.done.is_set():
                    raise UsageError(
                        f"the loader of {key!r} in the cache {self.space.name!r} asks for that very value, perhaps by "
                        f"way of another one's loader: let it load what it needs by itself"
                    )
                await flight.done.wait()
            if mine:
                return flight.result()
            if flight.current or flight.error is not None:
                return flight.share()

    async def _fly(self, flight: Flight[V], loading: Loading[V], *, alone: bool) -> None:
        flight.pilot = self.io.here()
        try:
            await loading.run(flight)
        except BaseException as error:
            flight.error = error
            if not isinstance(error, Exception):
                raise
            if alone:
                # Nobody waits for it.
                _log.warning(
                    "cache %r: loading %r again failed, it is served as it is: %r", self.space.name, loading.key, error
                )
        finally:
            self.leave(loading.key, flight)
            flight.done.set()

    def leave(self, key: str, flight: Flight[V]) -> None:
        """Let nobody join *flight* from now on."""
        if self._flights.get(key) is flight:
            del self._flights[key]

    async def here(self, asked: Awaitable[T]) -> T | None:
        """Return what the server answers, or ``None`` if it is away and that is no error for this cache."""
        try:
            return await asked
        except (Unavailable, OutcomeUnknown) as error:
            self._away(error)
            return None

    # -- writing ----------------------------------------------------------------------------------------------------

    async def set(self, values: Mapping[str, V], tags: Sequence[str], ttl: _units.Seconds | None) -> bool:
        """Store *values*; true unless the server is away and that is no error here."""
        space, token = self.space, self.io.token()
        names = [self.key(key) for key in values]
        lives = [space.life_ms(f"{token}{key}", ttl, none=value is None) for key, value in values.items()]
        data = [self.stored(value) for value in values.values()]
        self._tag_keys(tags)
        if not names:
            return True
        try:
            versions = await self.here(self.versions(tags, max(lives) + space.stale_ms))
            if versions is None:
                return False
            pairs = [
                (packed(token, each, 0, space.stale_ms, versions), str(life + space.stale_ms))
                for each, life in zip(data, lives, strict=True)
            ]
            return await self.here(self._each(SET, names, pairs, self.timeout_s)) is not None
        finally:
            self._forget(values)

    async def delete(self, keys: Sequence[str]) -> int:
        """Delete entries and stop what is loaded for them from being stored; return how many there were."""
        names = [self.key(key) for key in keys]
        try:
            return sum(await self._each(DROP, names, [()] * len(names)))
        finally:
            self._forget(keys)

    def _forget(self, keys: Collection[str]) -> None:
        for key in keys:
            self._flights.pop(key, None)
            self.changed(key)

    def changed(self, key: str) -> None:
        """Serve nothing here that was read of *key* before now, when this process has written it."""
        copies = copies_of(self.io, self._prefix)
        if copies is not None:
            copies.forget(key)

    def saw(self, key: str, entry: str) -> None:
        """Take note that the server has *entry* for *key*."""
        if self.copies is not None:
            self.copies.finish(None, key, entry)

    async def _each(
        self, script: Script, names: list[str], args: Sequence[tuple[Any, ...]], timeout: float | None = None
    ) -> list[int]:
        """Run *script* for all entries: a few hundred at once, or each by itself where they lie apart."""
        at_once = AT_ONCE if self.io.together(names) else 1

        def some(at: int) -> Coroutine[Any, Any, int]:
            keys = [key for name in names[at : at + at_once] for key in (name, f"{name}:load")]
            words = [word for each in args[at : at + at_once] for word in each]
            return self.io.run(script, keys, (self.io.wake_prefix(names[at]), *words), timeout=timeout)

        if at_once > 1:
            return [await some(at) for at in range(0, len(names), at_once)]
        done: list[int] = []
        for at in range(0, len(names), AT_ONCE):
            done += await self.io.gather(*map(some, range(at, min(at + AT_ONCE, len(names)))))
        return done

    async def invalidate(self, tags: Sequence[str]) -> None:
        """Let everything that was stored under one of *tags* count as missing from now on."""
        keep = str(self.space.life_ms("", None) + self.space.stale_ms)
        keys = self._tag_keys(tags)
        try:
            await self.io.gather(*(self.io.run(INVALIDATE, (key,), (self.io.token(), keep)) for key in keys))
        finally:
            # Which of them have that tag is not worth knowing: who comes now begins anew.
            self._flights.clear()
            copies = copies_of(self.io, self._prefix)
            if copies is not None:
                copies.told([key.encode() for key in keys])

    async def versions(self, tags: Sequence[str], life_ms: int) -> dict[str, bytes]:
        """Return the versions of *tags*, which get one now if they have none."""
        names = list(dict.fromkeys(tags))
        keys, args = self._tag_keys(names), (self.io.token(), str(life_ms))
        if not keys:
            return {}
        run = partial(self.io.run, timeout=self.timeout_s)
        if self.io.together(keys):
            return dict(zip(names, await run(VERSIONS, keys, args), strict=True))
        found = await self.io.gather(*(run(VERSIONS, (key,), args) for key in keys))
        return {name: versions[0] for name, versions in zip(names, found, strict=True)}

    # -- counting ---------------------------------------------------------------------------------------------------

    def count(self, what: str) -> None:
        """Count what happened, here and for whoever measures."""
        self.counts[what] += 1
        self.io.tally(f"cache.{what}", self.space.name)

    def near_stats(self) -> NearStats | None:
        """Return what the copies of this process did."""
        return None if self.copies is None else stats_of(self.io, self.copies)

    def loaded(self, took: float) -> None:
        """Count a load that took so many seconds."""
        self.counts["load"] += 1
        self.io.tally("cache.load", self.space.name, took)

    def _away(self, error: Unavailable | OutcomeUnknown) -> None:
        """Go on without the server, or raise *error*, as this cache was told."""
        if self.space.on_error == "raise":
            raise error
        self.count("degraded")
