"""`Cache` for threads and `AsyncCache` for asyncio."""

from __future__ import annotations

import functools
import inspect
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar, overload

from gridsync._io import run_sync
from gridsync._io.copies import MISSING
from gridsync.cache._arguments import KeyOf
from gridsync.cache._codec import V
from gridsync.cache._core import CacheCore
from gridsync.cache._warming import Warming
from gridsync.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Iterable, Mapping, Sequence

    from gridsync._io import IO
    from gridsync._units import Seconds
    from gridsync.cache._near import Near, NearStats
    from gridsync.cache._space import Space
    from gridsync.cache._warming import Warmed

D = TypeVar("D")
P = ParamSpec("P")


@dataclass(frozen=True, slots=True)
class CacheStats:
    """What one cache object did since it was made."""

    hits: int
    """Values that were served, and fresh."""
    stale: int
    """Values that were served past their ttl, while they were loaded again."""
    misses: int
    """Values that were not there."""
    loads: int
    """Times that a loader ran to its end."""
    degraded: int
    """Questions that the server did not answer, and that were not answered from a copy."""
    kept: int = 0
    """Values that were served from a copy while the server was away (``on_error="stale"``)."""
    near: NearStats | None = None
    """What the near cache did, if there is one; what it served is in no other number here."""

    @property
    def hit_rate(self) -> float:
        """The part of the questions that were answered with a value; 0 before the first one."""
        served = self.hits + self.stale + self.kept + (0 if self.near is None else self.near.hits)
        asked = served + self.misses
        return served / asked if asked else 0.0


def _nothing(key: str) -> Any:  # noqa: ANN401, ARG001 - in the place of `Copies.get`
    """Have no copy."""
    return MISSING


class _CacheBase(Generic[V]):
    """What both kinds share."""

    def __init__(self, io: IO, namespace: str, space: Space[V], near: Near | None = None) -> None:
        """Open the cache; nothing is sent.

        Args:
            io: The driver.
            namespace: The first part of every key.
            space: The name, the type of the values and how long they may be served.
            near: How to keep copies in this process; none are kept by default.

        Raises:
            UsageError: The near cache of that name in this grid was opened otherwise, or *space* needs one.
        """
        self._core: CacheCore[V] = CacheCore(io, namespace, space, near)
        self._near = _nothing if self._core.copies is None else self._core.copies.get

    @property
    def space(self) -> Space[V]:
        """The declaration of this cache."""
        return self._core.space

    def stats(self) -> CacheStats:
        """Return what this object did since it was made.  Cost: no input or output."""
        counts = self._core.counts
        return CacheStats(
            counts["hit"],
            counts["stale"],
            counts["miss"],
            counts["load"],
            counts["degraded"],
            counts["kept"],
            self._core.near_stats(),
        )

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.space.name!r} ttl={self.space.ttl}>"


