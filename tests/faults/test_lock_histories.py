"""Holders of every kind among cuts and crashes, and the judgement on their histories."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import GridsyncError, LeaseLost
from gridsync.testing.checkers import fences_in_order, permits_held
from tests.locks.ways import PERMITS, WAYS, each, fence, made
from tests.wire.fake import soon

if TYPE_CHECKING:
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.recorder import Recorder
    from gridsync.testing.servers import RedisServer
    from tests.wire.world import World

PAUSE_S = 0.003
EVERY = 1_000_000
"""What a writer holds, of which each reader has one."""
MIXES = {
    "permits": (["permits", "permits", "permits"], PERMITS, {"permits": 2}),
    "book": (["read lock", "read lock", "write lock"], EVERY, {"read lock": 1, "write lock": EVERY}),
    **{way: ([way] * 3, 1, {way: 1}) for way in WAYS if way not in ("permits", "read lock", "write lock")},
}


class Holders:
    """Callers who take, act and give back, until they are told to stop."""

    def __init__(self, world: World, recorder: Recorder, mix: str, url: str) -> None:
        self._world, self._recorder = world, recorder
        self._ways, self.limit, self._permits = MIXES[mix]
        self._url = url
        self._over = False
        self.turns = [0] * len(self._ways)

    async def run(self, breaks: Any, times: int) -> None:
        """Work until each one had *times* turns after each of the *breaks*, which are called one after the other."""
        tasks = [asyncio.create_task(self._work(place, way)) for place, way in enumerate(self._ways)]
        try:
            for act in (None, *breaks):
                if act is not None:
                    await asyncio.to_thread(act)
                goal = [turns + times for turns in self.turns]
                await soon(
                    lambda goal=goal: (
                        any(task.done() for task in tasks)
                        or all(turns >= least for turns, least in zip(self.turns, goal, strict=True))
                    ),
                    60,
                )
        finally:
            self._over = True
            await asyncio.wait_for(asyncio.gather(*tasks), 60)

    async def _work(self, place: int, way: str) -> None:
        io = self._world.io(self._url, timeout=2.0)
        taken = made(self._world.kind, io, way, ttl=2.0)
        who, permits = f"{place}", self._permits[way]
        while not self._over:
            try:
                with self._recorder.operation(who, "acquire", key="job") as done:
                    lease = await self._world.do(taken.acquire, timeout=10)
                    done(fence(lease))
            except GridsyncError:
                await asyncio.sleep(PAUSE_S)
                continue
            facts = {"name": "job", "owner": each(lease)[0].owner, "fence": fence(lease), "permits": permits}
            try:
                for kind in ("acquired", "working", "released"):
                    at_us = self._recorder.now_us()
                    lease.check()
                    self._recorder.note(who, kind, at_us=at_us, **facts)
                    if kind != "released":
                        await asyncio.sleep(PAUSE_S)
                self.turns[place] += 1
            except LeaseLost:
                pass
            try:
                await self._world.do(lease.release)
            except GridsyncError:
                continue


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

    holders = Holders(world, recorder, mix, proxy.url)
    await holders.run([cut, crash, cut, lambda: server.command("SCRIPT", "FLUSH")], 2)
    history = recorder.history()
    assert permits_held(history, holders.limit) >= 6
    assert fences_in_order(history) >= 6
