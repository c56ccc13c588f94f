"""A lease that was granted: how long it may be counted on, when to renew it, and when nobody is left who needs it.

The same for everything that is held for a time: a lock, one side of a reader-writer lock, permits of a semaphore.
Its states::

    held ──released, detached──▶ ended
      └──not renewed in time, not ours any more, `max_hold` is over, nobody left──▶ lost

Invariants: `Hold.deadline` comes before the server's, because it is counted from before the request left, or from not
later than the hand-over.  What was handed over begins with a short term; its first renewal makes it a whole ttl.  A
hold that has ended is never renewed again.
"""

from __future__ import annotations

import logging
from functools import partial
from typing import TYPE_CHECKING, Any

from gridsync._io import Category, Command
from gridsync._io.keys import PROCESS_CHARS, wake_channel
from gridsync.errors import LeaseLost

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

    from gridsync._io import IO, Arg, Listening, Scope, Script, Signal
    from gridsync.locks._spec import Spec

_log = logging.getLogger("gridsync")
MARGIN = 0.99
MARGIN_S = 0.002
"""The local deadline: a hundredth and two milliseconds before the server's, counted from before the request left."""
RENEWALS = 3
"""A lease is renewed when a third of it is over, so two renewals may fail."""
JITTER = 0.2
"""Processes that took their leases together renew up to a fifth of that third earlier, each by an amount of its own."""
LISTEN_S = 0.25
"""How old a lease must be before it listens for its revocation; until then its first renewal tells."""
REVOKED = "revoked:"
"""What stands before the owner in the message of a revocation, which its reason follows."""
RETRY = 20
"""A failed renewal is tried again after this fraction of the lease."""
_SAY = {shard: Command(word, Category.IDEMPOTENT, (word,)) for shard, word in ((True, "SPUBLISH"), (False, "PUBLISH"))}


