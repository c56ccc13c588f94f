"""What writers and consumers do with one event store, and what must then be true; for shipped scripts and mutants."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import json
from collections import Counter, defaultdict
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

from gridsync._io.keys import events as event_keys
from gridsync.errors import Diverged, OutcomeUnknown, Unavailable, WrongVersion
from gridsync.streams import (
    ANY,
    EXISTS,
    NO_STREAM,
    AsyncConsumerGroup,
    AsyncEventStore,
    Changes,
    Check,
    Committed,
    Failure,
    Recorded,
    Write,
)
from gridsync.testing.checkers import exactly_once, gapless, handled_at_least_once
from gridsync.testing.engine import Stream
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None

KEYS = event_keys("sim", "orders")
GROUP = "billing"
CLAIM_IDLE_S = 3.0
BAD_DAY = Faults(
    request_lost=0.03,
    reply_lost=0.05,
    late=0.04,
    slow=0.03,
    cut_every_s=6.0,
    pause_every_s=6.0,
    pause_s=8.0,
    restart_every_s=20.0,
    flush_scripts_every_s=15.0,
    calm_after_s=40.0,
)


class Placed(BaseModel):
    """An order."""

    item: str


def open_store(io: SimIO) -> AsyncEventStore[Placed]:
    """Return the store that everybody uses."""
    return AsyncEventStore(io, "sim", "orders", Placed)


async def write(io: SimIO, commits: int, pause_s: float) -> None:
    """Append commits of one to three events at the version this writer believes in, or at any."""
    store, random, known = open_store(io), io.process.random, defaultdict(int)
    for commit in range(commits):
        stream = random.choice(("anna", "bert"))
        ids = tuple(f"{io.process.name}{commit}.{k}" for k in range(random.choice((1, 1, 2, 3))))
        version = known[stream]
        expected = random.choice((version, version, version, ANY, EXISTS if version else NO_STREAM))
        try:
            answer = await _append(store, stream, ids, expected)
        except WrongVersion as error:
            known[stream] = error.actual
            io.note("refused", ids=ids)
        except (OutcomeUnknown, Unavailable):
            io.note("unsure", ids=ids, stream=stream)
        else:
            known[stream] = answer.version
            io.note(
                "appended", ids=ids, stream=stream, version=answer.version, position=answer.position,
                expected=expected if isinstance(expected, int) else None,
            )  # fmt: skip
        await io.sleep(random.expovariate(1 / pause_s))


async def _append(store: AsyncEventStore[Placed], stream: str, ids: tuple[str, ...], expected: Any) -> Any:  # noqa: ANN401
    events = [Placed(item=event_id) for event_id in ids]
    try:
        return await store.append(stream, events, expected_version=expected, event_ids=ids)
    except (OutcomeUnknown, Unavailable):
        # What the documentation says: send it again with the same ids to find out.
        return await store.append(stream, events, expected_version=expected, event_ids=ids)


def entries(sim: Simulation, key: str) -> list[tuple[int, dict[str, str]]]:
    """Return a stream as the server has it."""
    found = sim.server.engine.execute("XRANGE", key, "-", "+")
    return [
        (int(entry_id.removesuffix(b"-0")), {k.decode(): v.decode() for k, v in zip(f[::2], f[1::2], strict=True)})
        for entry_id, f in found
    ]


def check_store(sim: Simulation) -> list[int]:
    """Check everything that the store promises about appends; returns the positions."""
    history = sim.history
    log = entries(sim, KEYS.log)
    gapless(history, "positions", (position for position, _ in log))
    by_stream: dict[str, list[tuple[int, str, int]]] = defaultdict(list)
    for position, facts in log:
        by_stream[facts["s"]].append((int(facts["v"]), facts["i"], position))
    for stream, rows in by_stream.items():
        gapless(history, f"versions of {stream}", (version for version, _, _ in rows))
        there = [(version, facts["i"], int(facts["p"])) for version, facts in entries(sim, KEYS.stream(stream))]
        if there != rows:
            raise history.fail(f"stream {stream!r} and the log tell different stories: {there} {rows}")
        if int(sim.server.engine.execute("HGET", KEYS.versions, stream) or 0) != len(rows):
            raise history.fail(f"the version of {stream!r} is not {len(rows)}")
    place = {(facts["s"], facts["i"]): (int(facts["v"]), position) for position, facts in log}
    for event in history.of("appended"):
        last = place.get((event.stream, event.ids[-1]))
        if last != (event.version, event.position):
            raise history.fail(f"{event.ids} were answered with {event.version, event.position} and stand at {last}")
        if event.expected is not None and event.version != event.expected + len(event.ids):
            raise history.fail(f"{event.ids} expected version {event.expected} and ended at {event.version}")
    acknowledged = [f"{event.stream} {event_id}" for event in history.of("appended") for event_id in event.ids]
    unsure = [f"{event.stream} {event_id}" for event in history.of("unsure") for event_id in event.ids]
    exactly_once(history, acknowledged, unsure, [f"{facts['s']} {facts['i']}" for _, facts in log])
    return [position for position, _ in log]


def appends(seed: int, scripts: Scripts = None) -> Simulation:
    """Four writers on two streams in bad weather."""
    sim = Simulation(seed, faults=BAD_DAY, scripts=scripts)
    for name in "abcd":
        sim.start(name, write, 25, 0.8)
    sim.run(until=90.0)
    assert len(check_store(sim)) > 10, sim.history.story()
    return sim


async def consume(io: SimIO, work_s: float, group: AsyncConsumerGroup[Placed] | None = None) -> None:
    """Handle events until stopped, again and again if cancelled."""
    random = io.process.random

    async def handle(recorded: Recorded[Placed]) -> None:
        io.note("begun", position=recorded.position)
        await io.sleep(random.uniform(0, work_s))
        if random.random() < 0.03:
            raise ValueError("the handler failed")
        io.note("handled", position=recorded.position)

    while True:
        try:
            billing = group or open_store(io).group(GROUP)
            done = await billing.consume(
                handle, concurrency=random.choice((1, 3)), batch=10, claim_idle=CLAIM_IDLE_S, on_error=lambda _: None
            )
        except asyncio.CancelledError:
            io.note("cancelled")
        else:
            io.note("left", handled=done.handled, returned=done.returned)
            return


def check_group(sim: Simulation, stored: list[int]) -> None:
    """Check that every event was handled, none is pending, and none was acknowledged before it was handled."""
    handled_at_least_once(sim.history, stored, "position")
    pending = sim.server.engine.execute("XPENDING", KEYS.log, GROUP)
    if pending[0]:
        raise sim.history.fail(f"still pending: {pending}")


def watch_acks(sim: Simulation) -> None:
    """Fail when an event leaves the pending list that nobody has handled yet."""
    handled: set[int] = set()
    delivered: set[int] = set()
    seen = 0

    def look(call: Call) -> None:
        nonlocal seen
        events = sim.history.events
        handled.update(event.position for event in events[seen:] if event.kind == "handled")
        seen = len(events)
        log = sim.server.engine.data.find(KEYS.log.encode())
        group = log.groups.get(GROUP.encode()) if isinstance(log, Stream) else None
        pending = {position for position, _ in group.pending} if group is not None else set()
        if group is not None and (early := sorted(delivered - pending - handled)):
            raise sim.history.fail(f"{call.process} acknowledged {early} before it was handled")
        delivered.clear()
        delivered.update(pending)

    sim.watch(look)


def consumers(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """Writers and a group in bad weather; consumers are cancelled and killed, and another one comes at the end."""
    sim = Simulation(seed, scripts=scripts, faults=replace(faults, cancel_every_s=0.0))
    watch_acks(sim)
    for name in "ab":
        sim.start(name, write, 20, 1.0)
    tasks = [sim.start(name, consume, 1.0) for name in "cdef"]
    sim.at(sim.random.uniform(3, 20), lambda: sim.kill("c"))
    for _ in range(4):
        sim.at(sim.random.uniform(3, 35), sim.random.choice(tasks[1:]).cancel)
    sim.at(60.0, lambda: sim.start("z", consume, 0.0))
    sim.run(until=90.0)
    check_group(sim, check_store(sim))
    return sim


def lost_group(seed: int, scripts: Scripts = None) -> Simulation:
    """The group is destroyed while it works: it is made again, and no event is skipped."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("a", write, 30, 0.3)
    for name in "bc":
        sim.start(name, consume, 0.4)
    for _ in range(3):
        sim.at(sim.random.uniform(1, 9), lambda: sim.server.engine.execute("XGROUP", "DESTROY", KEYS.log, GROUP))
    sim.run(until=40.0)
    check_group(sim, check_store(sim))
    return sim


