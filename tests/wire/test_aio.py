"""The asyncio driver against real servers and a server that misbehaves."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command
from gridsync._io.aio import AsyncIO
from gridsync._io.wire import mux
from gridsync._io.wire.endpoint import parse
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.testing.proxy import Break
from tests.wire.fake import FakeServer, Peer, Words, eventually, soon

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

ECHO = Command("echo", Category.READ, ("ECHO",))
SET = Command("set", Category.LAST_WINS, ("SET",))
GET = Command("get", Category.READ, ("GET",))
INCR = Command("incr", Category.ACCUMULATING, ("INCR",))
POP = Command("pop", Category.NEVER, ("BLPOP",))


def silent(_: Peer, __: Words) -> None:
    """Answer nothing."""


async def test_a_hundred_callers_share_one_attempt_to_connect(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    io = async_io(proxy.url)
    assert await asyncio.gather(*(io.run(ECHO, [str(n)]) for n in range(100))) == [b"%d" % n for n in range(100)]
    assert proxy.accepted == 1
    proxy.cut()
    assert await asyncio.gather(*(io.run(ECHO, [str(n)]) for n in range(100))) == [b"%d" % n for n in range(100)]
    assert proxy.accepted == 2


async def test_a_thousand_calls_in_flight_survive_a_cut(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    """Repeatable calls are sent again on the next connection: not one is lost, none gets a wrong reply."""
    io = async_io(proxy.url, timeout=30)
    await io.connect()
    proxy.blackhole(requests=False)
    tasks = [asyncio.create_task(io.run(ECHO, [str(n)])) for n in range(1000)]
    await soon(lambda: proxy.requests("ECHO"))
    await asyncio.to_thread(proxy.cut, reset=True)
    proxy.heal()
    assert await asyncio.gather(*tasks) == [b"%d" % n for n in range(1000)]
    assert proxy.accepted == 2


async def test_counting_calls_in_flight_are_never_applied_twice_by_a_cut(
    proxy: FaultProxy, flushed: RedisServer, async_io: Callable[..., AsyncIO]
):
    io = async_io(proxy.url, timeout=30)
    await io.connect()
    rule = proxy.on(Break.REPLY, "INCR", nth=50)
    results = await asyncio.gather(*(io.run(INCR, ["n"]) for _ in range(100)), return_exceptions=True)
    assert rule.hits == 1
    acknowledged = sum(isinstance(result, int) for result in results)
    unknown = sum(isinstance(result, OutcomeUnknown) for result in results)
    assert acknowledged + unknown == 100
    assert acknowledged <= int(flushed.command("GET", "n")) <= acknowledged + unknown
    flushed.command("DEL", "n")


async def test_a_caller_in_line_for_a_connection_has_a_deadline(async_io: Callable[..., AsyncIO]):
    with FakeServer(silent, greeting=None) as server:
        io = async_io(server.url, connect_timeout=60)
        with pytest.raises(Unavailable, match=r"no connection to .* in time"):
            await io.run(GET, ["k"], timeout=0.05)


async def test_a_greeting_that_never_comes_ends_with_the_connection_timeout(async_io: Callable[..., AsyncIO]):
    with FakeServer(silent, greeting=None) as server:
        io = async_io(server.url, connect_timeout=0.05)
        with pytest.raises(Unavailable, match="REDIS_CONNECTION_TIMEOUT"):
            await io.connect()


async def test_a_server_that_hangs_up_on_everybody_is_reported_at_once(async_io: Callable[..., AsyncIO]):
    with FakeServer(lambda peer, _: peer.close(), greeting=None) as server:
        io = async_io(server.url, connect_timeout=60)
        with pytest.raises(Unavailable, match="closed the connection during the greeting"):
            await io.connect()


async def test_a_silent_server_is_dropped_and_the_next_call_connects_anew(async_io: Callable[..., AsyncIO]):
    """A peer that answers nothing must not keep the connection for ever; the first connection is silent here."""
    servers: list[FakeServer] = []

    def answer(peer: Peer, words: Words) -> None:
        if peer is not servers[0].peers[0]:
            peer.send(b"$%d\r\n%s\r\n" % (len(words[1]), words[1]))

    with FakeServer(answer) as server:
        servers.append(server)
        io = async_io(server.url, timeout=0.2)
        with pytest.raises(Unavailable):
            await io.run(GET, ["a"])
        await soon(lambda: io._route.node(()).wire is None or io._route.node(()).wire.closed)
        assert await io.run(GET, ["b"], timeout=10) == b"b"


async def test_a_reply_that_is_there_counts_however_late_the_loop_looks(async_io: Callable[..., AsyncIO]):
    """The loop was held up, or the whole process stopped: a server that answered at once must not be called silent."""
    asked, answered = threading.Event(), threading.Event()

    def answer(peer: Peer, words: Words) -> None:
        asked.wait(20)
        peer.send(b"$%d\r\n%s\r\n" % (len(words[1]), words[1]))
        answered.set()

    with FakeServer(answer) as server:
        io = async_io(server.url)
        await io.connect()
        wire = io._route.node(()).wire
        loop: Any = asyncio.get_running_loop()
        deadline = loop.time() + 0.1
        reply = wire.post(("GET", "k"), deadline)
        asked.set()
        assert answered.wait(20)
        eventually(lambda: loop.time() > deadline)
        select = loop._selector.select

        def interrupted(timeout: float | None) -> list[Any]:
            """Find nothing, as `select` does when it is interrupted and its time is over: timers run before readers."""
            del timeout
            loop._selector.select = select
            return []

        loop._selector.select = interrupted
        assert await reply == b"k"


async def test_a_blocking_command_does_not_delay_the_others(flushed: RedisServer, async_io: Callable[..., AsyncIO]):
    """A GET behind a BLPOP on one connection would wait as long as the BLPOP."""
    io = async_io(flushed.url)
    blocked = asyncio.create_task(io.block(POP, ["l"], ["30"], wait=30, stop=io.signal()))
    with flushed.client() as client:
        await soon(lambda: client.info("clients")["blocked_clients"])
        assert await io.run(ECHO, ["quick"]) == b"quick"
        assert not blocked.done()
        client.rpush("l", "x")
    assert await blocked == [b"l", b"x"]


@pytest.mark.parametrize("when", ["waiting", "on its way", "before"])
async def test_a_blocked_read_ends_when_it_is_stopped(proxy: FaultProxy, async_io: Callable[..., AsyncIO], when: str):
    """Also when the command had not reached the server yet, so that the server knew nothing to unblock."""
    io = async_io(proxy.url)
    stop = io.signal()
    await io.connect()
    if when == "before":
        stop.set()
    if when == "on its way":
        await io.block(POP, ["l"], ["0.01"], wait=20.0, stop=stop)
        proxy.delay_s = 0.02
    blocked = asyncio.create_task(io.block(POP, ["l"], ["60"], wait=60, stop=stop))
    if when == "waiting":
        await soon(lambda: proxy.requests("BLPOP"))
    await asyncio.sleep(0)
    await asyncio.to_thread(stop.set)
    assert await asyncio.wait_for(blocked, 20) is None


async def test_a_cancelled_blocked_read_closes_its_connection(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    """What the server sends it later would be lost on a connection that goes on."""
    io = async_io(proxy.url)
    blocked = asyncio.create_task(io.block(POP, ["l"], ["60"], wait=60, stop=io.signal()))
    await soon(lambda: proxy.requests("BLPOP"))
    blocked.cancel()
    await asyncio.wait([blocked])
    await soon(lambda: proxy.connections == 0)


async def test_a_blocked_read_that_is_cut_is_not_repeated(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    io = async_io(proxy.url)
    blocked = asyncio.create_task(io.block(POP, ["l"], ["60"], wait=60, stop=io.signal()))
    await soon(lambda: proxy.requests("BLPOP"))
    proxy.cut()
    with pytest.raises(OutcomeUnknown, match="still pending"):
        await blocked
    assert len(proxy.requests("BLPOP")) == 1


async def test_large_values_pass_both_ways_at_once(flushed: RedisServer, async_io: Callable[..., AsyncIO]):
    """A reader that waited for its writer would stand still for ever with values of this size."""
    io = async_io(flushed.url, timeout=60)
    values = [os.urandom(20_000_000) for _ in range(2)]
    await asyncio.gather(*(io.run(SET, [str(n)], [value, "PX", 60_000]) for n, value in enumerate(values)))
    got = await asyncio.gather(io.run(GET, ["0"]), io.run(SET, ["2"], [values[0], "PX", 60_000]), io.run(GET, ["1"]))
    assert got == [values[0], b"OK", values[1]]
    assert await io.run(ECHO, ["in step"]) == b"in step"


async def test_closing_lets_requests_under_way_finish(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    io = async_io(proxy.url)
    await io.connect()
    proxy.delay_s = 0.02
    tasks = [asyncio.create_task(io.run(ECHO, [str(n)])) for n in range(10)]
    await asyncio.sleep(0)
    await io.close()
    assert await asyncio.gather(*tasks) == [b"%d" % n for n in range(10)]


async def test_closing_with_a_full_queue_ends(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    """Nothing is answered: callers in flight and in line must hear of it, and close must return."""
    io = async_io(proxy.url, inflight_max=2, timeout=60)
    await io.connect()
    proxy.blackhole()
    tasks = [asyncio.create_task(io.run(GET, [str(n)])) for n in range(20)]
    await asyncio.sleep(0)
    await io.close()
    results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert all(isinstance(result, (UsageError, Unavailable, OutcomeUnknown)) for result in results)


async def test_callers_of_a_connection_attempt_are_not_cancelled_by_close(async_io: Callable[..., AsyncIO]):
    """A CancelledError that nobody asked for would end a TaskGroup without an error."""
    with FakeServer(silent, greeting=None) as server:
        io = async_io(server.url, connect_timeout=60, timeout=60)
        tasks = [asyncio.create_task(io.run(GET, ["k"])) for _ in range(3)]
        await soon(lambda: server.peers)
        await io.close()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
        assert all(isinstance(result, UsageError) for result in results)


@pytest.mark.usefixtures("nothing_left")
async def test_a_closed_driver_says_so_and_opens_nothing(proxy: FaultProxy, async_io: Callable[..., AsyncIO]):
    io = async_io(proxy.url)
    await io.run(ECHO, ["x"])
    await io.close()
    ear = io.ear("token", "channel")
    for call in (
        io.run(ECHO, ["y"]),
        io.block(POP, ["l"], ["1"], wait=1, stop=io.signal()),
        ear.open(),
    ):
        with pytest.raises(UsageError, match="was closed; make a new one"):
            await call
    ear.close()
    await soon(lambda: proxy.connections == 0)
    assert not proxy.requests("BLPOP")


@pytest.mark.parametrize("when", ["later", "in between", "in another thread"])
def test_another_loop_gets_a_clear_error(flushed: RedisServer, when: str):
    """By itself asyncio would answer with 'attached to a different loop', or hang."""

    async def make() -> AsyncIO:
        io = AsyncIO(parse(flushed.url, connect_timeout=5), inflight_max=10, timeout=5)
        await io.connect()
        return io

    async def misuse(io: AsyncIO) -> None:
        for call in (io.run(ECHO, ["x"]), io.block(POP, ["l"], ["1"], wait=1, stop=io.signal())):
            with pytest.raises(UsageError, match="belongs to another event loop"):
                await call

    async def use(io: AsyncIO) -> None:
        if when == "in another thread":
            await asyncio.to_thread(asyncio.run, misuse(io))
        assert await io.run(ECHO, ["x"]) == b"x"
        await io.close()

    with asyncio.Runner() as runner:
        io = runner.run(make())
        if when == "in between":
            asyncio.run(misuse(io))
        runner.run(use(io))
    if when == "later":
        asyncio.run(misuse(io))


async def test_the_child_of_a_fork_gets_a_clear_error_and_harms_nobody(
    flushed: RedisServer, async_io: Callable[..., AsyncIO]
):
    """Loop, sockets and epoll are shared with the parent: closing the child's must not touch them."""
    io = async_io(flushed.url)
    await io.run(ECHO, ["warm"])
    child = os.fork()
    if child == 0:
        code = 1
        try:
            try:
                io.run(ECHO, ["x"]).send(None)
            except UsageError as error:
                code = 0 if "parent process" in str(error) else 2
            try:
                io.close().send(None)
            except StopIteration:
                pass
            else:
                code = 3
        finally:
            os._exit(code)
    _, status = await asyncio.to_thread(os.waitpid, child, 0)
    assert os.waitstatus_to_exitcode(status) == 0
    assert await io.run(ECHO, ["parent"]) == b"parent"


