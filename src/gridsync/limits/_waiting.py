"""How a caller waits for its turn: in the server's line, or, while that is away, by the windows of this process."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gridsync.errors import OutcomeUnknown, Unavailable

if TYPE_CHECKING:
    from gridsync.limits._base import BaseLimiter
    from gridsync.limits._decision import Decision


async def acquire(limiter: BaseLimiter, key: str, cost: int, wait_us: int) -> Decision:
    """Return when it is the caller's turn, or, if that is not within *wait_us*, a denial at once.

    While the server is away, a caller whom the local windows deny sleeps as they say and then asks again, the server
    first.  There is no line then: whoever wakes up first is first.
    """
    io, windows = limiter._io, limiter._windows  # noqa: SLF001 - a limiter's other half
    waited, left_us, deadline = 0.0, wait_us, io.monotonic() + wait_us / 1_000_000
    while True:
        try:
            verdict, hit, delay_us = await windows.acquire(key, cost, left_us)
        except (Unavailable, OutcomeUnknown) as error:
            decision = limiter._degraded(error, key, cost, take=True)  # noqa: SLF001 - as above
        else:
            decision = limiter._decision(verdict, key, cost, hit, delay_us)  # noqa: SLF001 - as above
        pause = decision.retry_after
        if not pause or decision.source != "local" or io.monotonic() + pause > deadline:
            return decision._replace(delay=waited + decision.delay) if waited else decision
        await io.sleep(pause)
        waited += pause
        left_us = max(0, int((deadline - io.monotonic()) * 1_000_000))
