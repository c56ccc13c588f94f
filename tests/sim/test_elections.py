"""Elections in virtual time."""

from __future__ import annotations

import pytest

from tests.sim import election_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_one_leader_at_a_time_in_bad_weather(seed: int) -> None:
    """Two processes would run the auction, or nobody after a while."""
    scenarios.gale(seed)


def test_who_watches_is_told_at_once(seed: int) -> None:
    """Clients would go on asking the old leader for seconds."""
    scenarios.told(seed)


def test_the_next_one_leads_when_the_dead_ones_lease_has_ended(seed: int) -> None:
    """The auction would stand still for longer than the lease."""
    scenarios.succession(seed)
