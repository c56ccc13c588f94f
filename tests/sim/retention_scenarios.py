"""What retention does beside everybody who reads, and what must then be true; for shipped scripts and mutants."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gridsync.errors import GridsyncError, OutcomeUnknown, Truncated, Unavailable
from gridsync.streams import Changes, Recorded, Retry
from gridsync.streams._keeper import TURN
from gridsync.streams._retention import limits
from gridsync.streams._tenure import PULL
from gridsync.testing.checkers import handled_at_least_once
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, GROUP, KEYS, Placed, open_store, write

if TYPE_CHECKING:
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts

READER = "dashboard"
VIEW = "totals"


def flat_hash(sim: Simulation, key: str) -> dict[str, str]:
    """Return a hash as the server has it."""
    found = sim.server.engine.execute("HGETALL", key)
    pairs = found.items() if isinstance(found, dict) else zip(found[::2], found[1::2], strict=True)
    return {field.decode(): value.decode() for field, value in pairs}


def ends(sim: Simulation) -> tuple[int, int]:
    """Return the first position of the log and the last one that was given out."""
    engine = sim.server.engine
    first = engine.execute("XRANGE", KEYS.log, "-", "+", "COUNT", "1")
    return int(first[0][0][:-2]) if first else 0, int(engine.execute("HGET", KEYS.meta, "pos") or 0)


def had(sim: Simulation) -> dict[str, int]:
    """Return up to where everybody has had every event, worked out from what the server holds and not by its script."""
    engine, places = sim.server.engine, {}
    for name, note in flat_hash(sim, KEYS.floors).items():
        if not note.endswith("expired"):
            places[f"group {name}"] = int(note.split()[0])
    groups = engine.execute("XINFO", "GROUPS", KEYS.log) if engine.execute("EXISTS", KEYS.log) else []
    for row in groups:
        info = row if isinstance(row, dict) else dict(zip(row[::2], row[1::2], strict=True))
        name = info[b"name"].decode()
        pending = engine.execute("XPENDING", KEYS.log, name, "-", "+", "1")
        lowest = int(pending[0][0][:-2]) - 1 if pending else int(info[b"last-delivered-id"][:-2])
        places[f"group {name}"] = lowest
    for name, checkpoint in flat_hash(sim, KEYS.places).items():
        places[f"projection {name}"] = int(checkpoint.partition(":")[0])
    for name, note in flat_hash(sim, KEYS.readers).items():
        places[f"reader {name}"] = int(note.split(" ", 3)[3].partition(":")[0])
    return places


def watch_trims(sim: Simulation) -> None:
    """Fail when an event leaves the log that somebody has not had, or the newest one."""
    before = 0

    def look(call: Call) -> None:
        nonlocal before
        first, last = ends(sim)
        if not first and last:
            raise sim.history.fail(f"{call.process} has emptied the log")
        if first == before:
            return
        before = first
        for who, position in had(sim).items():
            if position < first - 1:
                raise sim.history.fail(f"{call.process} removed what {who} has not had: {position} before {first}")

    sim.watch(look)


async def trim(io: SimIO, until_s: float) -> None:
    """Trim by one limit or another, again and again."""
    store, random = open_store(io), io.process.random
    begun = io.monotonic()
    while io.monotonic() < begun + until_s:
        await io.sleep(random.expovariate(1))
        limits: dict[str, Any] = random.choice(({"max_count": 1}, {"max_count": 5}, {"max_age": 0}, {"max_age": 3}))
        try:
            done = await store.trim(**limits)
        except (OutcomeUnknown, Unavailable):
            continue
        io.note("trimmed", removed=done.removed, kept=done.kept, held_by=done.held_by, **limits)


async def bill(io: SimIO) -> None:
    """Handle events, and fail at some of them; a failed one comes again after a while."""
    random = io.process.random

    async def handle(recorded: Recorded[Placed]) -> None:
        await io.sleep(random.uniform(0, 0.5))
        if random.random() < 0.15:
            raise ValueError("the handler failed")
        io.note("handled", position=recorded.position)

    group = open_store(io).group(GROUP)
    await group.consume(
        handle, batch=10, claim_idle=CLAIM_IDLE_S, on_error=lambda _: None, policy=Retry(first_s=2.0, max_s=4.0)
    )


async def project(io: SimIO) -> None:
    """Count events in a view."""

    def count(changes: Changes, recorded: Recorded[Placed]) -> None:
        changes.add(recorded.stream, 1)

    await open_store(io).projection(VIEW).run(count)


async def follow(io: SimIO) -> None:
    """Read under a name, slowly."""
    async for recorded in open_store(io).subscribe(reader=READER, reader_ttl=None):
        await io.sleep(io.process.random.uniform(0, 0.3))
        io.note("seen", position=recorded.position)


def trimming(seed: int, scripts: Scripts = None) -> Simulation:
    """Writers, a group that fails, a view, a reader and two who trim, in bad weather; readers die and come again."""
    sim = Simulation(seed, scripts=scripts, faults=replace(BAD_DAY, cancel_every_s=0.0))
    watch_trims(sim)
    store = open_store(sim.io("setup"))

    async def begin(_: SimIO) -> None:
        # Who is not known yet holds nothing: they are known before the first event.
        for _attempt in range(20):
            try:
                await store.note_reader(READER, 0, ttl=None)
            except GridsyncError:
                continue
            return

    sim.server.engine.execute("XGROUP", "CREATE", KEYS.log, GROUP, "0-0", "MKSTREAM")
    sim.server.engine.execute("HSET", KEYS.places, VIEW, "0")
    sim.start("0", begin)
    sim.at(1.0, lambda: [sim.start(name, write, 20, 0.8) for name in "ab"])
    for name, work in (("c", bill), ("d", bill), ("e", project), ("f", follow)):
        sim.start(name, work)
    for name in "tu":
        sim.start(name, trim, 60.0)
    for name, heir, work in (("c", "c2", bill), ("e", "e2", project), ("f", "f2", follow)):
        at = sim.random.uniform(3, 25)
        sim.at(at, lambda name=name: sim.kill(name))
        sim.at(at + 2.0, lambda heir=heir, work=work: sim.start(heir, work))
    for _ in range(2):
        sim.at(sim.random.uniform(4, 30), lambda: sim.server.engine.execute("XGROUP", "DESTROY", KEYS.log, GROUP))
    sim.run(until=150.0)
    _, last = ends(sim)
    handled_at_least_once(sim.history, list(range(1, last + 1)), "position")
    seen = {event.position for event in sim.history.of("seen")}
    if missing := set(range(1, last + 1)) - seen:
        raise sim.history.fail(f"the reader never saw {sorted(missing)}")
    counted = sum(int(value) for value in flat_hash(sim, KEYS.view(VIEW)).values())
    if counted != last:
        raise sim.history.fail(f"the view counts {counted} of {last} events")
    if last > 10 and ends(sim)[0] < last // 2:
        raise sim.history.fail(f"everybody is done and {ends(sim)} is still there")
    return sim


def by_age(seed: int, scripts: Scripts = None) -> Simulation:
    """Only what is old enough goes, and all of it."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store, random = open_store(io), io.process.random
        for _ in range(30):
            await store.append("anna", [Placed(item="x")] * random.choice((1, 2, 3)))
            await io.sleep(random.uniform(0, 2))
            if random.random() < 0.3:
                first, last = ends(sim)
                times = {e.position: e.time_us async for e in store.read_all(after=first - 1)}
                age_s = random.uniform(0, 10)
                before_us = sim.server.now_us()
                await store.trim(max_age=age_s)
                now_us, first = sim.server.now_us(), ends(sim)[0]
                for position, time_us in times.items():
                    old, gone = time_us + age_s * 1e6, position < first
                    if (gone and old > now_us) or (not gone and position != last and old < before_us - 1):
                        raise sim.history.fail(f"{position} of {time_us}, at {now_us}, {age_s} s: removed: {gone}")

    sim.start("a", work)
    sim.run(until=120.0)
    return sim


