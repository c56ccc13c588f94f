"""Fan-out in virtual time: every client is given everything once and in order, or told what it misses."""

from __future__ import annotations

import pytest

from tests.sim import fanout_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(5))


def test_nothing_is_asked_for_while_messages_arrive(seed: int) -> None:
    """A thousand clients would ask a thousand times."""
    scenarios.calm(seed)


def test_everything_arrives_once_and_in_order_whatever_is_lost_on_the_way(seed: int) -> None:
    """A price would be skipped, or an old one shown after a new one."""
    scenarios.rough(seed)


def test_a_message_that_was_lost_before_a_silence_is_found(seed: int) -> None:
    """The last price of the day would not be shown before the next morning."""
    scenarios.quiet(seed)


def test_somebody_looks_for_all_who_wait_without_end(seed: int) -> None:
    """As above, if the one who looks for the others has left."""
    scenarios.guarded(seed)


def test_nothing_is_lost_between_the_history_and_what_is_heard(seed: int) -> None:
    """Each reconnection would be a chance to miss something."""
    scenarios.cut_off(seed)


def test_a_server_that_forgot_everything_is_noticed_by_everybody(seed: int) -> None:
    """Clients would take offsets of one life for those of another."""
    scenarios.reborn(seed)


def test_a_failover_that_lost_publications_is_noticed_by_those_who_read_them(seed: int) -> None:
    """They would miss what took the offsets of those, and never know."""
    scenarios.forked(seed)


def test_who_missed_more_than_is_kept_is_told_how_much(seed: int) -> None:
    """It would show a book with holes."""
    scenarios.short(seed)


def test_a_slow_client_is_told_what_it_did_not_read(seed: int) -> None:
    """As above, for a client on a bad line."""
    scenarios.slow(seed)


def test_a_slow_client_that_conflates_is_told_what_it_did_not_read(seed: int) -> None:
    """As above, for one that wants the newest of each key."""
    scenarios.conflated(seed)


def test_a_slow_client_that_is_cut_off_reads_the_rest_in_the_history(seed: int) -> None:
    """It would lose what was in its queue."""
    scenarios.resumed(seed)


def test_members_are_seen_while_they_are_there(seed: int) -> None:
    """A trader who left an hour ago would look present, or one at his desk absent."""
    scenarios.present(seed)
