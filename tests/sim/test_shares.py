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
