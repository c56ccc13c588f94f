"""Once per period in virtual time: no period twice, whatever is lost, late, or set back."""

from __future__ import annotations

import pytest

from tests.sim import once_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_every_period_has_one_run_though_replies_are_lost(seed: int) -> None:
    """A period whose winner never learned of it would have none."""
    scenarios.every_period(seed)


def test_no_period_runs_twice_though_the_clock_is_set(seed: int) -> None:
    """Mails would go out twice when a server's clock is corrected."""
    scenarios.changed_clock(seed)
