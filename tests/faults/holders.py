"""Callers who take, act and give back while everything breaks, and write down what they did."""

# ruff: noqa: ANN401 - two kinds of everything

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gridsync.errors import GridsyncError, LeaseLost
from tests.locks.ways import each, fence
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from gridsync.testing.recorder import Recorder

PAUSE_S = 0.003


class Holders:
    """Callers who take, act and give back, until they are told to stop."""

    def __init__(
        self, do: Callable[..., Awaitable[Any]], recorder: Recorder, takers: Sequence[tuple[Any, int]]
    ) -> None:
        """Be ready.

        Args:
            do: Calls a method of either kind.
            recorder: Where everything is written down.
            takers: What each caller takes, and how many permits that is.
        """
        self._do, self._recorder, self._takers = do, recorder, takers
        self._over = False
        self.turns = [0] * len(takers)

    async def run(self, breaks: Any, times: int) -> None:
        """Work until each one had *times* turns after each of the *breaks*, which are called one after the other."""
        tasks = [asyncio.create_task(self._work(place, *taker)) for place, taker in enumerate(self._takers)]
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

    async def _work(self, place: int, taken: Any, permits: int) -> None:
        who = f"{place}"
        while not self._over:
            try:
                with self._recorder.operation(who, "acquire", key="job") as done:
                    lease = await self._do(taken.acquire, timeout=10)
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
                await self._do(lease.release)
            except GridsyncError:
                continue