def lost_before_the_ack(seed: int, scripts: Scripts = None) -> Simulation:
    """The server forgets an event in work, and another gets its position and goes to the same consumer."""
    sim = Simulation(seed, scripts=scripts)
    data = sim.server.engine.data
    kept: dict[Any, Any] = {}
    handled: list[str] = []

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Placed]) -> None:
            await io.sleep(10.0 if recorded.event.item == "lost" else 0.0)
            handled.append(recorded.event.item)

        group = open_store(io).group(GROUP)
        await group.consume(handle, claim_idle=600.0, consumer="one", idle_stop=60.0, on_error=lambda _: None)

    async def put(io: SimIO, item: str) -> None:
        await open_store(io).append("anna", Placed(item=item))

    def forget() -> None:
        data._values.clear()
        data._values.update(kept)

    sim.start("w", put, "first")
    sim.start("c", work)
    sim.at(2.0, lambda: kept.update(copy.deepcopy(data._values)))
    sim.at(3.0 + sim.random.uniform(0, 1), lambda: sim.start("x", put, "lost"))
    sim.at(6.0, forget)
    sim.at(7.0, lambda: sim.start("y", put, "new"))
    # A request of the consumer that was still on its way.
    words = ("XREADGROUP", "GROUP", GROUP, "one", "STREAMS", KEYS.log, ">")
    sim.at(8.0 + sim.random.uniform(0, 1), lambda: sim.server.engine.execute(*words))
    sim.run(until=200.0)
    if "new" not in handled:
        raise sim.history.fail(f"an event was settled with the acknowledgement of a lost one; handled: {handled}")
    return sim


