"""Handlers that commit, in virtual time: what comes of an event comes of it once, whatever dies or is lost."""

from __future__ import annotations

import pytest

from tests.sim import commit_scenarios as scenarios

pytestmark = pytest.mark.parametrize("seed", range(15))


def test_a_chain_of_groups_has_each_effect_once(seed: int) -> None:
    """An order would be traded twice, or billed never."""
    scenarios.chain(seed)


def test_a_commit_whose_reply_was_lost_is_a_commit(seed: int) -> None:
    """A handler would be told that another consumer has its event, and nobody has."""
    scenarios.lost_replies(seed)


def test_who_was_ousted_commits_nothing(seed: int) -> None:
    """A process that wakes up would write over what another has made of the event since."""
    scenarios.ousted(seed)
