"""What several processes do with one lock, and what must then be true; for the shipped scripts and for mutants."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, OutcomeUnknown, Unavailable
from gridsync.locks import _core, _spec
from gridsync.locks._hold import RENEWALS
from gridsync.testing.checkers import mutual_exclusion, rising_fences
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec
    from gridsync.testing.sim import Call, SimIO

    Scripts = Mapping[str, str] | None

SHORT = _spec.lock("sim", "job", 2_000, wake=wake_prefix)
LONG = _spec.lock("sim", "job", 30_000, wake=wake_prefix)
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
    pause_s=6.0,
    restart_every_s=25.0,
    flush_scripts_every_s=15.0,
    cancel_every_s=4.0,
    calm_after_s=60.0,
)


async def work(io: SimIO, spec: Spec, steps: int = 4, step_s: float = 0.3) -> None:
    """Take the lock once, act while the lease is surely ours, give it back."""
    hold = await _core.acquire(io, spec, 20.0)
    if hold is None:
        return
    try:
        for step in range(steps):
            # No await between the check and the note: this is the moment at which a user would act.
            hold.check()
            kind = "working" if step else "acquired"
            io.note(kind, name=spec.name, owner=hold.owner, fence=hold.fence)
            await io.sleep(step_s)
        hold.check()
        io.note("released", name=spec.name, owner=hold.owner, fence=hold.fence)
        if not await _core.release(io, hold):
            io.note("release denied", owner=hold.owner)
    except BaseException:
        io.spawn(_give_back(io, hold))
        raise


async def _give_back(io: SimIO, hold: Hold) -> None:
    try:
        await _core.release(io, hold)
    except GridsyncError as error:
        io.note("release failed", why=type(error).__name__)


async def keep_working(io: SimIO, spec: Spec, until: float, steps: int = 4, step_s: float = 0.3) -> None:
    """Work again and again, whatever happens."""
    end = io.monotonic() + until
    while io.monotonic() < end:
        try:
            await io.sleep(0.1)
            await work(io, spec, steps=steps, step_s=step_s)
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown) as error:
            io.note("stopped", why=type(error).__name__)
        except asyncio.CancelledError:
            io.note("stopped", why="cancelled")


def bad_day(seed: int, scripts: Scripts = None, faults: Faults = BAD_DAY) -> Simulation:
    """Five workers in the worst of weather; in the calm after it one more gets the lock at once."""
    sim = Simulation(seed, faults=faults, scripts=scripts)
    for name in "abcde":
        sim.start(name, keep_working, SHORT, 60.0)
    sim.at(30.0, lambda: sim.kill("e"))
    # The longest wait, the longest pause and a lease later, everybody has gone.
    sim.at(90.0, lambda: sim.start("z", work, SHORT))
    sim.run(until=100.0)
    assert mutual_exclusion(sim.history) > 5, sim.history.story()
    if sim.history.of("acquired")[-1].process != "z":
        raise sim.history.fail("after the bad weather nobody got the lock")
    nothing_left(sim)
    return sim


LATE_WORDS = Faults(
    message_late=0.5,
    message_late_s=2.0,
    message_doubled=0.2,
    message_lost=0.1,
    pause_every_s=2.0,
    pause_s=2.0,
    cancel_every_s=5.0,
    calm_after_s=40.0,
)


def late_words(seed: int, scripts: Scripts = None) -> Simulation:
    """Words of a hand-over come late, twice or never, and processes stand still between the word and its use."""
    sim = Simulation(seed, scripts=scripts, faults=LATE_WORDS)
    for name in "abcd":
        sim.start(name, keep_working, LONG, 40.0, 3, 0.2)
    sim.at(50.0, lambda: sim.start("z", work, LONG))
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) > 10, sim.history.story()
    if sim.history.of("acquired")[-1].process != "z":
        raise sim.history.fail("after the bad weather nobody got the lock")
    return sim


def stale_word(seed: int, scripts: Scripts = None) -> Simulation:
    """A word comes long after its claim went to the next one, and the clock was set back: it seems to be about now."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(message_late=1.0, message_late_s=8.0))

    async def come(io: SimIO, delay: float, steps: int) -> None:
        await io.sleep(delay)
        await work(io, LONG, steps)

    for place, (name, steps) in enumerate((("a", 3), ("b", 3), ("c", 20))):
        sim.start(name, come, 0.1 * place, steps)
    # b is handed the lock at about 0.9 s, and c one second later.
    sim.at(0.85, lambda: sim.pause("b", 1.6))
    sim.at(2.2, lambda: sim.jump_server_clock(-sim.random.uniform(2, 8)))
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 3
    return sim


