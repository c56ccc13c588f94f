"""What publishers and subscribers of several processes do with one channel, and what must then be true."""

from __future__ import annotations

from copy import deepcopy
from random import Random
from typing import TYPE_CHECKING, Any, NamedTuple

from gridsync._io import keys as key_names
from gridsync.errors import OutcomeUnknown, TooSlow, Unavailable
from gridsync.fanout import Gap, Message, Position
from gridsync.fanout._core import PUBLISH, ChannelCore
from gridsync.fanout._station import LOOK
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.fanout import OnFull
    from gridsync.fanout._subscriber import Subscriber
    from gridsync.testing.sim import Call, SimIO
    from tests.sim.lock_scenarios import Scripts

    Harm = Callable[[Simulation, "Truth"], None]

BUSY_S = 10.0
CALM_S = 40.0
PROCESSES, CLIENTS = "abc", 2
KEYS = key_names.channel("sim", "n")
ROUGH = Faults(
    request_lost=0.03,
    reply_lost=0.06,
    late=0.04,
    slow=0.02,
    message_lost=0.1,
    message_doubled=0.1,
    message_late=0.1,
    cut_every_s=2.0,
    pause_every_s=8.0,
    pause_s=3.0,
    restart_every_s=6.0,
    flush_scripts_every_s=10.0,
    calm_after_s=BUSY_S,
)
LIGHT = Faults(reply_lost=0.03, message_lost=0.05, cut_every_s=3.0, calm_after_s=BUSY_S)


class Published(NamedTuple):
    """What the server did."""

    position: Position
    prev: str
    id: str
    data: bytes
    at_us: int


class How(NamedTuple):
    """What the clients of a scenario are like, and what they may be told."""

    on_full: OnFull = "drop_oldest"
    queue: int = 1000
    history: int = 1000
    pause: float = 0.0
    gaps: tuple[str, ...] = ()
    late_s: float = 60.0


class Truth:
    """Every publication, by its mark, as the server made it."""

    def __init__(self, sim: Simulation) -> None:
        self.sim = sim
        self.made: dict[str, Published] = {}
        self.at: dict[str, Position] = {}
        """Of each life, where it is now."""
        self._sha = sim.scripts.get("fanout.publish", PUBLISH).sha.encode()
        sim.watch(self._look)

    def _look(self, call: Call) -> None:
        if call.words[:2] != [b"EVALSHA", self._sha] or not isinstance(call.reply, list) or call.reply[0] != 1:
            return
        name, _, data = call.words[8:11]
        position = Position(call.reply[1].decode(), call.reply[2], call.reply[3].decode())
        if position.mark in self.made:
            raise self.sim.history.fail(f"two publications have the mark of {position}")
        prev = self.at.get(position.epoch, Position(position.epoch, 0, position.epoch)).mark
        self.made[position.mark] = Published(position, prev, name.decode(), data, self.sim.scheduler.now_us)
        self.at[position.epoch] = position

    def check_item(self, client: str, before: Position, item: Message | Gap) -> None:
        """Compare what a client was given with what the server did."""
        fail = self.sim.history.fail
        if isinstance(item, Message):
            made = self.made.get(item.mark)
            if made is None or made.position != item.position or made.data != item.data or made.id != item.id:
                raise fail(f"{client} was given {item}, and the server made {made}")
            if made.prev != before.mark:
                raise fail(f"{client} was given {item} after {before}, and no gap between them")
            return
        at = item.position
        if at.offset and (at.mark not in self.made or self.made[at.mark].position != at):
            raise fail(f"{client} was told to go on from {at}, which never was")
        if item.missed is not None and (at.epoch != before.epoch or at.offset - before.offset != item.missed):
            raise fail(f"{client} was told that {item.missed} are missing between {before} and {at}")
        if item.missed == 0:
            raise fail(f"{client} was told of a gap of nothing")

    def late_s(self, item: Message | Gap) -> float:
        """Return how long after its publication a message is given."""
        if isinstance(item, Gap):
            return 0.0
        return (self.sim.scheduler.now_us - self.made[item.mark].at_us) / 1e6


