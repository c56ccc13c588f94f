"""Latches and barriers in virtual time."""

from __future__ import annotations

import pytest

from tests.sim import together_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_a_latch_opens_when_the_last_is_done_whatever_is_lost(seed: int) -> None:
    """A market would open before its last participant is ready, or never."""
    scenarios.opening(seed)


def test_a_generation_is_passed_by_all_parties_whatever_is_lost(seed: int) -> None:
    """One party would work on a round that another has not begun."""
    scenarios.meetings(seed)


def test_a_dead_party_breaks_the_barrier_and_the_living_go_on(seed: int) -> None:
    """The others would wait for ever, or go on without the work of the dead."""
    scenarios.deaths(seed)


def test_who_gives_up_is_not_waited_for(seed: int) -> None:
    """The barrier would open for a party that has gone."""
    scenarios.giving_up(seed)


def test_a_reset_is_heard_at_once(seed: int) -> None:
    """Who waits would wait on for parties that will not come."""
    scenarios.resets(seed)


def test_an_open_latch_wakes_everybody(seed: int) -> None:
    """Waiters would find out with their next look, seconds later."""
    scenarios.opening_in_calm(seed)


def test_nobody_passes_with_the_dead(seed: int) -> None:
    """A round would begin without one of its parties."""
    scenarios.ghost(seed)


def test_a_party_that_gave_up_is_not_met_when_its_request_comes_late(seed: int) -> None:
    """A generation would be passed by fewer parties than the barrier has: one of them is a ghost."""
    scenarios.late_arrivals(seed)
