"""Ordered groups in bad weather: who has what, and in which order it is begun; for shipped scripts and mutants."""

from __future__ import annotations

import asyncio
import zlib
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import event_partitions
from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.streams import DEAD, AsyncEventStore, Retry
from gridsync.testing.engine import Stream
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.stream_scenarios import BAD_DAY, GROUP, Placed

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from gridsync.streams import AsyncConsumerGroup, Recorded
    from gridsync.testing.sim import SimIO
    from tests.sim.stream_scenarios import Scripts

PARTITIONS = 3
KEYS = event_partitions("sim", "trades", PARTITIONS)
STREAMS = ("anna", "bert", "carl", "dora", "emil")
TTL_S = 4.0
SOON = Retry(max_attempts=5, first_s=0.2, max_s=1.0)
DRIZZLE = Faults(request_lost=0.03, reply_lost=0.06, slow=0.05, cut_every_s=7.0, flush_scripts_every_s=11.0)


def open_store(io: SimIO) -> AsyncEventStore[Placed]:
    return AsyncEventStore(io, "sim", "trades", Placed, partitions=PARTITIONS)


def billing(io: SimIO) -> AsyncConsumerGroup[Placed]:
    return open_store(io).group(GROUP, ordered=True)


async def write(io: SimIO, commits: int, pause_s: float) -> None:
    """Append commits of one to three events to any stream."""
    store, random = open_store(io), io.process.random
    for commit in range(commits):
        ids = tuple(f"{io.process.name}{commit}.{k}" for k in range(random.choice((1, 1, 2, 3))))
        stream = random.choice(STREAMS)
        while True:
            try:
                await store.append(stream, [Placed(item=each) for each in ids], event_ids=ids)
            except (OutcomeUnknown, Unavailable):
                await io.sleep(0.1)
            else:
                break
        await io.sleep(random.expovariate(1 / pause_s))


class Watch:
    """What is in work where, checked whenever an event begins."""

    def __init__(self, sim: Simulation, *, strict: bool = False) -> None:
        self.sim = sim
        self.strict = strict
        """Whether every process can hear that it lost its lease."""
        self.running: dict[str, dict[str, tuple[int, int]]] = defaultdict(dict)
        """Stream → process and its life → version that it has in work, and its partition."""
        self.settled: dict[str, int] = defaultdict(int)
        """Stream → up to which version everything was handled or given up."""
        self.tries: Counter[tuple[str, int]] = Counter()
        self.wrong: Exception | None = None
        """What was seen first; raised in a handler, it would be one more failure that is tried again."""

    def lease(self, partition: int) -> tuple[str, bool]:
        """Return whose the partition is, and whether the lease is still running."""
        execute = self.sim.server.engine.execute
        member, till = execute("HMGET", KEYS[partition].lease(GROUP), "m", "t")
        return (member or b"").decode(), till is not None and int(till) > self.sim.server.engine.data.now_ms()

    def begin(self, me: str, recorded: Recorded[Any], partition: int) -> None:
        """An event begins: the next of its stream or one that was begun before, and nobody else has the stream."""
        stream, version = recorded.stream, recorded.version
        self.tries[stream, version] += 1
        member, running = self.lease(partition)
        if member != me or not running:
            self.fail(f"{me} begins {stream} {version} while partition {partition} is {member!r}'s")
        if version > self.settled[stream] + 1:
            self.fail(f"{me} begins {stream} {version} before {self.settled[stream] + 1} is settled")
        for other, (at, where) in self.running[stream].items():
            # Whoever lost the lease was told to stop; only a process that stands still cannot hear it.
            if other == me or self.strict or self.lease(where)[0] == other:
                self.fail(f"{me} begins {stream} {version} while {other} is at {at}")
        self.running[stream][me] = (version, partition)

    def fail(self, message: str) -> None:
        """Remember what is wrong, with the story up to here."""
        self.wrong = self.wrong or self.sim.history.fail(message)

    def end(self, me: str, recorded: Recorded[Any], *, handled: bool) -> None:
        """An event ends."""
        self.running[recorded.stream].pop(me, None)
        if handled and self.lease_is(me, recorded):
            self.settled[recorded.stream] = max(self.settled[recorded.stream], recorded.version)

    def lease_is(self, me: str, recorded: Recorded[Any]) -> bool:
        return self.lease(part_of(recorded.stream))[0] == me


def part_of(stream: str) -> int:
    """Return the partition of a stream."""
    return zlib.crc32(stream.encode()) % PARTITIONS


