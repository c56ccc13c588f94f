"""Ordered groups, in virtual time: each stream in order and at one member, whatever becomes of the members."""

from __future__ import annotations

import pytest

from tests.sim import order_scenarios as scenarios


@pytest.mark.parametrize("seed", range(20))
def test_order_holds_whoever_comes_goes_dies_or_stands_still(seed: int) -> None:
    """A cancellation would be handled before the order that it cancels, or at the same time."""
    scenarios.rebalancing(seed)


@pytest.mark.parametrize("seed", range(10))
def test_what_failed_holds_back_the_rest_of_its_stream(seed: int) -> None:
    """The second payment would be booked before the first one that only had to wait."""
    scenarios.failing_in_order(seed)


@pytest.mark.parametrize("seed", range(10))
def test_who_stood_still_past_its_lease_begins_and_settles_nothing(seed: int) -> None:
    """Two processes would work at one stream."""
    scenarios.frozen(seed)


@pytest.mark.parametrize("seed", range(10))
def test_partitions_move_without_anything_begun_twice(seed: int) -> None:
    """A deployment would handle again what was in work."""
    scenarios.handed_over(seed)


@pytest.mark.parametrize("seed", range(6))
def test_who_is_cut_off_stops_before_another_begins(seed: int) -> None:
    """A handler that takes long would go on while somebody else handles the same event."""
    scenarios.cut_off(seed)


@pytest.mark.parametrize("seed", range(4))
def test_who_lost_its_lease_reads_nothing_and_takes_part_again(seed: int) -> None:
    """An owner that was taken for dead would go on beside the new one, or never work again."""
    scenarios.usurped(seed)


@pytest.mark.parametrize("seed", range(6))
def test_letters_that_are_given_back_keep_the_order_of_their_stream(seed: int) -> None:
    """A correction would be booked before what it corrects."""
    scenarios.given_back_in_order(seed)
