"""Descriptors that a forked child must not keep open: a copy of a user's connection would keep its server alive."""

from __future__ import annotations

import os
import subprocess
import threading
import weakref
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


class Closable(Protocol):
    """What `hold` can close in a forked child."""

    def close(self) -> None:
        """Close it."""


C = TypeVar("C", bound=Closable)
_held: weakref.WeakSet[Closable] = weakref.WeakSet()
forks = threading.RLock()
"""Taken by every fork, and while a descriptor is made or closed.

Made: a child never inherits one that is not in `_held`.  Closed: Python forgets the number before it asks the kernel,
so a child forked in between would have an open descriptor that nobody knows.
"""


def hold(make: Callable[[], C]) -> C:
    """Make something with a descriptor that a forked child closes at once."""
    with forks:
        thing = make()
        _held.add(thing)
        return thing


def close(thing: Closable) -> None:
    """Close what `hold` returned."""
    with forks:
        thing.close()


@contextmanager
def held(make: Callable[[], C]) -> Iterator[C]:
    """Hold something for the length of a block."""
    thing = hold(make)
    try:
        yield thing
    finally:
        close(thing)


def spawn(command: list[str], **options: Any) -> subprocess.Popen[str]:  # noqa: ANN401 - what Popen takes
    """Start a process while nobody forks: a child with a copy of Popen's own pipe would keep the starter waiting."""
    with forks:
        return subprocess.Popen(command, text=True, **options)  # noqa: S603 - a server, or its supervisor


def let_go() -> None:
    """In a forked child: give up every connection and lock, which belong to the parent."""
    for thing in list(_held):
        thing.close()
    _held.clear()
    forks.release()


os.register_at_fork(before=forks.acquire, after_in_parent=forks.release, after_in_child=let_go)
