"""Looking into outboxes: how much of what was sent to other stores has not been moved yet, and for how long."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from gridsync._io import load
from gridsync._io.keys import outbox_target

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync.streams._core import StoreCore

LOOK_OUTBOXES: Final = load("gridsync.streams", "look_outboxes")


@dataclass(frozen=True, slots=True)
class OutboxInfo:
    """What one store, or partition of it, has sent to another one, and how much of that is not there yet."""

    store: str
    """The store that sends."""
    target: str
    """The store that gets it."""
    consignments: int
    """What was sent and not moved yet: one for each `Transaction.send`."""
    events: int
    """The events in that."""
    oldest_age: float | None
    """Seconds since the commit of the oldest of them, on the server's clock; ``None`` if all was moved."""
    sent: int
    """Consignments that were ever sent."""
    namespace: str = ""
    """The namespace of the store that gets it."""
    partition: int = 0
    """The partition that sends, from 0."""
    target_partition: int = 0
    """The partition that gets it, from 0."""


async def look_into(core: StoreCore[Any], boxes: Sequence[str]) -> list[tuple[OutboxInfo, tuple[int, int, int]]]:
    """Look into outboxes of a partition: what people are told, and what measures are (see `IO.report`)."""
    if not boxes:
        return []
    rows = await core.io.run(LOOK_OUTBOXES, (core.keys.sent, *boxes))
    return [_told(core, box, row) for box, row in zip(boxes, rows, strict=True)]


def _told(core: StoreCore[Any], box: str, row: Sequence[int]) -> tuple[OutboxInfo, tuple[int, int, int]]:
    sent, waiting, events, since_us, age_us = row
    namespace, target, partition = outbox_target(box)
    age = None if age_us < 0 else age_us / 1_000_000
    info = OutboxInfo(core.name, target, waiting, events, age, sent, namespace, core.partition, partition)
    return info, (waiting, events, since_us)
