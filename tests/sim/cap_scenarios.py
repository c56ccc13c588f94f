"""What a cap does beside those who write and read, and what must then be true; for shipped scripts and mutants."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gridsync.errors import LogFull, OutcomeUnknown, Truncated, Unavailable
from gridsync.streams import ANY, AsyncDelivery, Check, Retry, Write
from gridsync.testing.checkers import gapless
from gridsync.testing.sim import Simulation
from tests.sim import commit_scenarios as commits
from tests.sim.retention_scenarios import READER, ends, watch_trims
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, GROUP, KEYS, Placed, entries, open_store

if TYPE_CHECKING:
    from gridsync.streams import Recorded
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts

CAP = 20
SPARE = 2
OUTPUT = "answers"


def watch_cap(sim: Simulation) -> None:
    """Fail when the log holds more than it may, or the answer to a commit is lost in a refusal."""

    def look(call: Call) -> None:
        first, last = ends(sim)
        held = last - first + 1 if first else 0
        # The commit of the very oldest one is not refused.
        if held > CAP + SPARE + 1:
            raise sim.history.fail(f"{call.process} made the log hold {held} events")

    sim.watch(look)


async def write(io: SimIO, commits: int, *, patience: int = 150) -> None:
    """Append commits of one to three events, each until it is there, however often it is refused."""
    store, random = open_store(io), io.process.random
    for commit in range(commits):
        ids = tuple(f"{io.process.name}{commit}.{k}" for k in range(random.choice((1, 1, 2, 3))))
        unsure = False
        for _ in range(patience):
            try:
                answer = await store.append(io.process.name, [Placed(item=each) for each in ids], event_ids=ids)
            except (OutcomeUnknown, Unavailable):
                unsure = True
            except LogFull as error:
                if unsure and _there(io, ids[-1]):
                    io.note("wronged", ids=ids)
                io.note("refused", held=error.held, holder=error.holder)
            else:
                io.note("appended", ids=ids, position=answer.position)
                break
            await io.sleep(random.uniform(0.1, 1.0))
        await io.sleep(random.expovariate(2))


def _there(io: SimIO, event_id: str) -> bool:
    found = io.server.engine.execute("XRANGE", KEYS.stream(io.process.name), "-", "+")
    return any(fields[1].decode() == event_id for _, fields in found)


async def bill(io: SimIO) -> None:
    """Handle events, slowly at times, and answer every third one with another event; those are not answered."""
    random = io.process.random

    async def handle(delivery: AsyncDelivery[Placed]) -> None:
        await io.sleep(random.choice((0.0, 0.0, 0.0, 2.0)))
        io.note("handled", event=delivery.recorded.id, stream=delivery.recorded.stream)
        async with delivery.commit() as tx:
            if delivery.recorded.stream != OUTPUT and delivery.position % 3 == 0:
                tx.append(OUTPUT, Placed(item=delivery.recorded.id))

    group = open_store(io).group(GROUP)
    await group.consume(
        handle, batch=5, claim_idle=CLAIM_IDLE_S, on_error=lambda _: None, policy=Retry(first_s=0.5, max_s=2.0)
    )


async def cap(io: SimIO) -> None:
    """Say what the cap is, until it is heard."""
    retention = open_store(io).retention(cap_count=CAP, period=5)
    await retention.run()


def crowded(seed: int, scripts: Scripts = None) -> Simulation:
    """Three who write more than one group handles at once, in bad weather: everything gets there, and is handled."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0))
    watch_trims(sim)
    watch_cap(sim)
    sim.server.engine.execute("XGROUP", "CREATE", KEYS.log, GROUP, "0-0", "MKSTREAM")
    sim.server.engine.execute("HSET", KEYS.meta, "cap", str(CAP), "on_cap", "block", "full", str(CAP))
    for name in "abc":
        sim.start(name, write, 12)
    for name in "de":
        sim.start(name, bill)
    for name in "kl":
        sim.start(name, cap)
    sim.at(sim.random.uniform(5, 30), lambda: sim.kill("k"))
    sim.run(until=200.0)
    if wronged := sim.history.of("wronged"):
        raise sim.history.fail(f"what was written was answered with a refusal: {wronged[0].ids}")
    appended = [event_id for event in sim.history.of("appended") for event_id in event.ids]
    if len(sim.history.of("appended")) != 36:
        raise sim.history.fail(f"{len(sim.history.of('appended'))} of 36 commits got there; the log is at {ends(sim)}")
    handled = {event.event for event in sim.history.of("handled")}
    if missing := [event_id for event_id in appended if event_id not in handled]:
        raise sim.history.fail(f"never handled: {missing}")
    gapless(sim.history, "positions", (position for position, _ in entries(sim, KEYS.log)), ends(sim)[0])
    for name in "abc":
        written = [facts["i"] for _, facts in entries(sim, KEYS.stream(name))]
        if written != [each for each in appended if each.startswith(name)]:
            raise sim.history.fail(f"stream {name} has {written}")
    return sim


