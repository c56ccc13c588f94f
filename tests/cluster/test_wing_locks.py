"""What a user of a lock sees is the same on a cluster: the claims of tests/locks, made here."""

# ruff: noqa: F401 - pytest collects what is imported
import pytest

from gridsync.testing.servers import server_kinds
from tests.locks.conftest import look
from tests.locks.test_lock import (
    test_a_block_holds_the_lock_and_gives_it_back,
    test_a_block_whose_lease_was_lost_says_so_at_its_end,
    test_a_hundred_waiters_all_get_their_turn,
    test_a_lease_is_renewed_for_much_longer_than_its_ttl,
    test_a_lock_is_handed_over_without_anybody_between,
    test_a_lost_lease_is_told_once_and_to_everybody,
    test_an_extension_of_a_lost_lease_says_so,
    test_first_come_first_served,
    test_one_lock_object_serves_many_at_once,
    test_releasing_twice_is_safe,
    test_the_timeout_says_what_was_waited_for_and_leaves_the_queue,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
