"""Handlers that fail in bad weather: what is put aside, given up and given back; for shipped scripts and mutants."""

from __future__ import annotations

import asyncio
from collections import Counter, defaultdict
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from gridsync.errors import OutcomeUnknown, Unavailable
from gridsync.streams import DEAD, SKIP, Park, Retry
from gridsync.testing.engine import Stream
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.stream_scenarios import BAD_DAY, CLAIM_IDLE_S, GROUP, KEYS, Placed, check_store, open_store, write

if TYPE_CHECKING:
    from gridsync.streams import Recorded
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts

RETRY = Retry(max_attempts=4, first_s=0.3, max_s=2.0)
PARK = Park(max_attempts=4, first_s=0.3, max_s=2.0)
POLICY = {ValueError: RETRY, KeyError: PARK, OSError: SKIP, ArithmeticError: DEAD}


class Group:
    """The server's side of the group, as it is at one moment."""

    def __init__(self, sim: Simulation) -> None:
        execute = sim.server.engine.execute
        log = sim.server.engine.data.find(KEYS.log.encode())
        group = log.groups.get(GROUP.encode()) if isinstance(log, Stream) else None
        entries = {} if group is None else group.pending
        self.owners = {entry_id[0]: pending.consumer for entry_id, pending in entries.items()}
        self.parked = {position for position, owner in self.owners.items() if owner == b"~parked"}
        due = execute("ZRANGE", KEYS.retry(GROUP), "0", "-1", "WITHSCORES")
        self.due = {int(member[:-2]): float(score) for member, score in zip(due[::2], due[1::2], strict=True)}
        self.waiting = {int(member[-16:]) for member in execute("ZRANGE", KEYS.waiting(GROUP), "0", "-1")}
        self.dead = Counter(int(entry[1][1]) for entry in execute("XRANGE", KEYS.dead(GROUP), "-", "+"))
        self.now_ms = sim.server.engine.data.now_ms()


def watch(sim: Simulation) -> None:
    """Check after every call: a delivered event is pending, given up or done; what is parked waits for its time."""
    before = Group(sim)
    delivered: set[int] = set()
    done: set[int] = set()
    seen = 0

    def look(call: Call) -> None:
        nonlocal before, seen
        now = Group(sim)
        events = sim.history.events
        done.update(event.position for event in events[seen:] if event.kind in {"handled", "skipped"})
        seen = len(events)
        delivered.update(now.owners)
        gone = delivered - now.owners.keys() - now.dead.keys() - done
        both = now.owners.keys() & now.dead.keys()
        twice = {position for position, count in now.dead.items() if count > 1}
        astray = now.parked ^ (now.due.keys() | now.waiting)
        early = {
            position
            for position in before.parked & now.owners.keys() - now.parked
            if before.due.get(position, float("inf")) > now.now_ms
        }
        for what, wrong in (
            ("neither pending nor a dead letter, and never handled", gone),
            ("pending and a dead letter", both),
            ("twice a dead letter", twice),
            ("parked and on no list, or the reverse", astray),
            ("due and waiting", now.due.keys() & now.waiting),
            ("handed out before its time", early),
        ):
            if wrong:
                raise sim.history.fail(f"after a call of {call.process} {sorted(wrong)} are {what}")
        before = now

    sim.watch(look)


def misfortune(position: int, attempt: int) -> Exception | None:
    """Return what the handler raises, the same for everybody who tries that event."""
    if position % 13 == 0:
        return OSError("this is of no use")
    if position % 17 == 0:
        return ArithmeticError("this is never right")
    if position % 7 == 0:
        return ValueError("never")
    if position % 5 == 0:
        return KeyError("not yet") if attempt < 3 else None
    return ValueError("not now") if position % 3 == 0 and attempt < 2 else None


def handler(io: SimIO, tries: Counter[int], work_s: float = 0.3) -> Any:  # noqa: ANN401
    async def handle(recorded: Recorded[Any]) -> None:
        tries[recorded.position] += 1
        error = misfortune(recorded.position, tries[recorded.position])
        io.note("begun", position=recorded.position)
        await io.sleep(io.process.random.uniform(0, work_s))
        if isinstance(error, OSError):
            io.note("skipped", position=recorded.position)
        if error is not None:
            raise error
        io.note("handled", position=recorded.position, stream=recorded.stream)

    return handle


async def consume(io: SimIO, tries: Counter[int], concurrency: int | None = None) -> None:
    """Handle events until stopped, again and again if cancelled."""
    while True:
        try:
            await (
                open_store(io)
                .group(GROUP)
                .consume(
                    handler(io, tries),
                    concurrency=concurrency or io.process.random.choice((1, 3)),
                    batch=10,
                    claim_idle=CLAIM_IDLE_S,
                    policy=POLICY,
                    on_error=lambda _: None,
                )
            )
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            return


