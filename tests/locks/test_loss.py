"""Loss is told at once: a task's block is cancelled as ``asyncio.timeout()`` does it, a thread has a switch."""

# ruff: noqa: PT012 - a block is what is tested

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync.errors import LeaseLost, UsageError
from gridsync.locks import AsyncLock, Lock
from tests.locks.ways import renew_now
from tests.wire.fake import eventually, soon
from tests.wire.world import NAMESPACE, NOWHERE, World

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync._io.aio import AsyncIO
    from gridsync.testing.servers import RedisServer
    from tests.locks.conftest import Look

pytestmark = pytest.mark.any_server

FOREVER_S = 60.0


@pytest.fixture
async def aio(flushed: RedisServer) -> AsyncIterator[AsyncIO]:
    world = World("asyncio", flushed.url)
    yield world.io()
    await world.close()


def job(io: Any, name: str = "job", **options: Any) -> AsyncLock:  # noqa: ANN401 - a driver; any option
    return AsyncLock(io, NAMESPACE, name, **{"ttl": 3.0, **options})


async def test_a_block_whose_lease_is_lost_is_cancelled(aio: AsyncIO, look: Look):
    """Without it a body would go on for as long as it likes while somebody else works too."""
    reached = False
    with pytest.raises(LeaseLost, match="it ended on the server, or was taken away") as raised:
        async with job(aio):
            look.take_away()
            await asyncio.sleep(FOREVER_S)
            reached = True
    assert not reached
    assert isinstance(raised.value.__cause__, asyncio.CancelledError)
    assert raised.value.reason == "it ended on the server, or was taken away"
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0
    await asyncio.sleep(0)  # nothing of the cancellation is left


async def test_a_block_is_cancelled_before_the_server_lets_go_though_the_server_is_silent(
    aio: AsyncIO, look: Look, flushed: RedisServer
):
    """The next holder may begin as soon as the server is back: by then this one must have been told."""
    try:
        with pytest.raises(LeaseLost, match="it was not renewed in time"):
            async with job(aio) as lease:
                flushed.pause()
                await asyncio.sleep(FOREVER_S)
        assert lease.expires_in() == 0
    finally:
        flushed.resume()
    await soon(look.free)


async def test_a_block_over_a_lease_is_cancelled_as_well(aio: AsyncIO, look: Look):
    lease = await job(aio).acquire()
    with pytest.raises(LeaseLost):
        async with lease:
            look.take_away()
            await asyncio.sleep(FOREVER_S)


async def test_an_outer_cancellation_wins(aio: AsyncIO, look: Look):
    """Who cancels a task waits for it to be cancelled; a `LeaseLost` instead would keep a TaskGroup or shutdown up."""
    entered = asyncio.Event()
    lost = asyncio.Event()

    async def work() -> None:
        async with job(aio) as lease:
            entered.set()
            try:
                await asyncio.sleep(FOREVER_S)
            finally:
                assert lease.lost.is_set()
                lost.set()
                # Still inside: now somebody else wants the task to end too.
                await asyncio.sleep(0.01)

    task = asyncio.create_task(work())
    await entered.wait()
    look.take_away()
    await lost.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert task.cancelled()


async def test_a_cancellation_without_a_loss_is_just_that_and_frees_the_lock(aio: AsyncIO, look: Look):
    entered = asyncio.Event()

    async def work() -> None:
        async with job(aio):
            entered.set()
            await asyncio.sleep(FOREVER_S)

    task = asyncio.create_task(work())
    await entered.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert look.free()


async def test_a_deadline_around_the_block_stays_a_deadline(aio: AsyncIO, look: Look):
    """``asyncio.timeout`` outside must see its own cancellation, and not ours."""
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(0.05), job(aio):
            await asyncio.sleep(FOREVER_S)
    assert look.free()


async def test_a_deadline_inside_the_block_stays_inside(aio: AsyncIO, look: Look):
    async with job(aio) as lease:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await asyncio.sleep(FOREVER_S)
        lease.check()
    assert look.free()


