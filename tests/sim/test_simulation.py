"""The simulation itself: it repeats itself, its faults are what they say, and SimIO keeps the IO contract."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.scripts import Category, Command, Script, parse
from gridsync.errors import OutcomeUnknown, ServerError, Unavailable
from gridsync.testing._scheduler import Stuck
from gridsync.testing.faults import ROUGH, Faults
from gridsync.testing.history import Violation
from gridsync.testing.sim import SimIO, Simulation

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Sequence

GET = Command("GET", Category.READ, ("GET",))
SET = Command("SET", Category.LAST_WINS, ("SET",))
INCR = Command("INCR", Category.ACCUMULATING, ("INCR",))
PUBLISH = Command("PUBLISH", Category.READ, ("PUBLISH",))
XADD = Command("XADD", Category.IDEMPOTENT, ("XADD",))
XREAD = Command("XREAD", Category.NEVER, ("XREAD", "BLOCK", "5000", "STREAMS"))

ADD_ONCE = parse(
    "test.add_once",
    """#!lua
-- KEYS[1] total string
-- ARGV[1] id string
-- ARGV[2] repeat_us integer, us
-- Returns whether it was new
-- Category idempotent
-- Cost O(1)
if redis.call('HSETNX', KEYS[2], ARGV[1], ARGV[2]) == 0 then return 0 end
redis.call('INCR', KEYS[1])
return 1
""",
)


def run(
    seed: int, work: Callable[[SimIO], Coroutine[Any, Any, None]], *, faults: Faults | None = None, until: float = 60.0
) -> Simulation:
    """One process, one task."""
    sim = Simulation(seed, faults=faults)
    sim.start("a", work)
    sim.run(until)
    return sim


async def counter(io: SimIO) -> None:
    """Count up, and note what came of it."""
    for n in range(20):
        try:
            await io.run(ADD_ONCE, ["{t}n", "{t}ids"], [f"{io.process.name}{n}", 0])
            io.note("counted", n=n)
        except (OutcomeUnknown, Unavailable) as error:
            io.note("failed", why=type(error).__name__)
        await io.sleep(0.5)


def rough_run(seed: int) -> Simulation:
    """Three counters in rough weather."""
    sim = Simulation(seed, faults=ROUGH)
    for name in "abc":
        sim.start(name, counter)
    sim.run(until=40)
    return sim


def test_the_same_seed_gives_the_same_run() -> None:
    """A failure that can't be repeated can't be mended."""
    first, second, other = rough_run(1), rough_run(1), rough_run(2)
    assert [str(event) for event in first.history] == [str(event) for event in second.history]
    assert first.history.story() == second.history.story()
    assert [str(event) for event in first.history] != [str(event) for event in other.history]


@pytest.mark.parametrize("seed", range(20))
def test_an_idempotent_script_counts_once_in_any_weather(seed: int) -> None:
    """The retry layer repeats it, and what was counted is counted once."""
    sim = rough_run(seed)
    counted = len(sim.history.of("counted"))
    failed = len(sim.history.of("failed"))
    total = int(sim.server.engine.execute("GET", "{t}n") or 0)
    assert counted <= total <= counted + failed


def test_a_lost_reply_is_repeated_with_the_time_since_the_first_attempt() -> None:
    """repeat_us is how a script tells a repeat from a first attempt."""
    sim = Simulation(0)

    async def work(io: SimIO) -> None:
        await io.run(ADD_ONCE, ["{t}n", "{t}ids"], ["warm", 0])
        sim.next_requests("request_lost")
        assert await io.run(ADD_ONCE, ["{t}n", "{t}ids"], ["lost on its way", 0]) == 1
        sim.next_requests("reply_lost")
        assert await io.run(ADD_ONCE, ["{t}n", "{t}ids"], ["lost on its way back", 0]) == 0

    sim.start("a", work)
    sim.run()
    assert int(sim.server.engine.execute("HGET", "{t}ids", "lost on its way")) > 0
    assert sim.server.engine.execute("HGET", "{t}ids", "lost on its way back") == b"0"
    assert sim.server.engine.execute("GET", "{t}n") == b"3"


@pytest.mark.parametrize(("fate", "count"), [("request_lost", None), ("reply_lost", b"1"), ("late", b"1")])
def test_an_accumulating_command_is_not_repeated(fate: str, count: bytes | None) -> None:
    """The caller learns that nobody knows."""
    sim = Simulation(0)
    sim.next_requests(fate)

    async def work(io: SimIO) -> None:
        with pytest.raises(OutcomeUnknown):
            await io.run(INCR, ["n"])

    sim.start("a", work)
    sim.run()
    assert sim.server.engine.execute("GET", "n") == count


def test_a_late_request_overwrites_what_came_after_it() -> None:
    """The client repeated it, went on, and the old copy arrives out of a socket buffer."""
    sim = Simulation(0)
    sim.next_requests("late")

    async def work(io: SimIO) -> None:
        await io.run(SET, ["k"], ["old"])
        await io.run(SET, ["k"], ["new"])
        assert await io.run(GET, ["k"]) == b"new"
        await io.sleep(10)
        assert await io.run(GET, ["k"]) == b"old"

    sim.start("a", work)
    sim.run()


def test_time_passes_only_when_nothing_can_run() -> None:
    """A minute of sleeping takes no time, and a process sees its own clock."""

    async def work(io: SimIO) -> None:
        started = io.monotonic()
        await io.sleep(50)
        assert 50 <= io.monotonic() - started < 50.001

    sim = run(3, work)
    assert 49.9 < sim.now < 50.1


def test_calls_of_one_process_keep_their_order() -> None:
    """One connection, one queue."""

    async def work(io: SimIO) -> None:
        await io.run(GET, ["n"])
        await io.gather(*(io.run(INCR, ["n"]) for _ in range(20)), first_in_first_out(io))

    async def first_in_first_out(io: SimIO) -> int:
        connection = io._main
        assert connection is not None
        sent = [connection.send(("INCR", "m")) for _ in range(20)]
        assert [await promise for promise in sent] == list(range(1, 21))
        return 0

    run(1, work, faults=Faults(latency_s=(0.0001, 0.1)))


def test_a_server_that_is_away_is_waited_for() -> None:
    """Not applied is repeated until the deadline, whatever the category."""
    sim = Simulation(0)
    sim.restart_server(2.0)

    async def work(io: SimIO) -> None:
        assert await io.run(INCR, ["n"]) == 1
        assert sim.now > 2.0
        sim.restart_server(10.0, lose_data=True)
        await io.sleep(0.1)
        with pytest.raises(Unavailable):
            await io.run(INCR, ["n"])

    sim.start("a", work)
    sim.run()


def test_a_paused_process_loses_time_and_nothing_else() -> None:
    """As in a garbage collection: its clock goes on, its replies wait."""
    sim = Simulation(0)

    async def work(io: SimIO) -> None:
        started = io.monotonic()
        await io.run(INCR, ["n"])
        assert io.monotonic() - started > 1.9

    sim.start("a", work)
    sim.at(0, lambda: sim.pause("a", 2))
    sim.run()


def test_a_killed_process_does_nothing_more() -> None:
    """Not even in its finally blocks; and what it sent still arrives."""
    sim = Simulation(0)

    async def work(io: SimIO) -> None:
        try:
            await io.run(INCR, ["n"])
            await io.sleep(100)
        finally:
            io.note("cleaned up")
            await io.run(INCR, ["n"])

    sim.start("a", work)
    sim.at(5, lambda: sim.kill("a"))
    sim.run()
    assert not sim.history.of("cleaned up")
    assert sim.server.engine.execute("GET", "n") == b"1"


@pytest.mark.parametrize("step", range(6))
def test_a_task_can_be_cancelled_at_any_await(step: int) -> None:
    """As asyncio does it: CancelledError where it waits, and what it sent is on its way."""
    sim = Simulation(0)

    async def work(io: SimIO) -> None:
        try:
            for _ in range(3):
                await io.run(INCR, ["n"])
        except asyncio.CancelledError:
            io.note("cancelled")
            raise

    task = sim.start("a", work)
    task.cancel(at_step=step)
    sim.run()
    assert task.cancelled
    assert len(sim.history.of("cancelled")) == (1 if step else len(sim.history.of("cancelled")))


def test_gather_cancels_the_others_and_raises_the_first_failure() -> None:
    """As the contract of IO says."""

    async def fails(io: SimIO) -> None:
        await io.sleep(1)
        raise KeyError("first")

    async def waits(io: SimIO) -> None:
        try:
            await io.sleep(100)
        except asyncio.CancelledError:
            io.note("cancelled")
            raise

    async def work(io: SimIO) -> None:
        with pytest.raises(KeyError, match="first"):
            await io.gather(fails(io), waits(io), waits(io))

    sim = run(0, work)
    assert len(sim.history.of("cancelled")) == 2


def test_spawned_work_outlives_its_caller() -> None:
    """What must be undone is undone."""
    sim = Simulation(0)

    async def undo(io: SimIO) -> None:
        await io.run(SET, ["undone"], ["yes"])

    async def work(io: SimIO) -> None:
        try:
            await io.sleep(100)
        finally:
            io.spawn(undo(io))

    task = sim.start("a", work)
    sim.at(1, task.cancel)
    sim.run()
    assert sim.server.engine.execute("GET", "undone") == b"yes"


def test_an_ear_hears_what_is_published() -> None:
    """The subscription is confirmed before open returns."""
    sim = Simulation(0)

    async def listener(io: SimIO) -> None:
        token = io.token()
        ear = io.ear(token, "channel")
        await ear.open()
        await io.run(SET, ["token"], [token])
        assert await ear.wait(10)
        assert ear.message == "and more"
        assert not await ear.wait(1)
        sim.cut("a")
        assert await ear.wait(10), "a broken connection wakes every ear"
        ear.close()

    async def speaker(io: SimIO) -> None:
        while (token := await io.run(GET, ["token"])) is None:
            await io.sleep(0.1)
        assert await io.run(PUBLISH, ["channel"], [token + b" and more"]) == 1

    sim.start("a", listener)
    sim.start("b", speaker)
    sim.run()


def test_a_blocked_read_waits_for_an_entry_or_for_its_end() -> None:
    """On a connection of its own, so that others are not held up."""
    sim = Simulation(0)

    async def reader(io: SimIO) -> None:
        stop = io.signal()
        assert await io.block(XREAD, ["x"], ["0"], wait=5, stop=stop) == {b"x": [[b"1-0", [b"f", b"v"]]]}
        assert 2 < sim.now < 3
        assert await io.block(XREAD, ["x"], ["1-0"], wait=5, stop=stop) is None
        assert 7 < sim.now < 8
        sim.at(sim.now + 1, stop.set)
        assert await io.block(XREAD, ["x"], ["1-0"], wait=5, stop=stop) is None
        assert 8 < sim.now < 9

    async def writer(io: SimIO) -> None:
        await io.sleep(2)
        await io.run(XADD, ["x"], ["1-0", "f", "v"])

    sim.start("a", reader)
    sim.start("b", writer)
    sim.run()


class Renewal:
    """Something to keep, for three renewals."""

    def __init__(self, io: SimIO) -> None:
        self._io = io
        self.due = io.monotonic() + 1
        self.deadline = self.due + 5
        self.replies: list[object] = []

    def request(self, now: float) -> tuple[Script, Sequence[str], Sequence[str | int]] | None:
        """Renew."""
        return ADD_ONCE, ["{t}n", "{t}ids"], [f"{now}", 0]

    def settle(self, reply: object, sent: float) -> bool:
        """Go on three times."""
        self.replies.append(reply)
        self.due = sent + 1
        self.deadline = self.due + 5
        return len(self.replies) < 3


def test_what_is_kept_is_renewed_until_it_ends() -> None:
    """Also when the server has forgotten the script."""

    async def work(io: SimIO) -> None:
        item = Renewal(io)
        io.keep(item)
        await io.sleep(20)
        assert item.replies == [1, 1, 1]

    run(0, work)


def test_an_undeclared_key_is_refused() -> None:
    """What Redis Cluster would refuse must show on one server as well."""
    bad = parse("test.bad", ADD_ONCE.source.replace("KEYS[2]", "'{t}ids'"))

    async def work(io: SimIO) -> None:
        with pytest.raises(ServerError, match="not among its KEYS"):
            await io.run(bad, ["{t}n"], ["x", 0])

    run(0, work)


def test_a_failure_names_its_seed_and_what_happened_last() -> None:
    """So that anyone can run it again."""

    async def work(io: SimIO) -> None:
        await io.run(INCR, ["n"])
        message = "the claim was wrong"
        raise AssertionError(message)

    with pytest.raises(AssertionError, match="the claim was wrong") as caught:
        run(17, work)
    notes = "\n".join(caught.value.__notes__)
    assert "seed 17" in notes
    assert "INCR n" in notes
    assert issubclass(Violation, AssertionError)


def test_a_program_that_spins_is_stopped() -> None:
    """Virtual time would never pass."""

    async def work(io: SimIO) -> None:
        never = io.signal()
        never.set()
        while True:
            await io.gather(never.wait())

    with pytest.raises(Stuck, match="without time passing"):
        run(0, work)