def calm_group(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails and handlers take longer than the claim time: each event is handled by one consumer, once."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("a", write, 8, 0.2)
    handled: list[int] = []

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Placed]) -> None:
            handled.append(recorded.position)
            await io.sleep(CLAIM_IDLE_S * 1.5)
            io.note("handled", position=recorded.position)

        done = await open_store(io).group(GROUP).consume(handle, claim_idle=CLAIM_IDLE_S, concurrency=2, idle_stop=20.0)
        if done.stolen:
            raise sim.history.fail(f"{done.stolen} deliveries were stolen from a living consumer")

    for name in "bc":
        sim.start(name, work)
    sim.run(until=120.0)
    check_group(sim, check_store(sim))
    if len(handled) != len(set(handled)):
        raise sim.history.fail(f"handled twice: {sorted(handled)}")
    return sim


def leaving(seed: int, scripts: Scripts = None) -> Simulation:
    """A consumer is cancelled with deliveries in hand: another one handles them at once, and nothing is lost."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("a", write, 10, 0.05)

    async def slow(io: SimIO) -> None:
        async def handle(_recorded: Recorded[Placed]) -> None:
            await io.sleep(30.0)

        await open_store(io).group(GROUP).consume(handle, claim_idle=60.0, concurrency=4, batch=10)

    task = sim.start("b", slow)
    sim.at(5.0 + sim.random.uniform(0, 3), task.cancel)

    async def other(io: SimIO) -> None:
        async def handle(recorded: Recorded[Placed]) -> None:
            io.note("handled", position=recorded.position)

        await io.sleep(10.0)
        await open_store(io).group(GROUP).consume(handle, claim_idle=60.0, idle_stop=5.0)

    sim.start("c", other)
    sim.run(until=30.0)
    check_group(sim, check_store(sim))
    return sim


def stolen(seed: int, scripts: Scripts = None) -> Simulation:
    """A consumer stands still, another takes its delivery over; back again, the first one changes nothing."""
    sim = Simulation(seed, scripts=scripts)

    async def one_event(io: SimIO) -> None:
        await open_store(io).append("anna", Placed(item="x"))

    async def work(io: SimIO, delay: float, work_s: float) -> None:
        async def handle(recorded: Recorded[Placed]) -> None:
            io.note("begun", position=recorded.position)
            await io.sleep(work_s)
            io.note("handled", position=recorded.position)

        await io.sleep(delay)
        group = open_store(io).group(GROUP)
        done = await group.consume(handle, claim_idle=CLAIM_IDLE_S, idle_stop=30.0)
        io.note("result", handled=done.handled, stolen=done.stolen)

    def look() -> None:
        pending = sim.server.engine.execute("XPENDING", KEYS.log, GROUP, "-", "+", "5")
        if len(pending) != 1 or not pending[0][1].startswith(sim.io("b").token()[:12].encode()):
            raise sim.history.fail(f"the delivery is b's, and the server says {pending}")

    sim.start("w", one_event)
    # a begins at 1 s and would end at 11; it stands still from 2 to 9 s; b comes at 5 s and works until after 25 s.
    sim.start("a", work, 1.0, 10.0)
    sim.start("b", work, 5.0, 20.0)
    sim.at(2.0 + sim.random.uniform(0, 0.5), lambda: sim.pause("a", 7.0))
    for second in (10, 11, 12, 14, 18, 22):
        sim.at(second + sim.random.uniform(0, 1), look)
    sim.run(until=100.0)
    result = {event.process: event for event in sim.history.of("result")}
    if (result["a"].handled, result["a"].stolen, result["b"].handled) != (0, 1, 1):
        raise sim.history.fail(f"who handled it: {[str(event) for event in result.values()]}")
    return sim


async def _commit(store: AsyncEventStore[Placed], parts: list[Write[Placed] | Check]) -> Committed:
    try:
        return await store.commit(parts)
    except ValueError as error:
        raise AssertionError(f"the answer to {parts} is for other streams: {error}") from error


async def transfer(io: SimIO, commits: int, pause_s: float) -> None:
    """Commit to both streams at once, or to one that depends on the other, at the versions this writer believes in."""
    store, random, known = open_store(io), io.process.random, defaultdict(int)
    for commit in range(commits):
        here, there = random.sample(("anna", "bert"), 2)
        ids = {stream: (f"{io.process.name}{commit}.{stream}",) for stream in (here, there)}
        if check := random.random() < 0.4:
            del ids[there]
        parts: list[Write[Placed] | Check] = [
            Write(stream, [Placed(item=event_id) for event_id in its], random.choice((known[stream], ANY)), its)
            for stream, its in ids.items()
        ]
        if check:
            parts.append(Check(there, known[there]))
        expected = {part.stream: part.expected_version for part in parts}
        try:
            try:
                done = await _commit(store, parts)
            except (OutcomeUnknown, Unavailable):
                done = await _commit(store, parts)
        except WrongVersion as error:
            known[error.stream] = error.actual
            io.note("refused", ids=ids)
        except (OutcomeUnknown, Unavailable):
            for stream, its in ids.items():
                io.note("unsure", ids=its, stream=stream)
            io.note("whole", ids=ids)
        else:
            for stream, its in ids.items():
                one = done.appended[stream]
                known[stream] = one.version
                wanted = expected[stream]
                io.note(
                    "appended", ids=its, stream=stream, version=one.version, position=one.position,
                    expected=wanted if isinstance(wanted, int) else None,
                )  # fmt: skip
            io.note("whole", ids=ids)
            if check and not done.replayed:
                io.note("checked", stream=there, version=expected[there], position=done.position)
        await io.sleep(random.expovariate(1 / pause_s))


def transfers(seed: int, scripts: Scripts = None) -> Simulation:
    """Writers of one stream and writers of two in bad weather: commits are whole, and checks were true."""
    sim = Simulation(seed, faults=BAD_DAY, scripts=scripts)
    sim.start("a", write, 20, 0.8)
    for name in "bcd":
        sim.start(name, transfer, 20, 0.8)
    sim.run(until=90.0)
    assert len(check_store(sim)) > 10, sim.history.story()
    log = entries(sim, KEYS.log)
    stored = {(facts["s"], facts["i"]) for _, facts in log}
    for event in sim.history.of("whole"):
        there = {(stream, event_id) in stored for stream, its in event.ids.items() for event_id in its}
        if len(there) > 1:
            raise sim.history.fail(f"a part of {event.ids} was written")
    for event in sim.history.of("checked"):
        version = sum(facts["s"] == event.stream for position, facts in log if position < event.position)
        if version != event.version:
            raise sim.history.fail(f"at {event.position} {event.stream!r} was at {version}, not at {event.version}")
    return sim


def moved_on(seed: int, scripts: Scripts = None) -> Simulation:
    """A commit is sent again after what it checked has moved on: it is answered as the first time."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.1))

    async def work(io: SimIO) -> None:
        store = open_store(io)
        for number in range(4):
            parts: list[Write[Placed] | Check] = [
                Write("anna", [Placed(item="x")] * 2, 2 * number, (f"e{number}", f"f{number}")),
                Check("bert", number),
            ]
            first = await _commit(store, parts)
            await store.append("bert", Placed(item="y"), expected_version=number, event_ids=f"g{number}")
            again = await _commit(store, parts)
            if not again.replayed or (again.position, again.appended["anna"].version) != (
                first.position,
                first.appended["anna"].version,
            ):
                raise sim.history.fail(f"the replay was answered with {again}, the first time with {first}")
            io.note(
                "appended", ids=(f"e{number}", f"f{number}"), stream="anna", version=2 * number + 2,
                position=first.position, expected=2 * number,
            )  # fmt: skip
            io.note(
                "appended",
                ids=(f"g{number}",),
                stream="bert",
                version=number + 1,
                position=3 * number + 3,
                expected=None,
            )
            try:
                await _commit(
                    store, [Write("anna", Placed(item="z"), EXISTS), Write("bert", Placed(item="x"), number, "g0")]
                )
            except WrongVersion:
                continue
            raise sim.history.fail("a part of another commit was taken for new")

    sim.start("a", work)
    sim.run(until=60.0)
    check_store(sim)
    return sim


