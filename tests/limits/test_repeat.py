"""A hit whose reply was lost is sent again: it counts once."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import pytest

from gridsync._io import run_sync
from gridsync._io.keys import limit
from gridsync.limits._core import Windows
from tests.limits.conftest import Verdict, ask

if TYPE_CHECKING:
    import redis

    from tests.limits.conftest import PlainIO

HOUR = 3_600_000_000
START = 60_000_000_000_000
RULES = {"one rule": [(10, HOUR)], "two rules": [(10, HOUR), (15, 2 * HOUR)]}


@pytest.fixture(params=RULES)
def windows(request: pytest.FixtureRequest, io: PlainIO) -> Windows:
    io.set_clock(START)
    return Windows(io, "t", "w", RULES[request.param])


def _hit(io: PlainIO, windows: Windows, token: str, repeat_us: int = 0, cost: int = 1) -> Verdict:
    tokens, io.token, io.repeat_us = io.token, lambda: token, repeat_us
    try:
        return ask(windows.hit("k", cost))
    finally:
        io.token, io.repeat_us = tokens, 0


def test_a_repeat_finds_its_first_attempt(io: PlainIO, windows: Windows) -> None:
    """Also behind the hits of others, and when the window has filled up meanwhile."""
    assert _hit(io, windows, "aaaaaaaaaaaa7", cost=4).remaining == 6
    for left in (5, 4, 3, 2, 1, 0):
        assert ask(windows.hit("k", 1)).remaining == left
    io.set_clock(START + 5_000_000)
    again = _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=5_000_100, cost=4)
    assert (again.retry_us, again.remaining) == (0, 0)
    assert ask(windows.peek("k", 1)).remaining == 0


def test_a_repeat_that_was_held_up_on_its_way_finds_its_first_attempt(io: PlainIO, windows: Windows) -> None:
    """It says how old it was when it left, not when it arrived."""
    assert _hit(io, windows, "aaaaaaaaaaaa7", cost=4).remaining == 6
    assert ask(windows.hit("k", 1)).remaining == 5
    io.set_clock(START + 4_900_000)
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=1_000, cost=4).remaining == 5


def test_a_repeat_whose_first_attempt_never_arrived_counts(io: PlainIO, windows: Windows) -> None:
    ask(windows.hit("k", 1))
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=100).remaining == 8
    assert _hit(io, windows, "aaaaaaaaaaaa8", repeat_us=100).remaining == 7
    assert _hit(io, windows, "aaaaaaaaaaab7", repeat_us=100).remaining == 6


def test_a_repeat_of_a_denied_hit_is_decided_anew(io: PlainIO, windows: Windows) -> None:
    """Nothing was taken, so there is nothing to find."""
    ask(windows.hit("k", 10))
    assert _hit(io, windows, "aaaaaaaaaaaa7").retry_us > 0
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=100).retry_us > 0
    run_sync(windows.reset("k"))
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=100).retry_us == 0


def test_a_repeat_is_found_although_the_server_clock_stepped_back(io: PlainIO, windows: Windows) -> None:
    _hit(io, windows, "aaaaaaaaaaaa7")
    io.set_clock(START - 30_000_000)
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=1_000).remaining == 9


def test_a_repeat_after_the_window_never_puts_two_into_one_window(io: PlainIO, windows: Windows) -> None:
    """The first attempt may be forgotten by then; it has left every window."""
    _hit(io, windows, "aaaaaaaaaaaa7")
    io.set_clock(START + 2 * HOUR)
    assert _hit(io, windows, "aaaaaaaaaaaa7", repeat_us=2 * HOUR).retry_us == 0
    assert ask(windows.peek("k", 1)).remaining >= 9


def test_ids_of_hits_differ_within_and_between_processes(io: PlainIO, client: redis.Redis) -> None:
    windows = Windows(io, "t", "w", [(10_000, HOUR)], tick_us=0)
    for process, count in itertools.product(("abcdefghijkl", "abcdefghijkm"), (0, 15, 16, 0xFFFFF, 0x100001)):
        _hit(io, windows, f"{process}{count:x}")
    ids = {member[-10:] for member in client.zrange(limit("t", "w", "k"), 0, -1)}
    assert len(ids) == 10
