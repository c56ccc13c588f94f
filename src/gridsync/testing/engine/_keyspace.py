"""The keyspace: typed values and their expiry, on a clock that the caller owns."""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from typing import TYPE_CHECKING, TypeVar

from gridsync._io.wire.faults import ReplyError
from gridsync.testing.engine._base import WRONG_TYPE
from gridsync.testing.engine._streams import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Hash(dict[bytes, bytes]):
    """A hash; fields keep the order of insertion, as a small hash of Redis does."""


class Members(dict[bytes, None]):
    """A set in order of insertion, so that a run repeats itself."""


class SortedSet:
    """Members by score, then by bytes."""

    __slots__ = ("order", "scores")

    def __init__(self) -> None:
        """Start empty."""
        self.scores: dict[bytes, float] = {}
        self.order: list[tuple[float, bytes]] = []

    def __len__(self) -> int:
        """Count the members."""
        return len(self.order)

    def put(self, member: bytes, score: float) -> None:
        """Add *member*, or move it to another score."""
        old = self.scores.get(member)
        if old is not None:
            if old == score:
                return
            del self.order[bisect_left(self.order, (old, member))]
        self.scores[member] = score
        insort(self.order, (score, member))

    def drop(self, member: bytes) -> bool:
        """Remove *member*; false if it was not there."""
        score = self.scores.pop(member, None)
        if score is None:
            return False
        del self.order[bisect_left(self.order, (score, member))]
        return True

    def rank(self, member: bytes) -> int | None:
        """Return how many members stand before *member*."""
        score = self.scores.get(member)
        return None if score is None else bisect_left(self.order, (score, member))

    def between(self, low: float, low_open: bool, high: float, high_open: bool) -> tuple[int, int]:  # noqa: FBT001
        """Return the half-open range of ranks whose scores lie between the two bounds."""
        key = _score
        start = bisect_right(self.order, low, key=key) if low_open else bisect_left(self.order, low, key=key)
        stop = bisect_left(self.order, high, key=key) if high_open else bisect_right(self.order, high, key=key)
        return start, max(start, stop)


def _score(entry: tuple[float, bytes]) -> float:
    return entry[0]


Value = bytes | Hash | SortedSet | Stream | Members
V = TypeVar("V", Hash, SortedSet, Stream, Members)

_TYPE_NAMES: dict[type, str] = {
    bytes: "string",
    Hash: "hash",
    SortedSet: "zset",
    Stream: "stream",
    Members: "set",
}


class Keyspace:
    """Keys, values and the moment each key ends."""

    def __init__(self, clock: Callable[[], int]) -> None:
        """Start empty.

        Args:
            clock: Returns the server's wall clock, in microseconds.
        """
        self._clock = clock
        self._values: dict[bytes, Value] = {}
        self._expiry: dict[bytes, int] = {}
        self.touched: set[bytes] = set()
        """Keys written since somebody last cleared this; wakes blocked readers."""

    def now_us(self) -> int:
        """Return the server's wall clock, in microseconds."""
        return self._clock()

    def now_ms(self) -> int:
        """Return the server's wall clock, in whole milliseconds."""
        return self._clock() // 1000

    def find(self, key: bytes) -> Value | None:
        """Return the value of a key that has not expired."""
        end = self._expiry.get(key)
        if end is not None and end <= self.now_ms():
            self.delete(key)
        return self._values.get(key)

    def get(self, key: bytes, kind: type[V]) -> V | None:
        """Return the value if there is one; `ReplyError` if it has another type."""
        value = self.find(key)
        if value is not None and not isinstance(value, kind):
            raise ReplyError(WRONG_TYPE)
        return value

    def string(self, key: bytes) -> bytes | None:
        """Return the string at *key*."""
        value = self.find(key)
        if value is not None and not isinstance(value, bytes):
            raise ReplyError(WRONG_TYPE)
        return value

    def make(self, key: bytes, kind: type[V]) -> V:
        """Return the value at *key*, new and empty if there is none."""
        value = self.get(key, kind)
        if value is None:
            value = kind()
            self._values[key] = value
        self.touched.add(key)
        return value

    def store(self, key: bytes, value: bytes) -> None:
        """Write a string; its expiry stays as it is."""
        self._values[key] = value
        self.touched.add(key)

    def delete(self, key: bytes) -> bool:
        """Forget *key*; false if there was none."""
        self._expiry.pop(key, None)
        gone = self._values.pop(key, None) is not None
        if gone:
            self.touched.add(key)
        return gone

    def rename(self, key: bytes, name: bytes) -> bool:
        """Let *key* take the place of *name*, with its expiry; false if there was none."""
        value = self.find(key)
        if value is None:
            return False
        end = self._expiry.get(key)
        self.delete(key)
        self.delete(name)
        self._values[name] = value
        if end is not None:
            self._expiry[name] = end
        self.touched.add(name)
        return True

    def tidy(self, key: bytes, value: Hash | SortedSet | Members) -> None:
        """Forget *key* if its last member is gone."""
        self.touched.add(key)
        if not len(value):
            self.delete(key)

    def expire(self, key: bytes, end_ms: int) -> None:
        """Let *key* end at *end_ms*; at once if that has passed."""
        if end_ms <= self.now_ms():
            self.delete(key)
        else:
            self._expiry[key] = end_ms
            self.touched.add(key)

    def expiry(self, key: bytes) -> int | None:
        """Return when *key* ends, in milliseconds of the server's clock."""
        return self._expiry.get(key)

    def persist(self, key: bytes) -> bool:
        """Take the expiry away; false if there was none."""
        return self._expiry.pop(key, None) is not None

    def type_name(self, key: bytes) -> str:
        """Return what ``TYPE`` says."""
        value = self.find(key)
        return "none" if value is None else _TYPE_NAMES[type(value)]

    def live_keys(self) -> Iterator[bytes]:
        """Iterate over the keys that have not expired."""
        return iter([key for key in list(self._values) if self.find(key) is not None])

    def clear(self) -> None:
        """Forget everything."""
        self.touched.update(self._values)
        self._values.clear()
        self._expiry.clear()
