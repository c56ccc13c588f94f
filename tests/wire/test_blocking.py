"""The blocking wire and its pool: every thread gets its own replies, and nothing waits for ever."""

from __future__ import annotations

import os
import select
import signal
import socket
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync._io.keys import PROCESS_CHARS
from gridsync._io.wire import blocking
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync._io.wire.pool import IDLE_CHECK_S
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.testing.proxy import Break
from tests.wire.fake import GARBAGE, FakeServer, Peer, Words, endpoint, eventually

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from gridsync._io.sync import SyncIO
    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

ECHO = Command("echo", Category.READ, ("ECHO",))
SET = Command("set", Category.LAST_WINS, ("SET",))
GET = Command("get", Category.READ, ("GET",))
INCR = Command("incr", Category.ACCUMULATING, ("INCR",))
PUSH = b">2\r\n+invalidate\r\n_\r\n"


@pytest.fixture
def interrupts() -> Iterator[Callable[[], None]]:
    """Return what raises KeyboardInterrupt in this, the main, thread, as Ctrl-C does."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield lambda: os.kill(os.getpid(), signal.SIGINT)
    signal.signal(signal.SIGINT, before)


def silent(_: Peer, __: Words) -> None:
    """Answer nothing."""


def test_a_reply_in_single_bytes_arrives_whole():
    with FakeServer(lambda peer, _: [peer.send(b"%c" % byte) for byte in b"*2\r\n$3\r\nabc\r\n-ERR x\r\n"]) as server:
        wire = blocking.connect(server.endpoint, timeout=5, met_before=True)
        reply = wire.call(("GET", "k"), 5)
        assert reply[0] == b"abc"
        assert isinstance(reply[1], ReplyError)
        wire.close()


def test_a_push_before_a_reply_is_not_the_reply():
    with FakeServer(lambda peer, words: peer.send(PUSH + PUSH + b"$1\r\n%s\r\n" % words[1])) as server:
        wire = blocking.connect(server.endpoint, timeout=5, met_before=True)
        assert wire.call(("GET", "a"), 5) == b"a"
        assert wire.exchange_many([("GET", "b"), ("GET", "c")], 5) == [b"b", b"c"]
        wire.close()


def test_a_reply_that_nobody_asked_for_never_meets_the_next_request(sync_io: Callable[..., SyncIO]):
    """The server answers twice: the second caller must not get the first one's answer."""

    def twice(peer: Peer, words: Words) -> None:
        peer.send(b"$1\r\n%s\r\n" % words[1] * (2 if words[1] == b"a" else 1))

    with FakeServer(twice) as server:
        io = sync_io(server.url)
        assert run_sync(io.run(GET, ["a"])) == b"a"
        assert run_sync(io.run(GET, ["b"])) == b"b"


def test_a_reply_in_pieces_has_one_deadline_and_not_one_for_each_piece(sync_io: Callable[..., SyncIO]):
    """A server that dribbles must not hold a caller for longer than it asked for."""
    ended = threading.Event()

    def dribble(peer: Peer, _: Words) -> None:
        peer.send(b"$1000000\r\n")
        while not ended.wait(0.01):
            peer.send(b"x")

    with FakeServer(dribble) as server:
        io = sync_io(server.url, timeout=0.2)
        with pytest.raises(Unavailable):
            run_sync(io.run(GET, ["k"]))
        ended.set()


@pytest.mark.parametrize("cut", range(len(b"$5\r\nhello\r\n")))
def test_an_end_inside_a_reply_is_an_unknown_outcome(cut: int):
    def answer(peer: Peer, _: Words) -> None:
        peer.send(b"$5\r\nhello\r\n"[:cut])
        peer.close()

    with FakeServer(answer) as server:
        wire = blocking.connect(server.endpoint, timeout=5, met_before=True)
        with pytest.raises(Fault, match="closed the connection") as failure:
            wire.call(("GET", "k"), 5)
        assert failure.value.ambiguous
        assert wire.closed


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_closes_the_wire(garbage: bytes):
    with FakeServer(lambda peer, _: peer.send(garbage)) as server:
        wire = blocking.connect(server.endpoint, timeout=5, met_before=True)
        with pytest.raises(Fault):
            wire.call(("GET", "k"), 5)
        assert wire.closed


