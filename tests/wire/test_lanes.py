"""Several asyncio connections to one server: what takes which, and what they share."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from gridsync import AsyncGrid, Settings
from gridsync._io import Category, Command, keys
from gridsync._io.aio import AsyncIO
from gridsync._io.wire.endpoint import parse
from gridsync.errors import OutcomeUnknown, Unavailable, UsageError
from gridsync.locks import AsyncLock
from tests.wire.fake import FakeServer, Peer, Words, soon

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from gridsync.testing.proxy import FaultProxy
    from gridsync.testing.servers import RedisServer

LANES = 4
GET = Command("get", Category.READ, ("GET",))
NOT_REPEATED = Command("get", Category.NEVER, ("GET",))
ECHO = Command("echo", Category.READ, ("ECHO",))


@pytest.fixture
async def laned() -> AsyncIterator[Callable[..., AsyncIO]]:
    """Return a maker of drivers with several connections to each server; all are closed at the end."""
    made: list[AsyncIO] = []

    def make(url: str, *, timeout: float = 5.0, inflight_max: int = 1000) -> AsyncIO:
        endpoint = parse(url, connect_timeout=5.0)
        made.append(AsyncIO(endpoint, inflight_max=inflight_max, timeout=timeout, connections_per_node=LANES))
        return made[-1]

    yield make
    for io in made:
        await io.close()


def names_of_each_lane(io: AsyncIO) -> list[str]:
    """Return one key for each lane, that of the first lane first."""
    first: dict[int, str] = {}
    lanes = io._route._lanes  # type: ignore[attr-defined]
    for n in range(100):
        first.setdefault(lanes.index(io._route.node((f"k{n}",))), f"k{n}")
    return [first[lane] for lane in range(LANES)]


def echoing(peer: Peer, words: Words) -> None:
    """Answer with the last word."""
    peer.send(b"$%d\r\n%s\r\n" % (len(words[-1]), words[-1]))


async def test_all_keys_of_one_entity_take_the_same_lane(laned: Callable[..., AsyncIO]):
    """Otherwise an abandon could overtake its acquire, and a lock would be held by nobody until its lease ends."""
    io = laned("redis://127.0.0.1:1")
    taken = set()
    for n in range(200):
        lock, events = keys.lock("app", f"job:{n}"), keys.events("app", f"store {n}")
        for entity in (
            lock,
            (events.meta, events.versions, events.log, events.floors, events.stream("s"), events.dead("g")),
        ):
            lanes = {io._route.node((key,)) for key in entity}
            assert len(lanes) == 1
            taken |= lanes
    assert len(taken) == LANES


async def test_a_huge_value_delays_its_own_lane_only(laned: Callable[..., AsyncIO]):
    """On one connection a small reply waits behind 20 MB of somebody else's."""
    slow: list[Peer] = []

    def answer(peer: Peer, words: Words) -> None:
        if words[1] == b"{huge}":
            slow.append(peer)
            peer.send(b"$20\r\n" + b"x" * 10)  # the first half of it
        elif peer not in slow:
            echoing(peer, words)

    with FakeServer(answer) as server:
        io = laned(server.url, timeout=30)
        huge = asyncio.create_task(io.run(GET, ["{huge}"]))
        await soon(lambda: slow)
        same = asyncio.create_task(io.run(GET, ["{huge}:other"]))
        others = [name for name in names_of_each_lane(io) if io._route.node((name,)) is not io._route.node(("{huge}",))]
        assert len(others) == LANES - 1
        assert await asyncio.gather(*(io.run(GET, [name]) for name in others)) == [name.encode() for name in others]
        assert not huge.done()
        assert not same.done()
        slow[0].send(b"x" * 10 + b"\r\n$12\r\n{huge}:other\r\n")
        assert await huge == b"x" * 20
        assert await same == b"{huge}:other"
        assert len(server.peers) == LANES


async def test_requests_of_one_entity_arrive_in_the_order_in_which_they_left(laned: Callable[..., AsyncIO]):
    with FakeServer(echoing) as server:
        io = laned(server.url)
        names = [f"{{job {n}}}" for n in range(20)]
        await asyncio.gather(*(io.run(ECHO, [name], [str(step)]) for step in range(50) for name in names))
        assert len(server.peers) == LANES
        for name in names:
            [peer] = [peer for peer in server.peers if any(words[1] == name.encode() for words in peer.requests)]
            steps = [int(words[2]) for words in peer.requests if words[1] == name.encode()]
            assert steps == list(range(50))


