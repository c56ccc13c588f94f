"""Why and when: the decisions of the exclusive lock, once for sync and asyncio.

One acquisition has one owner id, chosen before the first request leaves.  Its states::

    asking ──granted──▶ held ──release──▶ released
      │ ▲                 └──not renewed in time, or not ours any more──▶ lost
      │ └─ woken, or time to show that we live
      └──timeout, cancelled──▶ abandoned   (the release script: leaves the queue, passes on what was just handed over)

Failure points.  *A lost reply to acquire*: asking again with the same owner is granted with the same fence.  *A lost
reply to release*: the repeat answers 2, which counts as released.  *A caller cancelled while its acquire is under
way*: an abandon follows on the same connection, so it runs after it; should the connection break between the two, the
lease's own end bounds the damage.  *A waiter dies*: it stops counting as alive, or does not claim what it was handed.
*The holder dies*: the head of the queue wakes when the holder's lease ends.

Invariant: at most one owner in the state hash, and the fence rises with every new owner.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from gridsync._io import load
from gridsync._io.keys import PROCESS_CHARS, wake_channel, wake_prefix
from gridsync._io.keys import lock as lock_keys
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, OutcomeUnknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io import IO, Arg, Script, Signal

ACQUIRE = load("gridsync.locks", "acquire")
RELEASE = load("gridsync.locks", "release")
RENEW = load("gridsync.locks", "renew")

ALIVE_MS = 10_000
"""How long a waiter counts as alive after each sign of life; it gives one three times as often."""
CLAIM_MS = 1_000
"""How long a waiter has to claim what it was handed: what a dead head of the queue costs the others."""
FENCE_TTL_MS = 7 * 24 * 3600 * 1000
"""How long the last fence is remembered.  After that the server's clock alone makes the next one larger."""
ABANDON_S = 1.0
"""How long an abandon may take; without it the lease's end does the same."""
MARGIN = 0.99
MARGIN_S = 0.002
"""The local deadline: a hundredth and two milliseconds before the server's, counted from before the request left."""
RENEWALS = 3
"""A lease is renewed when a third of it is over, so two renewals may fail."""
RETRY = 20
"""A failed renewal is tried again after this fraction of the lease."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What a lock is: its name, its keys, how long its leases run."""

    name: str
    namespace: str
    ttl_ms: int
    ttl_text: str
    keys: tuple[str, str, str, str]
    acquire_args: tuple[Arg, ...]
    release_args: tuple[Arg, ...]

    @classmethod
    def of(cls, namespace: str, name: str, ttl_ms: int) -> Spec:
        """Work out the keys."""
        claim_ms, wake = min(CLAIM_MS, ttl_ms), wake_prefix(namespace)
        claim, fence_ttl = str(claim_ms), str(FENCE_TTL_MS)
        acquire_args, release_args = (fence_ttl, claim, wake), (claim, fence_ttl, wake, "0")
        return cls(name, namespace, ttl_ms, str(ttl_ms), lock_keys(namespace, name), acquire_args, release_args)


