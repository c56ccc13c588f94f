"""One connection of its own, a PING, a batch of questions: what a health report is made from.

A new connection tells what the next caller will meet after a reconnect: address, TLS, credentials.  Nothing is retried,
and the whole ends with its deadline, whatever blocks: a name server, a credential provider, a frozen server.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridsync._io.clock import monotonic
from gridsync._io.wire import blocking, mux
from gridsync._io.wire.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.wire.place import Place

LEAST_S = 0.001


@dataclass(frozen=True, slots=True)
class Facts:
    """What one look at a server found."""

    server: str
    """Host and port, or the socket's path."""
    spent_s: float
    """How long it took, in seconds."""
    failure: Exception | None = None
    """Why there are no replies."""
    replies: Sequence[Any] = ()
    """One for each question, an error reply as `ReplyError`."""
    connect_s: float = 0.0
    """Connecting, TLS and greeting."""
    ping_s: float = 0.0
    """One round trip."""
    asked_at: tuple[float, float] = (0.0, 0.0)
    """This machine's clock just before the questions left and just after the last reply came, in seconds since 1970."""
    tls: bool = False
    """Whether the connection is encrypted."""
    certificate_ends: float | None = None
    """When the server's certificate ends, in seconds since 1970; ``None`` without TLS, or if it was not verified."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy a driver is with the server that was looked at."""

    in_flight: int
    capacity: int
    line: int
    """Callers that wait for others."""


def probe(place: Place, questions: Sequence[tuple[Any, ...]], timeout: float) -> Facts:
    """Ask the server of *place*, for at most *timeout* seconds; never raises for anything that the server does."""
    # A thread can be left behind, a name server or a credential provider that does not answer cannot be interrupted.
    answer: queue.SimpleQueue[Facts] = queue.SimpleQueue()
    threading.Thread(
        target=lambda: answer.put(_ask(place, questions, timeout)), name="gridsync-health", daemon=True
    ).start()
    try:
        return answer.get(timeout=timeout)
    except queue.Empty:
        return _late(place, timeout)


def _late(place: Place, timeout: float) -> Facts:
    return Facts(str(place), timeout, Fault(f"{place} did not answer within {timeout:g} s", applied=False))


def _ask(place: Place, questions: Sequence[tuple[Any, ...]], timeout: float) -> Facts:
    started = monotonic()

    def rest() -> float:
        return max(started + timeout - monotonic(), LEAST_S)

    try:
        wire = blocking.connect(place, timeout=rest(), met_before=False)
        try:
            connected = monotonic()
            wire.exchange_many([("PING",)], rest())  # a refusal is an answer, too
            ponged = monotonic()
            before = time.time()
            replies = wire.exchange_many(questions, rest())
            asked_at = (before, time.time())
            ends = wire.certificate_ends()
        finally:
            wire.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the report tells
        return Facts(str(place), monotonic() - started, error)
    return Facts(
        str(wire.endpoint),
        monotonic() - started,
        None,
        replies,
        connected - started,
        ponged - connected,
        asked_at,
        wire.endpoint.tls is not None,
        ends,
    )


async def aprobe(place: Place, questions: Sequence[tuple[Any, ...]], timeout: float) -> Facts:
    """As `probe`, for asyncio."""
    started = monotonic()
    try:
        async with asyncio.timeout(timeout):
            wire = await mux.connect(place, inflight_max=len(questions), stall_s=timeout, met_before=False)
            try:
                connected = monotonic()
                deadline = asyncio.get_running_loop().time() + timeout
                await asyncio.gather(wire.post(("PING",), deadline), return_exceptions=True)
                ponged = monotonic()
                before = time.time()
                replies = await asyncio.gather(*wire.post_together(list(questions), deadline), return_exceptions=True)
                asked_at = (before, time.time())
                ends = wire.certificate_ends()
            finally:
                wire.abort()
    except TimeoutError:
        return _late(place, timeout)
    except Exception as error:  # noqa: BLE001 - as above; a cancellation passes
        return Facts(str(place), monotonic() - started, error)
    broken = next((reply for reply in replies if isinstance(reply, Fault)), None)
    if broken is not None:
        return Facts(str(place), monotonic() - started, broken)
    return Facts(
        str(wire.endpoint),
        monotonic() - started,
        None,
        replies,
        connected - started,
        ponged - connected,
        asked_at,
        wire.endpoint.tls is not None,
        ends,
    )
