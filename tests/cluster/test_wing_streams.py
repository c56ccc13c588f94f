"""What a user of an event store sees is the same on a cluster: the claims of tests/streams, made here."""

# ruff: noqa: F401 - pytest collects what is imported
import pytest

from gridsync.testing.servers import server_kinds
from tests.streams.conftest import raw, world
from tests.streams.test_aggregate import test_a_snapshot_saves_reading, test_many_at_once_all_get_their_turn
from tests.streams.test_archive import test_each_partition_has_its_own_files
from tests.streams.test_cap import test_each_partition_has_its_share, test_no_group_is_given_up_in_vain
from tests.streams.test_commit import (
    test_a_commit_answers_for_each_stream,
    test_of_many_that_depend_on_the_same_streams_one_wins,
)
from tests.streams.test_consumer import (
    test_a_group_goes_on_where_it_was_and_starts_where_it_is_told,
    test_an_acknowledgement_of_a_stolen_delivery_does_nothing,
    test_every_event_is_handled_in_order_and_acknowledged,
    test_new_events_arrive_while_consuming,
    test_stop_finishes_what_runs_and_gives_the_rest_back_at_once,
    test_two_consumers_share_the_events,
    test_what_a_dead_consumer_held_is_taken_over_once,
)
from tests.streams.test_delivery import (
    test_a_commit_acknowledges_appends_and_keeps_state_at_once,
    test_a_handler_that_runs_again_changes_nothing,
    test_who_was_ousted_writes_nothing_and_is_told,
)
from tests.streams.test_erase import (
    test_it_is_erased_in_its_partition,
    test_nothing_that_was_decided_on_it_is_written_and_versions_go_on,
)
from tests.streams.test_keeper import test_each_partition_keeps_its_share_and_has_a_turn_of_its_own
from tests.streams.test_links import test_a_log_of_links_reads_as_a_log_of_copies_does
from tests.streams.test_look import test_a_group_says_how_far_it_has_got, test_a_store_says_what_it_holds
from tests.streams.test_ordered import (
    test_members_share_the_partitions_and_give_them_back,
    test_what_failed_holds_back_the_rest_of_its_stream_and_comes_again_in_order,
    test_what_is_there_is_handled_in_order_stream_by_stream,
    test_who_has_what_can_be_seen,
)
from tests.streams.test_outbox import (
    test_each_partition_that_sends_and_each_that_gets_is_told,
    test_other_partitions_are_reached_like_another_store,
    test_what_is_sent_is_there_once_and_in_order,
)
from tests.streams.test_partitions_read import (
    test_a_running_projection_follows_all_partitions_and_counts_once,
    test_a_subscription_goes_from_the_past_into_the_present_of_every_partition,
    test_dead_letters_of_all_partitions_lie_together,
    test_what_comes_while_it_is_consumed_is_handled_and_stop_ends_it,
)
from tests.streams.test_projection import (
    test_a_view_and_its_checkpoint_go_together,
    test_it_goes_on_until_it_is_stopped,
    test_several_that_run_it_count_every_event_once,
)
from tests.streams.test_retention import (
    test_a_group_that_nobody_consumes_any_more_can_be_given_up,
    test_projections_and_registered_readers_keep_what_they_have_not_had,
)
from tests.streams.test_store import (
    test_an_append_answers_with_version_and_position,
    test_eight_writers_leave_no_gap,
    test_of_many_that_expect_one_version_one_wins,
    test_reading_goes_page_by_page_and_stops_where_it_is_told,
    test_what_cannot_be_read_is_named_and_does_not_hide_what_stands_before_it,
)
from tests.streams.test_subscription import test_nothing_is_left_out_or_given_twice_while_writers_go_on

pytestmark = pytest.mark.parametrize("cluster", server_kinds()[:1], ids=str, indirect=True)
