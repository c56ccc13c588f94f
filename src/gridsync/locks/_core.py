"""Why and when: how anything is taken, waited for and given back, once for sync and asyncio and for every kind.

One acquisition has one owner id, chosen before the first request leaves.  Its states::

    asking ──granted──▶ held ──release──▶ released
      │ ▲                ▲└──not renewed in time, or not ours any more──▶ lost
      ▼ │                │
    waiting ──handed over, and the word came in time
      └──timeout, cancelled──▶ abandoned   (the release script: leaves the queue, passes on what was just handed over)

*Handed over*: the release of the one before wrote us into the state, for the time of a claim, and the word tells fence
and moment.  The holder begins at once and the watchdog renews, so a short body costs two commands: join and release.
Its deadline must not be later than the server's, yet the word may be old.  So the hand-over is placed on our own clock:
our last ask left at *sent* and was answered at the server's *asked*; the hand-over happened at the server's *us*; so it
was not before ``sent + (us - asked)``, of which a hundredth is taken off for clocks that run apart.  Counting the claim
from there errs towards early.  A word is not believed, and the state asked, if its fence is no news to our last ask (an
earlier hand-over, gone by now), if it lies in our future (the server's clock was set forward), or if so much of the
claim is over that a renewal would be due.  Nor is one that no script says, with a longer claim or a fence that no
holder came near: anybody who may publish may say anything, and the first renewal ends what the server knows nothing of.

Failure points.  *A lost reply to acquire*: asking again with the same owner is granted with the same fence.  *A lost
reply to release*: the repeat answers 2, which counts as released, and tells the new holder to look.  *A lost word*: the
waiter looks by itself.  *A word that comes twice, or two words*: ask.  *A caller cancelled while its acquire is under
way*: an abandon follows on the same connection, so it runs after it; should the connection break between the two, the
request may come later than the abandon, which therefore leaves a mark that refuses it (`GONE_MS`).  *A repeated
request, whose first copy comes after the release*: the same mark.  *A waiter dies*: nobody
listens where it would be called, so it is passed over; if it only stands still, it stops counting as alive, or does not
take up what it was handed.  *The holder dies*: the head of the queue wakes when the holder's lease ends.

Invariant: at most one owner in the state hash, and the fence rises with every new owner.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from gridsync._io.keys import wake_channel
from gridsync.errors import GridsyncError, LockTimeout, Misconfigured, OutcomeUnknown, ServerError
from gridsync.locks._about import tell
from gridsync.locks._hold import MARGIN, RENEWALS, Hold, let_go
from gridsync.locks._spec import CLAIM_MS, named

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._spec import Spec

ALIVE_S = 10.0
"""How long a waiter counts as alive when it joins; later three times as long as until it looks again."""
LOOKS = 3
"""How often a waiter looks while it counts as alive, so that two looks may fail."""
LOOK_S = 1.0
"""How long the head of a queue sleeps without a word; a tenth more for each one who came before."""
LOOK_MAX_S = 15.0
GRANTS_MAX = 10_000_000
"""More than any server grants between two looks of a waiter: how far a fence may be ahead of the clock."""
ABANDON_S = 1.0
"""How long an abandon may take; without it the lease's end does the same."""


async def acquire(io: IO, spec: Spec, timeout: float | None) -> Hold | None:
    """Take the lock within *timeout* seconds (``None``: for ever, 0: one try); ``None`` if 0 and it is held.

    Raises:
        LockTimeout: Someone else still held it after *timeout* seconds.
    """
    seeker = Seeker(io, spec)
    try:
        if timeout == 0 or not io.hears(seeker.channel):
            # Most locks are free: nobody shall wait for a subscription that is not needed.
            hold = await seeker.ask(0.0)
            if hold is not None or timeout == 0:
                return hold
        return await seeker.wait(timeout)
    except GridsyncError as error:
        # Unknown means that the owner may hold it.  A server that refuses one who waits would go on to hand it what
        # nobody takes up.  Of one that is away nothing can be asked: a place in the queue goes by itself.
        refused = seeker.asked and isinstance(error, ServerError | Misconfigured)
        if refused or isinstance(error, OutcomeUnknown):
            io.spawn(seeker.abandon())
        named(error, spec)
        raise
    except BaseException:
        # Cancelled or interrupted: the request may have been applied.
        io.spawn(seeker.abandon())
        raise


