"""The multiplexed wire against a model of itself: whatever happens in whatever order, each caller gets its own reply.

Hypothesis draws callers that post, cancel and run out of time, a server that answers, refuses, pushes and falls silent,
a socket that is full, a connection that breaks, and shrinks what fails to the few steps that matter.
"""

from __future__ import annotations

import asyncio
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import hiredis
import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from gridsync._io.wire.faults import Fault, ReplyError
from tests.wire.fake import FakeTransport, wire_in_memory

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.mux import MuxWire

INFLIGHT_MAX = 4
STALL_S = 5.0
FAR_S = 1_000.0
Words = tuple[bytes, ...]


class Clock(asyncio.SelectorEventLoop):
    """A loop whose time goes on only when it is told to."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now


@dataclass(eq=False)
class Call:
    """One caller, and what it has to expect."""

    name: bytes
    deadline: float
    task: asyncio.Task[Any]
    left: bool = False
    """The server has seen it."""
    answer: object = None
    """What the server said; an exception if it refused."""


class Mux(RuleBasedStateMachine):
    """Callers, one wire, and a server that the rules play."""

    def __init__(self) -> None:
        super().__init__()
        self.loop = Clock()
        self.complaints: list[dict[str, Any]] = []
        self.loop.set_exception_handler(lambda _, context: self.complaints.append(context))
        self.calls: list[Call] = []
        self.number = 0
        self.open()

    def open(self) -> None:
        self.pushes: list[Any] = []
        self.pushed = 0
        self.unanswered: deque[Words] = deque()
        self.broken = False

        async def make() -> tuple[MuxWire, FakeTransport]:
            return wire_in_memory(inflight_max=INFLIGHT_MAX, stall_s=STALL_S, on_push=self.pushes.append)

        self.wire, self.transport = self.loop.run_until_complete(make())
        self.seen = 0
        self.parser = hiredis.Reader()

    def within(self, act: Callable[..., object], *args: object) -> None:
        """Call what the loop or the transport would call."""

        async def in_the_loop() -> None:
            act(*args)

        self.loop.run_until_complete(in_the_loop())

    def turn(self) -> None:
        """Let everything happen that can happen now, and let the server read."""

        async def a_few_ticks() -> None:
            for _ in range(8):
                await asyncio.sleep(0)

        self.loop.run_until_complete(a_few_ticks())
        for data in self.transport.written[self.seen :]:
            self.parser.feed(data)
        self.seen = len(self.transport.written)
        while request := self.parser.gets():
            self.unanswered.append(tuple(request))
            if request[0] == b"ECHO":
                self.call(request[1]).left = True

    @property
    def ended(self) -> bool:
        """Whether nothing can arrive any more: it was cut, or the wire has given a silent server up."""
        return self.broken or self.transport.aborted

    def call(self, name: bytes) -> Call:
        return next(call for call in self.calls if call.name == name)

    async def ask(self, wire: MuxWire, name: bytes, deadline: float, *, asking: bool) -> Any:  # noqa: ANN401 - a reply
        # As `Node.ready` and `AsyncIO.run` do.
        await wire.room(deadline)
        post = wire.post_asking if asking else wire.post
        return await post(("ECHO", name), deadline)

    # -- what may happen ----------------------------------------------------------------------------------------------

    @rule(patience=st.sampled_from([1.0, 3.0, FAR_S]), asking=st.booleans())
    def post(self, patience: float, *, asking: bool) -> None:
        self.number += 1
        name, deadline = b"%d" % self.number, self.loop.now + patience
        task = self.loop.create_task(self.ask(self.wire, name, deadline, asking=asking))
        self.calls.append(Call(name, deadline, task))

    @rule()
    def tick(self) -> None:
        self.turn()

    @precondition(lambda self: self.calls)
    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        data.draw(st.sampled_from(self.calls)).task.cancel()

    @precondition(lambda self: self.unanswered and not self.ended)
    @rule(data=st.data(), refuse=st.booleans())
    def answer(self, data: st.DataObject, *, refuse: bool) -> None:
        """The server answers some requests, in pieces of any size."""
        replies = bytearray()
        for _ in range(data.draw(st.integers(1, len(self.unanswered)))):
            verb, *rest = self.unanswered.popleft()
            if verb == b"ASKING":
                replies += b"+OK\r\n"
                continue
            call = self.call(rest[0])
            call.answer = ReplyError(f"ERR no {call.name.decode()}") if refuse else call.name
            replies += b"-ERR no %s\r\n" % call.name if refuse else b"$%d\r\n%s\r\n" % (len(call.name), call.name)
        cut = data.draw(st.integers(0, len(replies)))
        self.within(self.transport.feed, bytes(replies[:cut]))
        self.within(self.transport.feed, bytes(replies[cut:]))
        self.turn()

    @precondition(lambda self: not self.ended)
    @rule()
    def push(self) -> None:
        self.within(self.transport.feed, b">2\r\n+message\r\n+hello\r\n")
        self.pushed += 1

    @rule(full=st.booleans())
    def socket(self, *, full: bool) -> None:
        if not self.wire.closed:
            self.within(self.wire.pause_writing if full else self.wire.resume_writing)

    @rule(seconds=st.sampled_from([0.5, 1.0, 4.0]))
    def wait(self, seconds: float) -> None:
        self.turn()
        self.loop.now += seconds
        self.turn()

    @rule(how=st.sampled_from(["closed", "reset", "garbage", "stranger"]))
    def cut(self, how: str) -> None:
        self.turn()  # what left before is known to the model
        if how == "closed":
            self.within(self.wire.connection_lost, None)
        elif how == "reset":
            self.within(self.wire.connection_lost, ConnectionResetError("by peer"))
        elif not self.ended:
            # Bytes that are no RESP, or more replies than requests: nothing on this wire can be trusted.
            self.within(
                self.transport.feed, b"?\r\n" if how == "garbage" else b"+nobody's\r\n" * (len(self.unanswered) + 1)
            )
            self.unanswered.clear()
        self.broken = True
        self.turn()

    @precondition(lambda self: self.wire.closed)
    @rule()
    def reconnect(self) -> None:
        self.settle()
        self.open()

    # -- what must hold -----------------------------------------------------------------------------------------------

    @invariant()
    def nobody_gets_what_is_not_theirs(self) -> None:
        for call in [call for call in self.calls if call.task.done()]:
            self.judge(call)

    def judge(self, call: Call) -> None:
        if call.task.cancelled():
            return
        error = call.task.exception()
        if error is None:
            assert call.task.result() in (call.name, b"nobody's")
            assert call.task.result() == call.answer or self.broken
        elif isinstance(error, ReplyError):
            assert str(error) == str(call.answer), "somebody else's error"
        else:
            assert isinstance(error, Fault), repr(error)
            assert error.ambiguous == call.left, "what left is ambiguous, what never left was not applied"
            assert self.broken or self.wire.closed or self.loop.now >= call.deadline

    @invariant()
    def no_more_is_under_way_than_allowed(self) -> None:
        wire = self.wire
        assert 0 <= wire._granted <= INFLIGHT_MAX
        # ASKING is an entry too, but none that waits for room.
        assert len(wire._inflight) + len(wire._unsent) <= 2 * INFLIGHT_MAX
        if wire.closed:
            assert not any((wire._inflight, wire._unsent, wire._line))

    @invariant()
    def each_push_arrives_once(self) -> None:
        assert len(self.pushes) == self.pushed

    @invariant()
    def the_loop_has_no_complaint(self) -> None:
        assert not self.complaints

    def settle(self) -> None:
        """Everything ends by its deadline, whatever was broken."""
        self.turn()
        for _ in range(3):
            self.loop.now += FAR_S
            self.turn()
        assert all(call.task.done() for call in self.calls), "a caller waits for ever"
        assert self.wire._granted == 0, "a place was taken and never given back"
        for call in self.calls:
            self.judge(call)
        self.calls.clear()

    def teardown(self) -> None:
        try:
            self.settle()
        finally:
            self.within(self.wire.abort)
            self.turn()
            self.loop.close()


Mux.TestCase.settings = settings(max_examples=30, stateful_step_count=40, deadline=None, derandomize=True)
TestEachCallerGetsItsOwnReply = Mux.TestCase


class LongMux(Mux):
    """The same, with other examples each time."""


LongMux.TestCase.settings = settings(max_examples=500, stateful_step_count=60, deadline=None)
TestEachCallerGetsItsOwnReplyAtRandom = pytest.mark.faults(LongMux.TestCase)
