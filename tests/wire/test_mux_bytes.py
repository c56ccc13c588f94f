"""The multiplexed wire, byte by byte and step by step, without a network."""

from __future__ import annotations

import asyncio
import gc
import random
from itertools import accumulate
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from gridsync._io.wire.mux import MuxWire

from gridsync._io.wire.faults import Fault, ReplyError
from tests.wire.fake import GARBAGE, FakeTransport, wire_in_memory

PARTS = [
    b"+OK\r\n",
    b"$5\r\nhello\r\n",
    b":42\r\n",
    b"*2\r\n$1\r\na\r\n_\r\n",
    b"-WRONGTYPE no\r\n",
    b"%1\r\n+k\r\n,1.5\r\n",
    b"_\r\n",
    b"#t\r\n",
]
REPLIES = b"".join(PARTS)
EXPECTED = [b"OK", b"hello", 42, [b"a", None], "WRONGTYPE no", {b"k": 1.5}, None, True]
PUSH = b">3\r\n$10\r\ninvalidate\r\n*1\r\n$1\r\nk\r\n:1\r\n"


def shown(reply: object) -> object:
    """Make an error comparable."""
    return str(reply) if isinstance(reply, Exception) else reply


def later() -> float:
    return asyncio.get_running_loop().time() + 60


def post(wire: MuxWire, count: int, *, deadline: float | None = None) -> list[asyncio.Future[Any]]:
    return [wire.post(("GET", str(n)), deadline or later()) for n in range(count)]


async def settled(futures: list[asyncio.Future[Any]]) -> list[object]:
    return [shown(reply) for reply in await asyncio.gather(*futures, return_exceptions=True)]


async def test_a_reply_split_at_any_byte_arrives_whole():
    """A network cuts where it likes; a wrong cut must not mix the replies of two callers."""
    for cut in range(len(REPLIES) + 1):
        wire, transport = wire_in_memory()
        futures = post(wire, len(EXPECTED))
        await asyncio.sleep(0)
        transport.feed(REPLIES[:cut])
        transport.feed(REPLIES[cut:])
        assert await settled(futures) == EXPECTED
        wire.abort()
        await asyncio.sleep(0)


async def test_replies_that_come_byte_by_byte_arrive_whole():
    wire, transport = wire_in_memory()
    futures = post(wire, len(EXPECTED))
    await asyncio.sleep(0)
    for n in range(len(REPLIES)):
        transport.feed(REPLIES[n : n + 1])
    assert await settled(futures) == EXPECTED


async def test_a_push_between_any_two_bytes_of_replies_belongs_to_nobody():
    """Pushes are no replies: a place in the queue must not be used up by one."""
    whole = PARTS[:4]
    for place in range(len(whole) + 1):
        pushes: list[Any] = []
        wire, transport = wire_in_memory(on_push=pushes.append)
        futures = post(wire, len(whole))
        await asyncio.sleep(0)
        transport.feed(b"".join([*whole[:place], PUSH, PUSH, *whole[place:]]))
        assert await settled(futures) == EXPECTED[:4]
        assert [push[0] for push in pushes] == [b"invalidate"] * 2


async def test_an_unknown_push_is_ignored_where_nobody_listens():
    wire, transport = wire_in_memory()
    futures = post(wire, 1)
    transport.feed(PUSH + b"+OK\r\n" + PUSH)
    assert await settled(futures) == [b"OK"]
    assert not wire.closed


async def test_an_end_at_any_byte_fails_exactly_those_without_a_reply():
    ends = list(accumulate(map(len, PARTS)))
    for cut in range(len(REPLIES)):
        wire, transport = wire_in_memory()
        futures = post(wire, len(EXPECTED))
        await asyncio.sleep(0)
        transport.feed(REPLIES[:cut])
        wire.connection_lost(None)
        complete = sum(end <= cut for end in ends)
        replies = await asyncio.gather(*futures, return_exceptions=True)
        assert [shown(reply) for reply in replies[:complete]] == EXPECTED[:complete]
        for reply in replies[complete:]:
            assert isinstance(reply, Fault)
            assert reply.ambiguous
        assert wire.closed
        assert wire.load == 0


