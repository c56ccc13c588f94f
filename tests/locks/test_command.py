"""``gridsync locks``: what an operator sees and does."""

from __future__ import annotations

import asyncio
import os
from contextlib import closing
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync._io.keys import entity, pattern
from gridsync._io.keys import lock as lock_keys
from gridsync.errors import LeaseLost
from gridsync.testing.servers import free_port
from tests.command import Command
from tests.wire.fake import eventually
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

command = Command("locks")
run, asked = command.run, command.asked

ODD_NAMES = ["plain", "with:colon", "{braces}", "100%", "%7B", "star*", "ünï"]


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def test_held_locks_are_listed_and_nothing_else(grid: Grid, flushed: RedisServer):
    leases = [grid.lock(name, note="n").acquire() for name in ODD_NAMES]
    grid.lock("released").acquire().release()
    grid.limiter("x", "1/second").hit("me")
    other = Grid(flushed.url, namespace="other")
    foreign = other.lock("foreign").acquire()
    code, listed = asked(flushed, "ls")
    assert (code, listed["complete"]) == (0, True)
    assert [found["name"] for found in listed["locks"]] == sorted(ODD_NAMES)
    assert {found["holder"]["owner"] for found in listed["locks"]} == {lease.owner for lease in leases}
    code, output, _ = run(flushed, "ls")
    assert code == 0
    assert len(output.splitlines()) == len(ODD_NAMES)
    assert f"lock plain: {listed['locks'][0]['holder']['host']} pid {os.getpid()} MainThread (n), owner" in output
    foreign.release()
    other.close()
    for lease in leases:
        lease.release()


def test_a_list_has_a_bound_and_says_when_it_met_it(grid: Grid, flushed: RedisServer):
    leases = [grid.lock(f"job-{n}").acquire() for n in range(5)]
    code, listed = asked(flushed, "ls", "--limit", "3")
    assert (code, listed["complete"], len(listed["locks"])) == (0, False, 3)
    _, _, errors = run(flushed, "ls", "--limit", "3")
    assert "perhaps more: stopped at 3 locks" in errors
    for lease in leases:
        lease.release()


def test_a_lock_is_told_with_its_waiters(grid: Grid, flushed: RedisServer):
    code, told = asked(flushed, "info", "job")
    assert (code, told["holder"], told["waiting"]) == (1, None, 0)
    lease = grid.lock("job", note="epoch 7").acquire()
    code, told = asked(flushed, "info", "job")
    assert code == 0
    assert (told["holder"]["fence"], told["holder"]["note"]) == (lease.fence, "epoch 7")
    assert told["holder"]["since"].endswith("+00:00")
    code, output, _ = run(flushed, "info", "job")
    assert (code, "epoch 7" in output, "0 wait" in output) == (0, True, True)
    lease.release()


def test_what_others_wrote_steers_no_terminal(grid: Grid, flushed: RedisServer):
    """A name or a note could clear the screen, or add a line that looks like another lock's."""
    lease = grid.lock("a\nb: free", note="\x1b[2Jé").acquire()
    for arguments in (("ls",), ("info", lease.name)):
        _, output, _ = run(flushed, *arguments)
        assert len(output.splitlines()) == 1
        assert output.startswith("lock a\\nb: free: ")
        assert "(\\x1b[2Jé), owner " in output
    _, told = asked(flushed, "info", lease.name)
    assert (told["name"], told["holder"]["note"]) == (lease.name, "\x1b[2Jé")
    lease.release()


