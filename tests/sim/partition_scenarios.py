"""Stores in several partitions: who opens them differently, and who consumes all of them in bad weather."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from gridsync._io.keys import event_partitions
from gridsync._io.keys import events as event_keys
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.streams import AsyncEventStore, Write
from gridsync.testing.checkers import gapless, handled_at_least_once
from gridsync.testing.sim import Simulation
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, GROUP, Placed, entries

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.streams import Recorded
    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

PARTITIONS = 3
LOGS = [keys.log for keys in event_partitions("sim", "orders", PARTITIONS)]
STREAMS = ("anna", "bert", "carl", "dora", "emil", "fred")


async def write(io: SimIO, partitions: int, commits: int, pause_s: float) -> None:
    """Append and commit until it is told that the store is in another number of partitions."""
    store, random = AsyncEventStore(io, "sim", "orders", Placed, partitions=partitions), io.process.random
    await io.sleep(random.uniform(0, 0.01))
    for number in range(commits):
        stream, event_id = random.choice(STREAMS), f"{io.process.name}{number}"
        try:
            if random.random() < 0.5:
                await store.append(stream, Placed(item=event_id), event_ids=event_id)
            else:
                await store.commit([Write(stream, Placed(item=event_id), event_ids=event_id)])
        except UsageError:
            io.note("refused", partitions=partitions)
            return
        except (OutcomeUnknown, Unavailable):
            io.note("unsure", id=event_id)
        else:
            io.note("appended", partitions=partitions, id=event_id)
        await io.sleep(random.expovariate(1 / pause_s))


def quarrel(seed: int, scripts: Scripts = None) -> Simulation:
    """Programs of two minds begin one store at the same time: one of them is right, and the others are told."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, restart_every_s=0.0))
    for name, partitions in zip("abcd", (1, PARTITIONS, 1, PARTITIONS), strict=True):
        sim.start(name, write, partitions, 5, 0.01)
    sim.run(until=60.0)
    alone = len(entries(sim, event_keys("sim", "orders").log))
    apart = sum(len(entries(sim, log)) for log in LOGS)
    if not alone and not apart:
        raise sim.history.fail("nobody was right")
    if alone and apart:
        raise sim.history.fail(f"{alone} events are in one partition, and {apart} in others")
    if {event.partitions for event in sim.history.of("refused")} & {
        event.partitions for event in sim.history.of("appended")
    }:
        raise sim.history.fail("some of one mind were told that they were right, and some that they were wrong")
    return sim


async def consume(io: SimIO) -> None:
    """Handle the events of all partitions until stopped."""
    random = io.process.random

    async def handle(recorded: Recorded[Placed]) -> None:
        await io.sleep(random.uniform(0, 0.5))
        if random.random() < 0.03:
            raise ValueError("the handler failed")
        io.note("handled", place=f"{recorded.partition}:{recorded.position}")

    store = AsyncEventStore(io, "sim", "orders", Placed, partitions=PARTITIONS)
    await store.group(GROUP).consume(handle, concurrency=2, batch=10, claim_idle=CLAIM_IDLE_S, on_error=lambda _: None)


def crews(seed: int, scripts: Scripts = None) -> Simulation:
    """Writers and consumers of three partitions in bad weather; one of these is killed, another comes at the end."""
    sim = Simulation(seed, scripts=scripts, faults=BAD_DAY)
    for name in "ab":
        sim.start(name, write, PARTITIONS, 20, 1.0)
    for name in "cde":
        sim.start(name, consume)
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("c"))
    sim.at(60.0, lambda: sim.start("z", consume))
    sim.run(until=90.0)
    stored: list[str] = []
    for partition, log in enumerate(LOGS):
        positions = [position for position, _ in entries(sim, log)]
        gapless(sim.history, f"positions of partition {partition}", positions)
        stored += [f"{partition}:{position}" for position in positions]
        if positions and (pending := sim.server.engine.execute("XPENDING", log, GROUP))[0]:
            raise sim.history.fail(f"still pending in partition {partition}: {pending}")
    handled_at_least_once(sim.history, stored, "place")
    return sim