@pytest.mark.parametrize("garbage", GARBAGE)
async def test_bytes_that_are_not_resp_end_the_connection(garbage: bytes):
    wire, transport = wire_in_memory()
    futures = post(wire, 2)
    await asyncio.sleep(0)
    transport.feed(b"+OK\r\n" + garbage)
    replies = await asyncio.gather(*futures, return_exceptions=True)
    assert replies[0] == b"OK"
    assert isinstance(replies[1], Fault)
    assert wire.closed
    assert transport.aborted


async def test_a_reply_that_nobody_asked_for_ends_the_connection():
    """Out of step once, out of step for ever: the next caller would get somebody else's answer."""
    wire, transport = wire_in_memory()
    futures = post(wire, 1)
    transport.feed(b"+OK\r\n+SURPLUS\r\n")
    assert await settled(futures) == [b"OK"]
    assert wire.closed


async def test_an_error_inside_an_array_is_data():
    wire, transport = wire_in_memory()
    futures = post(wire, 2)
    await asyncio.sleep(0)
    transport.feed(b"*2\r\n-ERR inside\r\n:1\r\n+OK\r\n")
    first, second = await asyncio.gather(*futures)
    assert isinstance(first[0], ReplyError)
    assert (first[1], second) == (1, b"OK")


async def test_requests_of_one_tick_leave_in_one_write():
    wire, transport = wire_in_memory()
    post(wire, 50)
    await asyncio.sleep(0)
    # The first one found an idle wire and did not wait for company.
    assert len(transport.written) == 2
    assert transport.written[1].count(b"GET") == 49


async def test_a_request_cancelled_before_it_left_never_leaves():
    """What a caller gave up before it was sent must not be executed."""
    wire, transport = wire_in_memory()
    futures = post(wire, 10)
    for future in futures[1::2]:
        future.cancel()
    await asyncio.sleep(0)
    assert b"".join(transport.written).count(b"GET") == 5
    transport.feed(b"".join(b":%d\r\n" % n for n in range(0, 10, 2)))
    assert [await future for future in futures[::2]] == list(range(0, 10, 2))
    assert wire.load == 0


async def test_a_request_cancelled_in_flight_keeps_its_place():
    """Half of a thousand callers leave: every other one still gets its own reply."""
    wire, transport = wire_in_memory()
    futures = post(wire, 1000)
    await asyncio.sleep(0)
    for future in futures[::2]:
        future.cancel()
    transport.feed(b"".join(b":%d\r\n" % n for n in range(1000)))
    assert [await future for future in futures[1::2]] == list(range(1, 1000, 2))
    assert wire.load == 0
    assert not wire.closed


async def test_a_request_on_a_closed_wire_fails_at_once_and_was_not_applied():
    """Else a connection that ends during the greeting makes the caller wait for the whole connect timeout."""
    wire, _ = wire_in_memory()
    wire.connection_lost(None)
    (future,) = post(wire, 1)
    assert future.done()
    with pytest.raises(Fault) as failure:
        await future
    assert not failure.value.ambiguous


async def test_a_deadline_fails_the_caller_and_keeps_its_place():
    wire, transport = wire_in_memory()
    now = asyncio.get_running_loop().time()
    hurried, patient = wire.post(("GET", "a"), now + 0.01), wire.post(("GET", "b"), now + 60)
    with pytest.raises(Fault, match="did not answer in time") as failure:
        await hurried
    assert failure.value.ambiguous
    transport.feed(b"+late\r\n+mine\r\n")
    assert await patient == b"mine"


async def test_a_deadline_of_an_unsent_request_means_that_it_was_not_applied():
    wire, transport = wire_in_memory()
    wire.pause_writing()
    future = wire.post(("GET", "a"), asyncio.get_running_loop().time() + 0.01)
    with pytest.raises(Fault) as failure:
        await future
    assert not failure.value.ambiguous
    wire.resume_writing()
    assert not transport.written