async def follow(io: SimIO, pause_s: float) -> None:
    """Follow the log; now and then begin anew at the checkpoint, as a restarted process would."""
    random, after = io.process.random, "0"
    while True:
        events = open_store(io).subscribe(after=after)
        try:
            async for recorded in events:
                io.note("seen", position=recorded.position, stream=recorded.stream, id=recorded.id)
                after = events.checkpoint
                await io.sleep(random.expovariate(1 / pause_s))
                if random.random() < 0.1:
                    break
        except Diverged:
            io.note("diverged", checkpoint=after)
            return


def check_followers(sim: Simulation, names: str) -> None:
    """Check that every reader saw the whole log in order, or was told that what it saw is gone."""
    log = [(position, facts["s"], facts["i"]) for position, facts in entries(sim, KEYS.log)]
    told = {event.process for event in sim.history.of("diverged")}
    for name in names:
        seen = [(e.position, e.stream, e.id) for e in sim.history.of("seen") if e.process == name]
        if [position for position, _, _ in seen] != list(range(1, len(seen) + 1)):
            raise sim.history.fail(f"{name} saw the positions {[position for position, _, _ in seen]}")
        if name in told:
            if seen == log[: len(seen)]:
                raise sim.history.fail(f"{name} was told that its history is gone, and it is there")
        elif seen != log:
            raise sim.history.fail(f"{name} saw {seen}, and the log is {log}")


