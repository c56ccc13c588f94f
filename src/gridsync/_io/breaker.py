"""Fail fast while a server is away: one circuit breaker for each node.

=========  ===========================================  =======================================================
state      a call                                       becomes
=========  ===========================================  =======================================================
closed     is sent                                      *open* when the node counts as away
open       fails at once, not applied (`Rejected`)      *half-open* when somebody calls after the pause
half-open  fails at once, but for those that probe      *closed* when a connection is set up, else *open* again
=========  ===========================================  =======================================================

A node counts as away if, in some stretch of the last seconds that is about a command timeout long, enough requests
failed and they were enough of all.  Only connections that break or cannot be set up and requests that are not answered
in time count; an error reply is an answer.

What succeeds costs nothing: nobody asks the breaker before a connection has to be set up.  So an open breaker takes
the connections away (`Member.retreat`), and setting up one is the probe.  How many requests were answered is read from
the connections, when one fails.  No lock is held during input or output.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from gridsync._io.wire.faults import Exhausted, Fault
from gridsync.errors import GridsyncError, Unavailable

if TYPE_CHECKING:
    from gridsync._io.guard import Guard

_log = logging.getLogger("gridsync")
BUCKETS = 10
WINDOW_MIN_S = 10.0
WINDOW_TIMEOUTS = 3
"""The window is so many command timeouts long: a caller that is alone must be able to fail often enough."""
PATIENCE = 0.8
"""How much of a command timeout the trouble must have lasted: a restart or a failover shorter than that is bridged by
repeats, and whoever called at its beginning loses one timeout."""

ATTEMPTS_FREE = 3
ATTEMPT_PAUSE_S = 0.02
"""Once so many attempts to connect have failed one after the other, the next one of anybody begins so much later than
the one before: until the breaker opens, callers that all try again would otherwise be a storm of connections."""


class State(StrEnum):
    """What a breaker does with a call."""

    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


class Rejected(Fault):
    """Not sent, because the node's breaker is open."""

    def __init__(self, message: str) -> None:
        super().__init__(message, applied=False)


def cleanup_failed(error: BaseException) -> None:
    """Log why a clean-up failed that nobody waits for; quietly if its server is away, which the log has once."""
    level = logging.DEBUG if isinstance(error.__cause__, Rejected) else logging.WARNING
    _log.log(level, "a clean-up failed: %s", error)


@dataclass(frozen=True, slots=True)
class StateChange:
    """A breaker that opened, probes or closed again."""

    endpoint: str
    """The server, as host and port or as the path of its socket."""
    before: str
    """``closed``, ``open`` or ``half-open``."""
    after: str
    """``closed``, ``open`` or ``half-open``."""
    reason: str
    """Why, as a sentence for people."""


@dataclass(slots=True)
class _Bucket:
    at: float
    """When its first failure was seen."""
    since: float
    """Since when nothing had been answered then."""
    answered: int
    """How much had been answered then."""
    failures: int = 0


