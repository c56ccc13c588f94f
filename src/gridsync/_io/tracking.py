"""Which keys have changed: for each server a thread that is told, on a connection of its own.

A thread, also under asyncio, so that a busy loop is told in time; and a connection beside that for wake-ups, so that a
storm of changes delays none of those.  `links.py` says what is asked and what an answer proves.

States of a `Tracker`: *opening* → *told* (`Line.links` has whoever is confirmed) → *over*, when the connection breaks,
is silent, errs or is cut; whoever needs a link then begins another, after a pause.  Nothing is asked for what nobody
reads: a server that is away is tried again only when somebody reads.
"""

from __future__ import annotations

import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Final

import hiredis

from gridsync._io.clock import monotonic
from gridsync._io.ears import PAUSE_MAX_S, PAUSE_S
from gridsync._io.links import Line, Refused, invalidated
from gridsync._io.wire import blocking
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync.errors import GridsyncError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from gridsync._io.copies import Copies
    from gridsync._io.links import Link, Watcher
    from gridsync._io.route import Topology
    from gridsync._io.wire.blocking import BlockingWire
    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

REFUSED_PAUSE_S: Final = 30.0
"""How long a server that does not let us ask for changes is left alone."""
_log = logging.getLogger("gridsync")


class Tracking:
    """What the servers of one grid tell of changes, and to whom.  Thread-safe."""

    def __init__(self, topology: Topology, *, timeout: float) -> None:
        """Connect to nothing until somebody reads."""
        self._topology = topology
        self.timeout = timeout
        self.copies: dict[str, Copies] = {}
        """Who is told: the near cache of each cache, by its name."""
        self.reset()

    def reset(self) -> None:
        """Begin with nothing."""
        self._lock = threading.Lock()
        self._trackers: dict[Place, Tracker] = {}
        self._seen = self._topology.turns
        self.met: set[Place] = set()
        """To whom there was a connection."""
        self._pause = PAUSE_S
        self._closed = False
        self._not_before = 0.0
        self.refused = ""
        """What the last server said that does not let us."""

    def after_fork(self) -> None:
        """Forget everything: the child of a fork has not the threads, and the connections are its parent's."""
        for tracker in self._trackers.values():
            tracker.abandon()
        self.reset()
        for each in self.copies.values():
            each.reset()

    @property
    def turns(self) -> int:
        """How often a key turned out to be elsewhere than was thought."""
        return self._topology.turns

    def watchers(self) -> Iterable[Watcher]:
        """Return who is told."""
        return list(self.copies.values())

    def link(self, name: str, watcher: Watcher) -> Link | None:
        """Return the link to the server of the key *name*; ``None`` if there is none yet, which is seen to."""
        place = self._topology.subscriber(name)
        tracker = self._trackers.get(place)
        if tracker is None or tracker.over:
            self._begin(place, name)
            return None
        line = tracker.line
        line.witness = name
        link = line.links.get(watcher)
        if link is None and not line.knows(watcher):
            tracker.ask()
        return link

    def _begin(self, place: Place, name: str) -> None:
        with self._lock:
            tracker = self._trackers.get(place)
            if self._closed or (tracker is not None and not tracker.over) or monotonic() < self._not_before:
                return
            self._trackers[place] = Tracker(self, place, name)

    def ended(self, place: Place, tracker: Tracker, error: Exception | None) -> None:
        """Hear from a tracker that it is over."""
        with self._lock:
            tracker.over = True
            if self._trackers.get(place) is tracker:
                del self._trackers[place]
            if isinstance(error, Refused):
                if not self.refused:
                    _log.warning(
                        "%s does not tell of changes (%s), so nothing is kept of what is read there: near caches need "
                        "CLIENT TRACKING; let the ACL permit it (+client|tracking)",
                        place,
                        error,
                    )
                self.refused = str(error)
                self._not_before = monotonic() + REFUSED_PAUSE_S
            elif tracker.line.links:
                self._pause, self.refused = PAUSE_S, ""
                self._not_before = 0.0
            else:
                self._not_before = monotonic() + self._pause
                self._pause = min(2 * self._pause, PAUSE_MAX_S)
        if isinstance(error, ReplyError | Fault):
            # What it raises, whoever reads is told as well.
            with contextlib.suppress(GridsyncError):
                self._topology.failed((tracker.line.witness,), error)

    def lost(self, line: Line) -> None:
        """Count, for all who were told on *line*, that it was lost."""
        for each in self.copies.values():
            if each in line.links:
                each.lost()

    def move(self, endpoint: Endpoint) -> None:  # noqa: ARG002 - also a connection that leads there may be too early
        """Begin anew: until now others may have read from the server that was replaced."""
        self.cut()

    def review(self) -> None:
        """Begin anew if keys have other servers than was thought."""
        turns = self._topology.turns
        if turns != self._seen:
            self._seen = turns
            self.cut()

    def cut(self) -> None:
        """End every connection: what was read so far is served no more."""
        with self._lock:
            trackers, self._trackers = list(self._trackers.values()), {}
        for tracker in trackers:
            tracker.close()

    def close(self) -> None:
        """End for good."""
        self._closed = True
        self.cut()


class Tracker:
    """The connection to one server, and the thread that reads from it."""

    def __init__(self, tracking: Tracking, place: Place, witness: str) -> None:
        """Start the thread."""
        self._tracking, self._place = tracking, place
        self._wire: BlockingWire | None = None
        self._sending = threading.Lock()
        self.over = False
        self.line = Line(tracking.watchers, now=monotonic(), timeout=tracking.timeout)
        self.line.witness = witness
        threading.Thread(target=self._run, name="gridsync-near", daemon=True).start()

    def ask(self) -> None:
        """Ask for what somebody new wants to be told, in the thread of whoever that is."""
        wire = self._wire
        if wire is not None:
            try:
                self._send(wire, monotonic())
            except (OSError, Fault):
                wire.shutdown()

    def _send(self, wire: BlockingWire, now: float) -> None:
        with self._sending:
            requests = self.line.requests(now)
            if requests:
                wire.send(b"".join([hiredis.pack_command(words) for words in requests]))

    def close(self) -> None:
        """Vouch for nothing any more, now; the thread ends soon."""
        self.over = True
        self.line.lose()
        wire = self._wire
        if wire is not None:
            wire.shutdown()

    def abandon(self) -> None:
        """Close our copy of the parent's descriptor, in the child of a fork."""
        self.over = True
        self.line.abandon()
        if self._wire is not None:
            self._wire.close()

    def _run(self) -> None:
        failure: Exception | None = None
        try:
            met = self._tracking.met
            self._wire = blocking.connect(
                self._place, timeout=self._place.connect_timeout, met_before=self._place in met
            )
            met.add(self._place)
            self._hear(self._wire)
        except Exception as error:  # noqa: BLE001 - a thread that dies in silence would be believed for a while
            failure = error
        finally:
            cut = self.over
            self.line.lose()
            if self._wire is not None:
                self._wire.close()
        if not cut:
            _log.info("%s does not tell of changes any more: %s", self._place, failure)
            self._tracking.lost(self.line)
        self._tracking.ended(self._place, self, None if cut else failure)

    def _hear(self, wire: BlockingWire) -> None:
        line = self.line
        while not self.over:
            now = monotonic()
            self._send(wire, now)
            try:
                frame = wire.read(line.rest(now))
            except TimeoutError:
                continue
            if not isinstance(frame, hiredis.PushNotification):
                line.answered(frame)
                continue
            told, names = invalidated(frame)
            if told:
                line.told(names)
