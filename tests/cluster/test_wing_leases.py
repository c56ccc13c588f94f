"""What a user of leased permits sees is the same on a cluster: the claims of tests/limits, made here."""

# ruff: noqa: F401 - pytest collects what is imported
from __future__ import annotations

import pytest

from gridsync.testing.servers import server_kinds
from tests.limits.test_leased import (
    grid,
    test_a_busy_key_asks_seldom_and_never_admits_too_many,
    test_a_child_of_a_fork_has_no_permits_of_its_parents,
    test_a_lease_that_nobody_closed_goes_back_too,
    test_an_idle_batch_goes_back_by_itself,
    test_costs_are_counted,
    test_nobody_takes_everything,
    test_several_rules_hold_at_once,
    test_threads_and_tasks_ask_once_for_all_of_them,
    test_what_is_unused_goes_back_when_it_is_closed,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
