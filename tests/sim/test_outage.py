"""The breaker and the budget in the simulation: the shipped ones, one pair for each process, in virtual time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.limits._core import Windows
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO

RULE = [(1_000_000, 1_000_000)]


@pytest.mark.parametrize("seed", range(10))
def test_an_outage_costs_each_process_one_timeout(seed: int):
    sim = Simulation(seed, faults=Faults(slow=0.01, slow_s=0.2))
    ends: dict[str, list[tuple[float, float, str]]] = {name: [] for name in "abc"}

    async def knock(io: SimIO) -> None:
        windows = Windows(io, "t", "w", RULE)
        for _ in range(300):
            began = sim.now
            try:
                await windows.hit("k", 1)
                result = "admitted"
            except (Unavailable, OutcomeUnknown) as error:
                result = str(error)
            ends[io.process.name].append((began, sim.now - began, result))
            await io.sleep(0.1)

    for name in ends:
        sim.start(name, knock)
    sim.at(2.0, lambda: sim.restart_server(12.0))
    sim.run(until=600)
    for calls in ends.values():
        assert [result for began, _, result in calls if began < 1.5] == ["admitted"] * len(
            [began for began, _, _ in calls if began < 1.5]
        )
        assert calls[-1][2] == "admitted", "service is back"
        slow = [took for _, took, result in calls if result != "admitted" and took > 0.5]
        at_once = [took for _, took, result in calls if "calls fail at once" in result and took < 0.1]
        assert len(slow) <= 1
        assert len(at_once) > 50
        last = max(began for began, _, result in calls if result != "admitted")
        assert last < 14.0 + 1.5, "a pause after the server is back, a probe gets through"