def followers(seed: int, scripts: Scripts = None) -> Simulation:
    """Readers in bad weather, quick and slow, who are cut off and begin anew."""
    sim = Simulation(seed, faults=replace(BAD_DAY, cancel_every_s=0.0), scripts=scripts)
    for name in "ab":
        sim.start(name, write, 25, 0.8)
    for name, pause_s in (("c", 0.01), ("d", 0.5)):
        sim.start(name, follow, pause_s)
    sim.run(until=120.0)
    check_store(sim)
    check_followers(sim, "cd")
    return sim


def lost_tail(seed: int, scripts: Scripts = None) -> Simulation:
    """The server forgets its newest events, as a failover may; then others are written in their place."""
    sim = Simulation(seed, scripts=scripts)
    data = sim.server.engine.data
    kept: dict[Any, Any] = {}

    def remember() -> None:
        kept.update(copy.deepcopy(data._values))

    def forget() -> None:
        sim.history.events[:] = [event for event in sim.history.events if event.kind == "seen"]
        data._values.clear()
        data._values.update(kept)

    sim.start("a", write, 30, 0.3)
    for name, pause_s in (("c", 0.01), ("d", 0.2), ("e", 0.7)):
        sim.start(name, follow, pause_s)
    sim.at(2.0 + sim.random.uniform(0, 2), remember)
    sim.at(5.0 + sim.random.uniform(0, 2), forget)
    sim.start("b", write, 60, 0.2)
    sim.run(until=200.0)
    check_followers(sim, "cde")
    return sim