class Hold:
    """One acquisition that was granted: what the lease shows and the watchdog renews."""

    __slots__ = (
        "_io",
        "_signal",
        "deadline",
        "due",
        "ended",
        "fence",
        "owner",
        "since",
        "spec",
        "unconfirmed",
        "why_lost",
    )

    def __init__(self, io: IO, spec: Spec, owner: str, fence: int, sent: float) -> None:
        """*sent* is when the request that was granted left, or earlier."""
        self._io = io
        self.spec = spec
        self.owner = owner
        self.fence = fence
        self.ended = False
        self.unconfirmed = False
        self.why_lost = ""
        self._signal: Signal | None = None
        self._renewed(sent)
        io.keep(self)
        self.since = io.monotonic()

    def _renewed(self, sent: float) -> None:
        ttl = self.spec.ttl_ms / 1000
        self.deadline = sent + ttl * MARGIN - MARGIN_S
        self.due = sent + ttl / RENEWALS

    @property
    def signal(self) -> Signal:
        """The switch that is thrown when the lease is lost."""
        if self._signal is None:
            self._signal = self._io.signal()
            if self.why_lost:
                self._signal.set()
        return self._signal

    def remaining(self) -> float:
        """Return the seconds for which this process may count on the lease; 0 when it ended."""
        return 0.0 if self.ended else max(0.0, self.deadline - self._io.monotonic())

    def check(self) -> None:
        """Raise `LeaseLost` unless the lease is surely still ours."""
        self.disown()
        if not self.ended and self._io.monotonic() >= self.deadline:
            self.lose("it was not renewed in time")
        if self.why_lost:
            raise self.error()
        if self.ended:
            message = f"the lease of lock {self.spec.name!r} was released already, or its grid was closed"
            raise LeaseLost(message, name=self.spec.name, fence=self.fence)

    def disown(self) -> None:
        """Lose the lease if this is a copy of it in the child of a fork: it belongs to the parent, who renews it."""
        if not self.ended and self._io.token()[:PROCESS_CHARS] != self.owner[:PROCESS_CHARS]:
            self.lose("it belongs to the process that took it, and this is a fork of that")

    def lose(self, why: str) -> None:
        """Note that the lease is gone; the first reason stays."""
        if self.ended:
            return
        self.ended = True
        self.why_lost = why
        self._io.unkeep(self)
        self._io.tally("lock.lost")
        if self._signal is not None:
            self._signal.set()

    def error(self) -> LeaseLost:
        """Return the exception that tells of the loss."""
        return LeaseLost(
            f"the lease of lock {self.spec.name!r} (fence {self.fence}) is lost: {self.why_lost}; "
            f"stop, and let the fence protect what you wrote",
            name=self.spec.name,
            fence=self.fence,
        )

    # -- for the watchdog -------------------------------------------------------------------------------------------

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[Arg]] | None:
        """Ask for a renewal while there is still time."""
        if self.ended or now >= self.deadline:
            return None
        return RENEW, self.spec.keys[:1], (self.owner, self.spec.ttl_text)

    def settle(self, reply: Any, sent: float) -> bool:  # noqa: ANN401 - a reply or an exception
        """Take a renewal's outcome; the first "not yours" is final."""
        if self.ended:
            return False
        if reply == 1:
            self._renewed(sent)
            return True
        if reply == 0:
            self.lose("it ended on the server, or was taken away")
            return False
        now = self._io.monotonic()
        if now >= self.deadline:
            self.lose(f"it was not renewed in time ({reply})" if reply is not None else "it was not renewed in time")
            return False
        self.due = min(now + self.spec.ttl_ms / 1000 / RETRY, self.deadline)
        return True


async def acquire(io: IO, spec: Spec, timeout: float | None) -> Hold | None:
    """Take the lock within *timeout* seconds (``None``: for ever, 0: one try); ``None`` if 0 and it is held.

    Raises:
        LockTimeout: Someone else still held it after *timeout* seconds.
    """
    owner = io.token()
    sent = io.monotonic()
    try:
        reply = await io.run(ACQUIRE, spec.keys, (owner, spec.ttl_text, "0", *spec.acquire_args))
        if reply[0] == 1:
            hold = Hold(io, spec, owner, reply[1], sent)
            io.tally("lock.wait", "", hold.since - sent)
            return hold
        if timeout == 0:
            return None
        return await _wait(io, spec, owner, None if timeout is None else sent + timeout, sent)
    except GridsyncError as error:
        # Unknown means that the owner may hold it; any other refusal means that there is nothing to undo but a place
        # in the queue, which goes by itself.
        if isinstance(error, OutcomeUnknown):
            io.spawn(_abandon(io, spec, owner))
        raise
    except BaseException:
        # Cancelled or interrupted: the request may have been applied.
        io.spawn(_abandon(io, spec, owner))
        raise


