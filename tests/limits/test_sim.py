"""The shipped scripts in bad weather: lost and late messages, pauses, restarts, several processes, virtual time."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from gridsync._io.keys import limit
from gridsync._io.scripts import parse
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.limits import _core
from gridsync.limits._core import Windows
from gridsync.testing.checkers import never_more_than
from gridsync.testing.faults import Faults
from gridsync.testing.history import Violation
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from gridsync.testing.sim import SimIO

KEY = limit("t", "w", "k")
SECOND = 1_000_000
WEATHER = Faults(
    request_lost=0.03,
    reply_lost=0.05,
    slow=0.02,
    slow_s=0.5,
    cut_every_s=5.0,
    pause_every_s=10.0,
    pause_s=2.0,
    restart_every_s=20.0,
    restart_s=0.5,
    flush_scripts_every_s=10.0,
)
ONE = [(20, 2 * SECOND)]
TWO = [(20, 2 * SECOND), (40, 7 * SECOND)]


async def _work(io: SimIO, rules: list[tuple[int, int]], calls: int) -> None:
    """Hit as fast as is told, with an eagerness of its own."""
    windows = Windows(io, "t", "w", rules)
    for _ in range(calls):
        cost = io.process.random.choice((1, 1, 1, 2, 5))
        try:
            (retry_us, *_), _ = await windows.hit("k", cost)
        except (OutcomeUnknown, Unavailable):
            io.note("unsure", cost=cost)
            continue
        if retry_us:
            io.note("denied")
            await io.sleep(min(retry_us / 1e6, io.process.random.expovariate(5)))
        else:
            io.note("admitted", cost=cost)
            await io.sleep(io.process.random.expovariate(20))


def _simulate(seed: int, rules: list[tuple[int, int]], faults: Faults = WEATHER) -> None:
    """Let four processes hit one key, and look at every entry that the log ever held."""
    sim = Simulation(seed, faults=faults)
    entries: dict[str, int] = {}

    def look() -> None:
        reply = sim.server.engine.execute("ZRANGE", KEY, "0", "-1", "WITHSCORES")
        for member, score in zip(reply[::2], reply[1::2], strict=True):
            entries.setdefault(member.decode(), int(float(score)))
        if reply and sim.server.engine.execute("PTTL", KEY) <= 0:
            raise sim.history.fail("the key has no TTL")
        sim.at(sim.now + 0.05, look)

    sim.at(0, look)
    for name in "abcd":
        sim.start(name, _work, rules, 60)
    sim.run(until=60)
    costs: list[tuple[int, int]] = []
    longest = max(window_us for _, window_us in rules)
    before_us, before = 0, 0
    for at_us, total in sorted((at_us, int(member[:-11])) for member, at_us in entries.items()):
        # A log that has expired as a whole counts from zero again.
        costs.append((at_us, total - before if at_us - before_us < longest else total))
        before_us, before = at_us, total
    for most, window_us in rules:
        never_more_than(sim.history, most, window_us, costs)
    acknowledged = sum(event.cost for event in sim.history.of("admitted"))
    unsure = sum(event.cost for event in sim.history.of("unsure"))
    counted = sum(cost for _, cost in costs)
    if not acknowledged <= counted or (counted > acknowledged + unsure and not faults.late):
        raise sim.history.fail(f"{counted} counted, {acknowledged} acknowledged, {unsure} unsure")
    assert sim.history.of("denied")


@pytest.mark.parametrize("rules", [ONE, TWO], ids=["one rule", "two rules"])
@pytest.mark.parametrize("seed", range(15))
def test_in_bad_weather_every_hit_counts_once_and_no_window_overflows(seed: int, rules: list[tuple[int, int]]) -> None:
    _simulate(seed, rules)


@pytest.mark.parametrize("seed", range(10))
def test_a_copy_that_comes_after_its_repeat_makes_a_limit_stricter_at_worst(seed: int) -> None:
    _simulate(seed, ONE, replace(WEATHER, late=0.05, late_s=1.0))


MUTANTS = {
    "admits one too many": ("used + cost > limit then", "used + cost > limit + 1 then"),
    "forgets early": ("key, judged - window, '-inf'", "key, judged - window + 50000, '-inf'"),
    "never looks for its first attempt": ("ARGV[2] ~= '0'", "false"),
    "looks too late for its first attempt": ("tonumber(ARGV[2]) - 100000", "tonumber(ARGV[2]) + 6000000"),
    "trims its base": ("math.min(rank, 64) - 1)", "math.min(rank, 64))"),
    "counts calls, not costs": ("total = total + cost", "total = total + 1"),
    "leaves no TTL": ("redis.call('PEXPIRE', key,", "local _ = (0 +"),
    "lets the TTL run out": ("* 1000 < life", "< 0"),
    "counts denied hits": (
        "local room = limit - cost",
        "local room = limit - cost redis.call('ZADD', key, at, string.format('%.0f', total + 1) .. mark .. hit)",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_simulation_sees_a_planted_bug(mutant: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else it would prove nothing."""
    right, wrong = MUTANTS[mutant]
    source = _core._HIT_ONE.source
    assert source.count(right) == 1
    monkeypatch.setattr(_core, "_HIT_ONE", parse("limits.mutant", source.replace(right, wrong)))
    with pytest.raises(Violation):
        _simulate_all(range(30))


def _simulate_all(seeds: range) -> None:
    for seed in seeds:
        _simulate(seed, ONE)
