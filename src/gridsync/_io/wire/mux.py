"""The multiplexed asyncio wire: many callers, one connection, automatic pipelining.

A request is packed by its caller, queued, and leaves with all others of the same loop tick in one write, or in several
if they are many: the server need not wait for the last.  Replies are handed out in order.  States of an entry:
*unsent* → *in flight* → done.  Invariants:

- an entry enters ``_inflight`` in the same step as its bytes enter the transport, so the order of replies is the order
  of entries; a cancelled or timed-out entry in flight keeps its place and its reply is dropped;
- an unsent entry that is done (cancelled, timed out) never leaves;
- entries unsent and in flight together never exceed ``inflight_max``, and none is taken while the socket's buffer is
  full; further callers wait in line, with a deadline.

One timer per connection watches the earliest deadline (`asyncio.timeout` per call would halve the throughput).  If
nothing at all was read for a whole command timeout while an entry waited, the peer counts as dead; so it does when
the callers of all entries have long gone.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections import deque
from functools import partial
from itertools import compress
from typing import TYPE_CHECKING, Any

import hiredis

from gridsync._io import telemetry
from gridsync._io.clock import clock_of
from gridsync._io.wire.blocking import tune
from gridsync._io.wire.credentials import aask
from gridsync._io.wire.endpoint import (
    NO_REPLY,
    ProtocolError,
    certificate_ends,
    connect_failed,
    greeting_failed,
    hung_up,
    new_reader,
    not_tls,
    speaks_plain,
    tls_patience_s,
)
from gridsync._io.wire.faults import ASKING, Fault, ReplyError

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.endpoint import Endpoint
    from gridsync._io.wire.place import Place

_pack = hiredis.pack_command
_Push = hiredis.PushNotification
_BUFFER_BYTES = 1 << 16
"""What is read at most per loop tick: fairness against a flood of replies."""
FLUSH_BYTES = 1 << 12
"""Unsent requests of this size leave before the loop tick ends: the server runs them while others are being packed."""
_NEVER = float("inf")
DRAIN_S = 1.0
"""How long `Node.close` lets requests under way finish."""

Future = asyncio.Future[Any]


class _Unheard:
    """Stands in the line of replies for a request that nobody waits for, and leaves only with *companion*."""

    def __init__(self, companion: Future) -> None:
        self.done = companion.done

    def set_result(self, reply: object) -> None:
        """Drop the reply."""

    def set_exception(self, error: BaseException) -> None:
        """Drop the error: the companion gets its own."""


class _Pushed:
    """Stands in line for the reply to the HELLO behind a request that is answered by a push, or before by an error."""

    def __init__(self, inflight: deque[tuple[Future, float]], future: Future) -> None:
        self._inflight = inflight
        self._future = future
        self._refused: ReplyError | None = None

    def done(self) -> bool:
        """Stay in line, whoever has gone: the reply to the HELLO is still to come."""
        return False

    def set_result(self, reply: object) -> None:  # noqa: ARG002 - what HELLO says is known
        """Pass on that the request was answered."""
        if self._future.done():
            return
        if self._refused is None:
            self._future.set_result(None)
        else:
            self._future.set_exception(self._refused)

    def set_exception(self, error: BaseException) -> None:
        """Keep the request's own error and our place, for the reply to the HELLO; pass on that no reply will come."""
        if isinstance(error, ReplyError):
            self._refused = error
            me: Any = self
            self._inflight.appendleft((me, _NEVER))
        elif not self._future.done():
            self._future.set_exception(error)