async def _wait(io: IO, spec: Spec, owner: str, until: float | None, started: float) -> Hold:
    ear = io.ear(owner, wake_channel(spec.namespace, owner))
    try:
        while True:
            await ear.open()
            sent = io.monotonic()
            reply = await io.run(ACQUIRE, spec.keys, (owner, spec.ttl_text, str(ALIVE_MS), *spec.acquire_args))
            if reply[0] == 1:
                hold = Hold(io, spec, owner, reply[1], sent)
                io.tally("lock.wait", "", hold.since - started)
                return hold
            _, lease_ms, rank = reply
            pause = ALIVE_MS / 1000 / RENEWALS
            if rank <= 1 and lease_ms >= 0:
                # A holder that crashed publishes nothing: the head of the queue comes when its lease has ended.  So
                # does the next one, since a head that crashed may be the holder: it was handed the lock.
                pause = min(pause, (lease_ms + 1) / 1000)
            if until is not None:
                rest = until - io.monotonic()
                if rest <= 0:
                    break
                pause = min(pause, rest)
            await ear.wait(pause)
    finally:
        ear.close()
    await _abandon(io, spec, owner)
    io.tally("lock.timeout")
    waited = io.monotonic() - started
    ends = f"its lease ends in {lease_ms / 1000:.1f} s" if lease_ms >= 0 else "it is being handed over"
    raise LockTimeout(
        f"lock {spec.name!r} still held after {waited:.1f} s ({ends}, {rank} waiters came first); "
        f"pass a longer timeout or use try_acquire()",
        name=spec.name,
        waited_s=waited,
    )


async def _abandon(io: IO, spec: Spec, owner: str) -> None:
    await io.run(RELEASE, spec.keys, (owner, *spec.release_args), timeout=ABANDON_S)


async def release(io: IO, hold: Hold) -> bool:
    """Give the lock back; true if it was ours until now, false if it had been lost.

    Renewal stops before the request leaves, so that nothing renews what is being given back.
    """
    hold.disown()
    if hold.ended and not hold.unconfirmed:
        return not hold.why_lost
    hold.ended = True
    io.unkeep(hold)
    late = io.monotonic() >= hold.deadline
    asked_before, hold.unconfirmed = hold.unconfirmed, True
    try:
        reply = await io.run(RELEASE, hold.spec.keys, (hold.owner, *hold.spec.release_args))
    except GridsyncError:
        raise
    except BaseException:
        # Cancelled while it was under way: the request is in the queue of the connection or already applied, but it
        # may have been withdrawn before it left.
        io.spawn(_abandon(io, hold.spec, hold.owner))
        raise
    hold.unconfirmed = False
    if reply != 1 and (late or not (asked_before or reply == 2)):  # noqa: PLR2004 - the script's header tells the codes
        hold.why_lost = "it had ended on the server before it was released"
        io.tally("lock.lost")
        return False
    io.tally("lock.hold", "", io.monotonic() - hold.since)
    return True


def held(hold: Hold | None, spec: Spec) -> Hold:
    """Return *hold*, or raise because the one try of ``timeout=0`` found the lock held.

    Raises:
        LockTimeout: *hold* is ``None``.
    """
    if hold is None:
        raise LockTimeout(f"lock {spec.name!r} is held; pass a timeout to wait for it", name=spec.name, waited_s=0.0)
    return hold


async def leave(io: IO, hold: Hold, error: BaseException | None) -> None:
    """End a ``with`` block: release, and tell of a loss unless the block raised something itself.

    Raises:
        LeaseLost: The lease did not last until the end of the block.
    """
    try:
        kept = await release(io, hold)
    except GridsyncError:
        # What the block raised matters more than that the server is away; the lease ends by itself.
        if error is None:
            raise
        return
    if not kept and error is None:
        raise hold.error()


async def extend(io: IO, hold: Hold) -> None:
    """Renew now.

    Raises:
        LeaseLost: It is not ours any more.
    """
    hold.check()
    sent = io.monotonic()
    reply = await io.run(RENEW, hold.spec.keys[:1], (hold.owner, hold.spec.ttl_text))
    hold.settle(reply, sent)
    hold.check()
