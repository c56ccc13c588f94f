"""A store, its mirror on another server, and those who replicate, promote and fence: for scripts and mutants."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from gridsync.errors import Diverged, GridsyncError, OutcomeUnknown, Promoted, ReadOnlyStore, Unavailable, UsageError
from gridsync.streams import AsyncEventStore, Recorded, Retry
from gridsync.streams._lane import Lane
from gridsync.streams._lines import read_entries, read_head
from gridsync.streams._sites import PROMOTE
from gridsync.testing.sim import Simulation
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, GROUP, KEYS, Placed, check_store, write

if TYPE_CHECKING:
    from gridsync.testing.faults import Faults
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts

HERE, THERE = 0, 1
"""The servers."""
LONG_S = 120.0


def at(io: SimIO, server: int) -> AsyncEventStore[Placed]:
    """Return the store at one of the servers."""
    return AsyncEventStore(io.process.ios[server], "sim", "orders", Placed)


def rows(sim: Simulation, server: int, key: str = KEYS.log) -> list[Any]:
    """Return a stream as a server has it."""
    return [(entry[0], tuple(entry[1])) for entry in sim.servers[server].engine.execute("XRANGE", key, "-", "+")]


def check_same(sim: Simulation) -> None:
    """Check that both servers have the same events."""
    for key in (KEYS.log, KEYS.stream("anna"), KEYS.stream("bert")):
        here, there = rows(sim, HERE, key), rows(sim, THERE, key)
        if here != there:
            raise sim.history.fail(f"{key}: here {here}, there {there}")
    for key, words in ((KEYS.versions, ("anna", "bert")), (KEYS.meta, ("pos",))):
        here, there = (sim.servers[k].engine.execute("HMGET", key, *words) for k in (HERE, THERE))
        if here != there:
            raise sim.history.fail(f"{key}: here {here}, there {there}")
    recent = [sim.servers[k].engine.execute("ZRANGE", KEYS.recent, "0", "-1", "WITHSCORES") for k in (HERE, THERE)]
    if recent[HERE] != recent[THERE]:
        raise sim.history.fail(f"what is remembered by id: {recent}")


def watch_mirror(sim: Simulation, promoted: list[int]) -> None:
    """Fail when the mirror holds what the source does not, or goes on after its promotion."""

    def look(call: Call) -> None:
        if KEYS.recent.encode() not in call.words:
            return
        here, there = rows(sim, HERE), rows(sim, THERE)
        last = promoted[0] if promoted else len(there)
        if there[:last] != here[:last]:
            raise sim.history.fail(f"the mirror tells another story: {there[:last]} {here[:last]}")

    sim.watch(look, THERE)


def watch_closed(sim: Simulation, server: int) -> None:
    """Fail when a store that takes no events gets one, unless as a mirror."""
    closed: dict[str, int] = {}

    def look(_: Call) -> None:
        ro, position = sim.servers[server].engine.execute("HMGET", KEYS.meta, "ro", "pos")
        if ro not in (b"fenced", b"superseded"):
            closed.clear()
        elif closed.setdefault("at", int(position)) != int(position):
            raise sim.history.fail(f"{server} is {ro} and got events behind {closed}")

    sim.watch(look, server)


async def replicate(io: SimIO) -> None:
    """Follow, again and again if cancelled, until it is over."""
    while True:
        try:
            await at(io, HERE).replication(at(io, THERE)).run()
        except asyncio.CancelledError:
            io.note("cancelled")
        except Promoted as error:
            io.note("promoted", epoch=error.fence)
            return
        else:
            return


def following(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """Writers at one server, three who replicate in bad weather; one is killed, the others are cancelled."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0), servers=2)
    watch_mirror(sim, [])
    for name in "ab":
        sim.start(name, write, 20, 1.0)
    tasks = [sim.start(name, replicate) for name in "rst"]
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("r"))
    for _ in range(4):
        sim.at(sim.random.uniform(3, 35), sim.random.choice(tasks[1:]).cancel)
    sim.at(60.0, lambda: sim.start("z", replicate))
    sim.run(until=LONG_S)
    check_store(sim)
    check_same(sim)
    return sim