class Breaker:
    """The breaker of one node; thread-safe."""

    def __init__(self, guard: Guard, place: object) -> None:
        """Use `Guard.breaker` instead."""
        self.state: State = State.CLOSED
        self._guard = guard
        self._place = place
        self._lock = threading.Lock()
        self._buckets: deque[_Bucket] = deque(maxlen=BUCKETS)
        self._changed_at = float("-inf")
        self._away_since = 0.0
        self._reason = ""
        self._permits = 0
        self._hurried = False
        self._met = False
        self._stumbles = 0
        self._stumble: Exception = Fault("", applied=False)
        self._attempted_at = float("-inf")

    @property
    def name(self) -> str:
        """The node, for people; that of a primary has its address, which changes."""
        return str(self._place)

    def check(self) -> None:
        """Return if `admit` would let a caller pass now.

        Raises:
            Rejected: It would not.
        """
        if self.state is State.CLOSED:
            return
        with self._lock:
            if self._is_shut():
                raise self._rejected()

    def admit(self) -> float:
        """Let a caller set up a connection, as a probe if the breaker is open and the pause is over.

        Returns:
            When it begins.  Whoever was admitted tells how it ended, with `connected` or `judged`.

        Raises:
            Rejected: The breaker is open and the pause is not over, or others probe already.
            Fault: Attempts have failed, and the last one began `ATTEMPT_PAUSE_S` ago at most.
            Unavailable: As before, and the server was never met.
        """
        if self.state is State.CLOSED:
            return self._attempt()
        change = None
        with self._lock:
            if self._is_shut():
                raise self._rejected()
            if self.state is State.OPEN:
                change = self._become(State.HALF_OPEN, "a probe is sent")
                self._permits = self._guard.policy.probes
            self._permits -= 1
        self._tell(change)
        return self._guard.clock()

    def _attempt(self) -> float:
        now = self._guard.clock()
        if self._stumbles >= ATTEMPTS_FREE:
            with self._lock:
                if now < self._attempted_at + ATTEMPT_PAUSE_S:
                    text = f"{self._stumble}; {self._stumbles} attempts have failed so far"
                    # Who stumbled may be new here, and take the server for a wrong address that others have met.
                    known = self._met or not isinstance(self._stumble, Unavailable)
                    raise Fault(text, applied=False) if known else Unavailable(text)
                self._attempted_at = now
        return now

    def connected(self) -> None:
        """Take note that a connection was set up: the node is there, whatever went wrong before."""
        self._met = True
        self._stumbles = 0
        if self.state is State.CLOSED and not self._buckets:
            return
        change = None
        with self._lock:
            self._buckets.clear()
            if self.state is not State.CLOSED:
                away_s = self._guard.clock() - self._away_since
                change = self._become(State.CLOSED, f"it answers again after {away_s:.1f} s")
        self._tell(change)

    def failed(self, since: float, reason: str, count: int = 1) -> None:
        """Take note that *count* requests or connections failed for *reason*, and nothing was answered since *since*.

        Stragglers are ignored: what began before the state changed says nothing about the time since.
        """
        change = None
        with self._lock:
            if not self._guard.policy.enabled or self.state is State.OPEN or since < self._changed_at:
                return
            if self.state is State.HALF_OPEN:
                self._reason = reason
                change = self._become(State.OPEN, f"the probe failed: {reason}")
            else:
                self._count(since, count)
                if self._is_away():
                    self._reason = reason
                    change = self._become(State.OPEN, reason)
        self._tell(change)

    def hurry(self) -> None:
        """Let the next caller probe at once: the node may have come back somewhere else."""
        with self._lock:
            self._hurried = True

    def judged(self, error: BaseException, began: float) -> BaseException:
        """Take note that a connection could not be set up, and return what the caller shall see."""
        if isinstance(error, Fault | Unavailable) and not isinstance(error, Exhausted):
            with self._lock:
                self._stumbles += 1
                self._stumble = error
            self.failed(began, str(error))
            if isinstance(error, Unavailable) or self.state is State.CLOSED:
                return error
            with self._lock:
                return self._rejected()
        if isinstance(error, GridsyncError):
            self.connected()  # it answers, if only to refuse us
        else:
            with self._lock:  # it was interrupted, or never left this machine: somebody else may probe
                self._permits = min(self._permits + 1, self._guard.policy.probes)
        return error

    def _count(self, since: float, count: int) -> None:
        now = self._guard.clock()
        answered = self._answered()
        if not self._buckets or now - self._buckets[-1].at >= self._window_s() / BUCKETS:
            self._buckets.append(_Bucket(now, since, answered))
        bucket = self._buckets[-1]
        if answered == bucket.answered:
            bucket.since = min(bucket.since, since)
        bucket.failures += count

    def _is_away(self) -> bool:
        """Tell whether some stretch that ends now is long enough, with enough failures, and a large enough share."""
        policy, now = self._guard.policy, self._guard.clock()
        answered, failures = self._answered(), 0
        for bucket in reversed(self._buckets):
            if now - bucket.at > self._window_s():
                break
            failures += bucket.failures
            calls = failures + max(0, answered - bucket.answered)
            if (
                now - bucket.since >= PATIENCE * self._guard.timeout_s
                and calls >= policy.min_calls
                and failures >= policy.failure_rate * calls
            ):
                self._away_since = bucket.since
                return True
        return False

    def _is_shut(self) -> bool:
        if self.state is State.OPEN:
            return self._probe_in() > 0
        return self.state is State.HALF_OPEN and not self._permits

    def _answered(self) -> int:
        return sum(member.answered for member in self._guard.members(self._place))

    def _window_s(self) -> float:
        return max(WINDOW_MIN_S, WINDOW_TIMEOUTS * self._guard.timeout_s)

    def _probe_in(self) -> float:
        if self._hurried:
            return 0.0
        return self._changed_at + self._guard.policy.pause_s - self._guard.clock()

    def _rejected(self) -> Rejected:
        if self.state is State.HALF_OPEN:
            when = "a probe is under way"
        else:
            when = f"the next probe may leave in {max(0.0, self._probe_in()):.1f} s"
        away_s = self._guard.clock() - self._away_since
        return Rejected(f"{self.name} has been away for {away_s:.1f} s ({self._reason}); calls fail at once, {when}")

    def _become(self, state: State, reason: str) -> StateChange:
        change = StateChange(self.name, str(self.state), str(state), reason)
        self.state = state
        self._hurried = False
        self._changed_at = self._guard.clock()
        return change

    def _tell(self, change: StateChange | None) -> None:
        """Let everybody know, with no lock held."""
        if change is None:
            return
        if self._guard.tally is not None:
            self._guard.tally(f"breaker.{change.after}", change.endpoint)
        if change.after == State.OPEN:
            for member in self._guard.members(self._place):
                member.retreat()
        if State.CLOSED in (change.before, change.after):
            away = change.after == State.OPEN
            now, doing = ("away", "calls fail at once") if away else ("back", "calls are sent again")
            _log.warning("%s is %s: %s; %s", change.endpoint, now, change.reason, doing)
        else:
            _log.debug("%s: %s", change.endpoint, change.reason)
        for listener in list(self._guard.listeners):
            try:
                listener(change)
            except Exception:  # noqa: BLE001 - a listener's mistake must not cost a call its reply
                _log.exception("a listener for state changes failed")