def check_settled(sim: Simulation, stored: list[int], given_up: set[int]) -> None:
    """Check that everything was handled or given up, and nothing is left that nobody would ever look at."""
    end = Group(sim)
    done = {event.position for event in sim.history.of("handled")} | {e.position for e in sim.history.of("skipped")}
    if end.owners or end.due or end.waiting or sim.server.engine.execute("EXISTS", KEYS.failed(GROUP)):
        raise sim.history.fail(f"left over: {end.owners} {end.due} {end.waiting}")
    if missing := set(stored) - done - end.dead.keys():
        raise sim.history.fail(f"neither handled nor given up: {sorted(missing)}")
    if wrong := end.dead.keys() - given_up:
        raise sim.history.fail(f"given up too early: {sorted(wrong)}")


def hopeless(stored: list[int]) -> set[int]:
    return {p for p in stored if p % 13 and (p % 17 == 0 or p % 7 == 0)}


def failing(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """Writers and a group in bad weather, of which many handlers fail; consumers are cancelled and killed."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0))
    watch(sim)
    tries: Counter[int] = Counter()
    for name in "ab":
        sim.start(name, write, 15, 1.0)
    tasks = [sim.start(name, consume, tries) for name in "cde"]
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("c"))
    for _ in range(3):
        sim.at(sim.random.uniform(3, 35), sim.random.choice(tasks[1:]).cancel)
    sim.at(60.0, lambda: sim.start("z", consume, tries))
    sim.run(until=140.0)
    stored = check_store(sim)
    # Whoever died or was overtaken in the middle used up an attempt of an event that would have ended well.
    unlucky = {position for position, count in tries.items() if count >= RETRY.max_attempts}
    check_settled(sim, stored, hopeless(stored) | unlucky)
    return sim


LOSSY = Faults(request_lost=0.04, reply_lost=0.08, slow=0.05, cut_every_s=5.0, flush_scripts_every_s=9.0)


def in_line(seed: int, scripts: Scripts = None) -> Simulation:
    """One consumer on a bad line parks events: those of one stream are handled in order, whatever failed before."""
    sim = Simulation(seed, scripts=scripts, faults=replace(LOSSY, calm_after_s=40.0))
    watch(sim)
    tries: Counter[int] = Counter()

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Any]) -> None:
            tries[recorded.position] += 1
            if recorded.position % 4 == 0 and tries[recorded.position] < 3:
                raise KeyError(recorded.position)
            if recorded.position % 9 == 0:
                raise KeyError(recorded.position)
            io.note("handled", position=recorded.position, stream=recorded.stream)

        group = open_store(io).group(GROUP)
        await group.consume(handle, claim_idle=600.0, batch=10, policy=PARK, on_error=lambda _: None)

    for name in "ab":
        sim.start(name, write, 12, 0.3)
    sim.start("c", work)
    sim.run(until=120.0)
    stored = check_store(sim)
    check_settled(sim, stored, {p for p in stored if p % 9 == 0})
    order: dict[str, list[int]] = defaultdict(list)
    for event in sim.history.of("handled"):
        if event.position not in order[event.stream]:
            order[event.stream].append(event.position)
    for stream, positions in order.items():
        if positions != sorted(positions):
            raise sim.history.fail(f"the events of {stream!r} were handled out of order: {positions}")
    return sim


def side_by_side(seed: int, scripts: Scripts = None) -> Simulation:
    """Several events of a stream fail at the same time: the earliest is tried again, the others wait for it."""
    sim = Simulation(seed, scripts=scripts, faults=replace(LOSSY, calm_after_s=40.0))
    watch(sim)
    tries: Counter[int] = Counter()

    def look(call: Call) -> None:
        now, first = Group(sim), dict[bytes, int]()
        log = sim.server.engine.execute("XRANGE", KEYS.log, "-", "+")
        streams = {int(entry_id[:-2]): fields[3] for entry_id, fields in log}
        for position in sorted(now.due):
            if (other := first.setdefault(streams[position], position)) != position:
                raise sim.history.fail(f"after a call of {call.process} both {other} and {position} are tried again")
        for position in now.waiting:
            if first.get(streams[position], 0) > position:
                raise sim.history.fail(f"after a call of {call.process} {position} waits for a later one")

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Any]) -> None:
            tries[recorded.position] += 1
            await io.sleep(io.process.random.uniform(0, 0.5))
            if recorded.position % 3 and tries[recorded.position] < 3:
                raise KeyError(recorded.position)
            io.note("handled", position=recorded.position, stream=recorded.stream)

        group = open_store(io).group(GROUP)
        policy = Park(first_s=0.3, max_s=2.0)
        await group.consume(
            handle, concurrency=3, claim_idle=CLAIM_IDLE_S, batch=10, policy=policy, on_error=lambda _: None
        )

    sim.watch(look)
    for name in "ab":
        sim.start(name, write, 12, 0.3)
    for name in "cd":
        sim.start(name, work)
    sim.run(until=120.0)
    check_settled(sim, check_store(sim), set())
    return sim


def given_back(seed: int, scripts: Scripts = None) -> Simulation:
    """An operator replays dead letters, two of them at once, on a bad line: each is handled in the end."""
    sim = Simulation(seed, scripts=scripts, faults=replace(LOSSY, calm_after_s=50.0))
    watch(sim)
    mended = False

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Any]) -> None:
            if not mended:
                raise ArithmeticError
            io.note("handled", position=recorded.position)

        group = open_store(io).group(GROUP)
        await group.consume(handle, claim_idle=CLAIM_IDLE_S, policy=POLICY, on_error=lambda _: None)

    async def operate(io: SimIO) -> None:
        nonlocal mended
        await io.sleep(20.0)
        mended = True
        told = 0
        while True:
            try:
                told += (await open_store(io).group(GROUP).dead_letters().replay()).replayed
                left = await open_store(io).group(GROUP).dead_letters().count()
            except (OutcomeUnknown, Unavailable):
                continue
            io.note("replayed", told=told)
            if not left:
                return
            await io.sleep(0.5)

    sim.start("a", write, 12, 0.3)
    for name in "bc":
        sim.start(name, work)
    for name in "de":
        sim.start(name, operate)
    sim.run(until=120.0)
    check_settled(sim, check_store(sim), set())
    return sim


def lost_while_parked(seed: int, scripts: Scripts = None) -> Simulation:
    """The group is destroyed while events are parked and others wait behind them: all of them come again."""
    sim = Simulation(seed, scripts=scripts)
    tries: Counter[int] = Counter()
    for name in "ab":
        sim.start(name, write, 15, 0.3)
    for name in "cd":
        sim.start(name, consume, tries)
    for _ in range(3):
        sim.at(sim.random.uniform(1, 8), lambda: sim.server.engine.execute("XGROUP", "DESTROY", KEYS.log, GROUP))
    sim.run(until=90.0)
    stored = check_store(sim)
    end = Group(sim)
    done = {event.position for kind in ("handled", "skipped") for event in sim.history.of(kind)}
    if end.owners or (missing := set(stored) - done - end.dead.keys()):
        raise sim.history.fail(f"left over: {end.owners}, or never handled: {sorted(missing)}")
    return sim


async def one_event(io: SimIO) -> None:
    await open_store(io).append("anna", Placed(item="x"))


def patience(seed: int, scripts: Scripts = None) -> Simulation:
    """An event fails, and the consumer that it comes back to does not begin it before the pause has ended."""
    sim = Simulation(seed, scripts=scripts)
    begun: list[float] = []
    told: list[float] = []

    async def work(io: SimIO) -> None:
        async def handle(_recorded: Recorded[Any]) -> None:
            begun.append(io.monotonic())
            raise ValueError

        group = open_store(io).group(GROUP)
        policy = Retry(first_s=20.0, factor=1)
        await group.consume(handle, policy=policy, on_error=lambda f: told.append(f.retry_in or 0.0))

    sim.start("a", one_event)
    sim.start("b", work)
    sim.run(until=100.0)
    pauses = [later - earlier for earlier, later in pairwise(begun)]
    for pause, promised in zip(pauses, told, strict=False):
        # The server counts whole milliseconds.
        if pause < promised - 0.002:
            raise sim.history.fail(f"begun again after {pause:.3f} s, and {promised:.3f} s were promised")
    return sim


def overtaken(seed: int, scripts: Scripts = None) -> Simulation:
    """A consumer stands still, another takes its delivery over; back again, the first one fails and changes nothing."""
    sim = Simulation(seed, scripts=scripts)
    error = sim.random.choice((ValueError, KeyError, OSError, ArithmeticError))

    async def work(io: SimIO, delay: float, work_s: float) -> None:
        async def handle(recorded: Recorded[Any]) -> None:
            await io.sleep(work_s)
            if io.process.name == "a":
                raise error
            io.note("handled", position=recorded.position)

        await io.sleep(delay)
        group = open_store(io).group(GROUP)
        await group.consume(
            handle,
            claim_idle=CLAIM_IDLE_S,
            idle_stop=30.0,
            policy=POLICY,
            on_error=lambda failure: io.note("failed", decided=failure.decided),
        )

    sim.start("w", one_event)
    # a begins at 1 s and would fail at 11; it stands still from 2 to 9 s; b comes at 5 s and works until after 25 s.
    sim.start("a", work, 1.0, 10.0)
    sim.start("b", work, 5.0, 20.0)
    sim.at(2.0 + sim.random.uniform(0, 0.5), lambda: sim.pause("a", 7.0))
    sim.run(until=100.0)
    if [event.decided for event in sim.history.of("failed")] != ["stolen"]:
        raise sim.history.fail("the failure of who was too late was not told as stolen")
    check_settled(sim, [1], set())
    return sim
