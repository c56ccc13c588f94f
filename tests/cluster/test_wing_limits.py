"""What a user of a limiter sees is the same on a cluster: the claims of tests/limits, made here."""

# ruff: noqa: F401 - pytest collects what is imported
from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync.testing.servers import server_kinds
from tests.limits.test_api import (
    driver,
    test_a_cost_above_the_limit_says_never_and_takes_nothing,
    test_a_decision_tells_what_is_left_and_when_to_come_back,
    test_eight_threads_never_exceed_the_limit,
    test_every_key_expires_after_every_call,
    test_peek_takes_nothing,
    test_the_async_twin_says_the_same,
    test_the_rule_that_binds_is_named,
    test_waiting_as_long_as_told_is_enough,
)
from tests.limits.test_refund import (
    test_a_refund_frees_what_the_hit_took_and_nothing_else,
    test_after_a_reset_nothing_is_given_back,
)
from tests.limits.test_reserve import test_a_wait_is_slept_through, test_who_cannot_be_served_in_time_learns_it_at_once
from tests.limits.test_rules import (
    test_a_block_holds_its_slot_and_gives_it_back,
    test_buckets_make_callers_wait_in_line,
    test_every_call_means_the_same_whatever_counts,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)

if TYPE_CHECKING:
    from collections.abc import Iterator

    import redis

    from gridsync.testing.cluster import RedisCluster


@pytest.fixture
def client(flushed: RedisCluster) -> Iterator[redis.RedisCluster]:
    with flushed.client(decode_responses=True) as client:
        yield client
