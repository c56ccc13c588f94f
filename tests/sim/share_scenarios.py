"""Semaphores and reader-writer locks among several processes; for the shipped scripts and for mutants."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

from gridsync._io.keys import wake_prefix
from gridsync.errors import GridsyncError, LeaseLost, LockTimeout, OutcomeUnknown, Unavailable
from gridsync.locks import _core, _look, _share
from gridsync.testing.checkers import permits_held
from gridsync.testing.faults import Faults
from gridsync.testing.sim import Simulation
from tests.sim.lock_scenarios import fall_out

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gridsync.locks._hold import Hold
    from gridsync.locks._spec import Spec
    from gridsync.testing.sim import SimIO

    Scripts = Mapping[str, str] | None

LIMIT = 5
TTL_MS = 2_000
READ = _share.reader("sim", "book", TTL_MS, wake=wake_prefix)
WRITE = _share.writer("sim", "book", TTL_MS, wake=wake_prefix)
ROUGH = Faults(
    request_lost=0.03,
    reply_lost=0.05,
    late=0.05,
    slow=0.05,
    message_lost=0.2,
    message_doubled=0.1,
    message_late=0.1,
    cut_every_s=5.0,
    pause_every_s=4.0,
    pause_s=5.0,
    cancel_every_s=5.0,
    calm_after_s=50.0,
)


def permits(number: int) -> Spec:
    """Return what *number* permits of the semaphore are."""
    return _share.semaphore("sim", "slots", TTL_MS, limit=LIMIT, permits=number, wake=wake_prefix)


async def work(io: SimIO, spec: Spec, *, steps: int = 3, step_s: float = 0.3) -> None:
    """Take what it says, act while the lease is surely ours, give it back."""
    io.note("asks", name=spec.name)
    hold = await _core.acquire(io, spec, 20.0)
    if hold is None:
        return
    try:
        for step in range(steps):
            hold.check()
            _note(io, "working" if step else "acquired", hold)
            await io.sleep(step_s)
        hold.check()
        _note(io, "released", hold)
        await _core.release(io, hold)
    except BaseException:
        io.spawn(_give_back(io, hold))
        raise


def _note(io: SimIO, kind: str, hold: Hold) -> None:
    number = int(hold.spec.acquire_args[0])
    io.note(kind, name=hold.spec.name, owner=hold.owner, fence=hold.fence, permits=number)


async def _give_back(io: SimIO, hold: Hold) -> None:
    try:
        await _core.release(io, hold)
    except GridsyncError as error:
        io.note("release failed", why=type(error).__name__)


async def keep_working(io: SimIO, specs: list[Spec], until: float) -> None:
    """Work again and again with one after the other, whatever happens."""
    end, turn = io.monotonic() + until, 0
    while io.monotonic() < end:
        try:
            await io.sleep(0.1)
            await work(io, specs[turn % len(specs)])
            turn += 1
        except (LockTimeout, LeaseLost, Unavailable, OutcomeUnknown, asyncio.CancelledError) as error:
            io.note("stopped", why=type(error).__name__)


def rough_permits(seed: int, scripts: Scripts = None) -> Simulation:
    """Workers take one, two or four permits in bad weather; in the calm after it somebody takes all of them."""
    sim = Simulation(seed, faults=ROUGH, scripts=scripts)
    for place, name in enumerate("abcdef"):
        sim.start(name, keep_working, [permits(n) for n in ((1, 2), (4, 1), (2, 2))[place % 3]], 50.0)
    sim.at(25.0, lambda: sim.kill("f"))
    sim.at(80.0, lambda: sim.start("z", work, permits(LIMIT)))
    sim.run(until=95.0)
    if permits_held(sim.history, LIMIT) < 20:
        raise sim.history.fail("hardly anybody was served")
    check_end(sim)
    return sim


def crowded(seed: int, scripts: Scripts = None) -> Simulation:
    """Somebody holds a permit all the time, replies are lost and a holder dies: the other four are free in the end."""
    weather = Faults(reply_lost=0.15, late=0.05, cut_every_s=5.0, calm_after_s=20.0)
    sim = Simulation(seed, faults=weather, scripts=scripts)

    async def hold_on(io: SimIO) -> None:
        hold = await _core.acquire(io, permits(1), None)
        assert hold is not None
        await io.sleep(60.0)
        hold.check()
        io.note("held on")

    sim.start("k", hold_on)
    for name in "abc":
        sim.start(name, keep_working, [permits(2)], 20.0)
    sim.at(sim.random.uniform(3.0, 15.0), lambda: sim.kill("c"))
    sim.at(50.0, lambda: sim.start("z", work, permits(LIMIT - 1)))
    sim.run(until=70.0)
    permits_held(sim.history, LIMIT)
    if not sim.history.of("held on"):
        raise sim.history.fail("a permit that was renewed was lost")
    check_end(sim)
    return sim


def rough_book(seed: int, scripts: Scripts = None) -> Simulation:
    """Readers and writers in bad weather: a writer is alone, and in the calm after it one more writer gets in."""
    sim = Simulation(seed, faults=ROUGH, scripts=scripts)
    for place, name in enumerate("abcdef"):
        sim.start(name, keep_working, [WRITE, READ] if place % 3 == 0 else [READ], 50.0)
    sim.at(25.0, lambda: sim.kill("f"))
    sim.at(80.0, lambda: sim.start("z", work, WRITE))
    sim.run(until=95.0)
    if permits_held(sim.history, _share.WHOLE) < 20:
        raise sim.history.fail("hardly anybody was served")
    check_end(sim)
    return sim


def check_end(sim: Simulation) -> None:
    """Fences are each drawn once and rise with the order of service; the last one came through; every key expires."""
    fences = [event.fence for event in sim.history.of("acquired")]
    if len(set(fences)) < len(fences):
        raise sim.history.fail("a fence was given out twice")
    if "z" not in {event.process for event in sim.history.of("acquired")}:
        raise sim.history.fail("after the bad weather somebody was not served")
    data = sim.server.engine.data
    for key in data.live_keys():
        if data.expiry(key) is None:
            raise sim.history.fail(f"{key!r} stays for ever")


def in_order(seed: int, scripts: Scripts = None) -> Simulation:
    """Nothing fails: readers come in together, a writer waits for them, and whoever comes after it waits behind it."""
    sim = Simulation(seed, scripts=scripts)

    async def come(io: SimIO, delay: float, spec: Spec) -> None:
        await io.sleep(delay)
        await work(io, spec, steps=2, step_s=0.5)

    for place, (name, spec) in enumerate(
        {"r1": READ, "r2": READ, "w1": WRITE, "r3": READ, "r4": READ, "w2": WRITE, "r5": READ}.items()
    ):
        sim.start(name, come, 0.02 * place, spec)
    sim.run(until=20.0)
    when = {event.process: event.at_us for event in sim.history.of("acquired")}
    rounds = [["r1", "r2"], ["w1"], ["r3", "r4"], ["w2"], ["r5"]]
    if len(when) != sum(map(len, rounds)):
        raise sim.history.fail(f"only {list(when)} were served")
    for group, after in pairwise(rounds):
        start = max(when[name] for name in group)
        for name in after:
            if not 900_000 < when[name] - start < 1_200_000:
                raise sim.history.fail(f"{name} came {(when[name] - start) / 1e6:.3f} s after {group}")
    permits_held(sim.history, _share.WHOLE)
    return sim


def dead_reader(seed: int, scripts: Scripts = None) -> Simulation:
    """One reader dies and another goes on renewing: the writer gets in when both are gone, and not before."""
    sim = Simulation(seed, scripts=scripts)

    async def read_long(io: SimIO) -> None:
        await work(io, READ, steps=16, step_s=0.5)

    async def write_late(io: SimIO) -> None:
        await io.sleep(0.5)
        await work(io, WRITE)

    sim.start("a", read_long)
    sim.start("b", read_long)
    sim.start("w", write_late)
    sim.at(sim.random.uniform(0.6, 3.0), lambda: sim.kill("a"))
    sim.run(until=30.0)
    permits_held(sim.history, _share.WHOLE)
    (written,) = (event.at_us for event in sim.history.of("acquired") if event.process == "w")
    ended = max(event.at_us for event in sim.history.of("released") if event.process == "b")
    if not ended <= written < ended + 1_500_000:
        raise sim.history.fail(f"the writer came {(written - ended) / 1e6:.1f} s after the last reader")
    return sim


def resized(seed: int, scripts: Scripts = None) -> Simulation:
    """More permits are handed on at once; fewer take nothing away and hold others up until enough came back."""
    sim = Simulation(seed, scripts=scripts)
    more = seed % 2 == 0

    async def come(io: SimIO, delay: float) -> None:
        await io.sleep(delay)
        await work(io, permits(2), steps=2, step_s=2.0)

    async def resize(io: SimIO) -> None:
        await io.sleep(1.0)
        await _share.change(io, permits(1), limit=6 if more else 2)
        io.note("resized")

    for place, name in enumerate("abc"):
        sim.start(name, come, 0.1 * place)
    sim.start("r", resize)
    sim.run(until=30.0)
    when = {event.process: event.at_us for event in sim.history.of("acquired")}
    at = sim.history.of("resized")[0].at_us
    given_back = [event.at_us for event in sim.history.of("released") if event.process in {"a", "b"}]
    late = when["c"] - (at if more else max(given_back))
    if not -100_000 < late < 100_000:
        raise sim.history.fail(f"c came {late / 1e6:.3f} s late")
    return sim


def downgraded(seed: int, scripts: Scripts = None) -> Simulation:
    """A writer becomes a reader: those who wait to read come in at once, and no writer between."""
    sim = Simulation(seed, faults=Faults(reply_lost=0.1, request_lost=0.05), scripts=scripts)

    async def write_then_read(io: SimIO) -> None:
        hold = await _core.acquire(io, WRITE, None)
        assert hold is not None
        await io.sleep(1.0)
        while True:
            try:
                await _share.change(io, WRITE, owner=hold.owner, keep=1)
                break
            except (OutcomeUnknown, Unavailable):
                await io.sleep(0.05)
        io.note("downgraded")
        for _ in range(6):
            hold.check()
            io.note(
                "acquired" if not _ else "working", name=hold.spec.name, owner=hold.owner, fence=hold.fence, permits=1
            )
            await io.sleep(0.5)
        await _give_back(io, hold)

    async def come(io: SimIO, delay: float, spec: Spec) -> None:
        await io.sleep(delay)
        try:
            await work(io, spec)
        except (OutcomeUnknown, Unavailable) as error:
            io.note("stopped", why=type(error).__name__)

    sim.start("a", write_then_read)
    for name in ("r1", "r2"):
        sim.start(name, come, 0.5, READ)
    sim.start("w", come, 0.7, WRITE)
    sim.run(until=40.0)
    permits_held(sim.history, _share.WHOLE)
    at = sim.history.of("downgraded")[0].at_us
    when = {event.process: event.at_us for event in sim.history.of("acquired")}
    if not sim.history.of("stopped"):
        for name in ("r1", "r2"):
            if when[name] > at + 3_500_000:
                raise sim.history.fail(f"{name} did not come in after the downgrade")
        if when["w"] < at + 2_500_000:
            raise sim.history.fail("the writer did not wait for the one who reads on")
    return sim


def revoked(seed: int, scripts: Scripts = None) -> Simulation:
    """An operator takes permits from one of two holders, over connections that break: the other one goes on.

    What the operator sees before and after is what there is.
    """
    sim = Simulation(seed, scripts=scripts, faults=Faults(reply_lost=0.1 * (seed % 3)))
    raised: list[int] = []

    async def hold_on(io: SimIO, number: int) -> None:
        try:
            await work(io, replace(permits(number), ttl_ms=20_000, ttl_text="20000"), steps=20, step_s=0.5)
        except LeaseLost as error:
            io.note("stopped", why=error.reason)

    async def come(io: SimIO, delay: float, number: int) -> None:
        await io.sleep(delay)
        await work(io, permits(number))

    async def operate(io: SimIO) -> None:
        await io.sleep(2.0)
        spec = permits(1)
        assert await _look.force_release(io, spec, "somebody else", "by mistake") is None
        found = await _look.look_at_semaphore(io, spec, 10, 10)
        assert (found.limit, found.taken, found.holding, found.waiting) == (LIMIT, 4, 2, 2)
        assert {holder.host: holder.permits for holder in found.holders} == {"a": 1, "b": 3}
        assert [(waiter.host, waiter.permits) for waiter in found.waiters] == [("c", 2), ("d", 3)]
        few = await _look.look_at_semaphore(io, spec, 1, 1)
        assert (len(few.holders), len(few.waiters), few.holding, few.waiting) == (1, 1, 2, 2)
        (theirs,) = (holder for holder in found.holders if holder.host == "b")
        io.note("revoked")
        fence = await _look.force_release(io, spec, theirs.owner, "it hangs")
        if fence is not None:  # else an earlier attempt had done it, and its reply was lost
            assert theirs.fence < fence
            raised.append(fence)

    sim.start("a", hold_on, 1)
    sim.start("b", hold_on, 3)
    sim.start("c", come, 0.5, 2)
    sim.start("d", come, 1.0, 3)
    sim.start("op", operate)
    sim.run(until=60.0)
    permits_held(sim.history, LIMIT)
    (revocation,), stopped = sim.history.of("revoked"), sim.history.of("stopped")
    if [(event.process, event.facts["why"]) for event in stopped] != [("b", "it was revoked: it hangs")]:
        raise sim.history.fail("not the right holder was told why, or another was disturbed")
    got = {event.process: event for event in sim.history.of("acquired")}
    for what, event in (("told", stopped[0]), ("served", got["c"])):
        if not 0 < event.at_us - revocation.at_us < 1_200_000:
            raise sim.history.fail(f"{what} after {(event.at_us - revocation.at_us) / 1e6:.3f} s")
    for fence in raised:
        if not got["b"].fence < fence < got["c"].fence:
            raise sim.history.fail(f"the raised fence {fence} does not lie between {got['b'].fence} and the next")
    return sim


async def _come_for_all(io: SimIO, delay: float, spec: Spec) -> None:
    await io.sleep(delay)
    await work(io, spec, steps=2, step_s=0.6)


def _served(sim: Simulation, order: str) -> None:
    permits_held(sim.history, LIMIT)
    served = [event.process for event in sim.history.of("acquired")]
    if served != list(order):
        raise sim.history.fail(f"served {served}, not {list(order)}")


def deaf_waiter(seed: int, scripts: Scripts = None) -> Simulation:
    """A waiter's connections break while its turn comes: it is passed over, and is next as soon as it is back."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcd"):
        sim.start(name, _come_for_all, 0.1 * place, permits(LIMIT))
    # a gives back at about 1.2 s.
    sim.at(1.0, lambda: fall_out(sim, "b"))
    sim.run(until=60.0)
    _served(sim, "acbd")
    return sim


