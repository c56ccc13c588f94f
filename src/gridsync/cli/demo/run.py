"""The parent: starts the processes, opens and closes quarters, kills a worker, and gathers what the audit needs.

It is the market's clock.  A quarter opens when its time has come and not more than `AHEAD_MAX` quarters wait to be
settled, so a slow machine gets a shorter day, not a longer queue.  Its gate closes when every poster has said that it
is done.
"""

from __future__ import annotations

import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast

from gridsync.cli.demo import keys
from gridsync.cli.demo.events import GateClosed
from gridsync.cli.demo.link import LINGER_S, Config
from gridsync.cli.demo.posters import Posted
from gridsync.cli.demo.profiles import Moment, days

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.grid import Grid
    from gridsync.streams import EventStore

ROLES: Final = {"meter": 2, "trader": 2, "worker": 3}
QUARTERS_A_SECOND: Final = 3.6
LIMITS: Final = ("20 per 0.1 seconds", "200/second", "1000000/hour")
"""The last one only keeps the log of admissions until the audit."""
LEASE_TTL_S: Final = 1.5
CLAIM_IDLE_S: Final = 1.0
AHEAD_MAX: Final = 12
KILL_AT: Final = 0.4
"""Which part of the day has passed when the worker is killed."""
START_MAX_S: Final = 30.0
SETTLE_MAX_S: Final = 10.0
"""How long the last quarters may take after the market has closed."""
END_MAX_S: Final = 8.0
TICK_S: Final = 0.05


class DemoFailed(Exception):
    """A process of the demo ended on its own or did not get ready; the audit has nothing to say then."""


@dataclass(slots=True)
class Child:
    """A process and what it said last."""

    role: str
    name: str
    process: subprocess.Popen[str]
    stdin: IO[str]
    errors: IO[bytes]
    state: str = "starting"
    ready: bool = False
    ended: bool = False
    facts: dict[str, Any] = field(default_factory=dict)
    """Its running counts."""
    final: dict[str, Any] | None = None

    def tell(self, **message: object) -> None:
        """Send it a message; one that is gone will be noticed elsewhere."""
        with suppress(BrokenPipeError, ValueError):
            self.stdin.write(json.dumps(message) + "\n")
            self.stdin.flush()


@dataclass(slots=True)
class Killing:
    """The death of a worker and what became of its work."""

    worker: str
    pid: int
    fence: int
    quarter: int
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
    def outcome(self) -> str:
        """What became of its work."""
        lease, deliveries = self.lease_after, self.deliveries_after
        lock = "lock by nobody" if lease is None else f"lock by {self.lease_by} after {lease:.1f} s"
        work = "not" if deliveries is None else f"after {deliveries:.1f} s"
        return f"{lock}, {self.pending} deliveries {work}"

    def facts(self) -> dict[str, Any]:
        """Return it for ``--json``."""
        facts = {**asdict(self), "taken_over": self.taken_over}
        del facts["at"]
        return facts

    @property
    def taken_over(self) -> bool:
        """Whether others went on with all of it."""
        return self.lease_after is not None and self.deliveries_after is not None


class View(Protocol):
    """Whoever shows it."""

    def update(self, market: Market) -> None:
        """Look at the market, some 20 times a second."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line of its own."""


