"""The event store and its groups in virtual time: what they promise holds whatever is lost, late, paused or killed."""

from __future__ import annotations

import pytest

from tests.sim import stream_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(15))


def test_every_acknowledged_append_is_stored_once_and_without_gaps(seed: int) -> None:
    """Money would be booked twice, or a reader would miss an order."""
    scenarios.appends(seed)


def test_a_commit_of_several_streams_is_written_whole_and_what_it_checked_was_true(seed: int) -> None:
    """Money would leave one account and reach no other, or be spent twice."""
    scenarios.transfers(seed)


def test_a_commit_sent_again_is_answered_although_what_it_checked_has_moved_on(seed: int) -> None:
    """Whoever repeats after a lost reply would be told that nothing was written."""
    scenarios.moved_on(seed)


def test_a_reader_sees_every_event_once_and_in_order(seed: int) -> None:
    """A balance that is added up from events would be wrong."""
    scenarios.followers(seed)


def test_a_reader_is_told_when_a_failover_lost_what_it_saw(seed: int) -> None:
    """It would add events of one history to those of another."""
    scenarios.lost_tail(seed)


def test_a_decision_is_made_on_all_that_came_before_it(seed: int) -> None:
    """The last kilowatt-hour would be sold twice."""
    scenarios.decisions(seed)


def test_a_snapshot_never_says_what_was_not(seed: int) -> None:
    """A balance would come back that a failover undid, or an older one than was seen."""
    scenarios.late_snapshots(seed)


def test_no_snapshot_is_made_of_what_a_failover_undid(seed: int) -> None:
    """A balance of two histories would be kept for good."""
    scenarios.lost_while_deciding(seed)


def test_every_event_counts_once_in_a_view(seed: int) -> None:
    """A total would be wrong, and nothing would ever correct it."""
    scenarios.projections(seed)


def test_the_same_ids_in_two_streams_are_two_events(seed: int) -> None:
    """An event would be taken for a replay of another stream's."""
    scenarios.same_ids(seed)


def test_every_event_is_handled_whatever_happens_to_its_consumer(seed: int) -> None:
    """An order would never be billed."""
    scenarios.consumers(seed)


def test_an_acknowledgement_is_about_the_event_that_was_handled(seed: int) -> None:
    """After a failover an event that nobody has handled would be done, for it has the position of a lost one."""
    scenarios.lost_before_the_ack(seed)


def test_a_lost_group_skips_nothing(seed: int) -> None:
    """After a failover that did not know the group, events would be passed over."""
    scenarios.lost_group(seed)


def test_what_a_failover_put_at_positions_that_were_in_work_is_handled_and_its_loss_told(seed: int) -> None:
    """An event would count as done because another one had its position before."""
    scenarios.lost_deliveries(seed)


def test_a_slow_handler_keeps_its_events(seed: int) -> None:
    """Two consumers would do the same work at once."""
    scenarios.calm_group(seed)


def test_who_leaves_gives_back_what_it_holds(seed: int) -> None:
    """The next consumer would wait for a minute, or for ever."""
    scenarios.leaving(seed)


def test_what_a_lost_reply_delivered_is_not_forgotten(seed: int) -> None:
    """An event would wait for the claim time, here ten minutes."""
    scenarios.lost_reads(seed)


def test_a_consumer_that_stood_still_changes_nothing_of_what_was_taken_over(seed: int) -> None:
    """An event that another is still working on would count as done."""
    scenarios.stolen(seed)
