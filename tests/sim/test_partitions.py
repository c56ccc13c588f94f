"""Stores in several partitions in virtual time."""

from __future__ import annotations

import pytest

from tests.sim import partition_scenarios as scenarios


@pytest.mark.parametrize("seed", range(10))
def test_programs_that_differ_about_the_partitions_never_both_write(seed: int) -> None:
    """A stream would have two histories, and each program would see one of them."""
    scenarios.quarrel(seed)


@pytest.mark.parametrize("seed", range(5))
def test_every_event_of_every_partition_is_handled(seed: int) -> None:
    """An order would never be billed."""
    scenarios.crews(seed)
