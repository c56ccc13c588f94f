"""What is taken, and by which scripts: all that the shared core knows about a lock.

The scripts of every kind keep one contract.

*acquire* (owner, lease ms, alive ms, about, …, repeat_us) answers ``{1, fence, again}``, or ``{0, ms until something
ends, rank in the queue, server us, last fence, again}``.  *release* (owner, …, gone ms, repeat_us) answers
``{1 | 0 | 2, message…}``: each message wakes a waiter of the releaser's own process and was not published.  *renew*
(owner, lease ms) answers 1 or 0.  *revoke* (owner, fence ttl, channel, message), on the first key of *renew* and the
one that remembers the last fence, answers the raised fence or 0.

A message is the waiter's name alone (look again), or ``name fence us claim``: it was handed what it waits for at the
server's microsecond *us*, with this fence, for *claim* milliseconds.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gridsync._io import Bound, load
from gridsync._io.keys import lock as lock_keys

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io import Script
    from gridsync.errors import GridsyncError, LeaseLost

    Call = tuple[Script | Bound, tuple[str, ...], tuple[str, ...]]

ACQUIRE = load("gridsync.locks", "acquire")
RELEASE = load("gridsync.locks", "release")
RENEW = load("gridsync.locks", "renew")
REVOKE = load("gridsync.locks", "revoke")

CLAIM_MS = 1_000
"""How long a waiter has to take up what it was handed: what a dead head of the queue costs the others."""
PATIENCE_MS = 1_000
"""How long a waiter may be overtaken where order does not matter."""
GONE_MS = 60_000
"""How long a request may be on its way after its caller gave up: twice what a connection may be silent."""
FENCE_TTL_MS = 7 * 24 * 3600 * 1000
"""How long the last fence is remembered.  After that the server's clock alone makes the next one larger."""


@dataclass(frozen=True, slots=True)
class Spec:
    """What can be taken: its name, its keys and scripts, how long its leases run."""

    kind: str
    """What a user calls it: ``lock``."""
    name: str
    ttl_ms: int
    ttl_text: str
    keys: tuple[str, ...]
    """All of them; the last but one remembers the last fence."""
    renew_keys: tuple[str, ...]
    acquire: Script
    release: Script
    renew: Script
    revoke: Script
    acquire_args: tuple[str, ...]
    """What follows owner, lease, alive and about; ends with a ``repeat_us`` of 0."""
    release_args: tuple[str, ...]
    """What stands between owner and gone."""
    wake: str
    """What the channels begin with on which its waiters listen."""
    shared: bool = False
    """Whether others that are shared may hold it too, as readers do."""
    note: str = ""
    """What the user wants others to read about a holder."""
    max_hold_s: float = float("inf")
    """After this the watchdog renews no more."""
    min_replicas: int = 0
    """How many replicas must confirm a grant."""
    fsync: bool = False
    """Whether a grant must be on disk there, and on the primary's."""
    on_lost: Callable[[LeaseLost], object] | None = None
    """Called once when a lease is lost."""
    bound_acquire: Bound | None = None
    bound_release: Bound | None = None

    def bound(self) -> Spec:
        """Return the same with its two busiest calls packed beforehand, which pays from the second time on."""
        return replace(
            self,
            bound_acquire=Bound(self.acquire, self.keys, (None, self.ttl_text, None, None, *self.acquire_args)),
            bound_release=Bound(self.release, self.keys, (None, *self.release_args, None, "0")),
        )

    def asking(self, owner: str, alive: str, about: str) -> Call:
        """Return the call that takes, or joins the queue."""
        if self.bound_acquire is not None:
            return self.bound_acquire, self.keys, (owner, alive, about)
        return self.acquire, self.keys, (owner, self.ttl_text, alive, about, *self.acquire_args)

    def giving_back(self, owner: str, *, ghost: bool) -> Call:
        """Return the call that releases or abandons; *ghost*: a request of *owner* may still be on its way."""
        gone = str(GONE_MS) if ghost else "0"
        if self.bound_release is not None:
            return self.bound_release, self.keys, (owner, gone)
        return self.release, self.keys, (owner, *self.release_args, gone, "0")

    def __str__(self) -> str:
        return f"{self.kind} {self.name!r}"


def named(error: GridsyncError, *specs: Spec) -> None:
    """Let *error* say what was to be taken, unless it does: whoever reads it in a log has no traceback."""
    first, more = str(specs[0]), len(specs) - 1
    if first not in str(error):
        error.args = (f"{first}{f' and {more} more' if more else ''}: {error}", *error.args[1:])


def lock(
    namespace: str,
    name: str,
    ttl_ms: int,
    *,
    wake: Callable[[str], str],
    fair: bool = True,
    note: str = "",
    kind: str = "lock",
) -> Spec:
    """Return what the exclusive lock *name* is, or another *kind* that is held like one; *wake* is `IO.wake_prefix`."""
    keys = lock_keys(namespace, name, kind)
    patience = str(0 if fair else PATIENCE_MS)
    claim, fence_ttl, prefix = str(min(CLAIM_MS, ttl_ms)), str(FENCE_TTL_MS), wake(keys.state)
    return Spec(
        kind=kind,
        name=name,
        ttl_ms=ttl_ms,
        ttl_text=str(ttl_ms),
        keys=keys,
        renew_keys=keys[:1],
        acquire=ACQUIRE,
        release=RELEASE,
        renew=RENEW,
        revoke=REVOKE,
        acquire_args=(fence_ttl, claim, prefix, patience, "0"),
        release_args=(claim, fence_ttl, prefix, patience),
        wake=prefix,
        note=note,
    )