async def test_the_child_of_a_fork_keeps_no_connection_of_its_parent_open(
    proxy: FaultProxy, async_io: Callable[..., AsyncIO]
):
    """Else the server does not notice that the parent died, and hands a waiter of its the lock that nobody takes up."""
    io = async_io(proxy.url)
    ear = io.ear(io.token(), "test:wake:here")
    await ear.open()
    await io.run(ECHO, ["warm"])
    hears = proxy.connections
    assert hears >= 2
    ready, done = socket.socketpair()
    child = os.fork()
    if child == 0:
        ready.close()
        done.recv(1)
        os._exit(0)
    done.close()
    try:
        assert await io.run(ECHO, ["parent"]) == b"parent"
        assert proxy.connections == hears
        await io.close()
        await soon(lambda: proxy.connections == 0)
    finally:
        ready.close()
        await asyncio.to_thread(os.waitpid, child, 0)


async def test_many_threads_may_throw_one_signal(flushed: RedisServer, async_io: Callable[..., AsyncIO]):
    io = async_io(flushed.url)
    signal = io.signal()
    called: list[int] = []

    def broken() -> None:
        raise ZeroDivisionError

    signal.on_set(broken)
    signal.on_set(lambda: called.append(1))
    waiting = [asyncio.create_task(signal.wait(60)) for _ in range(10)]
    await asyncio.sleep(0)
    threads = [threading.Thread(target=signal.set) for _ in range(8)]
    for thread in threads:
        thread.start()
    assert all(await asyncio.wait_for(asyncio.gather(*waiting), 20))
    assert called == [1], "a callback that raises must not keep the others from theirs"
    for thread in threads:
        thread.join()


async def test_an_attempt_that_fails_while_nobody_waits_is_not_reported_by_the_loop(
    async_io: Callable[..., AsyncIO], complaints: list[dict[str, Any]]
):
    with FakeServer(silent, greeting=None) as server:
        io = async_io(server.url, connect_timeout=0.1)
        task = asyncio.create_task(io.run(GET, ["k"], timeout=60))
        await soon(lambda: server.peers)
        task.cancel()
        await asyncio.wait([task])
        await soon(lambda: io._route.node(())._attempt is None)
    assert not complaints


async def test_a_connection_lost_during_the_greeting_is_reported_at_once():
    """The end comes between the connection and the greeting: nobody will answer, and nobody should wait for it."""
    with FakeServer(silent, greeting=None) as server:
        endpoint = parse(server.url, connect_timeout=60)
        attempt = asyncio.create_task(mux.connect(endpoint, inflight_max=1, stall_s=60, met_before=False))
        await soon(lambda: server.peers)
        server.peers[0].close(reset=True)
        with pytest.raises(Unavailable, match="during the greeting"):
            await asyncio.wait_for(attempt, 20)
