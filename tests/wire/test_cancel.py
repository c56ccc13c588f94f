"""Cancel at every await: whatever a task waited for, nothing is left behind and no reply goes to the wrong caller.

Each scenario is run once to count its suspension points, then again for every one of them, cancelled there.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command
from gridsync._io.aio import AsyncIO
from gridsync._io.keys import lock as lock_keys
from gridsync._io.keys import tag, wake_channel
from gridsync._io.wire.endpoint import parse
from gridsync.limits import AsyncLimiter
from gridsync.locks import AsyncLock
from gridsync.testing.proxy import FaultProxy
from gridsync.testing.servers import RedisServer
from tests.wire.conftest import open_sockets
from tests.wire.fake import soon

if TYPE_CHECKING:
    from collections.abc import Generator, Iterator

ECHO = Command("echo", Category.READ, ("ECHO",))
POP = Command("pop", Category.NEVER, ("BLPOP",))
KEYS = lock_keys("test", "job")
STEPS_MAX = 500


@pytest.fixture(scope="module")
def server() -> Iterator[RedisServer]:
    """One kind is enough: what is tested is the client."""
    with RedisServer() as running:
        yield running


TAG = tag("test", "lock", "job")


class Stepper:
    """Drives a coroutine and cancels its task at the *at*-th suspension."""

    def __init__(self, work: Awaitable[Any], at: int | None) -> None:
        self._work = work
        self._at = at
        self.steps = 0

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._work.__await__()
        send: Callable[[], Any] = lambda: inner.send(None)  # noqa: E731 - the next step, replaced at each turn
        while True:
            try:
                waited_for = send()
            except StopIteration as stop:
                return stop.value
            self.steps += 1
            if self.steps == self._at:
                task = asyncio.current_task()
                assert task is not None
                asyncio.get_running_loop().call_soon(task.cancel)
            try:
                got = yield waited_for
            except BaseException as error:  # noqa: BLE001 - handed on to the coroutine
                send = lambda error=error: inner.throw(error)  # type: ignore[misc] # noqa: E731
            else:
                send = lambda got=got: inner.send(got)  # type: ignore[misc] # noqa: E731


Scenario = Callable[[AsyncIO], Awaitable[Any]]


async def connect(io: AsyncIO) -> None:
    """From nothing to the first reply."""
    await io.connect()
    assert await io.run(ECHO, ["mine"]) == b"mine"


async def line(io: AsyncIO) -> None:
    """More callers than may be under way: some wait in line."""
    replies = await asyncio.gather(*(io.run(ECHO, [str(n)]) for n in range(8)))
    assert replies == [str(n).encode() for n in range(8)]


async def hub(io: AsyncIO) -> None:
    """Subscribe, and wait for a wake-up."""
    token = io.token()
    ear = io.ear(token, wake_channel(io.wake_prefix(TAG), token))
    try:
        await ear.open()
        await io.run(Command("publish", Category.ACCUMULATING, ("PUBLISH",)), [ear.channel], [token])
        assert await ear.wait(10)
    finally:
        ear.close()


async def block(io: AsyncIO) -> None:
    """A blocking command, twice on the same connection."""
    for _ in range(2):
        assert await io.block(POP, ["nothing"], ["0.02"], wait=20.0, stop=io.signal()) is None


async def gathered(io: AsyncIO) -> None:
    """Side by side, with pauses."""

    async def one(n: int) -> bytes:
        await io.sleep(0.001 * n)
        reply: bytes = await io.run(ECHO, [str(n)])
        return reply

    assert await io.gather(*(one(n) for n in range(5))) == [str(n).encode() for n in range(5)]


async def spawned(io: AsyncIO) -> None:
    """What must be undone runs to its end, whatever becomes of whoever started it."""
    signal = io.signal()

    async def undo() -> None:
        await io.run(ECHO, ["undone"])
        signal.set()

    io.spawn(undo())
    assert await io.run(ECHO, ["mine"]) == b"mine"
    try:
        assert await signal.wait(10)
    finally:
        if not signal.is_set():
            assert io._cleanups


async def stopped(io: AsyncIO) -> None:
    """A blocking command that is told to stop."""
    stop = io.signal()
    blocked = asyncio.ensure_future(io.block(POP, ["nothing"], ["10"], wait=10, stop=stop))
    try:
        await io.run(ECHO, ["meanwhile"])
        await soon(lambda: io._blocked)
        stop.set()
        assert await blocked is None
    finally:
        blocked.cancel()
        await asyncio.gather(blocked, return_exceptions=True)


async def loaded(io: AsyncIO) -> None:
    """A script that the server does not know is loaded, and called again."""
    await io.run(Command("flush", Category.IDEMPOTENT, ("SCRIPT",)), ["FLUSH"])
    limiter = AsyncLimiter(io, "test", "calls", "1000/minute")
    assert await limiter.hit("me")


async def repeated(io: AsyncIO) -> None:
    """The connection breaks under requests: they are repeated on the next one."""
    await io.connect()
    calls = [asyncio.ensure_future(io.run(ECHO, [str(n)])) for n in range(3)]
    try:
        await asyncio.sleep(0)
        wire = io._route.node(()).wire
        assert wire is not None
        wire.abort()
        assert await asyncio.gather(*calls) == [b"0", b"1", b"2"]
    finally:
        for call in calls:
            call.cancel()
        await asyncio.gather(*calls, return_exceptions=True)


async def lock(io: AsyncIO) -> None:
    """Take a lock, fail to get it again, extend and release it."""
    job = AsyncLock(io, "test", "job", ttl=30)
    lease = await job.acquire(timeout=10)
    try:
        assert await job.try_acquire() is None
        await lease.extend()
    finally:
        await lease.release()


async def handed_over(io: AsyncIO) -> None:
    """Wait in the queue of a lock while its holder gives it back."""
    job = AsyncLock(io, "test", "job", ttl=30)
    first = await job.acquire()
    waiting = asyncio.ensure_future(job.acquire(timeout=10))
    try:
        await asyncio.sleep(0.01)
        await first.release()
        second = await waiting
        await second.release()
    finally:
        # A task that was cancelled here must take its helpers along, as a TaskGroup does.
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        if waiting.done() and not waiting.cancelled() and waiting.exception() is None:
            await asyncio.shield(waiting.result().release())
        await asyncio.shield(first.release())


async def close(io: AsyncIO) -> None:
    """Requests under way, then the end."""
    await asyncio.gather(*(io.run(ECHO, [str(n)]) for n in range(3)))
    await io.close()


SCENARIOS = [
    connect, line, gathered, spawned, loaded, repeated, hub, block, stopped, lock, handed_over, close,
]  # fmt: skip


async def run_cancelled(url: str, scenario: Scenario, at: int | None) -> tuple[int, bool]:
    """Run *scenario* on a fresh driver, cancelled at its *at*-th suspension; returns its steps and if it was cut."""
    io = AsyncIO(parse(url, connect_timeout=10), inflight_max=3, timeout=10)
    stepper = Stepper(scenario(io), at)

    async def main() -> None:
        await stepper

    task = asyncio.create_task(main())
    cut = False
    try:
        await asyncio.wait_for(asyncio.shield(task), 30)
    except asyncio.CancelledError:
        cut = True
    if not io._closed:
        # In step: everybody gets his own reply, on whatever connection there is now.
        replies = await asyncio.gather(*(io.run(ECHO, [f"after {n}"]) for n in range(6)))
        assert replies == [f"after {n}".encode() for n in range(6)]
        wire = io._route.node(()).wire
        assert wire is not None
        assert (wire.load, len(wire._line), wire._granted) == (0, 0, 0)
        await io.close()
    assert not io._hub.ears
    return stepper.steps, cut


@pytest.mark.parametrize("sliced", [False, True], ids=["whole", "sliced"])
@pytest.mark.parametrize("scenario", SCENARIOS, ids=lambda scenario: scenario.__name__)
async def test_a_task_cancelled_at_any_await_leaves_nothing_behind(
    flushed: RedisServer, complaints: list[dict[str, Any]], scenario: Scenario, *, sliced: bool
):
    """Sliced: the proxy gives each byte a packet of its own, so that more places can be met."""
    with FaultProxy(flushed.url) as proxy:
        url = proxy.url if sliced else flushed.url
        if sliced:
            proxy.slice_bytes = 16
        await run_cancelled(url, scenario, None)
        sockets, tasks = open_sockets(), len(asyncio.all_tasks())
        at, cuts = 1, 0
        while at < STEPS_MAX:
            steps, cut = await run_cancelled(url, scenario, at)
            cuts += cut
            await soon(lambda: flushed.command("EXISTS", KEYS.state, KEYS.queue, KEYS.alive) == 0)
            if steps < at:
                break
            at += 1
        assert cuts, "it was never cancelled"
        assert at < STEPS_MAX
        gc.collect()
        await soon(lambda: open_sockets() <= sockets)
        assert len(asyncio.all_tasks()) == tasks
    assert not complaints


async def test_half_of_a_thousand_callers_are_cancelled_and_the_others_get_their_own_replies(flushed: RedisServer):
    io = AsyncIO(parse(flushed.url, connect_timeout=10), inflight_max=300, timeout=30)
    await io.connect()
    tasks = [asyncio.create_task(io.run(ECHO, [str(n)])) for n in range(1000)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    for task in tasks[::2]:
        task.cancel()
    assert await asyncio.gather(*tasks[1::2]) == [str(n).encode() for n in range(1, 1000, 2)]
    assert await io.run(ECHO, ["after"]) == b"after"
    await io.close()


async def test_a_cancelled_caller_leaves_the_connection_to_the_others(flushed: RedisServer):
    """redis-py closes a connection for each cancelled call; here nobody else notices."""
    with FaultProxy(flushed.url) as proxy:
        io = AsyncIO(parse(proxy.url, connect_timeout=10), inflight_max=300, timeout=30)
        await io.connect()
        for _ in range(20):
            proxy.blackhole(requests=False)
            task = asyncio.create_task(io.run(ECHO, ["x"]))
            seen = len(proxy.requests("ECHO"))
            await soon(lambda seen=seen: len(proxy.requests("ECHO")) > seen)
            task.cancel()
            await asyncio.wait([task])
            proxy.heal()
        assert await io.run(ECHO, ["y"]) == b"y"
        assert proxy.accepted == 1
        await io.close()