class MuxWire(asyncio.BufferedProtocol):
    """One connection shared by all tasks of one loop."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        endpoint: Endpoint,
        *,
        inflight_max: int,
        stall_s: float,
        on_push: Callable[[list[Any]], None] | None = None,
        on_lost: Callable[[MuxWire], None] | None = None,
    ) -> None:
        """Use `connect` instead."""
        self.endpoint = endpoint
        self.id = 0
        self.closed = False
        self.failure: Exception | None = None
        self.on_fault: Callable[[float, str, int], None] | None = None
        """Told since when nothing was read, why requests failed, and how many."""
        self._sent = 0
        self._loop = loop
        self._time = clock_of(loop)
        # As `loop.create_future`, without its frame.
        self._new_future: Callable[[], Future] = partial(asyncio.Future, loop=loop)
        self._inflight_max = inflight_max
        self._stall_s = stall_s
        self._on_push = on_push
        self._on_lost = on_lost
        self._transport: asyncio.Transport | None = None
        self._reader = new_reader()
        self._buffer = bytearray(_BUFFER_BYTES)
        self._view = memoryview(self._buffer)
        self._unsent: list[tuple[Future, float]] = []
        self._payloads: list[bytes] = []
        self._unsent_bytes = 0
        self._inflight: deque[tuple[Future, float]] = deque()
        self._line: deque[tuple[Future, float]] = deque()
        self._flushing = False
        self._paused = False
        self._alone = True
        self._granted = 0
        self.free = inflight_max
        """How many may be posted now; none if others came earlier, the socket takes no bytes, or it is closed."""
        self._silent_since = 0.0
        self.heard_at = 0.0
        """When something was read last, on the loop's clock."""
        self._timer: asyncio.TimerHandle | None = None
        self._timer_at = _NEVER
        self.drained: asyncio.Event | None = None

    # -- for callers ------------------------------------------------------------------------------------------------

    @property
    def answered(self) -> int:
        """How many requests were answered so far."""
        return self._sent - len(self._inflight)

    @property
    def load(self) -> int:
        """How many requests wait for their reply, sent or not."""
        return len(self._inflight) + len(self._unsent)

    @property
    def line(self) -> int:
        """How many callers wait for room."""
        return len(self._line)

    def post(self, words: tuple[Any, ...] | bytes, deadline: float) -> Future:
        """Queue one request, packed or not; the future gets its reply, an error reply as `ReplyError`, or a `Fault`."""
        future = self._new_future()
        if self.closed:
            future.set_exception(Fault(f"the connection to {self.endpoint} broke", applied=False))
            return future
        payload = words if isinstance(words, bytes) else _pack(words)
        self.free -= 1
        self._payloads.append(payload)
        self._unsent.append((future, deadline))
        self._unsent_bytes += len(payload)
        if deadline < self._timer_at:
            self._arm(deadline)
        if not self._flushing:
            # A caller that was alone in the last tick is not made to wait for company.
            if self._alone and not self._inflight:
                self._flush()
            else:
                self._flushing = True
                self._loop.call_soon(self._flush)
        elif self._unsent_bytes >= FLUSH_BYTES:
            self._send()
        return future

    def post_asking(self, words: tuple[Any, ...], deadline: float) -> Future:
        """Queue ASKING and one request, which leave one right behind the other or not at all."""
        future = self._new_future()
        if self.closed:
            future.set_exception(Fault(f"the connection to {self.endpoint} broke", applied=False))
            return future
        # Both entries are done when the request is: an ASKING that left alone would hold for a stranger's command.
        asking: Any = _Unheard(future)
        self._unsent += [(asking, deadline), (future, deadline)]
        self._payloads += [_pack(ASKING), _pack(words)]
        self.free -= 2
        if deadline < self._timer_at:
            self._arm(deadline)
        if not self._flushing:
            self._flushing = True
            self._loop.call_soon(self._flush)
        return future

    def post_together(self, requests: list[tuple[Any, ...]], deadline: float) -> list[Future]:
        """Queue several requests that leave one right behind the other."""
        return [self.post(words, deadline) for words in requests]

    def post_push(self, words: tuple[Any, ...]) -> Future:
        """Send a request that is answered by a push or by an error, such as SUBSCRIBE, and a HELLO behind it.

        The future ends when the HELLO was answered, and so the push was read: with ``None``, or with the error.
        """
        future = self._new_future()
        if self._transport is None or self.closed:
            future.set_exception(Fault(f"the connection to {self.endpoint} broke", applied=False))
            return future
        entry: Any = _Pushed(self._inflight, future)
        self._inflight.append((entry, _NEVER))
        self._sent += 1
        self._transport.write(_pack(words) + _pack(("HELLO",)))
        return future

    async def room(self, deadline: float) -> None:
        """Wait in line until there is room.

        Raises:
            Fault: There was none before *deadline*, or the connection broke; nothing was sent.
        """
        if self.free <= 0 and not self.closed:
            future = self._new_future()
            began = self._time()
            self._line.append((future, deadline))
            self._recount()
            if deadline < self._timer_at:
                self._arm(deadline)
            try:
                # The place that `_admit` gives is kept for us until we run again.
                granted = await future
            except asyncio.CancelledError:
                if future.done() and not future.cancelled() and future.exception() is None and future.result():
                    self._granted -= 1
                    self._made_room()
                raise
            self._granted -= granted
            self._recount()
            telemetry.waited(self.endpoint, self._time() - began)
        if self.closed:
            raise Fault(f"the connection to {self.endpoint} broke", applied=False)

    def peer(self) -> object:
        """Return the address of the other side; a tuple for TCP."""
        return None if self._transport is None else self._transport.get_extra_info("peername")

    def certificate_ends(self) -> float | None:
        """Return when the server's certificate ends; see `endpoint.certificate_ends`."""
        return certificate_ends(None if self._transport is None else self._transport.get_extra_info("ssl_object"))

    def abort(self) -> None:
        """Cut the connection now."""
        if self._transport is not None:
            self._transport.abort()

    async def drain(self, seconds: float) -> None:
        """Wait until nothing is under way, at most *seconds*."""
        if self.load and not self.closed:
            self.drained = asyncio.Event()
            try:
                async with asyncio.timeout(seconds):
                    await self.drained.wait()
            except TimeoutError:
                pass

    # -- bytes out --------------------------------------------------------------------------------------------------

    def _flush(self) -> None:
        self._flushing = False
        self._send()

    def _send(self) -> None:
        if self._paused or self._transport is None or self.closed:
            return
        batch, payloads = self._unsent, self._payloads
        self._unsent, self._payloads = [], []
        self._unsent_bytes = 0
        self._alone = len(batch) == 1
        if not self._inflight:
            self._silent_since = self._time()
        gone = False
        for future, _ in batch:
            if future.done():
                gone = True
                break
        if gone:
            stay = [not future.done() for future, _ in batch]
            batch, payloads = list(compress(batch, stay)), list(compress(payloads, stay))
        if batch:
            self._inflight += batch
            self._sent += len(batch)
            self._transport.write(payloads[0] if len(payloads) == 1 else b"".join(payloads))
        if gone:
            self._made_room()

    def pause_writing(self) -> None:
        """Keep further requests unsent and further callers in line: the socket's buffer is full."""
        self._paused = True
        self._recount()

    def resume_writing(self) -> None:
        """Send what was kept back."""
        self._paused = self.closed
        self._flush()
        self._made_room()

    # -- bytes in ---------------------------------------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Take the transport."""
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 - create_connection makes no other
        self._transport = transport
        _open_wires.add(self)

    def let_go(self) -> None:
        """Close our copy of the descriptor, in the child of a fork, without a word to the loop.

        The connection is the parent's: it must end when the parent ends it, or dies.  The number stays taken, by
        nothing, for transport and loop go on to believe that it is theirs; and what they share with the parent's loop,
        such as its epoll, is not touched.
        """
        plain = None if self._transport is None else self._transport.get_extra_info("socket")
        if plain is None or plain.fileno() < 0:
            return
        nothing = os.open(os.devnull, os.O_RDWR | os.O_CLOEXEC)
        os.dup2(nothing, plain.fileno(), inheritable=False)
        os.close(nothing)

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - one size
        """Lend the read buffer."""
        return self._view

    def buffer_updated(self, nbytes: int) -> None:
        """Hand out the replies that are complete."""
        reader = self._reader
        self._silent_since = self.heard_at = self._time()
        try:
            reader.feed(self._buffer, 0, nbytes)  # type: ignore[arg-type] # takes any buffer; its stub says bytes
            gets = reader.gets
            next_entry = self._inflight.popleft
            while (reply := gets()) is not NO_REPLY:
                kind = reply.__class__
                if kind is _Push:
                    if self._on_push is not None:
                        self._on_push(reply)
                    continue
                future, _ = next_entry()
                if future.done():
                    continue
                if kind is ReplyError:
                    future.set_exception(reply)
                else:
                    future.set_result(reply)
        except (ProtocolError, IndexError, TypeError) as error:
            # Bytes that are not RESP, a map whose keys are lists, or a reply that nobody asked for: nothing on this
            # wire can be trusted.
            self._lose(error)
            return
        self._made_room()

    def eof_received(self) -> bool:
        """Let the transport close: the server will say nothing more."""
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """Fail everything that is under way."""
        error = exc or EOFError("the server closed the connection")
        if self._inflight and not self.closed and self.on_fault is not None:
            # One event, however many requests it costs.
            self.on_fault(self._silent_since, f"the connection to {self.endpoint} broke: {error}", 1)
        self._lose(error)

    def _lose(self, error: Exception) -> None:
        if self.closed:
            return
        self.closed = self._paused = True
        self.failure = error
        self.abort()
        if self._timer is not None:
            self._timer.cancel()
        text = f"the connection to {self.endpoint} broke: {error}"
        for future, _ in self._inflight:
            if not future.done():
                future.set_exception(Fault(text, applied=True))
        for future, _ in self._unsent:
            if not future.done():
                future.set_exception(Fault(text, applied=False))
        for future, _ in self._line:
            if not future.done():
                future.set_result(0)
        self._sent -= len(self._inflight)
        self._inflight.clear()
        self._unsent.clear()
        self._payloads.clear()
        self._line.clear()
        self._recount()
        if self.drained is not None:
            self.drained.set()
        if self._on_lost is not None:
            self._on_lost(self)

    def _made_room(self) -> None:
        if self._line:
            self._admit()
        self._recount()
        if self.drained is not None and not self.load:
            self.drained.set()

    def _recount(self) -> None:
        shut = self._paused or self._line
        self.free = 0 if shut else self._inflight_max - self.load - self._granted

    def _admit(self) -> None:
        room = 0 if self._paused else self._inflight_max - self.load - self._granted
        while room > 0 and self._line:
            future, _ = self._line.popleft()
            if not future.done():
                future.set_result(1)
                self._granted += 1
                room -= 1

    # -- deadlines --------------------------------------------------------------------------------------------------

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer_at = when
        self._timer = self._loop.call_at(when, self._read_first)

    def _read_first(self) -> None:
        """Let the loop read what lies in the socket before anything is overdue.

        It may have been held up, by a callback or with the whole process, while replies came; then its timers run
        first, in asyncio if the process was stopped and in uvloop always.
        """
        self._timer = self._loop.call_at(self._time(), self._sweep)

    def _sweep(self) -> None:
        """Fail what is overdue; runs once per deadline, not once per request."""
        now = self._time()
        self._timer = None
        self._timer_at = _NEVER
        earliest = _NEVER
        overdue = False
        failed = 0
        for future, deadline in self._inflight:
            if deadline > now:
                earliest = min(earliest, deadline)
                continue
            overdue = True
            if not future.done():
                failed += 1
                future.set_exception(Fault(f"{self.endpoint} did not answer in time", applied=True))
        for future, deadline in self._unsent:
            if deadline > now:
                earliest = min(earliest, deadline)
            elif not future.done():
                future.set_exception(Fault(f"{self.endpoint} takes no more bytes", applied=False))
        for future, deadline in self._line:
            if deadline > now:
                earliest = min(earliest, deadline)
            elif not future.done():
                telemetry.waited(self.endpoint, 0.0, in_vain=1)
                text = f"{self._inflight_max} requests to {self.endpoint} are under way (GRIDSYNC_INFLIGHT_MAX)"
                future.set_exception(Fault(text, applied=False))
        if overdue:
            stalled = now - self._silent_since >= self._stall_s
            if stalled:
                failed += sum(not future.done() for future, _ in self._inflight)
            if failed and self.on_fault is not None:
                self.on_fault(self._silent_since, f"{self.endpoint} did not answer in time", failed)
            if stalled:
                self._lose(TimeoutError(f"nothing was read for {now - self._silent_since:.1f} s"))
                return
            earliest = min(earliest, self._silent_since + self._stall_s)
        if earliest < _NEVER:
            self._arm(earliest)


