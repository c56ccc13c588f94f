"""Why and when: how anything is taken, waited for and given back, once for sync and asyncio and for every kind.

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

from typing import TYPE_CHECKING

from gridsync._io.keys import wake_channel
from gridsync.errors import GridsyncError, LockTimeout, OutcomeUnknown
from gridsync.locks._hold import RENEWALS, Hold

if TYPE_CHECKING:
    from gridsync._io import IO
    from gridsync.locks._spec import Spec

ALIVE_MS = 10_000
"""How long a waiter counts as alive after each sign of life; it gives one three times as often."""
ABANDON_S = 1.0
"""How long an abandon may take; without it the lease's end does the same."""


async def acquire(io: IO, spec: Spec, timeout: float | None) -> Hold | None:
    """Take the lock within *timeout* seconds (``None``: for ever, 0: one try); ``None`` if 0 and it is held.

    Raises:
        LockTimeout: Someone else still held it after *timeout* seconds.
    """
    owner = io.token()
    sent = io.monotonic()
    try:
        reply = await io.run(spec.acquire, spec.keys, (owner, spec.ttl_text, "0", *spec.acquire_args))
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
            reply = await io.run(spec.acquire, spec.keys, (owner, spec.ttl_text, str(ALIVE_MS), *spec.acquire_args))
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
        f"{spec} still held after {waited:.1f} s ({ends}, {rank} waiters came first); "
        f"pass a longer timeout or use try_acquire()",
        name=spec.name,
        waited_s=waited,
    )


async def _abandon(io: IO, spec: Spec, owner: str) -> None:
    await io.run(spec.release, spec.keys, (owner, *spec.release_args), timeout=ABANDON_S)


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
        reply = await io.run(hold.spec.release, hold.spec.keys, (hold.owner, *hold.spec.release_args))
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
        raise LockTimeout(f"{spec} is held; pass a timeout to wait for it", name=spec.name, waited_s=0.0)
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
    reply = await io.run(*hold.renewal())
    hold.settle(reply, sent)
    hold.check()
