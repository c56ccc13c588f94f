"""A cap holds whatever happens, and stands in nobody's way who may pass."""

from __future__ import annotations

import pytest

from tests.sim import cap_scenarios as scenarios

seeds = pytest.mark.parametrize("seed", range(6))


@seeds
def test_a_log_never_holds_more_than_its_cap_and_everything_gets_there(seed: int) -> None:
    """Memory would fill; or producers and consumers would wait for each other for ever."""
    scenarios.crowded(seed)


@seeds
def test_a_group_is_given_up_at_the_cap_and_not_in_vain(seed: int) -> None:
    """One that stands still would stop the store; one that does not would lose events for nothing."""
    scenarios.given_up(seed)


def test_what_was_written_before_is_found_at_the_cap() -> None:
    """Who sends it again would take it for lost, and write it once more with other ids."""
    scenarios.found_again(0)


@seeds
def test_what_is_sent_to_a_store_at_its_cap_gets_there_when_it_has_room(seed: int) -> None:
    """What was refused would count as accepted, and be lost."""
    scenarios.consigned(seed)
