"""``gridsync locks``: what an operator sees and does."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from gridsync import Grid
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import lock_name, lock_pattern
from gridsync.errors import LeaseLost
from gridsync.testing.servers import free_port
from tests.wire.fake import eventually
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from collections.abc import Iterator

    from gridsync.testing.servers import RedisServer

pytestmark = pytest.mark.any_server

ODD_NAMES = ["plain", "with:colon", "{braces}", "100%", "%7B", "star*", "ünï"]


@pytest.fixture
def grid(flushed: RedisServer) -> Iterator[Grid]:
    with Grid(flushed.url, namespace=NAMESPACE) as opened:
        yield opened


def run(server: RedisServer | str, *arguments: str) -> tuple[int, str, str]:
    url = server if isinstance(server, str) else server.url
    command = [sys.executable, "-m", "gridsync.cli", "locks", *arguments, "--url", url, "--namespace", NAMESPACE]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    return done.returncode, done.stdout, done.stderr


def asked(server: RedisServer, *arguments: str) -> tuple[int, Any]:
    code, output, _ = run(server, *arguments, "--json")
    return code, json.loads(output)


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
    assert f"plain: {listed['locks'][0]['holder']['host']} pid {os.getpid()} MainThread (n), owner" in output
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
        assert output.startswith("a\\nb: free: ")
        assert "(\\x1b[2Jé), owner " in output
    _, told = asked(flushed, "info", lease.name)
    assert (told["name"], told["holder"]["note"]) == (lease.name, "\x1b[2Jé")
    lease.release()


async def test_a_waiter_is_told_and_served_when_the_lock_is_taken_away(grid: Grid, flushed: RedisServer):
    lease = grid.lock("job", ttl=60).acquire()
    waiting = asyncio.create_task(asyncio.to_thread(grid.lock("job", note="next").acquire, timeout=60))
    await asyncio.to_thread(eventually, lambda: grid.lock("job").info().waiting)
    _, output, _ = await asyncio.to_thread(run, flushed, "info", "job")
    assert "\n  1. " in output
    assert "(next), since " in output
    code, told = await asyncio.to_thread(asked, flushed, "break", "job", "--reason", "it hangs")
    assert (code, told["broken"]) == (0, True)
    heir = await waiting
    assert lease.fence < told["fence"] < heir.fence
    with pytest.raises(LeaseLost, match="it was revoked: it hangs"):
        await asyncio.to_thread(eventually, lambda: lease.lost.is_set() and lease.check())
    code, told = await asyncio.to_thread(asked, flushed, "break", "job", "--reason", "late", "--owner", lease.owner)
    assert (code, told) == (1, {"name": "job", "broken": False, "fence": None})
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


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_name_is_read_back_from_its_key(name: str):
    assert lock_name("ns", lock_keys("ns", name).state) == name
    assert lock_name("ns", lock_keys("ns", name).queue) is None
    assert lock_name("other", lock_keys("ns", name).state) is None


def test_a_namespace_with_a_star_matches_only_itself():
    assert lock_pattern("a*b?[c]") == "{a\\*b\\?\\[c\\]:lock:*}"
