"""What protects servers from one grid, and the grid from servers that are away: breakers and a retry budget.

It travels with the grid's endpoint, so that whatever connects there asks the same breaker and counts into one budget.
"""

from __future__ import annotations

import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeAlias
from weakref import WeakSet, WeakValueDictionary

from gridsync._io.breaker import Breaker, State, StateChange
from gridsync._io.budget import Budget

if TYPE_CHECKING:
    from collections.abc import Callable

ASKING_MAX = 100
"""How many threads may wait for the credential provider of one grid; as many as connect at once, and then some."""


@dataclass(frozen=True, slots=True)
class Policy:
    """When a breaker opens, and how much may be repeated; the settings of the same names say more."""

    enabled: bool = True
    failure_rate: float = 0.5
    min_calls: int = 3
    pause_s: float = 1.0
    probes: int = 1
    """How many connections may be tried at once while half-open."""
    retry_ratio: float = 0.1
    retry_burst: int = 1000


Listeners: TypeAlias = "list[Callable[[StateChange], None]]"


class Member(Protocol):
    """Something that holds connections to a node: a `Pool`, or an asyncio `Node`."""

    @property
    def endpoint(self) -> object:
        """Where the connections go to: equal for all that lead to one node; as text it is the node's name."""

    @property
    def answered(self) -> int:
        """How many requests were answered so far."""

    def retreat(self) -> None:
        """Give up every connection: the next request must set up a new one, and so ask the breaker."""


class Guard:
    """The breakers of all nodes that one grid talks to, and its retry budget; thread-safe."""

    def __init__(self, policy: Policy | None = None, *, clock: Callable[[], float] = time.monotonic) -> None:
        """Begin with every node present."""
        self.policy: Policy = policy or Policy()
        self.timeout_s: float = 3.0
        """The command timeout."""
        self.clock = clock
        self.listeners: Listeners = []
        self.tally: Callable[[str, str], None] | None = None
        """Counts what happened to a node."""
        # By place, not by its text: that of a primary changes with the address.
        self._breakers: WeakValueDictionary[object, Breaker] = WeakValueDictionary()
        self._members: WeakSet[Member] = WeakSet()
        self._lock = threading.Lock()
        self.asking: threading.Semaphore = threading.Semaphore(ASKING_MAX)
        """Held by each thread that waits for the credential provider."""
        policy = self.policy
        self.budget: Budget = Budget(ratio=policy.retry_ratio, burst=policy.retry_burst, answered=self.answered)

    def serve(self, timeout_s: float, tally: Callable[[str, str], None]) -> None:
        """Learn a driver's command timeout, and where it counts."""
        self.timeout_s, self.tally = timeout_s, tally

    def govern(self, policy: Policy, listeners: Listeners) -> None:
        """Follow *policy* from now on, and tell *listeners*, a list that may grow."""
        self.policy, self.listeners = policy, listeners
        self.budget.ratio, self.budget.burst = policy.retry_ratio, policy.retry_burst
        self.budget.reset()

    def breaker(self, member: Member) -> Breaker:
        """Return the breaker of the node that *member* has connections to; the member keeps it alive."""
        place = member.endpoint
        with self._lock:
            self._members.add(member)
            found = self._breakers.get(place)
            if found is None:
                found = self._breakers[place] = Breaker(self, place)
            return found

    def members(self, place: object) -> list[Member]:
        """Return whatever has connections to the node at *place*."""
        return [member for member in self._all() if member.endpoint == place]

    def answered(self) -> int:
        """Return how many requests all nodes have answered."""
        return sum(member.answered for member in self._all())

    def states(self) -> dict[str, State]:
        """Return the state of every node's breaker."""
        with self._lock:
            return {breaker.name: breaker.state for breaker in self._breakers.values()}

    def _all(self) -> list[Member]:
        with self._lock:
            return list(self._members)

    def after_fork(self) -> None:
        """Forget what the parent knew; its threads may have held a lock."""
        self._lock = threading.Lock()
        self.asking = threading.Semaphore(ASKING_MAX)
        self._breakers = WeakValueDictionary()
        self.budget.reset()
