"""The gate in virtual time: whatever a stale holder does and whenever its requests arrive, its writes are refused."""

from __future__ import annotations

import pytest

from tests.sim import fence_scenarios as scenarios


@pytest.mark.parametrize("seed", range(25))
def test_a_stale_holder_never_writes_after_its_successor(seed: int) -> None:
    """Two settlements of one epoch would mix, though each holder did all that it was told."""
    scenarios.stale_writers(seed)


@pytest.mark.parametrize("seed", range(25))
def test_two_holders_with_the_same_fence_never_write_in_turn(seed: int) -> None:
    """Both sides of a split network would settle one epoch, and each would see half of the other's work."""
    scenarios.two_sides(seed)


def test_there_are_two_holders_with_the_same_fence() -> None:
    """A scenario in which fences differ would prove nothing."""
    refused = [event for seed in range(5) for event in scenarios.two_sides(seed).history.of("refused")]
    assert sum(event.seen == event.fence for event in refused) > 5


def test_there_are_stale_writers_to_refuse() -> None:
    """A scenario in which nobody is stale would prove nothing."""
    assert sum(len(scenarios.stale_writers(seed).history.of("refused")) for seed in range(5)) > 0