async def test_an_abandon_follows_its_acquire_on_the_same_lane(laned: Callable[..., AsyncIO]):
    """Every lock whose caller was cancelled in flight: its abandon comes behind it, wherever that is."""

    def answer(peer: Peer, words: Words) -> None:
        if len(words) > 8:
            return  # an acquire: its caller is cancelled before it is answered
        peer.send(b":1\r\n")

    with FakeServer(answer) as server:
        io = laned(server.url, timeout=30)
        tasks = [asyncio.create_task(AsyncLock(io, "app", f"job {n}").acquire()) for n in range(16)]
        await soon(lambda: len(server.requests) == 16)
        for task in tasks:
            task.cancel()
        await soon(lambda: len(server.requests) == 32)
        for peer in server.peers:
            owners = [set(words) & tokens(io, words) for words in peer.requests]
            assert owners
            for owner in owners:
                assert sum(owner == other for other in owners) == 2


def tokens(io: AsyncIO, words: Words) -> set[bytes]:
    """Return the owner that *words* name."""
    process = io.token()[: keys.PROCESS_CHARS].encode()
    return {word for word in words if word.startswith(process)}


async def test_one_silent_lane_is_no_outage(laned: Callable[..., AsyncIO]):
    """A connection whose path is dead fails its own callers; the breaker sees that the server answers others."""
    deaf: list[Peer] = []

    def answer(peer: Peer, words: Words) -> None:
        if words[1] == b"deaf":
            deaf.append(peer)
        if peer not in deaf:
            echoing(peer, words)

    with FakeServer(answer) as server:
        io = laned(server.url, timeout=2.0)
        lost = [asyncio.create_task(io.run(NOT_REPEATED, ["deaf"])) for _ in range(20)]
        well = next(name for name in names_of_each_lane(io) if io._route.node((name,)) is not io._route.node(("deaf",)))
        while not all(task.done() for task in lost):
            assert await io.run(GET, [well], timeout=20) == well.encode()
        assert all(isinstance(task.exception(), OutcomeUnknown) for task in lost)
        assert io.stats().servers_away == 0
        assert await io.run(GET, ["{deaf}:again"], timeout=20) == b"{deaf}:again"  # on a new connection


async def test_a_server_that_is_away_is_away_for_every_lane(laned: Callable[..., AsyncIO]):
    """The breaker is the server's: what one lane has found out costs the others no timeout."""
    mute = True

    def answer(peer: Peer, words: Words) -> None:
        if not mute:
            echoing(peer, words)

    with FakeServer(answer) as server:
        io = laned(server.url, timeout=0.2)
        first, *others = names_of_each_lane(io)
        await asyncio.gather(*(io.run(GET, [first]) for _ in range(5)), return_exceptions=True)
        assert io.stats().servers_away == 1
        for name in others:
            with pytest.raises(Unavailable, match="has been away for"):
                await io.run(GET, [name], timeout=60)


async def test_a_lane_that_was_never_used_waits_for_a_server_that_restarts(
    proxy: FaultProxy, laned: Callable[..., AsyncIO]
):
    """The address was good for another lane, so that it does not answer may heal: the call is repeated."""
    io = laned(proxy.url, timeout=30)
    await io.connect()
    name = names_of_each_lane(io)[-1]
    proxy.refuse()
    waiting = asyncio.create_task(io.run(ECHO, [name]))
    await soon(lambda: io.stats().failures)
    proxy.heal()
    assert await waiting == name.encode()


async def test_every_lane_is_counted(flushed: RedisServer):
    settings = Settings(redis_url=flushed.url, gridsync_connections_per_node=LANES, gridsync_inflight_max=2)
    async with AsyncGrid(settings=settings) as grid:
        names = names_of_each_lane(grid._io)
        await asyncio.gather(*(grid._io.run(GET, [name]) for name in names))
        assert (grid.stats().connections_open, grid.stats().connections_idle) == (LANES, LANES)
        flushed.pause()
        try:
            tasks = [asyncio.create_task(grid._io.run(GET, [name])) for name in names for _ in range(3)]
            await soon(lambda: (grid.stats().in_flight, grid.stats().line) == (2 * LANES, LANES))
            assert grid.stats().connections_idle == 0
        finally:
            flushed.resume()
        await asyncio.gather(*tasks)
        _, usage = await grid._io.look([("PING",)], [names[0]], 5.0)
        assert usage.capacity == 2 * LANES


async def test_closing_lets_the_requests_of_every_lane_finish(proxy: FaultProxy, laned: Callable[..., AsyncIO]):
    io = laned(proxy.url)
    names = names_of_each_lane(io)
    await asyncio.gather(*(io.run(ECHO, [name]) for name in names))
    proxy.delay_s = 0.02
    tasks = [asyncio.create_task(io.run(ECHO, [name])) for name in names]
    await asyncio.sleep(0)
    await io.close()
    assert await asyncio.gather(*tasks) == [name.encode() for name in names]
    await soon(lambda: not proxy.connections)
    with pytest.raises(UsageError, match="was closed"):
        await io.run(ECHO, [names[-1]])


@pytest.mark.parametrize("count", ["0", "9", "many"])
def test_the_setting_says_what_is_allowed(count: str):
    with pytest.raises(UsageError, match="GRIDSYNC_CONNECTIONS_PER_NODE"):
        Settings(gridsync_connections_per_node=count)
