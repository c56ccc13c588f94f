"""Handlers that fail, in virtual time: nothing is lost, doubled, early or out of order, whatever the network does."""

from __future__ import annotations

import pytest

from tests.sim import failure_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(15))


def test_what_fails_is_tried_again_or_given_up_and_never_lost(seed: int) -> None:
    """An order would never be billed, or be billed and lie among the dead letters."""
    scenarios.failing(seed)


def test_events_behind_a_parked_one_keep_their_order(seed: int) -> None:
    """A cancellation would be handled before the order that it cancels."""
    scenarios.in_line(seed)


def test_of_a_stream_one_event_is_tried_again_and_the_others_wait_for_it(seed: int) -> None:
    """What comes behind two events that failed together would overtake the second when the first is done."""
    scenarios.side_by_side(seed)


def test_a_dead_letter_that_is_given_back_is_handled(seed: int) -> None:
    """A replay would lose what it moves, or leave a second copy."""
    scenarios.given_back(seed)


def test_a_group_that_is_lost_while_events_are_parked_forgets_none(seed: int) -> None:
    """They would wait for a moment that never comes, and others behind them."""
    scenarios.lost_while_parked(seed)


def test_a_pause_is_kept(seed: int) -> None:
    """A failing event would be tried without a rest."""
    scenarios.patience(seed)


def test_a_failure_that_comes_too_late_changes_nothing(seed: int) -> None:
    """An event that another is still working on would be taken from it, or given up."""
    scenarios.overtaken(seed)
