"""A scripted RESP server for claims about single bytes, and an in-memory transport for claims about single steps."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
import threading
import time
from typing import TYPE_CHECKING, Any, Self

import hiredis

from gridsync._io.wire.endpoint import Endpoint
from gridsync._io.wire.mux import MuxWire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

Words = tuple[bytes, ...]
GARBAGE = [
    b"HTTP/1.1 400 Bad Request\r\n\r\n",
    b"\x15\x03\x01\x00\x02\x02\x46",
    b"\r\n",
    b"*1\r\n" * 10_000,
    b"$?\r\n;2\r\nOK\r\n;0\r\n",
    b"%1\r\n*1\r\n:1\r\n:2\r\n",
]
"""What is no RESP, what no parser takes: depth without end, strings in pieces, maps whose keys are lists."""
HELLO = b"%2\r\n$2\r\nid\r\n:7\r\n$5\r\nproto\r\n:3\r\n"


def endpoint(host: str = "127.0.0.1", port: int = 1, *, connect_timeout: float = 5.0) -> Endpoint:
    """Return an endpoint without TLS and credentials."""
    return Endpoint(host=host, port=port, path=None, db=0, credentials=None, tls=None, connect_timeout=connect_timeout)


def eventually(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    """Return when *condition* holds; fail after a time that only a bug can take."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "this never happened"
        time.sleep(0.002)


async def soon(condition: Callable[[], Any], limit_s: float = 20.0) -> None:
    """As `eventually`, for tasks."""
    limit = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < limit, "this never happened"
        await asyncio.sleep(0.002)


async def until(ask: Callable[[], Awaitable[bool]], limit_s: float = 20.0) -> None:
    """As `soon`, for a condition that has to be asked for."""
    limit = time.monotonic() + limit_s
    while not await ask():
        assert time.monotonic() < limit, "this never happened"
        await asyncio.sleep(0.002)


class Peer:
    """One client of the fake server, as the server sees it."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection
        self.requests: list[Words] = []

    def send(self, data: bytes) -> None:
        """Send raw bytes."""
        with contextlib.suppress(OSError):
            self.connection.sendall(data)

    def close(self, *, reset: bool = False) -> None:
        """End the connection, in good order or with a reset."""
        with contextlib.suppress(OSError):
            if reset:
                # The thread that reads is woken, and its close is the reset.
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                self.connection.shutdown(socket.SHUT_RD)
            else:
                self.connection.shutdown(socket.SHUT_RDWR)
                self.connection.close()


class FakeServer:
    """Greets each client and hands every other request to *answer*, which may send whatever it likes."""

    def __init__(self, answer: Callable[[Peer, Words], None], *, greeting: bytes | None = HELLO) -> None:
        self._answer = answer
        self._greeting = greeting
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self.peers: list[Peer] = []
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://127.0.0.1:{self.port}"

    @property
    def endpoint(self) -> Endpoint:
        """Where it listens."""
        return endpoint(port=self.port)

    @property
    def requests(self) -> list[Words]:
        """All requests but the greetings."""
        return [words for peer in self.peers for words in peer.requests]

    def _accept(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                peer = Peer(connection)
                self.peers.append(peer)
                thread = threading.Thread(target=self._serve, args=(peer,), daemon=True)
                self._threads.append(thread)
                thread.start()

    def _serve(self, peer: Peer) -> None:
        parser = hiredis.Reader()
        with contextlib.suppress(OSError):
            while data := peer.connection.recv(65536):
                parser.feed(data)
                while request := parser.gets():
                    words: Words = tuple(request)
                    if words[0] == b"HELLO" and self._greeting is not None:
                        peer.send(self._greeting)
                    else:
                        peer.requests.append(words)
                        self._answer(peer, words)
        peer.connection.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for peer in list(self.peers):
            peer.close()
        for thread in self._threads:
            thread.join(10)


class FakeTransport(asyncio.Transport):
    """Keeps what is written; the test plays the server with `feed`."""

    def __init__(self, wire: MuxWire) -> None:
        super().__init__()
        self._wire = wire
        self.written: list[bytes] = []
        self.aborted = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Keep *data*."""
        self.written.append(bytes(data))

    def abort(self) -> None:
        """End the connection as a real transport does: it says so in the next tick."""
        if not self.aborted:
            self.aborted = True
            asyncio.get_running_loop().call_soon(self._wire.connection_lost, None)

    def feed(self, data: bytes) -> None:
        """Let *data* arrive."""
        while data:
            view = self._wire.get_buffer(-1)
            count = min(len(view), len(data))
            view[:count] = data[:count]
            self._wire.buffer_updated(count)
            data = data[count:]


def wire_in_memory(
    *, inflight_max: int = 1000, stall_s: float = 60.0, on_push: Callable[[list[Any]], None] | None = None
) -> tuple[MuxWire, FakeTransport]:
    """Return a connected wire and its transport."""
    loop = asyncio.get_running_loop()
    wire = MuxWire(loop, endpoint(), inflight_max=inflight_max, stall_s=stall_s, on_push=on_push)
    transport = FakeTransport(wire)
    wire.connection_made(transport)
    return wire, transport