async def publish(io: SimIO, core: ChannelCore, truth: Truth, until: float, pause: float) -> None:
    """Publish again and again, each id until it is told where it stands."""
    end = io.monotonic() + until
    count = 0
    while io.monotonic() < end:
        count += 1
        name = f"{io.process.name}{count}"
        while True:
            try:
                at = await core.publish(name.encode(), name, f"k{count % 3}")
            except (Unavailable, OutcomeUnknown):
                await io.sleep(0.1)
                continue
            break
        made = truth.made.get(at.mark)
        if at.mark and (made is None or made.data != name.encode() or made.position != at):
            raise truth.sim.history.fail(f"{name} was told {at}, and there is {made}")
        await io.sleep(pause)


class Client:
    """One client, which reads, goes away and comes back."""

    def __init__(self, io: SimIO, core: ChannelCore, truth: Truth, name: str, how: How) -> None:
        self.io, self.core, self.truth, self.name, self.how = io, core, truth, name, how
        self.random = Random(f"{truth.sim.seed} {name}")
        self.at: Position | None = None
        self.fail = truth.sim.history.fail

    async def run(self, _io: SimIO) -> None:
        """Go on until everything is calm; then be at the end of the channel."""
        end = self.io.monotonic() + BUSY_S + CALM_S / 2
        while self.io.monotonic() < end:
            subscriber = self.core.subscriber(
                self.at, queue=self.how.queue, on_full=self.how.on_full, member=None, about=""
            )
            try:
                await subscriber.open()
            except (Unavailable, OutcomeUnknown):
                await self.io.sleep(0.2)
                continue
            try:
                await self._read(subscriber, end)
            except TooSlow as error:
                if error.position != self.at:
                    raise self.fail(f"{self.name} is at {self.at}, to resume after {error.position}") from error
            finally:
                subscriber.close()
            await self.io.sleep(self.random.choice((0.0, 0.05, 1.0)))
        state: Any = self.truth.sim.server.engine.data.find(KEYS.state.encode())
        now = (state[b"e"].decode(), int(state[b"o"]), state[b"m"].decode())
        if self.at != now:
            raise self.fail(f"{self.name} is at {self.at} in the end, and the channel at {now}")
        self.io.note("done", client=self.name)

    async def _read(self, subscriber: Subscriber, end: float) -> None:
        if self.at is not None and subscriber.recovered and subscriber.position != self.at:
            raise self.fail(f"{self.name} asked for what comes after {self.at}, and is at {subscriber.position}")
        at = self.at if self.at is not None and subscriber.recovered is False else subscriber.position
        lost = subscriber.recovered is False
        leave = min(end, self.io.monotonic() + self.random.choice((0.3, 2.0, 8.0)))
        while self.io.monotonic() < leave:
            self.at = at
            item = await subscriber.next(max(0.1, leave - self.io.monotonic()))
            if item is None:
                continue
            if lost and not isinstance(item, Gap):
                raise self.fail(f"{self.name} was not recovered, and was given {item}")
            lost = False
            self.truth.check_item(self.name, at, item)
            why = item.why if isinstance(item, Gap) else ""
            self.io.note("item", client=self.name, why=why)
            late_s = self.truth.late_s(item)
            if late_s > self.how.late_s:
                raise self.fail(f"{self.name} was given {item} {late_s:.1f} s after it was published")
            if why and why not in self.how.gaps:
                raise self.fail(f"{self.name} was told of {item}, and nothing of that kind is missing")
            self.at = at = item.position
            if self.truth.sim.now < BUSY_S:
                await self.io.sleep(self.how.pause * self.random.random())


def _run(seed: int, scripts: Scripts, faults: Faults, how: How | None = None, harm: Harm | None = None) -> Simulation:
    how = how or How()
    sim = Simulation(seed, scripts=scripts, faults=faults)
    truth = Truth(sim)

    def core(name: str) -> ChannelCore:
        return ChannelCore(sim.io(name), "sim", "n", history=how.history, keep=60.0, secrets=())

    for name in PROCESSES:
        shared = core(name)
        for number in range(CLIENTS):
            sim.start(name, Client(sim.io(name), shared, truth, f"{name}{number}", how).run)
    for name in "pq":
        sim.start(name, publish, core(name), truth, BUSY_S, 0.1)
    if harm is not None:
        harm(sim, truth)
    sim.run(until=BUSY_S + CALM_S + 30)
    if len(sim.history.of("done")) != len(PROCESSES) * CLIENTS:
        raise sim.history.fail("not all have come to the end")
    if len(sim.history.of("item")) < 100:
        raise sim.history.fail("hardly anything was read")
    data = sim.server.engine.data
    if any(data.expiry(key) is None for key in data.live_keys()):
        raise sim.history.fail("a key stays for ever")
    ids = [made.id for made in truth.made.values()]
    if harm is None and len(ids) != len(set(ids)):
        raise sim.history.fail("something was published twice")
    return sim


