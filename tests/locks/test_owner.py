"""Renewal ends: after `max_hold`, with the last reference to a lease, with the thread or task inside its block."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import logging
import threading
import time
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io.aio import AsyncIO
from gridsync._io.scope import TaskScope
from gridsync._io.wire.endpoint import parse
from gridsync.errors import LeaseLost, UsageError
from gridsync.locks import AsyncLock, Lock
from gridsync.locks._lease import INSIDE
from tests.locks.ways import renew_now
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE, NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.locks import AsyncLease
    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look

pytestmark = pytest.mark.any_server


def make(world: World, **options: Any) -> Any:  # noqa: ANN401 - either kind
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    return kind(world.io(), NAMESPACE, "job", **{"ttl": 3.0, **options})


async def test_after_max_hold_a_lease_is_lost_with_that_reason(world: World, look: Look):
    """A job that hangs must not keep everybody else out for ever."""
    began = time.monotonic()
    lease = await world.do(make(world, ttl=2.4, max_hold=3.3).acquire)
    await soon(lease.lost.is_set)
    assert time.monotonic() - began >= 3.3, "it was renewed until then"
    with pytest.raises(LeaseLost, match=r"it was held for max_hold, 3\.3 s"):
        lease.check()
    await soon(look.free)
    assert await world.do(lease.release) is False


async def test_after_max_hold_a_lease_is_given_back_when_its_holder_ends(world: World, look: Look):
    """It ends here before the server's own end: the next one need not wait for that."""
    lease = await world.do(make(world, ttl=30, max_hold=0.2).acquire)
    await soon(lease.lost.is_set)
    assert look.owner() == lease.owner, "its holder may still be at work"
    assert await world.do(lease.release) is False
    await soon(look.free)


async def test_an_extension_does_not_outlast_max_hold(world: World):
    lease = await world.do(make(world, ttl=30, max_hold=5).acquire)
    await world.do(lease.extend)
    assert lease.expires_in() <= 5
    assert await world.do(lease.release) is True


@pytest.mark.parametrize("wrong", [0, -1, float("nan"), "1"])
def test_a_bad_max_hold_is_refused(wrong: Any):  # noqa: ANN401
    with pytest.raises(UsageError, match="max_hold of lock 'job' must be"):
        Lock(NOWHERE, NAMESPACE, "job", max_hold=wrong)  # type: ignore[arg-type]


async def test_a_lease_that_nobody_refers_to_is_given_back(world: World, look: Look, caplog: pytest.LogCaptureFixture):
    """Nobody can release it any more, and a watchdog that goes on would keep the name for the life of the process."""
    caplog.set_level(logging.WARNING, "gridsync")
    lock = make(world)
    lease = await world.do(lock.acquire)
    assert look.owner() == lease.owner
    del lease
    gc.collect()
    await soon(look.free)
    assert "was never released: nothing refers to it any more" in caplog.text
    await world.do((await world.do(lock.acquire)).release)


async def test_a_lease_may_outlive_the_thread_or_task_that_took_it(world: World, look: Look):
    """``wait_for``, ``gather`` and executors take it in a task or thread that ends at once, and hand it on."""
    lock = make(world, ttl=3)
    if world.kind == "sync":
        taken: list[Any] = []
        thread = threading.Thread(target=lambda: taken.append(lock.acquire()))
        thread.start()
        thread.join()
        (lease,) = taken
        taken.clear()
    else:
        lease = await asyncio.create_task(lock.acquire())
    for _ in range(2):
        await soon(renew_now(lease))
    lease.check()
    assert look.owner() == lease.owner
    assert await world.do(lease.release) is True


async def test_a_block_whose_thread_ended_inside_it_is_not_renewed(flushed: RedisServer, look: Look):
    """A generator that a thread left half way, held by somebody else: its block will never end."""
    world = World("sync", flushed.url)
    lost: list[LeaseLost] = []
    lock = make(world, on_lost=lost.append)
    thread = threading.Thread(target=lock.__enter__)
    thread.start()
    thread.join()
    await soon(look.free)
    (loss,) = lost
    assert loss.reason.startswith("the task or thread inside its block has ended")
    with pytest.raises(LeaseLost):
        lock.__exit__(None, None, None)
    await world.close()


async def test_a_block_whose_task_ended_inside_it_is_not_renewed(flushed: RedisServer, look: Look):
    world = World("asyncio", flushed.url)
    lost: list[LeaseLost] = []
    lock = make(world, on_lost=lost.append)

    async def enter_only() -> None:
        await lock.__aenter__()

    await asyncio.create_task(enter_only())
    await soon(look.free)
    await soon(lambda: lost)
    assert lost[0].reason.startswith("the task or thread inside its block has ended")
    await world.close()


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning", "ignore::ResourceWarning")
def test_a_lease_of_a_loop_that_was_closed_is_given_back(look: Look, flushed: RedisServer):
    """A program that goes on, and keeps the lease object, would hold the lock for ever: only the loop could release."""

    async def leave() -> tuple[AsyncLease, AsyncIO]:
        io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=10, timeout=5)
        return await AsyncLock(io, NAMESPACE, "job", ttl=3.0).acquire(), io

    with asyncio.Runner() as runner:
        lease, io = runner.run(leave())
        assert look.owner() == lease.owner
    eventually(look.free)
    eventually(lease.lost.is_set)
    with pytest.raises(LeaseLost, match="its event loop has ended"):
        lease.check()
    with pytest.raises(UsageError, match="ended before it was closed"):
        asyncio.run(io.close())
    del lease, io
    gc.collect()  # asyncio's complaints belong to this test


def test_a_block_of_a_loop_that_was_closed_counts_as_ended():
    """Its tasks will never run again, and nobody is left who could release."""
    scopes: list[TaskScope] = []

    async def stay() -> None:
        scopes.append(TaskScope(asyncio.get_running_loop()))
        await asyncio.Event().wait()

    async def entered() -> None:
        await soon(lambda: scopes)

    loop = asyncio.new_event_loop()
    task = loop.create_task(stay())
    loop.run_until_complete(entered())
    (scope,) = scopes
    assert scope.alive()
    loop.close()
    assert not scope.alive()
    scope.cancel()
    task._log_destroy_pending = False  # type: ignore[attr-defined] # it is what this test is about


async def test_processes_that_took_their_leases_together_renew_at_different_times(world: World):
    dues = set()
    leases = []
    for _ in range(12):
        lease = await world.do(world.lock(world.io(), name=f"job{len(leases)}", ttl=30).acquire)
        leases.append(lease)
        hold = lease._hold
        ahead = hold.deadline - hold.renew_at
        assert 19.6 <= ahead <= 22.0
        dues.add(round(ahead, 3))
    assert len(dues) > 3
    for lease in leases:
        await world.do(lease.release)


def test_a_block_ends_its_own_lease_while_other_threads_leave_theirs():
    """A list that shrinks under an iteration skips an entry: the block that ended here was not found in it."""
    shared = Lock(NOWHERE, NAMESPACE, "job")
    others: Any = [object(), object()]

    class Shrinking(list[Any]):
        def __iter__(self) -> Any:  # noqa: ANN401 - as a list's
            for each in super().__iter__():
                yield each
                if others[0] in self:
                    self.remove(others[0])

    lease: Any = object()
    shared._entered = Shrinking([others[0]])

    def block() -> Any:  # noqa: ANN401 - a lease
        INSIDE.set((lease,))
        shared._enter(lease)
        shared._entered.append(others[1])
        return shared._exit()

    assert contextvars.copy_context().run(block) is lease
