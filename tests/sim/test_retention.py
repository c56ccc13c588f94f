"""Retention in virtual time: nothing goes that somebody needs, whatever is lost, late, paused or killed."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given, note, settings
from hypothesis import strategies as st

from gridsync.streams._joining import join
from gridsync.testing.sim import Simulation
from tests.sim import retention_scenarios as scenarios
from tests.sim.stream_scenarios import KEYS, Placed, open_store

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO

seeds = pytest.mark.parametrize("seed", range(12))


GROUPS = st.sampled_from(["g", "h"])
COUNTS = st.integers(1, 4)
STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.just(""), COUNTS),
        st.tuples(st.sampled_from(["read", "ack", "ack", "park", "lose"]), GROUPS, COUNTS),
        st.tuples(st.sampled_from(["note", "project"]), st.sampled_from(["r", "s"]), COUNTS),
        st.tuples(st.just("trim"), st.just(""), COUNTS),
    ),
    max_size=40,
)


@settings(max_examples=150, deadline=None, derandomize=True)
@given(STEPS)
def test_whatever_is_read_acknowledged_put_aside_lost_and_trimmed_everybody_gets_every_event(
    steps: list[tuple[str, str, int]],
) -> None:
    """The model: of each holder the positions that it has had; what it has not had must be in the log."""
    note(steps)
    sim = Simulation("trims")
    execute = sim.server.engine.execute
    done: dict[str, set[int]] = {}
    places: dict[str, int] = {}

    async def group(io: SimIO, what: str, who: str, count: int) -> None:
        if who not in done:
            done[who] = set(range(1, scenarios.ends(sim)[0]))
        await join(io, KEYS, who, from_now=False)
        pending = execute("XPENDING", KEYS.log, who, "-", "+", "100")
        if what == "read":
            execute("XREADGROUP", "GROUP", who, "one", "COUNT", str(count), "STREAMS", KEYS.log, ">")
        elif what == "lose":
            execute("XGROUP", "DESTROY", KEYS.log, who)
        elif pending:
            entry_id = pending[count % len(pending)][0]
            if what == "ack":
                execute("XACK", KEYS.log, who, entry_id)
                done[who].add(int(entry_id[:-2]))
            else:
                execute("XCLAIM", KEYS.log, who, "~parked", "0", entry_id, "JUSTID")

    async def play(io: SimIO) -> None:
        store, last = open_store(io), 1
        await store.append("anna", Placed(item="x"))
        for what, who, count in steps:
            if what == "append":
                await store.append("anna", [Placed(item="x")] * count)
            elif what == "trim":
                await store.trim(max_count=count)
            elif what in ("note", "project"):
                places[what + who] = min(last, places.get(what + who, scenarios.ends(sim)[0] - 1) + count)
                if what == "note":
                    await store.note_reader(who, places[what + who])
                else:
                    execute("HSET", KEYS.places, who, str(places[what + who]))
            else:
                await group(io, what, who, count)
            first, last = scenarios.ends(sim)
            for holder, position in places.items():
                assert first <= min(position + 1, last), f"{holder} is at {position}, and the log begins at {first}"
            for holder, its in done.items():
                left = set(range(1, last)) - its
                assert not left or first <= min(left), f"{holder} has not had {left}, and the log begins at {first}"

    sim.start("a", play)
    sim.run(until=600.0)


@seeds
def test_no_event_is_removed_before_everybody_has_had_it(seed: int) -> None:
    """An order would never be billed, and nobody would know of it."""
    scenarios.trimming(seed)


@seeds
def test_by_age_exactly_what_is_old_enough_goes(seed: int) -> None:
    """Memory would fill, or a day too few would be kept."""
    scenarios.by_age(seed)


@seeds
def test_a_group_that_was_given_up_is_told_so(seed: int) -> None:
    """It would go on as if it had had everything."""
    scenarios.told(seed)


@pytest.mark.parametrize("seed", range(4))
def test_each_turn_is_one_process_s_that_knows_of_it(seed: int) -> None:
    """All would do the work of one, or nobody would for as long as a key lasts that no one looks after."""
    scenarios.turns(seed)


def test_a_pull_that_comes_late_delivers_nothing() -> None:
    """What it took would be pending with an owner that never heard of it, and stop its partition for a while."""
    scenarios.late_pull(0)
