"""Floods, full sockets and resets, with real sockets: nobody starves, nothing grows, nobody gets another's reply."""

from __future__ import annotations

import asyncio
import socket
import threading
from typing import TYPE_CHECKING, Any

import pytest

from gridsync._io import Category, Command, run_sync
from gridsync._io.wire import blocking, mux
from gridsync._io.wire.faults import Fault, ReplyError
from gridsync._io.wire.mux import FLUSH_BYTES
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from tests.wire.fake import FakeServer, Peer, Words, soon, wire_in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.aio import AsyncIO
    from gridsync._io.sync import SyncIO
    from gridsync._io.wire.mux import MuxWire

ECHO = Command("echo", Category.READ, ("ECHO",))
ADD = Command("add", Category.ACCUMULATING, ("ADD",))
PUSH = b">2\r\n$7\r\nmessage\r\n$1\r\nm\r\n"
READ_BYTES = 1 << 16
CODES = [
    "LOADING",
    "BUSY",
    "MASTERDOWN",
    "TRYAGAIN",
    "CLUSTERDOWN",
    "MISCONF",
    "NOREPLICAS",
    "OOM",
    "NOSCRIPT",
    "NOPERM",
]


def echoing(peer: Peer, words: Words) -> None:
    """Answer with the last word."""
    peer.send(b"$%d\r\n%s\r\n" % (len(words[-1]), words[-1]))


async def connected(server: FakeServer, on_push: Callable[[list[Any]], None] | None = None) -> MuxWire:
    """Return a wire to *server*."""
    return await mux.connect(server.endpoint, inflight_max=1000, stall_s=60.0, met_before=True, on_push=on_push)


def soon_s() -> float:
    """Return a deadline that only a bug can reach, on the loop's clock."""
    return asyncio.get_running_loop().time() + 60


