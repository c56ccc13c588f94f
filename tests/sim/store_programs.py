"""Programs that compare the event store with its model.

A program is what some clients do: append at all kinds of expected versions, commit with checks, send again what they
sent before, whole, in part, in another order or with another payload, read, decide on snapshots, and die; requests and
replies are lost or late, and the server restarts.  The simulated server runs one script after the other, so there is
one order of everything; in that order the model must answer each request as the server did, and in the end both must
hold the same history.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from random import Random
from typing import TYPE_CHECKING, Any

from gridsync._io.wire.faults import ReplyError
from gridsync.errors import OutcomeUnknown, Unavailable, WrongVersion
from gridsync.streams import ANY, EXISTS, NO_STREAM, Check, Write
from gridsync.streams._aggregate import SNAPSHOT
from gridsync.streams._core import APPEND, COMMIT
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.store_model import Model, Stored, parts_of, triples
from tests.sim.stream_scenarios import KEYS, Placed, Tally, entries, note_item, open_store

if TYPE_CHECKING:
    from gridsync.streams import Expected
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.stream_scenarios import Scripts

STREAMS = ("anna", "bert", "carl")
CLIENTS = ("a", "b", "c")
FATES = ("fine",) * 4 + ("request_lost", "reply_lost", "reply_lost", "late", "slow")
LATE = Faults(late_s=2.0, slow_s=2.0)


@dataclass(frozen=True)
class Step:
    """One thing that a client does."""

    kind: str
    """``append``, ``commit``, ``read``, ``decide`` or ``restart``."""
    parts: tuple[tuple[str, str, tuple[tuple[str, str], ...]], ...] = ()
    """Of each stream its name, the expected version in words, and id and item of each event."""
    fates: tuple[str, ...] = ()
    """What happens to the next requests, whosoever they are."""
    kill_us: int | None = None
    """The client dies so long after it began, in microseconds; 0 for: when the server has done it."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Stream → the version that a number stood for when this was done first."""


def program(random: Random, length: int = 14) -> list[list[Step]]:
    """Return what each client does; what is drawn first is shrunk first."""
    steps: list[list[Step]] = [[] for _ in CLIENTS]
    done: list[Step] = []
    for number in range(length):
        step = _step(random, number, done)
        fates = tuple(random.choice(FATES) for _ in range(random.randint(0, 2)))
        kill_us = random.choice((0, 700, 2500)) if random.randint(0, 9) == 9 else None
        step = replace(step, fates=fates, kill_us=kill_us)
        if step.kind in ("append", "commit"):
            done.append(step)
        steps[random.randrange(len(CLIENTS))].append(step)
    return steps


def _step(random: Random, number: int, done: list[Step]) -> Step:
    kind = random.choice(
        ("append", "append", "append", "commit", "commit", "again", "again", "read", "decide", "restart")
    )
    if kind == "again" and done:
        return _again(random, number, random.choice(done))
    if kind in ("append", "commit", "again"):
        streams = random.sample(STREAMS, 1 if kind != "commit" else random.randint(1, 3))
        parts = []
        for place, stream in enumerate(streams):
            expected = random.choice(("known", "known", "known", "any", "exists", "none", "stale"))
            check = place > 0 and random.randint(0, 2) == 0
            count = 0 if check else random.randint(1, 3)
            ids = tuple((f"e{number}.{k}", f"item {number}.{k}") for k in range(count))
            parts.append((stream, "known" if check and expected == "any" else expected, ids))
        return Step("commit" if kind == "commit" else "append", tuple(parts))
    return Step(kind, tuple((stream, "", ()) for stream in random.sample(STREAMS, 1)))


def _again(random: Random, number: int, step: Step) -> Step:
    """Return *step* as somebody may send it again: as it was, or not quite."""
    how = random.choice(("as it was", "as it was", "payload", "part", "order", "version", "more"))
    parts = []
    for stream, expected, events in step.parts:
        change = bool(events) and (not parts or random.randint(0, 1) == 0)
        new = events
        if change and how == "payload":
            new = tuple((event_id, f"another {item}") for event_id, item in events)
        elif change and how == "part":
            new = events[: random.randint(1, len(events))]
        elif change and how == "order":
            new = tuple(reversed(events))
        elif change and how == "more":
            new = (*events, (f"e{number}.more", "more"))
        if change and how == "version":
            expected = random.choice(("any", "exists", "none", "known"))  # noqa: PLW2901
        parts.append((stream, expected, new))
    if how == "part" and len(parts) > 1 and parts[0][2] and random.randint(0, 1):
        parts = parts[:1]
    # The numbers that it was sent with the first time are shared with the first one.
    return Step(step.kind, tuple(parts), numbers=step.numbers)


