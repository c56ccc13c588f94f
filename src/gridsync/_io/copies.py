"""What one process has read from the server and may serve again: the storage of a near cache.

A copy is served while all of this holds: its time is not over, which counts from before its read left; the link to its
server (and to those of its tags) is the one that was there when its read began; and that link has proved, at most
`staleness` seconds ago, that it was told everything.

Invariants.

* *An invalidation beats a read.*  A read leaves a mark before its request does.  What is told about the key, or about
  a tag of it, takes the mark away, and what was read without a mark is not kept: the message is about a change that
  the read may not have seen.  A tag is marked before its version is asked for.
* *Nobody goes back.*  Of two reads that overlap and find different entries one is older, and nobody knows which: the
  copy goes, and neither is kept.  So whoever was given an entry that the server has is never given an older one later.
* *A change of one's own is seen at once.*  After a write that this process made, copy and mark are gone.

Eviction gives a second chance (CLOCK): a copy that was used since it was looked at last goes to the end of the line.
A hit sets one bit and takes no lock; everything else does.
"""

from __future__ import annotations

import threading
import weakref
from collections import OrderedDict
from typing import TYPE_CHECKING, Any, Final, Protocol, TypeAlias

from gridsync._io.links import NEVER, Joint

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gridsync._io.links import Link, Watcher

MISSING: Final = object()
"""What stands for a value that is not there: ``None`` is one."""
APART: Final = object()
"""In the place of a value that must not be shared: each reader gets one of its own, made of the bytes."""
CHANCES_MAX: Final = 32
"""How many copies are passed over, at most, to find one to evict."""
OVERHEAD_BYTES: Final = 400
"""What a copy costs beside its bytes, roughly."""
_PIECE: Final = 1000
FIGURES: Final = ("hits", "misses", "invalidations", "evictions", "drops")
"""What is counted, in this order: `NearStats` tells what each means."""
HITS, MISSES, INVALIDATIONS, EVICTIONS, DROPS = range(len(FIGURES))


class Linked(Protocol):
    """What knows the connections on which servers tell of changes: `tracking.Tracking`, and its twin in simulation."""

    @property
    def turns(self) -> int:
        """Grows whenever a key turned out to be elsewhere than was thought."""

    def link(self, name: str, watcher: Watcher) -> Link | None:
        """Return the link to the server of the key *name*; ``None`` if there is none yet, which is seen to."""


Found: TypeAlias = tuple[object, bytes]


class _Copy:
    """A value, and until when it may be served."""

    __slots__ = ("data", "id", "link", "size", "tags", "until", "used", "value")

    def __init__(self, read: Reading, entry: str, value: object, data: bytes, size: int) -> None:
        self.id, self.value, self.data, self.size = entry, value, data, size
        self.link = read.link if not read.others else Joint((read.link, *read.others))
        self.tags = read.tags
        self.until = NEVER
        self.used = False


class _Mark:
    """What stands for the reads of one key that are under way."""

    __slots__ = ("readers", "seen", "tags")

    def __init__(self) -> None:
        self.readers = 0
        self.seen: str | None = None
        self.tags: frozenset[bytes] = frozenset()


class Reading:
    """One read under way."""

    __slots__ = ("began", "key", "link", "mark", "others", "tags", "turns")

    def __init__(self, key: str, mark: _Mark, link: Link, began: float, turns: int) -> None:
        """Begin; use `Copies.begin`."""
        self.key, self.mark, self.link, self.began, self.turns = key, mark, link, began, turns
        self.others: tuple[Link, ...] = ()
        self.tags: frozenset[bytes] = frozenset()