async def take(io: SimIO, work_s: float) -> None:
    """Handle events slowly, and say what was taken and what one is told."""
    random = io.process.random

    async def handle(recorded: Recorded[Placed]) -> None:
        io.note("begun", position=recorded.position, id=recorded.id)
        await io.sleep(random.uniform(0, work_s))
        io.note("handled", position=recorded.position, id=recorded.id)

    def complain(failure: Failure[Placed]) -> None:
        io.note("told", decided=failure.decided, position=failure.position, why=type(failure.error).__name__)

    group = open_store(io).group(GROUP)
    await group.consume(handle, concurrency=random.choice((1, 3)), batch=10, claim_idle=CLAIM_IDLE_S, on_error=complain)


def lost_deliveries(seed: int, scripts: Scripts = None) -> Simulation:
    """The server forgets its newest events while they are in work; others get their positions, and are handled.

    With even seeds the connections break, as in a failover; with odd ones nobody notices anything.
    """
    sim = Simulation(seed, scripts=scripts)
    data = sim.server.engine.data
    kept: dict[Any, Any] = {}

    def forget() -> None:
        sim.history.add("server", "forgot", {})
        data._values.clear()
        data._values.update(kept)
        if seed % 2 == 0:
            sim.restart_server(0.2)

    names = "cde"[: 1 + seed % 3]
    sim.start("a", write, 30, 0.3)
    for name in names:
        sim.start(name, take, 1.5)
    at_s = 2.0 + sim.random.uniform(0, 2)
    sim.at(at_s, lambda: kept.update(copy.deepcopy(data._values)))
    sim.at(at_s + sim.random.choice((0.5, 1.0, 3.0)), forget)
    sim.start("b", write, 40, 0.3)
    sim.run(until=120.0)
    log = entries(sim, KEYS.log)
    (forgot,) = sim.history.of("forgot")
    if (pending := sim.server.engine.execute("XPENDING", KEYS.log, GROUP))[0]:
        raise sim.history.fail(f"still pending: {pending}")
    handled = {event.id for event in sim.history.of("handled")}
    if missing := [facts["i"] for _, facts in log if facts["i"] not in handled]:
        raise sim.history.fail(f"passed over: {missing}")
    there = {(position, facts["i"]) for position, facts in log}
    told = {event.process: event for event in sim.history.of("told")}
    for name in names:
        begun = [event for event in sim.history.of("begun") if event.process == name and event.at_us <= forgot.at_us]
        gone = [event.id for event in begun if (event.position, event.id) not in there]
        if gone and (name not in told or told[name].why != "Diverged"):
            raise sim.history.fail(f"{name} was not told that {gone} are gone")
        if name in told and not gone and not begun:
            raise sim.history.fail(f"{name} was told that something is gone, and it had nothing")
    return sim


