"""One connection of its own, a PING, a batch of questions: what a health report is made from.

A new connection tells what the next caller will meet after a reconnect: address, TLS, credentials.  Nothing is retried,
and the whole ends with its deadline, whatever blocks: a name server, a credential provider, a frozen server.
"""

from __future__ import annotations

import asyncio
import queue
import threading
import time
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gridsync._io.clock import monotonic
from gridsync._io.route.primary import Primary
from gridsync._io.wire import blocking, mux
from gridsync._io.wire.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from gridsync._io.wire.endpoint import Endpoint
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
    sentinels: Sequence[tuple[str, object]] = ()
    """Each sentinel, and what it says about the quorum, or why it says nothing."""
    pings_s: Sequence[float] = ()
    """All round trips, if several were asked for."""


@dataclass(frozen=True, slots=True)
class Usage:
    """How busy a driver is with the server that was looked at."""

    in_flight: int
    capacity: int
    line: int
    """Callers that wait for others."""
    breakers: Mapping[str, str] = field(default_factory=dict)
    """The state of the breaker of every server that this grid has met."""


class Recent:
    """The last look of a driver, for those who ask more often than anything changes."""

    def __init__(self) -> None:
        """Remember nothing yet."""
        self._began = float("-inf")
        self._found: tuple[Facts, Usage] | None = None

    def get(self, age_s: float) -> tuple[Facts, Usage] | None:
        """Return the last look if it began at most *age_s* seconds ago."""
        return self._found if self._began >= monotonic() - age_s else None

    def put(self, began: float, found: tuple[Facts, Usage]) -> tuple[Facts, Usage]:
        """Remember what a look found that *began* then, and return it."""
        self._began, self._found = began, found
        return found


def probe(place: Place, questions: Sequence[tuple[Any, ...]], timeout: float, *, pings: int = 1) -> Facts:
    """Ask the server of *place*, for at most *timeout* seconds; never raises for anything that the server does."""
    # A thread can be left behind, a name server or a credential provider that does not answer cannot be interrupted.
    answer: queue.SimpleQueue[Facts] = queue.SimpleQueue()
    threading.Thread(
        target=lambda: answer.put(_ask(place, questions, timeout, pings)), name="gridsync-health", daemon=True
    ).start()
    try:
        return answer.get(timeout=timeout)
    except queue.Empty:
        return late(place, timeout)


def _facts(
    endpoint: Endpoint,
    steps: tuple[float, float, float],
    replies: Sequence[Any],
    asked_at: tuple[float, float],
    certificate_ends: float | None,
) -> Facts:
    """Return what *replies* tell; *steps* are when it began, was connected, and had its first answer."""
    started, connected, ponged = steps
    return Facts(
        str(endpoint),
        monotonic() - started,
        replies=replies,
        connect_s=connected - started,
        ping_s=ponged - connected,
        asked_at=asked_at,
        tls=endpoint.tls is not None,
        certificate_ends=certificate_ends,
    )


def _quorum(place: Primary, until: float) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for sentinel in sorted(place.sentinels, key=str):
        # Half of what is left, so that a sentinel that is silent does not cost the whole report.
        rest = max(min(sentinel.connect_timeout, (until - monotonic()) / 2), LEAST_S)
        try:
            wire = blocking.connect(sentinel, timeout=rest, met_before=True)
            try:
                found.append((str(sentinel), wire.exchange_many([_ckquorum(place)], rest)[0]))
            finally:
                wire.close()
        except Exception as error:  # noqa: BLE001 - as in `_ask`
            found.append((str(sentinel), error))
    return found


async def _aquorum(place: Primary, timeout: float) -> list[tuple[str, object]]:
    async def ask(sentinel: Endpoint) -> tuple[str, object]:
        rest = max(min(sentinel.connect_timeout, timeout / 2), LEAST_S)
        try:
            async with asyncio.timeout(rest):
                wire = await mux.connect(sentinel, inflight_max=1, stall_s=rest, met_before=True)
                try:
                    deadline = asyncio.get_running_loop().time() + rest
                    return str(sentinel), await wire.post(_ckquorum(place), deadline)
                finally:
                    wire.abort()
        except Exception as error:  # noqa: BLE001 - as in `_ask`; a cancellation passes
            return str(sentinel), error

    return list(await asyncio.gather(*(ask(sentinel) for sentinel in sorted(place.sentinels, key=str))))


def _ckquorum(place: Primary) -> tuple[str, ...]:
    return ("SENTINEL", "CKQUORUM", place.service)


def late(place: Place, timeout: float) -> Facts:
    """Return what is known of a server that did not answer in time: nothing."""
    return Facts(str(place), timeout, Fault(f"{place} did not answer within {timeout:.3g} s", applied=False))


def _ask(place: Place, questions: Sequence[tuple[Any, ...]], timeout: float, pings: int) -> Facts:
    started = monotonic()

    def rest() -> float:
        return max(started + timeout - monotonic(), LEAST_S)

    try:
        wire = blocking.connect(place, timeout=rest(), met_before=False)
        try:
            connected = monotonic()
            times = [connected]
            for _ in range(pings):
                wire.exchange_many([("PING",)], rest())  # a refusal is an answer, too
                times.append(monotonic())
            before = time.time()
            replies = wire.exchange_many(questions, rest())
            asked_at = (before, time.time())
            ends = wire.certificate_ends()
        finally:
            wire.close()
    except Exception as error:  # noqa: BLE001 - whatever it is, it is what the report tells
        return Facts(str(place), monotonic() - started, error)
    facts = _facts(wire.endpoint, (started, connected, times[1]), replies, asked_at, ends)
    facts = replace(facts, pings_s=[after - before for before, after in pairwise(times)])
    if not isinstance(place, Primary):
        return facts
    return replace(facts, sentinels=_quorum(place, started + timeout), spent_s=monotonic() - started)


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
        return late(place, timeout)
    except Exception as error:  # noqa: BLE001 - as above; a cancellation passes
        return Facts(str(place), monotonic() - started, error)
    broken = next((reply for reply in replies if isinstance(reply, Fault)), None)
    if broken is not None:
        return Facts(str(place), monotonic() - started, broken)
    facts = _facts(wire.endpoint, (started, connected, ponged), replies, asked_at, ends)
    if not isinstance(place, Primary):
        return facts
    sentinels = await _aquorum(place, max(started + timeout - monotonic(), LEAST_S))
    return replace(facts, sentinels=sentinels, spent_s=monotonic() - started)
