"""What a walk over the keys has found: names of locks, stores, limiters and caches, and how many keys those have.

A round over all keys may take many refreshes.  What was not met in a whole round is forgotten.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import TYPE_CHECKING, Any, Final, Generic, TypeVar

from gridsync._io.keys import cache_of, entity, limit_of, store_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

T = TypeVar("T")
NAMES_MAX: Final = 1000
"""How many names of each kind are kept while somebody watches."""
SUBJECTS_MAX: Final = 200
"""Keys of one limiter that are asked about by turns."""


class Turns(Generic[T]):
    """Names that are asked about by turns, a few at a time."""

    def __init__(self, most: int) -> None:
        """Keep at most so many."""
        self._most = most
        self._queue: deque[T] = deque()
        self._met: dict[T, int] = {}
        self.missed: int = -1
        """The last round in which there were more."""

    def __len__(self) -> int:
        return len(self._met)

    def __iter__(self) -> Iterator[T]:
        return iter(list(self._met))

    def __contains__(self, name: object) -> bool:
        return name in self._met

    def meet(self, name: T, turn: int) -> None:
        """Note that it was there in that round."""
        if name not in self._met:
            if len(self._met) >= self._most:
                self.missed = turn
                return
            self._queue.append(name)
        self._met[name] = turn

    def drop(self, name: T) -> None:
        """Forget it."""
        if self._met.pop(name, None) is not None:
            self._queue.remove(name)

    def since(self, turn: int) -> None:
        """Forget what was met last before that round."""
        for name in [name for name, met in self._met.items() if met < turn]:
            self.drop(name)

    def next(self, count: int) -> list[T]:
        """Return those whose turn it is."""
        names = [self._queue[place] for place in range(min(count, len(self._queue)))]
        self._queue.rotate(-len(names))
        return names


class Known:
    """Names by wing."""

    def __init__(self, namespace: str, kinds: Iterable[str], names_max: int = NAMES_MAX) -> None:
        """Know nothing yet, and at most so many names of each wing; *kinds* are those of what is held or waited for."""
        self._namespace = namespace
        self._kinds = frozenset(kinds)
        self.locks: Turns[tuple[str, str]] = Turns(names_max)
        self.stores: Turns[str] = Turns(names_max)
        self._limiters: Turns[str] = Turns(names_max)
        self._caches: Turns[str] = Turns(names_max)
        self.subjects: dict[str, Turns[tuple[str, str, str]]] = {}
        self.keys: int = 0
        """Keys of the namespace that the last whole round has met; of the first one, so far."""
        self._counting: Counter[tuple[str, str]] = Counter()
        self._counted: Counter[tuple[str, str]] = Counter()
        self._turn = 0

    def meet(self, keys: Iterable[str]) -> None:
        """Sort out what these keys belong to."""
        for key in keys:
            self._counting["", ""] += 1
            one = entity(self._namespace, key)
            if one is not None and one[0] in self._kinds:
                self.locks.meet(one, self._turn)
            elif (store := store_of(self._namespace, key)) is not None:
                self.stores.meet(store, self._turn)
            elif (limited := limit_of(self._namespace, key)) is not None:
                self._limiters.meet(limited[0], self._turn)
                if limited[0] in self._limiters:
                    self._counting["limit", limited[0]] += 1
                    self.subjects.setdefault(limited[0], Turns(SUBJECTS_MAX)).meet(limited, self._turn)
            elif (cache := cache_of(self._namespace, key)) is not None:
                self._caches.meet(cache, self._turn)
                if cache in self._caches:
                    self._counting["cache", cache] += 1
        self.keys = max(self._counted["", ""], self._counting["", ""])

    def round(self) -> None:
        """Note that the walk has been over all keys, and forget what it has not met."""
        self._counted, self._counting = self._counting, Counter()
        self.keys = self._counted["", ""]
        for turns in (self.locks, self.stores, self._limiters, self._caches, *self.subjects.values()):
            turns.since(self._turn)  # type: ignore[attr-defined]
        self.subjects = {name: turns for name, turns in self.subjects.items() if turns}
        self._turn += 1

    def again(self) -> None:
        """Note that the walk begins this round anew."""
        self._counting = Counter()

    @property
    def left_out(self) -> tuple[str, ...]:
        """The sections of which there are more names than are kept, as of the last round or this one."""
        every: tuple[tuple[str, Turns[Any]], ...] = (
            *(("locks", self.locks), ("limits", self._limiters)),
            *(("streams", self.stores), ("caches", self._caches)),
        )
        return tuple(name for name, turns in every if turns.missed >= max(self._turn - 1, 0))

    def count(self, wing: str, name: str) -> int:
        """Return how many keys a limiter or a cache has: as of the last round, or more if this one has met more."""
        return max(self._counted[wing, name], self._counting[wing, name])

    def names(self, wing: str) -> list[str]:
        """Return the names of the limiters, or of the caches, that have keys."""
        return sorted({name for of, name in (*self._counted, *self._counting) if of == wing})