def given_up(seed: int, scripts: Scripts = None) -> Simulation:
    """A group that stands still is given up at the cap, not before and not in vain, and is told so."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store, random = open_store(io), io.process.random
        await store.retention(cap_count=CAP, on_cap="expire_group").run(once=True)
        await store.append("anna", [Placed(item="x")] * 3)
        seen: list[int] = []

        async def handle(recorded: Recorded[Placed]) -> None:
            seen.append(recorded.position)

        group = store.group(GROUP)
        await group.consume(handle, idle_stop=0, claim_idle=CLAIM_IDLE_S)
        slow = random.random() < 0.5
        if slow:
            await store.note_reader(READER, 1, ttl=None)
        last = 3
        for _ in range(40):
            count = random.choice((1, 2, 3))
            # What both have had may go, and no more as long as the reader holds it.
            fits = last + count <= CAP + (1 if slow else 3)
            there = GROUP.encode() in _groups(sim)
            try:
                last = (await store.append("anna", [Placed(item="x")] * count)).position
            except LogFull:
                if fits or not slow:
                    raise sim.history.fail(f"refused at {last} with {count} more, reader: {slow}") from None
                if not there or GROUP.encode() not in _groups(sim):
                    raise sim.history.fail("given up in vain") from None
                return
            if fits and GROUP.encode() not in _groups(sim):
                raise sim.history.fail(f"given up at {last}, with room for more")
        try:
            await group.consume(handle, idle_stop=0, claim_idle=CLAIM_IDLE_S)
        except Truncated:
            return
        raise sim.history.fail(f"nobody told the group that it was given up: {seen}")

    sim.start("a", work)
    sim.run(until=100.0)
    return sim


def found_again(seed: int, scripts: Scripts = None) -> Simulation:
    """What is sent again is answered as before, however full the log is by then; something new is refused."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store, random = open_store(io), io.process.random
        await store.note_reader(READER, 0, ttl=None)
        await store.retention(cap_count=6).run(once=True)
        expected = random.choice((ANY, 0))
        first = await store.append("anna", [Placed(item="x")] * 2, event_ids=["1", "2"], expected_version=expected)
        parts = [Write("bert", [Placed(item="x")] * 3, 0, ["3", "4", "5"]), Check("anna", 2)]
        both = await store.commit(parts)
        await store.append("anna", Placed(item="x"))
        again = await store.append("anna", [Placed(item="x")] * 2, event_ids=["1", "2"], expected_version=expected)
        if (again.position, again.replayed) != (first.position, True):
            raise sim.history.fail(f"{first} became {again}")
        if (await store.commit(parts)).position != both.position:
            raise sim.history.fail("the commit is somewhere else")
        try:
            await store.append("anna", Placed(item="x"))
        except LogFull as error:
            if (error.held, error.cap, error.holder) == (6, 6, ("reader", READER)):
                return
        raise sim.history.fail("it was not refused as it should")

    sim.start("a", work)
    sim.run(until=20.0)
    return sim


def consigned(seed: int, scripts: Scripts = None) -> Simulation:
    """What is sent to a store at its cap gets there when that has room again, each once and in order."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0))
    there, engine = commits.THERE, sim.server.engine
    engine.execute("HSET", there.meta, "cap", "3", "on_cap", "block", "full", "3")

    def had(position: int) -> None:
        engine.execute("HSET", there.readers, READER, f"reader 0 0 {position}")

    had(0)
    sim.start("a", commits.write, 15, 0.5)
    sim.start("c", commits.send)
    for name in "rs":
        sim.start(name, commits.relay)
    for second in range(2, 60):
        sim.at(second, lambda second=second: had(second // 2))
    sim.at(60.0, lambda: had(10_000))
    sim.run(until=150.0)
    orders = [facts["i"] for _, facts in entries(sim, KEYS.log)]
    bills = [json.loads(facts["d"])["item"] for _, facts in entries(sim, there.stream("bills"))]
    if sorted(bills) != sorted(orders) or len(orders) < 10:
        raise sim.history.fail(f"{orders} were billed as {bills}")
    return sim


def _groups(sim: Simulation) -> list[bytes]:
    rows: list[Any] = sim.server.engine.execute("XINFO", "GROUPS", KEYS.log)
    return [(row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True)))[b"name"] for row in rows]