async def test_a_waiter_is_told_and_served_when_the_lock_is_taken_away(grid: Grid, flushed: RedisServer):
    lease = grid.lock("job", ttl=60).acquire()
    granted = lease._hold.deadline
    waiting = asyncio.create_task(asyncio.to_thread(grid.lock("job", note="next").acquire, timeout=60))
    await asyncio.to_thread(eventually, lambda: grid.lock("job").info().waiting)
    _, output, _ = await asyncio.to_thread(run, flushed, "info", "job")
    assert "\n  1. " in output
    assert "(next), since " in output
    # It hears of a revocation once it listens, after a quarter of a second; then it renews, long before it must.
    await asyncio.to_thread(eventually, lambda: lease._hold.deadline > granted)
    code, told = await asyncio.to_thread(asked, flushed, "break", "job", "--reason", "it hangs")
    assert (code, told["broken"]) == (0, True)
    heir = await waiting
    assert lease.fence < told["fence"] < heir.fence
    with pytest.raises(LeaseLost, match="it was revoked: it hangs"):
        await asyncio.to_thread(eventually, lambda: lease.lost.is_set() and lease.check())
    code, told = await asyncio.to_thread(asked, flushed, "break", "job", "--reason", "late", "--owner", lease.owner)
    assert (code, told) == (1, {"kind": "lock", "name": "job", "broken": False, "fence": None})
    heir.check()
    heir.release()


def test_a_lock_that_nobody_holds_is_not_taken_away(flushed: RedisServer):
    code, output, _ = run(flushed, "break", "job", "--reason", "why not")
    assert (code, output) == (1, "lock 'job' was not held\n")


@pytest.mark.parametrize("arguments", [("ls",), ("info", "job"), ("break", "job", "--reason", "r")])
def test_a_server_that_is_away_is_an_exit_code(arguments: tuple[str, ...]):
    code, output, errors = run(f"redis://127.0.0.1:{free_port()}", *arguments)
    assert (code, output) == (2, "")
    assert errors.startswith("gridsync: ")


def test_every_kind_is_listed_and_says_which_it_is(grid: Grid, flushed: RedisServer):
    """An operator would see a free machine while somebody waits for a semaphore."""
    grid.semaphore("idle", 2).acquire().release()
    held = [
        grid.lock("one").acquire(),
        grid.semaphore("two", 5, permits=2).acquire(),
        grid.semaphore("two", 5).acquire(),
        grid.rwlock("three").read.acquire(),
        grid.rwlock("four").write.acquire(),
    ]
    code, listed = asked(flushed, "ls")
    assert (code, listed["complete"]) == (0, True)
    assert [(one["kind"], one["name"]) for one in listed["locks"]] == [
        ("lock", "one"),
        ("rwlock", "four"),
        ("rwlock", "three"),
        ("semaphore", "two"),
    ]
    assert {holder["owner"] for one in listed["locks"] for holder in one["holders"]} == {one.owner for one in held}
    _, output, _ = run(flushed, "ls")
    assert output.splitlines()[1:] == [
        "rwlock four: written, 0 wait",
        "rwlock three: read by 1, 0 wait",
        "semaphore two: 3 of 5 permits taken by 2, 0 wait",
    ]
    with closing(grid.election("auction", value="here").lead()) as leading, next(leading) as term:
        code, told = asked(flushed, "info", "auction", "--kind", "election")
        assert (code, told["kind"], told["holder"]["fence"], told["holder"]["note"]) == (
            0,
            "election",
            term.term,
            "here",
        )
        assert "election auction: " in run(flushed, "ls")[1]
        code, told = asked(flushed, "break", "auction", "--kind", "election", "--reason", "it hangs")
        assert (code, told["broken"], told["fence"] > term.term) == (0, True, True)
    assert asked(flushed, "info", "auction", "--kind", "election")[0] == 1
    for lease in held:
        lease.release()