def deaf_head(seed: int, scripts: Scripts = None) -> Simulation:
    """As `deaf_waiter`, where the holder has vanished: the one behind is served, and no place is lost."""
    sim = Simulation(seed, scripts=scripts)
    for place, name in enumerate("abcd"):
        sim.start(name, _come_for_all, 0.1 * place, permits(LIMIT))
    sim.at(0.5, lambda: sim.kill("a"))
    # Its lease ends at about 2 s.
    sim.at(1.9, lambda: fall_out(sim, "b"))
    sim.run(until=60.0)
    _served(sim, "acbd")
    return sim


def deaf_alone(seed: int, scripts: Scripts = None) -> Simulation:
    """The only waiter cannot hear when its turn comes: the permits are kept for it, and no newcomer overtakes."""
    sim = Simulation(seed, scripts=scripts)

    async def look(io: SimIO) -> None:
        io.note("refused" if await _core.acquire(io, permits(1), 0) is None else "overtook")

    for place, name in enumerate("ab"):
        sim.start(name, _come_for_all, 0.1 * place, permits(LIMIT))
    sim.at(1.0, lambda: fall_out(sim, "b"))
    sim.at(1.4, lambda: sim.start("n", look))
    sim.run(until=60.0)
    if sim.history.of("overtook"):
        raise sim.history.fail("a newcomer overtook one who could not hear")
    _served(sim, "ab")
    return sim


