"""Factories of caches."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gridsync._factories import AsyncGround, Ground
from gridsync.cache import AsyncCache, Cache

if TYPE_CHECKING:
    from gridsync.cache import Near, Space


V = TypeVar("V")


class CacheFactories(Ground):
    """The factories of caches, for threads."""

    def cache(self, space: Space[V], *, near: Near | None = None) -> Cache[V]:
        """Return the cache that *space* declares; with *near* this process keeps copies of what it reads."""
        return Cache(self._io, self.namespace, space, near)


class AsyncCacheFactories(AsyncGround):
    """The factories of caches, for tasks."""

    def cache(self, space: Space[V], *, near: Near | None = None) -> AsyncCache[V]:
        """Return the cache that *space* declares; with *near* this process keeps copies of what it reads."""
        return AsyncCache(self._io, self.namespace, space, near)
