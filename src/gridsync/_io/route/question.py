"""A question to the sentinels of a service: they are asked in order, the one that answered last first."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from gridsync._io.clock import monotonic
from gridsync._io.wire import blocking, mux
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.errors import (
    AuthenticationFailed,
    GridsyncError,
    Misconfigured,
    PermissionDenied,
    Unavailable,
    UsageError,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io.route.primary import Primary
    from gridsync._io.wire.endpoint import Endpoint

T = TypeVar("T")
ADDRESS = ("SENTINEL", "GET-MASTER-ADDR-BY-NAME")
REPLICAS = ("SENTINEL", "REPLICAS")
NEEDED = (
    "+hello +auth +client +sentinel|get-master-addr-by-name +sentinel|replicas +sentinel|masters +subscribe "
    "&+switch-master &+promoted-slave"
)
"""What the ACL must grant a user of the sentinels."""
LEAST_S = 0.001


class Question(Generic[T]):
    """One question about a service, to its sentinels in order, until one answers."""

    def __init__(self, place: Primary, words: tuple[str, ...], read: Callable[[Endpoint, list[Any]], T]) -> None:
        """Ask *words* and the service's name; *read* makes the result of who answered and what."""
        self._place = place
        self._words = (*words, place.service)
        self._read = read
        self._found: T | None = None
        self._failures: list[tuple[Endpoint, Exception]] = []
        self._ignorant: list[tuple[Endpoint, str]] = []

    def ask(self, deadline: float) -> T:
        """Return what the first sentinel that knows says before *deadline*, on the clock of `monotonic`.

        Raises:
            Fault: None could tell, after one could before.
            Unavailable: None could be reached.
            Misconfigured: They know no such service, or refuse the credentials.
        """
        for sentinel in list(self._place.sentinels):
            if self._found is None:
                rest = max(min(sentinel.connect_timeout, deadline - monotonic()), LEAST_S)
                self._take(sentinel, _ask(sentinel, self._words, rest))
        return self._result()

    async def aask(self) -> T:
        """As `ask`, for asyncio, where whoever waits for it has the deadline."""
        for sentinel in list(self._place.sentinels):
            if self._found is None:
                self._take(sentinel, await _aask(sentinel, self._words))
        return self._result()

    def _take(self, sentinel: Endpoint, answer: object) -> None:
        if isinstance(answer, Exception):
            self._failures.append((sentinel, answer))
        elif isinstance(answer, list):
            self._place.put(sentinel)
            self._found = self._read(sentinel, answer)
        else:
            self._ignorant.append((sentinel, str(answer)))

    def _result(self) -> T:
        if self._found is not None:
            return self._found
        place = self._place
        why = "; ".join(str(error) for _, error in self._failures)
        why = why.replace("REDIS_CONNECTION_TIMEOUT", "sentinel_timeout=… in the URL")
        if place.vouched:
            # It worked before, so it may heal: sentinels are being restarted, or have yet to agree.
            raise Fault(f"no sentinel of {len(place.sentinels)} names {place} now: {why or 'unknown'}", applied=False)
        if self._ignorant:
            sentinel, known = self._ignorant[0]
            raise Misconfigured(
                f"sentinel {sentinel} knows no service {place.service!r}, {known}; "
                f"the service stands after the hosts: redis+sentinel://host:26379/service/0"
            )
        for sentinel, error in self._failures:
            if isinstance(error, AuthenticationFailed):
                raise AuthenticationFailed(
                    f"sentinel {sentinel} refused us: {error}; "
                    f"its own password goes into the URL as ?sentinel_password=… (and sentinel_username=…)"
                ) from error
        for sentinel, error in self._failures:
            if isinstance(error, Misconfigured | UsageError):
                raise error
            if isinstance(error, ReplyError) and error.code == "NOPERM":
                raise PermissionDenied(f"sentinel {sentinel} refused us: {error}; its users need {NEEDED}") from error
            if isinstance(error, ReplyError):
                raise Misconfigured(f"{sentinel} does not answer as a sentinel: {error}") from error
        raise Unavailable(f"no sentinel of {place.service!r} can be reached: {why}")


def _ask(sentinel: Endpoint, words: tuple[str, ...], timeout: float) -> object:
    """Return what *sentinel* answers: a list, which services it knows instead, or an exception."""
    try:
        wire = blocking.connect(sentinel, timeout=timeout, met_before=True)
        try:
            answer = wire.call(words, timeout)
            return _known(wire.call(("SENTINEL", "MASTERS"), timeout)) if answer is None else answer
        finally:
            wire.close()
    except (Fault, ReplyError, GridsyncError) as error:
        return error


async def _aask(sentinel: Endpoint, words: tuple[str, ...]) -> object:
    deadline = asyncio.get_running_loop().time() + sentinel.connect_timeout
    try:
        wire = await mux.connect(sentinel, inflight_max=2, stall_s=sentinel.connect_timeout, met_before=True)
        try:
            answer = await wire.post(words, deadline)
            return _known(await wire.post(("SENTINEL", "MASTERS"), deadline)) if answer is None else answer
        finally:
            wire.abort()
    except (Fault, ReplyError, GridsyncError) as error:
        return error


def _known(masters: Sequence[dict[bytes, bytes]]) -> str:
    names = ", ".join(sorted(repr(text(master[b"name"])) for master in masters))
    return f"only {names}" if names else "nor any other"


def text(word: bytes | str) -> str:
    """Return a word of a reply as text."""
    return word.decode(errors="replace") if isinstance(word, bytes) else word