def dead_wish(seed: int, scripts: Scripts = None) -> Simulation:
    """One who waited for more than is free has vanished: whoever comes for less is served at once.

    So it is if the vanished one's wish could be granted; it delays nobody either way.
    """
    sim = Simulation(seed, scripts=scripts)
    wish = 4 if seed % 2 else 5

    async def hold(io: SimIO) -> None:
        await work(io, permits(3), steps=2, step_s=1.5)

    async def come(io: SimIO, delay: float, number: int) -> None:
        await io.sleep(delay)
        io.note("came")
        await work(io, permits(number), steps=1, step_s=0.1)

    sim.start("a", hold)
    sim.start("b", come, 0.2, wish)
    sim.at(0.6, lambda: sim.kill("b"))
    sim.start("c", come, 1.0, 2)
    sim.start("d", come, 2.0, 5)
    sim.run(until=30.0)
    _served(sim, "acd")
    when = {event.process: event.at_us for event in sim.history.of("acquired")}
    came = {event.process: event.at_us for event in sim.history.of("came")}
    (freed,) = (event.at_us for event in sim.history.of("released") if event.process == "a")
    for name, turn in (("c", came["c"]), ("d", freed)):
        if when[name] - turn > 300_000:
            raise sim.history.fail(f"{name} waited {(when[name] - turn) / 1e6:.3f} s for the dead")
    return sim


