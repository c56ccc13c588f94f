"""The permits that one policy leases, so that most requests need no round trip."""

from __future__ import annotations

from collections import OrderedDict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gridsync.limits import AsyncLeased, AsyncLimiter

KEYS_MAX = 1_000


class Leases:
    """Leased permits by key, of `KEYS_MAX` keys; what is let go returns by itself when it was idle for a while."""

    def __init__(self, limiter: AsyncLimiter) -> None:
        """Hold nothing yet."""
        self._limiter = limiter
        self._permits: OrderedDict[str, AsyncLeased] = OrderedDict()

    def of(self, key: str) -> AsyncLeased:
        """Return the permits of *key*."""
        permits = self._permits.get(key)
        if permits is None:
            permits = self._permits[key] = self._limiter.leased(key)
            if len(self._permits) > KEYS_MAX:
                self._permits.popitem(last=False)
        else:
            self._permits.move_to_end(key)
        return permits
