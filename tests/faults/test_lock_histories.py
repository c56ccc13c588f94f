"""Holders of every kind among cuts and crashes, and the judgement on their histories."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.testing.checkers import fences_in_order, permits_held
from tests.faults.holders import Holders
from tests.locks.ways import PERMITS, WAYS, made

if TYPE_CHECKING:
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

EVERY = 1_000_000
"""What a writer holds, of which each reader has one."""
MIXES = {
    "permits": (["permits", "permits", "permits"], PERMITS, {"permits": 2}),
    "book": (["read lock", "read lock", "write lock"], EVERY, {"read lock": 1, "write lock": EVERY}),
    **{way: ([way] * 3, 1, {way: 1}) for way in WAYS if way not in ("permits", "read lock", "write lock")},
}


@pytest.mark.parametrize("mix", MIXES, ids=lambda mix: mix.replace(" ", "-"))
async def test_never_more_than_there_are_hold_and_fences_rise_among_cuts_and_crashes(
    server: RedisServer, proxy: FaultProxy, world: World, recorder: Recorder, mix: str
):
    """The server keeps what it acknowledged; whoever asks later has the larger fence, whatever broke between."""

    def crash() -> None:
        server.kill()
        server.start()

    def cut() -> None:
        proxy.cut(reset=True)

    ways, limit, permits = MIXES[mix]
    takers = [(made(world.kind, world.io(proxy.url, timeout=2.0), way, ttl=2.0), permits[way]) for way in ways]
    await Holders(world.do, recorder, takers).run([cut, crash, cut, lambda: server.command("SCRIPT", "FLUSH")], 2)
    history = recorder.history()
    assert permits_held(history, limit) >= 6
    assert fences_in_order(history) >= 6
