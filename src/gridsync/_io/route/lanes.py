"""Lanes: several shared connections to one server, so that a huge value delays the requests of its own lane only.

All requests of one entity share a hash tag, hence a slot, hence a lane: they reach the server in the order in which
they left, as with one connection.  Requests of different entities never had an order.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeAlias

from redis.crc import key_slot

from gridsync._io.wire.node import Node

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gridsync._io.wire.place import Place

Lanes: TypeAlias = "tuple[Node, ...]"
"""The shared connections to one server."""


SLOTS_KEPT = 1 << 17
"""How many keys' slots are remembered: about 250 bytes each, for who uses so many.

A key that is forgotten costs 1.2 µs with the next call, a quarter of it, so a hundred thousand keys must fit.
"""


@lru_cache(maxsize=SLOTS_KEPT)
def slot_of(key: Any) -> int:  # noqa: ANN401 - as redis-py, and text
    """Return the slot of *key*; remembered, for a process asks for the same ones again and again."""
    return key_slot(key.encode() if isinstance(key, str) else key)


def one_slot(keys: Sequence[object]) -> bool:
    """Tell whether all of *keys* lie in one slot, so that a script on a Cluster may touch them."""
    return len({slot_of(key) for key in keys}) == 1


def one_server(keys: Sequence[object]) -> bool:  # noqa: ARG001 - as `one_slot`
    """Tell that all keys of a single server may be touched by one script."""
    return True


def open_lanes(place: Place, *, count: int, inflight_max: int, stall_s: float) -> Lanes:
    """Return *count* lanes to one server; each connects when it is first needed."""
    lanes = tuple(Node(place, inflight_max=inflight_max, stall_s=stall_s) for _ in range(count))
    for lane in lanes:
        lane.lanes.update(lanes)
    return lanes


def lane_of(lanes: Lanes, keys: Sequence[object]) -> Node:
    """Return the lane that requests for *keys* take; without keys the first."""
    if len(lanes) == 1 or not keys:
        return lanes[0]
    return lanes[slot_of(keys[0]) % len(lanes)]