class Tally(BaseModel):
    """How many events a stream has, and the sum of their versions as those who wrote them saw it."""

    count: int = 0
    items: list[str] = []


def note_item(state: Tally, event: Placed) -> Tally:
    """Return the state after an event."""
    return Tally(count=state.count + 1, items=[*state.items, event.item])


async def decide(io: SimIO, commits: int, pause_s: float) -> None:
    """Append what depends on the state: how many events there were, and who says so."""
    random = io.process.random
    tallies = open_store(io).aggregate(Tally(), note_item, snapshot_every=3)
    for commit in range(commits):
        stream = random.choice(("anna", "bert"))
        with contextlib.suppress(OutcomeUnknown, Unavailable, Diverged):
            await tallies.execute(
                stream,
                lambda state, commit=commit: Placed(item=f"{state.count} {io.process.name}{commit}"),
                attempts=100,
            )
        with contextlib.suppress(OutcomeUnknown, Unavailable, Diverged):
            loaded = await tallies.load(stream)
            io.note("loaded", stream=stream, version=loaded.version, items=loaded.state.items)
        await io.sleep(random.expovariate(1 / pause_s))


def check_decisions(sim: Simulation, since_s: float = 0.0) -> None:
    """Check that every event was decided on all that came before it, and that whoever loaded saw just that."""
    for stream in ("anna", "bert"):
        items = [json.loads(facts["d"])["item"] for _, facts in entries(sim, KEYS.stream(stream))]
        if [item.partition(" ")[0] for item in items] != [str(n) for n in range(len(items))]:
            raise sim.history.fail(f"decisions on {stream!r} were made on other states: {items}")
        for event in sim.history.of("loaded"):
            if event.stream == stream and event.at_us > since_s * 1e6 and event.items != items[: event.version]:
                raise sim.history.fail(f"{event.process} loaded {event.items} at version {event.version}")


def decisions(seed: int, scripts: Scripts = None) -> Simulation:
    """Several processes decide on the same streams in bad weather, with snapshots."""
    sim = Simulation(seed, faults=replace(BAD_DAY, cancel_every_s=0.0), scripts=scripts)
    for name in "abcd":
        sim.start(name, decide, 15, 0.8)
    sim.run(until=90.0)
    check_decisions(sim)
    for stream in ("anna", "bert"):
        length = len(entries(sim, KEYS.stream(stream)))
        kept = int(sim.server.engine.execute("HGET", KEYS.snapshot("Tally", stream), "v") or 0)
        if length - kept >= 3 + 4 or kept > length:  # one per process may be on its way
            raise sim.history.fail(f"{stream!r} has {length} events and a snapshot at {kept}")
    return sim


def late_snapshots(seed: int, scripts: Scripts = None) -> Simulation:
    """Requests arrive late, and the server forgets its newest events: a snapshot never says what was not."""
    sim = Simulation(seed, faults=Faults(late=0.3, slow=0.1, calm_after_s=30.0), scripts=scripts)
    data = sim.server.engine.data
    kept: dict[Any, Any] = {}
    newest: dict[str, int] = {}

    def forget() -> None:
        # All of the events and none of the snapshots: an old snapshot is written by one who had it in memory.
        for key in [key for key in data._values if b":a:" not in key]:
            del data._values[key]
        data._values.update({key: value for key, value in kept.items() if b":a:" not in key})
        newest.clear()

    def look(_: Call) -> None:
        for stream in ("anna", "bert"):
            version = int(sim.server.engine.execute("HGET", KEYS.snapshot("Tally", stream), "v") or 0)
            if version < newest.get(stream, 0):
                raise sim.history.fail(f"the snapshot of {stream!r} went back to {version}")
            if newest:
                newest[stream] = version

    for name in "abc":
        sim.start(name, decide, 12, 0.5)
    sim.at(2.0, lambda: kept.update(copy.deepcopy(data._values)))
    if seed % 2:
        sim.at(4.0 + sim.random.uniform(0, 2), forget)
    else:
        newest.update(anna=0, bert=0)
        sim.watch(look)
    sim.run(until=60.0)
    # A request lasts a command timeout at most; after that nobody has anything of the lost events in hand.
    check_decisions(sim, since_s=12.0 if seed % 2 else 0.0)
    return sim


