"""Leases in virtual time: blocks are interrupted in time, and what nobody needs any more is given back."""

from __future__ import annotations

import pytest

from tests.sim import lease_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_a_block_that_never_looks_is_interrupted_before_the_next_one_begins(seed: int) -> None:
    """Two processes would act at once whenever Redis is away for longer than a lease."""
    scenarios.interrupted(seed)


def test_a_block_that_lasts_too_long_is_interrupted_and_the_next_one_comes_at_once(seed: int) -> None:
    """A job that hangs would hold everybody up for ever, or for a whole lease after its end."""
    scenarios.bounded(seed)


def test_a_revoked_holder_is_told_at_once_and_the_next_one_is_served(seed: int) -> None:
    """An operator would have to wait for the lease's end, and its holder would learn of it by its failures."""
    scenarios.revoked(seed)


def test_a_look_tells_the_holder_and_who_waits_in_order(seed: int) -> None:
    """An operator would take the lock away from the wrong one."""
    scenarios.looked(seed)


def test_a_lease_that_nobody_can_release_is_given_back(seed: int) -> None:
    """It would be renewed for as long as its process lives."""
    scenarios.forgotten(seed)