def reads_of(wire: MuxWire, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return a list to whose last element the bytes are added that *wire* reads."""
    reads: list[int] = []
    update = wire.buffer_updated

    def counted(nbytes: int) -> None:
        reads[-1] += nbytes
        update(nbytes)

    monkeypatch.setattr(wire, "buffer_updated", counted)
    return reads


# -- bytes out ------------------------------------------------------------------------------------------------------


async def test_a_thousand_requests_of_one_tick_leave_in_pieces():
    """The server works on the first while the last are being packed; no piece holds many requests or many bytes."""
    wire, transport = wire_in_memory()
    for _ in range(1000):
        wire.post(("PING",), soon_s())
    await asyncio.sleep(0)
    shortest = len(b"*1\r\n$4\r\nPING\r\n")
    assert all(len(piece) < FLUSH_BYTES + shortest for piece in transport.written)
    assert all(piece.count(b"PING") <= FLUSH_BYTES // shortest + 1 for piece in transport.written)
    assert sum(piece.count(b"PING") for piece in transport.written) == 1000


async def test_a_large_request_does_not_wait_for_the_end_of_the_tick():
    wire, transport = wire_in_memory()
    wire.post(("GET", "a"), soon_s())
    wire.post(("GET", "b"), soon_s())
    wire.post(("SET", "c", b"x" * FLUSH_BYTES), soon_s())
    assert b"".join(transport.written).count(b"x") == FLUSH_BYTES


async def test_a_server_that_reads_nothing_fills_one_buffer_and_no_more(async_io: Callable[..., AsyncIO]):
    """Whatever a thousand callers want to send waits with them, and they hear by their deadline that it never left."""
    stopped: list[Peer] = []
    gate = threading.Event()

    def stop_reading(peer: Peer, _: Words) -> None:
        stopped.append(peer)
        gate.wait(60)

    with FakeServer(stop_reading) as server:
        io = async_io(server.url, timeout=1.0)
        await io.connect()
        wire = io._route.node(()).wire
        assert wire is not None
        first = asyncio.create_task(io.run(ADD, ["stop"]))
        await soon(lambda: stopped)
        value = b"x" * 1_000_000
        tasks = [asyncio.create_task(io.run(ADD, ["n"], [value])) for _ in range(100)]
        await soon(lambda: wire.line)
        transport: Any = wire._transport
        assert transport.get_write_buffer_size() + wire._unsent_bytes < 3 * len(value)
        sent = 0

        def all_heard() -> bool:
            nonlocal sent
            sent = max(sent, len(wire._inflight))
            return first.done() and all(task.done() for task in tasks)

        await soon(all_heard)
        results = await asyncio.gather(first, *tasks, return_exceptions=True)
        gate.set()
    assert all(isinstance(result, (Unavailable, OutcomeUnknown)) for result in results)
    # What stood in line was not applied, and says so.
    assert sum(isinstance(result, OutcomeUnknown) for result in results) <= sent
    assert any(isinstance(result, Unavailable) for result in results)


# -- bytes in -------------------------------------------------------------------------------------------------------


async def test_a_flood_of_pushes_leaves_each_tick_to_the_others(monkeypatch: pytest.MonkeyPatch):
    """A busy channel takes at most one buffer per tick of the loop; redis-py gives up after 980 pushes in a row."""
    pushes = 200_000
    with FakeServer(lambda peer, _: peer.send(PUSH * pushes + b"+OK\r\n")) as server:
        heard = 0

        def on_push(_: list[Any]) -> None:
            nonlocal heard
            heard += 1

        wire = await connected(server, on_push)
        reads = reads_of(wire, monkeypatch)
        reply = wire.post(("GET", "k"), soon_s())
        while not reply.done():
            reads.append(0)
            await asyncio.sleep(0)
        assert await reply == b"OK"
        assert heard == pushes
        assert sum(reads) == pushes * len(PUSH) + len(b"+OK\r\n")
        assert max(reads) <= READ_BYTES
        wire.abort()


async def test_a_flood_of_replies_leaves_each_tick_to_the_others(monkeypatch: pytest.MonkeyPatch):
    value = b"x" * 20_000
    with FakeServer(lambda peer, _: peer.send(b"$%d\r\n%s\r\n" % (len(value), value))) as server:
        wire = await connected(server)
        reads = reads_of(wire, monkeypatch)
        replies = [wire.post(("GET", str(n)), soon_s()) for n in range(500)]
        while not all(reply.done() for reply in replies):
            reads.append(0)
            await asyncio.sleep(0)
        assert [reply.result() == value for reply in replies] == [True] * 500
        assert max(reads) <= READ_BYTES
        wire.abort()


def test_a_flood_of_pushes_before_a_reply_costs_a_thread_no_recursion():
    with FakeServer(lambda peer, _: peer.send(PUSH * 100_000 + b"+OK\r\n")) as server:
        wire = blocking.connect(server.endpoint, timeout=30, met_before=True)
        assert wire.call(("GET", "k"), 30) == b"OK"
        wire.close()


# -- ends -----------------------------------------------------------------------------------------------------------


async def test_a_reset_in_the_middle_of_a_reply_is_an_unknown_outcome():
    """What was answered before is delivered, what was not was sent and may have been applied."""

    def answer(peer: Peer, words: Words) -> None:
        if words[1] == b"0":
            echoing(peer, words)
        elif words[1] == b"1":
            peer.send(b"$5\r\nhel")
        else:
            peer.close(reset=True)

    with FakeServer(answer) as server:
        wire = await connected(server)
        assert await wire.post(("GET", "0"), soon_s()) == b"0"
        half = wire.post(("GET", "1"), soon_s())
        await soon(lambda: len(server.requests) == 2)
        replies = await asyncio.gather(half, wire.post(("GET", "2"), soon_s()), return_exceptions=True)
        for reply in replies:
            assert isinstance(reply, Fault)
            assert reply.ambiguous
        assert wire.closed


def test_a_reset_in_the_middle_of_a_threads_reply_is_an_unknown_outcome():
    def answer(peer: Peer, _: Words) -> None:
        peer.send(b"$5\r\nhel")
        peer.close(reset=True)

    with FakeServer(answer) as server:
        wire = blocking.connect(server.endpoint, timeout=5, met_before=True)
        with pytest.raises(Fault) as failure:
            wire.call(("GET", "k"), 5)
        assert failure.value.ambiguous
        assert wire.closed


async def test_closing_delivers_what_is_answered_and_fails_the_rest(async_io: Callable[..., AsyncIO]):
    """In flight, unsent and in line: each caller hears, and hears the truth about what may have been applied."""
    held: list[Peer] = []

    def answer(peer: Peer, words: Words) -> None:
        if int(words[1]) < 3:
            held.append(peer)
            if len(held) == 3:
                for n in range(3):
                    peer.send(b":%d\r\n" % n)

    with FakeServer(answer) as server:
        io = async_io(server.url, inflight_max=6, timeout=60)
        await io.connect()
        tasks = [asyncio.create_task(io.run(ADD, [str(n)])) for n in range(12)]
        await asyncio.sleep(0)
        await io.close()
        results = await asyncio.wait_for(asyncio.gather(*tasks, return_exceptions=True), 20)
    assert results[:3] == [0, 1, 2]
    assert all(isinstance(result, OutcomeUnknown) for result in results[3:6])
    assert all(isinstance(result, UsageError) for result in results[9:])


@pytest.mark.parametrize("code", CODES)
async def test_a_refusal_is_one_callers_reply_and_no_end(code: str):
    """The stream is in step: nobody else notices, and no connection is set up anew."""

    def answer(peer: Peer, words: Words) -> None:
        if words[1] == b"refused":
            peer.send(b"-%s for a reason\r\n" % code.encode())
        else:
            echoing(peer, words)

    with FakeServer(answer) as server:
        wire = await connected(server)
        replies = await asyncio.gather(
            *(wire.post(("GET", name), soon_s()) for name in ("a", "refused", "b")), return_exceptions=True
        )
        assert replies[::2] == [b"a", b"b"]
        assert isinstance(replies[1], ReplyError)
        assert replies[1].code == code
        assert not wire.closed
        wire.abort()
        thread = blocking.connect(server.endpoint, timeout=5, met_before=True)
        with pytest.raises(ReplyError, match=code):
            thread.call(("GET", "refused"), 5)
        assert thread.call(("GET", "c"), 5) == b"c"
        assert len(server.peers) == 2
        thread.close()


# -- dead peers -----------------------------------------------------------------------------------------------------


async def test_the_kernel_is_told_to_give_up_a_dead_peer():
    """By itself Linux sends into the void for 15 minutes."""
    with FakeServer(echoing) as server:
        wire = await connected(server)
        assert wire._transport is not None
        thread = blocking.connect(server.endpoint, timeout=5, met_before=True)
        for tuned in (wire._transport.get_extra_info("socket"), thread._socket):
            assert tuned.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            assert tuned.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            idle, pause, times, unanswered_ms = (
                tuned.getsockopt(socket.IPPROTO_TCP, getattr(socket, name))
                for name in ("TCP_KEEPIDLE", "TCP_KEEPINTVL", "TCP_KEEPCNT", "TCP_USER_TIMEOUT")
            )
            assert idle + pause * times <= 30
            assert 0 < unanswered_ms <= 30_000
        wire.abort()
        thread.close()


def test_a_threads_reply_never_comes_late_to_another(sync_io: Callable[..., SyncIO]):
    """The reply to a call that gave up is on its way when the next one asks: it must not be taken for its own."""
    waiting: list[Peer] = []

    def answer(peer: Peer, words: Words) -> None:
        if words[1] == b"slow":
            waiting.append(peer)
        else:
            for late in waiting:
                late.send(b"$4\r\nslow\r\n")
            echoing(peer, words)

    with FakeServer(answer) as server:
        io = sync_io(server.url, pool_size=1)
        io.connect()
        with pytest.raises(OutcomeUnknown):
            run_sync(io.run(ADD, ["slow"], timeout=0.5))
        assert run_sync(io.run(ECHO, ["quick"])) == b"quick"
