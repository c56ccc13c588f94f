"""Errors of what cannot be reached say what was to be taken."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.testing.proxy import FaultProxy
from tests.locks.ways import WAYS, taker

if TYPE_CHECKING:
    from tests.wire.world import World

CALLED = {"permits": "semaphore", "multi-lock": "lock", "unfair lock": "lock"}


@pytest.mark.parametrize("way", [way for way in WAYS if way != "election"])
async def test_an_error_names_what_was_to_be_taken(world: World, way: str):
    """A log has the message and no traceback: which of a hundred locks was it?"""
    with FaultProxy(world.url) as proxy:
        io = world.io(proxy.url)
        lock = taker(world, way, io=io)
        await world.do((await world.do(lock.acquire)).release)
        io._timeout = 0.3
        await asyncio.to_thread(proxy.blackhole)
        more = " and 1 more" if way == "multi-lock" else ""
        for timeout in (0, 10):
            with pytest.raises((Unavailable, OutcomeUnknown), match=f"^{CALLED.get(way, way)} 'job'{more}: locks"):
                await world.do(lock.acquire, timeout=timeout)
        await asyncio.to_thread(proxy.heal)
        await world.close()
