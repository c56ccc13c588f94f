"""A simulation that finds nothing proves nothing: it must find the bugs that were planted."""

from __future__ import annotations

import pytest

from gridsync.errors import GridsyncError
from tests.sim.mutants import LIMITS, LOCKS, SEEDS_MAX, STREAMS, Mutant


@pytest.mark.parametrize("mutant", [*LOCKS, *LIMITS, *STREAMS], ids=lambda mutant: mutant.id)
def test_a_planted_bug_is_found(mutant: Mutant) -> None:
    """The unmodified scripts pass the same seeds: the other tests of this folder."""
    scripts = mutant.scripts()
    for seed in range(SEEDS_MAX):
        try:
            mutant.scenario(seed, scripts)
        except (AssertionError, GridsyncError):
            return
    pytest.fail(f"{SEEDS_MAX} seeds of {mutant.scenario.__name__} did not notice it")
