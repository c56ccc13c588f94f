"""Whose write it is: what a resource compares, a fence and the owner who has it."""

from __future__ import annotations

import re
from typing import NamedTuple, Protocol

from gridsync.errors import UsageError

__all__ = ["Fenced", "Stamp"]

FENCE_MAX = 2**53 - 1
_OWNER = re.compile(r"[0-9a-z]{1,64}")


class Fenced(Protocol):
    """Whatever has a fence: a `Lease`, a `Turn` of what runs once per period, or a `Stamp`."""

    @property
    def fence(self) -> int:
        """Larger than that of every earlier holder."""

    @property
    def owner(self) -> str:
        """Who has this fence."""


class Stamp(NamedTuple):
    """The fence and the owner of a lease, for who writes under a lease that is held elsewhere.

    Stamps are compared as pairs, the fence first: a resource keeps the largest that it saw, and refuses a smaller one.
    Two holders whom the two sides of a split network granted a lock in the same microsecond have the same fence, and
    differ in the owner; the one with the larger owner counts as the later.
    """

    fence: int
    """`Lease.fence`, or what `Lock.force_release` returned."""
    owner: str
    """`Lease.owner`; or any other text of up to 64 digits and small letters, that nobody else uses."""


def stamp_of(lease: Fenced) -> Stamp:
    """Return the stamp of a lease.

    Raises:
        UsageError: It has none that anybody could have been granted.
    """
    try:
        fence, owner = lease.fence, lease.owner
    except AttributeError:
        raise UsageError(
            f"a fenced write takes the lease under which it is made, or Stamp(fence, owner), and not {lease!r:.100}"
        ) from None
    if isinstance(fence, bool) or not isinstance(fence, int) or not 0 < fence <= FENCE_MAX:
        raise UsageError(f"a fence is a positive integer below 2^53, such as lease.fence, not {fence!r:.100}")
    if not isinstance(owner, str) or not _OWNER.fullmatch(owner):
        raise UsageError(f"an owner is up to 64 digits and small letters, such as lease.owner, not {owner!r:.100}")
    return Stamp(fence, owner)
