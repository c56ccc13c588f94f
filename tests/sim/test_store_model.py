"""The event store against a model of itself: whatever is sent, lost, repeated or killed, there is one gapless history.

Hypothesis draws what three clients do and what happens to their requests, and shrinks what fails to the few steps that
matter.
"""

from __future__ import annotations

import time
from random import Random

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from tests.sim import store_programs


@settings(max_examples=150, deadline=None, derandomize=True)
@given(st.randoms(use_true_random=False))
def test_any_interleaving_of_appends_crashes_and_replays_gives_one_gapless_history(random: Random) -> None:
    """Each request is answered as a brute-force model answers it, and in the end both hold the same events."""
    steps = store_programs.program(random)
    note(steps)
    store_programs.run("model", steps)


@pytest.mark.faults
def test_longer_programs_give_one_gapless_history_too(fresh_seed: int, soak_s: float) -> None:
    """Anew each time, for as long as there is."""
    until, number = time.monotonic() + soak_s, 0
    while time.monotonic() < until:
        number += 1
        seed = f"{fresh_seed}, program {number}"
        store_programs.run(seed, store_programs.program(Random(seed), length=60))
