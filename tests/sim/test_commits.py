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


def test_what_came_of_a_lost_event_is_not_that_of_another(seed: int) -> None:
    """After a failover an event would be settled with what was made of one that is no longer there."""
    scenarios.lost_in_work(seed)


def test_what_is_sent_to_another_store_is_there_once(seed: int) -> None:
    """An order would be billed twice in the other store, or never."""
    scenarios.across(seed)


def test_what_is_sent_after_a_failover_is_not_taken_for_what_that_has_lost(seed: int) -> None:
    """An order would never be billed, for its number was given before to another one."""
    scenarios.sender_fails_over(seed)


def test_a_lost_consignment_is_told(seed: int) -> None:
    """The other store would miss an event, and nobody would know."""
    scenarios.lost_consignment(seed)
