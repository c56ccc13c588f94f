"""The masters of a Redlock: which servers they are, how to ask all at once, and whose vote counts.

A master that forgot its leases in a crash would give its vote a second time.  So the vote of one that has not run for
the longest lease there may be does not count: by then, whatever it forgot has ended.  One that writes to disk before it
answers (``appendfsync always``) forgets nothing, and counts at once.

*For how long it has run.*  A server knows that by its wall clock only.  One that is set forward makes it older than it
is, and that happens just after a start, when a machine learns what time it is.  So a server's word is taken once, when
its run is first met; from then on our own clock counts.  It is not taken at all by who has lately seen an earlier run:
this one began, at the latest, when it was met.  Each vote tells its run (`confirm.lua`), and who waits looks which runs
there are (`Masters.remember`).  What is left is a caller who comes new, or after a long time, once the clock was set.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, TypeVar

from gridsync._io import Category, Command
from gridsync.errors import GridsyncError, Misconfigured, ServerError, Unavailable, UsageError

if TYPE_CHECKING:
    from collections.abc import Coroutine, Sequence

    from gridsync._io import IO, Arg, Operation
    from gridsync.locks._spec import Spec

T = TypeVar("T")
_log = logging.getLogger("gridsync")
INFO = Command("INFO", Category.READ, ("INFO", "server", "persistence"))
ROLE = Command("ROLE", Category.READ, ("ROLE",))
FSYNC = Command("CONFIG GET", Category.READ, ("CONFIG", "GET", "appendfsync", "no-appendfsync-on-rewrite"))
MASTERS_MIN = 3
TIMEOUT_SHARE = 0.01
TIMEOUT_MIN_S = 0.005
"""How long one master may take, unless a user says otherwise: a hundredth of the lease, and at least 5 ms."""
UPTIME_STEP_S = 1.0
"""Servers count whole seconds, and may be ahead of the truth by one."""
SIGHT_S = 15.0
"""Who waits looks at each master that was not seen for so long, whenever it looks at the lock."""
LATELY_S = 60.0
"""Who has seen the run before within so long takes nobody's word for the age of the next one."""
_REPLICA = "a replica, which has no vote of its own"
_NODE = "a node of a cluster, where a failover may forget a vote"
_STRANGE = {"READONLY ": _REPLICA, "MOVED ": _NODE, "CLUSTERDOWN ": _NODE}
"""What the errors tell that no master answers."""


async def caught(coroutine: Coroutine[Any, Any, T]) -> T | GridsyncError:
    """Return what *coroutine* returns, or which error it raises."""
    try:
        return await coroutine
    except GridsyncError as error:
        return error


class Master:
    """One of them, and what is known of its runs: a server gets another run id with each start."""

    def __init__(self, io: IO, name: str) -> None:
        """Know nothing yet.

        Args:
            io: How to reach it.
            name: What to call it in messages.
        """
        self.io = io
        self.name = name
        self.run: bytes = b""
        """The last run that was looked at."""
        self.seen: float = float("-inf")
        """When that run was last seen, by our clock."""
        self.began: float = float("inf")
        """When that run began at the latest, by our clock."""
        self.durable: bool = False
        """Whether that run writes to disk before it answers."""
        self.warned = b""
        """The run of which was said that it is too young."""
        self.uptime_s: int = 0
        """For how long it had run when it was looked at."""
        self._strange = ""
        """What it turned out to be that has no vote."""

    async def run_at(
        self, operation: Operation, keys: Sequence[str], args: Sequence[Arg], *, timeout: float | None = None
    ) -> Any:  # noqa: ANN401 - replies are whatever the script's header says
        """Run a script or command here.

        Raises:
            Misconfigured: It is no master any more; said once as a warning too, since a majority may be left.
        """
        try:
            reply = await self.io.run(operation, keys, args, timeout=timeout)
        except (Unavailable, ServerError) as error:
            turned = next((what for word, what in _STRANGE.items() if word in str(error)), "")
            if not turned:
                raise
            text = (
                f"{self.name} has become {turned}: it votes no more; make it an independent master again, or let every "
                f"Redlock name another server (first stop all, or wait max_ttl)"
            )
            if turned != self._strange:
                self._strange = turned
                _log.warning("%s", text)
            raise Misconfigured(text) from error
        self._strange = ""
        return reply

    async def look(self, timeout: float | None = None) -> None:
        """Ask what kind of server it is.

        Raises:
            UsageError: It is a replica, or a node of a cluster.
            Unavailable: It does not answer.
        """
        reply = await self.io.run(INFO, (), timeout=timeout)
        text = reply if isinstance(reply, str) else reply.decode(errors="replace")
        facts = dict(line.split(":", 1) for line in text.splitlines() if ":" in line)
        if facts.get("redis_mode") == "cluster":
            raise UsageError(f"{self.name} is {_NODE}; a Redlock needs independent masters, each with its own data")
        role = (await self.io.run(ROLE, (), timeout=timeout))[0]
        if role not in (b"master", "master"):
            raise UsageError(f"{self.name} is {_REPLICA}; give a Redlock the addresses of masters")
        durable = False
        if facts.get("aof_enabled") == "1":
            said = await caught(self.io.run(FSYNC, (), timeout=timeout))
            # A hash to RESP3; some providers forbid the question.  The second setting suspends the first.
            words = [] if isinstance(said, GridsyncError) else _flat(said)
            durable = b"always" in words and b"yes" not in words
        self.durable = durable
        self.uptime_s = int(facts.get("uptime_in_seconds", 0))
        self._meet(facts.get("run_id", "").encode())

    def _meet(self, run: bytes) -> None:
        now = self.io.monotonic()
        if run != self.run:
            # It says less than nothing after its clock was set to before its start.
            told = now - max(0, self.uptime_s)
            self.began = now if now - self.seen < LATELY_S else max(told, self.seen)
            self.run = run
        self.seen = now