def told(seed: int, scripts: Scripts = None) -> Simulation:
    """A group that was given up is told so when it comes back, and goes on when it is said to."""
    sim = Simulation(seed, scripts=scripts)

    async def work(io: SimIO) -> None:
        store = open_store(io)
        seen: list[int] = []
        await store.append("anna", [Placed(item="x")] * 5)
        group = store.group(GROUP)

        async def handle(recorded: Recorded[Placed]) -> None:
            if recorded.position == 3 and not seen[2:]:
                raise ValueError
            seen.append(recorded.position)

        later = Retry(first_s=600.0, max_s=600.0)
        await group.consume(handle, idle_stop=0, on_error=lambda _: None, policy=later, claim_idle=CLAIM_IDLE_S)
        for pause_s, expired in ((io.process.random.uniform(0, 50), ()), (61.0, (GROUP,))):
            await io.sleep(pause_s)
            done = await store._keeping()[0].trim(limits(None, 1, None), expire_ms=60_000)
            if done.expired != expired or done.removed != 2:
                raise sim.history.fail(f"of a group that was silent for {pause_s} s more: {done}")
        try:
            await group.consume(handle, idle_stop=0, claim_idle=CLAIM_IDLE_S)
        except Truncated as error:
            if error.first != 5:
                raise sim.history.fail(f"it may go on at 5: {error}") from None
        else:
            raise sim.history.fail(f"nobody told the group that it has not had an event: {seen}")
        if await group.skip_removed() != 2:
            raise sim.history.fail("it has not had 3 and 4")
        await group.consume(handle, idle_stop=0, claim_idle=CLAIM_IDLE_S)
        if seen != [1, 2, 4, 5, 5]:
            raise sim.history.fail(f"it saw {seen}")

    sim.start("a", work)
    sim.run(until=200.0)
    return sim


