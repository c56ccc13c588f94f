"""What several processes do with one lock on several masters, and what must then be true; for mutants as well."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, OutcomeUnknown, Unavailable
from gridsync.locks import _core, _redlock
from gridsync.locks._masters import Master, Masters
from gridsync.testing.checkers import mutual_exclusion
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.locks._spec import Spec
    from gridsync.locks._votes import QuorumHold
    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None

SPEC = _redlock.spec("sim", "job", 2_000, wake=wake_prefix)
LONG = _redlock.spec("sim", "job", 30_000, wake=wake_prefix)
TTL_MAX_S = 2.0
BEGIN_S = 4.0
"""When the masters are old enough to vote."""


class World:
    """A simulation with several masters, and what a process of it knows of them."""

    def __init__(self, seed: int, *, faults: Faults | None, scripts: Scripts, servers: int = 3) -> None:
        self.sim = Simulation(seed, faults=faults, scripts=scripts, servers=servers)

    def masters(self, name: str, ttl_max_s: float = TTL_MAX_S) -> Masters:
        """Return the masters as the process *name* sees them."""
        each = [Master(io, f"master {index}") for index, io in enumerate(self.sim.ios(name))]
        return Masters(each, ttl_max_s=ttl_max_s, timeout_s=0.2)

    def start(self, name: str, work: Any, *args: Any, ttl_max_s: float = TTL_MAX_S) -> None:  # noqa: ANN401 - any work
        """Start ``work(io, masters, *args)`` in a process when the masters may vote."""
        masters = self.masters(name, ttl_max_s)

        async def begin(io: SimIO) -> None:
            await io.sleep(BEGIN_S)
            await work(io, masters, *args)

        self.sim.start(name, begin)

    def at(self, seconds: float, call: Any) -> None:  # noqa: ANN401 - any call
        """Call *call* so many seconds after the beginning of the work."""
        self.sim.at(BEGIN_S + seconds, call)


async def act(io: SimIO, hold: QuorumHold, steps: float, step_s: float) -> None:
    """Act under a lease while it is surely ours, and give it back."""
    try:
        for step in range(int(steps)):
            # No await between the check and the note: this is the moment at which a user would act.
            hold.check()
            kind = "working" if step else "acquired"
            io.note(kind, name=hold.spec.name, owner=hold.owner, fence=hold.fence)
            await io.sleep(step_s)
        hold.check()
        io.note("released", name=hold.spec.name, owner=hold.owner, fence=hold.fence)
        await _core.release(io, hold)
    except BaseException:
        io.spawn(_give_back(io, hold))
        raise


async def _give_back(io: SimIO, hold: QuorumHold) -> None:
    try:
        await _core.release(io, hold)
    except GridsyncError as error:
        io.note("release failed", why=type(error).__name__)


async def work(io: SimIO, masters: Masters, spec: Spec = SPEC, steps: float = 4, step_s: float = 0.3) -> None:
    """Take the lock once and act."""
    hold = await _redlock.acquire(masters, spec, 20.0)
    assert hold is not None
    await act(io, hold, steps, step_s)


async def keep_working(io: SimIO, masters: Masters, until: float, spec: Spec = SPEC, *how: float) -> None:
    """Work again and again, whatever happens."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        try:
            await io.sleep(0.05)
            await work(io, masters, spec, *how)
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown) as error:
            io.note("stopped", why=type(error).__name__)
        except asyncio.CancelledError:
            io.note("stopped", why="cancelled")


def finished(world: World, at_least: int) -> Simulation:
    """Run to the end: the promises held, and in the calm one more got the lock at once."""
    sim = world.sim
    sim.run(until=120.0)
    assert mutual_exclusion(sim.history) > at_least, sim.history.story()
    if sim.history.of("acquired")[-1].process != "z":
        raise sim.history.fail("after the bad weather nobody got the lock")
    nothing_left(sim)
    return sim


def nothing_left(sim: Simulation) -> None:
    """Check that no master holds the lock for anybody."""
    for index, server in enumerate(sim.servers):
        if server.engine.execute("EXISTS", SPEC.keys[0], SPEC.keys[1], SPEC.keys[2]):
            raise sim.history.fail(f"server {index} still holds something")