async def test_one_timer_watches_all_deadlines():
    """A timer per call would halve the throughput."""
    loop = asyncio.get_running_loop()
    wire, transport = wire_in_memory()
    armed = 0
    call_at = loop.call_at

    def counted(when: float, callback: Callable[..., Any]) -> asyncio.TimerHandle:
        nonlocal armed
        armed += 1
        return call_at(when, callback)

    loop.call_at = counted  # type: ignore[method-assign]
    try:
        futures = [wire.post(("GET", str(n)), loop.time() + 60) for n in range(100)]
    finally:
        del loop.call_at  # type: ignore[method-assign]
    assert armed == 1
    await asyncio.sleep(0)
    transport.feed(b":1\r\n" * 100)
    await asyncio.gather(*futures)


async def _enter(wire: MuxWire, log: list[int], n: int, deadline: float) -> asyncio.Future[Any]:
    await wire.room(deadline)
    log.append(n)
    return wire.post(("GET", str(n)), deadline)


async def test_callers_beyond_the_limit_enter_in_the_order_of_their_arrival():
    """A newcomer must not overtake those in line: under load they would starve."""
    wire, transport = wire_in_memory(inflight_max=2)
    log: list[int] = []
    tasks = [asyncio.create_task(_enter(wire, log, n, later())) for n in range(6)]
    await asyncio.sleep(0)
    assert log == [0, 1]
    for n in range(4):
        await asyncio.sleep(0)
        transport.feed(b"+OK\r\n")
        assert wire.free <= 0, "the place belongs to the first in line"
        newcomer = asyncio.create_task(_enter(wire, log, 100 + n, later()))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        assert wire.load <= 2
        tasks.append(newcomer)
    assert log == [0, 1, 2, 3, 4, 5]
    for _ in range(6):
        await asyncio.sleep(0)
        transport.feed(b"+OK\r\n" * wire.load)
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert log[6:] == [100, 101, 102, 103]


@pytest.mark.parametrize("seed", range(20))
async def test_whatever_happens_the_free_places_are_those_that_nobody_has(seed: int):
    """One place too few is a connection that runs dry, one too many a queue that grows."""
    chance = random.Random(seed)
    wire, transport = wire_in_memory(inflight_max=5)
    tasks: list[asyncio.Task[Any]] = []
    paused = False

    def toggle() -> None:
        nonlocal paused
        paused = not paused
        (wire.pause_writing if paused else wire.resume_writing)()

    steps: list[Callable[[], object]] = [
        lambda: tasks.append(asyncio.create_task(_enter(wire, [], 0, later()))),
        lambda: post(wire, 1) if wire.free > 0 else None,
        lambda: wire.post_asking(("GET", "k"), later()) if wire.free > 1 else None,
        lambda: transport.feed(b"+OK\r\n" * chance.randint(0, len(wire._inflight))),
        lambda: chance.choice(tasks).cancel() if tasks else None,
        lambda: wire._unsent[-1][0].cancel() if wire._unsent else None,
        toggle,
    ]
    for _ in range(300):
        chance.choice(steps)()
        for _ in range(chance.randint(0, 3)):
            await asyncio.sleep(0)
        assert max(wire.free, 0) == (0 if paused or wire._line else 5 - wire.load - wire._granted)
        assert len(wire._unsent) == len(wire._payloads)
        assert wire.load <= 5
    if paused:
        toggle()
    while wire.load or wire._line or wire._granted:
        transport.feed(b"+OK\r\n" * len(wire._inflight))
        await asyncio.sleep(0)
    assert wire.free == 5
    wire.connection_lost(None)
    assert wire.free == 0
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_a_place_given_to_a_caller_who_was_cancelled_goes_to_the_next():
    wire, transport = wire_in_memory(inflight_max=1)
    log: list[int] = []
    tasks = [asyncio.create_task(_enter(wire, log, n, later())) for n in range(3)]
    await asyncio.sleep(0)
    transport.feed(b"+OK\r\n")
    tasks[1].cancel()
    await asyncio.wait(tasks[1:], timeout=5)
    assert log == [0, 2]