def leap_before_a_word(seed: int, scripts: Scripts = None) -> Simulation:
    """The server's clock is set forward while one waits: its claim seems to begin later than it does."""
    sim = Simulation(seed, scripts=scripts)

    async def come(io: SimIO, delay: float, steps: int) -> None:
        await io.sleep(delay)
        await work(io, LONG, steps=steps)

    for place, (name, steps) in enumerate((("a", 7), ("b", 12), ("c", 3))):
        sim.start(name, come, 0.1 * place, steps)
    sim.at(sim.random.uniform(0.5, 2.0), lambda: sim.jump_server_clock(sim.random.uniform(1.2, 1.8)))
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == 3
    return sim


def brief_bodies(seed: int, scripts: Scripts = None) -> Simulation:
    """Tasks of two processes take turns, each for a moment: two commands a turn, and no poll."""
    sim = Simulation(seed, scripts=scripts)
    turns = 0

    async def take_turns(io: SimIO) -> None:
        nonlocal turns
        await io.sleep(sim.random.uniform(0, 0.5))
        for _ in range(10):
            hold = await _core.acquire(io, SHORT, 20.0)
            assert hold is not None
            hold.check()
            io.note("acquired", name=SHORT.name, owner=hold.owner, fence=hold.fence)
            await io.sleep(0.001)
            hold.check()
            io.note("released", name=SHORT.name, owner=hold.owner, fence=hold.fence)
            assert await _core.release(io, hold)
            turns += 1

    for n in range(6):
        sim.start("ab"[n % 2], take_turns)
    commands = 0

    def count(call: Call) -> None:
        nonlocal commands
        commands += call.words[0] in ("EVALSHA", b"EVALSHA")

    sim.watch(count)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) == turns == 60
    last = sim.history.of("released")[-1]
    if last.at_us > 2_000_000:
        raise sim.history.fail(f"60 turns took {last.at_us / 1e6:.3f} s")
    # One each for what cannot be known before: that the lock is held, and that a script is not loaded.
    if commands > 2 * turns + 12:
        raise sim.history.fail(f"{turns} turns took {commands} commands")
    nothing_left(sim)
    return sim