BAD_DAY = Faults(
    request_lost=0.03,
    reply_lost=0.05,
    late=0.05,
    slow=0.05,
    message_lost=0.2,
    message_doubled=0.1,
    message_late=0.1,
    cut_every_s=5.0,
    pause_every_s=3.0,
    pause_s=4.0,
    restart_every_s=20.0,
    flush_scripts_every_s=15.0,
    cancel_every_s=4.0,
    calm_after_s=60.0,
)


def bad_day(seed: int, scripts: Scripts = None) -> Simulation:
    """Four workers in the worst of weather over three masters that keep their data."""
    world = World(seed, faults=BAD_DAY, scripts=scripts)
    for name in "abcd":
        world.start(name, keep_working, 55.0)
    world.at(30.0, lambda: world.sim.kill("d"))
    world.at(90.0, lambda: world.sim.start("z", _last, world.masters("z")))
    return finished(world, 2)


async def _last(io: SimIO, masters: Masters) -> None:
    await work(io, masters)


def partitions(seed: int, scripts: Scripts = None) -> Simulation:
    """Each process is cut off from a master now and then, sometimes from two, over five masters."""
    world = World(seed, faults=Faults(slow=0.05, calm_after_s=60.0), scripts=scripts, servers=5)
    sim = world.sim
    for name in "abcd":
        world.start(name, keep_working, 50.0)
        for second in range(1, 50, 4):
            for server in sim.random.sample(range(5), sim.random.choice([0, 1, 2, 2, 3])):
                world.at(second, lambda name=name, server=server: sim.part(name, server, sim.random.uniform(1, 5)))
    world.at(90.0, lambda: sim.start("z", _last, world.masters("z")))
    return finished(world, 8)


FORGETFUL = Faults(late=0.03, slow=0.05, reply_lost=0.03, pause_every_s=4.0, pause_s=3.0, calm_after_s=60.0)


def forgetful(seed: int, scripts: Scripts = None) -> Simulation:
    """One master after the other is restarted and has lost everything; their clocks differ by up to 50 ms."""
    world = World(seed, faults=FORGETFUL, scripts=scripts)
    sim = world.sim
    for index in range(3):
        sim.jump_server_clock(sim.random.uniform(-0.05, 0.05), index)
    for name in "abcd":
        world.start(name, keep_working, 55.0, SPEC, 6)
    for place, second in enumerate(range(3, 58, 5)):
        # Five seconds apart: one that forgot is old enough again before the next one forgets.
        world.at(second, lambda server=place % 3: sim.restart_server(0.1, lose_data=True, server=server))
    world.at(90.0, lambda: sim.start("z", _last, world.masters("z")))
    return finished(world, 5)


def forgets_under_a_lease(seed: int, scripts: Scripts = None) -> Simulation:
    """A holder is cut off from one master; of the other two, one is restarted and has lost its vote."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    sim.at(3.9, lambda: sim.part("a", 2, 20.0))
    world.start("a", work, SPEC, 40, 0.05)
    world.at(1.0, lambda: sim.restart_server(0.05, lose_data=True, server=1))
    world.at(1.0, lambda: sim.pause("a", 0.8))

    async def rival(io: SimIO, masters: Masters) -> None:
        await io.sleep(1.05)
        await work(io, masters, SPEC, 3, 0.1)

    world.start("b", rival)
    with contextlib.suppress(LeaseLost):
        sim.run(until=60.0)
    mutual_exclusion(sim.history)
    return sim


def flushed_twice(seed: int, scripts: Scripts = None) -> Simulation:
    """Two masters forget the holder while it sleeps, and a rival comes, and goes or stays: the holder hears of it."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim

    async def sleeper(io: SimIO, masters: Masters) -> None:
        hold = await _redlock.acquire(masters, LONG, 0)
        assert hold is not None
        io.note("acquired", name="job", owner=hold.owner, fence=hold.fence)
        await io.sleep(14.0)
        if not hold.why_lost:
            raise sim.history.fail("another held it in between, and the first holder was never told")

    async def rival(io: SimIO, masters: Masters) -> None:
        await io.sleep(1.0)
        sim.flush_data(1)
        sim.flush_data(2)
        hold = await _redlock.acquire(masters, LONG, 0)
        assert hold is not None, "two of three masters were free"
        if seed % 2:
            await io.sleep(15.0)  # the holder has renewed, or tried to
        await _core.release(io, hold)

    world.start("a", sleeper, ttl_max_s=1.0)
    world.start("b", rival, ttl_max_s=1.0)
    sim.run(until=60.0)
    return sim


