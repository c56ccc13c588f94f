"""Assignment: which member of a group should have which partition.

A pure function of what all members say they have, so all of them come to the same answer without asking each other.
It is advice: the lease of a partition is the truth, and two members that see different tables for a moment want the
same partition at worst, of whom one gets it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping


def assign(has: Mapping[str, Collection[int]], partitions: int) -> dict[int, str]:
    """Return who should have each of the partitions 0 … *partitions* - 1; nobody, if there is no member.

    Shares differ by one at most, and no member gives up more than it must.

    Args:
        has: Each member that lives, and the partitions that it says it has.
        partitions: How many there are.
    """
    kept: dict[str, list[int]] = {member: [] for member in sorted(has)}
    if not kept:
        return {}
    # Where two say that they have it, one of them has not noticed yet that it lost it.
    given: set[int] = set()
    for member, mine in kept.items():
        mine.extend(sorted(set(has[member]) - given & set(range(partitions))))
        mine[:] = [partition for partition in mine if 0 <= partition < partitions]
        given.update(mine)
    least, more = divmod(partitions, len(kept))
    # Who has most keeps most: nothing moves only because of a name.
    ranks = sorted(kept, key=lambda member: (-len(kept[member]), member))
    share = {member: least + (rank < more) for rank, member in enumerate(ranks)}
    target = {partition: member for member, mine in kept.items() for partition in mine[: share[member]]}
    takers = iter([member for member in kept for _ in range(share[member] - len(kept[member]))])
    for partition in range(partitions):
        if partition not in target:
            target[partition] = next(takers)
    return target
