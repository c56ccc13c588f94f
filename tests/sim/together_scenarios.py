"""Latches and barriers among several processes; for the shipped scripts and for mutants."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from typing import TYPE_CHECKING

from gridsync.errors import BarrierBroken, OutcomeUnknown, Unavailable, WaitTimeout
from gridsync.locks._countdown import Countdown
from gridsync.locks._rendezvous import Rendezvous
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

WET = Faults(request_lost=0.05, reply_lost=0.1, late=0.05, message_lost=0.1, message_doubled=0.1, cut_every_s=3.0)
PARTIES = 4


def opening_in_calm(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing is lost: who waits is woken, and does not find out by itself."""
    return opening(seed, scripts, Faults(), late_us=100_000)


def opening(seed: int, scripts: Scripts = None, faults: Faults = WET, late_us: int = 8_000_000) -> Simulation:
    """Workers count down though replies are lost; everybody who waits passes when the last one is done, not before."""
    sim = Simulation(seed, faults=faults, scripts=scripts)

    async def worker(io: SimIO, name: str) -> None:
        latch = Countdown(io, "sim", "ready", 6, 600)
        for step in range(2):
            await io.sleep(sim.random.uniform(0.1, 2.0))
            io.note("done")
            while True:
                try:
                    await latch.down(1, f"{name}-{step}")
                    break
                except (OutcomeUnknown, Unavailable):
                    await io.sleep(0.1)

    async def waiter(io: SimIO) -> None:
        while True:
            try:
                await Countdown(io, "sim", "ready", 6, 600).wait(60.0)
                break
            except (OutcomeUnknown, Unavailable):
                await io.sleep(0.1)
        io.note("passed")

    for name in "abc":
        sim.start(name, worker, name)
    for name in "xyz":
        sim.start(name, waiter)
    sim.run(until=40.0)
    last = max(event.at_us for event in sim.history.of("done"))
    passed = sim.history.of("passed")
    if len(passed) != len("xyz"):
        raise sim.history.fail(f"{len(passed)} waiters passed")
    for event in passed:
        if event.at_us < last:
            raise sim.history.fail(f"{event.process} passed before the last one was done")
        if event.at_us > last + late_us:
            raise sim.history.fail(f"{event.process} passed {(event.at_us - last) / 1e6:.1f} s late")
    expires(sim)
    return sim


async def rounds(io: SimIO, seconds: float) -> None:
    """Meet the others again and again; whoever finds the barrier broken mends it a little later."""
    barrier = Rendezvous(io, "sim", "round", PARTIES, 60)
    end = io.monotonic() + seconds
    while io.monotonic() < end:
        try:
            io.note("comes")
            generation, place = await barrier.wait(30.0)
            io.note("passed", generation=generation, place=place)
        except (OutcomeUnknown, Unavailable, WaitTimeout, asyncio.CancelledError) as error:
            io.note("gave up", why=type(error).__name__)
        except BarrierBroken as error:
            io.note("broken", why=error.why)
            try:
                await io.sleep(0.5)
                if await barrier.broken():
                    await barrier.order("")
            except (OutcomeUnknown, Unavailable, asyncio.CancelledError):
                io.note("gave up", why="while mending")
        try:
            await io.sleep(0.2)
        except asyncio.CancelledError:
            io.note("gave up", why="asleep")


def meetings(seed: int, scripts: Scripts = None) -> Simulation:
    """Replies are lost and nobody stops: each generation is passed by all parties, each at a place of its own."""
    sim = Simulation(seed, faults=WET, scripts=scripts)
    for name in "abcd":
        sim.start(name, rounds, 20.0)
    sim.run(until=60.0)
    check_generations(sim, whole=True)
    expires(sim)
    return sim


def deaths(seed: int, scripts: Scripts = None) -> Simulation:
    """A party dies while it waits, another is cancelled: the living learn it, mend the barrier and meet again."""
    sim = Simulation(seed, scripts=scripts)
    for name in "abcde":
        sim.start(name, rounds, 60.0)
    sim.at(sim.random.uniform(1.0, 3.0), lambda: sim.kill("e"))
    sim.run(until=120.0)
    check_generations(sim, whole=False)
    return sim