async def connect(
    place: Place,
    *,
    inflight_max: int,
    stall_s: float,
    met_before: bool,
    on_push: Callable[[list[Any]], None] | None = None,
    on_lost: Callable[[MuxWire], None] | None = None,
) -> MuxWire:
    """Find the server, open a connection and greet it.

    Raises:
        Fault: A server that was met before cannot be reached now, or is not what it should be.
        GridsyncError: It cannot be reached, refuses the credentials or does not speak TLS or RESP3.
    """
    loop = asyncio.get_running_loop()
    endpoint = await place.seek()

    def factory() -> MuxWire:
        return MuxWire(loop, endpoint, inflight_max=inflight_max, stall_s=stall_s, on_push=on_push, on_lost=on_lost)

    try:
        return await _connect(loop, factory, endpoint, met_before=met_before or place.vouched)
    except Fault:
        place.doubt(endpoint)
        raise


async def _connect(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], MuxWire], endpoint: Endpoint, *, met_before: bool
) -> MuxWire:
    wire: MuxWire | None = None
    started = loop.time()
    try:
        async with asyncio.timeout(endpoint.connect_timeout):
            if endpoint.path is not None:
                _, wire = await loop.create_unix_connection(factory, endpoint.path)
            else:
                transport, wire = await _open(loop, factory, endpoint)
                if (plain := transport.get_extra_info("socket")) is not None:  # else it is closed already
                    tune(plain)
            rest = max(started + endpoint.connect_timeout - loop.time(), 0)
            user = await aask(endpoint, rest, met_before=met_before)
            deadline = loop.time() + endpoint.connect_timeout
            replies: list[Any] = await asyncio.gather(
                *wire.post_together(endpoint.hello(*user), deadline), return_exceptions=True
            )
    except (OSError, EOFError, ProtocolError) as error:
        if wire is not None:
            wire.abort()
        raise connect_failed(endpoint, await _why(endpoint, error), met_before=met_before) from error
    except BaseException:
        if wire is not None:
            wire.abort()
        raise
    broken = next((reply for reply in replies if isinstance(reply, Fault)), None)
    if broken is not None:
        cause = wire.failure or EOFError()
        raise connect_failed(endpoint, await _why(endpoint, cause), met_before=met_before) from broken
    if failure := greeting_failed(endpoint, replies):
        wire.abort()
        raise failure
    wire.id = replies[0][b"id"]
    endpoint.counts.wires.add(wire)
    telemetry.connected(endpoint, again=met_before, spent=loop.time() - started, peer=wire.peer())
    return wire


