"""A network that can be split: every link between servers and sentinels passes a relay, clients reach everybody.

Each node connects from a loopback address of its own (``bind-source-addr``) to the relays of the others, so that a
relay knows which link a connection belongs to.  A link that is cut holds its bytes back, as a network does that drops
packets; nobody is told.  Needs no rights, and Linux, where all of 127.0.0.0/8 is this machine.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
from typing import TYPE_CHECKING, Any

from gridsync.testing.sentinels import SentinelSet

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable

    from gridsync.testing.servers import RedisServer, ServerKind

WITHIN_S = 10.0
READ_BYTES = 1 << 16


class Network:
    """The relays of all nodes, in a thread of their own."""

    def __init__(self) -> None:
        self._nodes: dict[str, RedisServer] = {}
        self._ports: dict[int, int] = {}
        self._gates: dict[frozenset[int], asyncio.Event] = {}
        self._servers: list[asyncio.Server] = []
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="fault-network", daemon=True)
        self._thread.start()

    def add(self, node: RedisServer) -> None:
        """Give *node*, which was not started, a relay and an address."""
        address = f"127.77.0.{len(self._nodes) + 1}"
        self._nodes[address] = node
        node._options["bind-source-addr"] = address
        self._do(self._listen(node))

    def port(self, node: RedisServer) -> int:
        """Return the port of *node*'s relay."""
        return self._ports[id(node)]

    def cut(self, one: Iterable[RedisServer], other: Iterable[RedisServer]) -> None:
        """Let nothing pass between any of *one* and any of *other*, either way."""
        links = [frozenset((id(a), id(b))) for a in one for b in other]
        self._do(self._set(links, passing=False))

    def heal(self) -> None:
        """Let everything pass; what was held back arrives."""
        self._do(self._set(list(self._gates), passing=True))

    def close(self) -> None:
        """End the relays."""
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(WITHIN_S)
        self._loop.close()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(WITHIN_S)

    async def _listen(self, node: RedisServer) -> None:
        server = await asyncio.start_server(lambda *streams: self._accept(node, *streams), "127.0.0.1", 0)
        self._servers.append(server)
        self._ports[id(node)] = server.sockets[0].getsockname()[1]

    async def _set(self, links: list[frozenset[int]], *, passing: bool) -> None:
        for link in links:
            gate = self._gate(link)
            if passing:
                gate.set()
            else:
                gate.clear()

    def _gate(self, link: frozenset[int]) -> asyncio.Event:
        gate = self._gates.get(link)
        if gate is None:
            gate = self._gates[link] = asyncio.Event()
            gate.set()
        return gate

    async def _accept(self, node: RedisServer, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        source = self._nodes.get(writer.get_extra_info("peername")[0])
        gate = self._gate(frozenset((id(node), id(source)))) if source is not None else None
        writers = [writer]
        try:
            there, back = await asyncio.open_connection(node.host, node.port)
            writers.append(back)
            async with asyncio.TaskGroup() as pumps:
                pumps.create_task(_pump(reader, back, gate))
                pumps.create_task(_pump(there, writer, gate))
        except (OSError, asyncio.CancelledError, ExceptionGroup):
            pass  # one side has gone, so the other one goes
        finally:
            for each in writers:
                each.transport.abort()
            self._tasks.discard(task)

    async def _end(self) -> None:
        for server in self._servers:
            server.close()
        for task in list(self._tasks):
            task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, gate: asyncio.Event | None) -> None:
    while data := await reader.read(READ_BYTES):
        if gate is not None:
            await gate.wait()
        writer.write(data)
        await writer.drain()
    raise EOFError  # ends the other direction, too


class SplitSet(SentinelSet):
    """A primary, two replicas and three sentinels on a network that can be split."""

    def __init__(self, kind: ServerKind, **options: str) -> None:
        super().__init__(kind, options=options)
        self.network = Network()
        for server in self.servers:
            self.network.add(server)
            server._options |= {
                "replica-announce-ip": server.host,
                "replica-announce-port": str(self.network.port(server)),
            }
        for sentinel in self.sentinels:
            self.network.add(sentinel)
            sentinel._options |= {
                "sentinel announce-ip": sentinel.host,
                "sentinel announce-port": str(self.network.port(sentinel)),
            }

    def _port(self, server: RedisServer) -> int:
        return self.network.port(server)

    def close(self) -> None:
        """Stop everything."""
        super().close()
        with contextlib.suppress(RuntimeError):  # closed before
            self.network.close()

    def url_of(self, *sentinels: RedisServer) -> str:
        """Return the URL of a client that knows no other sentinels."""
        hosts = ",".join(f"{sentinel.host}:{sentinel.port}" for sentinel in sentinels)
        return f"redis+sentinel://{hosts}/{self.service}"

    def named_by(self, sentinel: RedisServer) -> RedisServer:
        """Return whom *sentinel* takes for the primary."""
        return self._server(int(sentinel.command("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self.service)[1]))