class Seeker:
    """One acquisition on its way."""

    __slots__ = ("_about", "_ghost", "_io", "_owner", "_reply", "_sent", "_spec", "_started", "_under_way", "channel")

    def __init__(self, io: IO, spec: Spec) -> None:
        self._io = io
        self._spec = spec
        self._owner = owner = io.token()
        self.channel = wake_channel(spec.wake, owner)
        self._about = tell(io.who(), spec.note)
        self._ghost = False
        self._under_way = False
        self._reply: Any = None
        self._sent = self._started = io.monotonic()

    @property
    def asked(self) -> bool:
        """Whether the server was asked and said no, so that it may have us in its queue."""
        return self._reply is not None

    async def ask(self, alive_s: float) -> Hold | None:
        """Run the acquire script once; *alive_s* of 0 does not join the queue."""
        io, spec = self._io, self._spec
        alive = str(int(alive_s * 1000))
        self._under_way = True
        reply = await io.run(*spec.asking(self._owner, alive, self._about))
        self._under_way = False
        if reply[-1]:
            self._ghost = True
        if reply[0] == 1:
            return self._held(reply[1], self._sent, spec.ttl_ms)
        self._reply = reply
        return None

    async def wait(self, timeout: float | None) -> Hold:
        """Join the queue and stay until it is our turn.

        Raises:
            LockTimeout: It was not, for *timeout* seconds.
        """
        io = self._io
        until = None if timeout is None else self._started + timeout
        alive_s = ALIVE_S
        ear = io.ear(self._owner, self.channel)
        try:
            while True:
                await ear.open()
                self._sent = io.monotonic()
                hold = await self.ask(alive_s)
                if hold is not None:
                    return hold
                _, ends_ms, rank, *_ = self._reply
                look_s = min(LOOK_S * (1 + rank / 10), LOOK_MAX_S)
                pause, alive_s = min(look_s, alive_s / LOOKS), look_s * LOOKS
                if rank <= 1 and ends_ms >= 0:
                    # A holder that crashed publishes nothing: the head of the queue comes when its lease has ended.  So
                    # does the next one, since a head that crashed may be the holder: it was handed the lock.
                    pause = min(pause, (ends_ms + 1) / 1000)
                if until is not None:
                    rest = until - io.monotonic()
                    if rest <= 0:
                        break
                    pause = min(pause, rest)
                if await ear.wait(pause) and ear.message:
                    hold = self._handed(ear.message)
                    if hold is not None:
                        return hold
        finally:
            ear.close()
        await self.abandon()
        io.tally("lock.timeout")
        waited = io.monotonic() - self._started
        raise LockTimeout(
            f"{self._spec} still held after {waited:.1f} s "
            f"(its lease ends in {ends_ms / 1000:.1f} s, {rank} waiters came first); "
            f"pass a longer timeout or use try_acquire()",
            name=self._spec.name,
            waited_s=waited,
        )

    def _handed(self, message: str) -> Hold | None:
        """Return what a hand-over's *message* gives us, or ``None`` if the state must be asked."""
        try:
            fence, us, claim_ms = map(int, message.split())
        except ValueError:
            return None  # anybody may publish anything
        *_, asked_us, last, _ = self._reply
        begun = self._sent + (us - asked_us) / 1_000_000 * MARGIN
        spent = self._io.monotonic() - begun
        if fence <= last or spent < 0 or spent >= claim_ms / 1000 / RENEWALS:
            return None
        if claim_ms > CLAIM_MS or fence > max(us, last + GRANTS_MAX):
            return None  # no script says so
        return self._held(fence, begun, claim_ms)

    def _held(self, fence: int, begun: float, term_ms: int) -> Hold:
        hold = Hold(self._io, self._spec, self._owner, fence, begun, term_s=term_ms / 1000, ghost=self._ghost)
        self._io.tally("lock.wait", "", hold.since - self._started)
        return hold

    async def abandon(self) -> None:
        """Take back whatever was asked for."""
        await let_go(self._io, self._spec, self._owner, ghost=self._ghost or self._under_way, timeout=ABANDON_S)


async def release(io: IO, hold: Hold) -> bool:
    """Give the lock back; true if it was ours until now, false if it had been lost.

    Renewal stops before the request leaves, so that nothing renews what is being given back.
    """
    hold.disown()
    if hold.ended and not hold.unconfirmed:
        return not hold.why_lost
    hold.end()
    now = io.monotonic()
    late = now >= hold.deadline
    hold.unconfirmed = True
    hold.asked += 1
    try:
        code = await hold.let_go()
    except GridsyncError:
        raise
    except BaseException:
        # Cancelled while it was under way: the request is in the queue of the connection or already applied, but it
        # may have been withdrawn before it left.
        io.spawn(hold.let_go(ABANDON_S))
        raise
    hold.unconfirmed = False
    # Another request of ours may have been the one: an earlier one, or that of a thread which releases it as well.
    if code != 1 and (late or not (hold.asked > 1 or code == 2)):  # noqa: PLR2004 - the script's header tells the codes
        hold.why_lost = "it had ended on the server before it was released"
        io.tally("lock.lost")
        return False
    io.tally("lock.hold", "", now - hold.since)
    return True


def held(hold: Hold | None, spec: Spec) -> Hold:
    """Return *hold*, or raise because the one try of ``timeout=0`` found the lock held.

    Raises:
        LockTimeout: *hold* is ``None``.
    """
    if hold is None:
        raise LockTimeout(f"{spec} is held; pass a timeout to wait for it", name=spec.name, waited_s=0.0)
    return hold


async def extend(hold: Hold) -> None:
    """Renew now.

    Raises:
        LeaseLost: It is not ours any more.
    """
    hold.check()
    await hold.extend()
    hold.check()
