"""News of a switch at once: a thread that listens to one sentinel.

A thread, also under asyncio, since a busy loop must not keep a lease on the old primary.  It hears ``+switch-master``
and ``+promoted-slave``, asks the server that is named for its ROLE, and then every connection that leads elsewhere is
cut.

States: *away* (no sentinel answers; tries them in turn) → *listening* (subscribed, then asked for the address, since a
message may have been missed) → *away* when the sentinel is silent or gone.
"""

from __future__ import annotations

import logging
import threading
from typing import TYPE_CHECKING, Any

import hiredis

from gridsync._io.clock import monotonic
from gridsync._io.ears import pauses
from gridsync._io.route.question import ADDRESS, text
from gridsync._io.wire import blocking
from gridsync._io.wire.faults import Fault
from gridsync._io.wire.place import leads_to
from gridsync.errors import GridsyncError

if TYPE_CHECKING:
    from gridsync._io.route.primary import Primary
    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint

_log = logging.getLogger("gridsync")
HEARTBEAT_S = 2.0
"""How long a sentinel may be silent before it is asked for the address again."""
SWITCH, PROMOTED = "+switch-master", "+promoted-slave"


class Listener:
    """Hears where the primary of a service is."""

    def __init__(self, primary: Primary) -> None:
        """Start nothing yet."""
        self._primary = primary
        self._closed = threading.Event()
        self._starting = threading.Lock()
        self._thread: threading.Thread | None = None
        self._wire: BlockingWire | None = None
        self._announced: Endpoint | None = None

    def start(self) -> None:
        """Start the thread, unless it was started or closed."""
        if self._thread is None and not self._closed.is_set():
            with self._starting:
                if self._thread is None:
                    self._thread = threading.Thread(target=self._run, name="gridsync-sentinel", daemon=True)
                    self._thread.start()

    def close(self) -> None:
        """End the thread."""
        self._closed.set()
        if self._wire is not None:
            self._wire.shutdown()

    def abandon(self) -> None:
        """Close our copy of a descriptor that is the parent's: this is the child of a fork, without the thread."""
        if self._wire is not None:
            self._wire.close()

    def _run(self) -> None:
        pause = pauses()
        while not self._closed.is_set():
            for sentinel in list(self._primary.sentinels):
                began = monotonic()
                try:
                    self._wire = blocking.connect(sentinel, timeout=sentinel.connect_timeout, met_before=True)
                    self._hear(sentinel, self._wire)
                except Exception as error:  # noqa: BLE001 - a listener that dies hears of no switch any more
                    if not self._closed.is_set():
                        _log.info("sentinel %s is not listened to any more: %s", sentinel, error or type(error))
                finally:
                    if self._wire is not None:
                        self._wire.close()
                if self._closed.is_set():
                    return
                if monotonic() - began > HEARTBEAT_S:
                    pause = pauses()
            self._closed.wait(next(pause))

    def _hear(self, sentinel: Endpoint, wire: BlockingWire) -> None:
        question = _pack(*ADDRESS, self._primary.service)
        wire.send(_pack("SUBSCRIBE", SWITCH, PROMOTED) + question)
        unanswered = 1
        while not self._closed.is_set():
            try:
                reply = wire.read(HEARTBEAT_S)
            except TimeoutError:
                if unanswered:
                    raise
                unanswered += 1
                wire.send(question)
                continue
            if not isinstance(reply, hiredis.PushNotification):
                unanswered = 0
                if isinstance(reply, list):
                    self._heard(self._primary.named(sentinel, reply))
            elif reply[0] == b"message" and text(reply[1]) == PROMOTED:
                # The sentinel that leads a failover names the new primary from now on, but announces it only when the
                # replicas have been told, up to seconds later; until then the old one takes writes that are lost.
                wire.send(question)
            elif reply[0] == b"message":
                # "name old-host old-port new-host new-port"
                words = text(reply[2]).split(" ")
                if words[0] == self._primary.service:
                    self._heard(self._primary.named(sentinel, words[3:]))

    def _heard(self, endpoint: Endpoint) -> None:
        """Pass on that *endpoint* is the primary, if that is new and it says so itself."""
        found = self._primary.found
        if self._announced is None and found is not None and leads_to(found, endpoint):
            # Every connection so far led there.
            self._announced = endpoint
        if self._announced is not None and leads_to(self._announced, endpoint):
            return
        try:
            blocking.connect(endpoint, timeout=endpoint.connect_timeout, met_before=True).close()
        except (Fault, GridsyncError) as error:
            _log.info("a sentinel named %s as %s, but: %s", endpoint, self._primary, error)
            return
        old = self._announced or found
        _log.warning("the primary of %r is at %s now, no longer at %s", self._primary.service, endpoint, old)
        self._announced = endpoint
        self._primary.moved(endpoint)


def _pack(*words: Any) -> bytes:  # noqa: ANN401 - what a request may consist of
    packed: bytes = hiredis.pack_command(words)
    return packed