def dead_alone(seed: int, scripts: Scripts = None) -> Simulation:
    """The only waiter vanished: what is given back is free for a newcomer once a claim's time is over."""
    sim = Simulation(seed, scripts=scripts)

    async def look(io: SimIO) -> None:
        hold = await _core.acquire(io, permits(LIMIT), 0)
        if hold is not None:
            _note(io, "acquired", hold)
            await _give_back(io, hold)

    for place, name in enumerate("ab"):
        sim.start(name, _come_for_all, 0.1 * place, permits(LIMIT))
    sim.at(0.5, lambda: sim.kill("b"))
    # a gives back at about 1.2 s.
    sim.at(2.5, lambda: sim.start("n", look))
    sim.run(until=30.0)
    _served(sim, "an")
    return sim


def evicted(seed: int, scripts: Scripts = None) -> Simulation:
    """What two hold is forgotten, not that they hold: they go on, and when they have gone all of it is free again."""
    sim = Simulation(seed, scripts=scripts)

    async def hold_for(io: SimIO, number: int, seconds: float) -> None:
        hold = await _core.acquire(io, permits(number), None)
        assert hold is not None
        _note(io, "acquired", hold)
        await io.sleep(seconds)
        hold.check()
        _note(io, "released", hold)
        if not await _core.release(io, hold):
            raise sim.history.fail("who held was told that it did not")

    async def act_on(io: SimIO, number: int) -> None:
        await work(io, permits(number), steps=200)

    sim.start("a", hold_for, 2, sim.random.uniform(10.0, 15.0))
    sim.start("k", act_on, 2)
    what = permits(1).keys[2].encode()
    sim.at(sim.random.uniform(1.0, 5.0), lambda: sim.server.engine.data.delete(what))
    sim.at(6.0, lambda: sim.start("b", act_on, 1))
    sim.at(7.0, lambda: sim.start("c", hold_for, 3, 5.0))
    sim.at(20.0, lambda: sim.kill("k"))
    sim.at(30.0, lambda: sim.start("z", work, permits(4)))
    sim.run(until=50.0)
    permits_held(sim.history, LIMIT)
    check_end(sim)
    return sim
