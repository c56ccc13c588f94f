"""What erasing a stream does beside everybody who writes and reads, and what must then be true."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import GridsyncError, OutcomeUnknown, Unavailable, WrongVersion
from gridsync.streams import ANY, _erase
from gridsync.testing.checkers import gapless
from gridsync.testing.sim import Simulation
from tests.sim.retention_scenarios import READER, bill, follow
from tests.sim.stream_scenarios import BAD_DAY, GROUP, KEYS, Placed, entries, open_store, write

if TYPE_CHECKING:
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts


def holes(sim: Simulation) -> list[int]:
    """Return the positions that were erased."""
    return [int(member.split()[0]) for member in sim.server.engine.execute("ZRANGE", KEYS.holes, "0", "-1")]


def upto(io: SimIO) -> int:
    """Return the version up to which anna is erased."""
    return int(io.server.engine.execute("HGET", KEYS.erased, "anna") or 0)


async def forget(io: SimIO, until_s: float) -> None:
    """Erase anna again and again, now and then only at the version that was read."""
    store, random, begun = open_store(io), io.process.random, io.monotonic()
    while io.monotonic() < begun + until_s:
        await io.sleep(random.expovariate(0.4))
        try:
            expected: Any = ANY
            if random.random() < 0.5:
                expected = max([e.version async for e in store.read("anna", reverse=True, limit=1)], default=ANY)
            done = await store.erase("anna", expected_version=expected)
        except WrongVersion as error:
            io.note("moved on", expected=error.expected, actual=error.actual)
            if error.expected in {error.actual, upto(io)}:
                raise AssertionError(f"it is at {error.actual}, and erased up to {upto(io)}: {error}") from error
        except (OutcomeUnknown, Unavailable):
            continue
        else:
            io.note("erased", upto=done.version)


async def look(io: SimIO, until_s: float) -> None:
    """Read anna whole, again and again: it begins behind what was erased and has no gap."""
    store, begun = open_store(io), io.monotonic()
    while io.monotonic() < begun + until_s:
        await io.sleep(io.process.random.uniform(0, 0.5))
        try:
            before = upto(io)
            versions = [e.version async for e in store.read("anna")]
        except (OutcomeUnknown, Unavailable):
            continue
        # What is missing was erased, before or meanwhile.
        missing = set(range(before + 1, (versions or [0])[-1])) - set(versions)
        assert not versions or before < versions[0], f"{versions} though {before} were erased"
        assert max(missing, default=0) <= upto(io), f"{versions} where {upto(io)} were erased"


def watch_ids(sim: Simulation) -> None:
    """Fail when an event id comes twice, whatever has become of the first one; or when a position is not explained."""
    seen: dict[tuple[str, str], int] = {}

    def check(call: Call) -> None:
        log = entries(sim, KEYS.log)
        for position, facts in log:
            if seen.setdefault((facts["s"], facts["i"]), position) != position:
                raise sim.history.fail(f"{call.process} wrote {facts['i']} again, at {position}")
        trimmed = int(sim.server.engine.execute("HGET", KEYS.meta, "trimmed") or 0)
        gone = holes(sim)
        gapless(sim.history, "positions", sorted([p for p, _ in log] + [p for p in gone if p > trimmed]), trimmed + 1)
        if gone and min(gone) <= trimmed:
            raise sim.history.fail(f"{min(gone)} was trimmed, and is still remembered as erased")

    sim.watch(check)


def erasing(seed: int, scripts: Scripts = None) -> Simulation:
    """Writers of two streams, a group, a reader and who trims, while one of the streams is erased again and again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_erase, "STEP", 1)
        return _erasing(seed, scripts)


def _erasing(seed: int, scripts: Scripts) -> Simulation:
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0))
    watch_ids(sim)
    engine = sim.server.engine
    engine.execute("XGROUP", "CREATE", KEYS.log, GROUP, "0-0", "MKSTREAM")
    engine.execute("HSET", KEYS.readers, READER, "reader 0 0 0")

    async def trim(io: SimIO) -> None:
        for _ in range(20):
            await io.sleep(io.process.random.expovariate(0.4))
            try:
                await open_store(io).trim(max_count=3)
            except GridsyncError:
                continue

    async def last(io: SimIO) -> None:
        await open_store(io).erase("anna")

    for name in "ab":
        sim.start(name, write, 20, 0.8)
    for name, work in (("c", bill), ("f", follow), ("t", trim)):
        sim.start(name, work)
    for k in range(5):
        sim.at(8.0 * k, lambda k=k: [sim.start(f"{name}{k}", forget, 8.0) for name in "xy"])
        sim.at(8.0 * k + sim.random.uniform(2, 8), lambda k=k: sim.kill(f"x{k}"))
    sim.start("l", look, 45.0)
    sim.at(100.0, lambda: sim.start("z", last))
    sim.run(until=150.0)
    facts = [facts for _, facts in entries(sim, KEYS.log)]
    if left := [fact["i"] for fact in facts if fact["s"] == "anna"]:
        raise sim.history.fail(f"of what was erased the log has {left}")
    if engine.execute("EXISTS", KEYS.stream("anna"), KEYS.erasing("anna")):
        raise sim.history.fail("the stream that was erased is still there")
    # What is not erased is seen by everybody; of the other stream perhaps a part.
    bert = {int(fact["p"]) for _, fact in entries(sim, KEYS.stream("bert"))}
    for who, kind in (("the reader", "seen"), ("the group", "handled")):
        if missing := bert - {event.position for event in sim.history.of(kind)}:
            raise sim.history.fail(f"{who} never had {sorted(missing)}")
    pending = engine.execute("XPENDING", KEYS.log, GROUP)
    if pending[0]:
        raise sim.history.fail(f"still pending: {pending}")
    return sim


def broken_off(seed: int, scripts: Scripts = None) -> Simulation:
    """An erasure dies after its first step, and is sent again or followed by another one when more was appended."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store = open_store(io)
        await store.append("anna", [Placed(item="x")] * 3)
        keys = (KEYS.meta, KEYS.versions, KEYS.log, KEYS.floors, KEYS.erased, KEYS.holes)
        keys += (KEYS.stream("anna"), KEYS.erasing("anna"))
        await io.run(_erase.ERASE, keys, ("anna", "3", "0", "1"))
        await store.append("anna", [Placed(item="x")] * 2)
        again = io.process.random.random() < 0.5
        done = await store.erase("anna", expected_version=3 if again else ANY)
        left = [facts["v"] for _, facts in entries(sim, KEYS.log)]
        if (done.version, left) != ((3, ["4", "5"]) if again else (5, [])):
            raise sim.history.fail(f"again: {again}, {done}, and the log has {left}")

    sim.start("a", work)
    sim.run(until=20.0)
    return sim
