"""The store and its consumers in the simulation: lost replies, killed processes, a server that restarts."""

# ruff: noqa: ANN401 - the simulation's drivers

from __future__ import annotations

import itertools
from collections import Counter
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.scripts import load, parse
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.streams import STOP, AsyncEventStore, Retry, _consumer, _core
from gridsync.testing.faults import ROUGH, Faults
from gridsync.testing.sim import Simulation
from tests.streams.models import Order, Placed

if TYPE_CHECKING:
    from gridsync.streams import Recorded

EVENTS = 12
WRITERS = 3
LOSSY = Faults(request_lost=0.02, reply_lost=0.04)


class Market:
    """Writers that append to one stream each and to a common one, consumers that note what they handle."""

    def __init__(self, seed: int, faults: Faults) -> None:
        self.sim = Simulation(seed, faults=faults)
        self.handled: Counter[int] = Counter()
        self.confirmed: dict[str, int] = {}

    def store(self, io: Any) -> AsyncEventStore[Any]:
        return AsyncEventStore(io, "sim", "orders", Order)

    async def write(self, io: Any, name: str) -> None:
        store, version = self.store(io), 0
        for n in range(EVENTS):
            event_id = f"{name}-{n}"
            # Own stream with a version, common stream without: both must take each event once.
            version = (await self.append(io, store, name, event_id, version)).version
            await self.append(io, store, "common", f"c-{event_id}", None)

    async def append(
        self, io: Any, store: AsyncEventStore[Any], stream: str, event_id: str, version: int | None
    ) -> Any:
        options = {} if version is None else {"expected_version": version}
        while True:
            try:
                result = await store.append(stream, Placed(kwh=1), event_ids=event_id, **options)
            except (OutcomeUnknown, Unavailable):
                await io.sleep(0.1)
            else:
                self.confirmed[event_id] = result.position
                return result

    async def consume(self, io: Any) -> None:
        """Consume in many short lives, with a handler that fails now and then."""
        calls = itertools.count(1)

        async def handle(recorded: Recorded[Any]) -> None:
            await io.sleep(0.02)
            call = next(calls)
            if call % 7 == 0:
                raise ConnectionError
            if call % 11 == 0:
                raise LookupError
            self.handled[recorded.position] += 1

        policy = {ConnectionError: Retry(first_s=0.5), LookupError: STOP}
        while not self.complete:
            group = self.store(io).group("g")
            with suppress(LookupError):
                await group.consume(
                    handle, claim_idle=2.0, batch=5, idle_stop=0.3, policy=policy, on_error=lambda _: None
                )

    @property
    def complete(self) -> bool:
        """Whether every event was handled."""
        return len(self.handled) >= WRITERS * EVENTS * 2

    async def read(self, io: Any) -> list[Any]:
        return [event async for event in self.store(io).read_all()]


def play(seed: int, faults: Faults, until: float = 300.0) -> None:
    """Let all work while one consumer is killed, one cut off and one frozen; then check everything."""
    market = Market(seed, faults)
    sim = market.sim
    for n in range(WRITERS):
        sim.start(f"writer{n}", market.write, f"w{n}")
    for n in range(3):
        sim.start(f"consumer{n}", market.consume)
    sim.at(0.3, lambda: sim.kill("consumer0"))
    sim.at(0.5, lambda: sim.cut("consumer1"))
    sim.at(1.0, lambda: sim.pause("consumer2", 3.0))
    seen: list[Any] = []

    async def finish(io: Any) -> None:
        while not market.complete:
            await io.sleep(0.5)
        while not seen:
            with suppress(Unavailable):  # its own requests are lost as well
                seen.extend(await market.read(io))

    sim.start("watcher", finish)
    sim.run(until)
    assert [e.position for e in seen] == list(range(1, WRITERS * EVENTS * 2 + 1))
    assert {e.id: e.position for e in seen} == market.confirmed
    for name in {e.stream for e in seen}:
        versions = [e.version for e in seen if e.stream == name]
        assert versions == list(range(1, len(versions) + 1))
    assert set(market.handled) == {e.position for e in seen}


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("faults", [LOSSY, ROUGH], ids=["lossy", "rough"])
def test_no_event_is_lost_doubled_or_left_unhandled(faults: Faults, seed: int):
    play(seed, faults)


def play_some() -> None:
    for seed in range(10):
        play(seed, LOSSY, until=30.0)


def test_without_a_planted_bug_the_same_plays_end_well():
    play_some()


MUTANTS = {
    "a replay with a version is a conflict": (
        "append",
        "    if last then return 1, last, position end\n    return 2, version",
        "    return 2, version",
    ),
    "a replay without a version is written again": ("append", "    if score then", "    if false then"),
    "a position is given twice": ("append", "redis.call('HSET', meta, 'pos', position .. '')", ""),
    "leaving destroys what is pending": ("leave", "'-', '+', '1000', consumer", "'-', '+', '0', consumer"),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_simulation_sees_a_planted_bug(mutant: str, monkeypatch: pytest.MonkeyPatch):
    name, old, new = MUTANTS[mutant]
    script = load("gridsync.streams", name)
    assert old in script.source
    module = _core if name == "append" else _consumer
    monkeypatch.setattr(module, name.upper(), parse(script.name, script.source.replace(old, new)))
    with pytest.raises(BaseException):  # noqa: B017, PT011 - however it shows; pytest's own failures are no Exception
        play_some()