def forgets_one(seed: int, scripts: Scripts = None) -> Simulation:
    """One master after the other forgets its vote, and the lease lives on: each is asked for it anew."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    world.start("a", work, SPEC, 100, 0.1)
    for second, server in ((2.0, 0), (4.0, 1), (6.0, 2)):
        world.at(second, lambda server=server: sim.flush_data(server))
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 1
    if len(sim.history.of("released")) != 1:
        raise sim.history.fail("the lease did not last")
    nothing_left(sim)
    return sim


def fences(seed: int, scripts: Scripts = None) -> Simulation:
    """Short leases change hands while processes cannot reach this or that master: fences must rise."""
    world = World(seed, faults=Faults(slow=0.05, calm_after_s=60.0), scripts=scripts)
    sim = world.sim
    for index in range(3):
        # Clocks that differ by more than hand-overs take: the reading of the others' fences has to make up for it.
        sim.jump_server_clock(sim.random.uniform(-30, 30), index)
    for name in "abcd":
        world.start(name, keep_working, 50.0, SPEC, 2, 0.05)
        for second in range(0, 50, 2):
            world.at(second, lambda name=name: sim.part(name, sim.random.randrange(3), sim.random.uniform(1, 2)))
    world.at(90.0, lambda: sim.start("z", _last, world.masters("z")))
    return finished(world, 20)


def lost_fences(seed: int, scripts: Scripts = None) -> Simulation:
    """All masters forget everything between two holders: the clocks make the later fence larger."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    world.start("a", keep_working, 20.0, SPEC, 2, 0.05)

    def forget() -> None:
        for server in range(3):
            sim.flush_data(server)

    for second in range(1, 20, 3):
        world.at(second, forget)
    world.at(30.0, lambda: sim.start("z", _last, world.masters("z")))
    return finished(world, 5)


