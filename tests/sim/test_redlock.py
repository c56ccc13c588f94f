"""The lock on several masters in virtual time: exclusion and rising fences, whatever is lost, late or forgotten."""

from __future__ import annotations

import pytest

from tests.sim import redlock_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(10))


def test_no_two_holders_on_a_bad_day(seed: int) -> None:
    """Two processes would act at once, or a later one with a smaller fence."""
    scenarios.bad_day(seed)


def test_partitions_cost_time_and_never_exclusion(seed: int) -> None:
    """A process that reaches only a minority would hold what the others hold."""
    scenarios.partitions(seed)


def test_a_master_that_forgot_does_not_vote_twice(seed: int) -> None:
    """A restart without persistence would let a second holder in."""
    scenarios.forgetful(seed)
    scenarios.forgets_under_a_lease(seed)


def test_a_holder_hears_of_a_rival_that_came_and_went(seed: int) -> None:
    """A lease that was lost in between would go on as if nothing had been."""
    scenarios.flushed_twice(seed)


def test_a_vote_that_was_lost_is_asked_for_anew(seed: int) -> None:
    """One restart after the other would take a lease away that a majority held all the time."""
    scenarios.forgets_one(seed)


def test_fences_rise_though_no_master_sees_every_holder(seed: int) -> None:
    """Two majorities have only one master in common, and clocks that are half a minute apart order nothing."""
    scenarios.fences(seed)


def test_fences_rise_though_every_master_forgot_them(seed: int) -> None:
    """A resource would refuse the rightful holder."""
    scenarios.lost_fences(seed)


def test_waiters_are_woken_and_do_not_poll(seed: int) -> None:
    """Each waiter would cost its masters requests for as long as it waits."""
    scenarios.calm_turns(seed)


def test_a_cancelled_caller_leaves_nothing_behind(seed: int) -> None:
    """The lock would be held by nobody until its ttl ends."""
    for part in range(5):
        scenarios.cancelled(5 * seed + part)


def test_a_request_that_comes_late_holds_nothing(seed: int) -> None:
    """The release would overtake the acquire of the same caller."""
    scenarios.late_requests(seed)


def test_who_waits_hears_of_a_release_though_a_master_is_away(seed: int) -> None:
    """One master less, and each hand-over would take a second."""
    scenarios.one_away(seed)


def test_a_vote_that_went_to_another_is_not_confirmed(seed: int) -> None:
    """A process that stood still between the two phases would hold what a rival holds."""
    scenarios.voted_twice(seed)


def test_a_renewal_that_comes_after_the_release_takes_nothing(seed: int) -> None:
    """The lock would be held again, by nobody, until the ttl ends."""
    scenarios.late_renewals(seed)


def test_a_vote_whose_reply_was_lost_is_counted(seed: int) -> None:
    """A free lock would be refused, and stay taken by the one who was refused."""
    scenarios.lost_votes(seed)


def test_a_clock_that_is_set_to_before_a_masters_start_is_no_error(seed: int) -> None:
    """A server tells a negative uptime then, and who asked for the lock got an exception."""
    scenarios.before_its_start(seed)


def test_a_release_that_comes_late_takes_no_later_vote(seed: int) -> None:
    """Who gave votes back and asked again would hold the lock with a vote that is gone, and a rival beside it."""
    scenarios.late_releases(seed)


def test_a_clock_that_is_set_forward_gives_a_restarted_master_no_vote(seed: int) -> None:
    """It tells an uptime of an hour, and who believed that would hold what another holds."""
    scenarios.set_forward(seed)