def lost_while_deciding(seed: int, scripts: Scripts = None) -> Simulation:
    """A failover comes between loading and appending, and the version fits all the same: that is no snapshot."""
    sim = Simulation(seed, scripts=scripts)
    data = sim.server.engine.data

    async def work(io: SimIO) -> None:
        store = open_store(io)
        tallies = store.aggregate(Tally(), note_item, snapshot_every=1)
        await store.append("anna", Placed(item="one"))
        kept = copy.deepcopy(data._values)
        await store.append("anna", Placed(item="lost"))

        async def decide(_: Tally) -> Placed:
            data._values.clear()
            data._values.update(kept)
            await store.append("anna", Placed(item="two"))
            return Placed(item="three")

        await tallies.execute("anna", decide)
        loaded = await tallies.load("anna")
        if loaded.state.items != ["one", "two", "three"]:
            raise sim.history.fail(f"what failed over is remembered: {loaded}")

    sim.start("a", work)
    sim.run(until=30.0)
    return sim


def projections(seed: int, scripts: Scripts = None) -> Simulation:
    """Several processes run one projection in bad weather, and one of them is killed: every event counts once."""
    sim = Simulation(seed, faults=replace(BAD_DAY, cancel_every_s=0.0), scripts=scripts)

    async def work(io: SimIO) -> None:
        def count(changes: Changes, recorded: Recorded[Placed]) -> None:
            changes.add(recorded.stream, 1)
            changes.set(f"at {recorded.position}", recorded.id)

        await open_store(io).projection("totals").run(count)

    for name in "ab":
        sim.start(name, write, 25, 0.8)
    for name in "cde":
        sim.start(name, work)
    sim.at(sim.random.uniform(3, 30), lambda: sim.kill("c"))
    sim.run(until=120.0)
    check_store(sim)
    log = entries(sim, KEYS.log)
    flat = sim.server.engine.execute("HGETALL", KEYS.view("totals"))
    pairs = flat.items() if isinstance(flat, dict) else zip(flat[::2], flat[1::2], strict=True)
    view = {field.decode(): value.decode() for field, value in pairs}
    wanted = {f"at {position}": facts["i"] for position, facts in log}
    wanted |= {stream: str(n) for stream, n in Counter(facts["s"] for _, facts in log).items()}
    if view != wanted:
        raise sim.history.fail(f"the view is {view}, and the events say {wanted}")
    return sim


def same_ids(seed: int, scripts: Scripts = None) -> Simulation:
    """The same event ids in two streams are two events; EXISTS refuses a stream that is new."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.1))

    async def work(io: SimIO) -> None:
        store = open_store(io)
        for number in range(5):
            for stream in ("anna", "bert"):
                answer = await store.append(stream, Placed(item="x"), event_ids=f"e{number}")
                io.note(
                    "appended", ids=(f"e{number}",), stream=stream, version=answer.version, position=answer.position,
                    expected=None,
                )  # fmt: skip
                if answer.version != number + 1:
                    raise sim.history.fail(f"event {number} of {stream!r} has version {answer.version}")
        try:
            await store.append("clara", Placed(item="x"), expected_version=EXISTS)
        except WrongVersion:
            return
        raise sim.history.fail("EXISTS did not refuse a new stream")

    sim.start("a", work)
    sim.run(until=60.0)
    check_store(sim)
    return sim


def lost_reads(seed: int, scripts: Scripts = None) -> Simulation:
    """Replies to reads are lost: what was delivered is found again long before it could be claimed."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.2, calm_after_s=20.0))

    async def work(io: SimIO) -> None:
        async def handle(recorded: Recorded[Placed]) -> None:
            io.note("handled", position=recorded.position)

        await open_store(io).group(GROUP).consume(handle, claim_idle=600.0, idle_stop=30.0)

    sim.start("a", write, 20, 0.5)
    sim.start("b", work)
    sim.run(until=120.0)
    check_group(sim, check_store(sim))
    return sim
