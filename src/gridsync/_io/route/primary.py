"""Who is the primary of a service that sentinels watch.

For each new connection the sentinels are asked in order, the one that answered last first; the connection then asks the
server for its ROLE, and a server that is no primary is refused.  `listener.py` brings the news of a switch.

Source: https://redis.io/docs/latest/develop/reference/sentinel-clients/
"""

from __future__ import annotations

import logging
import os
import threading
import weakref
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gridsync._io.clock import monotonic
from gridsync._io.route.listener import Listener
from gridsync._io.route.question import ADDRESS, Question, text
from gridsync._io.wire.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gridsync._io.wire.endpoint import Endpoint

_log = logging.getLogger("gridsync")
ATTEMPT_S = 1.0
"""How long one attempt to connect to a primary may take at most: if it is silent, another may be named by now."""


class Primary:
    """The primary of one service, as its sentinels name it: a `Place`.

    Thread-safe and fork-safe.  Guarantee: every connection led to a server that said it was a primary when the
    connection was made, and is cut when a sentinel announces another one.
    Not guaranteed: that a primary which nobody has demoted yet, on the minority side of a partition, is recognised.
    """

    def __init__(self, service: str, sentinels: Sequence[Endpoint], server: Endpoint) -> None:
        """Ask *sentinels* for *service*; the servers are greeted as *server* says, whatever its host and port."""
        self.service = service
        self.sentinels: list[Endpoint] = list(sentinels)
        self.server = server
        self.connect_timeout: float = server.connect_timeout
        self._callbacks: list[Callable[[Endpoint], None]] = []
        self._reset()
        _places.add(self)

    def _reset(self) -> None:
        self._asking = threading.Lock()
        self._found: Endpoint | None = None
        self._asked_at = 0.0
        self._named_by: dict[Endpoint, Endpoint] = {}
        self._listener = Listener(self)

    def __str__(self) -> str:
        """Name the service and, once it is known, the primary."""
        primary = f" at {self._found}" if self._found is not None else ""
        return f"the primary of {self.service!r}{primary}"

    # -- the place --------------------------------------------------------------------------------------------------

    @property
    def known(self) -> Endpoint:
        """The primary that was found last."""
        return self._found or self.server

    @property
    def vouched(self) -> bool:
        """Whether a sentinel has named a primary before."""
        return self._found is not None

    def find(self, timeout: float) -> Endpoint:
        """Ask the sentinels; who calls while another thread asks takes the answer to the next question.

        Raises:
            Fault: None could tell within *timeout* seconds, after one could before.
            Unavailable: None could be reached.
            Misconfigured: They know no such service, or refuse the credentials.
        """
        called = monotonic()
        if not self._asking.acquire(timeout=timeout):
            raise Fault(f"no sentinel named {self} within {timeout:g} s", applied=False)
        try:
            if self._found is None or self._asked_at < called:
                asked_at = monotonic()
                self._found, self._asked_at = Question(self, ADDRESS, self.named).ask(called + timeout), asked_at
        finally:
            self._asking.release()
        self._listener.start()
        return self._found

    async def seek(self) -> Endpoint:
        """As `find`; connecting is single-flight for each kind of connection already."""
        asked_at = monotonic()
        found = await Question(self, ADDRESS, self.named).aask()
        self._found, self._asked_at = found, asked_at
        self._listener.start()
        return found

    def doubt(self, endpoint: Endpoint) -> None:
        """Ask another sentinel next time: the one that named *endpoint* seems to be out of date."""
        named_by = self._named_by.get(endpoint)
        if named_by is not None:
            self.put(named_by, last=True)

    def on_move(self, callback: Callable[[Endpoint], None]) -> None:
        """Call *callback* from the listener's thread when connections to any other server are of no use any more."""
        self._callbacks.append(callback)

    def moved(self, endpoint: Endpoint) -> None:
        """Let everybody know that *endpoint* is the primary now; it said so itself."""
        self._found = endpoint
        named_by = self._named_by.get(endpoint)
        if named_by is not None:
            self.put(named_by)  # the others may name the old one for a while
        for callback in self._callbacks:
            try:
                callback(endpoint)
            except Exception:  # noqa: BLE001 - one must not keep the others on the old primary
                _log.exception("a callback of %s failed", self)

    def close(self) -> None:
        """End the listener."""
        self._listener.close()

    # -- for the listener and for a question ---------------------------------------------------------------

    @property
    def found(self) -> Endpoint | None:
        """The server that was named last."""
        return self._found

    def put(self, sentinel: Endpoint, *, last: bool = False) -> None:
        """Ask *sentinel* first next time, or last."""
        others = [other for other in self.sentinels if other is not sentinel]
        self.sentinels = [*others, sentinel] if last else [sentinel, *others]

    def named(self, sentinel: Endpoint, address: Sequence[Any]) -> Endpoint:
        """Return the server that *sentinel* named."""
        endpoint = self.at(address[0], address[1], "master")
        self._named_by = {endpoint: sentinel}
        return endpoint

    def at(self, host: bytes | str, port: bytes | str, role: str) -> Endpoint:
        """Return a server of this service, which must be what *role* says."""
        timeout = min(self.connect_timeout, ATTEMPT_S)
        return replace(self.server, host=text(host), port=int(port), connect_timeout=timeout, role=role)

    def _after_fork(self) -> None:
        self._listener.abandon()
        self._reset()


_places: weakref.WeakSet[Primary] = weakref.WeakSet()


def _reset_all() -> None:
    for place in list(_places):
        place._after_fork()  # noqa: SLF001 - same module


os.register_at_fork(after_in_child=_reset_all)