async def consume(  # noqa: PLR0917 - what a scenario varies
    io: SimIO,
    watch: Watch,
    work_s: float = 0.3,
    fails: float = 0.1,
    stop_after: float | None = None,
    ttl_s: float = TTL_S,
) -> None:
    """Handle events until stopped, again and again if cancelled; each life is a member of its own."""
    random = io.process.random
    life = 0
    while True:
        life += 1
        me = f"{io.process.name}-{life}"

        async def handle(recorded: Recorded[Placed], me: str = me) -> None:
            watch.begin(me, recorded, part_of(recorded.stream))
            handled = False
            try:
                await io.sleep(random.uniform(0, work_s))
                if random.random() < fails and watch.tries[recorded.stream, recorded.version] < 3:
                    raise ValueError(recorded.position)
                handled = True
            finally:
                watch.end(me, recorded, handled=handled)
            io.note("handled", key=f"{recorded.stream} {recorded.version}", by=me)

        group = billing(io)
        if stop_after is not None:
            sim_stop(io, group, stop_after)
        try:
            done = await group.consume(
                handle,
                consumer=me,
                concurrency=random.choice((1, 3)),
                batch=random.choice((2, 10)),
                claim_idle=ttl_s,
                policy=SOON,
                on_error=lambda _: None,
            )
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            io.note("left", handled=done.handled, returned=done.returned)
            return


def sim_stop(io: SimIO, group: AsyncConsumerGroup[Any], after: float) -> None:
    async def stop() -> None:
        await io.sleep(after)
        group.stop()

    io.spawn(stop())


def stored(sim: Simulation) -> set[str]:
    """Return every event of the store, as the handlers note them."""
    found = set()
    for keys in KEYS:
        for _, flat in sim.server.engine.execute("XRANGE", keys.log, "-", "+"):
            facts = dict(zip(flat[::2], flat[1::2], strict=True))
            found.add(f"{facts[b's'].decode()} {int(facts[b'v'])}")
    return found


def check(sim: Simulation, watch: Watch) -> None:
    """Check that order held, everything was handled and nothing is pending."""
    if watch.wrong is not None:
        raise watch.wrong
    everything = stored(sim)
    if not everything:
        raise sim.history.fail("nothing was written")
    if missing := everything - {event.key for event in sim.history.of("handled")}:
        raise sim.history.fail(f"never handled: {sorted(missing)}")
    for keys in KEYS:
        log = sim.server.engine.data.find(keys.log.encode())
        group = log.groups.get(GROUP.encode()) if isinstance(log, Stream) else None
        if group is not None and group.pending:
            raise sim.history.fail(f"still pending: {list(group.pending)}")