@pytest.mark.parametrize(
    ("timeout", "words"),
    [(0.05, r"within 0.05 s \(what the call had left"), (0.2, r"within 0.2 s \(REDIS_CONNECTION_")],
)
def test_a_greeting_that_never_comes_says_how_long_it_was_waited_for(timeout: float, words: str):
    with FakeServer(lambda *_: None, greeting=None) as server:
        silent = endpoint(port=server.port, connect_timeout=0.2)
        with pytest.raises(Fault, match=words):
            blocking.connect(silent, timeout=timeout, met_before=True)


def test_a_silent_server_fails_the_call_by_its_deadline(sync_io: Callable[..., SyncIO]):
    with FakeServer(silent) as server:
        io = sync_io(server.url)
        io.connect()
        with pytest.raises(OutcomeUnknown, match="look whether it took effect"):
            run_sync(io.run(INCR, ["n"], timeout=0.5))
        assert server.requests == [(b"INCR", b"n")]


@pytest.fixture
def signalled() -> Iterator[threading.Thread]:
    """Signals come to this, the main, thread, a hundred a second and for much longer than any deadline."""
    ended = threading.Event()
    main = threading.get_ident()

    def send() -> None:
        for _ in range(6000):
            if ended.wait(0.01):
                return
            signal.pthread_kill(main, signal.SIGUSR1)

    before = signal.signal(signal.SIGUSR1, lambda *_: None)
    thread = threading.Thread(target=send)
    thread.start()
    yield thread
    ended.set()
    thread.join()
    signal.signal(signal.SIGUSR1, before)


@pytest.mark.parametrize("size", [10, 50_000_000], ids=["reply", "request"])
def test_signals_put_no_deadline_off(signalled: threading.Thread, size: int):
    """The kernel begins to wait anew after each: who is profiled would wait for ever, and who was stopped too long."""
    mine, others = socket.socketpair()
    with others:
        wire = blocking.BlockingWire(endpoint(), mine)
        with pytest.raises(Fault, match="did not answer within 1 s"):
            wire.exchange(b"x" * size, 1.0)
        assert signalled.is_alive()


def test_a_request_that_finds_no_room_is_sent_on_when_there_is(monkeypatch: pytest.MonkeyPatch):
    full = threading.Event()
    wait = blocking.BlockingWire._await

    def noticed(wire: blocking.BlockingWire, event: int, deadline: float | None) -> None:
        if event == select.POLLOUT:
            full.set()
        wait(wire, event, deadline)

    monkeypatch.setattr(blocking.BlockingWire, "_await", noticed)
    mine, others = socket.socketpair()
    request = os.urandom(3_000_000)
    with others, ThreadPoolExecutor(1) as threads:
        wire = blocking.BlockingWire(endpoint(), mine)
        reply = threads.submit(wire.exchange, request, 60)
        assert full.wait(20)
        with others.makefile("rb") as arrived:
            assert arrived.read(len(request)) == request
        others.sendall(b"+OK\r\n")
        assert reply.result(60) == b"OK"
        wire.close()


def test_an_interrupt_in_mid_request_never_mixes_replies(
    proxy: FaultProxy, sync_io: Callable[..., SyncIO], interrupts: Callable[[], None]
):
    """Ctrl-C while a reply is on its way: the next call on this grid gets its own answer."""
    io = sync_io(proxy.url, pool_size=1)
    run_sync(io.run(ECHO, ["before"]))
    for turn in range(5):
        proxy.blackhole(requests=False)

        def interrupt(seen: int = len(proxy.requests("ECHO"))) -> None:
            eventually(lambda: len(proxy.requests("ECHO")) > seen)
            interrupts()

        thread = threading.Thread(target=interrupt)
        thread.start()
        with pytest.raises(KeyboardInterrupt):
            run_sync(io.run(ECHO, [f"interrupted {turn}"], timeout=60))
        thread.join()
        proxy.heal()
        assert run_sync(io.run(ECHO, [f"after {turn}"])) == f"after {turn}".encode()
        assert io._route.pool(()).open == 1


