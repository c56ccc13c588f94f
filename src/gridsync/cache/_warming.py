"""Loading many values before anybody asks, shared by a fleet."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync import _units
from gridsync._io.mutex import Mutex

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from gridsync.cache._core import CacheCore

CONCURRENCY_MAX: Final = 1000


@dataclass(frozen=True, slots=True)
class Warmed:
    """What `Cache.warm` has done so far."""

    present: int = 0
    """Keys that had a value already, or that another process loaded meanwhile."""
    loaded: int = 0
    """Keys that were loaded here."""
    failed: int = 0
    """Keys whose loader raised."""


class Warming:
    """One run."""

    def __init__(
        self,
        core: CacheCore[Any],
        loader: Callable[[str], Any],
        tags: Sequence[str],
        on_progress: Callable[[Warmed], object] | None,
    ) -> None:
        """Begin with nothing."""
        self._core, self._loader, self._tags, self._on_progress = core, loader, tags, on_progress
        self._present = self._loaded = self._failed = 0
        self._mutex = Mutex()

    def done(self) -> Warmed:
        """Return what was done so far."""
        return Warmed(self._present, self._loaded, self._failed)

    async def run(self, keys: Iterable[str], concurrency: int) -> Warmed:
        """Load *keys*, *concurrency* of them at a time."""
        _units.count(concurrency, "concurrency", CONCURRENCY_MAX)
        left = iter(keys)
        await self._core.io.fan(*(self._work(left) for _ in range(concurrency)))
        return self.done()

    def _next(self, left: Iterator[str]) -> str | None:
        # One generator, many hands: it must not run in two threads at once.
        with self._mutex:
            return next(left, None)

    async def _work(self, left: Iterator[str]) -> None:
        while (key := self._next(left)) is not None:
            called = False

            def loader(key: str = key) -> Any:  # noqa: ANN401 - a value, or what brings it
                nonlocal called
                called = True
                return self._loader(key)

            try:
                await self._core.load(key, loader, self._tags, None)
            except Exception:
                if not called:
                    raise
                self._failed += 1
            else:
                self._loaded += called
                self._present += not called
            if self._on_progress is not None:
                self._on_progress(self.done())