async def _why(endpoint: Endpoint, error: BaseException) -> BaseException:
    return error if endpoint.tls is None else await asyncio.to_thread(hung_up, endpoint, error)


async def _open(
    loop: asyncio.AbstractEventLoop, factory: Callable[[], MuxWire], endpoint: Endpoint
) -> tuple[asyncio.Transport, MuxWire]:
    if endpoint.tls is None:
        return await loop.create_connection(factory, endpoint.host, endpoint.port)
    opening = asyncio.ensure_future(
        loop.create_connection(factory, endpoint.host, endpoint.port, ssl=endpoint.tls, server_hostname=endpoint.host)
    )
    try:
        patience = tls_patience_s(endpoint.connect_timeout)
        await asyncio.wait([opening], timeout=patience)
        if opening.done() or not await asyncio.to_thread(speaks_plain, endpoint, patience):
            return await opening
    except BaseException:
        await _give_up(opening)
        raise
    await _give_up(opening)
    raise not_tls(endpoint, "it answers in plain RESP")


async def _give_up(opening: asyncio.Future[tuple[asyncio.Transport, MuxWire]]) -> None:
    opening.cancel()
    await asyncio.wait([opening])
    if not opening.cancelled() and opening.exception() is None:
        opening.result()[0].abort()


_open_wires: weakref.WeakSet[MuxWire] = weakref.WeakSet()


def _let_go_of_all() -> None:
    for wire in list(_open_wires):
        wire.let_go()


os.register_at_fork(after_in_child=_let_go_of_all)
