"""Near caches in virtual time: nobody goes back, and nothing is older than is said."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from gridsync._io import copies as store
from gridsync._io import links
from gridsync.cache import _near
from gridsync.errors import GridsyncError
from tests.sim import near_scenarios as scenarios

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.sim import Simulation

SEEDS_MAX = 25


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize(
    "scenario",
    [scenarios.overwritten, scenarios.delayed, scenarios.cut, scenarios.silent, scenarios.invalidated],
    ids=lambda s: s.__name__,
)
def test_no_process_goes_back_or_is_served_what_is_too_old(scenario: Callable[[int], Simulation], seed: int) -> None:
    """A balance that was seen after a payment would be the one before it again."""
    scenario(seed)


class _Unmarked(store.Copies):
    """Keeps what was read although an invalidation came meanwhile."""

    def _unmark(self, key: str) -> None:
        pass


class _Deaf(store.Copies):
    """Forgets nothing of its own."""

    def forget(self, key: str) -> None:
        pass


class _Tagless(store.Copies):
    """Asks for the versions of tags without a mark."""

    def mark_tags(self, read: object, names: object) -> None:
        pass


class _Trusting(links.Link):
    """Believes for ever what was proved once."""

    __slots__ = ()

    def prove(self, proved: float) -> None:
        super().prove(proved + 1e9)


@pytest.mark.parametrize(
    ("bug", "scenario"),
    [
        (_Unmarked, scenarios.silent),
        (_Deaf, scenarios.delayed),
        (_Tagless, scenarios.invalidated),
        (_Trusting, scenarios.silent),
    ],
    ids=lambda value: getattr(value, "__name__", value),
)
def test_a_bug_planted_in_the_near_cache_is_found(
    monkeypatch: pytest.MonkeyPatch, bug: type, scenario: Callable[[int], Simulation]
) -> None:
    """The unmodified code passes the seeds of the test above."""
    module, name = (links, "Link") if bug is _Trusting else (_near, "Copies")
    monkeypatch.setattr(module, name, bug)
    for seed in range(SEEDS_MAX):
        try:
            scenario(seed)
        except (AssertionError, GridsyncError):
            return
    pytest.fail(f"{SEEDS_MAX} seeds of {scenario.__name__} did not notice it")
