"""Cache: values that are dear to make, loaded once for all who ask, and gone for everybody when they are invalidated.

`Cache` and `AsyncCache` are made by `Grid.cache` and `AsyncGrid.cache` of a `Space`, which declares name, type and ttl.
"""

from gridsync.cache._api import AsyncCache, Cache, CacheStats
from gridsync.cache._codec import Codec, Json
from gridsync.cache._near import Near, NearStats
from gridsync.cache._space import OnError, Space
from gridsync.cache._warming import Warmed

__all__ = ["AsyncCache", "Cache", "CacheStats", "Codec", "Json", "Near", "NearStats", "OnError", "Space", "Warmed"]
