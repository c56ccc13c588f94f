"""What goes wrong on purpose: one worker is killed, another is frozen until its lease is somebody else's.

Both get the lock first and have a quarter that is ready to be settled.  The killed one also holds deliveries whose
effect is written and that it did not acknowledge.  The frozen one has checked its lease and wakes before its write, as
after a long pause of a garbage collector or a virtual machine: only the version that it expects can stop it.
"""

from __future__ import annotations

import signal
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync.cli.demo import keys
from gridsync.cli.demo.audit import Check
from gridsync.cli.demo.children import FROZEN, KILLED

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.cli.demo.children import Child, Message
    from gridsync.grid import Grid

KILL_AT: Final = 0.35
FREEZE_AT: Final = 0.65
"""Which part of the day has passed when the one is killed and the other is frozen."""
FREEZE_MAX_S: Final = 6.0


@dataclass(slots=True)
class Killing:
    """The death of a worker and what became of its work."""

    worker: str
    pid: int
    fence: int
    pending: int
    at: float
    lease_after: float | None = None
    lease_by: str = ""
    deliveries_after: float | None = None

    def __str__(self) -> str:
        """Tell what happened."""
        return (
            f"{self.worker} (pid {self.pid}) got SIGKILL, holding the lock (fence {self.fence}) "
            f"and {self.pending} deliveries"
        )

    @property
    def taken_over(self) -> bool:
        """Whether others went on with all of it."""
        return self.lease_after is not None and self.deliveries_after is not None

    @property
    def outcome(self) -> str:
        """What became of its work."""
        lease, deliveries = self.lease_after, self.deliveries_after
        lock = "lock by nobody" if lease is None else f"lock by {self.lease_by} after {lease:.1f} s"
        work = "not" if deliveries is None else f"after {deliveries:.1f} s"
        return f"{lock}, {self.pending} deliveries {work}"


@dataclass(slots=True)
class Freezing:
    """The pause of a worker and how its late settlement fared."""

    worker: str
    pid: int
    fence: int
    quarter: int
    at: float
    thawed_after: float | None = None
    refused: bool = False

    def __str__(self) -> str:
        """Tell what happened."""
        return (
            f"{self.worker} (pid {self.pid}) got SIGSTOP between the check of its lease (fence {self.fence}) "
            f"and its settlement"
        )

    @property
    def outcome(self) -> str:
        """What became of its settlement."""
        if self.thawed_after is None:
            return "it never woke"
        return f"written {self.thawed_after:.1f} s late, {'refused' if self.refused else 'not refused'}"


class Mishaps:
    """The two mishaps of a run, one after the other."""

    def __init__(self, grid: Grid, note: Callable[[str], None], *, wanted: bool) -> None:
        """Prepare; *note* is told what happens."""
        self.wanted = wanted
        self.killing: Killing | None = None
        self.freezing: Freezing | None = None
        self._grid = grid
        self._note = note
        self._staged: set[str] = set()
        self._frozen: Child | None = None

    @property
    def done(self) -> bool:
        """Whether nothing more will go wrong on purpose."""
        return not self.wanted or (
            self.killing is not None
            and self.killing.taken_over
            and self.freezing is not None
            and self.freezing.thawed_after is not None
        )

    def step(self, workers: list[Child], passed: float) -> None:
        """Go on with it; *passed* is how much of the day is over."""
        if not self.wanted:
            return
        killing = self.killing
        if passed > KILL_AT:
            self._stage("kill", workers[-1])
        if killing is not None and killing.deliveries_after is None and not self._pending(killing.worker):
            killing.deliveries_after = time.monotonic() - killing.at
            self._note(f"the deliveries of {killing.worker} were taken over after {killing.deliveries_after:.1f} s")
        if passed > FREEZE_AT and killing is not None and killing.taken_over:
            self._stage("freeze", workers[0])
        if self.freezing is not None and time.monotonic() > self.freezing.at + FREEZE_MAX_S:
            self._thaw()

    def _stage(self, what: str, worker: Child) -> None:
        if what not in self._staged:
            self._staged.add(what)
            worker.tell(do=what)

    def heard(self, child: Child, message: Message) -> None:
        """Take a message of a worker that is on the stage, or of one that settled."""
        kind, now = message["kind"], time.monotonic()
        if kind == "cornered":
            pending = self._pending(child.name)
            child.signal(signal.SIGKILL, KILLED)
            self.killing = Killing(child.name, child.process.pid, message["fence"], pending, now)
            self._note(str(self.killing))
        elif kind == "dozing":
            child.signal(signal.SIGSTOP, FROZEN)
            self._frozen = child
            self.freezing = Freezing(child.name, child.process.pid, message["fence"], message["quarter"], now)
            self._note(str(self.freezing))
        elif kind == "refused" and self.freezing is not None and message["fence"] == self.freezing.fence:
            self.freezing.refused = True
            self._note(f"the settlement of {child.name} was {self.freezing.outcome}")
        elif kind == "settled":
            self._settled(child, message)

    def _settled(self, child: Child, message: Message) -> None:
        killing, freezing = self.killing, self.freezing
        if killing is not None and killing.lease_after is None and message["fence"] > killing.fence:
            killing.lease_after, killing.lease_by = time.monotonic() - killing.at, child.name
            self._note(
                f"{child.name} took the lock over after {killing.lease_after:.1f} s with fence {message['fence']} "
                f"and settled quarter {message['quarter']}"
            )
        if freezing is not None and message["fence"] > freezing.fence:
            self._thaw()

    def _thaw(self) -> None:
        child, self._frozen = self._frozen, None
        if child is not None and self.freezing is not None:
            child.signal(signal.SIGCONT, "matching")
            child.tell(do="wake")
            self.freezing.thawed_after = time.monotonic() - self.freezing.at

    def _pending(self, worker: str) -> int:
        """Ask the server how many deliveries a worker has not acknowledged."""
        summary: Any = self._grid.client.xpending(keys.log(self._grid.namespace, "orders"), "workers")
        return sum(row["pending"] for row in summary["consumers"] if row["name"] in (worker, worker.encode()))

    def checks(self) -> list[Check]:
        """Return what the audit cannot see in the data alone."""
        if not self.wanted:
            return []
        killing, freezing = self.killing, self.freezing
        return [
            Check(
                "a dead worker's work taken over",
                killing is not None and killing.taken_over,
                "no worker was killed" if killing is None else killing.outcome,
            ),
            Check(
                "a late holder's write refused",
                freezing is not None and freezing.refused,
                "no worker was frozen" if freezing is None else freezing.outcome,
            ),
        ]

    def facts(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        facts: dict[str, Any] = {"killed": None, "frozen": None}
        if self.killing is not None:
            facts["killed"] = {**asdict(self.killing), "taken_over": self.killing.taken_over}
        if self.freezing is not None:
            facts["frozen"] = asdict(self.freezing)
        for fact in filter(None, facts.values()):
            # A reading of this machine's clock means nothing to others.
            del fact["at"]
        return facts