def late_requests(seed: int, scripts: Scripts = None) -> Simulation:
    """Requests arrive seconds after their callers gave up or were answered: no such ghost holds the lock."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(late=0.2, late_s=8.0, cancel_every_s=1.5, calm_after_s=20.0))
    for name in "abc":
        sim.start(name, keep_working, LONG, 18.0, 1, 0.05)
    sim.at(30.0, lambda: sim.start("z", work, LONG, 1))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    asked = [event for event in sim.history.of("acquired") if event.process == "z"]
    if not asked or asked[0].at_us > 30_200_000:
        raise sim.history.fail("a request that came late holds the lock for nobody")
    return sim


def barging(seed: int, scripts: Scripts = None) -> Simulation:
    """Order does not matter: newcomers may overtake, and nobody waits for much longer than the patience."""
    sim = Simulation(seed, scripts=scripts)
    spec = _spec.lock("sim", "job", 2_000, wake=wake_prefix, fair=False)
    overtaken = 0
    waited: list[float] = []

    async def take_turns(io: SimIO, until: float) -> None:
        nonlocal overtaken
        while io.monotonic() < until:
            began = io.monotonic()
            hold = await _core.acquire(io, spec, 20.0)
            assert hold is not None
            waited.append(io.monotonic() - began)
            hold.check()
            io.note("acquired", name=spec.name, owner=hold.owner, fence=hold.fence)
            await io.sleep(0.05)
            hold.check()
            io.note("released", name=spec.name, owner=hold.owner, fence=hold.fence)
            assert await _core.release(io, hold)

    for name in "abcde":
        io = sim.io(name)
        sim.start(name, take_turns, io.monotonic() + 10.0)
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) > 100
    if max(waited) > (_spec.PATIENCE_MS + 500) / 1000:
        raise sim.history.fail(f"one waited {max(waited):.3f} s")
    if sum(one < 0.01 for one in waited) < len(waited) / 4:
        raise sim.history.fail("a free lock was not given to who came first of all")
    nothing_left(sim)
    return sim


def barging_greedy(seed: int, scripts: Scripts = None) -> Simulation:
    """One takes the lock again in the moment in which it gives it back: a waiter is served when patience ends."""
    sim = Simulation(seed, scripts=scripts)
    spec = _spec.lock("sim", "job", 2_000, wake=wake_prefix, fair=False)

    async def greedy(io: SimIO) -> None:
        hold = await _core.acquire(io, spec, 0)
        end = io.monotonic() + 2.5
        while io.monotonic() < end:
            await io.sleep(0.1)
            if hold is not None:
                io.spawn(_give_back(io, hold))
                # On the same connection, right behind: nobody can be faster.
                await io.breathe()
            hold = await _core.acquire(io, spec, 0)
        if hold is not None:
            await _core.release(io, hold)

    async def wait(io: SimIO) -> None:
        await io.sleep(0.1)
        began = io.monotonic()
        hold = await _core.acquire(io, spec, 20.0)
        assert hold is not None
        io.note("waited", seconds=io.monotonic() - began)
        await _core.release(io, hold)

    sim.start("g", greedy)
    sim.start("w", wait)
    sim.run(until=30.0)
    (waited,) = sim.history.of("waited")
    if waited.facts["seconds"] > (_spec.PATIENCE_MS + 200) / 1000:
        raise sim.history.fail("a waiter was overtaken for longer than the patience")
    return sim


def lost_word(seed: int, scripts: Scripts = None) -> Simulation:
    """The reply to a release is lost, and with it the word for a waiter of the same process: the repeat says it."""
    sim = Simulation(seed, scripts=scripts)

    async def hold(io: SimIO) -> None:
        hold = await _core.acquire(io, LONG, 20.0)
        assert hold is not None
        await io.sleep(0.5)
        sim.next_requests("reply_lost")
        assert await _core.release(io, hold)
        io.note("told")

    # A first release teaches the server the script: what is lost must be the reply that matters.
    sim.start("a", work, LONG, 1)
    sim.at(1.0, lambda: sim.start("a", hold))
    sim.at(1.2, lambda: sim.start("a", work, LONG, 1))
    sim.run(until=30.0)
    told = sim.history.of("told")[0].at_us
    served = sim.history.of("acquired")[-1].at_us
    if served - told > 100_000:
        raise sim.history.fail(f"the waiter heard nothing for {(served - told) / 1e6:.3f} s")
    nothing_left(sim)
    return sim


def barging_dead(seed: int, scripts: Scripts = None) -> Simulation:
    """Order does not matter and waiters die: whoever is woken and does not come holds nobody up for long."""
    sim = Simulation(seed, scripts=scripts)
    spec = _spec.lock("sim", "job", 2_000, wake=wake_prefix, fair=False)

    async def work_late(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await work(io, spec)

    for place, name in enumerate("abcde"):
        sim.start(name, work_late, 0.05 * place)
    for name in "bcd":
        sim.at(sim.random.uniform(0.4, 1.3), lambda name=name: sim.kill(name))  # type: ignore[misc] # bound now
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = [event for event in sim.history.of("acquired") if event.process == "e"]
    if not served or served[0].at_us > 1_300_000 + 3 * 1_200_000:
        raise sim.history.fail("the living one waited for the dead")
    nothing_left(sim)
    return sim


def clock_set_back(seed: int, scripts: Scripts = None) -> Simulation:
    """The server's clock goes back now and then: leases last longer, and fences still rise."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(latency_s=(0.0, 0.0005)))
    for name in "abc" if seed % 2 else "a":
        sim.start(name, keep_working, SHORT, 20.0)
    for second in (3, 7, 12):
        sim.at(second, lambda: sim.jump_server_clock(-sim.random.uniform(0, 20)))
    sim.run(until=60.0)
    assert mutual_exclusion(sim.history) > 5, sim.history.story()
    return sim


