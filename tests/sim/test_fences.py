"""The gate in virtual time: whatever a stale holder does and whenever its requests arrive, its writes are refused."""

from __future__ import annotations

import pytest

from tests.sim import fence_scenarios as scenarios


@pytest.mark.parametrize("seed", range(25))
def test_a_stale_holder_never_writes_after_its_successor(seed: int) -> None:
    """Two settlements of one epoch would mix, though each holder did all that it was told."""
    scenarios.stale_writers(seed)


def test_there_are_stale_writers_to_refuse() -> None:
    """A scenario in which nobody is stale would prove nothing."""
    assert sum(len(scenarios.stale_writers(seed).history.of("refused")) for seed in range(5)) > 0
