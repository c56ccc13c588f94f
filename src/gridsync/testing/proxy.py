"""A proxy that breaks connections the way networks do, at the very request a test names.

It stands between a client and a server, understands RESP, and runs in a thread of its own, so that sync and asyncio
tests use it alike::

    with RedisServer() as server, FaultProxy(server.url) as proxy:
        grid = Grid(proxy.url)
        proxy.on(Break.REPLY, "EVALSHA")     # the next script runs, and its reply is lost
        grid.lock("job").acquire()

Bytes are never duplicated or reordered, since TCP does not do that either, and only `Break.CORRUPT` changes one.

The faults are those of Toxiproxy (https://github.com/Shopify/toxiproxy), and those that take a proxy which knows where
a request and a reply begin.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import socket
import struct
import threading
from collections import deque
from enum import Enum
from typing import TYPE_CHECKING, Self
from urllib.parse import unquote, urlsplit

import hiredis

from gridsync.errors import UsageError
from gridsync.testing._ports import hold_port

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from types import TracebackType
    from typing import Any

__all__ = ["Break", "FaultProxy", "Rule"]

Words = tuple[bytes, ...]

_READ_BYTES = 1 << 16
_ANSWER_WITHIN_S = 10.0
_REMEMBERED = 10_000
_STEPS_PER_S = 50
_BACKLOG = 100
"""In how many pieces a narrow connection carries what it carries in a second, so that it is steady."""
_ANSWERED_BY_PUSH = frozenset(
    {b"SUBSCRIBE", b"UNSUBSCRIBE", b"PSUBSCRIBE", b"PUNSUBSCRIBE", b"SSUBSCRIBE", b"SUNSUBSCRIBE"}
)


class Break(Enum):
    """What happens to a request that a `Rule` matches."""

    REQUEST = "the connection is cut before the server sees the request"
    REPLY = "the server runs the request, then the connection is cut without a reply"
    HALF_REPLY = "the server runs the request, and the connection is cut in the middle of the reply"
    RESET = "the server runs the request, and the connection is reset in the middle of the reply"
    CORRUPT = "the server runs the request, and the first byte of the reply is one that RESP does not know"


class Rule:
    """One planned fault.

    Attributes:
        fault: What happens.
        hits: How often it has happened.
    """

    def __init__(
        self,
        fault: Break | Callable[[], object],
        command: str | Callable[[Words], bool] | None,
        *,
        nth: int,
        times: int,
    ) -> None:
        named: object = fault
        if not (isinstance(named, Break) or callable(named)):
            known = ", ".join(str(each) for each in Break)
            raise UsageError(f"a fault is one of {known}, or a function that is called, not {fault!r}")
        for name, number in (("nth", nth), ("times", times)):
            if number < 1:
                raise UsageError(f"{name} counts requests from 1, and {number} would never happen")
        self.fault = fault
        self.hits: int = 0
        self._error: Exception | None = None
        self._command = command
        self._skip = nth - 1
        self._left = times
        self._hit = threading.Event()

    def wait(self, timeout: float = _ANSWER_WITHIN_S) -> None:
        """Block until it has happened at least once.

        Raises:
            TimeoutError: It did not happen within *timeout* seconds.
            Exception: What the function that was to be called has raised.
        """
        if not self._hit.wait(timeout):
            raise TimeoutError(f"{self!r} did not happen within {timeout:g} s")
        if self._error is not None:
            raise self._error

    def __repr__(self) -> str:
        fault = self.fault.name if isinstance(self.fault, Break) else getattr(self.fault, "__name__", self.fault)
        return f"<Rule {fault} {self._command or 'any request'} hits={self.hits}>"

    def _claims(self, words: Words) -> bool:
        if not self._left:
            return False
        if isinstance(self._command, str):
            # The second word is the SHA of a script or a subcommand.
            if self._command.lower().encode() not in (word.lower() for word in words[:2]):
                return False
        elif self._command is not None and not self._command(words):
            return False
        if self._skip:
            self._skip -= 1
            return False
        self._left -= 1
        return True

    def _happened(self) -> None:
        self.hits += 1
        self._hit.set()

    async def _act(self, act: Callable[[], object]) -> None:
        try:
            await asyncio.to_thread(act)
        except Exception as error:  # noqa: BLE001 - raised by `wait`
            self._error = error


class FaultProxy:
    """A proxy in front of one server; all faults can be switched while connections are open.

    Args:
        url: The server behind it: ``redis://…`` or ``unix://…``, not TLS.

    Raises:
        UsageError: It cannot be put in front of that.

    Attributes:
        delay_s: How long each piece of data is held back, each way, in seconds.
        jitter_s: How much longer than that, at most and at random, in seconds.
        slice_bytes: How many bytes leave at a time, each way; 0 for as many as there are.
        bytes_per_s: How many bytes a connection carries in a second, each way; 0 for as many as it can.
        limit_bytes: After how many bytes of replies a connection ends, counted from its beginning; 0 for never.
        close_delay_s: How long after one side has ended its connection the other side hears of it, in seconds.
        accepted: How many connections were made so far.

    Guarantee: its port is nobody else's until `close`, also while it refuses.
    Not guaranteed: throughput; it is for tests.
    """

    host = "127.0.0.1"

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        if parts.scheme not in {"redis", "valkey", "unix"}:
            raise UsageError(f"a FaultProxy forwards to redis://… or unix://…, not to {parts.scheme}://…")
        self._unix = unquote(parts.path) if parts.scheme == "unix" else None
        self._target = (parts.hostname or "localhost", parts.port or 6379)
        login, at, _ = parts.netloc.rpartition("@")
        self._login = login + at
        self._path = "" if self._unix else parts.path
        self._calm()
        self.accepted: int = 0
        self._held = hold_port(self.host)
        self.port: int = self._held.getsockname()[1]
        self._random = random.Random(0)
        self._rules: list[Rule] = []
        self._requests: deque[Words] = deque(maxlen=_REMEMBERED)
        self._links: dict[asyncio.Task[None], _Link] = {}
        self._serving: dict[asyncio.Task[None], socket.socket] = {}
        self._listener: socket.socket | None = None
        self._open = {"requests": asyncio.Event(), "replies": asyncio.Event()}
        for event in self._open.values():
            event.set()
        self._loop = asyncio.new_event_loop()
        self._healed: asyncio.Future[None] = self._loop.create_future()
        self._cutting: asyncio.TimerHandle | None = None
        self._thread = threading.Thread(target=self._run, name="fault-proxy", daemon=True)
        self._thread.start()
        self._do(self._listen())

    @property
    def url(self) -> str:
        """The URL of the proxy, with the user, password and database of the server's."""
        return f"redis://{self._login}{self.host}:{self.port}{self._path}"

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return len(self._links)

    def requests(self, command: str | None = None) -> list[Words]:
        """Return the newest requests that arrived, lost ones too, oldest first; only those of *command* if given."""
        wanted = None if command is None else command.lower().encode()
        return [
            words for words in list(self._requests) if wanted is None or wanted in (word.lower() for word in words[:2])
        ]

    # -- faults -----------------------------------------------------------------------------------------------------

    def on(
        self,
        fault: Break | Callable[[], object],
        command: str | Callable[[Words], bool] | None = None,
        *,
        nth: int = 1,
        times: int = 1,
    ) -> Rule:
        """Plan *fault* for requests to come.

        ::

            proxy.on(Break.REPLY, "EVALSHA", nth=3)    # the third script from now on gets no reply
            proxy.on(server.kill, "SET")               # the server dies right after it ran the next SET

        A request that one rule hits does not count for the rules that were planned later.

        Args:
            fault: What to break, or a function that is called, in a thread, when the server has run the request and
                before the reply goes on.
            command: The request's first or second word (a command, a script's SHA), in any case, or a function of its
                words; by default any request.
            nth: Which of the matching requests is the first to be hit, from 1.
            times: How many of them are hit in all.

        Returns:
            The rule, which counts its `hits`.

        Raises:
            UsageError: *fault* is neither a `Break` nor a function, or *nth* or *times* is below 1.
        """
        rule = Rule(fault, command, nth=nth, times=times)
        self._rules.append(rule)
        return rule

    def cut(self, *, reset: bool = False) -> None:
        """Cut every connection now, in good order or with a TCP reset."""
        self._do(self._cut(reset=reset))

    def refuse(self) -> None:
        """Refuse new connections until `heal`; open ones go on."""
        self._do(self._unlisten())

    def blackhole(self, *, requests: bool = True, replies: bool = True, timeout: float | None = None) -> None:
        """Let nothing through until `heal`, in one direction or both; connections stay open, and bytes wait.

        New connections are accepted, and their bytes wait too.

        Args:
            requests: Whether to hold back what clients send.
            replies: Whether to hold back what the server sends.
            timeout: After how many seconds every connection is cut, as by a firewall that forgets them; ``None`` for
                never.
        """
        self._do(self._gate(requests=requests, replies=replies, timeout=timeout))

    def heal(self) -> None:
        """End every fault and forget the rules; what waited goes on, and connections end that had been slow to."""
        self._rules.clear()
        self._calm()
        self._do(self._gate(requests=False, replies=False))
        self._do(self._listen())

    def close(self) -> None:
        """Cut everything and end the thread; safe to call twice."""
        if self._loop.is_closed():
            return
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(_ANSWER_WITHIN_S)
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<FaultProxy {self.port} to {self._unix or self._target} connections={self.connections}>"

    def _calm(self) -> None:
        self.delay_s: float = 0.0
        self.jitter_s: float = 0.0
        self.close_delay_s: float = 0.0
        self.slice_bytes = self.bytes_per_s = self.limit_bytes = 0

    # -- in the proxy's loop ----------------------------------------------------------------------------------------

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(_ANSWER_WITHIN_S)

    async def _listen(self) -> None:
        if self._listener is None:
            self._listener = socket.create_server((self.host, self.port), backlog=_BACKLOG)
            self._listener.settimeout(0)
            self._loop.add_reader(self._listener, self._accept)

    async def _unlisten(self) -> None:
        if self._listener is not None:
            self._loop.remove_reader(self._listener)
            self._listener.close()
            self._listener = None

    async def _gate(self, *, requests: bool, replies: bool, timeout: float | None = None) -> None:
        if self._cutting is not None:
            self._cutting.cancel()
            self._cutting = None
        if timeout is not None:
            self._cutting = self._loop.call_later(timeout, self._cut_all)
        if not (requests or replies):
            self._healed.set_result(None)
            self._healed = self._loop.create_future()
        for name, shut in (("requests", requests), ("replies", replies)):
            if shut:
                self._open[name].clear()
            else:
                self._open[name].set()

    async def _cut(self, *, reset: bool) -> None:
        self._cut_all(reset=reset)

    def _cut_all(self, *, reset: bool = False) -> None:
        for link in self._links.values():
            link.cut(reset=reset)
        for task in self._serving.keys() - self._links.keys():
            task.cancel()  # its other side is not there yet

    async def _end(self) -> None:
        await self._unlisten()
        await self._gate(requests=False, replies=False)
        for task in self._serving:
            task.cancel()
        if self._serving:
            await asyncio.wait(self._serving)
        await self._loop.shutdown_default_executor()
        self._held.close()

    def _accept(self) -> None:
        # Not by asyncio's server: what that is accepting while it is closed stays open until it is collected.
        assert self._listener is not None
        try:
            connection, _ = self._listener.accept()
        except OSError:
            return  # it has gone again
        connection.settimeout(0)
        self.accepted += 1
        task = self._loop.create_task(self._serve(connection))
        self._serving[task] = connection
        task.add_done_callback(self._served)

    def _served(self, task: asyncio.Task[None]) -> None:
        self._serving.pop(task).close()

    async def _serve(self, connection: socket.socket) -> None:
        task, ends = asyncio.current_task(), []
        assert task is not None
        try:
            client = await asyncio.open_connection(sock=connection)
            ends.append(client[1])
            if self._unix is not None:
                server = await asyncio.open_unix_connection(self._unix)
            else:
                server = await asyncio.open_connection(*self._target)
            ends.append(server[1])
            self._links[task] = link = _Link(self, client, server)
            await link.run()
        except OSError:
            pass  # one side is away, or has gone: both connections end
        finally:
            self._links.pop(task, None)
            for end in ends:
                end.close()

    def _fault_for(self, words: Words) -> Rule | None:
        self._requests.append(words)
        return next((rule for rule in list(self._rules) if rule._claims(words)), None)  # noqa: SLF001 - same module

    def _next_step(self, waiting: int) -> tuple[float, int]:
        """Return how long to wait, and how many of the *waiting* bytes to let go then."""
        step = min(waiting, self.slice_bytes or waiting)
        if not self.bytes_per_s:
            return self.delay_s + self._random.uniform(0, self.jitter_s), step
        step = min(step, max(1, self.bytes_per_s // _STEPS_PER_S))
        return self.delay_s + self._random.uniform(0, self.jitter_s) + step / self.bytes_per_s, step


class _Link:
    """One client's connection and its connection to the server."""

    def __init__(
        self,
        proxy: FaultProxy,
        client: tuple[asyncio.StreamReader, asyncio.StreamWriter],
        server: tuple[asyncio.StreamReader, asyncio.StreamWriter],
    ) -> None:
        self._proxy = proxy
        self._from_client, self._to_client = client
        self._from_server, self._to_server = server
        self._expected: deque[Rule | None] = deque()
        self._carried = 0
        for writer in (self._to_client, self._to_server):
            connection = writer.get_extra_info("socket")
            if connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    async def run(self) -> None:
        """Forward both ways until one side ends."""
        pumps = [asyncio.ensure_future(self._pump_requests()), asyncio.ensure_future(self._pump_replies())]
        try:
            _, open_still = await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if open_still and self._proxy.close_delay_s:
                await asyncio.wait(
                    (*open_still, self._proxy._healed),  # noqa: SLF001 - same module
                    timeout=self._proxy.close_delay_s,
                    return_when=asyncio.FIRST_COMPLETED,
                )
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self.cut(reset=False)

    def cut(self, *, reset: bool) -> None:
        """End both connections now."""
        if reset:
            with contextlib.suppress(OSError):
                # Lingering for no time at all makes the close a reset.
                self._to_client.get_extra_info("socket").setsockopt(
                    socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0)
                )
        self._to_client.transport.abort()
        self._to_server.transport.abort()

    async def _pump_requests(self) -> None:
        parser = hiredis.Reader()
        while data := await self._from_client.read(_READ_BYTES):
            parser.feed(data)
            while request := parser.gets():
                words: Words = tuple(request)
                rule = self._proxy._fault_for(words)  # noqa: SLF001 - same module
                if rule is not None and rule.fault is Break.REQUEST:
                    rule._happened()  # noqa: SLF001 - same module
                    self.cut(reset=False)
                    return
                if words[0].upper() not in _ANSWERED_BY_PUSH:
                    self._expected.append(rule)
                await self._forward(
                    "requests",
                    self._to_server,
                    b"".join((b"*%d\r\n" % len(words), *(b"$%d\r\n%s\r\n" % (len(w), w) for w in words))),
                )

    async def _pump_replies(self) -> None:
        unread = bytearray()
        while data := await self._from_server.read(_READ_BYTES):
            unread += data
            start = 0
            while (end := _end_of_reply(unread, start)) is not None:
                rule = self._expected.popleft() if unread[start] not in b">" and self._expected else None
                reply = bytes(unread[start:end])
                start = end
                if rule is not None:
                    if not isinstance(rule.fault, Break):
                        await rule._act(rule.fault)  # noqa: SLF001 - same module
                    rule._happened()  # noqa: SLF001 - same module; before the client can see it
                    if isinstance(rule.fault, Break):
                        await self._break(rule.fault, reply)
                        return
                if not await self._forward("replies", self._to_client, reply):
                    return
            del unread[:start]

    async def _break(self, fault: Break, reply: bytes) -> None:
        if fault in (Break.HALF_REPLY, Break.RESET):
            await self._forward("replies", self._to_client, reply[: len(reply) // 2])
        elif fault is Break.CORRUPT:
            await self._forward("replies", self._to_client, b"?" + reply[1:])
        if fault is Break.RESET:
            self.cut(reset=True)
        else:
            await self._hang_up()

    async def _hang_up(self) -> None:
        # What came before it was written, and leaves with the close.
        self._to_client.close()
        await self._to_client.wait_closed()

    async def _forward(self, direction: str, writer: asyncio.StreamWriter, data: bytes) -> bool:
        """Let *data* go; false if the connection has carried all that it may."""
        limit = self._proxy.limit_bytes if direction == "replies" else 0
        whole = not limit or self._carried + len(data) < limit
        end = len(data) if whole else max(0, limit - self._carried)
        start = 0
        while start < end:
            pause, step = self._proxy._next_step(end - start)  # noqa: SLF001 - same module
            if pause:
                await asyncio.sleep(pause)
            await self._proxy._open[direction].wait()  # noqa: SLF001 - same module
            writer.write(data[start : start + step])
            await writer.drain()
            start += step
        if direction == "replies":
            self._carried += end
            if not whole:
                await self._hang_up()
        return whole


def _end_of_reply(data: bytearray, start: int) -> int | None:
    """Return where the reply that begins at *start* ends, or ``None`` if it is not all there."""
    todo = 1
    while todo:
        line_end = data.find(b"\r\n", start)
        if line_end < 0:
            return None
        kind, rest = data[start : start + 1], bytes(data[start + 1 : line_end])
        start = line_end + 2
        todo -= 1
        if kind in b"$=!" and rest != b"-1":
            start += int(rest) + 2
            if start > len(data):
                return None
        elif kind in b"*~>" and rest != b"-1":
            todo += int(rest)
        elif kind in b"%|":
            # An attribute is followed by the reply that it belongs to.
            todo += 2 * int(rest) + (kind == b"|")
    return start
