"""Permits: what a semaphore's holders share, and what the readers and the writer of a reader-writer lock share.

A reader-writer lock is a semaphore with `WHOLE` permits: a reader takes one, a writer takes all of them.  Served in
order of arrival, that is write-preferring: a reader who comes after a waiting writer waits behind it.

States of a permit: free; held, by an owner with a lease of its own; handed over, as for a lock.  Failure points are
those of `_core`.  *A resize*: more permits are handed on at once; fewer take nothing from those who hold, and nobody is
served until enough was given back.  *A holder dies*: its permits are free when its own lease ends, whoever else renews.
*A waiter dies*, or loses its connection for a moment: it is passed over, so others may have less before it has more.

Invariant: the permits of the living holders are together never more than there are, except after a resize to fewer.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from gridsync import _units
from gridsync._io import load
from gridsync._io.keys import share as share_keys
from gridsync.errors import ServerError, UsageError
from gridsync.locks._spec import CLAIM_MS, FENCE_TTL_MS, Spec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync._io import IO
    from gridsync.locks._hold import Hold

T = TypeVar("T")

SHARE = load("gridsync.locks", "share")
UNSHARE = load("gridsync.locks", "unshare")
RENEW_SHARE = load("gridsync.locks", "renew_share")
REVOKE_SHARE = load("gridsync.locks", "revoke_share")

READ, WRITE = "read lock", "write lock"
PERMITS_MAX = 1_000_000
WHOLE = 1_000_000_000
"""How many readers there may be at once, which is to say any number."""


def semaphore(namespace: str, name: str, ttl_ms: int, *, limit: int, permits: int, wake: Callable[[str], str]) -> Spec:
    """Return what *permits* of the *limit* permits of a semaphore are; *wake* is `IO.wake_prefix`."""
    return _share(namespace, "semaphore", name, ttl_ms, "semaphore", permits=permits, limit=limit, wake=wake)


def reader(namespace: str, name: str, ttl_ms: int, *, wake: Callable[[str], str]) -> Spec:
    """Return what a reader takes."""
    return _share(namespace, "rwlock", name, ttl_ms, READ, permits=1, limit=WHOLE, wake=wake)


def writer(namespace: str, name: str, ttl_ms: int, *, wake: Callable[[str], str]) -> Spec:
    """Return what the writer takes."""
    return _share(namespace, "rwlock", name, ttl_ms, WRITE, permits=WHOLE, limit=WHOLE, wake=wake)


def _share(
    namespace: str,
    wing: str,
    name: str,
    ttl_ms: int,
    kind: str,
    *,
    permits: int,
    limit: int,
    wake: Callable[[str], str],
) -> Spec:
    keys = share_keys(namespace, wing, name)
    claim, fence_ttl, prefix = str(min(CLAIM_MS, ttl_ms)), str(FENCE_TTL_MS), wake(keys.state)
    return Spec(
        kind=kind,
        name=name,
        ttl_ms=ttl_ms,
        ttl_text=str(ttl_ms),
        keys=keys,
        renew_keys=(keys.held, keys.what),
        acquire=SHARE,
        release=UNSHARE,
        renew=RENEW_SHARE,
        revoke=REVOKE_SHARE,
        acquire_args=(str(permits), str(limit), fence_ttl, claim, prefix, "0"),
        release_args=("0", "0", claim, fence_ttl, prefix),
        wake=prefix,
        shared=kind != WRITE,
    )


async def explained(taking: Awaitable[T], spec: Spec) -> T:
    """Await *taking*, and say what a refusal of `SHARE` means.

    Raises:
        UsageError: There is another number of permits than *spec* says, or fewer than it wants.
    """
    try:
        return await taking
    except ServerError as error:
        if error.code not in {"MISMATCH", "TOOMANY"}:
            raise
        wanted, limit = map(str, spec.acquire_args[:2])
        there = str(error).partition("it has ")[2].partition(" ")[0]
        if error.code == "TOOMANY":
            raise UsageError(f"{spec} has {there} permits, so {wanted} of them are never free") from None
        text = f"{spec} has {there} permits, not {limit}, and is in use: use one number everywhere, or resize()"
        raise UsageError(text) from None


async def resize(io: IO, spec: Spec, limit: int) -> None:
    """Change how many permits there are."""
    await change(io, spec, limit=_units.count(limit, f"the limit of {spec}", PERMITS_MAX))


async def downgrade(io: IO, hold: Hold) -> None:
    """Let the writer be one of the readers from now on.

    Raises:
        LeaseLost: The write lock is not held any more.
    """
    hold.check()
    if await change(io, hold.spec, owner=hold.owner, keep=1) != 1:
        hold.lose("it ended on the server, or was taken away")
        hold.check()
    hold.spec = replace(hold.spec, shared=True)


async def change(io: IO, spec: Spec, *, owner: str = "", keep: int = 0, limit: int = 0) -> int:
    """Let *owner* hold only *keep* permits from now on, or set how many there are to *limit*; the script's answer."""
    _, _, *rest = spec.release_args
    reply = await io.run(UNSHARE, spec.keys, (owner, str(keep), str(limit), *rest, "0", "0"))
    return int(reply[0])