async def test_of_nested_blocks_the_one_that_lost_its_lease_says_so(aio: AsyncIO, look: Look):
    inner_done = False
    with pytest.raises(LeaseLost, match="lock 'job'"):
        async with job(aio):
            async with job(aio, "other"):
                look.take_away()
                await asyncio.sleep(FOREVER_S)
            inner_done = True
    assert not inner_done
    async with job(aio, "other"):
        with pytest.raises(LeaseLost, match="lock 'job'"):
            async with job(aio):
                look.take_away()
                await asyncio.sleep(FOREVER_S)
        await asyncio.sleep(0)


async def test_when_both_nested_leases_are_lost_the_outer_block_ends_as_well(aio: AsyncIO, flushed: RedisServer):
    try:
        with pytest.raises(LeaseLost):
            async with job(aio), job(aio, "other"):
                flushed.pause()
                await asyncio.sleep(FOREVER_S)
    finally:
        flushed.resume()
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_a_task_group_inside_the_block_is_cancelled_with_it(aio: AsyncIO, look: Look):
    ended = []

    async def part(n: int) -> None:
        try:
            await asyncio.sleep(FOREVER_S)
        finally:
            ended.append(n)

    with pytest.raises(LeaseLost):
        async with job(aio), asyncio.TaskGroup() as group:
            for n in range(3):
                group.create_task(part(n))
            await asyncio.sleep(0)
            look.take_away()
    assert sorted(ended) == [0, 1, 2]


async def test_a_body_that_swallows_the_cancellation_is_told_at_its_end(aio: AsyncIO, look: Look):
    with pytest.raises(LeaseLost):
        async with job(aio):
            look.take_away()
            with contextlib.suppress(asyncio.CancelledError):
                await asyncio.sleep(FOREVER_S)
    task = asyncio.current_task()
    assert task is not None
    assert task.cancelling() == 0


async def test_what_the_body_raises_goes_on_with_a_note_of_the_loss(aio: AsyncIO, look: Look):
    with pytest.raises(ZeroDivisionError) as raised:
        async with job(aio):
            look.take_away()
            try:
                await asyncio.sleep(FOREVER_S)
            except asyncio.CancelledError:
                raise ZeroDivisionError from None
    (note,) = raised.value.__notes__
    assert note.startswith("the lease of lock 'job' (fence ")


async def test_a_loss_that_comes_with_the_end_of_the_block_is_told_and_cancels_nothing(aio: AsyncIO):
    """The switch is thrown, and the task is to be cancelled in the loop's next turn: by then the block has ended."""
    with pytest.raises(LeaseLost, match="at the very end"):
        async with job(aio) as lease:
            lease._hold.lose("at the very end")
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_loss_while_the_end_of_the_block_releases_is_told_and_cancels_nothing(aio: AsyncIO, look: Look):
    lock = job(aio, ttl=10)
    with pytest.raises(LeaseLost, match="it had ended on the server before it was released"):
        async with lock as lease:
            look.take_away()
    lease._hold.lose("later")
    for _ in range(3):
        await asyncio.sleep(0)


async def test_a_block_that_ends_in_another_task_is_told_of_the_loss_there(aio: AsyncIO, look: Look):
    """Frameworks set up and tear down in different tasks: the one that is gone cannot be cancelled, no other is."""
    lock = job(aio)
    await asyncio.create_task(lock.__aenter__())  # type: ignore[arg-type] # a coroutine
    look.take_away()
    with pytest.raises(LeaseLost):
        await asyncio.create_task(lock.__aexit__(None, None, None))


async def test_a_lease_that_has_ended_begins_no_block(aio: AsyncIO, look: Look):
    """The body would run without the lock."""
    lease = await job(aio).acquire()
    await lease.release()
    with pytest.raises(LeaseLost, match="was released already"):
        async with lease:
            pytest.fail("it began")
    lost = await job(aio).acquire()
    look.take_away()
    await soon(lost.lost.is_set)
    with pytest.raises(LeaseLost, match="taken away"):
        async with lost:
            pytest.fail("it began")


