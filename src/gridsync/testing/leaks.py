"""Find keys that would stay for ever."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from gridsync._io.keys import is_permanent

if TYPE_CHECKING:
    import redis

__all__ = ["leaked_keys"]


def leaked_keys(client: redis.Redis, *, permanent: str | None = None) -> list[str]:
    """Return the keys that have no TTL and are not meant to stay.

    Args:
        client: Whose database to look at.
        permanent: A regular expression; keys that match it as a whole may stay too.

    Returns:
        The leaked keys, sorted.

    Cost: reads every key's name and TTL.  For test databases.
    """
    leaked: list[str] = []
    cursor = 0
    while True:
        cursor, page = client.scan(cursor, count=500)
        with client.pipeline(transaction=False) as pipeline:
            for key in page:
                pipeline.pttl(key)
            ttls = pipeline.execute()
        names = [
            key.decode(errors="replace") if isinstance(key, bytes) else key
            for key, ttl in zip(page, ttls, strict=True)
            if ttl == -1
        ]
        leaked += [
            name for name in names if not is_permanent(name) and not (permanent and re.fullmatch(permanent, name))
        ]
        if not cursor:
            # SCAN may show a key twice.
            return sorted(set(leaked))
