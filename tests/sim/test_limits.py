"""Every decision of the shipped limiter scripts in bad weather, held against a model."""

from __future__ import annotations

import pytest

from tests.sim import limit_scenarios as scenarios


@pytest.mark.parametrize("seed", range(40))
def test_every_decision_is_exact_whatever_is_lost_late_or_repeated(seed: int) -> None:
    """A hit would count twice, also if its repeat was held up in a buffer, or a window would hold too much."""
    scenarios.decisions(seed)


@pytest.mark.parametrize("seed", range(20))
def test_every_reservation_has_the_earliest_moment_and_is_not_overtaken(seed: int) -> None:
    """Who waits would be overtaken, or two would have the same place."""
    scenarios.bookings(seed)


@pytest.mark.parametrize("seed", range(40))
def test_hits_that_share_entries_never_overflow_a_window_and_leave_it_late_by_less_than_a_tick(seed: int) -> None:
    """A limit would be exceeded, or callers kept out for longer than the documentation says."""
    scenarios.merged(seed)


@pytest.mark.parametrize("seed", range(25))
def test_no_window_holds_more_leased_permits_than_its_limit(seed: int) -> None:
    """Six processes that decide by themselves would together admit more than was promised."""
    scenarios.leases(seed)


@pytest.mark.parametrize("seed", range(10))
def test_who_overslept_uses_no_permit_that_is_counted_as_used(seed: int) -> None:
    """After a pause of the process, permits of a minute ago would come on top of the limit."""
    scenarios.overslept(seed)