def calm_turns(seed: int, scripts: Scripts = None) -> Simulation:
    """Five processes wait in calm weather: a release wakes one of them, and nobody polls."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    for place, name in enumerate("abcde"):

        async def come(io: SimIO, masters: Masters, delay: float = 0.1 * place) -> None:
            await io.sleep(delay)
            await work(io, masters, LONG, 4, 0.5)

        world.start(name, come)
    commands = 0

    def count(call: Call) -> None:
        nonlocal commands
        commands += call.words[0] == b"EVALSHA"

    for server in range(3):
        sim.watch(count, server)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 5
    turns = sim.history.of("acquired", "released")
    for before, after in zip(turns[1::2], turns[2::2], strict=False):
        if after.at_us - before.at_us > 200_000:
            raise sim.history.fail(f"the next holder came {(after.at_us - before.at_us) / 1e6:.3f} s after a release")
    # Twenty seconds of waiting, in each of which every waiter looks once at three masters, and nothing besides.
    if commands > 400:
        raise sim.history.fail(f"five turns took {commands} commands")
    nothing_left(sim)
    return sim


def cancelled(seed: int, scripts: Scripts = None) -> Simulation:
    """A caller is cancelled at any moment: whoever comes next has the lock at once."""
    world = World(seed, faults=Faults(slow=0.2, slow_s=0.1), scripts=scripts)
    sim = world.sim
    masters = world.masters("a")

    async def begin(io: SimIO) -> None:
        await io.sleep(BEGIN_S)
        await keep_working(io, masters, 0.2, LONG, 1, 0.01)

    task = sim.start("a", begin)
    sim.at(BEGIN_S + 0.05 + sim.random.uniform(0, 0.08), task.cancel)
    sim.at(BEGIN_S + 2.0, lambda: sim.start("z", _last, world.masters("z")))
    sim.run(until=40.0)
    mutual_exclusion(sim.history)
    last = [event for event in sim.history.of("acquired") if event.process == "z"]
    if not last or last[0].at_us > (BEGIN_S + 2.5) * 1e6:
        raise sim.history.fail("a cancelled caller left the lock held")
    nothing_left(sim)
    return sim


def late_requests(seed: int, scripts: Scripts = None) -> Simulation:
    """Requests arrive seconds after their callers gave up or were answered: no such ghost holds the lock."""
    faults = Faults(late=0.15, late_s=8.0, cancel_every_s=1.5, calm_after_s=24.0)
    world = World(seed, faults=faults, scripts=scripts)
    sim = world.sim
    for name in "ab":
        world.start(name, keep_working, 18.0, LONG, 1, 0.05)
    world.at(31.0, lambda: sim.start("z", _late, world.masters("z")))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    asked = [event for event in sim.history.of("acquired") if event.process == "z"]
    if not asked or asked[0].at_us > (BEGIN_S + 31.5) * 1e6:
        raise sim.history.fail("a request that came late holds the lock for nobody")
    return sim


async def _late(io: SimIO, masters: Masters) -> None:
    await work(io, masters, LONG, 1)


def one_away(seed: int, scripts: Scripts = None) -> Simulation:
    """Nobody reaches the first of the masters, at which a waiter listens for all: it hears of a release from others."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    for place, name in enumerate("abcde"):
        sim.at(0.0, lambda name=name: sim.part(name, 0, 100.0))

        async def come(io: SimIO, masters: Masters, delay: float = 0.1 * place) -> None:
            await io.sleep(delay)
            # At another moment with each seed, since a waiter looks by itself about once a second.
            await work(io, masters, LONG, 3, 0.6 + 0.03 * seed)

        world.start(name, come)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 5
    turns = sim.history.of("acquired", "released")
    # At the first hand-over it is not known yet which master is away, and each round waits for it.
    for before, after in zip(turns[3::2], turns[4::2], strict=False):
        if after.at_us - before.at_us > 200_000:
            raise sim.history.fail(f"the next holder came {(after.at_us - before.at_us) / 1e6:.3f} s after a release")
    return sim


def voted_twice(seed: int, scripts: Scripts = None) -> Simulation:
    """A master forgets a vote before it is confirmed, and gives it to a rival: it is not confirmed to the first one."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    sim.at(0.0, lambda: sim.part("a", 2, 100.0))
    struck: list[str] = []

    def strike(call: Call) -> None:
        # The only script of this process that answers with three things is acquire, when it grants.
        if call.process == "a" and isinstance(call.reply, list) and len(call.reply) == 3 and not struck:
            struck.append("a")
            # It stands still between its two phases, for less than a master may take to answer.
            sim.pause("a", 0.1 + 0.002 * seed)
            sim.flush_data(1)

    async def once(io: SimIO, masters: Masters) -> None:
        with contextlib.suppress(Unavailable, LeaseLost):
            hold = await _redlock.acquire(masters, SPEC, 0)
            if hold is not None:
                await act(io, hold, 4, 0.1)

    async def rival(io: SimIO, masters: Masters) -> None:
        while not struck:
            await io.sleep(0.005)
        hold = await _redlock.acquire(masters, SPEC, 0)
        assert hold is not None, "two of three masters were free"
        await act(io, hold, 12, 0.1)

    sim.watch(strike, 1)
    world.start("a", once)
    world.start("b", rival)
    sim.run(until=30.0)
    mutual_exclusion(sim.history)
    assert struck
    return sim


def late_renewals(seed: int, scripts: Scripts = None) -> Simulation:
    """Renewals arrive seconds after their lease was given back: none of them takes the lock again, for nobody."""
    faults = Faults(late=0.3, late_s=4.0, calm_after_s=20.0)
    world = World(seed, faults=faults, scripts=scripts)
    sim = world.sim
    over: set[bytes] = set()
    risen: list[bytes] = []

    def look(call: Call) -> None:
        if call.words[0] == b"EVALSHA" and call.reply == 2 and call.words[8] in over:
            risen.append(call.words[8])

    async def turns(io: SimIO, masters: Masters) -> None:
        for _ in range(8):
            with contextlib.suppress(LeaseLost, LockTimeout, Unavailable, OutcomeUnknown):
                hold = await _redlock.acquire(masters, SPEC, 5.0)
                assert hold is not None
                try:
                    await act(io, hold, 4, 0.25)
                finally:
                    over.add(hold.owner.encode())
                    io.note("over", owner=hold.owner)

    for server in range(3):
        sim.watch(look, server)
    world.start("a", turns)
    world.start("b", turns)
    sim.run(until=80.0)
    mutual_exclusion(sim.history)
    if risen:
        raise sim.history.fail(f"{risen[0].decode()} was given back, and holds it again")
    return sim


def lost_votes(seed: int, scripts: Scripts = None) -> Simulation:
    """The replies of a majority are lost: who is asked again says that the vote is ours, and that is a vote."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim

    async def once(io: SimIO, masters: Masters) -> None:
        first = await _redlock.acquire(masters, SPEC, 0)  # every script is loaded
        assert first is not None
        await act(io, first, 1, 0.01)
        sim.next_requests(*["reply_lost"] * (2 + seed % 2))
        hold = await _redlock.acquire(masters, SPEC, 0)
        if hold is None:
            raise sim.history.fail("a free lock was refused to its own owner")
        await act(io, hold, 2, 0.1)

    world.start("a", once)
    sim.run(until=30.0)
    assert mutual_exclusion(sim.history) == 2
    nothing_left(sim)
    return sim