def giving_up(seed: int, scripts: Scripts = None) -> Simulation:
    """A party gives up, by its timeout or cancelled: the barrier is whole, and opens for as many as it has."""
    sim = Simulation(seed, scripts=scripts)

    async def hasty(io: SimIO) -> None:
        try:
            await Rendezvous(io, "sim", "round", 2, 60).wait(sim.random.uniform(0.1, 1.0) if seed % 2 else 30.0)
        except (WaitTimeout, asyncio.CancelledError) as error:
            io.note("gave up", why=type(error).__name__)

    async def patient(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await Rendezvous(io, "sim", "round", 2, 60).wait(5.0)
        io.note("passed")

    process = sim.start("a", hasty)
    if seed % 2 == 0:
        sim.at(sim.random.uniform(0.1, 1.0), process.cancel)
    for place, name in enumerate("bc"):
        sim.start(name, patient, 2.0 + place)
    sim.run(until=30.0)
    if not sim.history.of("gave up"):
        raise sim.history.fail("nobody gave up")
    if [event.at_us // 1_000_000 for event in sim.history.of("passed")] != [3, 3]:
        raise sim.history.fail("the other two did not meet")
    return sim


def ghost(seed: int, scripts: Scripts = None) -> Simulation:
    """A party dies while it waits, and the last one comes later: nobody passes, and those who wait learn why."""
    sim = Simulation(seed, scripts=scripts)

    async def come(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        try:
            await Rendezvous(io, "sim", "round", 3, 60).wait(60.0)
            io.note("passed")
        except BarrierBroken:
            io.note("broken")

    for name, delay in {"a": 0.1, "b": 0.2, "c": sim.random.uniform(11.0, 20.0)}.items():
        sim.start(name, come, delay)
    sim.at(1.0, lambda: sim.kill("a"))
    sim.run(until=60.0)
    if sim.history.of("passed"):
        raise sim.history.fail("somebody passed with the dead")
    told = {event.process: event.at_us for event in sim.history.of("broken")}
    if told.keys() != {"b", "c"} or told["b"] > 14_000_000:
        raise sim.history.fail(f"the living were told at {told}")
    return sim


def resets(seed: int, scripts: Scripts = None) -> Simulation:
    """Whoever waits while the barrier is reset learns it at once."""
    sim = Simulation(seed, scripts=scripts)

    async def wait(io: SimIO) -> None:
        try:
            await Rendezvous(io, "sim", "round", 3, 60).wait(20.0)
        except BarrierBroken:
            io.note("broken")

    async def reset(io: SimIO) -> None:
        await io.sleep(1.0)
        await Rendezvous(io, "sim", "round", 3, 60).order("")

    for name in "ab":
        sim.start(name, wait)
    sim.start("c", reset)
    sim.run(until=30.0)
    if [event.at_us // 100_000 for event in sim.history.of("broken")] != [10, 10]:
        raise sim.history.fail("the reset was not heard")
    return sim


def check_generations(sim: Simulation, *, whole: bool) -> None:
    """No generation has more passages than parties, no place is taken twice; and somebody passed late, too."""
    passed = sim.history.of("passed")
    places = Counter((event.generation, event.place) for event in passed)
    if twice := [where for where, times in places.items() if times > 1]:
        raise sim.history.fail(f"passed twice: {twice}")
    if wrong := [place for _, place in places if not 0 <= place < PARTIES]:
        raise sim.history.fail(f"places {wrong}")
    sizes = Counter(event.generation for event in passed)
    if len(sizes) < 5:
        raise sim.history.fail(f"only {len(sizes)} generations")
    if whole:
        gave_up = {event.why for event in sim.history.of("gave up")} - {"WaitTimeout"}
        short = [generation for generation, size in sizes.items() if size < PARTIES]
        if short and not gave_up:
            raise sim.history.fail(f"generations {short} were not passed by all")
        if broken := {event.why for event in sim.history.of("broken")}:
            raise sim.history.fail(f"it broke: {broken}")


def expires(sim: Simulation) -> None:
    """No key stays for ever."""
    data = sim.server.engine.data
    for key in data.live_keys():
        if data.expiry(key) is None:
            raise sim.history.fail(f"{key!r} stays for ever")


def late_arrivals(seed: int, scripts: Scripts = None) -> Simulation:
    """One process comes and gives up, again and again, and its requests arrive seconds later: it never meets itself."""
    sim = Simulation(seed, faults=Faults(late=0.2, late_s=8.0), scripts=scripts)

    async def hasty(io: SimIO) -> None:
        for _ in range(20):
            with contextlib.suppress(WaitTimeout, OutcomeUnknown, Unavailable):
                generation, _ = await Rendezvous(io, "sim", "pair", 2, 60).wait(0.5)
                raise sim.history.fail(f"generation {generation} was passed by one party and a ghost")

    sim.start("a", hasty)
    sim.run(until=120.0)
    expires(sim)
    return sim