class Market:
    """One run: the processes and where they stand."""

    def __init__(self, grid: Grid, url: str, *, seconds: float, seed: int, kill: bool) -> None:
        """Prepare; nothing is started."""
        self.seed = seed
        self.seconds = seconds
        self.quarters = max(1, round(seconds * QUARTERS_A_SECOND))
        self.calendar: list[Moment] = days(seed, self.quarters)
        self.server = _server(grid)
        self.children: list[Child] = []
        self.opened = self.closed = self.settled = 0
        self.orders = 0
        self.wh = self.nano_eur = 0
        self.killing: Killing | None = None
        self.began = self.ended = 0.0
        self._grid = grid
        self._url = url
        self._orders: EventStore[Any] = grid.events("orders", Posted)
        self._kill = kill
        self._doomed: Child | None = None
        self._inbox: queue.Queue[tuple[Child, dict[str, Any] | None]] = queue.Queue(10_000)
        self._done: dict[int, list[int]] = {}
        """Quarter → how many orders each poster that is done with it had."""

    # What the view shows.

    @property
    def moment(self) -> Moment:
        """The quarter that opened last."""
        return self.calendar[max(0, self.opened - 1)]

    @property
    def elapsed(self) -> float:
        """Seconds since the market opened."""
        return (self.ended or time.monotonic()) - self.began if self.began else 0.0

    @property
    def denied(self) -> int:
        """Posts that the limiter sent back."""
        return sum(child.facts.get("denied", 0) for child in self.children)

    @property
    def posted(self) -> int:
        """Orders acknowledged so far."""
        return sum(child.facts.get("total", 0) for child in self.children)

    @property
    def booked(self) -> int:
        """Deliveries handled so far."""
        return sum(child.facts.get("booked", 0) for child in self.children)

    @property
    def again(self) -> int:
        """Deliveries that came again and had their effect already."""
        return sum(child.facts.get("again", 0) for child in self.children)

    def of(self, role: str) -> list[Child]:
        """Return the processes of a role."""
        return [child for child in self.children if child.role == role]

    # What happens.

    def run(self, view: View) -> None:
        """Hold the market from its opening to its last settlement, and end every process.

        Raises:
            DemoFailed: A process ended that should not have.
        """
        try:
            self._start()
            self._until(view, lambda: all(child.ready for child in self.children), START_MAX_S)
            if not all(child.ready for child in self.children):
                raise DemoFailed(f"after {START_MAX_S:g} s not all processes were ready{self._last_words()}")
            self.began = time.monotonic()
            view.note(f"{len(self.children)} processes ready on {self.server}")
            self._until(view, self._over, self.seconds + SETTLE_MAX_S)
            self.ended = time.monotonic()
            for child in self.children:
                child.tell(do="stop")
            self._until(view, lambda: all(child.ended for child in self.children), END_MAX_S)
            if late := [child.name for child in self.children if not child.ended]:
                raise DemoFailed(f"{', '.join(late)} did not end within {END_MAX_S:g} s{self._last_words()}")
        finally:
            self._end()

    def _start(self) -> None:
        for role, count in ROLES.items():
            for index in range(count):
                config = Config(
                    role=role,
                    name=f"{role}-{index + 1}",
                    url=self._url,
                    namespace=self._grid.namespace,
                    seed=self.seed,
                    quarters=self.quarters,
                    share=(index, count),
                    limits=LIMITS,
                    lease_ttl=LEASE_TTL_S,
                    claim_idle=CLAIM_IDLE_S,
                    sweep=self._grid.embedded is None,
                )
                self.children.append(self._spawn(config))

    def _spawn(self, config: Config) -> Child:
        errors = tempfile.TemporaryFile()  # noqa: SIM115 - it lives as long as the child
        process = subprocess.Popen(
            [sys.executable, "-m", "gridsync.cli.demo.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            # Ctrl-C is for the parent alone; it ends the others in good order.
            process_group=0,
        )
        child = Child(config.role, config.name, process, cast("IO[str]", process.stdin), errors)
        child.tell(**asdict(config))
        threading.Thread(target=self._read, args=(child,), daemon=True, name=config.name).start()
        return child

    def _read(self, child: Child) -> None:
        for line in cast("IO[str]", child.process.stdout):
            self._inbox.put((child, json.loads(line)))
        child.process.wait()
        self._inbox.put((child, None))

    def _until(self, view: View, done: Callable[[], bool], limit_s: float) -> None:
        """Take messages and move on until *done* or the time is over."""
        ends = time.monotonic() + limit_s
        while not done() and time.monotonic() < ends:
            try:
                child, message = self._inbox.get(timeout=TICK_S)
            except queue.Empty:
                pass
            else:
                self._heard(view, child, message)
            if self.began and not self.ended:
                self._move_on(view)
            view.update(self)

    def _over(self) -> bool:
        killed = self.killing is not None or not self._kill or self.opened == len(self.calendar)
        return self.elapsed >= self.seconds and self.settled >= self.opened and killed

    def _heard(self, view: View, child: Child, message: dict[str, Any] | None) -> None:
        kind = message["kind"] if message else None
        if message is None:
            self._gone(child)
        elif kind == "ready":
            child.ready, child.state = True, "ready"
        elif kind == "posted":
            child.facts |= {"total": message["total"], "denied": message["denied"]}
            child.state = "posting"
            self._done.setdefault(message["quarter"], []).append(message["orders"])
        elif kind == "worked":
            child.facts |= {"booked": message["booked"], "again": message["again"]}
            child.state = "matching"
        elif kind == "settled":
            self._heard_settled(view, child, message)
        elif kind == "cornered":
            self._strike(view, child, message)
        elif kind == "final":
            child.final = message

    def _heard_settled(self, view: View, child: Child, message: dict[str, Any]) -> None:
        self.settled = max(self.settled, message["quarter"] + 1)
        self.wh += message["wh"]
        self.nano_eur += message["nano_eur"]
        child.facts["settled"] = child.facts.get("settled", 0) + 1
        killing = self.killing
        if killing is not None and killing.lease_after is None and message["fence"] > killing.fence:
            killing.lease_after, killing.lease_by = time.monotonic() - killing.at, child.name
            view.note(
                f"{child.name} took the lock over after {killing.lease_after:.1f} s with fence {message['fence']} "
                f"and settled quarter {message['quarter']}"
            )

    def _gone(self, child: Child) -> None:
        child.ended = True
        if child.state == "killed" or child.final is not None:
            return
        raise DemoFailed(f"{child.name} ended with code {child.process.returncode}{self._last_words()}")

    def _last_words(self) -> str:
        told = ""
        for child in self.children:
            child.errors.seek(0)
            if text := child.errors.read().decode(errors="replace").strip():
                told += f"\n--- {child.name}:\n{text[-2000:]}"
        return told

    def _move_on(self, view: View) -> None:
        if self._kill and self.killing is None:
            # Whoever is to die must die at work: the market stays open until then, but not for ever.
            last = len(self.calendar)
        else:
            last = self.quarters if self.elapsed < self.seconds else 0
        due = min(last, int(self.elapsed * QUARTERS_A_SECOND) + 1)
        if self.opened < due and self.opened - self.settled < AHEAD_MAX:
            for role in ("meter", "trader"):
                for child in self.of(role):
                    child.tell(do="open", quarter=self.opened)
            self.opened += 1
        posters = ROLES["meter"] + ROLES["trader"]
        while len(done := self._done.get(self.closed, [])) == posters:
            gate = GateClosed(quarter=self.closed, orders=sum(done))
            self._orders.append("gate", gate, expected_version=self.closed, event_ids=f"gate@{self.closed:04}")
            self.orders += gate.orders
            self.closed += 1
        if self._kill and self._doomed is None and self.elapsed > self.seconds * KILL_AT and self.settled:
            self._doomed = self.of("worker")[-1]
            self._doomed.tell(do="doom")
        killing = self.killing
        if killing is not None and killing.deliveries_after is None and not self._pending(killing.worker):
            killing.deliveries_after = time.monotonic() - killing.at
            view.note(f"its deliveries were taken over after {killing.deliveries_after:.1f} s")

    def _strike(self, view: View, child: Child, message: dict[str, Any]) -> None:
        pending = self._pending(child.name)
        os.kill(child.process.pid, signal.SIGKILL)
        child.state = "killed"
        self.killing = Killing(
            child.name, child.process.pid, message["fence"], message["quarter"], pending, time.monotonic()
        )
        view.note(str(self.killing))

    def _pending(self, worker: str) -> int:
        """Ask the server how many deliveries a worker has not acknowledged."""
        summary: Any = self._grid.client.xpending(keys.log(self._grid.namespace, "orders"), "workers")
        return sum(row["pending"] for row in summary["consumers"] if row["name"] in (worker, worker.encode()))

    def _end(self) -> None:
        """End every process: the pipes close, and what does not go by itself is killed."""
        for child in self.children:
            with suppress(BrokenPipeError):
                child.stdin.close()
        ends = time.monotonic() + LINGER_S + 1
        for child in self.children:
            try:
                child.process.wait(max(0.0, ends - time.monotonic()))
            except subprocess.TimeoutExpired:
                child.process.kill()
                child.process.wait()
            child.errors.close()


def _server(grid: Grid) -> str:
    """Say which server answers: ``redis 8.2.3 (embedded, …)``."""
    facts: Any = grid.client.info("server")
    kind = "valkey" if "valkey_version" in facts else "redis"
    version = facts.get("valkey_version") or facts["redis_version"]
    if grid.embedded is not None:
        return f"{kind} {version}, embedded, from {grid.embedded.binary.source}"
    return f"{kind} {version}"