class Hold:
    """One acquisition that was granted: what the lease shows and the watchdog renews."""

    __slots__ = (
        "_heard",
        "_io",
        "_listener",
        "_signal",
        "_term_s",
        "asked",
        "at_end",
        "deadline",
        "due",
        "ended",
        "fence",
        "forsaken",
        "ghost",
        "handles",
        "last",
        "leftover",
        "owner",
        "parted",
        "process",
        "renew_at",
        "scopes",
        "since",
        "spec",
        "unconfirmed",
        "why_lost",
    )

    def __init__(
        self,
        io: IO,
        spec: Spec,
        owner: str,
        fence: int,
        sent: float,
        *,
        term_s: float | None = None,
        ghost: bool = False,
    ) -> None:
        """Begin a lease.

        Args:
            io: Where it lives.
            spec: What is held.
            owner: The acquisition's identifier.
            fence: Its number.
            sent: When the request that was granted left, or earlier.
            term_s: How long the lease runs until its first renewal; the ttl of *spec* by default.
            ghost: Whether a request of this acquisition may still be on its way, to arrive after the release.
        """
        self._io = io
        self.spec: Spec = spec
        self.owner: str = owner
        self.process: str = owner[:PROCESS_CHARS]
        """Which process renews it."""
        self.fence: int = fence
        self.ended: bool = False
        self.unconfirmed: bool = False
        self.asked: int = 0
        """How many times it was asked that it be released."""
        self.parted: str = "was released already, or its grid was closed"
        """How it ended if it was not lost."""
        self.leftover: bool = False
        """Whether it was lost though the server may still count it as ours."""
        self.why_lost: str = ""
        self.handles: set[int] = set()
        """The lease objects through which it can be released; more than one where it was entered again."""
        self.forsaken: bool = False
        """Whether the last of them was dropped."""
        self.scopes: tuple[Scope, ...] = ()
        """The blocks that must not go on after a loss."""
        self.at_end: Callable[[], None] | None = None
        """Called when it is released or lost."""
        self._signal: Signal | None = None
        self._listener: Listening | None = None
        self._heard = False
        self.ghost: bool = ghost
        self.last: float = sent + spec.max_hold_s
        self._renewed(sent, spec.ttl_ms / 1000 if term_s is None else term_s)
        self.due: float = min(self.renew_at, sent + LISTEN_S)
        if spec.on_lost is not None:
            self.signal.on_set(self._tell)
        self._watch()
        self.since: float = io.monotonic()

    def _watch(self) -> None:
        self._io.keep(self)

    def _unwatch(self) -> None:
        self._io.unkeep(self)

    def _renewed(self, sent: float, term_s: float) -> None:
        self._term_s = term_s
        self.deadline: float = min(sent + term_s * MARGIN - MARGIN_S, self.last)
        # One factor for all leases of a process, so that those which were taken together are still renewed together.
        early = ord(self.process[-1]) % 32 / 32 * JITTER
        self.renew_at: float = min(sent + term_s / RENEWALS * (1 - early), self.deadline)
        self.due = self.renew_at

    @property
    def signal(self) -> Signal:
        """The switch that is thrown when the lease is lost."""
        if self._signal is None:
            self._signal = self._io.signal()
            if self.why_lost:
                self._signal.set()
        return self._signal

    def _tell(self) -> None:
        on_lost = self.spec.on_lost
        if on_lost is not None:
            self._io.notify(partial(on_lost, self.error()))

    def remaining(self) -> float:
        """Return the seconds for which this process may count on the lease; 0 when it ended."""
        return 0.0 if self.ended else max(0.0, self.deadline - self._io.monotonic())

    def check(self) -> None:
        """Raise `LeaseLost` unless the lease is surely still ours."""
        self.disown()
        if not self.ended and self._io.monotonic() >= self.deadline:
            self._overdue()
        if self.why_lost:
            raise self.error()
        if self.ended:
            message = f"the lease of {self.spec} {self.parted}"
            raise LeaseLost(message, name=self.spec.name, fence=self.fence, reason=f"it {self.parted}")

    @property
    def inherited(self) -> bool:
        """Whether this is a copy in the child of a fork."""
        return self._io.process_name != self.process

    def disown(self) -> None:
        """Lose the lease if this is a copy of it in the child of a fork: it belongs to the parent, who renews it."""
        if not self.ended and self.inherited:
            self.lose("it belongs to the process that took it, and this is a fork of that")

    def lose(self, why: str) -> None:
        """Note that the lease is gone, and tell whoever works under it; the first reason stays."""
        if self.ended:
            return
        self.why_lost = why
        self.end()
        self._io.tally("lock.lost")
        for scope in self.scopes:
            scope.cancel()
        if self._signal is not None:
            self._signal.set()

    def end(self) -> None:
        """Renew no more, and listen no more."""
        self.ended = True
        self._unwatch()
        if self._listener is not None:
            self._listener.close()
        if self.at_end is not None:
            self.at_end()

    def _overdue(self, cause: object = None) -> None:
        if self.deadline >= self.last:
            self.leftover = True
            self.lose(f"it was held for max_hold, {self.spec.max_hold_s:g} s")
        else:
            self.lose("it was not renewed in time" if cause is None else f"it was not renewed in time ({cause})")

    def error(self) -> LeaseLost:
        """Return the exception that tells of the loss."""
        return LeaseLost(
            f"the lease of {self.spec} (fence {self.fence}) is lost: {self.why_lost}; "
            f"stop, and let the fence protect what you wrote",
            name=self.spec.name,
            fence=self.fence,
            reason=self.why_lost,
        )

    def farewell(self, *, ghost: bool) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        """Return the script call that gives it back, for the watchdog."""
        call, keys, args = self.spec.giving_back(self.owner, ghost=ghost)
        return call.whole(keys, args)

    def renewal(self) -> tuple[Script, Sequence[str], Sequence[Arg]]:
        """Return the script call that renews the lease; it answers 1, or 0 when it is not ours any more."""
        return self.spec.renew, self.spec.renew_keys, (self.owner, self.spec.ttl_text)

    async def extend(self) -> None:
        """Renew now, and take the outcome."""
        sent = self._io.monotonic()
        reply = await self._io.run(*self.renewal())
        self.settle(reply, sent)

    def let_go(self, timeout: float | None = None) -> Coroutine[Any, Any, int]:
        """Give it back, whoever believes what; the code of the release script."""
        return let_go(self._io, self.spec, self.owner, ghost=self.ghost, timeout=timeout)

    def wake_heirs(self, messages: Sequence[bytes]) -> None:
        """Wake the waiters of this process of whom a release's reply tells."""
        for message in messages:
            self._io.wake(wake_channel(self.spec.wake, self.owner), message)

    # -- for the watchdog -------------------------------------------------------------------------------------------

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for a renewal while there is time and somebody who needs it; once nobody does, for a release."""
        if self.ended:
            return None
        if why := self._orphaned():
            self.lose(why)
            _log.warning("the lease of %s (fence %d) was never released: %s", self.spec, self.fence, why)
            return self.farewell(ghost=self.ghost)
        if now >= self.deadline or not (self._hears() or now >= self.renew_at):
            return None
        return self.renewal()

    def _hears(self) -> bool:
        """See that a revocation is heard; true when it begins to be: what was said before must be asked for."""
        listener, heard = self._listener, self._heard
        if listener is None:
            # Not at the beginning: most leases are short, and need no subscription.
            channel = wake_channel(self.spec.wake, self.owner)
            listener = self._listener = self._io.listen(f"{REVOKED}{self.owner}", channel, self._revoked)
            if self.ended:
                listener.close()
        self._heard = listener.ready()
        return self._heard and not heard

    def _revoked(self, reason: str) -> None:
        self.lose(f"it was revoked: {reason}")

    def _orphaned(self) -> str:
        if self.forsaken:
            return "nothing refers to it any more, so nobody can release it; it is given back"
        if not all(scope.alive() for scope in self.scopes):
            return "the task or thread inside its block has ended without leaving it; it is given back"
        if self._io.over():
            return "its event loop has ended, so nobody can release it; it is given back"
        return ""

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Take a renewal's outcome; the first "not yours" is final."""
        if self.ended:
            if isinstance(reply, list):
                self._io.notify(lambda: self.wake_heirs(reply[1:]))
            return False
        if reply == 1:
            self._renewed(sent, self.spec.ttl_ms / 1000)
            return True
        if reply == 0:
            self.lose("it ended on the server, or was taken away")
            return False
        now = self._io.monotonic()
        if now >= self.deadline:
            self._overdue(reply)
            return False
        if reply is None:
            # Not subscribed yet: look again, less and less often.
            self.due = self.renew_at if self._heard else min(max(now + LISTEN_S, 2 * now - self.since), self.renew_at)
            return True
        self._heard = False
        self.due = min(now + self._term_s / RETRY, self.deadline)
        return True


def let_go(io: IO, spec: Spec, owner: str, *, ghost: bool, timeout: float | None = None) -> Coroutine[Any, Any, int]:
    """Run the release script, wake whom it leaves to us, and return its code."""
    ours = io.process_name == owner[:PROCESS_CHARS]
    # A coroutine, and not one more that awaits it: each costs every lock a step, there and back.
    return give_back(io, spec, owner, ghost=ghost, ours=ours, timeout=timeout)


async def give_back(io: IO, spec: Spec, owner: str, *, ghost: bool, ours: bool, timeout: float | None = None) -> int:
    """As `let_go`, where it is known whether *owner* is *ours*, and so are the waiters whom it leaves to us."""
    code, *messages = await io.run(*spec.giving_back(owner, ghost=ghost), timeout=timeout)
    channel = wake_channel(spec.wake, owner)
    for message in messages:
        if ours:
            io.wake(channel, message)
        else:
            # A lease of another process, taken away by an operator or resumed here: its waiters are not ours to wake.
            await io.run(_SAY[spec.wake.startswith("{")], (channel,), (message,), timeout=timeout)
    return int(code)