def calm(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing is lost: the server is looked at now and then, and not for each message."""
    looks = 0
    sha = LOOK.sha.encode()

    def count(call: Call) -> None:
        nonlocal looks
        looks += call.words[1:2] == [sha]

    def watched(sim: Simulation, _truth: Truth) -> None:
        sim.watch(count)

    sim = _run(seed, scripts, Faults(), harm=watched)
    # One when each comes, and one in five seconds by each process.
    sessions = len(PROCESSES) * CLIENTS * (BUSY_S + CALM_S)
    if looks > sessions:
        raise sim.history.fail(f"{looks} looks")
    return sim


def rough(seed: int, scripts: Scripts = None) -> Simulation:
    """Requests, replies, messages and connections are lost: every client is given everything, once and in order."""
    return _run(seed, scripts, ROUGH)


def quiet(seed: int, scripts: Scripts = None) -> Simulation:
    """Only messages are lost, and the last one of all too: it is found though nothing follows it."""
    return _run(seed, scripts, Faults(message_lost=0.4))


def guarded(seed: int, scripts: Scripts = None) -> Simulation:
    """Clients wait without end, and one of them looks for all: if it leaves, or is cancelled, another one does."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(message_lost=1.0))
    core = ChannelCore(sim.io("a"), "sim", "n", history=10, keep=60.0, secrets=())

    async def wait(io: SimIO, name: int) -> None:
        subscriber = core.subscriber(None, queue=10, on_full="drop_oldest", member=None, about="")
        await subscriber.open()
        if name and seed % 2:
            sim.at(1.0 + name, subscriber.close)
        item = await subscriber.next(None)
        io.note("end", name=name, got=item is not None)

    tasks = {name: sim.start("a", wait, name) for name in (1, 2, 3, 0)}
    for name in (1, 2, 3):
        if not seed % 2:
            sim.at(1.0 + name, tasks[name].cancel)

    async def tell(io: SimIO) -> None:
        await io.sleep(5.0)
        await core.publish(b"last", None, None)

    sim.start("b", tell)
    sim.run(until=20.0)
    if {line.facts["name"]: line.facts["got"] for line in sim.history.of("end")}.get(0) is not True:
        raise sim.history.fail("who stayed was never told")
    return sim


def cut_off(seed: int, scripts: Scripts = None) -> Simulation:
    """Connections break all the time, and nothing else: everything is there soon."""
    return _run(seed, scripts, Faults(cut_every_s=1.0, calm_after_s=BUSY_S), How(late_s=4.0))


def reborn(seed: int, scripts: Scripts = None) -> Simulation:
    """The server forgets everything, often, and half of it: whoever was there is told, and goes on."""

    def harm(sim: Simulation, _truth: Truth) -> None:
        for moment in (3.0, 3.03, 3.06, 3.09):
            sim.at(moment, sim.flush_data)
        sim.at(6.0, lambda: sim.restart_server(0.5, lose_data=True))
        sim.at(8.0, lambda: sim.server.engine.data.delete(KEYS.state.encode()))

    return _run(seed, scripts, LIGHT, How(gaps=("epoch",)), harm)


def forked(seed: int, scripts: Scripts = None) -> Simulation:
    """A failover loses the publications of a moment, and others take their offsets: nobody takes these for those."""

    def harm(sim: Simulation, truth: Truth) -> None:
        data = sim.server.engine.data
        kept: list[Any] = []

        def keep() -> None:
            kept.append(deepcopy((data._values, data._expiry, truth.at)))

        def fail_over() -> None:
            sim.restart_server(0.05)
            values, expiry, truth.at = kept.pop()
            data.clear()
            data._values.update(values)
            data._expiry.update(expiry)

        # The last time as many are lost as will be published afterwards, or about.
        for moment, lost in ((2.0, 0.5), (5.0, 0.3), (9.6 + seed % 5 * 0.03, 0.15)):
            sim.at(moment, keep)
            sim.at(moment + lost, fail_over)

    return _run(seed, scripts, LIGHT, How(gaps=("epoch",)), harm)


def short(seed: int, scripts: Scripts = None) -> Simulation:
    """The history is shorter than what a client may miss: it is told how much it misses."""
    return _run(seed, scripts, LIGHT, How(history=10, gaps=("history",)))


def slow(seed: int, scripts: Scripts = None) -> Simulation:
    """Clients that read slowly drop what is old, and are told."""
    return _run(seed, scripts, LIGHT, How(queue=4, pause=0.4, gaps=("slow",)))


def conflated(seed: int, scripts: Scripts = None) -> Simulation:
    """Clients that read slowly are given the newest of each key."""
    return _run(seed, scripts, LIGHT, How(on_full="conflate", queue=4, pause=0.4, gaps=("conflated",)))


def resumed(seed: int, scripts: Scripts = None) -> Simulation:
    """Clients that read slowly are cut off, and read the history."""
    return _run(seed, scripts, LIGHT, How(on_full="disconnect_with_resume", queue=4, pause=0.3))


async def _attend(io: SimIO, core: ChannelCore, name: str, until: float) -> None:
    """Be present, and say since when and until when."""
    subscriber = core.subscriber(None, queue=10, on_full="drop_oldest", member=name, about=f"I am {name}")
    while True:
        try:
            await subscriber.open()
        except (Unavailable, OutcomeUnknown):
            await io.sleep(0.5)
            subscriber = core.subscriber(None, queue=10, on_full="drop_oldest", member=name, about=f"I am {name}")
            continue
        break
    io.note("here", name=name)
    await io.sleep(until)
    io.note("leaves", name=name)
    subscriber.close()


async def _count(io: SimIO, core: ChannelCore) -> None:
    """Look who is present, again and again."""
    while True:
        try:
            members = await core.presence(100)
            count = await core.count()
        except (Unavailable, OutcomeUnknown):
            await io.sleep(0.5)
            continue
        names = [member.name for member in members]
        io.note("seen", names=names, count=count, told=all(member.about == f"I am {member.name}" for member in members))
        await io.sleep(2.0)


def present(seed: int, scripts: Scripts = None) -> Simulation:
    """Members stay, leave, and die: whoever is there is seen, and whoever is not is forgotten."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.05, cut_every_s=20.0, calm_after_s=150.0))

    def core(name: str) -> ChannelCore:
        return ChannelCore(sim.io(name), "sim", "n", history=10, keep=60.0, secrets=())

    sim.start("a", _attend, core("a"), "stays", 180.0)
    sim.start("a", _attend, core("a"), "leaves", 40.0)
    sim.start("b", _attend, core("b"), "dies", 180.0)
    sim.start("c", _count, core("c"))
    sim.at(60.0, lambda: sim.kill("b"))
    sim.run(until=170.0)
    here = {line.facts["name"]: line.at_us for line in sim.history.of("here")}
    if here.keys() != {"stays", "leaves", "dies"}:
        raise sim.history.fail(f"only {sorted(here)} came")
    for line in sim.history.of("seen"):
        names, at = line.facts["names"], line.at_us
        if not line.facts["told"] or len(names) != len(set(names)) or line.facts["count"] < len(names):
            raise sim.history.fail(f"{line.facts} were seen")
        for name, until in (("stays", 170), ("leaves", 35), ("dies", 55)):
            if here[name] + 1_000_000 < at < until * 1_000_000 and name not in names:
                raise sim.history.fail(f"{name!r} was there and not seen")
        if at > 100_000_000 and names != ["stays"]:
            raise sim.history.fail(f"{names} are seen long after they left")
    if sim.history.of("seen")[-1].at_us < 160_000_000:
        raise sim.history.fail("nobody looked for long")
    data = sim.server.engine.data
    if any(data.expiry(key) is None for key in data.live_keys()):
        raise sim.history.fail("a key stays for ever")
    return sim
