"""Reentrancy: who holds what, so that the same thread or task is not made to wait for itself.

Counted in this process alone: the server sees the first acquisition and the last release, so the fence stays, and
repeats stay idempotent.  What counts is the thread or task itself, and not a context variable, which a child task
inherits: a child waits as everybody else does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO
    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec

    Held = dict[tuple[IO, str, str, str], Hold]

_held: WeakKeyDictionary[object, Held] = WeakKeyDictionary()
"""For each living thread or task: what it holds and may enter again."""


async def acquire(io: IO, spec: Spec, take: Callable[[], Awaitable[Hold | None]]) -> Hold | None:
    """Return what this thread or task holds already, or else what *take* takes.

    A lease that was lost is not entered again: the caller gets a new one, with a new fence.
    """
    me = io.here()
    # Another number of permits is another thing to hold.
    key = (io, spec.kind, spec.keys[0], spec.acquire_args[0])
    mine = _held.get(me)
    hold = mine.get(key) if mine else None
    if hold is not None:
        hold.disown()
        if hold.remaining():
            return hold
    hold = await take()
    if hold is not None:
        _remember(_held.setdefault(me, {}), key, hold)
    return hold


def _remember(mine: Held, key: tuple[IO, str, str, str], hold: Hold) -> None:
    mine[key] = hold

    def forget() -> None:
        if mine.get(key) is hold:
            del mine[key]

    hold.at_end = forget
