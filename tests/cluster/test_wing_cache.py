"""What a user of a cache sees is the same on a cluster: the claims of tests/cache, made here."""

# ruff: noqa: F401 - pytest collects what is imported
from __future__ import annotations

import pytest

from gridsync.testing.servers import server_kinds
from tests.cache.conftest import grid, open_grid, raw
from tests.cache.test_cache import (
    test_a_tag_that_the_server_dropped_takes_its_values_along,
    test_every_key_expires,
    test_many_are_read_and_written_at_once,
    test_none_is_a_value_with_a_ttl_of_its_own,
    test_tags_invalidate_what_was_stored_under_them_and_nothing_else,
    test_what_another_program_wrote_counts_as_missing,
)
from tests.cache.test_loading import (
    test_a_fleet_that_warms_loads_each_key_once,
    test_a_load_whose_process_died_is_taken_over_when_its_lease_ends,
    test_a_slow_load_keeps_its_lease,
    test_a_value_past_its_ttl_is_served_while_one_caller_loads_it_again,
    test_an_invalidation_beats_a_load_that_is_under_way,
    test_many_callers_of_several_processes_make_one_load,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
