"""What one subscriber has not read yet: bounded, by three policies.

Whoever reads it sees by the offsets that something is missing, so nothing is noted when it is dropped.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Final, Literal

from gridsync.fanout._message import Gap, Message

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from gridsync.fanout._message import Item

OnFull = Literal["drop_oldest", "conflate", "disconnect_with_resume"]


class DropOldest:
    """Keeps the newest."""

    why: Literal["slow", "conflated"] = "slow"

    def __init__(self, size: int) -> None:
        """Hold at most *size* items."""
        self._items: deque[Item] = deque(maxlen=size)
        self._append = self._items.append

    def put(self, item: Item) -> bool:
        """Take *item*; false if the subscriber has to go."""
        self._append(item)
        return True

    def pop(self) -> Item | None:
        """Return the oldest item, if there is any."""
        return self._items.popleft() if self._items else None

    def __len__(self) -> int:
        return len(self._items)


class Disconnect(DropOldest):
    """Keeps all, or gives up: whoever is too slow comes again, and reads the history."""

    def put(self, item: Item) -> bool:
        """Take *item*, or forget everything."""
        if len(self._items) == self._items.maxlen:
            self._items.clear()
            return False
        self._append(item)
        return True


class Conflate:
    """Keeps the newest of each key, and of those without a key as many as there is room for."""

    why: Literal["slow", "conflated"] = "conflated"

    def __init__(self, size: int) -> None:
        """Hold at most *size* keys, or items without one."""
        self._size = size
        self._items: dict[object, Item] = {}

    def put(self, item: Item) -> bool:
        """Take *item* in the place of an older one of its key, or else of the oldest of all if there is no room."""
        items = self._items
        key: object = (item.key or item) if isinstance(item, Message) else Gap
        # Taken out first, so that what is kept stays in the order of offsets.
        if items.pop(key, None) is None and len(items) >= self._size:
            del items[next(iter(items))]
        items[key] = item
        return True

    def pop(self) -> Item | None:
        """Return the oldest item, if there is any."""
        return self._items.pop(next(iter(self._items))) if self._items else None

    def __len__(self) -> int:
        return len(self._items)


KINDS: Final[Mapping[OnFull, Callable[[int], DropOldest | Conflate]]] = {
    "drop_oldest": DropOldest,
    "conflate": Conflate,
    "disconnect_with_resume": Disconnect,
}