async def test_unsent_requests_that_were_cancelled_make_room():
    """They never leave, so no reply will ever make room for those in line."""
    wire, transport = wire_in_memory(inflight_max=3)
    wire.post(("GET", "x"), later())
    transport.feed(b"+OK\r\n")
    wire.pause_writing()
    unsent = post(wire, 3)
    log: list[int] = []
    waiting = asyncio.create_task(_enter(wire, log, 7, later()))
    await asyncio.sleep(0)
    for future in unsent:
        future.cancel()
    wire.resume_writing()
    await asyncio.wait([waiting], timeout=5)
    assert log == [7]


async def test_a_deadline_in_line_means_that_it_was_not_applied():
    wire, _ = wire_in_memory(inflight_max=1)
    post(wire, 1)
    with pytest.raises(Fault, match="GRIDSYNC_INFLIGHT_MAX") as failure:
        await wire.room(asyncio.get_running_loop().time() + 0.01)
    assert not failure.value.ambiguous


async def test_a_lost_connection_wakes_those_in_line():
    wire, _ = wire_in_memory(inflight_max=1)
    futures = post(wire, 1)
    waiting = asyncio.create_task(wire.room(later()))
    await asyncio.sleep(0)
    wire.connection_lost(ConnectionResetError("reset by peer"))
    with pytest.raises(Fault) as failure:
        await waiting
    assert not failure.value.ambiguous
    assert isinstance((await asyncio.gather(*futures, return_exceptions=True))[0], Fault)


async def test_a_full_socket_holds_requests_back_and_keeps_their_order():
    wire, transport = wire_in_memory()
    wire.pause_writing()
    futures = post(wire, 5)
    await asyncio.sleep(0)
    assert not transport.written
    wire.resume_writing()
    assert [b"$1\r\n%d\r\n" % n in b"".join(transport.written) for n in range(5)] == [True] * 5
    transport.feed(b"".join(b":%d\r\n" % n for n in range(5)))
    assert await asyncio.gather(*futures) == list(range(5))


async def test_a_silent_peer_is_dropped_even_if_its_callers_have_gone():
    """A thousand cancelled requests fill the queue of a dead peer: those who come later must not wait for ever."""
    loop = asyncio.get_running_loop()
    wire, transport = wire_in_memory(inflight_max=2, stall_s=0.05)
    futures = post(wire, 2, deadline=loop.time() + 0.02)
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    with pytest.raises(Fault):
        await wire.room(loop.time() + 60)
    assert wire.closed
    assert transport.aborted


async def test_a_wire_that_rested_is_not_taken_for_a_silent_one():
    """One slow reply after a quiet night must not cost everybody the connection."""
    loop = asyncio.get_running_loop()
    wire, transport = wire_in_memory(stall_s=60.0)
    wire._silent_since = loop.time() - 3600
    slow, hurried = wire.post(("GET", "slow"), loop.time() + 60), wire.post(("GET", "b"), loop.time() + 0.01)
    with pytest.raises(Fault):
        await hurried
    assert not wire.closed
    transport.feed(b"+slow\r\n+late\r\n")
    assert await slow == b"slow"


async def test_draining_ends_when_the_last_request_was_cancelled():
    wire, _ = wire_in_memory()
    wire.pause_writing()
    (unsent,) = post(wire, 1)
    draining = asyncio.create_task(wire.drain(60))
    await asyncio.sleep(0)
    unsent.cancel()
    wire.resume_writing()
    await asyncio.wait([draining], timeout=5)
    assert draining.done()


async def test_a_broken_wire_leaves_no_exception_unseen(complaints: list[dict[str, Any]]):
    """Callers that were cancelled or went away must not show up as 'exception was never retrieved'."""
    wire, _ = wire_in_memory()
    futures = post(wire, 3)
    await asyncio.sleep(0)
    for future in futures:
        future.cancel()
    wire.connection_lost(None)
    del futures
    gc.collect()
    await asyncio.sleep(0)
    assert not complaints


async def test_the_transport_of_a_lost_wire_is_closed():
    wire, transport = wire_in_memory()
    assert isinstance(transport, FakeTransport)
    wire.connection_lost(None)
    assert transport.aborted
