"""A stream that is erased is missing to nobody, and never comes back."""

from __future__ import annotations

import pytest

from tests.sim import erase_scenarios as scenarios


@pytest.mark.parametrize("seed", range(5))
def test_readers_pass_over_what_was_erased_and_nothing_of_it_comes_back(seed: int) -> None:
    """Readers would stop for good, or what somebody had a right to be forgotten would be written again."""
    scenarios.erasing(seed)


@pytest.mark.parametrize("seed", range(4))
def test_an_erasure_that_broke_off_is_ended_by_the_next_one(seed: int) -> None:
    """A part would stay in the log for ever, or one that was done would be called refused."""
    scenarios.broken_off(seed)