def rebalancing(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """Members come, go, die, are cancelled and stand still in bad weather: order holds and nothing is lost."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0))
    watch = Watch(sim)
    for name in "ab":
        sim.start(name, write, 20, 0.8)
    tasks = [sim.start("c", consume, watch)]
    for name in "de":
        sim.at(sim.random.uniform(1, 12), lambda name=name: tasks.append(sim.start(name, consume, watch)))
    sim.at(sim.random.uniform(5, 20), lambda: sim.kill("c"))
    for _ in range(3):
        sim.at(sim.random.uniform(13, 35), lambda: sim.random.choice(tasks[1:]).cancel())
    sim.at(60.0, lambda: sim.start("z", consume, watch, 0.0, 0.0))
    sim.run(until=110.0)
    check(sim, watch)
    return sim


def failing_in_order(seed: int, scripts: Scripts = None) -> Simulation:
    """One member on a bad line, whose handlers fail often: what failed holds back the rest of its stream."""
    sim = Simulation(seed, scripts=scripts, faults=replace(DRIZZLE, calm_after_s=40.0))
    watch = Watch(sim)
    for name in "ab":
        sim.start(name, write, 15, 0.4)
    sim.start("c", consume, watch, 0.3, 0.4)
    sim.run(until=100.0)
    check(sim, watch)
    return sim


def frozen(seed: int, scripts: Scripts = None) -> Simulation:
    """A member stands still past its leases, another takes over; awake again, the first one begins nothing."""
    sim = Simulation(seed, scripts=scripts)
    watch = Watch(sim)
    for name in "ab":
        sim.start(name, write, 25, 0.5)
    for name in "cd":
        sim.start(name, consume, watch, 0.5)
    for at in (4.0, 15.0):
        victim = sim.random.choice("cd")
        sim.at(at + sim.random.uniform(0, 2), lambda victim=victim: sim.pause(victim, TTL_S * 2))
    sim.run(until=90.0)
    check(sim, watch)
    return sim


def cut_off(seed: int, scripts: Scripts = None) -> Simulation:
    """A member works for long and cannot reach the server: when another takes over, the first one has stopped."""
    sim = Simulation(seed, scripts=scripts)
    watch = Watch(sim, strict=True)
    sim.start("a", write, 20, 0.3)
    sim.start("c", consume, watch, 6.0, 0.0)
    sim.start("d", consume, watch, 6.0, 0.0)
    sim.at(4.0 + sim.random.uniform(0, 3), lambda: sim.part("c", 0, TTL_S * 4))
    sim.run(until=150.0)
    check(sim, watch)
    return sim


def given_back_in_order(seed: int, scripts: Scripts = None) -> Simulation:
    """Letters of one stream are given back while a later event of it is parked: what waits goes behind them all."""
    sim = Simulation(seed, scripts=scripts, faults=replace(DRIZZLE, calm_after_s=40.0))
    watch = Watch(sim)
    stream, letters, broken = STREAMS[0], 11, True
    begun: list[int] = []

    async def work(io: SimIO) -> None:
        nonlocal broken
        store = open_store(io)
        for n in range(letters + 3):
            await patiently(io, lambda n=n: store.append(stream, Placed(item=f"{n}"), event_ids=f"{n}"))
        fails = Counter({letters: 1, letters + 1: 1})

        async def handle(recorded: Recorded[Placed]) -> None:
            if broken and recorded.version <= letters:
                raise ArithmeticError(recorded.version)
            if fails[recorded.version]:
                fails[recorded.version] -= 1
                raise KeyError(recorded.version)
            begun.append(recorded.version)
            io.note("handled", key=f"{stream} {recorded.version}")

        policy = {ArithmeticError: DEAD, KeyError: Retry(first_s=8.0, max_s=8.0)}
        for broken in (True, False):
            group = billing(io)
            sim_stop(io, group, 4.0 if broken else 60.0)
            # Nobody takes anything meanwhile, so they are handed out in one go.
            await group.consume(handle, consumer="c", claim_idle=LONG_S, policy=policy, on_error=lambda _: None)
            if broken:
                await patiently(io, lambda: billing(io).dead_letters().replay())

    sim.start("c", work)
    sim.run(until=100.0)
    check(sim, watch)
    if begun != sorted(begun):
        raise sim.history.fail(f"handled in this order: {begun}")
    return sim


async def patiently(io: SimIO, call: Callable[[], Awaitable[object]]) -> None:
    """Call it until the server has answered."""
    while True:
        try:
            await call()
        except (OutcomeUnknown, Unavailable):
            await io.sleep(0.1)
        else:
            return


LONG_S = 60.0


def handed_over(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails and leases are long; members come and go: partitions move at once, and nothing is begun twice."""
    sim = Simulation(seed, scripts=scripts)
    watch = Watch(sim)
    for name in "ab":
        sim.start(name, write, 25, 0.4)
    sim.start("c", consume, watch, 0.6, 0.0, 12.0, LONG_S)
    for name in "de":
        sim.at(sim.random.uniform(2, 6), lambda name=name: sim.start(name, consume, watch, 0.6, 0.0, None, LONG_S))
    shares: list[list[bytes]] = []

    def look() -> None:
        shares.append([sim.server.engine.execute("HGET", keys.lease(GROUP), "m") for keys in KEYS])

    sim.at(11.0, look)
    sim.at(19.0, look)
    sim.run(until=60.0)
    check(sim, watch)
    if twice := [key for key, count in watch.tries.items() if count > 1]:
        raise sim.history.fail(f"begun twice: {twice}")
    for then, members in zip(shares, (3, 2), strict=True):
        if None in then or len(set(then)) != members:
            raise sim.history.fail(f"{members} members share the partitions like this: {then}")
    return sim


def usurped(seed: int, scripts: Scripts = None) -> Simulation:
    """The lease of a calm owner is another's all of a sudden: it begins nothing, and comes back when that ends."""
    sim = Simulation(seed, scripts=scripts)
    watch = Watch(sim)
    engine = sim.server.engine
    sim.start("a", write, 5, 0.2)
    sim.start("c", consume, watch, 0.1, 0.0)

    def usurp() -> None:
        for keys in KEYS:
            till = str(engine.data.now_ms() + 3000)
            engine.execute("HSET", keys.lease(GROUP), "m", "x", "o", "x.1", "t", till)

    def look() -> None:
        if (owners := {engine.execute("HGET", keys.lease(GROUP), "m") for keys in KEYS}) != {b"c-1"}:
            watch.fail(f"when that lease has ended the partitions are still {owners}")

    # Owners look at their leases every third of TTL_S.
    then = 12.0 + sim.random.uniform(0.1, 1.2)
    sim.at(then, usurp)
    sim.at(then + 3.5, look)
    # Something new before it looks at its leases again, or long after.
    sim.at(then + (0.01 if seed % 2 else 8.0), lambda: sim.start("b", write, 5, 0.02))
    sim.run(until=50.0)
    check(sim, watch)
    return sim