TURN_MS = 5000


def turns(seed: int, scripts: Scripts = None) -> Simulation:
    """Three ask for the turn again and again, behind a key that somebody left; every other reply is lost."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.4))
    sim.server.engine.execute("SET", KEYS.turn, "by hand")
    given: dict[str, int] = {}

    async def ask(io: SimIO) -> None:
        begun = io.monotonic()
        while io.monotonic() < begun + 100.0:
            token = io.token()
            try:
                left = await io.run(TURN, (KEYS.turn,), (token, str(TURN_MS)))
            except GridsyncError:
                continue
            if left < 0:
                io.note("turn", token=token)
            await io.sleep(io.process.random.uniform(0.1, 0.5))

    def look(_: Call) -> None:
        owner = sim.server.engine.execute("GET", KEYS.turn)
        if owner is None or owner.decode() in given or owner == b"by hand":
            return
        now = sim.server.now_us()
        if given and now - max(given.values()) < TURN_MS * 1000 - 1000:
            raise sim.history.fail(f"two have the turn: {owner!r} {now - max(given.values())} us after another one")
        given[owner.decode()] = now

    sim.watch(look)
    for name in "abc":
        sim.start(name, ask)
    sim.run(until=110.0)
    heard = {event.token for event in sim.history.of("turn")}
    if len(given) < 15 or not set(given) - heard <= set(list(given)[-1:]):
        raise sim.history.fail(f"of {len(given)} turns {len(heard)} were heard of")
    return sim


def late_pull(seed: int, scripts: Scripts = None) -> Simulation:
    """Of two pulls that know of the same deliveries one delivers: a copy that comes late would deliver to nobody."""
    sim = Simulation(seed, scripts=scripts)
    engine = sim.server.engine

    async def work(io: SimIO) -> None:
        await open_store(io).append("anna", [Placed(item="x")] * 4)
        engine.execute("XGROUP", "CREATE", KEYS.log, GROUP, "0-0")
        engine.execute("HSET", KEYS.lease(GROUP), "o", "me.1", "p", "0")
        keys = (KEYS.log, KEYS.failed(GROUP), KEYS.lease(GROUP))
        for pulls, delivered in (("0", 2), ("0", 0), ("1", 2), ("1", 0)):
            reply = await io.run(PULL, keys, (GROUP, "me.1", "2", pulls))
            count = len(reply[2]) if reply[0] else 0
            if count != delivered:
                raise sim.history.fail(f"a pull that knows of {pulls} brought {count}")

    sim.start("a", work)
    sim.run(until=20.0)
    return sim
