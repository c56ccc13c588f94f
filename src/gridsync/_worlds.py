"""What says so when ``with`` is written where ``async with`` belongs, or the other way round.

Python's own words are "object does not support the context manager protocol".  Type checkers see none of this, so they
refuse it as before.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import UsageError


class ForTasks:
    """A base of what is entered by ``async with``."""

    __slots__ = ()

    if not TYPE_CHECKING:

        def __enter__(self) -> None:
            raise UsageError(f"{self!r} is for asyncio: write `async with`, not `with`")

        def __exit__(self, *_: object) -> None:
            """Be there: Python asks for both before it enters."""


class ForThreads:
    """A base of what is entered by ``with``."""

    __slots__ = ()

    if not TYPE_CHECKING:

        async def __aenter__(self) -> None:
            raise UsageError(f"{self!r} is for threads: write `with`, not `async with`, or take the Async kind")

        async def __aexit__(self, *_: object) -> None:
            """Be there: Python asks for both before it enters."""