def lost_data(seed: int, scripts: Scripts = None) -> Simulation:
    """The server comes back empty: exclusion is gone for a moment, and the fence tells the holders apart."""
    sim = Simulation(seed, scripts=scripts)
    for name in "abc":
        sim.start(name, keep_working, SHORT, 20.0)
    for second in (4, 9):
        sim.at(second, lambda: sim.restart_server(0.2, lose_data=True))
    sim.run(until=40.0)
    rising_fences(sim.history)
    return sim


def calm_queue(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails: everybody is served in order of arrival, and hand-overs take two ways and not a poll."""
    sim = Simulation(seed, scripts=scripts)
    arrived: list[str] = []

    async def come(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        arrived.append(io.process.name)
        await work(io, SHORT, steps=3, step_s=0.2)

    names = "abcdefgh"
    for place, name in enumerate(names):
        sim.start(name, come, 0.02 * place)
    sim.run(until=40.0)
    assert mutual_exclusion(sim.history) == len(names)
    served = [event.process for event in sim.history.of("acquired")]
    if served != arrived:
        raise sim.history.fail(f"arrived {arrived}, served {served}")
    events = sim.history.of("acquired", "released")
    for released, acquired in zip(events[1::2], events[2::2], strict=False):
        if acquired.at_us - released.at_us > 100_000:
            raise sim.history.fail(f"a hand-over took {(acquired.at_us - released.at_us) / 1e6:.3f} s")
    if sim.history.of("release denied"):
        raise sim.history.fail("a release was taken for a loss")
    nothing_left(sim)
    return sim


def lost_replies(seed: int, scripts: Scripts = None) -> Simulation:
    """Connections break, nobody stands still: every caller gets the lock and learns that it gave it back."""
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.15, request_lost=0.05))
    for name in "abcd":
        sim.start(name, work, LONG)
    sim.run(until=120.0)
    assert mutual_exclusion(sim.history) == 4, sim.history.story()
    if sim.history.of("release denied"):
        raise sim.history.fail("a repeated release was taken for a loss")
    last = sim.history.of("released")[-1]
    if last.at_us > 20_000_000:
        raise sim.history.fail("a lost reply cost a whole lease")
    nothing_left(sim)
    return sim


def dead_waiters(seed: int, scripts: Scripts = None) -> Simulation:
    """Waiters and a holder vanish: the others come in turn, at most one claim time or lease later."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcdef"):
        sim.start(name, _late_work, 0.02 * place)
    sim.at(sim.random.uniform(0.3, 1.5), lambda: sim.kill("b"))
    sim.at(sim.random.uniform(0.3, 4.0), lambda: sim.kill("d"))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    done = {event.process for event in sim.history.of("released")}
    if missing := sorted(set("acef") - done):
        raise sim.history.fail(f"{missing} never got the lock")
    last = sim.history.of("released")[-1]
    if last.at_us > 10_000_000:
        raise sim.history.fail(f"the last one waited until {last.at_us / 1e6:.3f} s")
    nothing_left(sim)
    return sim