async def test_latches_barriers_and_periods_are_listed_while_they_matter(grid: Grid, flushed: RedisServer):
    """Whoever hangs at a barrier would find nothing that holds it up."""
    grid.latch("open", 1).count_down()
    grid.barrier("empty", 1).wait()
    grid.latch("ready", 3).count_down()
    turn = grid.once_per(3600, "report").claim()
    assert turn is not None
    grid.barrier("round", 3).abort("a\nb")
    coming = asyncio.create_task(asyncio.to_thread(grid.barrier("start", 2).wait, timeout=60))
    await asyncio.to_thread(eventually, lambda: grid.barrier("start", 2).waiting())
    code, listed = await asyncio.to_thread(asked, flushed, "ls")
    taken = datetime.fromtimestamp(turn.fence / 1_000_000, UTC)
    assert (code, listed["locks"]) == (
        0,
        [
            {
                "kind": "barrier",
                "name": "round",
                "parties": 3,
                "generation": 0,
                "broken": "a\nb",
                "waiting": 0,
                "holders": [],
            },
            {
                "kind": "barrier",
                "name": "start",
                "parties": 2,
                "generation": 0,
                "broken": "",
                "waiting": 1,
                "holders": [],
            },
            {"kind": "latch", "name": "ready", "count": 3, "remaining": 2, "waiting": 0, "holders": []},
            {"kind": "once", "name": "report", "fence": turn.fence, "taken": taken.isoformat(), "holders": []},
        ],
    )
    _, output, _ = await asyncio.to_thread(run, flushed, "ls")
    assert output.splitlines() == [
        "barrier round: 0 of 3 parties are here, generation 0, broken: a\\nb",
        "barrier start: 1 of 2 parties are here, generation 0",
        "latch ready: 2 of 3 remain, 0 wait",
        f"once report: last run since {taken:%Y-%m-%d %H:%M:%S} UTC, fence {turn.fence}",
    ]
    await asyncio.to_thread(grid.barrier("start", 2).wait, timeout=60)
    await coming
    for kind, name, state in (
        ("barrier", "start", "0 of 2 parties are here, generation 1"),
        ("latch", "open", "open, 0 wait"),
        ("once", "nothing", "no run is remembered"),
    ):
        told = await asyncio.to_thread(run, flushed, "info", name, "--kind", kind)
        assert told == (1, f"{kind} {name}: {state}\n", "")
    code, _, errors = await asyncio.to_thread(run, flushed, "break", "ready", "--kind", "latch", "--reason", "r")
    assert (code, "nobody holds latch 'ready'" in errors) == (2, True)


async def test_who_holds_and_wants_permits_is_told_and_one_of_them_is_broken(grid: Grid, flushed: RedisServer):
    slots = [grid.semaphore("slots", 3, permits=number, ttl=60) for number in (1, 2)]
    kept, lost = [one.acquire() for one in slots]
    waiting = asyncio.create_task(asyncio.to_thread(slots[1].acquire, timeout=60))
    await asyncio.to_thread(eventually, lambda: slots[0].info().waiting)
    _, output, _ = await asyncio.to_thread(run, flushed, "info", "slots", "--kind", "semaphore")
    head, *lines = output.splitlines()
    assert head == "semaphore slots: 3 of 3 permits taken by 2, 1 wait"
    assert [line.split(":")[0] for line in lines] == ["  holds 1", "  holds 2", "  1. wants 2"]
    refused = await asyncio.to_thread(run, flushed, "break", "slots", "--kind", "semaphore", "--reason", "r")
    assert (refused[0], "is held by 2: say by --owner" in refused[2]) == (2, True)
    broken = "break", "slots", "--kind", "semaphore", "--reason", "it hangs", "--owner", lost.owner
    code, told = await asyncio.to_thread(asked, flushed, *broken)
    heir = await waiting
    assert (code, told["kind"], lost.fence < told["fence"] < heir.fence) == (0, "semaphore", True)
    kept.check()
    for lease in (kept, heir):
        assert lease.release() is True
    assert (await asyncio.to_thread(asked, flushed, *broken))[0] == 1


def test_the_one_holder_of_a_reader_writer_lock_needs_no_name(grid: Grid, flushed: RedisServer):
    book = grid.rwlock("book", ttl=60)
    assert asked(flushed, "break", "book", "--kind", "rwlock", "--reason", "r")[0] == 1
    lease = book.write.acquire()
    code, output, _ = run(flushed, "break", "book", "--kind", "rwlock", "--reason", "it hangs")
    assert (code, output.startswith("rwlock 'book' was taken away; refuse fences below ")) == (0, True)
    eventually(lease.lost.is_set)
    assert book.info().holders == ()


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_read_back_from_its_key(name: str):
    assert entity("ns", lock_keys("ns", name).state) == ("lock", name)
    assert entity("ns", lock_keys("ns", name, "election").state) == ("election", name)
    assert entity("ns", lock_keys("ns", name).queue) is None
    assert entity("other", lock_keys("ns", name).state) is None


def test_a_namespace_with_a_star_matches_only_itself():
    assert pattern("a*b?[c]") == "{a\\*b\\?\\[c\\]:*}"