class Cache(_CacheBase[V]):
    """Values that are dear to make and may be a little old, shared by all processes; for threads.

    Guarantee: a value is loaded by one caller at a time among all threads and processes; what was read before a
    `delete`, a `set` or an `invalidate` is never served to a call that begins after it has returned; what is stored
    comes back with the same type and value (tests/cache).
    Not guaranteed: that a value stays for its ttl: a server that is full may drop it, and one that fails over may
    lose it, or a deletion of the last moments with it.  While the server is away nothing is deleted or invalidated:
    these calls raise.
    """

    @overload
    def get(self, key: str) -> V | None: ...
    @overload
    def get(self, key: str, default: D) -> V | D: ...
    def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default* if there is none.

        Args:
            key: Of the value; 1 to 512 bytes.
            default: What to return instead; pass a sentinel of your own where ``None`` is a value.

        Raises:
            UsageError: *key* cannot be used.
            Unavailable: The server is away, in a cache with ``on_error="raise"``.

        Cost: one round trip; one more for a value that was stored under tags.
        """
        found = self._near(key)
        return found if found is not MISSING else run_sync(self._core.get(key, default))

    def get_many(self, keys: Sequence[str]) -> dict[str, V]:
        """Return the values of those *keys* that have one.

        Raises:
            UsageError: A key cannot be used.
            Unavailable: The server is away, in a cache with ``on_error="raise"``.

        Cost: one round trip for each 500 keys, and one more if some were stored under tags; on a cluster one per key.
        """
        return run_sync(self._core.get_many(keys))

    def set(self, key: str, value: V, *, tags: Sequence[str] = (), ttl: Seconds | None = None) -> bool:
        """Store *value*; a load of *key* that is under way comes too late then.

        Args:
            key: Of the value; 1 to 512 bytes.
            value: What the cache is declared to hold, or ``None``.
            tags: `invalidate` with one of them takes it away.
            ttl: How long it is fresh, in seconds; that of the cache by default.

        Returns:
            True; false if the server is away and the cache goes on without it: an older value may still be there.

        Raises:
            InvalidValue: It would not come back as it is; nothing was stored.
            UsageError: Another argument cannot be used.
            Unavailable: The server is away, in a cache with ``on_error="raise"``.

        Cost: one round trip; one more with tags.
        """
        return run_sync(self._core.set({key: value}, tags, ttl))

    def set_many(self, values: Mapping[str, V], *, tags: Sequence[str] = (), ttl: Seconds | None = None) -> bool:
        """Store all of *values*; see `set`.  Cost: one round trip for each 500; on a cluster one per key."""
        return run_sync(self._core.set(values, tags, ttl))

    def delete(self, *keys: str) -> int:
        """Delete values; what is being loaded for them at this moment is not stored.

        Returns:
            How many there were; one that was deleted before a lost reply does not count.

        Raises:
            UsageError: A key cannot be used.
            Unavailable: The server is away; nothing was deleted.
            OutcomeUnknown: No answer came, after repeats: perhaps they were.

        Cost: one round trip for each 500 keys; on a cluster one per key.
        """
        return run_sync(self._core.delete(keys))

    def invalidate(self, *tags: str) -> None:
        """Let everything that was stored under one of *tags* count as missing, and all that is being loaded under them.

        Raises:
            UsageError: A tag cannot be used.
            Unavailable: The server is away; nothing was invalidated.
            OutcomeUnknown: No answer came, after repeats: perhaps it was.

        Cost: O(1) for each tag, however much was stored under it.
        """
        run_sync(self._core.invalidate(tags))

    def get_or_load(
        self, key: str, loader: Callable[[], V], *, tags: Sequence[str] = (), ttl: Seconds | None = None
    ) -> V:
        """Return the value of *key*; if it is not there, let one caller of all load it, and all others wait for that.

        Args:
            key: Of the value; 1 to 512 bytes.
            loader: Called without arguments, in the calling thread, by one caller at a time among all processes.  While
                it runs a lease is renewed; if the process dies, another one loads five seconds later.
            tags: `invalidate` with one of them takes it away, also while it is being loaded.
            ttl: How long it is fresh, in seconds; that of the cache by default.

        Returns:
            The value; past its ttl for at most ``stale_for``, to those who ask while another one loads it again.

        Raises:
            InvalidValue: What was loaded would not come back as it is; nothing was stored.
            UsageError: An argument cannot be used, or a loader asks for the value that it loads.
            Unavailable: The server is away, in a cache with ``on_error="raise"``.
            Exception: Whatever *loader* raises, to all threads of this process that wait for it.

        Cost: one round trip if it is there and fresh; three more for the one who loads, and five with tags.
        """
        found = self._near(key)
        return found if found is not MISSING else run_sync(self._core.load(key, loader, tags, ttl))

    def cached(
        self,
        key: str | Callable[..., str] | None = None,
        *,
        tags: Sequence[str] = (),
        ttl: Seconds | None = None,
    ) -> Callable[[Callable[P, V]], Callable[P, V]]:
        """Return a decorator: calls of the function are answered from the cache where they can be.

        ::

            @profiles.cached("{user_id}")
            def profile(user_id: int) -> Profile: ...

        Args:
            key: A template with the names of parameters in braces, or a function of the same arguments.  Without it,
                the function's name and a digest of all arguments, which must be JSON then (no ``self``).  What stands
                between two parts of a template is written as ``%3A`` (a colon) inside of them, so that other arguments
                never make the same key; as JSON, ``"1"`` and ``Decimal(1)`` are the same argument.
            tags: As in `get_or_load`.
            ttl: As in `get_or_load`.

        Raises:
            UsageError: The template does not fit the function, or that is a coroutine function.
        """

        def decorate(function: Callable[P, V]) -> Callable[P, V]:
            if inspect.iscoroutinefunction(function):
                raise UsageError(f"{function.__qualname__} is a coroutine function: cache it with an AsyncCache")
            key_of = KeyOf(function, key)

            @functools.wraps(function)
            def cached(*args: P.args, **options: P.kwargs) -> V:
                return self.get_or_load(key_of(args, options), lambda: function(*args, **options), tags=tags, ttl=ttl)

            return cached

        return decorate

    def warm(
        self,
        keys: Iterable[str],
        loader: Callable[[str], V],
        *,
        concurrency: int = 8,
        tags: Sequence[str] = (),
        on_progress: Callable[[Warmed], object] | None = None,
    ) -> Warmed:
        """Load what is missing of *keys*; a fleet that does so at the same time loads each once.

        Args:
            keys: Any iterable, gone through once; of a fleet each process may give them in an order of its own.
            loader: Called with a key.  What it raises counts as failed.
            concurrency: How many threads load.
            tags: As in `get_or_load`.
            on_progress: Called after each key with what was done so far, in the thread that did it.

        Raises:
            UsageError: An argument cannot be used.
            Unavailable: The server is away, in a cache with ``on_error="raise"``.
        """
        return run_sync(Warming(self._core, loader, tags, on_progress).run(keys, concurrency))


class AsyncCache(_CacheBase[V]):
    """Values that are dear to make and may be a little old, shared by all processes; for asyncio.

    Guarantee: a value is loaded by one caller at a time among all tasks and processes, and its load goes on if the
    caller that began it is cancelled; what was read before a `delete`, a `set` or an `invalidate` is never served to a
    call that begins after it has returned; what is stored comes back with the same type and value (tests/cache).
    Not guaranteed: that a value stays for its ttl: a server that is full may drop it, and one that fails over may
    lose it, or a deletion of the last moments with it.  While the server is away nothing is deleted or invalidated:
    these calls raise.
    """

    @overload
    async def get(self, key: str) -> V | None: ...
    @overload
    async def get(self, key: str, default: D) -> V | D: ...
    async def get(self, key: str, default: Any = None) -> Any:
        """Return the value of *key*, or *default* if there is none; see `Cache.get`.

        What a near cache serves comes at once and gives way to no other task: a loop that does nothing but read awaits
        something else now and then, such as ``asyncio.sleep(0)``.
        """
        found = self._near(key)
        return found if found is not MISSING else await self._core.get(key, default)

    async def get_many(self, keys: Sequence[str]) -> dict[str, V]:
        """Return the values of those *keys* that have one; see `Cache.get_many`."""
        return await self._core.get_many(keys)

    async def set(self, key: str, value: V, *, tags: Sequence[str] = (), ttl: Seconds | None = None) -> bool:
        """Store *value*; see `Cache.set`."""
        return await self._core.set({key: value}, tags, ttl)

    async def set_many(self, values: Mapping[str, V], *, tags: Sequence[str] = (), ttl: Seconds | None = None) -> bool:
        """Store all of *values*; see `Cache.set_many`."""
        return await self._core.set(values, tags, ttl)

    async def delete(self, *keys: str) -> int:
        """Delete values; see `Cache.delete`."""
        return await self._core.delete(keys)

    async def invalidate(self, *tags: str) -> None:
        """Let everything that was stored under one of *tags* count as missing; see `Cache.invalidate`."""
        await self._core.invalidate(tags)

    async def get_or_load(
        self, key: str, loader: Callable[[], Awaitable[V]], *, tags: Sequence[str] = (), ttl: Seconds | None = None
    ) -> V:
        """Return the value of *key*; if it is not there, let one caller of all load it, and all others wait for that.

        As `Cache.get_or_load`, but: *loader* is a coroutine function without arguments, and runs in a task of its own,
        with the context of the caller that began it.  It goes on if that caller is cancelled, also if nobody is left
        who waits; and a value past its ttl is served at once, to that caller too, while it is loaded again.  What such
        a load raises is logged.
        """
        found = self._near(key)
        return found if found is not MISSING else await self._core.load(key, loader, tags, ttl)

    def cached(
        self,
        key: str | Callable[..., str] | None = None,
        *,
        tags: Sequence[str] = (),
        ttl: Seconds | None = None,
    ) -> Callable[[Callable[P, Coroutine[Any, Any, V]]], Callable[P, Coroutine[Any, Any, V]]]:
        """Return a decorator for coroutine functions; see `Cache.cached`."""

        def decorate(function: Callable[P, Coroutine[Any, Any, V]]) -> Callable[P, Coroutine[Any, Any, V]]:
            if not inspect.iscoroutinefunction(function):
                raise UsageError(f"{function.__qualname__} is no coroutine function: cache it with a Cache")
            key_of = KeyOf(function, key)

            @functools.wraps(function)
            async def cached(*args: P.args, **options: P.kwargs) -> V:
                return await self.get_or_load(
                    key_of(args, options), lambda: function(*args, **options), tags=tags, ttl=ttl
                )

            return cached

        return decorate

    async def warm(
        self,
        keys: Iterable[str],
        loader: Callable[[str], Awaitable[V]],
        *,
        concurrency: int = 8,
        tags: Sequence[str] = (),
        on_progress: Callable[[Warmed], object] | None = None,
    ) -> Warmed:
        """Load what is missing of *keys*; see `Cache.warm`: *loader* is a coroutine function, *concurrency* tasks."""
        return await Warming(self._core, loader, tags, on_progress).run(keys, concurrency)
