"""The keys of one run: a namespace of its own, swept when it is over."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import keys

if TYPE_CHECKING:
    import redis

PAGE: Final = 500


def new_namespace() -> str:
    """Return a namespace that no other run has."""
    return f"gridsync-demo-{secrets.token_hex(4)}"


def log(namespace: str, store: str) -> str:
    """Return the key of all events of a store, in commit order: a stream."""
    return keys.events(namespace, store).log


def admissions(namespace: str, poster: str) -> str:
    """Return the key of what the limiter admitted for a poster: a sorted set by server time."""
    return keys.limit(namespace, "orders", poster)


def sweep(client: redis.Redis, namespace: str) -> int:
    """Delete every key of *namespace*, looking at a page of keys at a time; returns how many there were."""
    found, cursor = 0, 0
    while True:
        page: Any = client.scan(cursor, match=f"{{{namespace}:*", count=PAGE)
        cursor, keys = int(page[0]), page[1]
        for key in keys:
            # One at a time: they need not share a slot.
            client.unlink(key)
        found += len(keys)
        if cursor == 0:
            return found
