"""Which replica: one of those that are fit, chosen at random and kept until it fails.

Chosen at random, so that many processes share all of them; kept, so that what one process reads goes forward as long
as it reads from the same one.  Whoever found it unfit says so (`Replica.doubt`), and another one is chosen for the next
connection.  A replica is asked for its ROLE with every read (`reads.py`), so that no answer of one that has lost its
primary, or has become a primary, is ever used.
"""

from __future__ import annotations

import random
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Protocol

from gridsync._io.clock import monotonic
from gridsync._io.route.question import REPLICAS, Question, text
from gridsync._io.wire.faults import Fault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.route.primary import Primary
    from gridsync._io.wire.endpoint import Endpoint

DOUBT_S = 2.0
"""How long a replica that failed is not chosen if there is another one; longer than most restarts."""
_UNFIT = frozenset({"s_down", "o_down", "disconnected"})


class Candidates(Protocol):
    """Knows the replicas of one primary."""

    def look(self, timeout: float) -> Sequence[Endpoint]:
        """Return those that seem fit; raises as `Place.find`."""

    async def alook(self) -> Sequence[Endpoint]:
        """As `look`, for asyncio."""


class Replica:
    """One replica of a primary: a `Place`.  Thread-safe and fork-safe, for it holds no lock: a race asks twice.

    Guarantee: every connection led to a server that said it was a replica with a living link to its primary.
    Not guaranteed: how far it is behind, nor that its primary is the one that the others follow.
    """

    vouched = True

    def __init__(self, of: str, server: Endpoint, candidates: Candidates) -> None:
        """Choose among *candidates* of *of*; they are greeted as *server* says, whatever its host and port."""
        self.server = replace(server, role="slave")
        self.connect_timeout = server.connect_timeout
        self.retired = False
        """Whether its primary is none any more, so that nobody asks for this place again."""
        self._of = of
        self._source = candidates
        self._candidates: Sequence[Endpoint] | None = None
        self._looked_at = 0.0
        self._found: Endpoint | None = None
        self._doubted: dict[Endpoint, float] = {}

    def __str__(self) -> str:
        """Name the primary and, once it is known, the replica."""
        replica = f" at {self._found}" if self._found is not None else ""
        return f"a replica of {self._of}{replica}"

    @property
    def known(self) -> Endpoint:
        """The replica that is read from now."""
        return self._found or self.server

    def hopeless(self) -> bool:
        """Whether there is none, or each of them has failed within the last `DOUBT_S`."""
        if self._candidates is None or self._fit():
            return False
        return bool(self._candidates) or monotonic() - self._looked_at < DOUBT_S

    def find(self, timeout: float) -> Endpoint:
        """Return the replica to connect to.

        Raises:
            Fault: There is none, or nobody could tell within *timeout* seconds.
        """
        return self._kept() or self._choose(self._source.look(timeout))

    async def seek(self) -> Endpoint:
        """As `find`."""
        return self._kept() or self._choose(await self._source.alook())

    def doubt(self, endpoint: Endpoint) -> None:
        """Choose another one next time: *endpoint* could not be reached, or was not fit."""
        self._doubted[endpoint] = monotonic()
        if self._found == endpoint:
            self._found = None

    def _kept(self) -> Endpoint | None:
        """Return the present one if it was seen to be fit a moment ago."""
        now = monotonic()
        if self._found is not None and now - self._looked_at < DOUBT_S:
            return self._found
        self._candidates, self._looked_at = (), now  # what holds if nobody can tell
        return None

    def _choose(self, candidates: Sequence[Endpoint]) -> Endpoint:
        self._candidates, self._looked_at = candidates, monotonic()
        self._doubted = {each: at for each, at in self._doubted.copy().items() if each in candidates}
        if not candidates:
            self._found = None
            raise Fault(f"{self._of} has no replica that is fit to be read from", applied=False)
        fit = self._fit()
        if self._found not in fit:
            # Better one that failed than none: it may be the only one, and back by now.
            self._found = random.choice(fit or sorted(candidates, key=lambda each: self._doubted[each])[:1])
        return self._found

    def _fit(self) -> list[Endpoint]:
        now = monotonic()
        never = now - DOUBT_S
        return [each for each in self._candidates or () if now - self._doubted.get(each, never) >= DOUBT_S]


class Watched:
    """The replicas of a service, as its sentinels name them."""

    def __init__(self, primary: Primary) -> None:
        """Ask the sentinels of *primary*."""
        self._primary = primary

    def look(self, timeout: float) -> Sequence[Endpoint]:
        """Return those that the first sentinel that answers takes for alive and in touch with the primary."""
        return Question(self._primary, REPLICAS, self._read).ask(monotonic() + timeout)

    async def alook(self) -> Sequence[Endpoint]:
        """As `look`."""
        return await Question(self._primary, REPLICAS, self._read).aask()

    def _read(self, _: Endpoint, replicas: list[dict[bytes, bytes]]) -> list[Endpoint]:
        # Not by priority: 0 means that it shall never be a primary, and such a one is good to read from.
        return [self._primary.at(each[b"ip"], each[b"port"], "slave") for each in replicas if _fit_by(each)]


def _fit_by(facts: dict[bytes, Any]) -> bool:
    return not _UNFIT & set(text(facts[b"flags"]).split(",")) and facts.get(b"master-link-status") == b"ok"


def replica_of(primary: Primary) -> Replica:
    """Return a replica of a service that sentinels watch."""
    return Replica(f"the service {primary.service!r}", primary.server, Watched(primary))