def before_its_start(seed: int, scripts: Scripts = None) -> Simulation:
    """A master's clock is set to before its start: it tells a negative uptime, which costs nobody the lock."""
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    world.at(-1.0, lambda: sim.jump_server_clock(-3600.0, seed % 3))
    world.start("a", work, SPEC, 4, 0.1)
    sim.run(until=30.0)
    assert mutual_exclusion(sim.history) == 1
    nothing_left(sim)
    return sim


def set_forward(seed: int, scripts: Scripts = None) -> Simulation:
    """A holder is cut off from one master; another forgets it in a restart, and its clock is set forward by an hour.

    The rival waits since long before that, had to do with the masters a while ago, or met the young master in time: so
    it knows for how long that has run at most, whatever the master says.
    """
    world = World(seed, faults=None, scripts=scripts)
    sim = world.sim
    struck = 75.0
    sim.at(3.9, lambda: sim.part("a", 2, 100.0))

    async def holder(io: SimIO, masters: Masters) -> None:
        with contextlib.suppress(LeaseLost):
            await work(io, masters, SPEC, 400, 0.2)

    async def rival(io: SimIO, masters: Masters) -> None:
        met_at, came_at = ((0.0, 1.0), (struck - 50, struck + 0.1), (struck + 0.02, struck + 0.1))[seed % 3]
        await io.sleep(met_at)
        if met_at:
            await masters.meet()
        await io.sleep(came_at - met_at)
        hold = await _redlock.acquire(masters, SPEC, None)
        assert hold is not None
        await act(io, hold, 3, 0.1)

    world.at(struck, lambda: sim.restart_server(0.01, lose_data=True, server=1))
    world.at(struck, lambda: sim.pause("a", 0.8))
    world.at(struck + 0.05, lambda: sim.jump_server_clock(3600.0, 1))
    world.start("a", holder)
    world.start("b", rival)
    sim.run(until=120.0)
    assert mutual_exclusion(sim.history) == 2
    return sim


def late_releases(seed: int, scripts: Scripts = None) -> Simulation:
    """Votes are split all the time, and what gives them back arrives seconds later: it takes nobody's later vote."""
    world = World(seed, faults=Faults(late=0.15, late_s=3.0, calm_after_s=24.0), scripts=scripts)
    for name in "abcd":
        world.start(name, keep_working, 18.0, SPEC, 6, 0.2)
    world.at(31.0, lambda: world.sim.start("z", _last, world.masters("z")))
    return finished(world, 2)