async def test_a_lease_has_one_block(world: World, look: Look):
    lease = await world.do(world.lock(world.io()).acquire)
    if world.kind == "sync":
        with lease, pytest.raises(UsageError, match="was entered already"):
            lease.__enter__()
    else:
        async with lease:
            with pytest.raises(UsageError, match="was entered already"):
                await lease.__aenter__()
    assert look.free()


async def test_on_lost_is_called_once_with_what_was_lost(world: World, look: Look):
    """In the loop for asyncio, where a callback may touch what the loop owns; by the watchdog's thread otherwise."""
    told: list[tuple[LeaseLost, str]] = []
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    lock = kind(
        world.io(), NAMESPACE, "job", ttl=3.0, on_lost=lambda loss: told.append((loss, threading.current_thread().name))
    )
    lease = await world.do(lock.acquire)
    look.take_away()
    await soon(lambda: told)
    for _ in range(3):
        with pytest.raises(LeaseLost):
            lease.check()
    assert not await world.do(lease.release)
    ((loss, thread),) = told
    assert (loss.name, loss.fence, loss.reason) == ("job", lease.fence, "it ended on the server, or was taken away")
    assert thread == ("gridsync-keeper" if world.kind == "sync" else threading.current_thread().name)


async def test_on_lost_is_not_called_for_a_release(world: World):
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    lock = kind(world.io(), NAMESPACE, "job", on_lost=lambda _loss: pytest.fail("nothing was lost"))
    lease = await world.do(lock.acquire)
    assert await world.do(lease.release)


async def test_what_on_lost_raises_is_logged_and_stops_no_watchdog(
    world: World, look: Look, caplog: pytest.LogCaptureFixture
):
    def fail(_loss: LeaseLost) -> None:
        raise ZeroDivisionError

    caplog.set_level(logging.WARNING, "gridsync")
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    io = world.io()
    other = await world.do(kind(io, NAMESPACE, "other", ttl=3.0).acquire)
    lease = await world.do(kind(io, NAMESPACE, "job", ttl=3.0, on_lost=fail).acquire)
    look.take_away()
    await soon(lease.lost.is_set)
    await soon(lambda: "ZeroDivisionError" in caplog.text)
    assert "fail" in caplog.messages[-1], "whose callback it was"
    assert "the lease of lock 'job'" in caplog.messages[-1]
    await soon(renew_now(other))
    other.check()
    assert await world.do(other.release)


def test_a_coroutine_function_is_no_on_lost():
    async def told(_loss: LeaseLost) -> None:
        """Never awaited."""

    with pytest.raises(UsageError, match="must be a plain function"):
        AsyncLock(NOWHERE, NAMESPACE, "job", on_lost=told)


async def test_what_cannot_be_called_is_refused_before_a_loss(world: World):
    """It would be noticed when the lease is lost: at night, in a log."""
    kind: Callable[..., Any] = Lock if world.kind == "sync" else AsyncLock
    with pytest.raises(UsageError, match="on_lost of lock 'job' must be a function of one LeaseLost, not 5"):
        kind(world.io(), NAMESPACE, "job", on_lost=5)
    lease = await world.do(world.lock(world.io()).acquire)
    with pytest.raises(UsageError, match="must be a function, not 'stop'"):
        lease.lost.on_set("stop")
    assert await world.do(lease.release)


async def test_a_thread_waits_for_the_loss(world: World, look: Look):
    lease = await world.do(world.lock(world.io(), ttl=3.0).acquire)
    assert await world.do(lease.lost.wait, 0.001) is False
    waiting = world.start(lease.lost.wait, FOREVER_S)
    look.take_away()
    assert await world.ended(waiting) is True
    assert "taken away" in repr(lease.lost)


async def test_a_blocked_loop_starves_no_renewal_and_a_loss_cancels_when_it_goes_on(aio: AsyncIO, look: Look):
    with pytest.raises(LeaseLost):
        async with job(aio, ttl=3.0) as lease:
            eventually(renew_now(lease))  # nothing else runs in the loop
            lease.check()
            assert look.owner() == lease.owner
            look.take_away()
            eventually(lease.lost.is_set)
            await asyncio.sleep(FOREVER_S)