def test_a_server_that_restarted_is_noticed_before_a_request_leaves(
    flushed: RedisServer, sync_io: Callable[..., SyncIO]
):
    """An accumulating command on a connection that died in its sleep is sent, once, on a new one."""
    io = sync_io(flushed.url, pool_size=4)
    pool = io._route.pool(())
    wires = [pool.take(5) for _ in range(4)]
    for wire in wires:
        pool.give(wire)
    flushed.stop()
    flushed.start()
    for wire in wires:
        wire.idle_since -= IDLE_CHECK_S
    assert [run_sync(io.run(INCR, ["n"])) for _ in range(4)] == [1, 2, 3, 4]
    assert flushed.command("DEL", "n") == 1


def test_the_wire_that_was_used_last_goes_out_first(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    pool = sync_io(flushed.url)._route.pool(())
    first, second = pool.take(5), pool.take(5)
    pool.give(first)
    pool.give(second)
    assert pool.take(5) is second
    assert pool.take(5) is first
    pool.give(first)
    pool.give(second)


def test_a_full_pool_makes_callers_wait_with_a_deadline(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url, pool_size=1)
    pool = io._route.pool(())
    taken = pool.take(5)
    with pytest.raises(Unavailable, match=r"all 1 connections .* were busy .* raise REDIS_POOL_SIZE"):
        run_sync(io.run(ECHO, ["x"], timeout=0.05))
    with ThreadPoolExecutor(1) as threads:
        waiting = threads.submit(lambda: run_sync(io.run(ECHO, ["y"])))
        eventually(lambda: pool._waiting)
        pool.give(taken)
        assert waiting.result(10) == b"y"
    assert pool.open == 1


def test_waiting_for_a_connection_uses_up_the_deadline_of_the_call(
    sync_io: Callable[..., SyncIO], monkeypatch: pytest.MonkeyPatch
):
    """The deadline covers the whole call: what was spent in line is not given again to the reply."""
    now = 100.0
    allowed: list[float] = []

    class Wire:
        """Notes how long it may take."""

        def exchange(self, payload: bytes, timeout: float) -> bytes:
            assert payload
            allowed.append(timeout)
            return b"reply"

    class Line:
        """A pool in which the caller waits for two seconds."""

        def take_idle(self) -> None:
            return None

        def take(self, timeout: float) -> Wire:
            nonlocal now
            assert timeout == 3.0
            now += 2.0
            return Wire()

        def give(self, wire: Wire) -> None:
            assert wire

    monkeypatch.setattr("gridsync._io.sync.monotonic", lambda: now)
    io = sync_io("redis://localhost", timeout=3.0)
    monkeypatch.setattr(io._route, "pool", lambda _: Line())
    assert run_sync(io.run(GET, ["k"])) == b"reply"
    assert allowed == [1.0]


def test_a_wire_snatched_by_another_thread_is_no_error(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    """Threads pop without the lock: between a look and a pop, the wire may be gone."""
    pool = sync_io(flushed.url, pool_size=1)._route.pool(())

    class Snatched(list[Any]):
        """Looks as if it had a wire, and has none."""

        def __bool__(self) -> bool:
            return True

    taken = pool.take(5)
    pool._idle = Snatched()
    with pytest.raises(Fault, match="were busy"):
        pool.take(0.01)
    pool.give(taken)


def test_thirty_two_threads_each_get_their_own_replies(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url, pool_size=5, timeout=60)

    def work(thread: int) -> bool:
        return all(run_sync(io.run(ECHO, [f"{thread}.{n}"])) == f"{thread}.{n}".encode() for n in range(100))

    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        with ThreadPoolExecutor(32) as threads:
            assert all(threads.map(work, range(32)))
    finally:
        sys.setswitchinterval(before)
    assert io._route.pool(()).open <= 5


def test_closing_wakes_those_who_wait_for_a_connection(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url, pool_size=1, timeout=60)
    pool = io._route.pool(())
    taken = pool.take(5)
    with ThreadPoolExecutor(3) as threads:
        waiting = [threads.submit(lambda: run_sync(io.run(ECHO, ["x"]))) for _ in range(3)]
        eventually(lambda: pool._waiting == 3)
        io.close()
        for call in waiting:
            assert isinstance(call.exception(10), UsageError)
    pool.give(taken)
    assert taken.closed
    assert (pool.open, pool.idle) == (0, 0)


def test_a_wire_given_back_while_the_pool_closes_is_closed(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    pool = sync_io(flushed.url, pool_size=1)._route.pool(())
    wire = pool.take(5)

    class Late(list[Any]):
        """The pool closes between the look and the append."""

        def append(self, item: Any) -> None:  # noqa: ANN401 - a list's
            pool.close()
            super().append(item)

    pool._idle = Late()
    pool.give(wire)
    assert wire.closed


@pytest.mark.usefixtures("nothing_left")
def test_large_values_pass_both_ways(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    io = sync_io(flushed.url, timeout=60)
    value = os.urandom(20_000_000)
    run_sync(io.run(SET, ["k"], [value, "PX", 60_000]))
    assert run_sync(io.run(GET, ["k"])) == value
    io.close()


def test_the_child_of_a_fork_has_connections_of_its_own(flushed: RedisServer, sync_io: Callable[..., SyncIO]):
    """Two processes on one socket would read each other's replies."""
    io = sync_io(flushed.url)
    run_sync(io.run(ECHO, ["warm"]))
    ours = io._route.pool(())._idle[0].id
    child = os.fork()
    if child == 0:
        good = False
        try:
            good = all(run_sync(io.run(ECHO, [f"child {n}"])) == f"child {n}".encode() for n in range(100))
            good = good and io._route.pool(())._idle[0].id != ours
        finally:
            os._exit(0 if good else 1)
    assert all(run_sync(io.run(ECHO, [f"parent {n}"])) == f"parent {n}".encode() for n in range(100))
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert io._route.pool(())._idle[0].id == ours


def test_the_child_of_a_fork_has_a_name_of_its_own(sync_io: Callable[..., SyncIO]):
    """The same name twice would let one process release, or repeat, what the other one holds."""
    io = sync_io("redis://localhost")
    ours = io.token()[:PROCESS_CHARS]
    child = os.fork()
    if child == 0:
        os._exit(io.token()[:PROCESS_CHARS] == ours)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    assert io.token()[:PROCESS_CHARS] == ours


def test_the_child_of_a_fork_keeps_no_connection_of_its_parent_open(proxy: FaultProxy, sync_io: Callable[..., SyncIO]):
    """Else a server counts a connection as open that nobody will ever use again."""
    io = sync_io(proxy.url)
    busy = io._route.pool(()).take(5)
    ready, done = socket.socketpair()
    child = os.fork()
    if child == 0:
        ready.close()
        done.recv(1)
        os._exit(0)
    assert proxy.connections == 1
    busy.close()
    eventually(lambda: proxy.connections == 0)
    done.close()
    ready.close()
    os.waitpid(child, 0)


def test_tls_connections_are_reused_after_a_rest(sync_io: Callable[..., SyncIO]):
    """Session tickets arrive after the handshake: they must not look like a connection that died."""
    from gridsync.testing.servers import RedisServer, server_kinds  # noqa: PLC0415 - the kind matters

    with RedisServer(next(kind for kind in server_kinds() if kind.tls), tls=True) as server:
        io = sync_io(server.url)
        run_sync(io.run(ECHO, ["x"]))
        (wire,) = io._route.pool(())._idle
        wire.idle_since -= IDLE_CHECK_S
        run_sync(io.run(ECHO, ["y"]))
        assert io._route.pool(())._idle == [wire]


def test_a_lost_request_is_not_sent_again_when_it_may_have_been_applied(
    proxy: FaultProxy, flushed: RedisServer, sync_io: Callable[..., SyncIO]
):
    io = sync_io(proxy.url)
    proxy.on(Break.REPLY, "INCR")
    with pytest.raises(OutcomeUnknown):
        run_sync(io.run(INCR, ["n"]))
    assert flushed.command("GET", "n") == b"1"
    flushed.command("DEL", "n")
