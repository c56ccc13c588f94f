"""What a user of a channel sees is the same on a cluster: the claims of tests/fanout, made here."""

# ruff: noqa: F401 - pytest collects what is imported
from __future__ import annotations

import pytest

from gridsync.testing.servers import server_kinds
from tests.fanout.conftest import fan, open_fan, open_grid
from tests.fanout.test_channel import (
    test_a_slow_client_is_cut_off_and_reads_the_rest_in_the_history,
    test_an_id_is_published_once,
    test_members_are_present_while_they_are_subscribed,
    test_what_is_published_reaches_every_process_in_order,
    test_who_comes_back_gets_exactly_what_it_missed,
    test_who_missed_more_than_is_kept_is_told,
)
from tests.fanout.test_life import test_a_channel_is_left_and_entered_again

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