def promoting(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """The mirror is promoted while writes are under way to it: none of them arrives, and the old side ends fenced."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0), servers=2)
    promoted: list[int] = []
    watch_mirror(sim, promoted)
    watch_closed(sim, HERE)

    async def append_here(io: SimIO) -> None:
        for n in range(40):
            try:
                await at(io, HERE).append("anna", Placed(item=f"h{n}"), event_ids=f"h{n}")
            except ReadOnlyStore:
                io.note("refused")
                return
            except GridsyncError:
                pass
            await io.sleep(io.process.random.expovariate(2))

    async def take_over(io: SimIO) -> None:
        await io.sleep(io.process.random.uniform(2, 25))
        store = at(io, THERE)
        while True:
            try:
                site = await store.promote()
            except UsageError:
                site = await store.site()  # not begun, or done by an attempt whose answer was lost
                if site.role == "primary" and not site.epoch:
                    await io.sleep(1.0)
                    continue
            except GridsyncError:
                await io.sleep(1.0)
                continue
            if site.role == "primary" and site.epoch == 1:
                break
        promoted.append(int(sim.servers[THERE].engine.execute("HGET", KEYS.meta, "pos")))
        for n in range(10):
            for _ in range(20):
                try:
                    await store.append("bert", Placed(item=f"t{n}"), event_ids=f"t{n}")
                except GridsyncError:
                    continue
                break

    sim.start("a", append_here)
    for name in "rs":
        sim.start(name, replicate)
    sim.start("p", take_over)
    sim.run(until=LONG_S)
    there = rows(sim, THERE)
    if not promoted or there[: promoted[0]] != rows(sim, HERE)[: promoted[0]]:
        raise sim.history.fail(f"promoted at {promoted}: {there}")
    late = [fields[1] for _, fields in there[promoted[0] :] if not fields[1].startswith(b"t")]
    if late or len(there) != promoted[0] + 10:
        raise sim.history.fail(f"after the promotion at {promoted} there are {late} of {there}")
    role = sim.servers[HERE].engine.execute("HMGET", KEYS.meta, "ro", "epoch")
    if role != [b"superseded", b"1"] or {event.epoch for event in sim.history.of("promoted")} != {1}:
        raise sim.history.fail(f"the old side is {role}, {sim.history.of('promoted')}")
    return sim


def switching(seed: int, scripts: Scripts = None) -> Simulation:
    """There and back by plan, again and again, in bad weather: nothing is lost, and never do both take events."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0), servers=2)
    ids: list[str] = []

    def never_both(_: Call) -> None:
        held = [sim.servers[k].engine.execute("HMGET", KEYS.meta, "ro", "epoch") for k in (HERE, THERE)]
        if ids[:1] and held[HERE][0] is None and held[THERE][0] is None and held[THERE][1] is not None:
            raise sim.history.fail(f"both take events: {held}")

    for k in (HERE, THERE):
        sim.watch(never_both, k)

    async def surely(io: SimIO, call: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        while True:
            try:
                return await call(*args, **options)
            except UsageError:
                return None  # done by an attempt whose answer was lost
            except GridsyncError:
                await io.sleep(1.0)

    async def play(io: SimIO) -> None:
        old, new = at(io, HERE), at(io, THERE)
        for turn in range(4):
            for n in range(3):
                event_id = f"{turn}.{n}"
                await surely(io, old.append, "anna", Placed(item=event_id), event_ids=event_id)
                ids.append(event_id)
                await surely(io, old.replication(new).run, once=True)
            await surely(io, old.fence)
            await surely(io, old.replication(new).run, once=True)
            await surely(io, new.promote)
            old, new = new, old

    sim.start("a", play)
    sim.run(until=600.0)
    for server in (HERE, THERE):
        found = [fields[1].decode() for _, fields in rows(sim, server)]
        if found != ids or len(ids) != 12:
            raise sim.history.fail(f"{server}: {found}, not {ids}")
    return sim


async def bill(io: SimIO, server: int) -> None:
    """Handle events of one side, some of them twice or later, until it is over."""
    random = io.process.random

    async def handle(recorded: Recorded[Placed]) -> None:
        await io.sleep(random.uniform(0, 0.4))
        if random.random() < 0.1:
            raise ValueError("the handler failed")
        io.note("handled", id=recorded.id)

    while True:
        try:
            await (
                at(io, server)
                .group(GROUP)
                .consume(handle, batch=5, claim_idle=CLAIM_IDLE_S, on_error=lambda _: None, policy=Retry(first_s=2.0))
            )
        except (GridsyncError, asyncio.CancelledError):
            await io.sleep(1.0)


def grouped(seed: int, scripts: Scripts = None) -> Simulation:
    """A group gets on at one side until that is gone, and then at the other one: it has every event there."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0), servers=2)
    lost = sim.random.uniform(8, 30)

    async def take_over(io: SimIO) -> None:
        store = at(io, THERE)
        while True:
            try:
                if (await store.site()).role == "primary":
                    break
                await store.promote()
            except GridsyncError:
                await io.sleep(1.0)
        for n in range(20):
            for _ in range(20):
                try:
                    await store.append("bert", Placed(item=f"t{n}"), event_ids=f"t{n}")
                except GridsyncError:
                    continue
                break

    sim.start("a", write, 60, 0.3)
    sim.start("r", replicate)
    for name in "cd":
        sim.start(name, bill, HERE)
    for name in "acdr":
        sim.at(lost, lambda name=name: sim.kill(name))
    sim.at(lost + 8.0, lambda: sim.start("p", take_over))
    for name in "ef":
        sim.at(lost + 20.0, lambda name=name: sim.start(name, bill, THERE))
    sim.run(until=LONG_S)
    handled = {event.id for event in sim.history.of("handled")}
    missing = [fields[1].decode() for _, fields in rows(sim, THERE) if fields[1].decode() not in handled]
    if missing:
        raise sim.history.fail(f"nobody handled {missing}")
    return sim


def ahead(seed: int, scripts: Scripts = None) -> Simulation:
    """A group has had events that never cross: at the other side it is not ahead of what is there."""
    sim = Simulation(seed, scripts=scripts, servers=2)

    async def work(io: SimIO) -> None:
        here, there, seen = at(io, HERE), at(io, THERE), list[int]()
        await here.append("anna", [Placed(item="x")] * 3)
        await here.replication(there).run(once=True)
        await here.append("anna", [Placed(item="y")] * io.process.random.randint(1, 3))
        lane = Lane(here._core.partitions[0], there._core.partitions[0])
        await lane.begin(lane.source)
        await lane.carry({GROUP.encode(): b"%d 1" % (await here.site()).positions[0], b"gone": b"2 1 expired"})
        await there.promote()
        await there.append("anna", [Placed(item="z")] * 3)

        async def handle(recorded: Recorded[Placed]) -> None:
            seen.append(recorded.position)

        await there.group(GROUP).consume(handle, idle_stop=0)
        if seen != [4, 5, 6] or sim.servers[THERE].engine.execute("HEXISTS", KEYS.floors, "gone"):
            raise sim.history.fail(f"of three new events the group has handled {seen}")
        io.note("done")

    sim.start("a", work)
    sim.run(until=60.0)
    if not sim.history.of("done"):
        raise sim.history.fail("it did not come to its end")
    return sim


def lost_at_the_source(seed: int, scripts: Scripts = None) -> Simulation:
    """A failover loses events that have crossed, and others take their places: that is told, and nothing is mixed."""
    sim = Simulation(seed, scripts=scripts, servers=2)
    lost, ahead = sim.random.randint(1, 3), sim.random.randint(-3, 6)

    async def work(io: SimIO) -> None:
        store = at(io, HERE)
        for n in range(10):
            await store.append("anna", Placed(item=str(n)))
        await store.replication(at(io, THERE)).run(once=True)
        before = rows(sim, THERE)
        # Replicators that come late know of different histories: each begins at what the mirror says.
        late = store.replication(at(io, THERE))
        engine = sim.server.engine
        kept = rows(sim, HERE)[: 10 - lost]
        engine.execute("DEL", KEYS.log, KEYS.stream("anna"), KEYS.versions, KEYS.recent)
        engine.execute("HDEL", KEYS.meta, "pos")
        for k, (entry_id, fields) in enumerate(kept, 1):
            engine.execute("XADD", KEYS.log, entry_id, *fields)
            body = {fields[i]: fields[i + 1] for i in range(0, len(fields), 2)}
            engine.execute("XADD", KEYS.stream("anna"), f"{k}-0", "i", body[b"i"], "p", str(k), "t", body[b"t"],
                           "d", body[b"d"], "w", body[b"w"])  # fmt: skip
        engine.execute("HSET", KEYS.meta, "pos", str(len(kept)))
        engine.execute("HSET", KEYS.versions, "anna", str(len(kept)))
        for n in range(max(0, lost + ahead)):
            await store.append("anna", Placed(item=f"other{n}"))
        try:
            await late.run(once=True)
        except Diverged:
            io.note("told")
        if rows(sim, THERE) != before:
            raise sim.history.fail("two histories were mixed")

    sim.start("a", work)
    sim.run(until=60.0)
    if not sim.history.of("told"):
        raise sim.history.fail(f"nobody was told that {lost} events are gone, with {ahead} more in their places")
    return sim


def lost_at_the_target(seed: int, scripts: Scripts = None) -> Simulation:
    """The mirror comes back as it was a while ago: what it has lost is read again."""
    sim = Simulation(seed, scripts=scripts, servers=2)

    async def back(io: SimIO) -> None:
        keys = (KEYS.log, KEYS.stream("anna"), KEYS.stream("bert"), KEYS.recent)
        engine = sim.servers[THERE].engine
        hashes = {key: engine.execute("HGETALL", key) for key in (KEYS.meta, KEYS.versions, KEYS.mirror)}
        streams = {key: rows(sim, THERE, key) for key in keys[:3]}
        recent = engine.execute("ZRANGE", KEYS.recent, "0", "-1", "WITHSCORES")
        await io.sleep(4.0)
        engine.execute("DEL", *keys, *hashes)
        for key, flat in hashes.items():
            engine.execute("HSET", key, *flat)
        for key, entries in streams.items():
            for entry_id, fields in entries:
                engine.execute("XADD", key, entry_id, *fields)
        for member, score in zip(recent[::2], recent[1::2], strict=True):
            engine.execute("ZADD", KEYS.recent, score, member)

    sim.start("a", write, 20, 0.5)
    sim.start("r", replicate)
    sim.at(sim.random.uniform(3, 7), lambda: sim.start("b", back))
    sim.run(until=60.0)
    check_store(sim)
    check_same(sim)
    return sim


def refused(seed: int, scripts: Scripts = None) -> Simulation:
    """Stores that are no mirror of this one stay what they are, whoever tries to make them one."""
    sim = Simulation(seed, scripts=scripts, servers=2)

    async def work(io: SimIO) -> None:
        here, there = at(io, HERE), at(io, THERE)
        count, other = io.process.random.randint(1, 3), AsyncEventStore(io, "sim", "other", Placed)
        await here.append("anna", [Placed(item="x")] * count)
        await other.append("anna", [Placed(item="y")] * 3)
        await there.append("anna", [Placed(item="z")] * count)
        for source, target, error in ((here, here, UsageError), (here, there, UsageError)):
            await expect(io, source.replication(target).run(once=True), error)
        if (await here.site()).role != "primary" or (await there.site()).role != "primary":
            raise sim.history.fail("what takes events was made a mirror")
        # Not even one that is empty.
        empty = AsyncEventStore(io, "sim", "empty", Placed)
        await expect(io, empty.replication(empty).run(once=True), UsageError)
        if (await empty.site()).role != "primary":
            raise sim.history.fail("a store mirrors itself")
        # Fenced, but not of this history.
        await there.fence()
        await expect(io, here.replication(there).run(once=True), Diverged)
        await there.promote()
        engine = sim.servers[THERE].engine
        engine.execute("FLUSHALL")
        await here.replication(there).run(once=True)
        await expect(io, other.replication(there).run(once=True), UsageError)
        # Somebody believes that another event stands at the end of the mirror.
        lane = Lane(here._core.partitions[0], there._core.partitions[0])
        lane.at = f"{(await lane.begin(lane.source)).partition(':')[0]}:1:other"
        await here.append("anna", Placed(item="next"))
        newest = sim.server.engine.execute("XREVRANGE", KEYS.log, "+", "-", "COUNT", "1")
        await expect(io, lane.apply(newest), Diverged)
        # The epoch of the mirror is newer than that of a source that comes back old.
        await here.fence()
        await here.promote()
        await here.replication(there).run(once=True)
        sim.server.engine.execute("HDEL", KEYS.meta, "epoch")
        await expect(io, here.replication(there).run(once=True), Diverged)
        sim.server.engine.execute("HSET", KEYS.meta, "epoch", "1")
        code, *_ = await io.process.ios[THERE].run(PROMOTE, (KEYS.meta, KEYS.mirror), ("1", "token"))
        if code != 2 or (await there.promote()).epoch != 2:
            raise sim.history.fail("two promotions are one epoch")
        await expect(io, there.fence(2), UsageError)
        await expect(io, there.promote(), UsageError)
        io.note("done")

    async def expect(_: SimIO, call: Any, kind: type[Exception]) -> None:  # noqa: ANN401
        try:
            await call
        except kind:
            return
        except Unavailable as error:
            raise sim.history.fail(f"not {kind.__name__}: {error}") from error
        raise sim.history.fail(f"no {kind.__name__}")

    sim.start("a", work)
    sim.run(until=60.0)
    if not sim.history.of("done"):
        raise sim.history.fail("it did not come to its end")
    return sim


def late_fence(seed: int, scripts: Scripts = None) -> Simulation:
    """A fence that comes once more, late, finds a store that was opened again since, and leaves it open."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store = at(io, HERE)
        await store.append("anna", Placed(item="x"))
        for fates in ((), ("fine", "fine", "late")):
            sim.next_requests(*fates)
            await store.fence()
            await store.promote()

    sim.start("a", work)
    sim.run(until=60.0)
    if sim.server.engine.execute("HMGET", KEYS.meta, "ro", "epoch") != [None, b"2"]:
        raise sim.history.fail("a store was closed that nobody wanted closed")
    return sim


def parting(seed: int, scripts: Scripts = None) -> Simulation:
    """The old side comes back with a tail, which is set aside in bad weather, by one who is killed; then it follows."""
    with TemporaryDirectory() as directory:
        return _parting(seed, scripts, f"{directory}/tail.jsonl")


def _parting(seed: int, scripts: Scripts, file: str) -> Simulation:
    faults = replace(BAD_DAY, cancel_every_s=0.0, restart_every_s=0.0, calm_after_s=60.0)
    sim = Simulation(seed, scripts=scripts, faults=faults, servers=2)
    common, tail, theirs = (sim.random.randint(*ends) for ends in ((0, 6), (0, 5), (0, 4)))

    async def surely(io: SimIO, call: Any, *args: Any, **options: Any) -> Any:  # noqa: ANN401
        while True:
            try:
                return await call(*args, **options)
            except (Unavailable, OutcomeUnknown):
                await io.sleep(1.0)

    async def fill(io: SimIO, server: int, name: str, count: int) -> None:
        for n in range(count):
            stream = io.process.random.choice(("anna", "bert"))
            await surely(io, at(io, server).append, stream, Placed(item=f"{name}{n}"), event_ids=f"{name}{n}")

    async def part(io: SimIO) -> None:
        await fill(io, HERE, "c", common)
        here, there = at(io, HERE), at(io, THERE)
        await surely(io, here.replication(there).run, once=True)
        await fill(io, HERE, "o", tail)
        # Its answer may be lost: then it is one already.
        while (await surely(io, there.site)).role == "mirror":
            try:
                await there.promote()
            except GridsyncError:
                await io.sleep(1.0)
        await fill(io, THERE, "n", theirs)
        await surely(io, here.fence, 1)
        io.note("parted")
        await set_aside(io)

    async def set_aside(io: SimIO) -> None:
        if not sim.history.of("parted"):
            return
        here, there = at(io, HERE), at(io, THERE)
        await surely(io, here.set_aside, there, file)
        await surely(io, there.replication(here).run, once=True)
        io.note("done")

    sim.start("a", part)
    sim.at(sim.random.uniform(1, 20), lambda: sim.kill("a") if sim.history.of("parted") else None)
    sim.at(70.0, lambda: sim.start("b", set_aside))
    sim.run(until=150.0)
    if sim.history.of("done"):
        check_same(sim)
        found = [fields[1].decode() for _, fields in rows(sim, HERE)]
        if found != [f"c{n}" for n in range(common)] + [f"n{n}" for n in range(theirs)]:
            raise sim.history.fail(f"{common} in common, {theirs} of the new side: {found}")
        aside = list(read_entries_of(file)) if tail else []
        if [entry[1][1].decode() for entry in aside] != [f"o{n}" for n in range(tail)]:
            raise sim.history.fail(f"{tail} were set aside: {aside}")
    else:
        raise sim.history.fail("it did not come to its end")
    return sim


def read_entries_of(file: str) -> list[Any]:
    """Return what was set aside."""
    with Path(file).open("rb") as lines:
        read_head(lines, file)
        return list(read_entries(lines, file))
