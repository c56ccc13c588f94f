"""Waiting for a state in Redis: look, wait for a wake-up, look again."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from gridsync._io.keys import wake_channel

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO

T = TypeVar("T")
ALIVE_MS = 10_000
"""How long a waiter counts as alive after each look."""
LOOKS = 3
"""How many times it looks in that time though nothing wakes it: a lost message costs latency and never liveness."""


def _often() -> float:
    return ALIVE_MS / 1000 / LOOKS


async def watch(
    io: IO,
    wake: str,
    token: str,
    look: Callable[[], Awaitable[T | None]],
    timeout: float | None,
    *,
    pause: Callable[[], float] = _often,
) -> T | None:
    """Look until there is something to see, at most *timeout* seconds; ``None`` if there was nothing.

    *wake* is what `IO.wake_prefix` says.  *look* tells the server that *token* waits, so it is asked once more after
    the subscription is confirmed.  *pause* says how long to wait for a wake-up, in seconds, before looking again.
    """
    until = None if timeout is None else io.monotonic() + timeout
    if timeout == 0:
        return await look()
    ear = io.ear(token, wake_channel(wake, token))
    try:
        while True:
            await ear.open()
            seen = await look()
            if seen is not None:
                return seen
            longest = pause()
            if until is not None:
                rest = until - io.monotonic()
                if rest <= 0:
                    return None
                longest = min(longest, rest)
            await ear.wait(longest)
    finally:
        ear.close()
