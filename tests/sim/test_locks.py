"""The exclusive lock in virtual time: what it promises holds whatever is lost, late, paused, killed or cancelled."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.sim import lock_scenarios as scenarios

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO

pytestmark = pytest.mark.parametrize("seed", range(25))


def test_no_two_holders_on_a_bad_day(seed: int) -> None:
    """Two processes would act at once, or a later one with a smaller fence."""
    scenarios.bad_day(seed)


def test_a_queue_is_served_in_order_of_arrival_without_polling(seed: int) -> None:
    """A hand-over would be unfair, or take as long as a poll."""
    scenarios.calm_queue(seed)


def test_a_lost_reply_never_costs_a_lease(seed: int) -> None:
    """A caller would wait for itself, or learn that it lost what it gave back."""
    scenarios.lost_replies(seed)


def test_the_dead_hold_nobody_up_for_long(seed: int) -> None:
    """A waiter that vanished, or a holder, would stop the queue."""
    scenarios.dead_waiters(seed)


def test_a_waiter_that_is_known_to_be_dead_is_passed_over(seed: int) -> None:
    """The lock would be handed to one who has been silent for ten seconds."""
    scenarios.silent_waiters(seed)
    scenarios.silent_queue(seed)


def test_a_cancelled_caller_leaves_nothing_behind(seed: int) -> None:
    """Also when it was just handed the lock: once, it handed the lock back to itself and everybody waited for it."""
    scenarios.cancelled(2 * seed)
    scenarios.cancelled(2 * seed + 1)


def test_a_free_lock_does_not_wait_for_a_waiter_that_overslept(seed: int) -> None:
    """Everybody would live, nobody hold the lock, and its queue stand still for up to 3.3 s."""
    scenarios.overslept(2 * seed)
    scenarios.overslept(2 * seed + 1)


def test_each_of_several_dead_waiters_costs_no_more_than_its_claim(seed: int) -> None:
    """One crash of a machine would stop a busy lock for ten seconds."""
    scenarios.fallen_queue(seed)


def test_the_waiters_of_a_dead_process_cost_nobody_anything(seed: int) -> None:
    """Each of them would cost a claim: a crashed machine with forty waiters would stop a lock for as many seconds."""
    scenarios.mass_death(seed)


def test_a_long_queue_asks_seldom(seed: int) -> None:
    """A thousand waiters would keep the server busy with nothing but signs of life."""
    scenarios.long_queue(seed)


def test_who_stands_still_with_its_connection_open_costs_a_claim(seed: int) -> None:
    """The server cannot tell it from the living."""
    scenarios.stopped_waiters(seed)


def test_who_could_not_hear_keeps_its_place(seed: int) -> None:
    """A broken connection for wake-ups would send a waiter to the end of the queue."""
    scenarios.deaf_waiter(seed)
    scenarios.deaf_head(seed)
    scenarios.deaf_alone(seed)


def test_a_newcomer_never_overtakes_a_queue_whose_holder_died(seed: int) -> None:
    """Whoever arrives at the right millisecond would be served first."""
    scenarios.crashed_holder(seed)


def test_nothing_of_a_dead_queue_stays(seed: int) -> None:
    """Keys would pile up for ever."""
    scenarios.killed_queue(seed)


def test_a_single_caller_never_waits_for_itself(seed: int) -> None:
    """A released lock would not be free."""
    scenarios.alone(seed)


def test_fences_rise_though_the_clock_is_set_back(seed: int) -> None:
    """A resource would refuse the rightful holder, or admit the old one."""
    scenarios.clock_set_back(seed)
    scenarios.queue_set_back(seed)


def test_fences_rise_though_the_server_lost_its_data(seed: int) -> None:
    """After a failover, a resource could not tell the old holder from the new one."""
    scenarios.lost_data(seed)


def test_a_lease_that_ended_early_is_known_with_the_next_renewal(seed: int) -> None:
    """A clock set forward ends leases early; their holders must not renew another's."""
    scenarios.clock_set_forward(seed)


def test_a_restart_of_the_server_sends_no_waiter_away(seed: int) -> None:
    """A waiter with seconds left would give up because the connection for wake-ups broke."""
    sim = scenarios.Simulation(seed)

    async def wait(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await scenarios.work(io, scenarios.LONG, steps=5)

    for place, name in enumerate("abc"):
        sim.start(name, wait, 0.1 * place)
    sim.at(0.5 + 0.02 * seed, lambda: sim.restart_server(1.0))
    sim.run(until=60.0)
    assert scenarios.mutual_exclusion(sim.history) == 3
    assert len(sim.history.of("released")) == 3


def test_a_late_word_never_makes_a_second_holder(seed: int) -> None:
    """A holder that began by a word would count its claim from when it heard of it, and not from when it began."""
    scenarios.late_words(seed)


def test_an_old_word_is_not_believed_when_the_clock_was_set_back(seed: int) -> None:
    """A hand-over that is long gone would look like one that is about to happen."""
    scenarios.stale_word(seed)


def test_a_clock_set_forward_lengthens_no_claim(seed: int) -> None:
    """The hand-over would seem to lie in the future, and the claim to last until long after its end."""
    scenarios.leap_before_a_word(seed)


def test_a_contended_cycle_costs_two_commands(seed: int) -> None:
    """Each hand-over would cost a claim, and thus a round trip more."""
    scenarios.brief_bodies(seed)


def test_a_word_that_was_lost_with_a_reply_is_said_again(seed: int) -> None:
    """A waiter of the releaser's own process would sleep through its claim."""
    scenarios.lost_word(seed)


def test_a_request_that_comes_late_holds_nothing(seed: int) -> None:
    """A caller that gave up, or one that has long released, would hold the lock for a whole ttl."""
    scenarios.late_requests(seed)


def test_newcomers_may_overtake_but_not_for_ever(seed: int) -> None:
    """``fair=False`` would starve a waiter, or be fair and slow."""
    scenarios.barging(seed)
    scenarios.barging_greedy(seed)
    scenarios.crashed_holder_unfair(seed)
    scenarios.barging_dead(seed)
