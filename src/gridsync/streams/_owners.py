"""Owners: who has which partition of an ordered group, for people to look at."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.streams._core import StoreCore

WHOSE: Final = load("gridsync.streams", "whose")


@dataclass(frozen=True, slots=True)
class Owner:
    """One partition of a store, as one group sees it."""

    partition: int
    """Which one, from 0."""
    member: str | None
    """The consumer that has it; ``None`` if nobody does."""
    generation: int
    """How often it changed hands, counted on from when it was first taken (ms since 1970); 0 before."""
    held_for: float | None
    """Seconds since this member took it."""
    ends_in: float | None
    """Seconds until its lease ends unless it is renewed; below 0 it has ended, and nobody else wanted it."""
    pending: int
    """Deliveries that are not acknowledged, parked ones among them."""
    lag: int
    """Events that were not delivered yet."""


async def owners(cores: Sequence[StoreCore[Any]], group: str) -> list[Owner]:
    """Look at each partition."""
    found = []
    for partition, core in enumerate(cores):
        member, generation, held_ms, ends_ms, pending, lag = await core.io.run(
            WHOSE, (core.keys.log, core.keys.lease(group)), (group,)
        )
        found.append(
            Owner(
                partition,
                member.decode() or None,
                int(generation),
                held_ms / 1000 if member else None,
                ends_ms / 1000 if member else None,
                pending,
                lag,
            )
        )
    return found
