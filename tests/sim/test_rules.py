"""Every decision of buckets, counters and slots in bad weather, held against a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sim import rule_scenarios as scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.sim import Simulation


@pytest.mark.parametrize("seed", range(25))
@pytest.mark.parametrize(
    "scenario", [scenarios.buckets, scenarios.counters, scenarios.slots, scenarios.together], ids=lambda s: s.__name__
)
def test_every_decision_is_exact_whatever_is_lost_late_or_repeated(
    scenario: Callable[[int], Simulation], seed: int
) -> None:
    """A hit would count twice, a bucket would overflow, or a slot would be given to two."""
    scenario(seed)