def _flat(reply: Any) -> list[Any]:  # noqa: ANN401 - a map, or the list of its keys and values
    return list(reply.values()) if isinstance(reply, dict) else list(reply)


class Masters:
    """All of them, asked at the same time."""

    def __init__(self, masters: Sequence[Master], *, ttl_max_s: float, timeout_s: float | None = None) -> None:
        """Take them as they are.

        Args:
            masters: At least three, and an odd number of them.
            ttl_max_s: The longest lease that anybody takes on them.
            timeout_s: How long one may take for one answer; see `TIMEOUT_SHARE` for the default.

        Raises:
            UsageError: They are too few.
        """
        if len(masters) < MASTERS_MIN:
            raise UsageError(
                f"a Redlock needs at least {MASTERS_MIN} independent masters, not {len(masters)}: of fewer, no "
                f"majority is left when one is away; on one server use grid.lock()"
            )
        if len(masters) % 2 == 0:
            _log.warning(
                "a Redlock of %d masters bears no more failures than one of %d, and is slower: use an odd number",
                len(masters),
                len(masters) - 1,
            )
        self.all: tuple[Master, ...] = tuple(masters)
        self.io: IO = masters[0].io
        """Where everything happens that has nothing to do with a server."""
        self.quorum: int = len(masters) // 2 + 1
        self.ttl_max_s = ttl_max_s
        self.timeout_s = timeout_s

    def limit(self, ttl_s: float) -> float:
        """Return how long one master may take to answer for a lease of *ttl_s*, in seconds."""
        return max(TIMEOUT_MIN_S, ttl_s * TIMEOUT_SHARE) if self.timeout_s is None else self.timeout_s

    async def each(self, *requests: Coroutine[Any, Any, T]) -> list[T | GridsyncError]:
        """Run all requests at the same time; an error stands in the place of a reply."""
        return await self.io.fan(*map(caught, requests))

    async def meet(self) -> None:
        """Look at all of them.

        Raises:
            UsageError: One is a replica, a node of a cluster, or the same as another.
            Unavailable: Less than a majority answers.
            Misconfigured: As before, and it will not heal by itself.
        """
        found = await self.each(*(master.look() for master in self.all))
        for error in found:
            if isinstance(error, UsageError):
                raise error
        self._compare()
        failed = [error for error in found if error is not None]
        if len(self.all) - len(failed) < self.quorum:
            raise self.too_few(failed)

    def too_few(self, failed: Sequence[GridsyncError], spec: Spec | None = None) -> GridsyncError:
        """Return the error that tells that less than a majority answered, when asked for *spec*."""
        wrong = [error for error in failed if isinstance(error, UsageError)]
        if wrong:
            return wrong[0]  # it was closed
        # What will not heal by itself tells more than a server that is away.
        lasting = [error for error in failed if isinstance(error, Misconfigured)]
        text = f"{spec}: " if spec else ""
        text += (
            f"{len(self.all) - len(failed)} of {len(self.all)} masters answered, and {self.quorum} are needed; "
            f"the last error: {(lasting or failed)[-1]}"
        )
        return Misconfigured(text) if len(self.all) - len(lasting) < self.quorum else Unavailable(text)

    async def remember(self, masters: Sequence[Master], limit: float) -> None:
        """Look again at those of *masters* that were not seen for a while, so that a restart is noticed as one."""
        latest = self.io.monotonic() - SIGHT_S
        if unseen := [master for master in masters if master.seen <= latest]:
            await self.each(*(master.look(limit) for master in unseen))

    async def counts(self, master: Master, run: bytes, sent: float) -> bool:
        """Tell whether the vote counts that *master* gave after *sent*, in the run *run*.

        Raises:
            UsageError: It is the same server as another.
        """
        if run == master.run:
            master.seen = self.io.monotonic()
        else:
            error = await caught(master.look())
            self._compare()
            if error is not None or run != master.run:
                # Nobody can say what it was that voted, or it was restarted since.
                return False
        wait_s = self.wait_s(master, sent)
        if wait_s <= 0 or master.durable:
            return True
        master.io.tally("redlock.young")
        if master.warned != run:
            master.warned = run
            _log.warning(
                "%s was started lately (it says %d s ago) and may have forgotten leases: its votes count in %d s, when "
                "the last of them has ended (max_ttl), or at once with appendfsync always",
                master.name,
                master.uptime_s,
                int(wait_s) + 1,
            )
        return False

    def wait_s(self, master: Master, at: float) -> float:
        """Return how many seconds after *at* the votes count of the run of *master*; at most 0 if they did then."""
        return master.began + self.ttl_max_s + UPTIME_STEP_S - at

    def _compare(self) -> None:
        met: dict[bytes, str] = {}
        for master in self.all:
            if master.run and met.setdefault(master.run, master.name) != master.name:
                raise UsageError(
                    f"{met[master.run]} and {master.name} are the same server, which would vote twice; "
                    f"a Redlock needs independent masters"
                )
