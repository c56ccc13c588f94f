"""What a server tells of changed keys, and how far it is known to have told everything.

A connection asks once for all keys with certain beginnings (``CLIENT TRACKING ON BCAST PREFIX …``); from then on the
server tells it of each change to one of them, whoever reads them on whatever connection, and remembers no keys for it.
A question now and then, the *beat*, shows that the connection lives.

Invariant: when beat *n* is answered, everything that was changed before beat *n - 1* left has been told.  Not beat *n*
itself: the server answers it before it tells what else happened in the same turn of its loop.  So a `Link` vouches for
what it was told until `Link.proved`, the moment at which the last but one left.
"""

from __future__ import annotations

import threading
from collections import deque
from typing import TYPE_CHECKING, Any, Final, Protocol

from gridsync._io.wire.faults import Fault, ReplyError, is_transient

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

BEATS: Final = 4
"""So many beats in the time for which one must be believed: two may be late."""
NEVER: Final = float("-inf")


class Refused(Exception):
    """The server does not let us ask for changes."""


class Watcher(Protocol):
    """Who wants to be told; hashable."""

    prefixes: tuple[bytes, ...]
    """What the keys begin with."""
    staleness: float
    """How long ago, at most, everything must have been told, in seconds."""

    def told(self, names: Sequence[bytes] | None) -> None:
        """Hear that the keys *names* have changed, or all of them; from any thread."""


class Link:
    """What one watcher has of one connection; of no use any more once the connection is lost."""

    __slots__ = ("known", "proved")

    def __init__(self, proved: float) -> None:
        """Vouch for everything from *proved* on."""
        self.proved: float = proved
        """Everything that was changed before this has been told; `NEVER` when the connection is lost."""
        self.known: float = proved
        """As `proved`, and stays when the connection is lost."""

    def prove(self, proved: float) -> None:
        """Vouch for what was changed before *proved*, too."""
        if proved > self.proved:
            self.proved = self.known = proved

    def lose(self) -> None:
        """Vouch for nothing any more."""
        self.proved = NEVER


class Joint:
    """Several links, for what hangs on all of them."""

    __slots__ = ("_links",)

    def __init__(self, links: Iterable[Link | Joint]) -> None:
        """Vouch for what all *links* do."""
        self._links = tuple(links)

    @property
    def proved(self) -> float:
        """As of the last of them."""
        return min(link.proved for link in self._links)

    @property
    def known(self) -> float:
        """As of the last of them."""
        return min(link.known for link in self._links)


class Line:
    """One connection: what to send, and what comes back.

    One thread at a time sends, and the one that reads takes the answers; anybody may `lose` it.
    """

    def __init__(self, watchers: Callable[[], Iterable[Watcher]], *, now: float, timeout: float) -> None:
        """Begin without a link; a server that is silent for *timeout* seconds counts as lost."""
        self._watchers = watchers
        self._timeout = timeout
        self._asked: deque[tuple[Watcher | None, float]] = deque()
        self._known: set[Watcher] = set()
        self._last = self._beat = now
        self._lock = threading.Lock()
        self._lost = False
        self.links: dict[Watcher, Link] = {}
        """The links that are confirmed; read from any thread."""
        self.witness = ""
        """A key of this server, which it is asked about: one that has lost its slot says so."""

    def knows(self, watcher: Watcher) -> bool:
        """Tell whether it was asked for what *watcher* wants to be told."""
        return watcher in self._known

    def requests(self, now: float) -> list[tuple[Any, ...]]:
        """Return what to send now.

        Raises:
            Fault: The server owes an answer for too long.
        """
        if self._asked and now - self._asked[0][1] >= self._timeout:
            raise Fault(f"it was silent for {self._timeout:g} s", applied=False)
        sent: list[tuple[Any, ...]] = []
        for watcher in self._watchers():
            if watcher not in self._known:
                self._known.add(watcher)
                self._asked.append((watcher, now))
                words = [word for prefix in watcher.prefixes for word in ("PREFIX", prefix.decode())]
                sent.append(("CLIENT", "TRACKING", "ON", "BCAST", *words))
        if now >= self._beat:
            self._beat = now + min((watcher.staleness for watcher in self._known), default=self._timeout) / BEATS
            self._asked.append((None, now))
            sent.append(("PTTL", self.witness) if self.witness else ("PING",))
        return sent

    def rest(self, now: float) -> float:
        """Return for how many seconds there is nothing to send."""
        silent = self._asked[0][1] + self._timeout if self._asked else self._beat
        return max(min(self._beat, silent) - now, 0.001)

    def answered(self, reply: object) -> None:
        """Take the answer to the oldest request that has none.

        Raises:
            Refused: It will not tell us, whenever we ask.
            ReplyError: Another error: this connection is of no use.
        """
        watcher, sent = self._asked.popleft()
        if isinstance(reply, ReplyError):
            raise Refused(str(reply)) if watcher is not None and not is_transient(reply) else reply
        with self._lock:
            if self._lost:
                return
            if watcher is not None:
                self.links[watcher] = Link(sent)
                return
            for link in self.links.values():
                link.prove(self._last)
            self._last = sent

    def told(self, names: Sequence[bytes] | None) -> None:
        """Pass on what the server says of its keys."""
        for watcher in list(self.links):
            if names is None or names[0].startswith(watcher.prefixes):
                watcher.told(names)

    def lose(self) -> None:
        """Let nobody believe in this connection any more, nor ever again."""
        with self._lock:
            self._lost = True
            for link in self.links.values():
                link.lose()

    def abandon(self) -> None:
        """Lose it in the child of a fork, where the lock may be that of a thread which is not there."""
        self._lock = threading.Lock()
        self.lose()


def invalidated(push: Sequence[Any]) -> tuple[bool, Sequence[bytes] | None]:
    """Return whether *push* tells of changed keys, and of which; all of them if none are named."""
    if push[0] != b"invalidate":
        return False, ()
    return True, push[1]
