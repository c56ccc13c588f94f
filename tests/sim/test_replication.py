"""Two servers in virtual time: a mirror is its source again, whatever is lost, late, doubled, killed or promoted."""

from __future__ import annotations

import pytest

from tests.sim import replication_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(6))


def test_a_mirror_has_every_event_once_whoever_replicates(seed: int) -> None:
    """Dublin would lack an order, or have it twice."""
    scenarios.following(seed)


def test_nothing_late_is_written_to_a_promoted_mirror(seed: int) -> None:
    """Two sites would give out the same position to different events, and nobody would be told."""
    scenarios.promoting(seed)


def test_a_planned_switch_loses_nothing(seed: int) -> None:
    """An order that was placed before the switch would be gone after it."""
    scenarios.switching(seed)


def test_what_the_source_has_lost_is_told(seed: int) -> None:
    """The mirror would go on with another history from the middle."""
    scenarios.lost_at_the_source(seed)


def test_what_the_mirror_has_lost_is_read_again(seed: int) -> None:
    """A failover at the mirror would leave a gap there."""
    scenarios.lost_at_the_target(seed)


def test_only_what_fits_becomes_a_mirror(seed: int) -> None:
    """A typing error in a URL would end a store."""
    scenarios.refused(seed)


def test_a_fence_that_comes_late_closes_nothing(seed: int) -> None:
    """The new primary would refuse orders, and nobody would know why."""
    scenarios.late_fence(seed)


def test_what_never_crossed_is_set_aside_whoever_dies(seed: int) -> None:
    """An order would be lost that was placed when the first site burnt down, or the sites would never be one again."""
    scenarios.parting(seed)


def test_a_group_has_every_event_at_one_side_or_the_other(seed: int) -> None:
    """An order would never be billed: handled nowhere, because each side took it for the other's."""
    scenarios.grouped(seed)


def test_a_group_is_not_ahead_of_what_has_crossed(seed: int) -> None:
    """The first orders after a disaster would never be billed."""
    scenarios.ahead(seed)
