"""Locks among processes that are killed, interrupted and forked."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest

from gridsync import Grid
from gridsync.errors import LeaseLost
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE

if TYPE_CHECKING:
    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look
    from tests.wire.world import World

HOLDER = """
import sys
from gridsync import Grid
grid = Grid(sys.argv[1], namespace="test")
lease = grid.lock("job", ttl=float(sys.argv[2])).acquire()
print(lease.fence, flush=True)
if sys.stdin.readline():
    lease.release()
"""
COUNTER = """
import sys
from gridsync import Grid
with Grid(sys.argv[1], namespace="test") as grid:
    for _ in range(20):
        with grid.lock("job") as lease:
            value = int(grid.client.get("n") or 0)
            assert int(grid.client.get("f") or 0) < lease.fence
            grid.client.set("f", lease.fence, ex=60)
            grid.client.set("n", value + 1, ex=60)
"""


def start(program: str, *args: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", program, *args]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def end(process: subprocess.Popen[str]) -> int:
    try:
        process.communicate(timeout=60)
    finally:
        process.kill()
    return process.returncode


async def test_a_killed_holder_costs_the_next_one_its_ttl_and_no_more(world: World, look: Look):
    holder = start(HOLDER, world.url, "1.0")
    assert holder.stdout is not None
    fence = int(await asyncio.to_thread(holder.stdout.readline))
    waiting = world.start(world.lock(world.io()).acquire, timeout=60)
    await soon(look.waiters)
    holder.kill()
    lease = await world.ended(waiting)
    assert lease.fence > fence
    await world.do(lease.release)
    await asyncio.to_thread(end, holder)


async def test_a_killed_waiter_is_passed_over(world: World, look: Look):
    held = await world.do(world.lock(world.io()).acquire)
    dead = start(HOLDER, world.url, "10")
    await soon(lambda: len(look.waiters()) == 1)
    behind = world.start(world.lock(world.io()).acquire, timeout=60)
    await soon(lambda: len(look.waiters()) == 2)
    dead.kill()
    await asyncio.to_thread(end, dead)
    gone, heir = look.waiters()
    await soon(lambda: not look.hears(gone))
    await world.do(held.release)
    assert look.owner() == heir, "nobody waits for the dead"
    lease = await world.ended(behind, 60)
    lease.check()
    await world.do(lease.release)
    await soon(look.free)


def test_processes_never_lose_an_increment(flushed: RedisServer):
    """Read, add, write: only the lock keeps four processes from overwriting each other; fences rise in all of them."""
    workers = [start(COUNTER, flushed.url) for _ in range(4)]
    assert [end(worker) for worker in workers] == [0] * 4
    assert int(flushed.command("GET", "n")) == 80


def test_a_fork_does_not_release_its_parents_lock(flushed: RedisServer, look: Look):
    """A child that leaves the parent's `with` block, by an exception or normally, must not free the lock."""
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        with grid.lock("job") as lease:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    try:
                        lease.check()
                    except LeaseLost as error:
                        code = 0 if "fork" in str(error) else 2
                    code += 10 * lease.release()
                    with grid.lock("other") as own:
                        own.check()
                finally:
                    os._exit(code)
            assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
            lease.check()
            assert look.owner() == lease.owner
        assert look.free()


def test_a_child_that_was_forked_inside_a_readers_block_may_write_when_that_has_ended(flushed: RedisServer):
    """It reads nothing itself: the block is its parent's, so it waits as any other process does."""
    with Grid(flushed.url, namespace=NAMESPACE) as grid:
        book = grid.rwlock("book")
        with book.read:
            child = os.fork()
            if child == 0:
                code = 1
                try:
                    code = 0 if book.write.acquire(timeout=60).release() else 2
                finally:
                    os._exit(code)
            eventually(lambda: book.info().waiting)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_an_interrupted_acquire_leaves_nothing_behind(flushed: RedisServer, look: Look):
    """Ctrl-C while waiting: neither a place in the queue nor, if it was just handed over, the lock."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with Grid(flushed.url, namespace=NAMESPACE) as grid, Grid(flushed.url, namespace=NAMESPACE) as other:
            held = other.lock("job").acquire()

            def interrupt() -> None:
                eventually(look.waiters)
                os.kill(os.getpid(), signal.SIGINT)

            thread = threading.Thread(target=interrupt)
            thread.start()
            with pytest.raises(KeyboardInterrupt):
                grid.lock("job").acquire(timeout=60)
            thread.join()
            assert look.waiters() == []
            assert held.release() is True
            assert look.free()
    finally:
        signal.signal(signal.SIGINT, before)
