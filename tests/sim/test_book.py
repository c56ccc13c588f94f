"""The order book against a model of itself: whatever is sent, lost, repeated or killed.

Hypothesis draws what three clients do and what happens to their requests, and shrinks what fails to the few steps that
matter.
"""

from __future__ import annotations

from random import Random  # noqa: TC003 - hypothesis looks

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.sim import book_scenarios


@settings(max_examples=100, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_any_interleaving_of_orders_crashes_and_repeats_is_answered_as_the_model_answers(random: Random) -> None:
    """Somebody would trade twice, out of turn, or at a price that is not the best."""
    steps = book_scenarios.program(random)
    note(steps)
    book_scenarios.run("model", steps)


@pytest.mark.parametrize("seed", range(25))
def test_longer_programs_are_answered_as_the_model_answers(seed: int) -> None:
    """The same where more orders meet."""
    book_scenarios.seeded(seed)


@pytest.mark.parametrize("seed", range(10))
def test_a_crowd_is_met_in_its_order_and_never_more_than_so_many_at_once(seed: int) -> None:
    """One order would keep the server busy for everybody."""
    book_scenarios.crowded(seed)


@pytest.mark.parametrize("seed", range(10))
def test_what_is_cancelled_about_when_it_expires_ends_once(seed: int) -> None:
    """It would be told as cancelled, and as expired to somebody else."""
    book_scenarios.lapsed(seed)


@pytest.mark.parametrize("seed", range(10))
def test_what_an_older_script_left_of_the_best_prices_is_not_believed(seed: int) -> None:
    """Orders would meet nobody, or rest where they cross, after an update of one process of several."""
    book_scenarios.forgetful(seed)