class Copies:
    """The copies of one cache in one process; thread-safe."""

    def __init__(
        self,
        linked: Linked,
        clock: Callable[[], float],
        key_of: Callable[[bytes], str | None],
        loads: Callable[[bytes], Any],
        *,
        name: str,
        prefixes: tuple[bytes, ...],
        staleness: float,
        entries_max: int,
        bytes_max: int,
        declared: object = None,
    ) -> None:
        """Keep nothing yet.

        Args:
            linked: Where links come from.
            clock: Counts seconds, also while the machine sleeps.
            key_of: Returns the key of a Redis key's name, ``None`` for one that holds no value.
            loads: Makes a value of its bytes.
            name: Of the cache, for whoever measures.
            prefixes: What the Redis keys begin with, of values and of tags.
            staleness: See `links.Watcher`.
            entries_max: How many to keep.
            bytes_max: How many bytes to keep, with `OVERHEAD_BYTES` for each.
            declared: What this was opened for; whoever opens it again must say the same.
        """
        self.name, self.declared = name, declared
        self.prefixes, self.staleness = prefixes, staleness
        self._linked, self._clock, self._key_of, self._loads = linked, clock, key_of, loads
        self._entries_max, self._bytes_max = entries_max, bytes_max
        # A list, to which an addition is one step for the interpreter's own lock.
        self.figures = [0] * len(FIGURES)
        _living.add(self)
        weakref.finalize(self, _bury, name, self.figures).atexit = False
        self._size = 0
        self._copies: OrderedDict[str, _Copy] = OrderedDict()
        self.reset()

    def reset(self) -> None:
        """Begin anew with what is kept: in the child of a fork nobody reads, and the lock is of another process."""
        self._lock = threading.Lock()
        self._marks: dict[str, _Mark] = {}
        self._tagged: dict[bytes, set[str]] = {}
        for key, copy in list(self._copies.items()):
            self._tag(key, copy.tags)

    def __len__(self) -> int:
        """Count the copies, those that are not served any more among them."""
        return len(self._copies)

    @property
    def size(self) -> int:
        """How many bytes they take, as they are counted."""
        return self._size

    # -- serving ----------------------------------------------------------------------------------------------------

    def get(self, key: str) -> Any:  # noqa: ANN401 - a value, or `MISSING`
        """Return the value of *key*, or `MISSING` if it may not be served."""
        # A million times a second: one look-up, one clock, and no call more.
        try:
            copy = self._copies.get(key)
        except TypeError:  # no string: whoever is asked next says so
            return MISSING
        if copy is not None:
            now = self._clock()
            if now < copy.until and now - copy.link.proved < self.staleness:
                self.figures[HITS] += 1
                copy.used = True
                value = copy.value
                return value if value is not APART else self._loads(copy.data)
        return MISSING

    def last(self, key: str, away: float) -> Any:  # noqa: ANN401
        """Return the last value of *key* that is known, if it could be vouched for at most *away* seconds ago."""
        copy = self._copies.get(key)
        if copy is None or self._clock() - min(copy.until, copy.link.known) > away:
            return MISSING
        return copy.value if copy.value is not APART else self._loads(copy.data)

    # -- reading ----------------------------------------------------------------------------------------------------

    def begin(self, key: str, name: str) -> Reading | None:
        """Mark that *key* is about to be read; ``None`` if what is read cannot be kept.  Each must `finish`."""
        self.figures[MISSES] += 1
        began, turns = self._clock(), self._linked.turns
        link = self._linked.link(name, self)
        if link is None:
            return None
        with self._lock:
            mark = self._marks.setdefault(key, _Mark())
            mark.readers += 1
        return Reading(key, mark, link, began, turns)

    def mark_tags(self, read: Reading, names: Iterable[str]) -> None:
        """Mark that the versions of the tags *names* are about to be read."""
        links = [self._linked.link(name, self) for name in names]
        with self._lock:
            read.tags = frozenset(name.encode() for name in names)
            if None in links:
                self._unmark(read.key)
                return
            read.others = tuple({link for link in links if link is not None and link is not read.link})
            if self._marks.get(read.key) is read.mark:
                read.mark.tags |= read.tags
                self._tag(read.key, read.tags)

    def finish(
        self, read: Reading | None, key: str, entry: str | None, fresh_s: float = 0.0, found: Found | None = None
    ) -> None:
        """Keep what was read, if nobody said or saw anything else since it began.

        Args:
            read: What `begin` returned; ``None`` for a read without a mark, which is not kept.
            key: The key.
            entry: The id of the entry that the server has, nothing if it has none that counts; ``None`` if the server
                did not say.
            fresh_s: For how many seconds it may be served, from when the read began.
            found: The value, or `APART`, and its bytes; ``None`` keeps nothing.
        """
        with self._lock:
            agreed = entry is not None and self._saw(key, entry)
            if read is None:
                return
            mark = read.mark
            mark.readers -= 1
            current = self._marks.get(key) is mark
            if current and not mark.readers:
                del self._marks[key]
                self._untag(key, mark.tags)
            if not agreed or not current or found is None or fresh_s <= 0 or read.turns != self._linked.turns:
                return
            value, data = found
            size = len(data) + len(key) + OVERHEAD_BYTES
            if size > self._bytes_max:
                return
            copy = _Copy(read, entry or "", value, data, size)
            copy.until = read.began + fresh_s
            self._drop(key)
            self._copies[key] = copy
            self._size += size
            self._tag(key, copy.tags)
            while len(self._copies) > self._entries_max or self._size > self._bytes_max:
                self._evict()

    def _saw(self, key: str, entry: str) -> bool:
        """Take note that the server has *entry*; false if that is not what another read saw."""
        copy = self._copies.get(key)
        if copy is not None and copy.id != entry:
            self._drop(key)
        mark = self._marks.get(key)
        if mark is None:
            return True
        if mark.seen is None:
            mark.seen = entry
        elif mark.seen != entry:
            self._unmark(key)
            return False
        return True

    # -- forgetting -------------------------------------------------------------------------------------------------

    def told(self, names: Sequence[bytes] | None) -> None:
        """Forget what the server says has changed, and what is being read of it."""
        if names is None:
            self.forget_all()
            return
        for name in names:
            tagged = self._tagged.get(name)
            if tagged is not None:
                self._forget_tagged(tagged)
            elif (key := self._key_of(name)) is not None:
                self.forget(key)

    def forget(self, key: str) -> None:
        """Forget the copy of *key*, and keep nothing of what is being read of it."""
        if key not in self._copies and key not in self._marks:
            return  # whoever begins now reads what is there now
        with self._lock:
            self.figures[INVALIDATIONS] += self._drop(key)
            self._unmark(key)

    def _forget_tagged(self, tagged: set[str]) -> None:
        # In pieces: whoever reads meanwhile waits for the lock.
        while tagged:
            with self._lock:
                for key in list(tagged)[:_PIECE]:
                    self.figures[INVALIDATIONS] += self._drop(key)
                    self._unmark(key)
                    tagged.discard(key)

    def forget_all(self) -> None:
        """Forget everything, and keep nothing of what is being read."""
        with self._lock:
            self.figures[INVALIDATIONS] += len(self._copies)
            self._copies, self._marks, self._tagged, self._size = OrderedDict(), {}, {}, 0

    def lost(self) -> None:
        """Count that a link was lost; what hung on it is not served any more."""
        self.figures[DROPS] += 1

    def _drop(self, key: str) -> bool:
        copy = self._copies.pop(key, None)
        if copy is None:
            return False
        self._size -= copy.size
        self._untag(key, copy.tags)
        return True

    def _unmark(self, key: str) -> None:
        mark = self._marks.pop(key, None)
        if mark is not None:
            self._untag(key, mark.tags)

    def _evict(self) -> None:
        now = self._clock()
        for _ in range(CHANCES_MAX):
            key, copy = next(iter(self._copies.items()))
            if not copy.used or now >= copy.until or copy.link.proved == NEVER:
                break
            copy.used = False
            self._copies.move_to_end(key)
        self._drop(next(iter(self._copies)))
        self.figures[EVICTIONS] += 1

    def _tag(self, key: str, tags: Iterable[bytes]) -> None:
        for tag in tags:
            self._tagged.setdefault(tag, set()).add(key)

    def _untag(self, key: str, tags: Iterable[bytes]) -> None:
        """Forget that *key* has *tags*, but for those that its copy or its mark still has."""
        copy, mark = self._copies.get(key), self._marks.get(key)
        for tag in tags:
            if (copy is not None and tag in copy.tags) or (mark is not None and tag in mark.tags):
                continue
            keys = self._tagged.get(tag)
            if keys is not None:
                keys.discard(key)
                if not keys:
                    del self._tagged[tag]


_living: weakref.WeakSet[Copies] = weakref.WeakSet()
_buried: dict[str, list[int]] = {}
"""What was counted by those that are gone, by the name of their cache."""


def figures() -> Iterator[tuple[str, str, int]]:
    """Yield cache, what and how often, for all near caches that this process ever had: numbers only grow."""
    sums = {name: list(numbers) for name, numbers in _buried.items()}
    for each in list(_living):
        _add(sums, each.name, each.figures)
    for name, numbers in sorted(sums.items()):
        for what, number in zip(FIGURES, numbers, strict=True):
            yield name, what, number


def _add(sums: dict[str, list[int]], name: str, numbers: Sequence[int]) -> None:
    before = sums.get(name, [0] * len(numbers))
    sums[name] = [one + other for one, other in zip(before, numbers, strict=True)]


def _bury(name: str, numbers: Sequence[int]) -> None:
    _add(_buried, name, numbers)
