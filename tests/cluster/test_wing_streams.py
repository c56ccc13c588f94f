"""What a user of an event store sees is the same on a cluster: the claims of tests/streams, made here."""

# ruff: noqa: F401 - pytest collects what is imported
import pytest

from gridsync.testing.servers import server_kinds
from tests.streams.conftest import raw, world
from tests.streams.test_consumer import (
    test_a_group_goes_on_where_it_was_and_starts_where_it_is_told,
    test_an_acknowledgement_of_a_stolen_delivery_does_nothing,
    test_every_event_is_handled_in_order_and_acknowledged,
    test_new_events_arrive_while_consuming,
    test_stop_finishes_what_runs_and_gives_the_rest_back_at_once,
    test_two_consumers_share_the_events,
    test_what_a_dead_consumer_held_is_taken_over_once,
)
from tests.streams.test_store import (
    test_an_append_answers_with_version_and_position,
    test_eight_writers_leave_no_gap,
    test_of_many_that_expect_one_version_one_wins,
    test_reading_goes_page_by_page_and_stops_where_it_is_told,
    test_what_cannot_be_read_is_named_and_does_not_hide_what_stands_before_it,
)

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
