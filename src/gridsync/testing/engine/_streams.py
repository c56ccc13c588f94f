"""The stream as a value: entries by id, consumer groups, and what each consumer has not acknowledged."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from dataclasses import dataclass, field

Id = tuple[int, int]
Entry = tuple[Id, list[bytes]]

ZERO: Id = (0, 0)
LAST: Id = (2**64 - 1, 2**64 - 1)


def _id(entry: Entry) -> Id:
    return entry[0]


def after(entry_id: Id) -> Id:
    """Return the next id."""
    ms, seq = entry_id
    return (ms, seq + 1) if seq < LAST[1] else (ms + 1, 0)


def before(entry_id: Id) -> Id:
    """Return the id in front."""
    ms, seq = entry_id
    return (ms, seq - 1) if seq else (ms - 1, LAST[1])


def show_id(entry_id: Id) -> bytes:
    """Write an id as ``ms-seq``."""
    return b"%d-%d" % entry_id


@dataclass(slots=True)
class Pending:
    """A delivered entry that nobody has acknowledged."""

    consumer: bytes
    delivered_ms: int
    deliveries: int


@dataclass(slots=True)
class Consumer:
    """One name within a group."""

    seen_ms: int
    active_ms: int = -1


@dataclass(slots=True)
class Group:
    """A consumer group."""

    last_id: Id
    entries_read: int | None
    pending: dict[Id, Pending] = field(default_factory=dict)
    consumers: dict[bytes, Consumer] = field(default_factory=dict)

    def consumer(self, name: bytes, now_ms: int) -> Consumer:
        """Return the consumer *name*, new if need be, and note that it was seen."""
        found = self.consumers.get(name)
        if found is None:
            found = self.consumers[name] = Consumer(now_ms)
        found.seen_ms = now_ms
        return found

    def pending_ids(self, consumer: bytes | None = None) -> list[Id]:
        """Return the ids of what is pending, oldest first."""
        return sorted(i for i, p in self.pending.items() if consumer is None or p.consumer == consumer)


class Stream:
    """Entries in the order of their ids."""

    __slots__ = ("added", "deleted_max", "entries", "groups", "last_id")

    def __init__(self) -> None:
        """Start empty."""
        self.entries: list[Entry] = []
        self.last_id: Id = ZERO
        self.deleted_max: Id = ZERO
        self.added: int = 0
        self.groups: dict[bytes, Group] = {}

    def __len__(self) -> int:
        """Count the entries."""
        return len(self.entries)

    def append(self, entry_id: Id, words: list[bytes]) -> None:
        """Add an entry; its id must be the highest so far."""
        self.entries.append((entry_id, words))
        self.last_id = entry_id
        self.added += 1

    def find(self, entry_id: Id) -> list[bytes] | None:
        """Return the words of one entry."""
        place = bisect_left(self.entries, entry_id, key=_id)
        if place < len(self.entries) and self.entries[place][0] == entry_id:
            return self.entries[place][1]
        return None

    def between(self, low: Id, high: Id) -> tuple[int, int]:
        """Return the half-open range of places whose ids lie between two ids, both included."""
        start = bisect_left(self.entries, low, key=_id)
        return start, max(start, bisect_right(self.entries, high, key=_id))

    def delete(self, entry_id: Id) -> bool:
        """Remove one entry; false if it was not there."""
        place = bisect_left(self.entries, entry_id, key=_id)
        if place == len(self.entries) or self.entries[place][0] != entry_id:
            return False
        del self.entries[place]
        self.deleted_max = max(self.deleted_max, entry_id)
        return True

    def cut(self, count: int) -> int:
        """Remove the *count* oldest entries; unlike `delete`, this makes no hole."""
        if count > 0:
            del self.entries[:count]
        return max(count, 0)

    def first_id(self) -> Id:
        """Return the oldest entry's id, zero if there is none."""
        return self.entries[0][0] if self.entries else ZERO

    def has_holes(self, start: Id) -> bool:
        """Tell whether an entry from *start* on was deleted in the middle of the stream."""
        if not self.entries or self.deleted_max == ZERO or self.first_id() > self.deleted_max:
            return False
        return start <= self.deleted_max

    def distance(self, entry_id: Id) -> int | None:
        """Count the entries ever added up to *entry_id*, or ``None`` if that can't be told."""
        if not self.added:
            return 0
        if not self.entries and entry_id <= self.last_id:
            return self.added
        if entry_id not in (ZERO, self.last_id) and entry_id < self.deleted_max:
            return None
        if entry_id >= self.last_id:
            return self.added if entry_id == self.last_id else None
        first = self.first_id()
        if self.deleted_max == ZERO or self.deleted_max < first:
            if entry_id < first:
                return self.added - len(self.entries)
            if entry_id == first:
                return self.added - len(self.entries) + 1
        return None

    def lag(self, group: Group) -> int | None:
        """Count what a group has not been given yet as Redis 8 does, or ``None`` if that can't be told."""
        if not self.added or not self.entries:
            return 0
        if group.last_id < self.first_id() and not self.has_holes(ZERO):
            return len(self.entries)
        if group.entries_read is not None and not self.has_holes(group.last_id):
            return self.added - group.entries_read
        read = self.distance(group.last_id)
        return None if read is None else self.added - read

    def advance(self, group: Group, entry_id: Id) -> None:
        """Note that *group* was given *entry_id*."""
        counted = group.entries_read is not None and group.last_id >= self.first_id()
        if counted and group.entries_read is not None and not self.has_holes(group.last_id):
            group.entries_read += 1
        elif self.added:
            group.entries_read = self.distance(entry_id)
        group.last_id = entry_id
