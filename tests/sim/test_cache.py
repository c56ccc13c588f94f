"""The cache in virtual time: one load at a time, nothing old after an invalidation, whatever is lost."""

from __future__ import annotations

import pytest

from tests.sim import cache_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_nobody_is_served_what_was_read_before_a_delete_that_has_returned(seed: int) -> None:
    """A load under way would bring the old value back, for a whole ttl."""
    scenarios.deleted(seed)


def test_no_load_overwrites_what_was_set_since_it_began(seed: int) -> None:
    """The balance after a payment would be the one before it."""
    scenarios.overwritten(seed)


def test_nobody_is_served_what_was_read_before_its_tag_was_invalidated(seed: int) -> None:
    """The same, for all that was stored under a tag."""
    scenarios.invalidated(seed)


def test_one_process_loads_at_a_time_though_replies_are_lost(seed: int) -> None:
    """The source would be flattened when a value ends."""
    scenarios.loaded_once(seed)


def test_a_load_that_takes_longer_than_its_lease_is_not_begun_by_another_process(seed: int) -> None:
    """The slowest loads are those that must not run twice."""
    scenarios.slow_loads(seed)


def test_a_load_whose_process_dies_is_taken_over(seed: int) -> None:
    """All who wait would wait for ever."""
    scenarios.killed_loader(seed)
