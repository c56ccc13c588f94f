"""What a missing package is told as: the extra that brings it."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["extra"]


@contextmanager
def extra(name: str) -> Iterator[None]:
    """Import in this block what extra *name* brings.

    Raises:
        ModuleNotFoundError: It is not installed; the message says how to.
    """
    try:
        yield
    except ModuleNotFoundError as missing:
        raise ModuleNotFoundError(
            f"gridsync.contrib.{name} needs {missing.name}, which is not installed: "
            f"pip install 'gridsync-redis[{name}]'",
            name=missing.name,
        ) from missing