class Run:
    """One program against one simulated server, and the model beside it."""

    def __init__(self, seed: object, steps: list[list[Step]], scripts: Scripts = None) -> None:
        """Set the stage."""
        self.sim = Simulation(str(seed), faults=LATE, scripts=scripts)
        self.model = Model()
        self.sim.watch(self._look)
        replaced = self.sim.scripts
        self._append = replaced.get(APPEND.name, APPEND).sha.encode()
        self._commit = replaced.get(COMMIT.name, COMMIT).sha.encode()
        self._snapshot = replaced.get(SNAPSHOT.name, SNAPSHOT).sha.encode()
        self._deadly: dict[str, str] = {}
        self._snapshots: dict[bytes, int] = {}
        for name, its in zip(CLIENTS, steps, strict=True):
            self._start(name, its)

    def _start(self, name: str, steps: list[Step]) -> None:
        if steps:
            self.sim.start(name, self._client, steps)

    # -- the server's side --------------------------------------------------------------------------------------------

    def _look(self, call: Call) -> None:
        """Let the model answer what the server has just answered."""
        if call.words[0].upper() != b"EVALSHA" or isinstance(call.reply, ReplyError):
            return
        keys = int(call.words[2])
        args = [word.decode() for word in call.words[3 + keys :]]
        if call.words[1] == self._append:
            name, expected, _, about, _, *events = args
            answer = self.model.append(name, int(expected), triples(events), about)
        elif call.words[1] == self._commit:
            _, about, _, _, *words = args
            answer = self.model.commit(parts_of(words), about)
        else:
            if call.words[1] == self._snapshot:
                self._kept(call.words[3], call.words[4].decode())
            return
        if call.reply != answer:
            raise self.sim.history.fail(f"{args} of {call.process} was answered with {call.reply}, not {answer}")
        if call.process in self._deadly:
            # The server has done it, and nobody will ever hear of it.
            self.sim.kill(call.process)

    def _kept(self, key: bytes, stream: str) -> None:
        flat = self.sim.server.engine.execute("HMGET", key, "v", "i", "d")
        if flat[0] is None:
            return
        version = int(flat[0])
        there = self.model.streams[stream.rpartition(":")[2]]
        state = Tally.model_validate_json(flat[2])
        wanted = [Placed.model_validate_json(event.data).item for event in there[:version]]
        if version > len(there) or there[version - 1].id != flat[1].decode() or state.items != wanted:
            raise self.sim.history.fail(f"the snapshot of {stream!r} says {flat}, and the stream {there[:version]}")
        if version < self._snapshots.get(key, 0):
            raise self.sim.history.fail(f"the snapshot of {stream!r} went back to {version}")
        self._snapshots[key] = version

    # -- the clients' side --------------------------------------------------------------------------------------------

    async def _client(self, io: SimIO, steps: list[Step]) -> None:
        name = io.process.name
        for number, step in enumerate(steps):
            self.sim.next_requests(*step.fates)
            if step.kill_us is not None:
                # The next incarnation goes on, and repeats this step as one does who finds it in its notes.
                rest = [replace(step, kill_us=None, fates=()), *steps[number + 1 :]]
                self._die(f"{name}'", name, step, rest)
            await self._do(io, step)
            if step.kill_us is not None:
                # It did not die on the way, so it dies now.
                self.sim.at(self.sim.now, lambda: self.sim.kill(name))
            await io.sleep(io.process.random.expovariate(20))

    def _die(self, heir: str, name: str, step: Step, rest: list[Step]) -> None:
        us = step.kill_us or 0
        if us == 0:
            self._deadly[name] = heir
        else:
            self.sim.at(self.sim.now + us / 1e6, lambda: self.sim.kill(name))
        self.sim.at(self.sim.now + 8.0, lambda: self._start(heir, rest))

    async def _do(self, io: SimIO, step: Step) -> None:
        streams = self.model.streams
        before = {stream: len(streams[stream]) for stream in STREAMS}
        try:
            if step.kind == "append":
                await self._appended(io, step)
            elif step.kind == "commit":
                await self._committed(io, step)
            elif step.kind == "read":
                await self._read(io, step.parts[0][0])
            elif step.kind == "decide":
                await self._decided(io, step.parts[0][0])
            else:
                self.sim.restart_server(0.3)
        except WrongVersion as error:
            if not before[error.stream] <= error.actual <= len(streams[error.stream]):
                raise self.sim.history.fail(f"{error}: it never was at that version meanwhile") from None
        except (OutcomeUnknown, Unavailable):
            io.note("unsure", step=step)

    def _expected(self, step: Step, stream: str, words: str) -> int | Expected:
        fixed: dict[str, Expected] = {"any": ANY, "exists": EXISTS, "none": NO_STREAM}
        if words in fixed:
            return fixed[words]
        version = len(self.model.streams[stream])
        return step.numbers.setdefault(stream, max(0, version - 1) if words == "stale" else version)

    async def _appended(self, io: SimIO, step: Step) -> None:
        stream, words, events = step.parts[0]
        answer = await open_store(io).append(
            stream,
            [Placed(item=item) for _, item in events],
            expected_version=self._expected(step, stream, words),
            event_ids=[event_id for event_id, _ in events],
            metadata={"of": io.process.name} if len(events) > 1 else None,
        )
        self._told(stream, answer, [event_id for event_id, _ in events])

    async def _committed(self, io: SimIO, step: Step) -> None:
        parts: list[Write[Placed] | Check] = []
        for stream, words, events in step.parts:
            expected = self._expected(step, stream, words)
            if events:
                its = [event_id for event_id, _ in events]
                parts.append(Write(stream, [Placed(item=item) for _, item in events], expected, its))
            else:
                parts.append(Check(stream, NO_STREAM if expected is ANY else expected))
        answer = await open_store(io).commit(parts)
        for stream, _, events in step.parts:
            if events:
                self._told(stream, answer.appended[stream], [event_id for event_id, _ in events])

    def _told(self, stream: str, answer: Any, ids: list[str]) -> None:  # noqa: ANN401 - what one stream got
        there = self.model.streams[stream][answer.version - len(ids) : answer.version]
        if [event.id for event in there] != ids or there[-1].position != answer.position:
            raise self.sim.history.fail(f"{ids} in {stream!r} were answered with {answer}, and there are {there}")

    async def _read(self, io: SimIO, stream: str) -> None:
        model, store = self.model, open_store(io)
        for whole, reverse, reading in (
            (model.log, False, store.read_all()),
            (model.log, True, store.read_all(reverse=True)),
            (model.streams[stream], False, store.read(stream)),
            (model.streams[stream], True, store.read(stream, reverse=True)),
        ):
            least = len(whole)
            found = [(e.stream, e.version, e.position, e.id, e.event.item) async for e in reading]
            wanted = [
                (e.stream, e.version, e.position, e.id, Placed.model_validate_json(e.data).item)
                for e in whole[: len(found)]
            ]
            if reverse:
                wanted.reverse()
            if found != wanted or not least <= len(found) <= len(whole):
                raise self.sim.history.fail(f"{found} was read, of {least} to {len(whole)}, and should be {wanted}")

    async def _decided(self, io: SimIO, stream: str) -> None:
        tallies = open_store(io).aggregate(Tally(), note_item, snapshot_every=2)
        least = len(self.model.streams[stream])
        loaded = await tallies.load(stream)
        there = self.model.streams[stream][: loaded.version]
        items = [Placed.model_validate_json(event.data).item for event in there]
        if loaded.state.items != items or loaded.version < least:
            raise self.sim.history.fail(f"{stream!r} was loaded as {loaded}, and holds {items}")
        await tallies.execute(stream, lambda state: Placed(item=f"{state.count} before"), attempts=20)

    # -- the end ------------------------------------------------------------------------------------------------------

    def check(self) -> None:
        """Compare the whole history of the server with that of the model."""
        log = [
            Stored(f["s"], int(f["v"]), position, f["i"], f["t"], f["d"], f.get("m", ""))
            for position, f in entries(self.sim, KEYS.log)
        ]
        if log != self.model.log:
            raise self.sim.history.fail(f"the log is {log}, and should be {self.model.log}")
        execute = self.sim.server.engine.execute
        for stream, wanted in self.model.streams.items():
            found = [
                Stored(stream, version, int(f["p"]), f["i"], f["t"], f["d"], f.get("m", ""))
                for version, f in entries(self.sim, KEYS.stream(stream))
            ]
            if found != wanted or int(execute("HGET", KEYS.versions, stream) or 0) != len(wanted):
                raise self.sim.history.fail(f"stream {stream!r} is {found}, and should be {wanted}")


def run(seed: object, steps: list[list[Step]], scripts: Scripts = None) -> Simulation:
    """Run a program to its end and compare what is stored."""
    made = Run(seed, steps, scripts)
    made.sim.run(until=600.0)
    made.check()
    return made.sim


def seeded(seed: int, scripts: Scripts = None) -> Simulation:
    """Run the program of a seed; for the shipped scripts and the mutants."""
    return run(seed, program(Random(f"program {seed}"), length=30), scripts)
