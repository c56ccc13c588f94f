"""Semaphores and reader-writer locks in virtual time."""

from __future__ import annotations

import pytest

from tests.sim import share_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_never_more_permits_than_there_are(seed: int) -> None:
    """More workers than the resource stands would act at once."""
    scenarios.rough_permits(seed)


def test_a_writer_is_alone(seed: int) -> None:
    """A reader would see a half-written book."""
    scenarios.rough_book(seed)


def test_readers_come_in_together_and_behind_a_waiting_writer(seed: int) -> None:
    """Writers would starve, or readers wait for each other."""
    scenarios.in_order(seed)


def test_a_dead_reader_is_forgotten_though_others_renew(seed: int) -> None:
    """One lease for all readers would let the living keep the dead alive."""
    scenarios.dead_reader(seed)


def test_a_resize_takes_effect_at_once_and_takes_nothing_away(seed: int) -> None:
    """Free permits would wait for a poll, or a holder lose what it was given."""
    scenarios.resized(seed)


def test_a_downgrade_lets_readers_in_and_no_writer(seed: int) -> None:
    """Another writer could change what the first one goes on reading."""
    scenarios.downgraded(seed)


def test_nothing_of_the_dead_stays_taken_while_others_hold(seed: int) -> None:
    """Permits would leak, one crash and one lost reply at a time."""
    scenarios.crowded(seed)


def test_one_holder_of_permits_is_revoked_and_told_and_nobody_else(seed: int) -> None:
    """An operator would free nothing, or stop those who did no harm."""
    scenarios.revoked(seed)


def test_who_cannot_hear_of_its_turn_is_passed_over_and_keeps_its_place(seed: int) -> None:
    """A process that was killed while it waited would cost everybody a second of idle permits."""
    scenarios.deaf_waiter(seed)


def test_who_cannot_hear_is_passed_over_also_when_the_holder_vanished(seed: int) -> None:
    """After a crash of holder and waiter the next one would wait for both."""
    scenarios.deaf_head(seed)


def test_permits_are_kept_for_one_who_cannot_hear_if_nobody_else_waits(seed: int) -> None:
    """A newcomer would overtake whoever loses a connection for a moment."""
    scenarios.deaf_alone(seed)


def test_what_a_vanished_waiter_wished_for_delays_nobody(seed: int) -> None:
    """One who wanted many permits and was killed would hold up all others until it no longer counts as alive."""
    scenarios.dead_wish(seed)


def test_a_vanished_waiter_keeps_free_permits_from_nobody_for_longer_than_a_claim(seed: int) -> None:
    """Whoever only tries would be refused though all permits are free, until the dead no longer counts as alive."""
    scenarios.dead_alone(seed)


def test_what_two_hold_is_free_when_they_have_gone_though_it_was_evicted(seed: int) -> None:
    """A semaphore in constant use would lose permits for good on a server that evicts keys."""
    scenarios.evicted(seed)