async def _late_work(io: SimIO, delay: float) -> None:
    await io.sleep(delay)
    await work(io, SHORT)


def cancelled(seed: int, scripts: Scripts = None) -> Simulation:
    """One of two callers is cancelled at its n-th await; the other has the lock at once, and nothing of it stays."""
    sim = Simulation(seed, scripts=scripts)
    held = seed % 2 == 1

    async def other(io: SimIO) -> None:
        if held:
            await work(io, LONG, steps=3)
        else:
            await io.sleep(1.0)
        io.note("wants")
        await work(io, LONG, steps=1)

    async def victim(io: SimIO) -> None:
        try:
            await io.sleep(0.05)
            await work(io, LONG, steps=4)
        finally:
            io.note("gone")

    sim.start("b", other)
    sim.start("a", victim).cancel(at_step=1 + seed // 2)
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    free = max(event.at_us for event in sim.history.of("gone", "wants"))
    got = [event for event in sim.history.of("acquired") if event.process == "b"][-1]
    if got.at_us - free > 100_000:
        raise sim.history.fail("a cancelled caller left the lock held or its place taken")
    nothing_left(sim)
    return sim


def alone(seed: int, scripts: Scripts = None) -> Simulation:
    """One caller takes the lock three times: it never waits for itself."""
    sim = Simulation(seed, scripts=scripts)

    async def thrice(io: SimIO) -> None:
        for _ in range(3):
            await work(io, LONG, steps=1)

    sim.start("a", thrice)
    sim.run(until=60.0)
    if (last := sim.history.of("released")[-1].at_us) > 2_000_000:
        raise sim.history.fail(f"three times 0.3 s took {last / 1e6:.3f} s")
    nothing_left(sim)
    return sim


def crashed_holder(seed: int, scripts: Scripts = None, spec: Spec = SHORT) -> Simulation:
    """The holder vanishes, and newcomers arrive just when its lease ends: they do not overtake those who wait."""
    sim = Simulation(seed, scripts=scripts)

    async def work_late(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await work(io, spec)

    sim.start("a", work_late, 0.0)
    sim.at(0.5, lambda: sim.kill("a"))
    for place, name in enumerate("bc"):
        sim.start(name, work_late, 0.1 + 0.1 * place)
    for place in range(40):
        sim.start(f"n{place}", work_late, 1.99 + 0.0005 * place)
    sim.run(until=20.0)
    mutual_exclusion(sim.history)
    served = [event.process for event in sim.history.of("acquired")]
    if served[:3] != ["a", "b", "c"]:
        raise sim.history.fail(f"arrived a, b, c and then others, served {served}")
    return sim


def crashed_holder_unfair(seed: int, scripts: Scripts = None) -> Simulation:
    """As `crashed_holder` where order does not matter: whoever has waited for longer than the patience comes first."""
    return crashed_holder(seed, scripts, _spec.lock("sim", "job", 2_000, wake=wake_prefix, fair=False))


def overslept(seed: int, scripts: Scripts = None) -> Simulation:
    """A living waiter sleeps through its claim; whoever looks next, or gives up, tells the one whose turn it is."""
    sim = Simulation(seed, scripts=scripts)
    gives_up = seed % 2 == 1

    async def work_late(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await work(io, LONG)

    async def look(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await _core.acquire(io, LONG, 0)
        io.note("told")

    async def give_up(io: SimIO, delay: float) -> None:
        try:
            await work_late(io, delay)
        finally:
            io.note("told")

    sim.start("a", work, LONG)
    sleeper = sim.start("b", give_up if gives_up else work_late, 0.1)
    # Behind a crowd one looks seldom by oneself; then the crowd goes away.
    for place in range(30):
        passer_by = sim.start(f"x{place}", work_late, 0.15)
        sim.at(0.6, passer_by.cancel)
    for place, name in enumerate("cd"):
        sim.start(name, work_late, 0.2 + 0.1 * place)
    # b is handed the lock at about 1.2 s and has a second to claim it.
    sim.at(1.0, lambda: sim.pause("b", 1.9))
    if gives_up:
        sim.at(2.4, sleeper.cancel)
    else:
        sim.start("n", look, 2.4)
    sim.run(until=30.0)
    mutual_exclusion(sim.history)
    told = sim.history.of("told")[0].at_us
    served = next(event for event in sim.history.of("acquired") if event.process == "c")
    if served.at_us - told > 100_000:
        raise sim.history.fail(f"a free lock waited {(served.at_us - told) / 1e6:.3f} s for the head of its queue")
    nothing_left(sim)
    return sim


def fallen_queue(seed: int, scripts: Scripts = None) -> Simulation:
    """The holder and two of its queue vanish at once: when its lease has ended, whoever looks wakes the living one."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("a", work, SHORT)
    for place, name in enumerate("bcd"):
        sim.start(name, _late_work, 0.2 + 0.1 * place)
    for name in "abc":
        sim.at(0.6, lambda name=name: sim.kill(name))  # type: ignore[misc] # bound now
    for place in range(20):
        sim.start(f"n{place}", _late_work, 2.0 + 0.5 * place)
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = next(event for event in sim.history.of("acquired") if event.process == "d")
    if served.at_us > 3_000_000:
        raise sim.history.fail(f"two dead waiters cost {served.at_us / 1e6:.1f} s")
    nothing_left(sim)
    return sim


def clock_set_forward(seed: int, scripts: Scripts = None) -> Simulation:
    """The server's clock leaps over a lease: its holder learns it with the next renewal and stops."""
    sim = Simulation(seed, scripts=scripts)

    async def hold_long(io: SimIO) -> None:
        try:
            await work(io, SHORT, steps=40, step_s=0.1)
        except LeaseLost:
            io.note("stopped", why="LeaseLost")

    leap = sim.random.uniform(0.3, 3.0)
    sim.start("a", _late_start, 0.0, hold_long)
    sim.start("b", _late_start, leap + 0.01, hold_long)
    sim.at(leap, lambda: sim.jump_server_clock(2.5))
    sim.run(until=30.0)
    rising_fences(sim.history)
    first, second = sim.history.of("acquired")[:2]
    last = [event for event in sim.history.of("working") if event.process == first.process][-1]
    if last.at_us - second.at_us > SHORT.ttl_ms * 1000 / RENEWALS + 100_000:
        raise sim.history.fail("a holder went on after its renewal had told it of the loss")
    return sim


async def _late_start(io: SimIO, delay: float, work: Callable[[SimIO], Coroutine[Any, Any, None]]) -> None:
    await io.sleep(delay)
    await work(io)


def nothing_left(sim: Simulation) -> None:
    """Check that no key stays for ever, and none but the fence for long."""
    data = sim.server.engine.data
    for key in data.live_keys():
        end = data.expiry(key)
        if end is None:
            raise sim.history.fail(f"{key!r} stays for ever")
        most_ms = _spec.GONE_MS if key.endswith(b":gone") else LONG.ttl_ms
        if not key.endswith(b":fence") and end - sim.server.now_us() // 1000 > most_ms:
            raise sim.history.fail(f"{key!r} stays for {end - sim.server.now_us() // 1000} ms")


def killed_queue(seed: int, scripts: Scripts = None) -> Simulation:
    """Everybody who waited vanishes: nothing of them stays."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abc"):
        sim.start(name, _late_work, 0.02 * place)
    for name in "abc":
        sim.at(0.5, lambda name=name: sim.kill(name))  # type: ignore[misc] # bound now
    sim.run(until=5.0)
    nothing_left(sim)
    return sim


def queue_set_back(seed: int, scripts: Scripts = None) -> Simulation:
    """The server's clock goes back while a queue stands: who came first is still served first."""
    sim = Simulation(seed, scripts=scripts)
    names = "abcd"
    for place, name in enumerate(names):
        sim.start(name, _late_work, 0.1 * place)
    sim.at(0.15, lambda: sim.jump_server_clock(-sim.random.uniform(1, 5)))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = [event.process for event in sim.history.of("acquired")]
    if served != list(names):
        raise sim.history.fail(f"arrived {list(names)}, served {served}")
    return sim


def mass_death(seed: int, scripts: Scripts = None) -> Simulation:
    """A process with forty waiters vanishes: the one behind them has the lock as soon as it is given back."""
    sim = Simulation(seed, scripts=scripts)
    sim.start("a", work, LONG)
    for place in range(40):
        sim.start("p", _wait_long, 0.1 + 0.005 * place)
    sim.start("q", _wait_long, 0.5)
    sim.at(sim.random.uniform(0.7, 1.1), lambda: sim.kill("p"))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    released, acquired = sim.history.of("released")[0], sim.history.of("acquired")[1]
    if acquired.at_us - released.at_us > 100_000:
        raise sim.history.fail(f"the dead cost {(acquired.at_us - released.at_us) / 1e6:.3f} s")
    nothing_left(sim)
    return sim


async def _wait_long(io: SimIO, delay: float) -> None:
    await io.sleep(delay)
    await work(io, LONG)


def long_queue(seed: int, scripts: Scripts = None) -> Simulation:
    """Sixty wait for a holder that takes its time: those far behind ask seldom, and all stay in line."""
    sim = Simulation(seed, scripts=scripts)
    waiters, asked = 60, 0

    async def hold(io: SimIO) -> None:
        hold = await _core.acquire(io, LONG, 0)
        assert hold is not None
        await io.sleep(40.0)
        await _core.release(io, hold)

    async def wait(io: SimIO, place: int) -> None:
        await io.sleep(0.1 + 0.02 * place)
        hold = await _core.acquire(io, LONG, 100.0)
        assert hold is not None
        io.note("served", place=place)
        await _core.release(io, hold)

    def count(call: Call) -> None:
        nonlocal asked
        asked += call.process == "w" and 20 < sim.now < 40

    sim.watch(count)
    sim.start("h", hold)
    for place in range(waiters):
        sim.start("w", wait, place)
    sim.run(until=60.0)
    served = [event.facts["place"] for event in sim.history.of("served")]
    if served != list(range(waiters)):
        raise sim.history.fail(f"served {served}")
    # The first one asks every second, the last one every seventh: 19.5 times a second in all.
    if asked > 20 * 23:
        raise sim.history.fail(f"{waiters} waiters asked {asked} times in 20 s")
    nothing_left(sim)
    return sim


def stopped_waiters(seed: int, scripts: Scripts = None) -> Simulation:
    """Two waiters stand still with their connections open: each costs a claim, and what is left until one looks."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcd"):
        sim.start(name, _wait_long, 0.1 * place)
    for name in "bc":
        sim.at(1.0, lambda name=name: sim.pause(name, 10.0))  # type: ignore[misc] # bound now
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    released, acquired = sim.history.of("released")[0], sim.history.of("acquired")[1]
    if acquired.process != "d" or acquired.at_us - released.at_us > 3_500_000:
        raise sim.history.fail("two who stand still held up the living for longer than their claims")
    return sim


def deaf_waiter(seed: int, scripts: Scripts = None) -> Simulation:
    """A waiter's connections break while its turn comes: it is passed over, and is next as soon as it is back."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcd"):
        sim.start(name, _wait_long, 0.1 * place)
    # a releases at about 1.2 s.
    sim.at(1.0, lambda: fall_out(sim, "b"))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = [event.process for event in sim.history.of("acquired")]
    if served != list("acbd"):
        raise sim.history.fail(f"b could not hear when its turn came, served {served}")
    nothing_left(sim)
    return sim


def fall_out(sim: Simulation, name: str) -> None:
    """Let a process's connections break, and let it stand still for half a second."""
    for connection in list(sim.process(name).connections):
        connection.break_both()
    sim.pause(name, 0.5)


def deaf_head(seed: int, scripts: Scripts = None) -> Simulation:
    """As `deaf_waiter`, where the holder has vanished: the one behind takes the lock, and no place is lost."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcd"):
        sim.start(name, _late_work, 0.1 * place)
    sim.at(0.5, lambda: sim.kill("a"))
    # The lease ends at about 2 s.
    sim.at(1.9, lambda: fall_out(sim, "b"))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = [event.process for event in sim.history.of("acquired")]
    if served != list("acbd"):
        raise sim.history.fail(f"b could not hear when its turn came, served {served}")
    return sim


def deaf_alone(seed: int, scripts: Scripts = None) -> Simulation:
    """The only waiter cannot hear when its turn comes: the lock is kept for it, and no newcomer overtakes."""
    sim = Simulation(seed, scripts=scripts)

    async def look(io: SimIO) -> None:
        io.note("refused" if await _core.acquire(io, LONG, 0) is None else "overtook")

    for place, name in enumerate("ab"):
        sim.start(name, _wait_long, 0.1 * place)
    sim.at(1.0, lambda: fall_out(sim, "b"))
    sim.at(1.4, lambda: sim.start("n", look))
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    if sim.history.of("overtook"):
        raise sim.history.fail("a newcomer overtook one who could not hear")
    nothing_left(sim)
    return sim


def silent_queue(seed: int, scripts: Scripts = None) -> Simulation:
    """The holder vanishes, and of its queue all but the last: at the lease's end that one has it, and not the dead."""
    sim = Simulation(seed, scripts=scripts)
    # Longer than the dead count as alive.
    spec = _spec.lock("sim", "job", 15_000, wake=wake_prefix)

    async def work_late(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await work(io, spec)

    for place, name in enumerate("abcde"):
        sim.start(name, work_late, 0.1 * place)
    for name in "abcd":
        # With their connections open: nobody can tell but by their silence.
        sim.at(0.7, lambda name=name: sim.pause(name, 100.0))  # type: ignore[misc] # bound now
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    served = next(event for event in sim.history.of("acquired") if event.process == "e")
    if served.at_us > (spec.ttl_ms + 1_000) * 1000:
        raise sim.history.fail(f"the dead were served before the living: {served.at_us / 1e6:.3f} s")
    return sim


def silent_waiters(seed: int, scripts: Scripts = None) -> Simulation:
    """Waiters die long before the lock is given back: it is handed straight to the living one behind them."""
    sim = Simulation(seed, scripts=scripts)

    async def hold_long(io: SimIO) -> None:
        # The dead count as alive for ten seconds, and the living one looks again after eleven.
        await work(io, SHORT, steps=sim.random.randrange(104, 112), step_s=0.1)

    sim.start("a", hold_long)
    for name, delay in (("b", 0.1), ("c", 0.2), ("d", 0.3), ("e", 1.3)):
        sim.start(name, _late_work, delay)
    for name in "bcd":
        sim.at(1.0, lambda name=name: sim.pause(name, 100.0))  # type: ignore[misc] # bound now
    sim.run(until=60.0)
    mutual_exclusion(sim.history)
    acquired = [event for event in sim.history.of("acquired") if event.process == "e"]
    released = [event for event in sim.history.of("released") if event.process == "a"]
    if not acquired or acquired[0].at_us - released[0].at_us > 100_000:
        raise sim.history.fail("the lock was handed to the dead first")
    return sim
