"""Several locks at once, in virtual time."""

from __future__ import annotations

import pytest

from tests.sim import several_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_no_name_has_two_holders_whatever_groups_it_is_in(seed: int) -> None:
    """A transfer would see one of its two accounts change."""
    scenarios.crossing(seed)


def test_groups_never_wait_for_each_other_in_a_circle(seed: int) -> None:
    """Everybody would stand still until somebody gives up."""
    scenarios.crossing_in_calm(seed)


def test_a_lost_reply_makes_nobody_wait_for_himself(seed: int) -> None:
    """The locks would be held by nobody until their leases end."""
    scenarios.crossing_in_wet(seed)
